/* The supervisor against workers that die in every way. This program is its own worker: started as
 * `worker` it plays what the environment variable FAKE_WORKER says, "ID=ACT;ID=ACT;...", with real
 * events and real fragments but no engine. */
#include "harness/launch.h"
#include "harness/record.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the fake worker ---- */

static void tell(int fd, enum event_kind kind, int index, int64_t value, const char *text) {
    struct event e = {.kind = kind, .case_index = index, .value = value, .chunk = 1, .chunks = 4};
    if (kind == EVENT_CHUNK) e.resident_bytes = 1ll << 50; /* on the device */
    snprintf(e.text, sizeof e.text, "%s", text);
    send(fd, &e, sizeof e, MSG_NOSIGNAL);
}

static bool act_is(const char *id, const char *act) {
    char wanted[200];
    const char *script = getenv("FAKE_WORKER");
    snprintf(wanted, sizeof wanted, "%s=%s;", id, act);
    return script && strstr(script, wanted);
}

static volatile sig_atomic_t terminated;
static void on_term(int s) {
    (void)s;
    terminated = 1;
}

static void play(const char *id) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    if (act_is(id, "abort")) {
        fprintf(stderr, "first words\nfree(): invalid pointer (!)\n=====\n\n");
        abort();
    }
    if (act_is(id, "segv")) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (act_is(id, "kill")) raise(SIGKILL);
    if (act_is(id, "exit")) _exit(7);
    if (act_is(id, "leave")) _exit(0);
    if (act_is(id, "flood"))
        for (int i = 0; i < 20000; i++) fprintf(stderr, "line %d of many\n", i);
    if (act_is(id, "flood")) abort();
    while (act_is(id, "hang")) pause();
    while (act_is(id, "wait") && !terminated) usleep(1000);
}

enum { FIRST_ID = 10 }; /* after --fd N --dir DIR --time BEGIN END --probe NAME */

static int fake_worker(int argc, char **argv) {
    int fd = atoi(argv[2]);
    signal(SIGTERM, on_term);
    tell(fd, EVENT_LOADING, -1, 0, "");
    if (act_is("load", "abort")) abort();
    if (act_is("load", "error")) {
        tell(fd, EVENT_ERROR, -1, STATUS_DEVICE, "the device is on fire");
        return 5;
    }
    for (int i = FIRST_ID; i < argc; i++) {
        struct case_plan plan = {0};
        struct case_result r;
        struct error err;
        snprintf(plan.id, sizeof plan.id, "%s", argv[i]);
        tell(fd, EVENT_CASE_BEGIN, i - FIRST_ID, 0, "");
        tell(fd, EVENT_CHUNK, i - FIRST_ID, 0, "");
        play(argv[i]);
        if (act_is(argv[i], "full")) {
            tell(fd, EVENT_ERROR, i - FIRST_ID, STATUS_IO, "No space left on device");
            return 6;
        }
        result_init(&r, &plan);
        r.status = terminated ? CASE_INTERRUPTED : CASE_OK;
        r.reason[0] = 0;
        if (record_write_case(argv[4], &r, &err) != STATUS_OK) return 6;
        result_free(&r);
        tell(fd, EVENT_CASE_END, i - FIRST_ID, terminated ? CASE_INTERRUPTED : CASE_OK, "");
        if (terminated) return 130;
        if (act_is(argv[i], "resign")) {
            tell(fd, EVENT_ERROR, -1, STATUS_RUN_FAILED, "the device is lost");
            return 5;
        }
    }
    return 0;
}

/* ---- a plan, a folder, a supervisor ---- */

enum { MOST_CASES = 5 };
struct fixture {
    char dir[64];
    struct case_plan cases[MOST_CASES];
    struct plan plan;
    bool pending[MOST_CASES];
    struct launch_opts opts;
    int interrupts;
    int begun[MOST_CASES], done[MOST_CASES], workers;
    int interrupt_at_begin; /* interrupts to count when a case begins */
};

static int number_of(const struct fixture *f, const struct case_plan *c) {
    return (int)(c - f->cases);
}

static void on_event(void *ctx, const struct case_plan *c, const struct event *e) {
    struct fixture *f = ctx;
    if (e->kind == EVENT_LOADING) f->workers++;
    if (e->kind != EVENT_CASE_BEGIN) return;
    f->begun[number_of(f, c)]++;
    f->interrupts = f->interrupt_at_begin;
}

