/* The table of kernels: ops.inc as data, names of ops and roles, and what can run here. Owns
 * nothing. device.c chooses from it, `bench list kernels` prints it. */
#include "kernels/device_core.h"
#include "kernels/gpu_list.h"

#include <stdio.h>
#include <string.h>

const char *op_name(enum op op) {
    static const char *const names[OPS] = {
#define X(name, text) text,
        OP_TABLE(X)
#undef X
    };
    return names[op];
}

const char *role_name(enum role role) {
    static const char *const names[ROLES] = {
#define X(name, text) text,
        ROLE_TABLE(X)
#undef X
    };
    return names[role];
}

/* ops.inc writes ops as their functions are written, in lower case. */
#define OP_OF_embed OP_EMBED
#define OP_OF_add_rmsnorm OP_ADD_RMSNORM
#define OP_OF_linear OP_LINEAR
#define OP_OF_rope_table OP_ROPE_TABLE
#define OP_OF_rope_cache OP_ROPE_CACHE
#define OP_OF_attention OP_ATTENTION
#define OP_OF_swiglu OP_SWIGLU
#define OP_OF_all_reduce OP_ALL_REDUCE
#define OP_OF_logits OP_LOGITS
#define OP_OF_sample OP_SAMPLE
#define OP_OF_tap OP_TAP
#define OP_OF_exchange OP_EXCHANGE

