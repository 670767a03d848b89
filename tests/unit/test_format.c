/* Numbers as people read them. */
#include "harness/format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void counts_have_thousands_separators(void **state) {
    (void)state;
    char b[FORMAT_BYTES];
    assert_string_equal(format_count(b, 0), "0");
    assert_string_equal(format_count(b, 999), "999");
    assert_string_equal(format_count(b, 1000), "1,000");
    assert_string_equal(format_count(b, 1048320), "1,048,320");
    assert_string_equal(format_count(b, -12345), "-12,345");
    assert_string_equal(format_count(b, INT64_MIN), "-9,223,372,036,854,775,808");
}

static void passes_are_counted_from_one(void **state) {
    (void)state;
    char b[FORMAT_BYTES];
    assert_string_equal(format_pass(b, 0, 2), "repeat 1");
    assert_string_equal(format_pass(b, 2, 0), "repeat 3");
    assert_string_equal(format_pass(b, -2, 2), "warm-up 1");
    assert_string_equal(format_pass(b, -1, 2), "warm-up 2");
}

static void bytes_are_powers_of_1024_with_three_digits(void **state) {
    (void)state;
    char b[FORMAT_BYTES];
    assert_string_equal(format_bytes(b, 0), "0 B");
    assert_string_equal(format_bytes(b, 1023), "1023 B");
    assert_string_equal(format_bytes(b, 1024), "1.00 KiB");
    assert_string_equal(format_bytes(b, 1610612736), "1.50 GiB");
    assert_string_equal(format_bytes(b, (int64_t)14 << 30), "14.0 GiB");
    assert_string_equal(format_bytes(b, ((int64_t)1 << 30) - 1), "1.00 GiB");
    assert_string_equal(format_bytes(b, INT64_MAX), "8.00 EiB");
    assert_string_equal(format_bytes(b, -2048), "-2.00 KiB");
}

static void seconds_choose_their_unit(void **state) {
    (void)state;
    char b[FORMAT_BYTES];
    assert_string_equal(format_seconds(b, 0), "0 s");
    assert_string_equal(format_seconds(b, 850e-9), "850 ns");
    assert_string_equal(format_seconds(b, 3.2e-3), "3.20 ms");
    assert_string_equal(format_seconds(b, 0.9996), "1.00 s");
    assert_string_equal(format_seconds(b, 12.34), "12.3 s");
    assert_string_equal(format_seconds(b, 119), "119 s");
    assert_string_equal(format_seconds(b, 245), "4 min 05 s");
    assert_string_equal(format_seconds(b, 7800), "2 h 10 min");
    assert_string_equal(format_seconds(b, NAN), "-");
    assert_string_equal(format_seconds(b, -1), "-");
    assert_string_equal(format_ns(b, 1500000), "1.50 ms");
}

static void rates_tokens_and_speeds(void **state) {
    (void)state;
    char b[FORMAT_BYTES];
    assert_string_equal(format_rate(b, 2.51e11, "FLOP/s"), "251 GFLOP/s");
    assert_string_equal(format_rate(b, 999.6e9, "B/s"), "1.00 TB/s");
    assert_string_equal(format_rate(b, 12, "B/s"), "12.0 B/s");
    assert_string_equal(format_rate(b, INFINITY, "B/s"), "-");
    assert_string_equal(format_tokens(b, 65536), "64k");
    assert_string_equal(format_tokens(b, 1048576), "1m");
    assert_string_equal(format_tokens(b, 1048320), "1048320");
    assert_string_equal(format_tokens(b, 1000), "1000");
    assert_string_equal(format_tokens(b, 0), "0");
    assert_string_equal(format_tok_s(b, 3.456), "3.46");
    assert_string_equal(format_tok_s(b, 9.996), "10");
    assert_string_equal(format_tok_s(b, 1234.4), "1,234");
    assert_string_equal(format_tok_s(b, NAN), "-");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_have_thousands_separators),
        cmocka_unit_test(passes_are_counted_from_one),
        cmocka_unit_test(bytes_are_powers_of_1024_with_three_digits),
        cmocka_unit_test(seconds_choose_their_unit),
        cmocka_unit_test(rates_tokens_and_speeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
