/* A device, as backend.h promises it: choice of kernels, arenas and their accounting, weights,
 * recorded calls. What differs between kinds of device is behind `struct backend`. Owns the list of
 * weights; arenas and graphs belong to whoever opened them, and go before the device. */
#include "kernels/activity/activity.h"
#include "kernels/device_core.h"
#include "kernels/nvtx.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening and closing */

const struct backend *backend_of(enum device_kind kind) {
#ifdef HAVE_CUDA
    if (kind == DEVICE_CUDA) return &backend_cuda;
#endif
    return kind == DEVICE_CPU ? &backend_cpu : NULL;
}

struct device_opts device_opts_defaults(void) {
    return (struct device_opts){.kind = DEVICE_CPU,
                                .isa = "auto",
                                .attention = "auto",
                                .linear = "auto",
                                .dtype = DTYPE_BF16};
}

enum status device_open(struct device **out, const struct device_opts *opts, struct error *err) {
    *out = NULL;
    const struct backend *backend = backend_of(opts->kind);
    if (!backend)
        return error_set(err, STATUS_UNSUPPORTED, "device = %s: this program was built without it",
                         device_kind_name(opts->kind));
    struct device *dev = calloc(1, sizeof *dev);
    if (!dev) return error_set(err, STATUS_NO_MEMORY, "no memory for a device");
    dev->backend = backend;
    dev->dtype = opts->dtype;
    dev->head_dim = opts->head_dim;
    dev->interpose = opts->interpose;
    dev->interpose_ctx = opts->interpose_ctx;
    dev->nvtx = opts->nvtx;
    dev->activity = opts->activity;
    enum status s = backend->open(dev, opts, err);
    if (s == STATUS_OK) s = variants_choose(dev, opts, err);
    if (s != STATUS_OK) {
        device_close(dev);
        return s;
    }
    *out = dev;
    return STATUS_OK;
}

void device_close(struct device *dev) {
    if (!dev) return;
    assert(dev->open_arenas == 0 && "arenas go before their device");
    while (dev->weights) device_weight_drop(dev, &dev->weights->weight);
    device_spans_enable(dev, 0, NULL);
    device_leave(dev);
    dev->backend->close(dev);
    free(dev);
}

void device_info(struct device *dev, struct device_info *out) {
    *out = (struct device_info){.threads = 0};
    dev->backend->info(dev, out);
    memcpy(out->attention_note, dev->attention_note, sizeof out->attention_note);
    for (int op = 0; op < OPS; op++)
        if (dev->chosen[op]) out->variant[op] = dev->chosen[op]->name;
}

/* ---- groups */

int device_count(enum device_kind kind) {
    const struct backend *backend = backend_of(kind);
    return backend ? backend->count() : 0;
}

enum status device_group_open(struct device_group **out, const struct group_opts *opts,
                              struct error *err) {
    *out = NULL;
    const struct variant *v = variants_for_group(opts, err);
    if (!v) return STATUS_UNSUPPORTED;
    struct device_group *g = calloc(1, sizeof *g);
    if (!g) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    g->variant = v, g->members = opts->members, g->processes = opts->processes;
    const enum status s = v->group->open(g, err);
    if (s == STATUS_OK)
        *out = g;
    else
        device_group_close(g);
    return s;
}

const char *device_group_exchange(const struct device_group *g) {
    return g->variant->name;
}

void device_group_close(struct device_group *g) {
    if (!g) return;
    g->variant->group->close(g);
    free(g);
}

enum status device_join(struct device *dev, struct device_group *g, int member, struct error *err) {
    variants_take(dev, g->variant);
    dev->group = g, dev->member = member;
    return g->variant->group->join(dev, err);
}

void device_leave(struct device *dev) {
    if (dev->group) dev->group->variant->group->leave(dev);
    dev->group = NULL;
}

void device_group_abort(struct device_group *g) {
    if (!atomic_exchange(&g->aborted, true)) g->variant->group->abort(g);
}

struct device_group *device_group_of(const struct device *dev) {
    return dev->group;
}

int device_member(const struct device *dev) {
    return dev->member;
}

/* What ended by itself is told first: after it the others of its group are stopped. */
static enum status or_stopped(const struct device *dev, enum status s, struct error *err) {
    if (s != STATUS_OK || !dev->group || !atomic_load(&dev->group->aborted)) return s;
    return error_set(err, STATUS_RUN_FAILED, "stopped, because another device of the group failed");
}

