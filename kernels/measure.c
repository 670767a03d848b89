/* device_measure: rates of the chosen kernels on representative shapes, and the roofs beside them,
 * in about a second. Predictions divide by these. Works through the device's own interface, so a
 * GPU is measured by the same lines; what it allocates it frees. */
#include "kernels/cost.h"
#include "kernels/device_core.h"
#include "kernels/element.h"
#include "kernels/random.h"

#include <stdlib.h>
#include <string.h>

/* Seconds for each rate. */
static const double linear_s = 0.2, attention_s = 0.2, copy_s = 0.2, roof_s = 0.2;
static const double overhead_s = 0.02;
enum {
    LINEAR_N = 1024,
    LINEAR_K = 1024,
    BLOCK_ROWS = 256,
    KEYS = 8192,
    QUERY_HEADS = 8,
    KEY_HEADS = 2,
    QUERY_ROWS = 1024,
    TINY_ROWS = 1,
    TINY_C = 64
};

struct measurement {
    struct device *dev;
    struct arena *arena;
    struct step_params host_step, *step; /* and its copy on the device */
    struct error *err;
};

/* ---- memory and values */

static void *take_normal(struct measurement *m, size_t n, uint64_t seed) {
    size_t bytes = n * dtype_bytes(m->dev->dtype);
    void *host = malloc(bytes), *at = arena_take(m->arena, SHARED_RANK, bytes);
    for (size_t i = 0; host && i < n; i += 4) {
        float four[4];
        random_normal4(seed, 0, i / 4, four);
        for (size_t j = 0; j < 4 && i + j < n; j++)
            element_store(host, i + j, m->dev->dtype, four[j]);
    }
    if (host && at) device_write(m->dev, at, host, bytes);
    free(host);
    return host ? at : NULL;
}

static void *take(struct measurement *m, size_t elements) {
    return arena_take(m->arena, SHARED_RANK, elements * dtype_bytes(m->dev->dtype));
}

static enum status no_memory(struct measurement *m) {
    return error_set(m->err, STATUS_NO_MEMORY, "no memory for measuring rates");
}

/* ---- timing */

static enum status run_once(struct measurement *m, const struct op_call *call, int64_t *ns) {
    int64_t begin_ns = monotonic_ns();
    enum status s = device_execute(m->dev, call, m->err);
    if (s == STATUS_OK) s = device_sync(m->dev, m->err);
    *ns = monotonic_ns() - begin_ns;
    return s;
}

/* The best rate among as many runs as fit the time; at least one. */
static enum status best_rate(struct measurement *m, const struct op_call *call, double seconds,
                             double *flops_per_s) {
    double flops = (double)op_cost(call, &m->host_step).flops;
    const int64_t end_ns = monotonic_ns() + (int64_t)(seconds * 1e9);
    *flops_per_s = 0;
    do {
        int64_t ns;
        enum status s = run_once(m, call, &ns);
        if (s != STATUS_OK) return s;
        double rate = flops / (double)(ns > 0 ? ns : 1) * 1e9;
        if (rate > *flops_per_s) *flops_per_s = rate;
    } while (monotonic_ns() < end_ns);
    return STATUS_OK;
}

/* Sets the rows of a call, and the step to match. */
typedef void set_rows_function(struct measurement *m, struct op_call *call, int32_t rows);

/* From one row up to `most`, as long as a run stays short: so that a slow kernel costs no more time
 * than a fast one, and a fast one is measured on a full shape. */
static enum status measure_growing(struct measurement *m, struct op_call *call,
                                   set_rows_function *set_rows, int32_t most, double seconds,
                                   double *flops_per_s) {
    const int64_t long_enough_ns = (int64_t)(seconds * 1e9 / 8);
    int64_t ns = 0;
    for (int32_t rows = 1;; rows = rows > most / 4 ? most : rows * 4) {
        set_rows(m, call, rows);
        enum status s = run_once(m, call, &ns);
        if (s != STATUS_OK) return s;
        if (rows == most || ns >= long_enough_ns) break;
    }
    return best_rate(m, call, seconds, flops_per_s);
}

