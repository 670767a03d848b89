/* Words of a launcher, and the place that its environment gives a process. */
#include "harness/launcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect_words(const char *text, int n, ...) {
    struct launcher l;
    va_list ap;
    assert_int_equal(launcher_split(&l, text, NULL), STATUS_OK);
    assert_int_equal(l.words, n);
    va_start(ap, n);
    for (int i = 0; i < n; i++) assert_string_equal(l.word[i], va_arg(ap, const char *));
    va_end(ap);
}

static void blanks_separate_words_and_quotes_keep_them(void **state) {
    (void)state;
    expect_words("", 0);
    expect_words(" \t ", 0);
    expect_words("mpirun -n 2", 3, "mpirun", "-n", "2");
    expect_words("  a\tb  ", 2, "a", "b");
    expect_words("'a b' \"c 'd'\" e\" f\"g", 3, "a b", "c 'd'", "e fg");
    expect_words("''", 1, "");
}

static void what_cannot_be_cut_is_refused(void **state) {
    struct launcher l;
    struct error err;
    char text[LAUNCHER_BYTES + 1];
    (void)state;
    assert_int_equal(launcher_split(&l, "mpirun 'n", &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "a quote without its end: mpirun 'n"));
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_int_equal(launcher_split(&l, text, &err), STATUS_USAGE);
    text[sizeof text - 2] = 0;
    assert_int_equal(launcher_split(&l, text, &err), STATUS_OK);
    for (int i = 0; i <= LAUNCHER_WORDS; i++) memcpy(text + 2 * i, "a ", 3);
    assert_int_equal(launcher_split(&l, text, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "at most 64 words"));
}

static void a_program_is_looked_for_as_a_shell_would(void **state) {
    struct launcher l;
    (void)state;
    launcher_split(&l, "sh -c", NULL);
    assert_true(launcher_exists(&l));
    launcher_split(&l, "/bin/sh", NULL);
    assert_true(launcher_exists(&l));
    launcher_split(&l, "no-such-program-anywhere", NULL);
    assert_false(launcher_exists(&l));
    launcher_split(&l, "/bin/no-such-program", NULL);
    assert_false(launcher_exists(&l));
}

static const char *const variables[] = {"BENCH_PROCESS",
                                        "BENCH_PROCESSES",
                                        "BENCH_LOCAL_PROCESS",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "MPI_LOCALRANKID",
                                        "SLURM_PROCID",
                                        "SLURM_NTASKS",
                                        "SLURM_LOCALID"};

static void expect_place(int process, int processes, int local) {
    struct launcher_place p;
    struct error err = {""};
    if (launcher_place(&p, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_int_equal(p.process, process);
    assert_int_equal(p.processes, processes);
    assert_int_equal(p.local, local);
}

/* Those that know more come first: a job of Slurm may start mpirun, and that anything. */
static void a_place_is_the_first_that_the_environment_tells(void **state) {
    struct launcher_place p;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
    expect_place(0, 1, 0);
    for (int from = 9; from >= 0; from -= 3) {
        setenv(variables[from], "5", 1);
        setenv(variables[from + 1], "8", 1);
        expect_place(5, 8, 5);
        setenv(variables[from + 2], "1", 1);
        expect_place(5, 8, 1);
        setenv(variables[from], "3", 1);
        expect_place(3, 8, 1);
    }
    setenv("BENCH_PROCESS", "8", 1);
    assert_int_equal(launcher_place(&p, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "BENCH_PROCESS = 8, BENCH_PROCESSES = 8"));
    setenv("BENCH_PROCESS", "one", 1);
    assert_int_equal(launcher_place(&p, &err), STATUS_USAGE);
    unsetenv("BENCH_PROCESS");
    expect_place(3, 8, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blanks_separate_words_and_quotes_keep_them),
        cmocka_unit_test(what_cannot_be_cut_is_refused),
        cmocka_unit_test(a_program_is_looked_for_as_a_shell_would),
        cmocka_unit_test(a_place_is_the_first_that_the_environment_tells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
