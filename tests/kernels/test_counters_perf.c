/* Hardware counters of the processor itself, read around ops. Skipped, with the reason, where there
 * are none to read: most virtual machines show none, many containers forbid it. */
#include "kernels/counters.h"
#include "kernels/device_core.h"
#include "tests/enough_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "swiglu_call.h"

static bool processor_counts(struct error *err) {
    struct device *dev = open_device(1);
    assert_int_equal(device_spans_enable(dev, 1, NULL), STATUS_OK);
    const enum status s = device_spans_count(dev, NULL, err);
    device_close(dev);
    assert_true(s == STATUS_OK || s == STATUS_UNSUPPORTED);
    return s == STATUS_OK;
}

/* Twice the work has about twice the instructions; each is more than an addition a number. */
static void the_processor_counts_what_an_op_does(void **state) {
    struct device *dev = open_device(2);
    struct arena *arena;
    struct op_call call = swiglu(dev, &arena);
    (void)state;
    assert_int_equal(device_spans_enable(dev, 10, NULL), STATUS_OK);
    assert_int_equal(device_spans_count(dev, NULL, NULL), STATUS_OK);
    for (int i = 0; i < 10; i++) {
        call.swiglu.rows = i < 5 ? ROWS / 2 : ROWS;
        assert_int_equal(device_run(dev, &call, NULL), STATUS_OK);
    }
    const struct span_counts *c = device_span_counts(dev);
    int64_t half = INT64_MAX, whole = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        assert_true(c[i].cycles > 0 && c[i].instructions > 0);
        if (c[i].instructions < half) half = c[i].instructions;
        if (c[5 + i].instructions < whole) whole = c[5 + i].instructions;
    }
    assert_true(half > (int64_t)ROWS / 2 * F / 16);
    assert_true(whole > half);
    arena_close(arena);
    device_close(dev);
}

int main(void) {
    struct error err = {""};
    if (!enough_memory(128)) return TEST_SKIPPED;
    if (!processor_counts(&err)) {
        printf("skipped: %s\n", err.text);
        return TEST_SKIPPED;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_processor_counts_what_an_op_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
