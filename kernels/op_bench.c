/* Ops set up for measurement. See op_bench.h. Owns the operands. */
#include "kernels/op_bench.h"

#include "kernels/device_core.h"
#include "kernels/element.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct op_bench {
    struct device *dev;
    struct op_shape shape;
    struct arena *arena; /* owned; NULL while sizes are only added up */
    size_t bytes;        /* added up so far */
    uint64_t seed;       /* of the next operand */
    struct op_call call;
    struct step_params host_step, *step; /* and its copy on the device */
    const struct weight *weight;         /* owned */
    struct error *err;
    enum status status; /* the first failure while opening */
};

/* ---- shapes as text */

struct letter {
    char letter;
    size_t offset;
};
#define AT(field) offsetof(struct op_shape, field)
static const struct letter letters[OPS][6] = {
    [OP_EMBED] = {{'T', AT(rows)}, {'V', AT(N)}, {'C', AT(C)}},
    [OP_ADD_RMSNORM] = {{'T', AT(rows)}, {'C', AT(C)}},
    [OP_LINEAR] = {{'M', AT(rows)}, {'N', AT(N)}, {'K', AT(K)}},
    [OP_ROPE_CACHE] = {{'T', AT(rows)}, {'H', AT(heads)}, {'K', AT(kv_heads)}, {'D', AT(head_dim)}},
    [OP_ATTENTION] = {{'T', AT(rows)},
                      {'N', AT(keys)},
                      {'H', AT(heads)},
                      {'K', AT(kv_heads)},
                      {'D', AT(head_dim)}},
    [OP_SWIGLU] = {{'T', AT(rows)}, {'F', AT(C)}},
    [OP_ALL_REDUCE] = {{'T', AT(rows)}, {'C', AT(C)}, {'R', AT(ranks)}},
    [OP_LOGITS] = {{'T', AT(rows)}, {'V', AT(N)}, {'C', AT(K)}},
    [OP_EXCHANGE] = {{'T', AT(rows)}, {'C', AT(C)}},
};
#undef AT

static int32_t *field(const struct letter *l, const struct op_shape *s) {
    return (int32_t *)((uintptr_t)s + l->offset);
}

bool op_shape_parse(enum op op, const char *text, struct op_shape *out) {
    *out = (struct op_shape){.op = op};
    while (*text) {
        int value = 0, used = 0;
        const struct letter *l = letters[op];
        while (l->letter && l->letter != *text) l++;
        if (!l->letter || sscanf(text + 1, "=%9d%n", &value, &used) != 1 || value < 1) return false;
        *field(l, out) = value;
        text += 1 + used;
        if (*text == ',' && text[1])
            text++;
        else if (*text)
            return false;
    }
    if (!letters[op][0].letter) return false;
    for (const struct letter *l = letters[op]; l->letter; l++)
        if (*field(l, out) == 0) return false;
    return op != OP_ATTENTION || (out->keys >= out->rows && out->heads % out->kv_heads == 0);
}

void op_shape_text(const struct op_shape *s, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (const struct letter *l = letters[s->op]; l->letter && used < size; l++)
        used += (size_t)snprintf(out + used, size - used, "%s%c=%d", used ? "," : "", l->letter,
                                 *field(l, s));
}

