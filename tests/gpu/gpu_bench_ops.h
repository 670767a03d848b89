/* The clock of test_ops_cuda --bench: GB/s of the bandwidth-bound ops at the sizes of a 7B model,
 * and their share of a copy that the same run measures. Include after gpu_array.h. */
#ifndef GPU_BENCH_OPS_H
#define GPU_BENCH_OPS_H

#include "gpu_array.h"
#include "kernels/cuda/cuda_device.h"

struct copy_args {
    void *to;
    const void *from;
    size_t bytes;
};

static inline void run_copy(struct device *dev, const void *args) {
    const struct copy_args *a = args;
    cuda_check(dev,
               cudaMemcpyAsync(a->to, a->from, a->bytes, cudaMemcpyDeviceToDevice,
                               cuda_device(dev)->stream),
               "copy");
}

struct bench_ops {
    struct gpu_test t;
    enum dtype dtype;
    double copy_bytes_per_ns;
};
enum { BENCH_ROWS = 8192, BENCH_C = 3584, BENCH_V = 152064, BENCH_REPEATS = 20 };
static const size_t bench_arena = (size_t)5 << 30;

/* n elements of noise: what synthetic keys are made of. */
static inline void *bench_noise(struct bench_ops *b, size_t n) {
    enum { D = 128 };
    const size_t half = (n / 2 + D - 1) / D * D, size = dtype_bytes(b->dtype);
    char *k = gpu_new(&b->t, 2 * half * size);
    const int32_t positions = (int32_t)(half / D);
    struct kv_view view = {&kv_layout_rows, k, k + half * size, positions, 1, D, b->dtype};
    device_kv_fill(b->t.gpu, &view, 0, positions, n);
    return k;
}

static inline double bench_call(struct bench_ops *b, const struct variant *v, const void *args,
                                double bytes, const char *what) {
    const double ns = gpu_time_ns(&b->t, v, args, BENCH_REPEATS), rate = bytes / ns;
    printf("%-12s %-9s %-28s %9.1f us %7.0f GB/s", v->name[0] == 'c' ? op_name(v->op) : v->name,
           dtype_name(b->dtype), what, ns * 1e-3, rate);
    if (b->copy_bytes_per_ns > 0) printf(" %5.1f %% of a copy", 100 * rate / b->copy_bytes_per_ns);
    printf("\n");
    gpu_test_reset(&b->t, bench_arena);
    return rate;
}

static inline void bench_op(struct bench_ops *b, enum op op, const void *args, double bytes,
                            const char *what) {
    bench_call(b, variant_named(DEVICE_CUDA, op, "cuda"), args, bytes, what);
}

static inline void bench_copy(struct bench_ops *b) {
    const size_t n = (size_t)BENCH_ROWS * BENCH_C * 8, bytes = n * dtype_bytes(b->dtype);
    const struct variant copy = {.name = "memcpy", .op = OP_TAP, .run = run_copy};
    struct copy_args a = {gpu_new(&b->t, bytes), bench_noise(b, n), bytes};
    b->copy_bytes_per_ns = bench_call(b, &copy, &a, 2.0 * (double)bytes, "read and write");
}

static inline void bench_rows(struct bench_ops *b) {
    const size_t n = (size_t)BENCH_ROWS * BENCH_C;
    const double bytes = (double)(n * dtype_bytes(b->dtype));
    struct add_rmsnorm_args norm = {bench_noise(b, n),
                                    bench_noise(b, n),
                                    bench_noise(b, BENCH_C),
                                    bench_noise(b, n),
                                    BENCH_ROWS,
                                    BENCH_C,
                                    1e-6f,
                                    b->dtype};
    bench_op(b, OP_ADD_RMSNORM, &norm, 4 * bytes, "8192 x 3584");
    struct all_reduce_args reduce = {.out = gpu_new(&b->t, (size_t)bytes),
                                     .ranks = 4,
                                     .rows = BENCH_ROWS,
                                     .C = BENCH_C,
                                     .dtype = b->dtype};
    for (int r = 0; r < 4; r++) reduce.partial[r] = bench_noise(b, n);
    bench_op(b, OP_ALL_REDUCE, &reduce, 5 * bytes, "4 ranks, 8192 x 3584");
}

static inline void bench_embed(struct bench_ops *b) {
    const size_t n = (size_t)BENCH_ROWS * BENCH_C, size = dtype_bytes(b->dtype);
    int32_t ids[BENCH_ROWS];
    for (int64_t t = 0; t < BENCH_ROWS; t++) ids[t] = (int32_t)(t * 7919 % BENCH_V);
    struct embed_args a = {bench_noise(b, (size_t)BENCH_V * BENCH_C),
                           gpu_put(&b->t, ids, sizeof ids),
                           gpu_new(&b->t, n * size),
                           0,
                           BENCH_V,
                           BENCH_ROWS,
                           BENCH_C,
                           b->dtype};
    bench_op(b, OP_EMBED, &a, 2.0 * (double)(n * size), "8192 x 3584");
}

