/* Choices of algorithms on disk: the lines of a shape in order, nothing of damaged ones, no trouble
 * where nothing can be kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/linear/pinned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct weight_shape shape = {4608, 3584, DTYPE_BF16, true};
static char dir[] = "/tmp/test_pinned_XXXXXX";

static void open_here(struct pinned_file *f) {
    setenv("XDG_CACHE_HOME", dir, 1);
    pinned_open(f, "NVIDIA H200", 130000);
}

static void the_file_is_named_by_gpu_and_version(void **state) {
    (void)state;
    struct pinned_file f;
    char expected[200];
    open_here(&f);
    snprintf(expected, sizeof expected, "%s/chunkbench/linear-130000-nvidia-h200.txt", dir);
    assert_string_equal(f.path, expected);
}

static void choices_of_a_shape_come_oldest_first(void **state) {
    (void)state;
    struct pinned_file f;
    unsigned char a[64], b[64], read[64];
    struct weight_shape other = shape;
    double ms = 0;
    open_here(&f);
    memset(a, 0xa5, sizeof a);
    for (size_t i = 0; i < sizeof b; i++) b[i] = (unsigned char)(250 + i);
    assert_false(pinned_read(&f, shape, 0, read, sizeof read, &ms));
    pinned_write(&f, shape, a, sizeof a, 1.5);
    other.bias = false;
    pinned_write(&f, other, b, sizeof b, 1);
    pinned_write(&f, shape, b, sizeof b, 1.25);
    assert_true(pinned_read(&f, shape, 0, read, sizeof read, &ms));
    assert_memory_equal(read, a, sizeof a);
    assert_true(ms == 1.5);
    assert_true(pinned_read(&f, shape, 1, read, sizeof read, &ms));
    assert_memory_equal(read, b, sizeof b);
    assert_true(ms == 1.25);
    assert_false(pinned_read(&f, shape, 2, read, sizeof read, &ms));
    assert_true(pinned_read(&f, other, 0, read, sizeof read, &ms));
    assert_memory_equal(read, b, sizeof b);
    other.dtype = DTYPE_F32;
    assert_false(pinned_read(&f, other, 0, read, sizeof read, &ms));
    assert_false(
        pinned_read(&f, shape, 0, read, 32, &ms)); /* of another size: not this library's */
}

static void damaged_lines_are_as_good_as_absent(void **state) {
    (void)state;
    struct pinned_file f;
    unsigned char read[4];
    double ms;
    const struct weight_shape s = {8, 8, DTYPE_F32, false};
    open_here(&f);
    FILE *file = fopen(f.path, "w");
    assert_non_null(file);
    fputs("8 8 1 0 1.0 0102zz04\n8 8 1 0\n\xff\xff\n", file);
    fclose(file);
    assert_false(pinned_read(&f, s, 0, read, sizeof read, &ms));
    file = fopen(f.path, "a");
    fputs("8 8 1 0 1.0 01020304\n8 8 1 1 1.0 00", file); /* torn, and the next glued to it */
    fclose(file);
    pinned_write(&f, s, "\x05\x06\x07\x08", 4, 2);
    pinned_write(&f, s, "\x0a\x0b\x0c\x0d", 4, 3);
    assert_true(pinned_read(&f, s, 0, read, sizeof read, &ms));
    assert_memory_equal(read, "\x01\x02\x03\x04", 4);
    assert_true(pinned_read(&f, s, 1, read, sizeof read, &ms));
    assert_memory_equal(read, "\x0a\x0b\x0c\x0d", 4);
    assert_false(pinned_read(&f, s, 2, read, sizeof read, &ms));
}

static void where_nothing_can_be_kept_nothing_is(void **state) {
    (void)state;
    struct pinned_file f;
    unsigned char a[4] = {0};
    double ms;
    setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
    pinned_open(&f, "NVIDIA H200", 1);
    assert_string_equal(f.path, "");
    pinned_write(&f, shape, a, sizeof a, 1);
    assert_false(pinned_read(&f, shape, 0, a, sizeof a, &ms));
}

static int remove_dir(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_is_named_by_gpu_and_version),
        cmocka_unit_test(choices_of_a_shape_come_oldest_first),
        cmocka_unit_test(damaged_lines_are_as_good_as_absent),
        cmocka_unit_test(where_nothing_can_be_kept_nothing_is),
    };
    if (!mkdtemp(dir)) return 1;
    return cmocka_run_group_tests(tests, NULL, remove_dir);
}
