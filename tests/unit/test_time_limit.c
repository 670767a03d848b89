/* The time budget while a run goes on: what is expected of a case after those before it, and when
 * there is no room for it. */
#include "harness/time_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { SECOND = 1000000000 };

static void without_a_limit_there_is_always_room(void **state) {
    (void)state;
    const struct time_limit t = {.begin_ns = 5};
    char why[300] = "";
    assert_false(time_is_up(&t, INT64_MAX));
    assert_true(time_has_room(&t, INT64_MAX, 1e9, why, sizeof why));
    assert_string_equal(why, "");
}

static void a_limit_is_up_at_its_end(void **state) {
    (void)state;
    const struct time_limit t = {.begin_ns = 100, .end_ns = 200};
    assert_false(time_is_up(&t, 199));
    assert_true(time_is_up(&t, 200));
}

static void the_pace_of_earlier_cases_counts_within_bounds(void **state) {
    (void)state;
    struct time_limit t = {0};
    assert_true(time_expected_s(&t, 10) == 10);
    time_case_ran(&t, 2, 3);
    assert_true(time_expected_s(&t, 10) == 15);
    time_case_ran(&t, 2, 1); /* together as predicted */
    assert_true(time_expected_s(&t, 10) == 10);
    time_case_ran(&t, 1, 1000);
    assert_true(time_expected_s(&t, 10) == 40);
    t = (struct time_limit){.predicted_s = 1000, .took_s = 1};
    assert_true(time_expected_s(&t, 10) == 2.5);
}

static void what_does_not_fit_is_told_with_the_arithmetic(void **state) {
    (void)state;
    struct time_limit t = {.begin_ns = SECOND, .end_ns = 61 * (int64_t)SECOND};
    const int64_t now = 31 * (int64_t)SECOND;
    char why[300] = "";
    assert_true(time_has_room(&t, now, 30, why, sizeof why));
    assert_false(time_has_room(&t, now, 31, why, sizeof why));
    assert_non_null(strstr(
        why, "a warm-up and a repeat would take 31.0 s, but 30.0 s of the budget of 60.0 s"));
    time_case_ran(&t, 1, 2);
    assert_false(time_has_room(&t, now, 16, why, sizeof why));
    assert_non_null(strstr(why, "32.0 s by the pace of the cases before"));
    assert_false(time_has_room(&t, 100 * (int64_t)SECOND, 16, why, sizeof why));
    assert_non_null(strstr(why, "but 0 s of"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_limit_there_is_always_room),
        cmocka_unit_test(a_limit_is_up_at_its_end),
        cmocka_unit_test(the_pace_of_earlier_cases_counts_within_bounds),
        cmocka_unit_test(what_does_not_fit_is_told_with_the_arithmetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
