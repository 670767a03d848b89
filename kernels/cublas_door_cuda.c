/* cuBLASLt by dlopen, under its own names: a program with CUDA in it starts on a machine without
 * CUDA's libraries, and says what it lacks when it is asked for a GPU. Forwards what
 * linear_cublas.c calls and no more, so another function of the library does not link until it has
 * its line here. */
#include "kernels/gpu_list.h"

#include <cublasLt.h>
#include <dlfcn.h>

#define TEXT_OF(number) #number
#define NAME_OF(major) "libcublasLt.so." TEXT_OF(major)
static const char library[] = NAME_OF(CUBLAS_VER_MAJOR);

/* NULL where there is no such library. It stays loaded. */
static void *find(const char *name) {
    void *opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    return opened ? dlsym(opened, name) : NULL;
}

#define FORWARD(type, missing, name, parameters, arguments)                                        \
    type name parameters {                                                                         \
        static void *found;                                                                        \
        void *f = __atomic_load_n(&found, __ATOMIC_ACQUIRE);                                       \
        if (!f) {                                                                                  \
            f = find(#name);                                                                       \
            __atomic_store_n(&found, f, __ATOMIC_RELEASE);                                         \
        }                                                                                          \
        if (!f) return missing;                                                                    \
        type(*function) parameters;                                                                \
        *(void **)&function = f;                                                                   \
        return function arguments;                                                                 \
    }
#define FORWARD_STATUS(name, parameters, arguments)                                                \
    FORWARD(cublasStatus_t, CUBLAS_STATUS_NOT_INITIALIZED, name, parameters, arguments)

FORWARD(size_t, 0, cublasLtGetVersion, (void), ())
FORWARD(const char *, "not found", cublasLtGetStatusName, (cublasStatus_t s), (s))
FORWARD(const char *, NAME_OF(CUBLAS_VER_MAJOR) " is not found on this machine",
        cublasLtGetStatusString, (cublasStatus_t s), (s))
FORWARD_STATUS(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
FORWARD_STATUS(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
FORWARD_STATUS(cublasLtMatmulDescInit_internal,
               (cublasLtMatmulDesc_t d, size_t size, cublasComputeType_t compute,
                cudaDataType_t scale),
               (d, size, compute, scale))
FORWARD_STATUS(cublasLtMatmulDescSetAttribute,
               (cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, const void *value,
                size_t size),
               (d, attribute, value, size))
FORWARD_STATUS(cublasLtMatrixLayoutInit_internal,
               (cublasLtMatrixLayout_t l, size_t size, cudaDataType type, uint64_t rows,
                uint64_t cols, int64_t ld),
               (l, size, type, rows, cols, ld))
FORWARD_STATUS(cublasLtMatmulPreferenceInit_internal, (cublasLtMatmulPreference_t p, size_t size),
               (p, size))
FORWARD_STATUS(cublasLtMatmulPreferenceSetAttribute,
               (cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute,
                const void *value, size_t size),
               (p, attribute, value, size))
FORWARD_STATUS(cublasLtMatmulAlgoConfigGetAttribute,
               (const cublasLtMatmulAlgo_t *a, cublasLtMatmulAlgoConfigAttributes_t attribute,
                void *value, size_t size, size_t *written),
               (a, attribute, value, size, written))
FORWARD_STATUS(cublasLtMatmulAlgoCheck,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t A,
                cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                const cublasLtMatmulAlgo_t *a, cublasLtMatmulHeuristicResult_t *result),
               (handle, d, A, B, C, D, a, result))
FORWARD_STATUS(cublasLtMatmulAlgoGetHeuristic,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t A,
                cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                cublasLtMatmulPreference_t p, int most, cublasLtMatmulHeuristicResult_t results[],
                int *n),
               (handle, d, A, B, C, D, p, most, results, n))
FORWARD_STATUS(cublasLtMatmul,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                cublasLtMatrixLayout_t A, const void *b, cublasLtMatrixLayout_t B, const void *beta,
                const void *c, cublasLtMatrixLayout_t C, void *out, cublasLtMatrixLayout_t D,
                const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                cudaStream_t stream),
               (handle, d, alpha, a, A, b, B, beta, c, C, out, D, algo, workspace, workspace_bytes,
                stream))

int64_t cuda_blas_version(void) {
    return (int64_t)cublasLtGetVersion();
}