/* ---- linear */

static void set_linear_rows(struct measurement *m, struct op_call *call, int32_t rows) {
    (void)m;
    call->linear.rows = rows;
}

static int32_t linear_rows(const struct measurement *m) {
    struct device_info info;
    device_info(m->dev, &info);
    return BLOCK_ROWS * (info.threads > 2 ? 2 * info.threads : 4);
}

static size_t linear_arena_bytes(struct measurement *m, struct weight_shape shape, int32_t rows) {
    size_t size = dtype_bytes(m->dev->dtype);
    return device_weight_bytes(m->dev, shape) + arena_bytes((size_t)rows * LINEAR_K * size) +
           arena_bytes((size_t)rows * LINEAR_N * size) +
           arena_bytes((size_t)LINEAR_N * LINEAR_K * size);
}

static enum status time_linear(struct measurement *m, struct weight_shape shape, int32_t rows,
                               double *rate) {
    void *plain = take_normal(m, (size_t)LINEAR_N * LINEAR_K, 1);
    void *x = take_normal(m, (size_t)rows * LINEAR_K, 2), *y = take(m, (size_t)rows * LINEAR_N);
    const struct weight *w;
    if (!plain || !x || !y) return no_memory(m);
    enum status s =
        device_weight_pack(m->dev, m->arena, SHARED_RANK, shape, plain, NULL, &w, m->err);
    if (s != STATUS_OK) return s;
    struct op_call call = {
        .op = OP_LINEAR,
        .linear = {.w = w, .x = x, .y = y, .ldx = LINEAR_K, .ldy = LINEAR_N, .rows = rows}};
    s = measure_growing(m, &call, set_linear_rows, rows, linear_s, rate);
    device_weight_drop(m->dev, w);
    return s;
}

static enum status measure_linear(struct measurement *m, double *rate) {
    const struct weight_shape shape = {LINEAR_N, LINEAR_K, m->dev->dtype, false};
    int32_t rows = linear_rows(m);
    enum status s =
        arena_open(&m->arena, m->dev, MEMORY_WORKSPACE, linear_arena_bytes(m, shape, rows), m->err);
    if (s != STATUS_OK) return s;
    s = time_linear(m, shape, rows, rate);
    arena_close(m->arena);
    return s;
}

/* ---- attention */

/* The last rows of KEYS positions: each sees nearly all keys. */
static void set_attention_rows(struct measurement *m, struct op_call *call, int32_t rows) {
    m->host_step = (struct step_params){.q_start = KEYS - rows,
                                        .n_tokens = rows,
                                        .kv_len = KEYS,
                                        .prompt_tokens = KEYS,
                                        .key_factor = 1,
                                        .query_factor = 1,
                                        .tap_row = {-1, -1, -1, -1, -1, -1, -1, -1}};
    device_write(m->dev, m->step, &m->host_step, sizeof m->host_step);
    call->attention.rows = rows;
}

static enum status time_attention(struct measurement *m, int32_t D, size_t kv_bytes, double *rate) {
    const size_t elements = (size_t)QUERY_ROWS * QUERY_HEADS * (size_t)D;
    struct kv_view kv = {.layout = device_kv_layout(m->dev),
                         .capacity = KEYS,
                         .heads = KEY_HEADS,
                         .head_dim = D,
                         .dtype = m->dev->dtype};
    kv.k = arena_take(m->arena, SHARED_RANK, kv_bytes);
    kv.v = arena_take(m->arena, SHARED_RANK, kv_bytes);
    void *q = take_normal(m, elements, 3), *out = take(m, elements);
    m->step = arena_take(m->arena, SHARED_RANK, sizeof *m->step);
    if (!kv.k || !kv.v || !q || !out || !m->step) return no_memory(m);
    device_kv_fill(m->dev, &kv, 0, KEYS, 4);
    struct op_call call = {.op = OP_ATTENTION,
                           .attention = {.q = {q},
                                         .ldq = (int64_t)QUERY_HEADS * D,
                                         .kv = kv,
                                         .out = out,
                                         .ldo = (int64_t)QUERY_HEADS * D,
                                         .step = m->step,
                                         .H = QUERY_HEADS,
                                         .D = D,
                                         .scale = 1.0f / 16,
                                         .dtype = m->dev->dtype}};
    return measure_growing(m, &call, set_attention_rows, QUERY_ROWS, attention_s, rate);
}

