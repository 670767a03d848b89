/* JSON documents: what is put in comes out, whatever the text; damaged files are errors. */
#include "harness/jsondoc.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void values_come_back_from_a_file(void **state) {
    (void)state;
    char path[] = "/tmp/test_jsondoc_XXXXXX";
    close(mkstemp(path));
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_int(d, "big", INT64_MAX);
    jsondoc_put_real(d, "real", 0.1);
    jsondoc_put_real(d, "nan", NAN);
    jsondoc_put_bool(d, "yes", true);
    jsondoc_put_text(d, "text", "caf\xc3\xa9 \"quoted\"\n");
    jsondoc_put_text(d, "none", NULL);
    struct jsondoc *rows = jsondoc_put_array(d, "rows");
    jsondoc_put_int(jsondoc_add_object(rows), "i", 0);
    jsondoc_put_int(jsondoc_add_object(rows), "i", 1);
    struct error err;
    assert_int_equal(jsondoc_write(d, path, &err), STATUS_OK);
    jsondoc_close(d);

    struct jsondoc *r;
    assert_int_equal(jsondoc_read(&r, path, &err), STATUS_OK);
    int64_t whole;
    double real;
    bool flag;
    assert_true(jsondoc_get_int(r, "big", &whole) && whole == INT64_MAX);
    assert_true(jsondoc_get_real(r, "real", &real) && real == 0.1);
    assert_true(jsondoc_get_real(r, "big", &real));
    assert_false(jsondoc_get_real(r, "nan", &real));
    assert_false(jsondoc_get_int(r, "real", &whole));
    assert_true(jsondoc_get_bool(r, "yes", &flag) && flag);
    assert_string_equal(jsondoc_get_text(r, "text"), "caf\xc3\xa9 \"quoted\"\n");
    assert_null(jsondoc_get_text(r, "none"));
    assert_null(jsondoc_get_text(r, "absent"));
    const struct jsondoc *back = jsondoc_get(r, "rows");
    assert_int_equal(jsondoc_length(back), 2);
    assert_true(jsondoc_get_int(jsondoc_at(back, 1), "i", &whole) && whole == 1);
    assert_null(jsondoc_at(back, 2));
    jsondoc_close(r);
    unlink(path);
}

static void a_root_can_be_an_array(void **state) {
    (void)state;
    struct jsondoc *d = jsondoc_array();
    jsondoc_put_int(jsondoc_add_object(d), "i", 7);
    char *text = jsondoc_text(d);
    assert_non_null(text);
    assert_int_equal(text[0], '[');
    assert_non_null(strstr(text, "\"i\": 7"));
    free(text);
    jsondoc_close(d);
}

static void text_that_is_not_utf8_is_repaired(void **state) {
    (void)state;
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "t", "a\xff\xc3\xa9\xe2\x82z\xed\xa0\x80");
    assert_string_equal(jsondoc_get_text(d, "t"),
                        "a\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd"
                        "\xef\xbf\xbd");
    jsondoc_put_text(d, "overlong", "\xc0\x80\xe0\x80\xaf");
    assert_string_equal(jsondoc_get_text(d, "overlong"),
                        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    jsondoc_close(d);
}

static void damaged_files_are_errors_with_a_line(void **state) {
    (void)state;
    static const char *const bad[] = {"",    "[1]",       "{\"a\": 1", "{\"a\": 1,\n\"a\": 2}",
                                      "{}x", "\xff\xfe{}"};
    char path[] = "/tmp/test_jsondoc_XXXXXX";
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        FILE *file = fopen(path, "w");
        fputs(bad[i], file);
        fclose(file);
        struct jsondoc *d;
        struct error err = {""};
        assert_int_equal(jsondoc_read(&d, path, &err), STATUS_IO);
        assert_null(d);
        assert_non_null(strstr(err.text, path));
    }
    unlink(path);
    struct jsondoc *d;
    assert_int_equal(jsondoc_read(&d, path, NULL), STATUS_IO);
}

static void nothing_is_left_behind_where_writing_fails(void **state) {
    (void)state;
    struct jsondoc *d = jsondoc_object();
    struct error err;
    assert_int_equal(jsondoc_write(d, "/proc/none/x.json", &err), STATUS_IO);
    assert_non_null(strstr(err.text, "/proc/none/x.json"));
    jsondoc_close(d);
    jsondoc_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back_from_a_file),
        cmocka_unit_test(a_root_can_be_an_array),
        cmocka_unit_test(text_that_is_not_utf8_is_repaired),
        cmocka_unit_test(damaged_files_are_errors_with_a_line),
        cmocka_unit_test(nothing_is_left_behind_where_writing_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
