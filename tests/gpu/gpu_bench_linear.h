/* The clock of test_linear_cuda --bench: the algorithm that the variant pins beside the best that
 * the library names when it may choose for each number of rows: what row invariance costs. Include
 * after gpu_array.h. */
#ifndef GPU_BENCH_LINEAR_H
#define GPU_BENCH_LINEAR_H

#include "gpu_array.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/linear/linear_cublas.h"

#include <cublasLt.h>

enum { FREE_CANDIDATES = 16, TRIAL_REPEATS = 3, BENCH_REPEATS = 15, WARM_SECONDS = 1 };

/* A product without bias that the library may do as it likes. */
struct free_product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    const void *w_at, *x_at;
    void *y_at;
    cublasLtMatmulAlgo_t algo;
};

static inline void lt_must(cublasStatus_t e) {
    if (e != CUBLAS_STATUS_SUCCESS) fail_msg("cuBLASLt: %s", cublasLtGetStatusString(e));
}

static inline void run_free(struct device *dev, const void *args) {
    const struct free_product *p = args;
    const float one = 1, zero = 0;
    lt_must(cublasLtMatmul(p->handle, p->operation, &one, p->w_at, p->w, p->x_at, p->x, &zero,
                           p->y_at, p->y, p->y_at, p->y, &p->algo, cuda_device(dev)->workspace,
                           CUDA_WORKSPACE_BYTES, cuda_device(dev)->stream));
}

static inline int free_algorithms(const struct free_product *p,
                                  cublasLtMatmulHeuristicResult_t *results) {
    const size_t workspace = CUDA_WORKSPACE_BYTES;
    cublasLtMatmulPreference_t preference;
    int n = 0;
    lt_must(cublasLtMatmulPreferenceCreate(&preference));
    lt_must(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    lt_must(cublasLtMatmulAlgoGetHeuristic(p->handle, p->operation, p->w, p->x, p->y, p->y,
                                           preference, FREE_CANDIDATES, results, &n));
    lt_must(cublasLtMatmulPreferenceDestroy(preference));
    return n;
}

static inline void open_free(struct free_product *p, const struct linear_args *a) {
    const struct weight_shape s = a->w->shape;
    const cudaDataType_t type = s.dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    *p = (struct free_product){.w_at = a->w->data, .x_at = a->x, .y_at = a->y};
    lt_must(cublasLtCreate(&p->handle));
    lt_must(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    lt_must(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed));
    lt_must(cublasLtMatrixLayoutCreate(&p->w, type, (uint64_t)s.K, (uint64_t)s.N, s.K));
    lt_must(cublasLtMatrixLayoutCreate(&p->x, type, (uint64_t)s.K, (uint64_t)a->rows, a->ldx));
    lt_must(cublasLtMatrixLayoutCreate(&p->y, type, (uint64_t)s.N, (uint64_t)a->rows, a->ldy));
}

static inline void close_free(struct free_product *p) {
    lt_must(cublasLtMatrixLayoutDestroy(p->y));
    lt_must(cublasLtMatrixLayoutDestroy(p->x));
    lt_must(cublasLtMatrixLayoutDestroy(p->w));
    lt_must(cublasLtMatmulDescDestroy(p->operation));
    lt_must(cublasLtDestroy(p->handle));
}

/* Takes the fastest of what the library names for this number of rows. */
static inline void choose_free(struct gpu_test *t, struct free_product *p) {
    const struct variant library = {.name = "library", .op = OP_LINEAR, .run = run_free};
    cublasLtMatmulHeuristicResult_t results[FREE_CANDIDATES];
    double best = INFINITY;
    int chosen = 0;
    const int n = free_algorithms(p, results);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        p->algo = results[i].algo;
        const double ns = gpu_time_ns(t, &library, p, TRIAL_REPEATS);
        if (ns < best) best = ns, chosen = i;
    }
    p->algo = results[chosen].algo;
}

/* Both in turn, each first in every other round, until the card has been at it for a while; the
 * rounds after that count. */
static inline void bench_rows(struct gpu_test *t, const struct weight *w, const void *x, void *y,
                              int32_t rows) {
    enum { ROUNDS = 6 };
    const struct variant library = {.name = "library", .op = OP_LINEAR, .run = run_free};
    const struct variant *pinned = variant_named(DEVICE_CUDA, OP_LINEAR, "cublas");
    const struct weight_shape s = w->shape;
    const struct linear_args a = {w, x, y, s.K, s.N, rows};
    const double flop = 2.0 * rows * s.N * s.K, began = test_seconds();
    double pinned_ns = 0, free_ns = 0;
    struct free_product p;
    open_free(&p, &a);
    choose_free(t, &p);
    for (int round = 0; round < ROUNDS;) {
        const bool counts = test_seconds() - began > WARM_SECONDS;
        for (int i = 0; i < 2; i++) {
            const bool is_pinned = i == round % 2;
            const double ns = is_pinned ? gpu_time_ns(t, pinned, &a, BENCH_REPEATS)
                                        : gpu_time_ns(t, &library, &p, BENCH_REPEATS);
            *(is_pinned ? &pinned_ns : &free_ns) += counts ? ns / ROUNDS : 0;
        }
        round += counts;
    }
    close_free(&p);
    printf("%-9s %5d x %5d %6d rows: pinned %8.1f us %7.2f TFLOP/s, free %7.2f, ratio %.3f\n",
           dtype_name(s.dtype), s.N, s.K, rows, pinned_ns * 1e-3, flop / pinned_ns * 1e-3,
           flop / free_ns * 1e-3, free_ns / pinned_ns);
    fflush(stdout);
}

static inline void print_pinned(const struct weight *w) {
    struct cublas_pinned p;
    cublas_describe(w, &p);
    printf("%-9s %5d x %5d: algorithm %d, tile %d, stages %d, inner %d, cluster %d; %.3f ms %s\n",
           dtype_name(w->shape.dtype), w->shape.N, w->shape.K, p.algorithm, p.tile, p.stages,
           p.inner, p.cluster, p.ms, p.remembered ? "in an earlier search" : "in the search");
}

#endif
