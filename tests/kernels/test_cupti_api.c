/* The door to CUPTI: its numbers and layouts are those of its headers where there are any (skipped,
 * by name, where not), a library that is missing or too old says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "fakes/fake_cupti.h"

#ifdef HAVE_CUPTI_HEADERS
extern const int64_t cupti_header_numbers[]; /* cupti_numbers.c, in the order of the table */
#endif

static void the_numbers_are_those_of_the_headers(void **state) {
    (void)state;
#ifdef HAVE_CUPTI_HEADERS
    static const struct {
        const char *name;
        int64_t number;
    } ours[] = {
#define X(name, number) {#name, number},
        CUPTI_NUMBER_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (ours[i].number != cupti_header_numbers[i])
            fail_msg("%s is %d, in the headers %d", ours[i].name, (int)ours[i].number,
                     (int)cupti_header_numbers[i]);
#else
    print_message("skipped: built without CUPTI's headers\n");
    skip();
#endif
}

static void a_library_that_is_not_there_is_named(void **state) {
    (void)state;
    struct cupti lib;
    char path[CUPTI_PATH_BYTES], why[CUPTI_WHY_BYTES];
    assert_false(cupti_load(&lib, "libno_such_cupti.so.13", path, why));
    assert_non_null(strstr(why, "libno_such_cupti.so.13"));
}

static void a_library_that_lacks_a_function_says_which(void **state) {
    (void)state;
    struct cupti lib;
    char why[CUPTI_WHY_BYTES];
    assert_false(cupti_load(&lib, "libm.so.6", NULL, why));
    assert_non_null(strstr(why, "cuptiGetVersion"));
}

static void a_library_that_is_too_old_says_its_version(void **state) {
    (void)state;
    struct cupti lib;
    void *handle;
    char why[CUPTI_WHY_BYTES];
    struct fake_cupti *fake = fake_cupti_open(FAKE_CUPTI, &handle);
    fake->version = 17;
    assert_false(cupti_load(&lib, FAKE_CUPTI, NULL, why));
    assert_non_null(strstr(why, "CUPTI 17: 18 or newer"));
    fake->version = 130001;
    assert_true(cupti_load(&lib, FAKE_CUPTI, NULL, why));
    assert_int_equal(lib.version, 130001);
    assert_string_equal(why, "");
    dlclose(handle);
}

/* The real one, where there is one: its functions are there, and its errors have names. */
static void the_library_of_this_machine_is_whole(void **state) {
    (void)state;
    struct cupti lib;
    char path[CUPTI_PATH_BYTES], why[CUPTI_WHY_BYTES];
    if (!cupti_load(&lib, NULL, path, why)) {
        print_message("skipped: %s\n", why);
        skip();
    }
    assert_string_equal(cupti_error_text(&lib, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED),
                        "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED");
    assert_true(lib.version >= 18);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_numbers_are_those_of_the_headers),
        cmocka_unit_test(a_library_that_is_not_there_is_named),
        cmocka_unit_test(a_library_that_lacks_a_function_says_which),
        cmocka_unit_test(a_library_that_is_too_old_says_its_version),
        cmocka_unit_test(the_library_of_this_machine_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