/* The row at the end keeps the table legal C when no variant is listed. */
static const struct variant table[] = {
#define COMMON(op_, name_, device_, isa_, dtypes_)                                                 \
    .op = OP_OF_##op_, .name = #name_, .device = DEVICE_##device_, .isa = ISA_##isa_,              \
    .dtypes = SERVES_##dtypes_, .run = op_##_##name_
#define VARIANT(op, name, device, isa, dtypes) {COMMON(op, name, device, isa, dtypes)},
#define VARIANT_KV(op, name, device, isa, dtypes, layout)                                          \
    {COMMON(op, name, device, isa, dtypes), .kv_layout = &kv_layout_##layout},
#define VARIANT_W(op, name, device, isa, dtypes, layout)                                           \
    {COMMON(op, name, device, isa, dtypes), .weight_layout = &weight_layout_##layout},
#define VARIANT_GROUP(op, name, device, isa, dtypes, group_)                                       \
    {COMMON(op, name, device, isa, dtypes), .group = &group_backend_##group_},
#define VARIANT_GROUP_LIB(op, name, device, isa, dtypes, group_, lib)                              \
    {COMMON(op, name, device, isa, dtypes), .group = &group_backend_##group_,                      \
     .library = &kernel_library_##lib},
#define VARIANT_KV_LIB(op, name, device, isa, dtypes, layout, lib)                                 \
    {COMMON(op, name, device, isa, dtypes), .kv_layout = &kv_layout_##layout,                      \
     .library = &kernel_library_##lib},
#include "kernels/ops.inc"
#undef VARIANT
#undef VARIANT_KV
#undef VARIANT_W
#undef VARIANT_GROUP
#undef VARIANT_GROUP_LIB
#undef VARIANT_KV_LIB
#undef COMMON
    {.op = OPS, .name = NULL}};

const struct variant *variant_table(int *n) {
    *n = (int)(sizeof table / sizeof *table) - 1;
    return table;
}

int variant_index(const struct variant *v) {
    int index = 0;
    for (const struct variant *u = table; u < v; u++) index += u->op == v->op;
    return index;
}

/* By the driver's word alone: no CUDA context is made. */
static const char *gpu_lacks(int isa) {
    const struct gpu_list *gpus = gpu_list_machine();
    const char *why = isa == ISA_SM90A ? gpus->why_sm90a : gpus->why_sm80;
    return why[0] ? why : NULL;
}

bool variant_usable(const struct variant *v, const char **why) {
    static const char *const lacks[CPU_ISAS] = {
#define X(name, text) "this machine has no " text,
        CPU_ISA_TABLE(X)
#undef X
    };
    const char *reason = NULL;
    if (!backend_of(v->device))
        reason = "this program was built without the backend";
    else if (v->device == DEVICE_CPU && v->isa > (int)cpu_isa_best())
        reason = lacks[v->isa];
    else if (v->device == DEVICE_CUDA)
        reason = gpu_lacks(v->isa);
    if (!reason && v->library) reason = v->library->why_missing();
    if (why) *why = reason;
    return !reason;
}

/* A variant that is made of a library carries the library's name. */
static const char *variant_needs(const struct variant *v) {
    static const char *const libraries[][2] = {{"onednn", "oneDNN"}, {"cublas", "cuBLAS"}};
    if (v->library) return v->library->name;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        if (strcmp(v->name, libraries[i][0]) == 0) return libraries[i][1];
    if (v->device == DEVICE_CUDA) return v->isa == ISA_SM90A ? "sm_90a" : "sm_80";
    return v->isa == ISA_NONE ? "" : cpu_isa_name((enum cpu_isa)v->isa);
}

bool variant_info(int i, struct variant_info *out) {
    int n;
    const struct variant *v = variant_table(&n) + i;
    if (i < 0 || i >= n) return false;
    *out = (struct variant_info){.op = v->op,
                                 .name = v->name,
                                 .device = device_kind_name(v->device),
                                 .needs = variant_needs(v)};
    out->usable = variant_usable(v, &out->why_not);
    out->lacks = v->library ? v->library->lacks : 0;
    return true;
}

const char *variant_name(enum op op, int n) {
    for (int i = 0, of_op = 0; i < (int)(sizeof table / sizeof *table) - 1; i++)
        if (table[i].op == op && of_op++ == n) return table[i].name;
    return "unknown";
}

bool exchange_takes_sums(const char *variant) {
    for (const struct variant *v = table; v->name; v++)
        if (v->op == OP_EXCHANGE && variant && strcmp(v->name, variant) == 0) return v->group->sums;
    return false;
}

/* ---- choice */

const char *variant_why_unfit(const struct variant *v, const struct variant_facts *f) {
    if (v->device != f->kind) return "it is of another kind of device";
    if (f->kind == DEVICE_CPU && v->isa > (int)f->isa) return "above the isa that was asked for";
    if (f->kind == DEVICE_CUDA && v->isa > f->capability)
        return "this GPU's compute capability is too low";
    if (f->kind == DEVICE_CUDA && v->isa == ISA_SM90A && f->capability != ISA_SM90A)
        return "this GPU's compute capability is not 9.0";
    if (!(v->dtypes & (1 << f->dtype)))
        return f->dtype == DTYPE_BF16 ? "does not serve bfloat16" : "does not serve float32";
    if (v->kv_layout && f->head_dim > 0 &&
        v->kv_layout->bytes(KV_TILE, 1, f->head_dim, f->dtype) == 0)
        return "does not serve this head_dim";
    return NULL;
}

const struct variant *variant_first(enum op op, const struct variant_facts *f,
                                    bool (*usable)(const struct variant *v, const char **why)) {
    for (const struct variant *v = table; v->name; v++)
        if (v->op == op && !variant_why_unfit(v, f) && usable(v, NULL)) return v;
    return NULL;
}

static struct variant_facts facts_of(const struct device *dev) {
    return (struct variant_facts){dev->backend->kind, dev->isa, dev->capability, dev->dtype,
                                  dev->head_dim};
}

/* Why a variant cannot serve this device on this machine, or NULL. */
static const char *why_unfit(const struct device *dev, const struct variant *v) {
    const struct variant_facts facts = facts_of(dev);
    const char *why;
    return variant_usable(v, &why) ? variant_why_unfit(v, &facts) : why;
}

void variants_take(struct device *dev, const struct variant *v) {
    dev->chosen[v->op] = v;
    dev->chosen_index[v->op] = (uint8_t)variant_index(v);
}

/* "avx2, ref" or "amx_bf16 (this machine has no amx_bf16), ..." of an op. */
static void list_variants(const struct device *dev, enum op op, bool fit, char *out, size_t size) {
    int n;
    const struct variant *v = variant_table(&n);
    size_t used = (size_t)snprintf(out, size, "none");
    bool first = true;
    for (int i = 0; i < n; i++) {
        if (v[i].op != op || v[i].device != dev->backend->kind) continue;
        const char *why = why_unfit(dev, v + i);
        if (!why != fit) continue;
        if (first) used = 0;
        int wrote =
            fit ? snprintf(out + used, size - used, "%s%s", first ? "" : ", ", v[i].name)
                : snprintf(out + used, size - used, "%s%s (%s)", first ? "" : ", ", v[i].name, why);
        first = false;
        used += (size_t)wrote;
        if (used >= size) return;
    }
}

static enum status refuse(const struct device *dev, enum op op, const char *asked,
                          const char *problem, struct error *err) {
    char usable[300], others[500];
    list_variants(dev, op, true, usable, sizeof usable);
    list_variants(dev, op, false, others, sizeof others);
    return error_set(err, STATUS_UNSUPPORTED, "%s = %s: %s; usable here: %s; not usable: %s",
                     op_name(op), asked, problem, usable, others);
}

static enum status choose_named(struct device *dev, enum op op, const char *name,
                                struct error *err) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int i = 0; i < n; i++) {
        if (v[i].op != op || v[i].device != dev->backend->kind || strcmp(v[i].name, name) != 0)
            continue;
        const char *why = why_unfit(dev, v + i);
        if (why) return refuse(dev, op, name, why, err);
        variants_take(dev, v + i);
        return STATUS_OK;
    }
    return refuse(dev, op, name, "no such variant in this program", err);
}

/* Where the best attention kernel of this kind of device was passed over: which, and why. */
static void note_attention(struct device *dev) {
    const struct variant *best = table;
    while (best->op != OP_ATTENTION || best->device != dev->backend->kind) best++;
    if (best == dev->chosen[OP_ATTENTION]) return;
    snprintf(dev->attention_note, sizeof dev->attention_note, "not %s: %s", best->name,
             why_unfit(dev, best));
}

static enum status choose_first(struct device *dev, enum op op, struct error *err) {
    const struct variant_facts facts = facts_of(dev);
    const struct variant *v = variant_first(op, &facts, variant_usable);
    if (!v) return refuse(dev, op, "auto", "no variant serves this device", err);
    variants_take(dev, v);
    if (op == OP_ATTENTION) note_attention(dev);
    return STATUS_OK;
}

enum status variants_choose(struct device *dev, const struct device_opts *opts, struct error *err) {
    const char *named[OPS] = {[OP_ATTENTION] = opts->attention, [OP_LINEAR] = opts->linear};
    for (int op = 0; op < OPS; op++) {
        if (op == OP_EXCHANGE) continue; /* a group brings it */
        bool any = !named[op] || strcmp(named[op], "auto") == 0;
        enum status s = any ? choose_first(dev, (enum op)op, err)
                            : choose_named(dev, (enum op)op, named[op], err);
        if (s != STATUS_OK) return s;
    }
    return STATUS_OK;
}

const struct variant *variants_for_group(const struct group_opts *opts, struct error *err) {
    char reasons[500] = "";
    size_t used = 0;
    const char *name = opts->exchange;
    const bool any = strcmp(name, "auto") == 0;
    for (const struct variant *v = table; v->name; v++) {
        const char *why;
        if (v->op != OP_EXCHANGE || v->device != opts->kind || (!any && strcmp(v->name, name) != 0))
            continue;
        if (variant_usable(v, &why) && !(why = v->group->why_not(opts))) return v;
        if (used < sizeof reasons)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: %s",
                                     used ? "; " : "", v->name, why);
    }
    error_set(err, STATUS_UNSUPPORTED, "exchange_backend = %s serves no %d devices here: %s", name,
              opts->members, used ? reasons : "it is not a kernel of this kind of device");
    return NULL;
}
