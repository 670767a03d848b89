/* Sums over devices alone: they are right, wrong ones are counted, and what cannot be is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/sum_bench.h"

static struct engine_opts options(int devices, enum dtype dtype) {
    struct engine_opts o = engine_opts_defaults();
    o.devices = devices, o.dtype = dtype, o.threads = 2;
    return o;
}

static int64_t wrong_of(const struct engine_opts *o, int32_t rows, int32_t cols) {
    struct sum_bench *b;
    struct sum_time t;
    struct error err = {""};
    if (sum_bench_open(&b, o, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_true(sum_bench_in_rank_order(b));
    assert_int_equal(sum_bench_run(b, rows, cols, 0, 0.001, &t, &err), STATUS_OK);
    assert_true(t.min_s > 0 && t.min_s <= t.median_s && t.median_s <= t.max_s && t.runs >= 1);
    sum_bench_close(b);
    return t.wrong;
}

static void sums_are_right_whatever_their_size(void **state) {
    static const int32_t rows[] = {1, 2, 3, 64, 65, 1001};
    (void)state;
    for (int dtype = 0; dtype < 2; dtype++)
        for (int devices = 2; devices <= 4; devices++)
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                const struct engine_opts o = options(devices, (enum dtype)dtype);
                assert_int_equal(wrong_of(&o, rows[i], 36), 0);
            }
}

/* Sums stay where they were taken. */
static bool gives_nothing(void *ctx, struct device *dev, struct op_call *call) {
    (void)ctx, (void)dev;
    return call->op == OP_EXCHANGE && call->role == ROLE_GATHER;
}

static void wrong_sums_are_counted(void **state) {
    (void)state;
    struct engine_opts o = options(2, DTYPE_BF16);
    o.interpose = gives_nothing;
    /* each device lacks the other's half; a few sums are zero, as what was never written is */
    const int64_t wrong = wrong_of(&o, 64, 32);
    assert_true(wrong > 2 * 1000 && wrong <= 2 * 1024);
}

static void what_cannot_be_is_refused(void **state) {
    struct engine_opts o = options(1, DTYPE_BF16);
    struct sum_bench *b;
    struct sum_time t;
    struct error err = {""};
    (void)state;
    assert_int_equal(sum_bench_open(&b, &o, &err), STATUS_USAGE);
    assert_null(b);
    o.devices = 2;
    assert_int_equal(sum_bench_open(&b, &o, &err), STATUS_OK);
    assert_int_equal(sum_bench_run(b, 1 << 30, 1 << 12, 0, 0, &t, &err), STATUS_NO_MEMORY);
    assert_int_equal(sum_bench_run(b, 4, 4, 0, 0, &t, &err), STATUS_OK);
    sum_bench_close(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_right_whatever_their_size),
        cmocka_unit_test(wrong_sums_are_counted),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
