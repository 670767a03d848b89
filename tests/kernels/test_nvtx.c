/* Ranges without a tool: there is nothing to open, and what the engine calls around every op costs
 * less than 10 ns a range. With a tool: tests/e2e/test_nvtx.py. */
#include "kernels/nvtx.h"

#include "kernels/device_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void without_a_tool_there_is_nothing(void **state) {
    (void)state;
    for (int level = NVTX_OFF; level <= NVTX_OP; level++)
        assert_null(nvtx_open((enum nvtx_level)level));
    nvtx_close(NULL);
}

/* The least of several rounds: what others do on the machine only adds. */
static double range_ns(struct nvtx *n, const struct op_call *call) {
    enum { TIMES = 1000000, ROUNDS = 10 };
    double least = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const int64_t begin = monotonic_ns();
        for (int i = 0; i < TIMES; i++) {
            nvtx_begin_op(n, call);
            nvtx_end_op(n);
        }
        const double ns = (double)(monotonic_ns() - begin) / TIMES;
        if (ns < least) least = ns;
    }
    return least;
}

static void a_range_without_a_tool_costs_less_than_10_ns(void **state) {
    (void)state;
    const struct op_call call = {.op = OP_SWIGLU, .rank = 0, .layer = 3};
    const double ns = range_ns(nvtx_open(NVTX_OP), &call);
    printf("%.1f ns a range without a tool\n", ns);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(ns < 10);
#endif
}

int main(void) {
    unsetenv("NVTX_INJECTION64_PATH");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_tool_there_is_nothing),
        cmocka_unit_test(a_range_without_a_tool_costs_less_than_10_ns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
