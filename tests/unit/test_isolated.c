/* isolated.c: answers come back whole, and a child that crashes, hangs or says nothing is an error
 * in words; plan_apart.c over it: the plan that a child makes is the one that this process would
 * have made. */
#include "harness/isolated.h"
#include "harness/plan_apart.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("expected \"%s\" in \"%s\"", part, text);
}

/* ---- isolated.c */

static void answer_at_length(void *ctx, struct jsondoc *answer) {
    struct jsondoc *list = jsondoc_put_array(answer, "list");
    for (int i = 0; i < 100000; i++) jsondoc_add_int(list, i); /* more than a pipe holds */
    jsondoc_put_int(answer, "parent", getppid());
    jsondoc_put_text(answer, "given", ctx);
    *(char *)ctx = 'x'; /* stays in the child */
    printf("not for the terminal");
}

static void a_long_answer_comes_back_and_nothing_else(void **state) {
    (void)state;
    struct jsondoc *answer;
    struct error err = {""};
    char given[] = "given";
    int64_t parent;
    assert_int_equal(isolated_run(&answer, "work", 30, answer_at_length, given, &err), STATUS_OK);
    assert_int_equal(jsondoc_length(jsondoc_get(answer, "list")), 100000);
    assert_true(jsondoc_get_int(answer, "parent", &parent) && parent == getpid());
    assert_string_equal(jsondoc_get_text(answer, "given"), "given");
    assert_string_equal(given, "given");
    jsondoc_close(answer);
}

enum end { CRASH, HANG, EXIT, INTERRUPT, SILENT };

static void end_badly(void *ctx, struct jsondoc *answer) {
    (void)answer;
    fputs("first line\nthe driver says: bad luck\n", stderr);
    switch (*(enum end *)ctx) {
    case CRASH: raise(SIGSEGV); break;
    case HANG:
        signal(SIGTERM, SIG_IGN);
        while (pause() < 0) continue;
        break;
    case EXIT: _exit(3);
    case INTERRUPT: raise(SIGINT); break;
    case SILENT: _exit(0);
    }
}

static void bad_ends_are_errors_with_the_last_words(void **state) {
    (void)state;
    static const struct {
        enum end end;
        enum status status;
        const char *text;
    } ends[] = {{CRASH, STATUS_DEVICE, "work crashed: SIGSEGV"},
                {HANG, STATUS_DEVICE, "work gave no answer within 1 s: the driver says: bad luck"},
                {EXIT, STATUS_DEVICE, "work ended with exit code 3: the driver says: bad luck"},
                {INTERRUPT, STATUS_INTERRUPTED, "work was interrupted"},
                {SILENT, STATUS_DEVICE, "work gave no answer that can be read"}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct jsondoc *answer;
        struct error err = {""};
        enum end end = ends[i].end;
        const time_t begin = time(NULL);
        assert_int_equal(isolated_run(&answer, "work", end == HANG ? 1 : 60, end_badly, &end, &err),
                         ends[i].status);
        assert_null(answer);
        assert_has(err.text, ends[i].text);
        assert_true(time(NULL) - begin < 30);
    }
}

/* ---- plan_apart.c */

struct fixture {
    char folder[64], ini[128];
    struct config config;
    struct config_errors errors;
    struct plan here, there;
};

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    strcpy(f->folder, "/tmp/test_isolated_XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    setenv("XDG_CACHE_HOME", f->folder, 1);
    snprintf(f->ini, sizeof f->ini, "%s/a.ini", f->folder);
    FILE *file = fopen(f->ini, "w");
    if (!file) return -1;
    fputs("[engine]\ndevice = cpu\nthreads = 1\nmax_num_batched_tokens = 512, 8k\n"
          "[prompt]\nsource = needle:2k\n[run]\ncoverage = sample:3\n",
          file);
    fclose(file);
    *state = f;
    return config_load(&f->config, f->ini, NULL, 0, &f->errors) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    char command[128];
    plan_free(&f->here);
    plan_free(&f->there);
    snprintf(command, sizeof command, "rm -rf %s", f->folder);
    free(f);
    return system(command);
}