/* ---- accounting */

void ledger_charge(struct ledger *l, int rank, enum memory_category c, int64_t bytes) {
    struct memory_use *use = &l->use[rank + 1];
    use->bytes[c] += bytes;
    if (use->bytes[c] > use->high_water[c]) use->high_water[c] = use->bytes[c];
}

void device_memory(struct device *dev, int rank, struct memory_use *out) {
    *out = dev->ledger.use[rank + 1];
    if (rank != SHARED_RANK) return;
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        out->bytes[c] += dev->ledger.idle_bytes[c];
        if (out->bytes[c] > out->high_water[c]) out->high_water[c] = out->bytes[c];
    }
}

void device_memory_reset_high_water(struct device *dev) {
    for (int i = 0; i <= MAX_RANKS; i++) {
        struct memory_use *use = &dev->ledger.use[i];
        memcpy(use->high_water, use->bytes, sizeof use->high_water);
    }
    dev->backend->memory_reset_high_water(dev);
}

void device_memory_driver(struct device *dev, int64_t *bytes, int64_t *high_water) {
    dev->backend->memory_driver(dev, bytes, high_water);
}

int64_t device_allocations(struct device *dev) {
    return dev->allocations;
}

/* ---- arenas */

/* Under the address sanitizer what is not taken may not be touched: an op that runs over the end of
 * a buffer is found even though its neighbour is in the same arena. */
#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

struct arena {
    struct device *dev;
    char *base;
    size_t bytes, used;
    enum memory_category category;
    int64_t taken_bytes[MAX_RANKS + 1]; /* [rank + 1] */
};

static const char *category_name(enum memory_category c) {
    static const char *const names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    return names[c];
}

/* Only the thread that drives the device writes the counter. Beside calls that ran it counts what a
 * session does before its first step: memory, preparation, recording. */
static void count_call(struct device *dev) {
    uint64_t n = atomic_load_explicit(&dev->calls_done, memory_order_relaxed);
    atomic_store_explicit(&dev->calls_done, n + 1, memory_order_relaxed);
}

enum status arena_open(struct arena **out, struct device *dev, enum memory_category category,
                       size_t bytes, struct error *err) {
    *out = NULL;
    struct arena *a = calloc(1, sizeof *a);
    if (!a) return error_set(err, STATUS_NO_MEMORY, "no memory for an arena");
    *a = (struct arena){.dev = dev, .bytes = arena_bytes(bytes), .category = category};
    void *base = NULL;
    enum status s = STATUS_OK;
    if (a->bytes < bytes)
        s = error_set(err, STATUS_NO_MEMORY, "%zu bytes wanted", bytes);
    else if (bytes > 0)
        s = dev->backend->memory_open(dev, a->bytes, &base, err);
    if (s != STATUS_OK) {
        free(a);
        return error_prefix(err, s, "memory for %s", category_name(category));
    }
    a->base = base;
    ASAN_POISON_MEMORY_REGION(a->base, a->bytes);
    count_call(dev);
    dev->allocations++;
    dev->open_arenas++;
    dev->ledger.idle_bytes[category] += (int64_t)a->bytes;
    *out = a;
    return STATUS_OK;
}

void arena_close(struct arena *a) {
    if (!a) return;
    struct device *dev = a->dev;
    for (int i = 0; i <= MAX_RANKS; i++)
        ledger_charge(&dev->ledger, i - 1, a->category, -a->taken_bytes[i]);
    dev->ledger.idle_bytes[a->category] -= (int64_t)(a->bytes - a->used);
    dev->open_arenas--;
    ASAN_UNPOISON_MEMORY_REGION(a->base, a->bytes);
    dev->backend->memory_close(dev, a->base, a->bytes);
    free(a);
}

void *arena_take(struct arena *a, int rank, size_t bytes) {
    size_t n = arena_bytes(bytes);
    if (n < bytes || n > a->bytes - a->used || !a->base) return NULL;
    char *at = a->base + a->used;
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    a->used += n;
    a->taken_bytes[rank + 1] += (int64_t)n;
    a->dev->ledger.idle_bytes[a->category] -= (int64_t)n;
    ledger_charge(&a->dev->ledger, rank, a->category, (int64_t)n);
    return at;
}