static inline void bench_swiglu(struct bench_ops *b, int32_t F) {
    const size_t n = (size_t)BENCH_ROWS * (size_t)F, size = dtype_bytes(b->dtype);
    struct swiglu_args a = {bench_noise(b, 2 * n), gpu_new(&b->t, n * size), BENCH_ROWS, F,
                            b->dtype};
    bench_op(b, OP_SWIGLU, &a, 3.0 * (double)(n * size),
             F == 4736 ? "8192 x 4736" : "8192 x 18944");
}

/* 28 and 4 heads of 128: the whole 7B model on one GPU. */
static inline void bench_rope(struct bench_ops *b, int32_t H, int32_t K, int32_t copies) {
    enum { D = 128, CAPACITY = BENCH_ROWS };
    const size_t size = dtype_bytes(b->dtype), row = (size_t)(H + 2 * K) * D, rows = BENCH_ROWS;
    char what[60];
    const size_t table = (size_t)copies * rows * D / 2, cache = (size_t)K * CAPACITY * D * size;
    const struct step_params step = {.n_tokens = BENCH_ROWS, .key_factor = 1};
    struct rope_cache_args a = {.qkv = bench_noise(b, rows * row),
                                .ldqkv = (int64_t)row,
                                .cos = gpu_new(&b->t, table * sizeof(float)),
                                .sin = gpu_new(&b->t, table * sizeof(float)),
                                .step = gpu_put(&b->t, &step, sizeof step),
                                .rows = BENCH_ROWS,
                                .H = H,
                                .D = D,
                                .copies = copies,
                                .dtype = b->dtype};
    for (int c = 0; c < copies; c++) a.q[c] = gpu_new(&b->t, rows * (size_t)H * D * size);
    a.kv = (struct kv_view){
        &kv_layout_rows, gpu_new(&b->t, cache), gpu_new(&b->t, cache), CAPACITY, K, D, b->dtype};
    const double bytes = (double)(rows * (row + (size_t)(copies * H + 2 * K) * D) * size) +
                         2.0 * (double)(table * sizeof(float));
    snprintf(what, sizeof what, "8192 rows, %d/%d heads, copies: %d", H, K, copies);
    bench_op(b, OP_ROPE_CACHE, &a, bytes, what);
}

static inline void bench_table(struct bench_ops *b) {
    enum { D = 128, COPIES = 3 };
    double inv_freq[D / 2];
    for (int i = 0; i < D / 2; i++) inv_freq[i] = pow(1e7, -2.0 * i / D);
    const struct step_params step = {.q_start = 1000000, .n_tokens = BENCH_ROWS};
    const size_t bytes = (size_t)COPIES * BENCH_ROWS * D / 2 * sizeof(float);
    struct rope_table_args a = {gpu_put(&b->t, inv_freq, sizeof inv_freq),
                                gpu_new(&b->t, bytes),
                                gpu_new(&b->t, bytes),
                                gpu_put(&b->t, &step, sizeof step),
                                {253952, 8192},
                                BENCH_ROWS,
                                D,
                                COPIES};
    bench_op(b, OP_ROPE_TABLE, &a, 2.0 * (double)bytes, "8192 rows, 3 copies");
}

static inline void bench_logits(struct bench_ops *b, int32_t rows) {
    const size_t n = (size_t)BENCH_V * BENCH_C;
    struct logits_args a = {.head = bench_noise(b, n),
                            .x = bench_noise(b, (size_t)rows * BENCH_C),
                            .out = gpu_new(&b->t, (size_t)rows * BENCH_V * sizeof(float)),
                            .ldout = BENCH_V,
                            .rows = rows,
                            .V = BENCH_V,
                            .C = BENCH_C,
                            .dtype = b->dtype};
    bench_op(b, OP_LOGITS, &a, (double)(n * dtype_bytes(b->dtype)),
             rows == 1 ? "152064 x 3584, 1 row" : "152064 x 3584, 4 rows");
}

static inline int gpu_bench_ops(void) {
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct bench_ops b = {.dtype = dtype};
        gpu_test_open(&b.t, dtype, 0, "auto", bench_arena);
        bench_copy(&b);
        bench_rows(&b);
        bench_embed(&b);
        bench_swiglu(&b, 4736);
        bench_swiglu(&b, 18944);
        for (int32_t copies = 1; copies <= 3; copies += 2) {
            bench_rope(&b, 28, 4, copies);
            bench_rope(&b, 7, 1, copies);
        }
        bench_table(&b);
        bench_logits(&b, 1);
        bench_logits(&b, 4);
        gpu_test_close(&b.t);
    }
    return 0;
}

#endif