static enum status make_in(struct plan *out, const struct config *c, bool anew,
                           struct config_errors *errors) {
    return anew ? plan_make_anew(out, c, errors) : plan_make(out, c, errors);
}

static void a_plan_made_apart_is_the_same_plan(void **state) {
    struct fixture *f = *state;
    assert_int_equal(plan_apart(&f->there, &f->config, true, &f->errors, make_in, 60), STATUS_OK);
    assert_true(f->there.rates_measured); /* in the child, which kept them for us */
    plan_free(&f->there);
    assert_int_equal(plan_apart(&f->there, &f->config, false, &f->errors, make_in, 60), STATUS_OK);
    assert_int_equal(plan_make(&f->here, &f->config, &f->errors), STATUS_OK);
    assert_int_equal(f->errors.n, 0);
    assert_int_equal(f->there.n, 2);
    assert_int_equal(f->there.n_notes, f->here.n_notes);
    assert_string_equal(f->there.notes[0], f->here.notes[0]);
    for (int i = 0; i < 2; i++) { /* but for what is available from moment to moment */
        f->here.cases[i].memory.available_bytes = f->there.cases[i].memory.available_bytes = 0;
        assert_int_equal(f->there.cases[i].coverage, f->here.cases[i].coverage);
    }
    f->here.device_info.available_bytes = f->there.device_info.available_bytes = 0;
    char *here = plan_to_json(&f->here), *there = plan_to_json(&f->there);
    assert_string_equal(there, here);
    free(here);
    free(there);
}

static enum status find_fault(struct plan *out, const struct config *c, bool anew,
                              struct config_errors *errors) {
    (void)anew;
    memset(out, 0, sizeof *out);
    config_error(errors, config_from(c, "prompt", "source"), "the prompt is wrong");
    config_error(errors, config_from(c, "engine", "threads"), "the threads are \"wrong\"");
    return STATUS_UNSUPPORTED;
}

static void findings_of_the_child_join_those_that_are_there(void **state) {
    struct fixture *f = *state;
    config_error(&f->errors, config_from(&f->config, "engine", "max_num_batched_tokens"), "ours");
    assert_int_equal(plan_apart(&f->there, &f->config, false, &f->errors, find_fault, 60),
                     STATUS_UNSUPPORTED);
    assert_int_equal(f->errors.n, 3); /* by line of the file */
    assert_string_equal(f->errors.e[0].text, "the threads are \"wrong\"");
    assert_string_equal(f->errors.e[1].text, "ours");
    assert_string_equal(f->errors.e[2].text, "the prompt is wrong");
    assert_null(f->there.cases);
}

static enum status crash(struct plan *out, const struct config *c, bool anew,
                         struct config_errors *errors) {
    (void)out, (void)c, (void)anew, (void)errors;
    raise(SIGBUS);
    return STATUS_OK;
}

static enum status hang(struct plan *out, const struct config *c, bool anew,
                        struct config_errors *errors) {
    (void)out, (void)c, (void)anew, (void)errors;
    while (pause() < 0) continue;
    return STATUS_OK;
}

static void a_child_that_dies_is_a_finding_about_the_device(void **state) {
    struct fixture *f = *state;
    assert_int_equal(plan_apart(&f->there, &f->config, false, &f->errors, crash, 60),
                     STATUS_DEVICE);
    assert_int_equal(f->errors.n, 1);
    assert_has(f->errors.e[0].text, "a.ini:2: planning on the GPU crashed: SIGBUS");
    assert_int_equal(plan_apart(&f->there, &f->config, false, NULL, hang, 1), STATUS_DEVICE);
    assert_null(f->there.cases);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_answer_comes_back_and_nothing_else),
        cmocka_unit_test(bad_ends_are_errors_with_the_last_words),
        TEST(a_plan_made_apart_is_the_same_plan),
        TEST(findings_of_the_child_join_those_that_are_there),
        TEST(a_child_that_dies_is_a_finding_about_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