bool op_shape_default(enum op op, enum device_kind device, int i, struct op_shape *out) {
    static const struct {
        enum device_kind device;
        enum op op;
        const char *text;
    } shapes[] = {
        {DEVICE_CUDA, OP_ATTENTION, "T=8192,N=8192,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=32768,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=65536,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=204800,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=8192,N=614400,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=614400,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=8192,N=1048576,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=1048576,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=131072,N=1048576,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=1048576,H=7,K=1,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=131072,N=1048576,H=7,K=1,D=128"},
        {DEVICE_CUDA, OP_ATTENTION, "T=32768,N=614400,H=16,K=4,D=64"},
        {DEVICE_CUDA, OP_LINEAR, "M=32768,N=4608,K=3584"},
        {DEVICE_CUDA, OP_LINEAR, "M=32768,N=3584,K=3584"},
        {DEVICE_CUDA, OP_LINEAR, "M=8192,N=37888,K=3584"},
        {DEVICE_CUDA, OP_LINEAR, "M=8192,N=3584,K=18944"},
        {DEVICE_CUDA, OP_LINEAR, "M=32768,N=1152,K=3584"},
        {DEVICE_CUDA, OP_LINEAR, "M=8192,N=3584,K=896"},
        {DEVICE_CUDA, OP_LINEAR, "M=8192,N=9472,K=3584"},
        {DEVICE_CUDA, OP_LINEAR, "M=8192,N=3584,K=4736"},
        {DEVICE_CUDA, OP_EMBED, "T=32768,V=152064,C=3584"},
        {DEVICE_CUDA, OP_ADD_RMSNORM, "T=32768,C=3584"},
        {DEVICE_CUDA, OP_ROPE_CACHE, "T=32768,H=28,K=4,D=128"},
        {DEVICE_CUDA, OP_ROPE_CACHE, "T=32768,H=7,K=1,D=128"},
        {DEVICE_CUDA, OP_SWIGLU, "T=8192,F=18944"},
        {DEVICE_CUDA, OP_SWIGLU, "T=8192,F=4736"},
        {DEVICE_CUDA, OP_ALL_REDUCE, "T=8192,C=3584,R=4"},
        {DEVICE_CUDA, OP_LOGITS, "T=1,V=152064,C=3584"},
        {DEVICE_CPU, OP_ATTENTION, "T=2048,N=2048,H=8,K=4,D=64"},
        {DEVICE_CPU, OP_ATTENTION, "T=1024,N=32768,H=8,K=4,D=64"},
        {DEVICE_CPU, OP_ATTENTION, "T=512,N=16384,H=7,K=1,D=128"},
        {DEVICE_CPU, OP_LINEAR, "M=2048,N=1024,K=512"},
        {DEVICE_CPU, OP_LINEAR, "M=2048,N=2816,K=512"},
        {DEVICE_CPU, OP_LINEAR, "M=2048,N=512,K=1408"},
        {DEVICE_CPU, OP_EMBED, "T=8192,V=2048,C=512"},
        {DEVICE_CPU, OP_ADD_RMSNORM, "T=8192,C=512"},
        {DEVICE_CPU, OP_ROPE_CACHE, "T=8192,H=8,K=4,D=64"},
        {DEVICE_CPU, OP_SWIGLU, "T=8192,F=1408"},
        {DEVICE_CPU, OP_ALL_REDUCE, "T=8192,C=512,R=4"},
        {DEVICE_CPU, OP_LOGITS, "T=1,V=152064,C=512"},
    };
    for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
        if (shapes[j].op == op && shapes[j].device == device && i-- == 0)
            return op_shape_parse(op, shapes[j].text, out);
    return false;
}

/* ---- operands: each builder runs twice, first to add up, then to take */

static void *take_bytes(struct op_bench *b, size_t bytes) {
    b->bytes += arena_bytes(bytes);
    return b->arena ? arena_take(b->arena, SHARED_RANK, bytes) : NULL;
}

static void *take(struct op_bench *b, int64_t rows, int64_t cols) {
    return take_bytes(b, (size_t)rows * (size_t)cols * dtype_bytes(b->dev->dtype));
}

static void *take_normal(struct op_bench *b, int64_t rows, int64_t cols) {
    void *at = take(b, rows, cols);
    if (at) device_fill_normal(b->dev, at, rows * cols, b->seed++);
    return at;
}

/* A linear's weight wants plain rows in host memory. */
static const struct weight *pack_normal(struct op_bench *b, struct weight_shape shape) {
    const size_t bytes = (size_t)shape.N * (size_t)shape.K * dtype_bytes(shape.dtype);
    b->bytes += device_weight_bytes(b->dev, shape);
    if (!b->arena) return NULL;
    const struct weight *w = NULL;
    void *rows = malloc(bytes);
    if (!rows) {
        b->status =
            error_set(b->err, STATUS_NO_MEMORY, "no memory for a weight of %zu bytes", bytes);
        return NULL;
    }
    element_fill_normal(rows, 0, (int64_t)shape.N * shape.K, shape.dtype, b->seed++);
    b->status = device_weight_pack(b->dev, b->arena, SHARED_RANK, shape, rows, NULL, &w, b->err);
    free(rows);
    return w;
}

static void take_step(struct op_bench *b) {
    b->step = take_bytes(b, sizeof *b->step);
}

