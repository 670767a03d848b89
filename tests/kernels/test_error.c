/* Error texts: filled once, prefixed on the way up, never overrun; statuses and their exit codes.
 */
#include "kernels/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static void exit_codes_are_those_of_the_gate(void **state) {
    (void)state;
    assert_int_equal(status_exit_code(STATUS_OK), 0);
    assert_int_equal(status_exit_code(STATUS_REGRESSED), 1);
    assert_int_equal(status_exit_code(STATUS_USAGE), 2);
    assert_int_equal(status_exit_code(STATUS_UNSUPPORTED), 2);
    assert_int_equal(status_exit_code(STATUS_MISMATCH), 3);
    assert_int_equal(status_exit_code(STATUS_INVALID), 4);
    assert_int_equal(status_exit_code(STATUS_NO_MEMORY), 5);
    assert_int_equal(status_exit_code(STATUS_IO), 6);
    assert_int_equal(status_exit_code(STATUS_TIMEOUT), 124);
    assert_int_equal(status_exit_code(STATUS_INTERRUPTED), 130);
    assert_int_equal(status_exit_code((enum status)999), 5);
}

static void every_status_has_a_text(void **state) {
    (void)state;
    for (int s = STATUS_OK; s <= STATUS_INTERRUPTED; s++)
        assert_true(strlen(status_text((enum status)s)) > 1);
    assert_string_equal(status_text(STATUS_NO_MEMORY), "out of memory");
    assert_non_null(status_text((enum status)999));
}

static void set_formats_and_returns_the_status(void **state) {
    (void)state;
    struct error e;
    assert_int_equal(error_set(&e, STATUS_IO, "cannot open %s: %d", "x.h5", 7), STATUS_IO);
    assert_string_equal(e.text, "cannot open x.h5: 7");
}

static void prefix_goes_in_front(void **state) {
    (void)state;
    struct error e;
    error_set(&e, STATUS_IO, "no such file");
    assert_int_equal(error_prefix(&e, STATUS_IO, "case %d", 3), STATUS_IO);
    assert_string_equal(e.text, "case 3: no such file");
}

static void null_error_is_legal(void **state) {
    (void)state;
    assert_int_equal(error_set(NULL, STATUS_IO, "text"), STATUS_IO);
    assert_int_equal(error_prefix(NULL, STATUS_IO, "text"), STATUS_IO);
}

static void long_texts_are_cut_at_the_end(void **state) {
    (void)state;
    struct {
        struct error e;
        char canary[8];
    } s = {.canary = "canary"};
    char text[3000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    error_set(&s.e, STATUS_IO, "%s", text);
    assert_int_equal(strlen(s.e.text), sizeof s.e.text - 1);
    error_prefix(&s.e, STATUS_IO, "front");
    assert_int_equal(strlen(s.e.text), sizeof s.e.text - 1);
    assert_memory_equal(s.e.text, "front: aaa", 10);
    error_prefix(&s.e, STATUS_IO, "%s", text);
    assert_true(strlen(s.e.text) < sizeof s.e.text);
    assert_string_equal(s.canary, "canary");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_codes_are_those_of_the_gate),
        cmocka_unit_test(every_status_has_a_text),
        cmocka_unit_test(set_formats_and_returns_the_status),
        cmocka_unit_test(prefix_goes_in_front),
        cmocka_unit_test(null_error_is_legal),
        cmocka_unit_test(long_texts_are_cut_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
