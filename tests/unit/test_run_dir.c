/* The folder of a run: who may have it, what it refuses, what it leaves behind. */
#include "harness/record.h"
#include "harness/run_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char folder[64], file[128], partial[128];
    struct config config;
    struct run_dir dir;
    struct error err;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/test_run_dir.XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    snprintf(f->file, sizeof f->file, "%s/run.h5", f->folder);
    snprintf(f->partial, sizeof f->partial, "%s/run.partial", f->folder);
    config_defaults(&f->config);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    int rc = system(command);
    free(f);
    return rc;
}

static enum status open_as(struct fixture *f, enum run_mode mode) {
    return run_dir_open(&f->dir, f->file, &f->config, mode, &f->err);
}

static bool there(const struct fixture *f, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", f->partial, name);
    return access(path, F_OK) == 0;
}

static void create(const char *folder, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
}

static void a_new_run_makes_its_folder_and_keeps_its_configuration(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    assert_string_equal(f->dir.path, f->partial);
    assert_true(there(f, "config.ini"));
    assert_false(f->dir.has_plan);
    run_dir_close(&f->dir, false);
    assert_true(there(f, "config.ini"));
}

static void a_finished_run_removes_what_is_its_own_and_nothing_else(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    create(f->partial, "case-x.h5");
    create(f->partial, "worker-12.log");
    create(f->partial, "notes.txt");
    run_dir_close(&f->dir, true);
    assert_false(there(f, "case-x.h5"));
    assert_false(there(f, "worker-12.log"));
    assert_false(there(f, "lock"));
    assert_true(there(f, "notes.txt"));
    char path[256];
    snprintf(path, sizeof path, "%s/notes.txt", f->partial);
    unlink(path);
    assert_int_equal(open_as(f, RUN_FORCE), STATUS_OK);
    run_dir_close(&f->dir, true);
    assert_int_not_equal(access(f->partial, F_OK), 0);
}

static void what_a_run_left_that_was_killed_while_it_cleared_away_is_removed(void **state) {
    struct fixture *f = *state;
    char gone[128];
    snprintf(gone, sizeof gone, "%s/run.finished", f->folder);
    assert_int_equal(mkdir(gone, 0777), 0);
    create(gone, "case-x.h5");
    create(gone, "lock");
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_USAGE); /* it is no unfinished run */
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    create(f->partial, "case-y.h5");
    run_dir_close(&f->dir, true);
    assert_int_not_equal(access(gone, F_OK), 0);
    assert_int_not_equal(access(f->partial, F_OK), 0);
}

static void two_runs_never_share_a_folder(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct run_dir other;
        char expected[64];
        snprintf(expected, sizeof expected, "(process %d)", (int)getppid());
        int good = 0;
        for (enum run_mode mode = RUN_NEW; mode <= RUN_RESUME; mode++) {
            struct error err = {{0}};
            good += run_dir_open(&other, f->file, &f->config, mode, &err) == STATUS_USAGE &&
                    strstr(err.text, "another run") && strstr(err.text, expected);
        }
        _exit(good == 3 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(there(f, "config.ini"));
    run_dir_close(&f->dir, false);
}

/* What kill -9 leaves: nobody who took the lock, and a child that has it for a moment. */
static void a_lock_that_outlives_its_owner_is_waited_for(void **state) {
    struct fixture *f = *state;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        const bool opened = open_as(f, RUN_NEW) == STATUS_OK;
        if (opened && fork() == 0) usleep(400000);
        _exit(opened ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_OK);
    run_dir_close(&f->dir, true);
}

static void a_new_run_refuses_an_unfinished_one_and_force_replaces_it(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    create(f->partial, "case-old.h5");
    create(f->partial, "plan.json");
    run_dir_close(&f->dir, false);
    assert_int_equal(open_as(f, RUN_NEW), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "--resume"));
    assert_true(there(f, "case-old.h5"));
    assert_int_equal(open_as(f, RUN_FORCE), STATUS_OK);
    assert_false(f->dir.has_plan);
    assert_false(there(f, "case-old.h5"));
    run_dir_close(&f->dir, false);
}