void device_write(struct device *dev, void *dst, const void *src, size_t bytes) {
    dev->backend->write(dev, dst, src, bytes);
}

void device_read(struct device *dev, void *dst, const void *src, size_t bytes) {
    dev->backend->read(dev, dst, src, bytes);
}

void device_fill_normal(struct device *dev, void *dst, int64_t n, uint64_t seed) {
    dev->backend->fill_normal(dev, dst, n, seed);
}

enum status device_sync(struct device *dev, struct error *err) {
    return or_stopped(dev, dev->backend->sync(dev, err), err);
}

void device_mark(struct device *dev, int mark) {
    dev->backend->mark(dev, mark);
    nvtx_end(dev->nvtx, NVTX_LAYER); /* waiting for the device belongs to no layer */
}

enum status device_mark_wait(struct device *dev, int mark, struct error *err) {
    return or_stopped(dev, dev->backend->mark_wait(dev, mark, err), err);
}

int64_t device_mark_ns(struct device *dev, int from, int to) {
    return dev->backend->mark_ns(dev, from, to);
}

/* ---- weights */

static size_t bias_bytes(struct weight_shape s) {
    return s.bias ? arena_bytes((size_t)s.N * dtype_bytes(s.dtype)) : 0;
}

size_t device_weight_bytes(struct device *dev, struct weight_shape shape) {
    const struct weight_layout *layout = dev->chosen[OP_LINEAR]->weight_layout;
    return arena_bytes(layout->bytes(shape)) + bias_bytes(shape);
}

bool device_weights_are_plain(struct device *dev) {
    return dev->chosen[OP_LINEAR]->weight_layout->plain;
}

void device_weight_place(const struct weight *w, void **rows, void **bias) {
    *rows = w->data;
    *bias = w->bias;
}

struct weight_shape weight_shape(const struct weight *w) {
    return w->shape;
}

size_t device_weight_overhead_bytes(struct device *dev) {
    (void)dev; /* the same on every kind */
    return sizeof(struct weight_node);
}

static enum status weight_fill(struct device *dev, struct arena *arena, int rank, struct weight *w,
                               const void *rows, const void *bias, struct error *err) {
    size_t bytes = w->layout->bytes(w->shape);
    w->data = arena_take(arena, rank, bytes);
    void *b = w->shape.bias ? arena_take(arena, rank, bias_bytes(w->shape)) : NULL;
    if (!w->data || (w->shape.bias && !b))
        return error_set(err, STATUS_NO_MEMORY, "the arena has no room for a weight of %d x %d",
                         (int)w->shape.N, (int)w->shape.K);
    if (b && bias) device_write(dev, b, bias, (size_t)w->shape.N * dtype_bytes(w->shape.dtype));
    w->bias = b;
    return w->layout->pack(dev, w, rows, err);
}

enum status device_weight_pack(struct device *dev, struct arena *arena, int rank,
                               struct weight_shape shape, const void *rows, const void *bias,
                               const struct weight **out, struct error *err) {
    *out = NULL;
    const struct variant *linear = dev->chosen[OP_LINEAR];
    if (!(linear->dtypes & (1 << shape.dtype)))
        return error_set(err, STATUS_UNSUPPORTED, "linear = %s does not serve %s", linear->name,
                         dtype_name(shape.dtype));
    struct weight_node *node = calloc(1, sizeof *node);
    if (!node) return error_set(err, STATUS_NO_MEMORY, "no memory for a weight");
    node->weight = (struct weight){.shape = shape, .layout = linear->weight_layout};
    enum status s = weight_fill(dev, arena, rank, &node->weight, rows, bias, err);
    if (s != STATUS_OK) {
        free(node);
        return s;
    }
    node->next = dev->weights;
    dev->weights = node;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, (int64_t)sizeof *node);
    *out = &node->weight;
    return STATUS_OK;
}

void device_weight_drop(struct device *dev, const struct weight *w) {
    struct weight_node **at = &dev->weights;
    while (*at && &(*at)->weight != w) at = &(*at)->next;
    struct weight_node *node = *at;
    if (!node) return;
    *at = node->next;
    if (node->weight.layout->release) node->weight.layout->release(&node->weight);
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, -(int64_t)sizeof *node);
    free(node);
}

