/* The words for how a worker died: what is known, what is guessed, and never the one for the other.
 */
#include "harness/death.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const int64_t gib = 1 << 30;

static struct death by_signal(int s) {
    return (struct death){.wait_status = W_EXITCODE(0, s),
                          .oom_kills = 0,
                          .resident_bytes = gib,
                          .memory_bytes = 16 * gib,
                          .states = "",
                          .who = "",
                          .at = "",
                          .where = "after chunk 3 of 8",
                          .words = ""};
}

static void expect(const struct death *d, enum case_status status, const char *words) {
    char reason[600];
    assert_int_equal(death_reason(d, reason, sizeof reason), status);
    if (!strstr(reason, words)) fail_msg("\"%s\" does not say \"%s\"", reason, words);
    if (!strstr(reason, d->where)) fail_msg("\"%s\" does not say where", reason);
}

static void a_signal_is_named(void **state) {
    (void)state;
    struct death d = by_signal(SIGSEGV);
    expect(&d, CASE_CRASHED, "killed by SIGSEGV");
    d = by_signal(SIGABRT);
    d.words = "free(): invalid pointer";
    expect(&d, CASE_CRASHED, "killed by SIGABRT");
    expect(&d, CASE_CRASHED, ": free(): invalid pointer");
}

static void a_counted_oom_kill_is_said_to_be_one(void **state) {
    (void)state;
    struct death d = by_signal(SIGKILL);
    d.oom_kills = 1;
    expect(&d, CASE_CRASHED, "out of memory");
    char reason[600];
    death_reason(&d, reason, sizeof reason);
    assert_null(strstr(reason, "probably"));
}

static void a_kill_near_the_limit_is_probably_memory(void **state) {
    (void)state;
    struct death d = by_signal(SIGKILL);
    d.oom_kills = -1;
    d.resident_bytes = 15 * gib;
    expect(&d, CASE_CRASHED, "probably out of memory");
    expect(&d, CASE_CRASHED, "15.0 GiB");
}

static void a_kill_far_from_the_limit_is_not_put_on_memory(void **state) {
    (void)state;
    struct death d = by_signal(SIGKILL);
    expect(&d, CASE_CRASHED, "not by bench");
    char reason[600];
    death_reason(&d, reason, sizeof reason);
    assert_null(strstr(reason, "memory"));
    assert_non_null(strstr(reason, "held"));
    d.resident_bytes = -1;
    death_reason(&d, reason, sizeof reason);
    assert_null(strstr(reason, "held"));
}

static void an_exit_code_is_given(void **state) {
    (void)state;
    struct death d = by_signal(0);
    d.wait_status = W_EXITCODE(5, 0);
    expect(&d, CASE_CRASHED, "exited with code 5");
}

static void silence_is_a_timeout_even_though_we_killed_it(void **state) {
    (void)state;
    struct death d = by_signal(SIGKILL);
    d.silent_s = 60;
    expect(&d, CASE_TIMEOUT, "no progress for 60 s: killed, after");
    d.states = "process state D";
    d.at = "device 0: exchange, layer 0";
    expect(&d, CASE_TIMEOUT, "no progress for 60 s (process state D): killed, after");
    expect(&d, CASE_TIMEOUT, ": device 0: exchange, layer 0");
}

static void a_second_interrupt_is_not_a_crash(void **state) {
    (void)state;
    struct death d = by_signal(SIGKILL);
    d.stopped = true;
    expect(&d, CASE_INTERRUPTED, "second interrupt");
}

static void a_reason_is_cut_at_its_room(void **state) {
    (void)state;
    struct death d = by_signal(SIGSEGV);
    char reason[16 + 4];
    memset(reason, '#', sizeof reason);
    death_reason(&d, reason, 16);
    assert_int_equal(strlen(reason), 15);
    assert_memory_equal(reason + 16, "####", 4);
}

static void this_process_is_seen_in_proc(void **state) {
    (void)state;
    assert_int_equal(death_process_state(getpid()), 'R');
    assert_true(death_resident_bytes(getpid()) > 0);
    assert_int_equal(death_process_state(-1), 0);
    assert_int_equal(death_resident_bytes(-1), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_is_named),
        cmocka_unit_test(a_counted_oom_kill_is_said_to_be_one),
        cmocka_unit_test(a_kill_near_the_limit_is_probably_memory),
        cmocka_unit_test(a_kill_far_from_the_limit_is_not_put_on_memory),
        cmocka_unit_test(an_exit_code_is_given),
        cmocka_unit_test(silence_is_a_timeout_even_though_we_killed_it),
        cmocka_unit_test(a_second_interrupt_is_not_a_crash),
        cmocka_unit_test(a_reason_is_cut_at_its_room),
        cmocka_unit_test(this_process_is_seen_in_proc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
