/* device_measure: rates of the chosen kernels on representative shapes, and the roofs beside them.
 * Predictions divide by these. Works through the device's own interface, so a GPU is measured by
 * the same lines; what it allocates it frees. */
#include "kernels/device_core.h"
#include "kernels/op_bench.h"

#include <string.h>

/* What is run for how long. A GPU wants large shapes, and time to leave the fast first moments of a
 * cool card: its rate is the mean over the second half, a CPU's the best run. */
struct measure_plan {
    double linear_s, attention_s, copy_s, roof_s;
    bool steady;
    struct op_shape linear;    /* rows: for each pair of threads on a CPU */
    struct op_shape attention; /* head_dim: where the device knows none */
};
static const struct measure_plan plans[] = {
    [DEVICE_CPU] = {.linear_s = 0.2,
                    .attention_s = 0.2,
                    .copy_s = 0.2,
                    .roof_s = 0.2,
                    .linear = {.op = OP_LINEAR, .rows = 256, .N = 1024, .K = 1024},
                    .attention = {.op = OP_ATTENTION,
                                  .rows = 1024,
                                  .keys = 8192,
                                  .heads = 8,
                                  .kv_heads = 2,
                                  .head_dim = 128}},
    [DEVICE_CUDA] = {.linear_s = 2,
                     .attention_s = 4,
                     .copy_s = 0.5,
                     .roof_s = 2,
                     .steady = true,
                     .linear = {.op = OP_LINEAR, .rows = 8192, .N = 9472, .K = 3584},
                     .attention = {.op = OP_ATTENTION,
                                   .rows = 8192,
                                   .keys = 131072,
                                   .heads = 28,
                                   .kv_heads = 4,
                                   .head_dim = 128}},
};
static const struct op_shape tiny = {.op = OP_ADD_RMSNORM, .rows = 1, .C = 64};
static const double overhead_s = 0.02;

static enum status run_once(struct device *dev, struct op_bench *b, int64_t *ns,
                            struct error *err) {
    int64_t begin_ns = monotonic_ns();
    enum status s = op_bench_issue(b, err);
    if (s == STATUS_OK) s = device_sync(dev, err);
    *ns = monotonic_ns() - begin_ns;
    return s;
}

/* The best rate among as many runs as fit the time, at least one; or the mean over those that end
 * in its second half. */
static enum status rate_of(struct device *dev, struct op_bench *b, double seconds, bool steady,
                           double *flops_per_s, struct error *err) {
    const double flops = (double)op_bench_cost(b).flops;
    const int64_t begin_ns = monotonic_ns(), span_ns = (int64_t)(seconds * 1e9);
    double best = 0, sum_flops = 0, sum_ns = 0;
    do {
        int64_t ns;
        enum status s = run_once(dev, b, &ns, err);
        if (s != STATUS_OK) return s;
        if (ns < 1) ns = 1;
        if (flops / (double)ns > best) best = flops / (double)ns;
        if (monotonic_ns() < begin_ns + span_ns / 2) continue;
        sum_flops += flops;
        sum_ns += (double)ns;
    } while (monotonic_ns() < begin_ns + span_ns);
    *flops_per_s = (steady ? sum_flops / sum_ns : best) * 1e9;
    return STATUS_OK;
}

/* From one row up to all, as long as a run stays short: so that a slow kernel costs no more time
 * than a fast one, and a fast one is measured on a full shape. */
static enum status grow(struct device *dev, struct op_bench *b, int32_t most, double seconds,
                        struct error *err) {
    const int64_t long_enough_ns = (int64_t)(seconds * 1e9 / 8);
    for (int32_t rows = 1;; rows = rows > most / 4 ? most : rows * 4) {
        int64_t ns = 0;
        op_bench_set_rows(b, rows);
        enum status s = op_bench_prepare(b, err);
        if (s == STATUS_OK) s = run_once(dev, b, &ns, err);
        if (s != STATUS_OK || rows == most || ns >= long_enough_ns) return s;
    }
}

static enum status measure_shape(struct device *dev, const struct op_shape *shape, double seconds,
                                 bool steady, double *rate, struct error *err) {
    struct op_bench *b;
    enum status s = op_bench_open(&b, dev, shape, err);
    if (s != STATUS_OK) return s;
    s = grow(dev, b, shape->rows, seconds, err);
    if (s == STATUS_OK) s = rate_of(dev, b, seconds, steady, rate, err);
    op_bench_close(b);
    return s;
}

static struct op_shape linear_shape_of(struct device *dev, const struct measure_plan *plan) {
    struct op_shape shape = plan->linear;
    struct device_info info;
    device_info(dev, &info);
    if (info.threads > 0) shape.rows *= info.threads > 2 ? 2 * info.threads : 4;
    return shape;
}

static struct op_shape attention_shape_of(const struct device *dev,
                                          const struct measure_plan *plan) {
    struct op_shape shape = plan->attention;
    if (dev->head_dim > 0) shape.head_dim = dev->head_dim;
    return shape;
}

/* What an op costs before it does anything, in a row of many: a GPU's are issued ahead. */
static enum status measure_overhead(struct device *dev, double *ns_of_an_op, struct error *err) {
    enum { BATCH = 64 };
    struct op_bench *b;
    int64_t best = INT64_MAX;
    enum status s = op_bench_open(&b, dev, &tiny, err);
    const int64_t end_ns = monotonic_ns() + (int64_t)(overhead_s * 1e9);
    while (s == STATUS_OK) {
        const int64_t begin_ns = monotonic_ns();
        for (int i = 0; i < BATCH && s == STATUS_OK; i++) s = op_bench_issue(b, err);
        if (s == STATUS_OK) s = device_sync(dev, err);
        const int64_t ns = monotonic_ns() - begin_ns;
        if (ns < best) best = ns;
        if (monotonic_ns() >= end_ns) break;
    }
    op_bench_close(b);
    *ns_of_an_op = (double)best / BATCH;
    return s;
}

enum status device_ceilings(struct device *dev, struct device_rates *out, struct error *err) {
    const struct measure_plan *p = &plans[dev->backend->kind];
    memset(out, 0, sizeof *out);
    const enum status s = dev->backend->measure_copy(dev, p->copy_s, &out->copy_bytes, err);
    if (s == STATUS_OK) out->roof_flops = dev->backend->measure_roof(dev, p->roof_s);
    return s;
}

enum status device_measure(struct device *dev, struct device_rates *out, struct error *err) {
    const struct measure_plan *p = &plans[dev->backend->kind];
    const struct op_shape linear = linear_shape_of(dev, p), attention = attention_shape_of(dev, p);
    memset(out, 0, sizeof *out);
    enum status s = measure_shape(dev, &linear, p->linear_s, p->steady, &out->linear_flops, err);
    if (s == STATUS_OK)
        s = measure_shape(dev, &attention, p->attention_s, p->steady, &out->attention_flops, err);
    if (s == STATUS_OK) s = measure_overhead(dev, &out->op_overhead_ns, err);
    struct device_rates roofs;
    if (s == STATUS_OK) s = device_ceilings(dev, &roofs, err);
    if (s != STATUS_OK) return s;
    out->copy_bytes = roofs.copy_bytes;
    out->roof_flops = roofs.roof_flops;
    return STATUS_OK;
}
