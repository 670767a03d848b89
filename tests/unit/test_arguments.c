/* Command lines: what is taken, what is refused, and that refusal is a usage error. */
#include "harness/arguments.h"
#include "harness/bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct parsed {
    bool flag;
    const char *value;
    struct argument_list list, operands;
};

static int parse(struct parsed *p, int argc, char **argv) {
    *p = (struct parsed){0};
    const struct argument arguments[] = {
        {"--flag", ARGUMENT_FLAG, &p->flag, NULL, "a flag"},
        {"--list", ARGUMENT_LIST, &p->list, "X", "a list"},
        {"-o", ARGUMENT_VALUE, &p->value, "FILE", "a value"},
    };
    const struct command_line line = {.command = "test",
                                      .operands = "FILE...",
                                      .purpose = "Tests.",
                                      .arguments = arguments,
                                      .n = 3,
                                      .least = 1,
                                      .most = 2};
    return arguments_parse(&line, argc, argv, &p->operands);
}
#define PARSE(p, ...)                                                                              \
    parse(p, (int)(sizeof((char *[]){"test", __VA_ARGS__}) / sizeof(char *)),                      \
          (char *[]){"test", __VA_ARGS__})

static void options_and_operands_mix(void **state) {
    (void)state;
    struct parsed p;
    assert_int_equal(PARSE(&p, "a", "--flag", "--list", "1", "b", "--list=2", "-o", "f"), -1);
    assert_true(p.flag);
    assert_string_equal(p.value, "f");
    assert_int_equal(p.list.n, 2);
    assert_string_equal(p.list.v[0], "1");
    assert_string_equal(p.list.v[1], "2");
    assert_int_equal(p.operands.n, 2);
    assert_string_equal(p.operands.v[1], "b");
}

static void two_dashes_end_the_options(void **state) {
    (void)state;
    struct parsed p;
    assert_int_equal(PARSE(&p, "--", "--flag"), -1);
    assert_false(p.flag);
    assert_string_equal(p.operands.v[0], "--flag");
}

static void a_value_may_hold_an_equals_sign_and_look_like_an_option(void **state) {
    (void)state;
    struct parsed p;
    assert_int_equal(PARSE(&p, "a", "--list", "x.y=z", "--list=x.y=z", "-o", "-1"), -1);
    assert_string_equal(p.list.v[0], "x.y=z");
    assert_string_equal(p.list.v[1], "x.y=z");
    assert_string_equal(p.value, "-1");
}

static void what_is_wrong_is_a_usage_error(void **state) {
    (void)state;
    struct parsed p;
    const int usage = status_exit_code(STATUS_USAGE);
    assert_int_equal(PARSE(&p, "a", "--flug"), usage);
    assert_int_equal(PARSE(&p, "a", "--flag=1"), usage);
    assert_int_equal(PARSE(&p, "a", "-o"), usage);
    assert_int_equal(PARSE(&p, "a", "b", "c"), usage);
    assert_int_equal(PARSE(&p, "--flag"), usage);
}

static void more_than_the_room_for_a_list_is_refused(void **state) {
    (void)state;
    struct parsed p;
    char *argv[ARGUMENT_LIST_MAX + 3] = {"test", "a"};
    for (int i = 0; i < ARGUMENT_LIST_MAX + 1; i++) argv[2 + i] = "--list=x";
    assert_int_equal(parse(&p, ARGUMENT_LIST_MAX + 2, argv), -1);
    assert_int_equal(parse(&p, ARGUMENT_LIST_MAX + 3, argv), status_exit_code(STATUS_USAGE));
}

static void help_ends_with_success(void **state) {
    (void)state;
    struct parsed p;
    assert_int_equal(PARSE(&p, "--help"), 0);
    assert_int_equal(PARSE(&p, "-h"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_operands_mix),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(a_value_may_hold_an_equals_sign_and_look_like_an_option),
        cmocka_unit_test(what_is_wrong_is_a_usage_error),
        cmocka_unit_test(more_than_the_room_for_a_list_is_refused),
        cmocka_unit_test(help_ends_with_success),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