static struct kv_view take_kv(struct op_bench *b, int32_t positions) {
    const struct op_shape *s = &b->shape;
    struct kv_view kv = {.layout = device_kv_layout(b->dev),
                         .capacity = (positions + KV_TILE - 1) / KV_TILE * KV_TILE,
                         .heads = s->kv_heads,
                         .head_dim = s->head_dim,
                         .dtype = b->dev->dtype};
    const size_t bytes = kv.layout->bytes(kv.capacity, kv.heads, kv.head_dim, kv.dtype);
    kv.k = take_bytes(b, bytes);
    kv.v = take_bytes(b, bytes);
    if (kv.k && kv.v) device_kv_fill(b->dev, &kv, 0, positions, b->seed++);
    return kv;
}

static void build_linear(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    struct linear_args *a = &b->call.linear;
    b->weight = pack_normal(b, (struct weight_shape){s->N, s->K, b->dev->dtype, false});
    *a = (struct linear_args){.w = b->weight,
                              .x = take_normal(b, s->rows, s->K),
                              .y = take(b, s->rows, s->N),
                              .ldx = s->K,
                              .ldy = s->N,
                              .rows = s->rows};
}

static void build_attention(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    const int64_t ld = (int64_t)s->heads * s->head_dim;
    take_step(b);
    b->call.attention = (struct attention_args){.q = {take_normal(b, s->rows, ld)},
                                                .ldq = ld,
                                                .kv = take_kv(b, s->keys),
                                                .out = take(b, s->rows, ld),
                                                .ldo = ld,
                                                .step = b->step,
                                                .rows = s->rows,
                                                .H = s->heads,
                                                .D = s->head_dim,
                                                .scale = (float)(1 / sqrt((double)s->head_dim)),
                                                .dtype = b->dev->dtype};
}

static void build_rope_cache(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    const int64_t ld = (int64_t)(s->heads + 2 * s->kv_heads) * s->head_dim;
    const size_t table = (size_t)s->rows * (size_t)s->head_dim / 2 * sizeof(float);
    take_step(b);
    b->call.rope_cache =
        (struct rope_cache_args){.qkv = take_normal(b, s->rows, ld),
                                 .ldqkv = ld,
                                 .q = {take(b, s->rows, (int64_t)s->heads * s->head_dim)},
                                 .cos = take_bytes(b, table),
                                 .sin = take_bytes(b, table),
                                 .kv = take_kv(b, s->rows),
                                 .step = b->step,
                                 .rows = s->rows,
                                 .H = s->heads,
                                 .D = s->head_dim,
                                 .copies = 1,
                                 .dtype = b->dev->dtype};
}

static void build_add_rmsnorm(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    b->call.add_rmsnorm = (struct add_rmsnorm_args){.h = take_normal(b, s->rows, s->C),
                                                    .x = take_normal(b, s->rows, s->C),
                                                    .gain = take_normal(b, 1, s->C),
                                                    .y = take(b, s->rows, s->C),
                                                    .rows = s->rows,
                                                    .C = s->C,
                                                    .eps = 1e-5f,
                                                    .dtype = b->dev->dtype};
}

static void build_swiglu(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    b->call.swiglu = (struct swiglu_args){.in = take_normal(b, s->rows, 2 * (int64_t)s->C),
                                          .out = take(b, s->rows, s->C),
                                          .rows = s->rows,
                                          .F = s->C,
                                          .dtype = b->dev->dtype};
}

static void build_all_reduce(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    struct all_reduce_args *a = &b->call.all_reduce;
    *a = (struct all_reduce_args){
        .ranks = s->ranks, .rows = s->rows, .C = s->C, .dtype = b->dev->dtype};
    for (int i = 0; i < s->ranks && i < MAX_RANKS; i++)
        a->partial[i] = take_normal(b, s->rows, s->C);
    a->out = take(b, s->rows, s->C);
}

static void build_logits(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    b->call.logits =
        (struct logits_args){.head = take_normal(b, s->N, s->K),
                             .x = take_normal(b, s->rows, s->K),
                             .out = take_bytes(b, (size_t)s->rows * (size_t)s->N * sizeof(float)),
                             .ldout = s->N,
                             .rows = s->rows,
                             .V = s->N,
                             .C = s->K,
                             .dtype = b->dev->dtype};
}