static void a_result_that_exists_is_not_overwritten(void **state) {
    struct fixture *f = *state;
    static const struct run_facts facts = {.argv = "bench run"};
    int damaged;
    assert_int_equal(record_merge(f->folder, f->file, &facts, NULL, 0, true, &damaged, &f->err),
                     STATUS_OK);
    assert_int_equal(open_as(f, RUN_NEW), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "--force"));
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "finished"));
    assert_int_equal(open_as(f, RUN_FORCE), STATUS_OK);
    run_dir_close(&f->dir, true);
}

static void force_replaces_nothing_but_results_of_bench(void **state) {
    struct fixture *f = *state;
    create(f->folder, "run.h5"); /* empty, and so not HDF5 */
    assert_int_equal(open_as(f, RUN_FORCE), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "not a result of bench, not replaced"));
    assert_int_not_equal(access(f->partial, F_OK), 0);
    assert_int_equal(unlink(f->file), 0);
    assert_int_equal(symlink("/dev/null", f->file), 0);
    assert_int_equal(open_as(f, RUN_FORCE), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "regular file"));
}

static void a_name_that_no_file_can_have_is_refused_before_anything_runs(void **state) {
    struct fixture *f = *state;
    char file[PATH_MAX_BYTES], out[PATH_MAX_BYTES];
    create(f->folder, "taken");
    static const struct {
        const char *name, *words;
        enum status status;
    } names[] = {
        {"", "is a folder", STATUS_USAGE},
        {"/", "is a folder", STATUS_USAGE},
        {"/nowhere/", "is a folder", STATUS_USAGE},
        {"/nowhere/run.h5", "/nowhere does not exist", STATUS_IO},
        {"/taken/run.h5", "/taken is not a folder", STATUS_IO},
        {"/taken/in/run.h5", "Not a directory", STATUS_IO},
        {"/run.h5", "", STATUS_OK},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (enum run_mode mode = RUN_NEW; mode <= RUN_RESUME; mode++) {
            f->err.text[0] = 0;
            snprintf(file, sizeof file, "%s%s", f->folder, names[i].name);
            assert_int_equal(run_dir_file(&f->config, file, mode, out, &f->err), names[i].status);
            assert_non_null(strstr(f->err.text, names[i].words));
        }
}

static void only_the_default_folder_is_made(void **state) {
    struct fixture *f = *state;
    char here[PATH_MAX_BYTES];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(f->folder), 0);
    snprintf(f->file, sizeof f->file, "elsewhere/run.h5");
    assert_int_equal(open_as(f, RUN_NEW), STATUS_IO);
    assert_int_not_equal(access("elsewhere", F_OK), 0);
    snprintf(f->file, sizeof f->file, "results/raw/run.h5");
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    run_dir_close(&f->dir, true);
    assert_int_equal(access("results/raw", F_OK), 0);
    assert_int_equal(chdir(here), 0);
}

static void resume_continues_the_same_configuration(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    create(f->partial, "case-old.h5");
    create(f->partial, "plan.json");
    run_dir_close(&f->dir, false);
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_OK);
    assert_true(f->dir.has_plan);
    assert_true(there(f, "case-old.h5"));
    run_dir_close(&f->dir, false);
}

static void resume_refuses_another_configuration_and_names_the_keys(void **state) {
    struct fixture *f = *state;
    f->config.top_k = 20;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    run_dir_close(&f->dir, false);
    f->config.block_rows += 256;
    f->config.top_k = 7;
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "[engine] block_rows: was "));
    assert_non_null(strstr(f->err.text, "[sampling] top_k: was 20, is 7"));
    assert_null(strstr(f->err.text, "top_p"));
    assert_true(there(f, "config.ini"));
}

static void resume_may_name_another_output(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_NEW), STATUS_OK);
    run_dir_close(&f->dir, false);
    snprintf(f->config.output, sizeof f->config.output, "elsewhere.h5");
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_OK);
    run_dir_close(&f->dir, false);
}

static void there_must_be_something_to_resume(void **state) {
    struct fixture *f = *state;
    assert_int_equal(open_as(f, RUN_RESUME), STATUS_USAGE);
    assert_non_null(strstr(f->err.text, "nothing to resume"));
    assert_int_not_equal(access(f->partial, F_OK), 0);
}

static void a_folder_that_cannot_be_made_is_an_io_error(void **state) {
    struct fixture *f = *state;
    create(f->folder, "a");
    snprintf(f->file, sizeof f->file, "%s/a/run.h5", f->folder);
    assert_int_equal(open_as(f, RUN_NEW), STATUS_IO);
    assert_non_null(strstr(f->err.text, f->folder));
}

