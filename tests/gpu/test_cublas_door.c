/* cuBLASLt behind its door: found where CUDA's libraries are, and every function that is forwarded
 * is there. Needs the library and no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <cublasLt.h>
#include <dlfcn.h>

#include "kernels/gpu_list.h"

static void the_version_is_that_of_the_headers(void **state) {
    (void)state;
    assert_int_equal(cuda_blas_version() / 10000, CUBLAS_VER_MAJOR);
}

static void descriptions_are_made(void **state) {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t matrix;
    cublasLtMatmulPreferenceOpaque_t preference;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const size_t workspace = 1 << 20;
    (void)state;
    assert_int_equal(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), 0);
    assert_int_equal(cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                    &transposed, sizeof transposed),
                     0);
    assert_int_equal(cublasLtMatrixLayoutInit(&matrix, CUDA_R_16BF, 64, 32, 64), 0);
    assert_int_equal(cublasLtMatmulPreferenceInit(&preference), 0);
    assert_int_equal(cublasLtMatmulPreferenceSetAttribute(&preference,
                                                          CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                          &workspace, sizeof workspace),
                     0);
    assert_string_equal(cublasLtGetStatusName(CUBLAS_STATUS_SUCCESS), "CUBLAS_STATUS_SUCCESS");
}

static void every_function_that_is_forwarded_is_in_the_library(void **state) {
    static const char *const names[] = {
        "cublasLtGetVersion",
        "cublasLtGetStatusName",
        "cublasLtGetStatusString",
        "cublasLtCreate",
        "cublasLtDestroy",
        "cublasLtMatmulDescInit_internal",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatrixLayoutInit_internal",
        "cublasLtMatmulPreferenceInit_internal",
        "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoConfigGetAttribute",
        "cublasLtMatmulAlgoCheck",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmul",
    };
    char file[64];
    (void)state;
    snprintf(file, sizeof file, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *library = dlopen(file, RTLD_NOW);
    assert_non_null(library);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!dlsym(library, names[i])) fail_msg("%s has no %s", file, names[i]);
    dlclose(library);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_version_is_that_of_the_headers),
        cmocka_unit_test(descriptions_are_made),
        cmocka_unit_test(every_function_that_is_forwarded_is_in_the_library),
    };
    if (cuda_blas_version() == 0) {
        printf("skipped: %s\n", cublasLtGetStatusString(CUBLAS_STATUS_NOT_INITIALIZED));
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
