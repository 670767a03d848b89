/* A call of CUDA that failed has been told once: who looks after the next launch finds nothing of
 * it, and what ran before still runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "gpu_test.h"
#include "kernels/cuda/cuda_core.h"

/* More than any GPU has, past all that looks first whether there is room. */
static cudaError_t fail_to_allocate(void) {
    void *p = NULL;
    return cudaMalloc(&p, (size_t)1 << 50);
}

/* An op whose launch is looked after. */
static void run_an_op(struct gpu_test *t) {
    enum { TOKENS = 64, C = 128 };
    const struct swiglu_args a = {.in = gpu_new(t, TOKENS * 2 * C * 2),
                                  .out = gpu_new(t, TOKENS * C * 2),
                                  .rows = TOKENS,
                                  .F = C,
                                  .dtype = DTYPE_BF16};
    gpu_run(t, variant_named(DEVICE_CUDA, OP_SWIGLU, "cuda"), &a);
}

static void a_failure_is_told_once(void **state) {
    struct gpu_test t;
    struct error err = {""};
    (void)state;
    gpu_test_open(&t, DTYPE_BF16, 128, "auto", 1 << 20);
    const cudaError_t e = fail_to_allocate();
    assert_int_equal(e, cudaErrorMemoryAllocation);
    assert_int_equal(cudaPeekAtLastError(), e); /* as CUDA has it */
    assert_int_equal(cuda_status(e, "cudaMalloc", &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, cudaGetErrorName(e)));
    assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
    run_an_op(&t);
    gpu_test_close(&t);
}

/* A device keeps the first failure of its calls until somebody takes it. */
static void a_failure_that_was_kept_is_told_once(void **state) {
    struct gpu_test t;
    struct error err = {""};
    (void)state;
    gpu_test_open(&t, DTYPE_BF16, 128, "auto", 1 << 20);
    cuda_check(t.gpu, fail_to_allocate(), "the first");
    cuda_check(t.gpu, fail_to_allocate(), "the second");
    assert_int_equal(device_sync(t.gpu, &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, "the first: "));
    assert_int_equal(device_sync(t.gpu, &err), STATUS_OK);
    run_an_op(&t);
    gpu_test_close(&t);
}

/* The stream is out of capture, and the device goes on. */
static void a_capture_that_fails_is_told_once(void **state) {
    struct gpu_test t;
    struct error err = {""};
    struct device_graph *g;
    (void)state;
    gpu_test_open(&t, DTYPE_BF16, 128, "auto", 1 << 20);
    const struct op_call none = {.op = OP_SWIGLU, .swiglu = {.rows = 1 << 30, .F = 1 << 30}};
    assert_int_equal(device_capture_begin(t.gpu, &err), STATUS_OK);
    assert_int_equal(device_run(t.gpu, &none, &err), STATUS_OK); /* kept, not launched */
    assert_int_not_equal(device_capture_end(t.gpu, &g, &err), STATUS_OK);
    assert_null(g);
    assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
    run_an_op(&t);
    gpu_test_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_is_told_once),
        cmocka_unit_test(a_failure_that_was_kept_is_told_once),
        cmocka_unit_test(a_capture_that_fails_is_told_once),
    };
    struct gpu_test probe;
    gpu_test_open(&probe, DTYPE_BF16, 128, "auto", 1 << 20); /* ends here without a GPU */
    gpu_test_close(&probe);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