/* Ids that walk through the table as far apart as they can. */
static void build_embed(struct op_bench *b) {
    const struct op_shape *s = &b->shape;
    int32_t *ids = take_bytes(b, (size_t)s->rows * sizeof *ids);
    b->call.embed = (struct embed_args){.table = take_normal(b, s->N, s->C),
                                        .ids = ids,
                                        .out = take(b, s->rows, s->C),
                                        .vocab_end = s->N,
                                        .rows = s->rows,
                                        .C = s->C,
                                        .dtype = b->dev->dtype};
    int32_t *host = ids ? malloc((size_t)s->rows * sizeof *host) : NULL;
    for (int32_t i = 0; host && i < s->rows; i++) host[i] = (int32_t)((int64_t)i * 7919 % s->N);
    if (host) device_write(b->dev, ids, host, (size_t)s->rows * sizeof *host);
    free(host);
}

typedef void build_function(struct op_bench *b);
static build_function *const builders[OPS] = {
    [OP_EMBED] = build_embed,           [OP_ADD_RMSNORM] = build_add_rmsnorm,
    [OP_LINEAR] = build_linear,         [OP_ROPE_CACHE] = build_rope_cache,
    [OP_ATTENTION] = build_attention,   [OP_SWIGLU] = build_swiglu,
    [OP_ALL_REDUCE] = build_all_reduce, [OP_LOGITS] = build_logits,
};

/* ---- life */

static void write_step(struct op_bench *b, int32_t rows) {
    const int32_t keys = b->shape.keys ? b->shape.keys : rows;
    b->host_step = (struct step_params){.q_start = keys - rows,
                                        .n_tokens = rows,
                                        .kv_len = keys,
                                        .prompt_tokens = keys,
                                        .key_factor = 1,
                                        .query_factor = 1,
                                        .tap_row = {-1, -1, -1, -1, -1, -1, -1, -1}};
    if (b->step) device_write(b->dev, b->step, &b->host_step, sizeof b->host_step);
}

void op_bench_set_rows(struct op_bench *b, int32_t rows) {
    static const size_t at[OPS] = {
        [OP_EMBED] = offsetof(struct op_call, embed.rows),
        [OP_ADD_RMSNORM] = offsetof(struct op_call, add_rmsnorm.rows),
        [OP_LINEAR] = offsetof(struct op_call, linear.rows),
        [OP_ROPE_CACHE] = offsetof(struct op_call, rope_cache.rows),
        [OP_ATTENTION] = offsetof(struct op_call, attention.rows),
        [OP_SWIGLU] = offsetof(struct op_call, swiglu.rows),
        [OP_ALL_REDUCE] = offsetof(struct op_call, all_reduce.rows),
        [OP_LOGITS] = offsetof(struct op_call, logits.rows),
    };
    memcpy((char *)&b->call + at[b->shape.op], &rows, sizeof rows);
    write_step(b, rows);
}

static void build(struct op_bench *b) {
    b->bytes = 0;
    b->seed = 1;
    builders[b->shape.op](b);
}

enum status op_bench_open(struct op_bench **out, struct device *dev, const struct op_shape *shape,
                          struct error *err) {
    *out = NULL;
    if (!builders[shape->op])
        return error_set(err, STATUS_USAGE, "op %s has no benchmark", op_name(shape->op));
    struct op_bench *b = calloc(1, sizeof *b);
    if (!b) return error_set(err, STATUS_NO_MEMORY, "no memory for a benchmark");
    *b = (struct op_bench){
        .dev = dev, .shape = *shape, .call = {.op = shape->op, .layer = -1}, .err = err};
    build(b);
    enum status s = arena_open(&b->arena, dev, MEMORY_OTHER, b->bytes, err);
    if (s == STATUS_OK) {
        build(b);
        s = b->status;
    }
    if (s == STATUS_OK) {
        op_bench_set_rows(b, shape->rows);
        s = device_sync(dev, err);
    }
    if (s == STATUS_OK) s = op_bench_prepare(b, err);
    if (s == STATUS_OK)
        *out = b;
    else
        op_bench_close(b);
    return s;
}

void op_bench_close(struct op_bench *b) {
    if (!b) return;
    if (b->weight) device_weight_drop(b->dev, b->weight);
    arena_close(b->arena);
    free(b);
}

enum status op_bench_prepare(struct op_bench *b, struct error *err) {
    return device_prepare(b->dev, &b->call, err);
}

struct cost op_bench_cost(const struct op_bench *b) {
    return op_cost(&b->call, &b->host_step);
}

struct device *op_bench_device(const struct op_bench *b) {
    return b->dev;
}

enum status op_bench_issue(struct op_bench *b, struct error *err) {
    return device_execute(b->dev, &b->call, err);
}