static enum status measure_attention(struct measurement *m, double *rate) {
    const int32_t D = m->dev->head_dim > 0 ? m->dev->head_dim : 128;
    size_t kv_bytes = device_kv_layout(m->dev)->bytes(KEYS, KEY_HEADS, D, m->dev->dtype);
    size_t rows = (size_t)QUERY_ROWS * QUERY_HEADS * (size_t)D * dtype_bytes(m->dev->dtype);
    size_t bytes = 2 * arena_bytes(kv_bytes) + 2 * arena_bytes(rows) + arena_bytes(sizeof *m->step);
    enum status s = arena_open(&m->arena, m->dev, MEMORY_WORKSPACE, bytes, m->err);
    if (s != STATUS_OK) return s;
    s = time_attention(m, D, kv_bytes, rate);
    arena_close(m->arena);
    return s;
}

/* ---- what an op costs before it does anything */

static enum status time_tiny(struct measurement *m, double *ns_of_an_op) {
    enum { BATCH = 64 };
    void *h = take_normal(m, TINY_ROWS * TINY_C, 5), *gain = take_normal(m, TINY_C, 6);
    void *y = take(m, TINY_ROWS * TINY_C);
    if (!h || !gain || !y) return no_memory(m);
    const struct op_call call = {.op = OP_ADD_RMSNORM,
                                 .add_rmsnorm = {.h = h,
                                                 .gain = gain,
                                                 .y = y,
                                                 .rows = TINY_ROWS,
                                                 .C = TINY_C,
                                                 .eps = 1e-6f,
                                                 .dtype = m->dev->dtype}};
    int64_t best = INT64_MAX;
    const int64_t end_ns = monotonic_ns() + (int64_t)(overhead_s * 1e9);
    do {
        int64_t sum = 0;
        for (int i = 0; i < BATCH; i++) {
            int64_t ns;
            enum status s = run_once(m, &call, &ns);
            if (s != STATUS_OK) return s;
            sum += ns;
        }
        if (sum < best) best = sum;
    } while (monotonic_ns() < end_ns);
    *ns_of_an_op = (double)best / BATCH;
    return STATUS_OK;
}

static enum status measure_overhead(struct measurement *m, double *ns_of_an_op) {
    size_t bytes = 3 * arena_bytes((size_t)TINY_ROWS * TINY_C * sizeof(float));
    enum status s = arena_open(&m->arena, m->dev, MEMORY_WORKSPACE, bytes, m->err);
    if (s != STATUS_OK) return s;
    s = time_tiny(m, ns_of_an_op);
    arena_close(m->arena);
    return s;
}

enum status device_measure(struct device *dev, struct device_rates *out, struct error *err) {
    struct measurement m = {.dev = dev, .err = err};
    memset(out, 0, sizeof *out);
    enum status s = measure_linear(&m, &out->linear_flops);
    if (s == STATUS_OK) s = measure_attention(&m, &out->attention_flops);
    if (s == STATUS_OK) s = measure_overhead(&m, &out->op_overhead_ns);
    if (s == STATUS_OK) s = dev->backend->measure_copy(dev, copy_s, &out->copy_bytes, err);
    if (s == STATUS_OK) out->roof_flops = dev->backend->measure_roof(dev, roof_s);
    return s;
}
