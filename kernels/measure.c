/* device_measure: rates of the chosen kernels on representative shapes, and the roofs beside them,
 * in about a second. Predictions divide by these. Works through the device's own interface, so a
 * GPU is measured by the same lines; what it allocates it frees. */
#include "kernels/cost.h"
#include "kernels/device_core.h"
#include "kernels/element.h"
#include "kernels/random.h"

#include <stdlib.h>
#include <string.h>

/* What is run for how long. A GPU wants large shapes, and time to leave the fast first moments of a
 * cool card: its rate is the mean over the second half, a CPU's the best run. */
struct shapes {
    double linear_s, attention_s, copy_s, roof_s;
    bool steady;
    int32_t N, K, rows;                        /* linear; rows: for each pair of threads on a CPU */
    int32_t keys, heads, kv_heads, query_rows; /* attention */
};
static const struct shapes shapes_of[] = {
    [DEVICE_CPU] = {.linear_s = 0.2,
                    .attention_s = 0.2,
                    .copy_s = 0.2,
                    .roof_s = 0.2,
                    .N = 1024,
                    .K = 1024,
                    .rows = 256,
                    .keys = 8192,
                    .heads = 8,
                    .kv_heads = 2,
                    .query_rows = 1024},
    [DEVICE_CUDA] = {.linear_s = 2,
                     .attention_s = 4,
                     .copy_s = 0.5,
                     .roof_s = 2,
                     .steady = true,
                     .N = 9472,
                     .K = 3584,
                     .rows = 8192,
                     .keys = 131072,
                     .heads = 28,
                     .kv_heads = 4,
                     .query_rows = 8192},
};
static const double overhead_s = 0.02;
enum { TINY_ROWS = 1, TINY_C = 64 };