static void on_done(void *ctx, const struct case_plan *c, enum case_status s, const char *reason) {
    struct fixture *f = ctx;
    (void)s;
    (void)reason;
    f->done[number_of(f, c)]++;
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/test_launch.XXXXXX");
    if (!mkdtemp(f->dir)) return -1;
    f->plan.cases = f->cases;
    f->plan.n = MOST_CASES;
    f->plan.launches = 1;
    for (int i = 0; i < MOST_CASES; i++) {
        snprintf(f->cases[i].id, sizeof f->cases[i].id, "c%d", i);
        f->pending[i] = true;
    }
    f->opts = (struct launch_opts){.dir = f->dir, .watchdog_s = 60, .interrupts = &f->interrupts};
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", f->dir);
    int rc = system(command);
    free(f);
    unsetenv("FAKE_WORKER");
    return rc;
}

static enum status run(struct fixture *f, const char *script, struct error *err) {
    setenv("FAKE_WORKER", script, 1);
    struct launch_observer observer = {on_event, on_done, NULL, f};
    return launch_run(&f->plan, 0, f->pending, &f->opts, &observer, err);
}

static void read_case(const struct fixture *f, int i, struct case_result *r) {
    char path[128];
    struct error err = {{0}};
    snprintf(path, sizeof path, "%s/case-c%d.h5", f->dir, i);
    if (record_read_case(path, NULL, false, r, &err) != STATUS_OK) fail_msg("%s", err.text);
}

static void expect_case(const struct fixture *f, int i, enum case_status status,
                        const char *words) {
    struct case_result r;
    read_case(f, i, &r);
    if (r.status != status || !strstr(r.reason, words))
        fail_msg("c%d: %s (%s), expected %s (...%s...)", i, case_status_text(r.status), r.reason,
                 case_status_text(status), words);
    result_free(&r);
}

static bool has_fragment(const struct fixture *f, int i) {
    char path[128];
    snprintf(path, sizeof path, "%s/case-c%d.h5", f->dir, i);
    return access(path, F_OK) == 0;
}

/* ---- properties ---- */

static void one_worker_runs_all_cases_that_are_asked_for(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    f->pending[1] = false;
    assert_int_equal(run(f, "", &err), STATUS_OK);
    assert_int_equal(f->workers, 1);
    assert_false(has_fragment(f, 1));
    for (int i = 0; i < MOST_CASES; i++) {
        assert_int_equal(f->done[i], i != 1);
        if (i != 1) expect_case(f, i, CASE_OK, "");
    }
}

/* What a worker holds on a GPU says nothing about why the host's kernel ended it. */
static void memory_of_a_gpu_is_not_taken_for_the_hosts(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    struct case_result r;
    f->plan.device = DEVICE_CUDA;
    f->plan.device_info.memory_bytes = 1; /* of the GPU: more than all of it is held */
    assert_int_equal(run(f, "c0=kill;", &err), STATUS_OK);
    expect_case(f, 0, CASE_CRASHED, "killed by SIGKILL, not by bench (it held ");
    read_case(f, 0, &r);
    assert_null(strstr(r.reason, "TiB"));
    result_free(&r);
}

static void every_death_costs_one_case_and_says_how(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "c0=abort;c1=segv;c2=kill;c3=exit;c4=leave;", &err), STATUS_OK);
    expect_case(f, 0, CASE_CRASHED, "SIGABRT");
    expect_case(f, 0, CASE_CRASHED, "after chunk 1 of 4");
    expect_case(f, 0, CASE_CRASHED, ": free(): invalid pointer (!)");
    expect_case(f, 1, CASE_CRASHED, "SIGSEGV");
    expect_case(f, 2, CASE_CRASHED, "SIGKILL");
    expect_case(f, 3, CASE_CRASHED, "code 7");
    expect_case(f, 4, CASE_CRASHED, "code 0");
    assert_int_equal(f->workers, MOST_CASES);
    struct case_result r;
    read_case(f, 0, &r);
    assert_int_equal(r.exit_signal, SIGABRT);
    assert_string_equal(r.stderr_tail, "first words\nfree(): invalid pointer (!)\n=====\n\n");
    result_free(&r);
}

static void cases_after_a_death_run_in_a_fresh_worker(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "c1=abort;", &err), STATUS_OK);
    assert_int_equal(f->workers, 2);
    for (int i = 0; i < MOST_CASES; i++) {
        assert_int_equal(f->begun[i], 1);
        assert_int_equal(f->done[i], 1);
        expect_case(f, i, i == 1 ? CASE_CRASHED : CASE_OK, "");
    }
}

static void a_worker_that_lost_its_device_costs_no_other_case(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "c1=resign;c3=resign;", &err), STATUS_OK);
    assert_int_equal(f->workers, 3);
    for (int i = 0; i < MOST_CASES; i++) {
        assert_int_equal(f->begun[i], 1);
        expect_case(f, i, CASE_OK, "");
    }
}

