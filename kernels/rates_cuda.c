/* Roofs of a GPU: a plain copy within its memory, and a plain matrix product as large as the chip
 * likes, both after the card has had time to leave its first, fast moment. */
#include "kernels/bf16.h"
#include "kernels/cuda/cuda_core.h"
#include "kernels/element.h"
#include "kernels/random.h"

#include <stdlib.h>

/* The rate of fn over the second half of `seconds`, by events; `work` per run. */
static enum status rate_of(struct device *dev, double seconds, double work,
                           cudaError_t (*fn)(struct device *dev, void *ctx), void *ctx, double *out,
                           struct error *err) {
    struct cuda *c = cuda_of(dev);
    const int64_t begin_ns = monotonic_ns(), half_ns = (int64_t)(seconds * 0.5e9);
    int64_t runs = 0;
    float ms = 0;
    cudaError_t e = cudaSuccess;
    while (e == cudaSuccess && monotonic_ns() < begin_ns + half_ns) {
        e = fn(dev, ctx);
        if (e == cudaSuccess) e = cudaStreamSynchronize(c->gpu.stream);
    }
    if (e == cudaSuccess) e = cudaEventRecord(c->clock_begin, c->gpu.stream);
    do {
        if (e == cudaSuccess) e = fn(dev, ctx);
        if (e == cudaSuccess) e = cudaEventRecord(c->clock_end, c->gpu.stream);
        if (e == cudaSuccess) e = cudaEventSynchronize(c->clock_end);
        runs++;
    } while (e == cudaSuccess && monotonic_ns() < begin_ns + 2 * half_ns);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, c->clock_begin, c->clock_end);
    *out = ms > 0 ? work * (double)runs / ((double)ms * 1e-3) : 0;
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

static cudaError_t multiply_once(struct device *dev, void *ctx) {
    dev->chosen[OP_LINEAR]->run(dev, ctx);
    return cuda_of(dev)->error;
}

/* Normal operands: zeros would flatter. Owned by the caller. */
static void *normal_square(int64_t N, enum dtype dtype) {
    void *at = malloc((size_t)(N * N) * dtype_bytes(dtype));
    for (int64_t i = 0; at && i < N * N; i += 4) {
        float four[4];
        random_normal4(1, 0, (uint64_t)i / 4, four);
        for (int64_t j = 0; j < 4; j++) element_store(at, (size_t)(i + j), dtype, four[j]);
    }
    return at;
}

static double product_rate(struct device *dev, struct arena *arena, const void *square, int32_t N,
                           double seconds) {
    const struct weight_shape shape = {N, N, dev->dtype, false};
    const size_t bytes = (size_t)N * (size_t)N * dtype_bytes(dev->dtype);
    struct linear_args args = {.ldx = N, .ldy = N, .rows = N};
    struct error err;
    double rate = 0;
    void *x = arena_take(arena, SHARED_RANK, bytes);
    args.x = x;
    args.y = arena_take(arena, SHARED_RANK, bytes);
    device_write(dev, x, square, bytes);
    if (device_weight_pack(dev, arena, SHARED_RANK, shape, square, NULL, &args.w, &err) !=
        STATUS_OK)
        return 0;
    if (rate_of(dev, seconds, 2.0 * N * N * N, multiply_once, &args, &rate, &err) != STATUS_OK)
        rate = 0;
    device_weight_drop(dev, args.w);
    return rate;
}

double cuda_measure_roof(struct device *dev, double seconds) {
    enum { N = 8192 };
    const struct weight_shape shape = {N, N, dev->dtype, false};
    const size_t bytes = arena_bytes((size_t)N * N * dtype_bytes(dev->dtype));
    struct arena *arena;
    struct error err;
    if (arena_open(&arena, dev, MEMORY_WORKSPACE, device_weight_bytes(dev, shape) + 2 * bytes,
                   &err) != STATUS_OK)
        return 0;
    void *square = normal_square(N, dev->dtype);
    const double rate = square ? product_rate(dev, arena, square, N, seconds) : 0;
    free(square);
    arena_close(arena);
    return rate;
}