struct measurement {
    struct device *dev;
    const struct shapes *shapes;
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

/* The best rate among as many runs as fit the time, at least one; or the mean over those that end
 * in its second half. */
static enum status rate_of(struct measurement *m, const struct op_call *call, double seconds,
                           double *flops_per_s) {
    const double flops = (double)op_cost(call, &m->host_step).flops;
    const int64_t begin_ns = monotonic_ns(), span_ns = (int64_t)(seconds * 1e9);
    double best = 0, sum_flops = 0, sum_ns = 0;
    do {
        int64_t ns;
        enum status s = run_once(m, call, &ns);
        if (s != STATUS_OK) return s;
        if (ns < 1) ns = 1;
        if (flops / (double)ns > best) best = flops / (double)ns;
        if (monotonic_ns() < begin_ns + span_ns / 2) continue;
        sum_flops += flops;
        sum_ns += (double)ns;
    } while (monotonic_ns() < begin_ns + span_ns);
    *flops_per_s = (m->shapes->steady ? sum_flops / sum_ns : best) * 1e9;
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
    return rate_of(m, call, seconds, flops_per_s);
}

/* ---- linear */

static void set_linear_rows(struct measurement *m, struct op_call *call, int32_t rows) {
    (void)m;
    call->linear.rows = rows;
}

static int32_t linear_rows(const struct measurement *m) {
    struct device_info info;
    device_info(m->dev, &info);
    if (info.threads == 0) return m->shapes->rows;
    return m->shapes->rows * (info.threads > 2 ? 2 * info.threads : 4);
}

static size_t linear_arena_bytes(struct measurement *m, struct weight_shape shape, int32_t rows) {
    size_t size = dtype_bytes(m->dev->dtype);
    return device_weight_bytes(m->dev, shape) + arena_bytes((size_t)rows * m->shapes->K * size) +
           arena_bytes((size_t)rows * m->shapes->N * size) +
           arena_bytes((size_t)m->shapes->N * m->shapes->K * size);
}

static enum status time_linear(struct measurement *m, struct weight_shape shape, int32_t rows,
                               double *rate) {
    void *plain = take_normal(m, (size_t)m->shapes->N * m->shapes->K, 1);
    void *x = take_normal(m, (size_t)rows * m->shapes->K, 2),
         *y = take(m, (size_t)rows * m->shapes->N);
    const struct weight *w;
    if (!plain || !x || !y) return no_memory(m);
    enum status s =
        device_weight_pack(m->dev, m->arena, SHARED_RANK, shape, plain, NULL, &w, m->err);
    if (s != STATUS_OK) return s;
    struct op_call call = {
        .op = OP_LINEAR,
        .linear = {.w = w, .x = x, .y = y, .ldx = m->shapes->K, .ldy = m->shapes->N, .rows = rows}};
    s = measure_growing(m, &call, set_linear_rows, rows, m->shapes->linear_s, rate);
    device_weight_drop(m->dev, w);
    return s;
}

static enum status measure_linear(struct measurement *m, double *rate) {
    const struct weight_shape shape = {m->shapes->N, m->shapes->K, m->dev->dtype, false};
    int32_t rows = linear_rows(m);
    enum status s =
        arena_open(&m->arena, m->dev, MEMORY_WORKSPACE, linear_arena_bytes(m, shape, rows), m->err);
    if (s != STATUS_OK) return s;
    s = time_linear(m, shape, rows, rate);
    arena_close(m->arena);
    return s;
}

/* ---- attention */

/* The last rows of all keys: each sees nearly all keys. */
static void set_attention_rows(struct measurement *m, struct op_call *call, int32_t rows) {
    m->host_step = (struct step_params){.q_start = m->shapes->keys - rows,
                                        .n_tokens = rows,
                                        .kv_len = m->shapes->keys,
                                        .prompt_tokens = m->shapes->keys,
                                        .key_factor = 1,
                                        .query_factor = 1,
                                        .tap_row = {-1, -1, -1, -1, -1, -1, -1, -1}};
    device_write(m->dev, m->step, &m->host_step, sizeof m->host_step);
    call->attention.rows = rows;
}

static enum status time_attention(struct measurement *m, int32_t D, size_t kv_bytes, double *rate) {
    const size_t elements = (size_t)m->shapes->query_rows * m->shapes->heads * (size_t)D;
    struct kv_view kv = {.layout = device_kv_layout(m->dev),
                         .capacity = m->shapes->keys,
                         .heads = m->shapes->kv_heads,
                         .head_dim = D,
                         .dtype = m->dev->dtype};
    kv.k = arena_take(m->arena, SHARED_RANK, kv_bytes);
    kv.v = arena_take(m->arena, SHARED_RANK, kv_bytes);
    void *q = take_normal(m, elements, 3), *out = take(m, elements);
    m->step = arena_take(m->arena, SHARED_RANK, sizeof *m->step);
    if (!kv.k || !kv.v || !q || !out || !m->step) return no_memory(m);
    device_kv_fill(m->dev, &kv, 0, m->shapes->keys, 4);
    struct op_call call = {.op = OP_ATTENTION,
                           .attention = {.q = {q},
                                         .ldq = (int64_t)m->shapes->heads * D,
                                         .kv = kv,
                                         .out = out,
                                         .ldo = (int64_t)m->shapes->heads * D,
                                         .step = m->step,
                                         .H = m->shapes->heads,
                                         .D = D,
                                         .scale = 1.0f / 16,
                                         .dtype = m->dev->dtype}};
    return measure_growing(m, &call, set_attention_rows, m->shapes->query_rows,
                           m->shapes->attention_s, rate);
}

static enum status measure_attention(struct measurement *m, double *rate) {
    const int32_t D = m->dev->head_dim > 0 ? m->dev->head_dim : 128;
    size_t kv_bytes =
        device_kv_layout(m->dev)->bytes(m->shapes->keys, m->shapes->kv_heads, D, m->dev->dtype);
    size_t rows =
        (size_t)m->shapes->query_rows * m->shapes->heads * (size_t)D * dtype_bytes(m->dev->dtype);
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
    struct measurement m = {.dev = dev, .shapes = &shapes_of[dev->backend->kind], .err = err};
    memset(out, 0, sizeof *out);
    enum status s = measure_linear(&m, &out->linear_flops);
    if (s == STATUS_OK) s = measure_attention(&m, &out->attention_flops);
    if (s == STATUS_OK) s = measure_overhead(&m, &out->op_overhead_ns);
    if (s == STATUS_OK)
        s = dev->backend->measure_copy(dev, m.shapes->copy_s, &out->copy_bytes, err);
    if (s == STATUS_OK) out->roof_flops = dev->backend->measure_roof(dev, m.shapes->roof_s);
    return s;
}
