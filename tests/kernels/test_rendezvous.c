/* Processes meet: messages, memory, the end. Each test forks its processes anew; what one finds
 * wrong is the line that its exit code names. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/rendezvous.h"

enum { MOST = 4 };

/* Of a child: ends it with the line, of which an exit code keeps the last digits. */
#define EXPECT(what)                                                                               \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "process %d, line %d: %s\n", self->process, __LINE__, #what);          \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void rest_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

typedef void life(const struct rendezvous_opts *self);

static struct rendezvous_opts someone(const char *name, int process, int processes) {
    return (struct rendezvous_opts){
        .name = name, .process = process, .processes = processes, .patience_s = 20};
}

/* Runs all; wait statuses of each. */
static void live_all(life *fn, int processes, int *how) {
    static int meetings;
    char name[60];
    pid_t pid[MOST];
    snprintf(name, sizeof name, "test-rendezvous-%d-%d", (int)getpid(), meetings++);
    for (int i = 0; i < processes; i++) {
        const struct rendezvous_opts self = someone(name, i, processes);
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] > 0) continue;
        alarm(60);
        fn(&self);
        _exit(0);
    }
    for (int i = 0; i < processes; i++) assert_int_equal(waitpid(pid[i], &how[i], 0), pid[i]);
}

static void all_live_well(life *fn) {
    for (int processes = 2; processes <= MOST; processes++) {
        int how[MOST];
        live_all(fn, processes, how);
        for (int i = 0; i < processes; i++) assert_int_equal(how[i], 0);
    }
}

/* ---- what passes */

static void talk(const struct rendezvous_opts *self) {
    struct rendezvous *r;
    int32_t all[MOST], *shared;
    enum { WORDS = 100000 };
    static int32_t words[WORDS];
    void *memory;
    if (self->process == 0) rest_ms(50); /* the others look for it more than once */
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    EXPECT(rendezvous_process(r) == self->process && rendezvous_processes(r) == self->processes);
    for (int32_t round = 0; round < 20; round++) {
        const int32_t mine = 100 * round + self->process;
        EXPECT(rendezvous_gather(r, &mine, sizeof mine, all, NULL) == STATUS_OK);
        for (int i = 0; i < self->processes; i++) EXPECT(all[i] == 100 * round + i);
    }
    for (int i = 0; i < WORDS; i++) words[i] = self->process == 0 ? i : 0;
    for (int i = 1; self->process == 0 && i < self->processes; i++)
        EXPECT(rendezvous_send(r, i, words, sizeof words, NULL) == STATUS_OK);
    if (self->process > 0) EXPECT(rendezvous_receive(r, 0, words, sizeof words, NULL) == STATUS_OK);
    for (int i = 0; i < WORDS; i++) EXPECT(words[i] == i);
    EXPECT(rendezvous_memory(r, MOST * sizeof *shared, &memory, NULL) == STATUS_OK);
    shared = memory;
    EXPECT(shared[self->process] == 0);
    shared[self->process] = 7 + self->process;
    EXPECT(rendezvous_gather(r, "", 1, all, NULL) == STATUS_OK);
    for (int i = 0; i < self->processes; i++) EXPECT(shared[i] == 7 + i);
    rendezvous_memory_close(memory, MOST * sizeof *shared);
    EXPECT(rendezvous_status(r, NULL) == STATUS_OK);
    rendezvous_close(r);
}

static void what_one_says_the_others_hear(void **state) {
    (void)state;
    all_live_well(talk);
}

static void exchange(const struct rendezvous_opts *self) {
    struct rendezvous *r;
    struct device *dev;
    struct device_group *g;
    struct device_opts o = device_opts_defaults();
    struct op_call call = {.op = OP_EXCHANGE, .rank = SHARED_RANK, .layer = -1};
    int32_t out[MOST], in[MOST];
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    const struct group_opts go = {.kind = DEVICE_CPU,
                                  .members = self->processes,
                                  .exchange = "auto",
                                  .apart = true,
                                  .processes = r};
    o.threads = 1;
    EXPECT(device_open(&dev, &o, NULL) == STATUS_OK);
    EXPECT(device_group_open(&g, &go, NULL) == STATUS_OK);
    EXPECT(device_join(dev, g, self->process, NULL) == STATUS_OK);
    for (int p = 0; p < self->processes; p++) {
        struct exchange_args *a = &call.exchange;
        if (p == self->process) continue;
        a->send[a->sends++] = (struct exchange_part){&out[p], sizeof *out, p};
        a->receive[a->receives++] = (struct exchange_part){&in[p], sizeof *in, p};
    }
    for (int round = 0; round < 100; round++) {
        for (int p = 0; p < MOST; p++) out[p] = 100 * round + 10 * self->process + p;
        EXPECT(device_run(dev, &call, NULL) == STATUS_OK);
        for (int p = 0; p < self->processes; p++)
            EXPECT(p == self->process || in[p] == 100 * round + 10 * p + self->process);
    }
    device_leave(dev);
    device_close(dev);
    device_group_close(g);
    rendezvous_close(r);
}

static void devices_of_processes_exchange_memory(void **state) {
    (void)state;
    all_live_well(exchange);
}

/* ---- who leaves, who is lost, who ends it */

static void leave_early(const struct rendezvous_opts *self) {
    struct rendezvous *r;
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    if (self->process == 0) rest_ms(200);
    EXPECT(rendezvous_status(r, NULL) == STATUS_OK);
    rendezvous_close(r);
}

static void who_leaves_in_order_is_no_loss(void **state) {
    (void)state;
    all_live_well(leave_early);
}

static void note_end(void *ctx) {
    atomic_fetch_add((_Atomic int *)ctx, 1);
}