/* ---- key/value cache */

const struct kv_layout *device_kv_layout(struct device *dev) {
    return dev->chosen[OP_ATTENTION]->kv_layout;
}

void device_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                    uint64_t seed) {
    dev->backend->kv_fill(dev, view, begin, end, seed);
}

void device_kv_read(struct device *dev, const struct kv_view *view, int head, int32_t begin,
                    int32_t n, float *k, float *v) {
    dev->backend->kv_read(dev, view, head, begin, n, k, v);
}

/* ---- running */

enum status device_execute(struct device *dev, const struct op_call *call, struct error *err) {
    enum status s = or_stopped(dev, dev->backend->execute(dev, call, err), err);
    count_call(dev);
    return s;
}

static enum status interposed(struct device *dev, const struct op_call *call, struct error *err) {
    if (!dev->interpose) return device_execute(dev, call, err);
    struct op_call copy = *call;
    if (dev->interpose(dev->interpose_ctx, dev, &copy)) return STATUS_OK;
    return device_execute(dev, &copy, err);
}

struct op_place device_place(const struct device *dev, const struct op_call *call) {
    return (struct op_place){.rank = call->rank,
                             .layer = call->layer,
                             .op = (uint8_t)call->op,
                             .role = (uint8_t)call->role,
                             .variant = dev->chosen_index[call->op],
                             .device = (uint8_t)dev->member};
}

/* A call in a word that another thread may read: layer, rank, op, all counted from 1. */
static uint64_t call_word(const struct op_call *call) {
    return (uint64_t)(call->layer + 2) << 32 | (uint64_t)(call->rank + 2) << 16 |
           (uint64_t)(call->op + 1);
}

void device_at_work(const struct device *dev, char *out, size_t size) {
    const uint64_t word = atomic_load_explicit(&dev->at_work, memory_order_relaxed);
    const int layer = (int)(word >> 32) - 2, rank = (int)(word >> 16 & 0xffff) - 2;
    char of_rank[20] = "", of_layer[20] = "";
    if (word == 0) {
        snprintf(out, size, "nothing is being issued");
        return;
    }
    if (rank >= 0) snprintf(of_rank, sizeof of_rank, ", rank %d", rank);
    if (layer >= 0) snprintf(of_layer, sizeof of_layer, ", layer %d", layer);
    snprintf(out, size, "%s%s%s", op_name((enum op)((word & 0xffff) - 1)), of_layer, of_rank);
}

static enum status run_now(struct device *dev, const struct op_call *call, struct error *err) {
    nvtx_begin_op(dev->nvtx, call);
    atomic_store_explicit(&dev->at_work, call_word(call), memory_order_relaxed);
    activity_begin_op(dev->activity, device_place(dev, call));
    enum status s = interposed(dev, call, err);
    activity_end_op(dev->activity);
    atomic_store_explicit(&dev->at_work, 0, memory_order_relaxed);
    nvtx_end_op(dev->nvtx);
    return s;
}

static enum status record(struct device *dev, const struct op_call *call, struct error *err);

enum status device_run(struct device *dev, const struct op_call *call, struct error *err) {
    return dev->recording ? record(dev, call, err) : run_now(dev, call, err);
}

enum status device_prepare(struct device *dev, const struct op_call *call, struct error *err) {
    const struct variant *v = dev->chosen[call->op];
    if (!v->library || !v->library->prepare) return STATUS_OK;
    const enum status s = v->library->prepare(dev, &call->embed, err);
    count_call(dev);
    return s == STATUS_OK ? s : error_prefix(err, s, "%s = %s", op_name(call->op), v->name);
}

unsigned device_attention_lacks(const struct device *dev, const char **name) {
    const struct variant *v = dev->chosen[OP_ATTENTION];
    if (name) *name = v->name;
    return v->library ? v->library->lacks : 0;
}

bool device_loads_lazily(const struct device *dev) {
    return dev->backend->loads_lazily;
}

void device_profile(struct device *dev, bool on) {
    if (dev->backend->profile) dev->backend->profile(dev, on);
}

uint64_t device_progress(const struct device *dev) {
    return dev->backend->progress(dev) +
           atomic_load_explicit(&dev->calls_done, memory_order_relaxed);
}

