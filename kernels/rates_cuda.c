/* Roofs of a GPU: a plain copy within its memory, and a plain matrix product as large as the chip
 * likes, both after the card has had time to leave its first, fast moment. */
#include "kernels/cuda/cuda_core.h"
#include "kernels/op_bench.h"

/* The rate of fn over the second half of `seconds`, by events; `work` per run. The next run is
 * issued before the host waits for one: the card does not rest in between. */
static enum status rate_of(struct device *dev, double seconds, double work,
                           cudaError_t (*fn)(struct device *dev, void *ctx), void *ctx, double *out,
                           struct error *err) {
    struct cuda *c = cuda_of(dev);
    const cudaEvent_t first_end = c->mark[0], *ends = &c->mark[1]; /* of runs in turn */
    const int64_t begin_ns = monotonic_ns(), half_ns = (int64_t)(seconds * 0.5e9);
    int64_t run = 0, first = -1; /* the last one that is not counted */
    float ms = 0;
    cudaError_t e = cudaSuccess;
    for (; e == cudaSuccess; run++) {
        const int64_t passed_ns = monotonic_ns() - begin_ns;
        e = fn(dev, ctx);
        if (e == cudaSuccess) e = cudaEventRecord(ends[run % 2], c->gpu.stream);
        if (e == cudaSuccess && first < 0 && passed_ns >= half_ns) {
            e = cudaEventRecord(first_end, c->gpu.stream);
            first = run;
        } else if (first >= 0 && passed_ns >= 2 * half_ns) {
            break;
        }
        if (e == cudaSuccess && run > 0) e = cudaEventSynchronize(ends[(run - 1) % 2]);
    }
    if (e == cudaSuccess) e = cudaEventSynchronize(ends[run % 2]);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, first_end, ends[run % 2]);
    *out = ms > 0 ? work * (double)(run - first) / ((double)ms * 1e-3) : 0;
    return cuda_status(e, "measuring the GPU", err);
}

struct copying {
    void *from, *to;
    size_t bytes;
};

static cudaError_t copy_once(struct device *dev, void *ctx) {
    const struct copying *c = ctx;
    return cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice,
                           cuda_of(dev)->gpu.stream);
}

enum status cuda_measure_copy(struct device *dev, double seconds, double *bytes_per_s,
                              struct error *err) {
    const size_t bytes = (size_t)1 << 30; /* twenty times the last cache */
    struct arena *arena;
    enum status s = arena_open(&arena, dev, MEMORY_WORKSPACE, 2 * bytes, err);
    if (s != STATUS_OK) return s;
    struct copying c = {arena_take(arena, SHARED_RANK, bytes),
                        arena_take(arena, SHARED_RANK, bytes), bytes};
    s = rate_of(dev, seconds, 2.0 * (double)bytes, copy_once, &c, bytes_per_s, err);
    arena_close(arena);
    return s;
}

struct product {
    struct op_bench *bench;
    struct error err;
};

static cudaError_t multiply_once(struct device *dev, void *ctx) {
    struct product *p = ctx;
    (void)dev;
    return op_bench_issue(p->bench, &p->err) == STATUS_OK ? cudaSuccess : cudaErrorUnknown;
}

double cuda_measure_roof(struct device *dev, double seconds) {
    static const struct op_shape square = {.op = OP_LINEAR, .rows = 8192, .N = 8192, .K = 8192};
    struct product p = {.err = {""}};
    double rate = 0;
    if (op_bench_open(&p.bench, dev, &square, &p.err) != STATUS_OK) return 0;
    const double flops = (double)op_bench_cost(p.bench).flops;
    if (rate_of(dev, seconds, flops, multiply_once, &p, &rate, &p.err) != STATUS_OK) rate = 0;
    op_bench_close(p.bench);
    return rate;
}
