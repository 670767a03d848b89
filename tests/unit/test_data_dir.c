/* The program's own data is found by the place of the program, then by that of its source. */
#include "harness/data_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

/* FOLDER/a/b/c, made */
static const char *make(char out[200], const char *path) {
    snprintf(out, 200, "%s/%s", folder, path);
    for (char *slash = out + strlen(folder) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        mkdir(out, 0777);
        *slash = '/';
    }
    mkdir(out, 0777);
    return out;
}

/* FOLDER/path as an empty file; its folder is there */
static void put_file(const char *path) {
    char name[200];
    snprintf(name, sizeof name, "%s/%s", folder, path);
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fclose(f);
}

/* What a program at FOLDER/path finds when it was built from FOLDER/source: below FOLDER. */
static const char *found_by(const char *path, const char *source) {
    static char out[400];
    char program[200], from[200];
    snprintf(program, sizeof program, "%s/%s", folder, path);
    snprintf(from, sizeof from, "%s/%s", folder, source);
    if (!data_dir_of(program, from, out, sizeof out)) return "nothing";
    return strncmp(out, folder, strlen(folder)) == 0 ? out + strlen(folder) + 1 : out;
}

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_data_dir.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void an_installed_program_finds_its_share_wherever_it_stands(void **state) {
    char data[200], source[200], program[200], out[400];
    (void)state;
    make(data, "moved/here/share/chunkbench/configs");
    make(source, "source/configs");
    snprintf(program, sizeof program, "%s/moved/here/bin/bench", folder);
    snprintf(source, sizeof source, "%s/source", folder);
    assert_true(data_dir_of(program, source, out, sizeof out));
    data[strlen(data) - strlen("/configs")] = 0;
    assert_string_equal(out, data);
}

static void a_built_program_finds_its_source(void **state) {
    char source[200], program[200], out[400];
    (void)state;
    make(source, "tree/configs");
    snprintf(program, sizeof program, "%s/tree/build/bench", folder);
    snprintf(source, sizeof source, "%s/tree", folder);
    assert_true(data_dir_of(program, source, out, sizeof out));
    assert_string_equal(out, source);
    assert_true(data_dir_of("bench", source, out, sizeof out)); /* a name without a folder */
    assert_string_equal(out, source);
}

static void a_built_program_finds_the_tree_around_it_before_that_it_was_built_from(void **state) {
    char path[200];
    (void)state;
    make(path, "old/configs");
    make(path, "old/harness");
    put_file("old/harness/data_dir.c");
    make(path, "copy/configs");
    make(path, "copy/harness");
    put_file("copy/harness/data_dir.c");
    assert_string_equal(found_by("old/build/bench", "old"), "old");
    assert_string_equal(found_by("copy/build/bench", "old"), "copy");
    assert_string_equal(found_by("copy/build/asan/bench", "old"), "copy");
    assert_string_equal(found_by("elsewhere/build/bench", "old"), "old"); /* cmake -B elsewhere */
    make(path, "copy/dist/share/chunkbench/configs"); /* installed into the tree: the nearer one */
    assert_string_equal(found_by("copy/dist/bin/bench", "old"), "copy/dist/share/chunkbench");
}

static void somebody_elses_configs_are_not_ours(void **state) {
    char path[200];
    (void)state;
    make(path, "home/configs");
    make(path, "home/project/configs");
    assert_string_equal(found_by("home/project/bin/bench", "nowhere"), "nothing");
}

static void no_data_is_said_and_short_room_is_no_data(void **state) {
    char source[200], out[400] = "x", little[8] = "x";
    (void)state;
    assert_false(data_dir_of("/nowhere/bin/bench", "/nowhere/source", out, sizeof out));
    assert_string_equal(out, "");
    make(source, "tree2/configs");
    source[strlen(source) - strlen("/configs")] = 0;
    assert_false(data_dir_of("/nowhere/bin/bench", source, little, sizeof little));
    assert_string_equal(little, "");
}

static void this_program_has_data(void **state) {
    char out[4096];
    (void)state;
    assert_true(bench_data_dir(out, sizeof out));
    assert_string_equal(out, SOURCE_DIR);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_installed_program_finds_its_share_wherever_it_stands),
        cmocka_unit_test(a_built_program_finds_its_source),
        cmocka_unit_test(a_built_program_finds_the_tree_around_it_before_that_it_was_built_from),
        cmocka_unit_test(somebody_elses_configs_are_not_ours),
        cmocka_unit_test(no_data_is_said_and_short_room_is_no_data),
        cmocka_unit_test(this_program_has_data),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