static void the_default_name_is_the_configuration_and_the_time(void **state) {
    struct fixture *f = *state;
    char file[PATH_MAX_BYTES];
    snprintf(f->config.file, sizeof f->config.file, "configs/sweep.ini");
    assert_int_equal(run_dir_file(&f->config, NULL, RUN_NEW, file, &f->err), STATUS_OK);
    assert_memory_equal(file, "results/raw/sweep-20", 20);
    assert_int_equal(strlen(file), strlen("results/raw/sweep-20260102-030405.h5"));
    assert_int_equal(run_dir_file(&f->config, "x.h5", RUN_NEW, file, &f->err), STATUS_OK);
    assert_string_equal(file, "x.h5");
}

static void resume_without_a_name_takes_the_newest_unfinished_run(void **state) {
    struct fixture *f = *state;
    char file[PATH_MAX_BYTES], here[PATH_MAX_BYTES];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(f->folder), 0);
    snprintf(f->config.file, sizeof f->config.file, "sweep.ini");
    assert_int_equal(run_dir_file(&f->config, NULL, RUN_RESUME, file, &f->err), STATUS_USAGE);
    assert_int_equal(system("mkdir -p results/raw/sweep-20260101-000000.partial "
                            "results/raw/sweep-20260102-000000.partial "
                            "results/raw/other-20260103-000000.partial "
                            "results/raw/sweep-more-20260103-000000.partial "
                            "results/raw/sweep-20260103-000000.partial.old "
                            "'results/raw/s[w]eep-20260104-000000.partial'"),
                     0);
    assert_int_equal(run_dir_file(&f->config, NULL, RUN_RESUME, file, &f->err), STATUS_OK);
    assert_string_equal(file, "results/raw/sweep-20260102-000000.h5");
    snprintf(f->config.file, sizeof f->config.file, "s[w]eep.ini");
    assert_int_equal(run_dir_file(&f->config, NULL, RUN_RESUME, file, &f->err), STATUS_OK);
    assert_string_equal(file, "results/raw/s[w]eep-20260104-000000.h5");
    assert_int_equal(chdir(here), 0);
}

static void differences_are_found_by_section_and_key(void **state) {
    (void)state;
    char out[200];
    const char *was = "# words\n[a]\nx = 1\ny = 2\n[b]\nx = 3\n[run]\noutput = o\n";
    assert_int_equal(run_dir_differences(was, was, out, sizeof out), 0);
    assert_string_equal(out, "");
    assert_int_equal(run_dir_differences(was, "[a]\nx = 1\ny = 2\n[b]\nx = 4\n[run]\noutput = p\n",
                                         out, sizeof out),
                     1);
    assert_string_equal(out, "[b] x: was 3, is 4");
    assert_int_equal(run_dir_differences(was, "[a]\nx = 9\nz = 1\n", out, sizeof out), 2);
    assert_string_equal(out, "[a] x: was 1, is 9; [a] z: was not there, is 1");
    assert_int_equal(run_dir_differences(was, "[a]\nx = 9\nz = 1\n", out, 10), 2);
    assert_int_equal(strlen(out), 9);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_run_makes_its_folder_and_keeps_its_configuration),
        TEST(a_finished_run_removes_what_is_its_own_and_nothing_else),
        TEST(what_a_run_left_that_was_killed_while_it_cleared_away_is_removed),
        TEST(two_runs_never_share_a_folder),
        TEST(a_lock_that_outlives_its_owner_is_waited_for),
        TEST(a_new_run_refuses_an_unfinished_one_and_force_replaces_it),
        TEST(a_result_that_exists_is_not_overwritten),
        TEST(force_replaces_nothing_but_results_of_bench),
        TEST(a_name_that_no_file_can_have_is_refused_before_anything_runs),
        TEST(only_the_default_folder_is_made),
        TEST(resume_continues_the_same_configuration),
        TEST(resume_refuses_another_configuration_and_names_the_keys),
        TEST(resume_may_name_another_output),
        TEST(there_must_be_something_to_resume),
        TEST(a_folder_that_cannot_be_made_is_an_io_error),
        TEST(the_default_name_is_the_configuration_and_the_time),
        TEST(resume_without_a_name_takes_the_newest_unfinished_run),
        TEST(differences_are_found_by_section_and_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