static void a_silent_worker_is_killed_and_its_case_timed_out(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    f->opts.watchdog_s = 1;
    assert_int_equal(run(f, "c2=hang;", &err), STATUS_OK);
    expect_case(f, 2, CASE_TIMEOUT, "no progress for 1 s");
    expect_case(f, 3, CASE_OK, "");
}

static void the_tail_of_a_long_stderr_is_kept_and_all_of_it_logged(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "c0=flood;", &err), STATUS_OK);
    struct case_result r;
    read_case(f, 0, &r);
    size_t n = strlen(r.stderr_tail);
    assert_int_equal(n, STDERR_TAIL_BYTES);
    assert_non_null(strstr(r.stderr_tail, "line 19999 of many\n"));
    assert_null(strstr(r.stderr_tail, "line 100 of many\n"));
    result_free(&r);
    char path[128], line[64];
    snprintf(path, sizeof path, "%s/worker-0.log", f->dir);
    FILE *log = fopen(path, "r");
    assert_non_null(log);
    int lines = 0;
    while (fgets(line, sizeof line, log)) lines++;
    fclose(log);
    assert_int_equal(lines, 20000);
}

static void workers_that_never_begin_a_case_are_given_up(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "load=abort;", &err), STATUS_OK);
    assert_int_equal(f->workers, LAUNCH_LOAD_DEATHS);
    expect_case(f, 0, CASE_CRASHED, "while loading the model");
    expect_case(f, 4, CASE_CRASHED, "not tried");
}

static void last_words_of_a_worker_are_the_reason(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "load=error;", &err), STATUS_OK);
    expect_case(f, 0, CASE_CRASHED, "the device is on fire");
}

static void a_full_disk_ends_the_launch(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    assert_int_equal(run(f, "c1=full;", &err), STATUS_IO);
    assert_non_null(strstr(err.text, "No space left on device"));
    expect_case(f, 0, CASE_OK, "");
    assert_false(has_fragment(f, 1));
    assert_int_equal(f->begun[2], 0);
}

static void a_fragment_that_cannot_be_written_is_an_io_error(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    char path[128];
    snprintf(path, sizeof path, "%s/nowhere", f->dir);
    f->opts.dir = path;
    assert_int_equal(run(f, "", &err), STATUS_IO);
    assert_non_null(strstr(err.text, "nowhere"));
}

static void one_interrupt_lets_the_chunk_finish_and_marks_the_rest(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    f->interrupt_at_begin = 1;
    assert_int_equal(run(f, "c0=wait;c1=wait;", &err), STATUS_INTERRUPTED);
    expect_case(f, 0, CASE_INTERRUPTED, "");
    for (int i = 1; i < MOST_CASES; i++) expect_case(f, i, CASE_INTERRUPTED, "not started");
    assert_int_equal(f->begun[1], 0);
}

static void two_interrupts_kill_at_once(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    f->interrupt_at_begin = 2;
    assert_int_equal(run(f, "c0=hang;", &err), STATUS_INTERRUPTED);
    expect_case(f, 0, CASE_INTERRUPTED, "second interrupt");
    assert_false(has_fragment(f, 1));
}

/* No worker is started, no model loaded: cases that never began are not failures. */
static void after_the_time_is_up_no_worker_starts(void **state) {
    struct fixture *f = *state;
    struct error err = {{0}};
    f->opts.limit = (struct time_limit){.begin_ns = 1, .end_ns = 2};
    assert_int_equal(run(f, "load=abort;", &err), STATUS_OK);
    for (int i = 0; i < MOST_CASES; i++) expect_case(f, i, CASE_SKIPPED, "time: not started");
    assert_int_equal(f->begun[0], 0);
}

int main(int argc, char **argv) {
    if (argc > FIRST_ID && strcmp(argv[1], "worker") == 0) return fake_worker(argc - 1, argv + 1);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(one_worker_runs_all_cases_that_are_asked_for),
        TEST(memory_of_a_gpu_is_not_taken_for_the_hosts),
        TEST(every_death_costs_one_case_and_says_how),
        TEST(cases_after_a_death_run_in_a_fresh_worker),
        TEST(a_worker_that_lost_its_device_costs_no_other_case),
        TEST(a_silent_worker_is_killed_and_its_case_timed_out),
        TEST(the_tail_of_a_long_stderr_is_kept_and_all_of_it_logged),
        TEST(workers_that_never_begin_a_case_are_given_up),
        TEST(last_words_of_a_worker_are_the_reason),
        TEST(a_full_disk_ends_the_launch),
        TEST(a_fragment_that_cannot_be_written_is_an_io_error),
        TEST(one_interrupt_lets_the_chunk_finish_and_marks_the_rest),
        TEST(two_interrupts_kill_at_once),
        TEST(after_the_time_is_up_no_worker_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