/* ---- graphs */

static enum status graph_resize(struct device *dev, struct device_graph *g, int64_t capacity,
                                struct error *err) {
    struct op_call *calls = realloc(g->calls, (size_t)capacity * sizeof *calls);
    if (!calls)
        return error_set(err, STATUS_NO_MEMORY, "no memory to record %lld calls",
                         (long long)capacity);
    g->calls = calls;
    g->capacity = capacity;
    dev->allocations++;
    return STATUS_OK;
}

static void graph_free(struct device_graph *g) {
    free(g->calls);
    free(g);
}

/* A call that cannot be kept ends the recording for good: n = -1. */
static enum status record(struct device *dev, const struct op_call *call, struct error *err) {
    struct device_graph *g = dev->recording;
    enum status s = g->n < 0 ? error_set(err, STATUS_NO_MEMORY, "recording failed before")
                    : g->n < g->capacity ? STATUS_OK
                                         : graph_resize(dev, g, 2 * g->capacity, err);
    if (s != STATUS_OK) {
        g->n = -1;
        return s;
    }
    g->calls[g->n++] = *call;
    count_call(dev);
    return STATUS_OK;
}

enum status device_capture_begin(struct device *dev, struct error *err) {
    enum { FIRST_CAPACITY = 256 };
    assert(!dev->recording && "one recording at a time");
    struct device_graph *g = calloc(1, sizeof *g);
    if (!g) return error_set(err, STATUS_NO_MEMORY, "no memory for a graph");
    enum status s = graph_resize(dev, g, FIRST_CAPACITY, err);
    if (s != STATUS_OK) {
        graph_free(g);
        return s;
    }
    dev->recording = g;
    dev->capture_begin_ns = monotonic_ns();
    return STATUS_OK;
}

int64_t device_graph_bytes(struct device *dev, int64_t calls) {
    const struct device_graph *g = NULL;
    (void)dev; /* a backend's own form of it is not known before it is made */
    return (int64_t)sizeof *g + (calls > 0 ? calls : 1) * (int64_t)sizeof *g->calls;
}

/* Gives back what the list has too much, and lets the backend make its own form of it. */
static enum status instantiate(struct device *dev, struct device_graph *g, struct error *err) {
    enum status s = graph_resize(dev, g, g->n > 0 ? g->n : 1, err);
    if (s != STATUS_OK) return s;
    g->info.nodes = g->n;
    g->info.bytes = device_graph_bytes(dev, g->n);
    if (dev->backend->graph_open) s = dev->backend->graph_open(dev, g, err);
    count_call(dev);
    return s;
}

enum status device_capture_end(struct device *dev, struct device_graph **out, struct error *err) {
    *out = NULL;
    struct device_graph *g = dev->recording;
    assert(g && "device_capture_begin comes first");
    dev->recording = NULL;
    g->info.capture_ns = monotonic_ns() - dev->capture_begin_ns;
    const int64_t begin_ns = monotonic_ns();
    enum status s = g->n < 0 ? error_set(err, STATUS_NO_MEMORY, "no memory to record the step")
                             : instantiate(dev, g, err);
    if (s != STATUS_OK) {
        graph_free(g);
        return s;
    }
    if (!g->native) g->info.instantiate_ns = monotonic_ns() - begin_ns;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_GRAPH, g->info.bytes);
    *out = g;
    return STATUS_OK;
}

/* With an interposer or spans calls are replayed one by one: it sees each of them, each has its
 * span. */
enum status device_graph_launch(struct device *dev, struct device_graph *g, struct error *err) {
    assert(!dev->recording && "a graph cannot be recorded into another");
    if (g->native && !dev->interpose && dev->spans.capacity == 0)
        return or_stopped(dev, dev->backend->graph_launch(dev, g, err), err);
    for (int64_t i = 0; i < g->n; i++) {
        enum status s = run_now(dev, &g->calls[i], err);
        if (s != STATUS_OK) return s;
    }
    return STATUS_OK;
}

void device_graph_info(const struct device_graph *g, struct device_graph_info *out) {
    *out = g->info;
}

void device_graph_close(struct device *dev, struct device_graph *g) {
    if (!g) return;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_GRAPH, -g->info.bytes);
    if (g->native) dev->backend->graph_close(dev, g);
    graph_free(g);
}