/* Waits for a message that never comes; sees why. */
static void expect_end(const struct rendezvous_opts *self, struct rendezvous *r, enum status s,
                       const char *why) {
    struct error err = {""};
    _Atomic int told = 0;
    char byte;
    rendezvous_on_end(r, note_end, &told);
    EXPECT(rendezvous_receive(r, self->process == 0 ? 2 : 0, &byte, 1, &err) == s);
    EXPECT(strcmp(err.text, why) == 0);
    EXPECT(rendezvous_status(r, NULL) == s);
    for (int i = 0; told == 0 && i < 2000; i++) rest_ms(1);
    EXPECT(told == 1);
    rendezvous_on_end(r, NULL, NULL);
    EXPECT(rendezvous_send(r, self->process == 0 ? 2 : 0, &byte, 1, NULL) != STATUS_OK);
    rendezvous_close(r);
}

static void die_second(const struct rendezvous_opts *self) {
    struct rendezvous *r;
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    if (self->process == 1) {
        rest_ms(50);
        raise(SIGKILL);
    }
    expect_end(self, r, STATUS_LOST, "process 1 of 3 is gone");
}

static void die_first(const struct rendezvous_opts *self) {
    struct rendezvous *r;
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    if (self->process == 0) raise(SIGKILL);
    expect_end(self, r, STATUS_LOST, "process 0 of 3 is gone");
}

static void a_process_that_dies_ends_it_for_all(void **state) {
    static life *const lives[] = {die_first, die_second};
    (void)state;
    for (int dies = 0; dies < 2; dies++) {
        int how[MOST];
        live_all(lives[dies], 3, how);
        for (int i = 0; i < 3; i++)
            if (i == dies)
                assert_true(WIFSIGNALED(how[i]) && WTERMSIG(how[i]) == SIGKILL);
            else
                assert_int_equal(how[i], 0);
    }
}

static void fail_first_in_time(const struct rendezvous_opts *self) {
    const struct error why = {"1 is ill"}, later = {"2 has caught it"};
    struct rendezvous *r;
    EXPECT(rendezvous_open(&r, self, NULL) == STATUS_OK);
    if (self->process == 1) {
        rest_ms(50);
        rendezvous_end(r, STATUS_DEVICE, &why);
    }
    if (self->process == 2) {
        while (rendezvous_status(r, NULL) == STATUS_OK) rest_ms(1);
        rendezvous_end(r, STATUS_NO_MEMORY, &later);
    }
    expect_end(self, r, STATUS_DEVICE, "1 is ill");
}

static void the_first_reason_is_told_to_all(void **state) {
    int how[MOST];
    (void)state;
    live_all(fail_first_in_time, 3, how);
    for (int i = 0; i < 3; i++) assert_int_equal(how[i], 0);
}

/* ---- coming together */

static void miss_third(const struct rendezvous_opts *self) {
    struct rendezvous_opts o = *self;
    struct rendezvous *r;
    struct error err = {""};
    o.patience_s = 1;
    if (self->process == 2) return;
    const enum status s = rendezvous_open(&r, &o, &err);
    EXPECT(s != STATUS_OK);
    if (self->process == 0) EXPECT(s == STATUS_TIMEOUT);
    if (self->process == 0) EXPECT(strcmp(err.text, "process 2 of 3 did not come within 1 s") == 0);
}

static void who_does_not_come_is_named(void **state) {
    int how[MOST];
    (void)state;
    live_all(miss_third, 3, how);
    for (int i = 0; i < 3; i++) assert_int_equal(how[i], 0);
}

static void come_twice(const struct rendezvous_opts *self) {
    struct rendezvous_opts o = *self;
    struct rendezvous *r;
    struct error err = {""};
    o.patience_s = 2; /* of who comes when process 0 has left already */
    if (self->process == 2) o.process = 1;
    const enum status s = rendezvous_open(&r, &o, &err);
    EXPECT(s != STATUS_OK);
    if (self->process == 0) EXPECT(strstr(err.text, "process 1 of 3 twice"));
}

static void count_otherwise(const struct rendezvous_opts *self) {
    struct rendezvous_opts o = *self;
    struct rendezvous *r;
    struct error err = {""};
    o.patience_s = 2;
    if (self->process > 0) o.processes = 4;
    const enum status s = rendezvous_open(&r, &o, &err);
    EXPECT(s != STATUS_OK);
    if (self->process == 0) EXPECT(strstr(err.text, "to be one of 4, process 0 to be one of 3"));
}

static void processes_that_do_not_agree_are_refused(void **state) {
    int how[MOST];
    (void)state;
    live_all(come_twice, 3, how);
    for (int i = 0; i < 3; i++) assert_int_equal(how[i], 0);
    live_all(count_otherwise, 3, how);
    for (int i = 0; i < 3; i++) assert_int_equal(how[i], 0);
}

static void nobody_is_there(void **state) {
    struct rendezvous_opts o = someone("test-rendezvous-nobody", 1, 2);
    struct rendezvous *r;
    struct error err = {""};
    (void)state;
    o.patience_s = 1;
    assert_int_equal(rendezvous_open(&r, &o, &err), STATUS_TIMEOUT);
    assert_non_null(strstr(err.text, "did not find process 0 within 1 s"));
    o.process = 2;
    assert_int_equal(rendezvous_open(&r, &o, &err), STATUS_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_one_says_the_others_hear),
        cmocka_unit_test(devices_of_processes_exchange_memory),
        cmocka_unit_test(who_leaves_in_order_is_no_loss),
        cmocka_unit_test(a_process_that_dies_ends_it_for_all),
        cmocka_unit_test(the_first_reason_is_told_to_all),
        cmocka_unit_test(who_does_not_come_is_named),
        cmocka_unit_test(processes_that_do_not_agree_are_refused),
        cmocka_unit_test(nobody_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
