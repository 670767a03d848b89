/* The thread pool: every item once, results visible to the caller, no thread left behind. Run under
 * the thread sanitizer as well. */
#include "kernels/thread_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct thread_pool *open_pool(int threads) {
    struct thread_pool *p;
    struct error err;
    assert_int_equal(thread_pool_open(&p, threads, &err), STATUS_OK);
    assert_int_equal(thread_pool_threads(p), threads);
    return p;
}

struct count {
    int *times; /* plain: an item that is done twice, or not seen by the caller, is a data race */
    int threads;
    _Atomic int bad_worker;
};

static void count_item(void *ctx, int64_t item, int worker) {
    struct count *c = ctx;
    c->times[item]++;
    if (worker < 0 || worker >= c->threads) c->bad_worker = 1;
}

static void every_item_runs_once(void **state) {
    (void)state;
    const int64_t sizes[] = {0, 1, 2, 3, 7, 64, 1009};
    const int threads[] = {1, 2, 3, 8};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct thread_pool *p = open_pool(threads[t]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            int times[1010] = {0};
            struct count c = {.times = times, .threads = threads[t]};
            thread_pool_run(p, sizes[s], count_item, &c);
            for (int64_t i = 0; i < 1010; i++) assert_int_equal(times[i], i < sizes[s]);
            assert_int_equal(c.bad_worker, 0);
        }
        thread_pool_close(p);
    }
}

/* Jobs follow each other without a pause, so that workers are late, early and asleep. */
static void many_short_jobs_keep_their_items_apart(void **state) {
    (void)state;
    struct thread_pool *p = open_pool(4);
    for (int round = 0; round < 3000; round++) {
        int times[16] = {0}, items = round % 16;
        struct count c = {.times = times, .threads = 4};
        thread_pool_run(p, items, count_item, &c);
        for (int i = 0; i < 16; i++) assert_int_equal(times[i], i < items);
        if (round % 500 == 0) nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    thread_pool_close(p);
}

static void each_worker_runs_once(void **state) {
    (void)state;
    const int threads[] = {1, 2, 5};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct thread_pool *p = open_pool(threads[t]);
        for (int round = 0; round < 50; round++) {
            int times[6] = {0};
            struct count c = {.times = times, .threads = threads[t]};
            thread_pool_run_each(p, count_item, &c);
            for (int i = 0; i < 6; i++) assert_int_equal(times[i], i < threads[t]);
        }
        thread_pool_close(p);
    }
}

static void remember_thread(void *ctx, int64_t item, int worker) {
    (void)worker;
    ((pthread_t *)ctx)[item] = pthread_self();
}

static void each_runs_on_different_threads_and_the_caller_is_worker_0(void **state) {
    (void)state;
    struct thread_pool *p = open_pool(3);
    pthread_t who[3];
    thread_pool_run_each(p, remember_thread, who);
    assert_true(pthread_equal(who[0], pthread_self()));
    assert_false(pthread_equal(who[0], who[1]));
    assert_false(pthread_equal(who[1], who[2]));
    assert_false(pthread_equal(who[0], who[2]));
    thread_pool_close(p);
}

struct meeting {
    _Atomic int arrived;
};

/* Returns when two items are being worked on at the same time. */
static void meet(void *ctx, int64_t item, int worker) {
    (void)item;
    (void)worker;
    struct meeting *m = ctx;
    m->arrived++;
    while (m->arrived < 2) nanosleep(&(struct timespec){0, 100000}, NULL);
}

static void two_threads_work_at_the_same_time(void **state) {
    (void)state;
    struct thread_pool *p = open_pool(2);
    for (int round = 0; round < 3; round++) {
        struct meeting m = {0};
        thread_pool_run(p, 2, meet, &m);
        assert_int_equal(m.arrived, 2);
        nanosleep(&(struct timespec){0, 20000000}, NULL); /* now they sleep */
    }
    thread_pool_close(p);
}

struct watch {
    struct thread_pool *pool;
    uint64_t before;
    _Atomic int wrong;
};

static void check_progress(void *ctx, int64_t item, int worker) {
    (void)worker;
    struct watch *w = ctx;
    if (thread_pool_progress(w->pool) != w->before + (uint64_t)item) w->wrong = 1;
}

static void progress_counts_items_while_a_job_runs(void **state) {
    (void)state;
    struct thread_pool *p = open_pool(1);
    struct watch w = {.pool = p};
    for (int round = 0; round < 2; round++) {
        w.before = thread_pool_progress(p);
        thread_pool_run(p, 10, check_progress, &w);
        assert_int_equal(thread_pool_progress(p), w.before + 10);
    }
    assert_int_equal(w.wrong, 0);
    thread_pool_close(p);
    p = open_pool(3);
    int times[100] = {0};
    struct count c = {.times = times, .threads = 3};
    thread_pool_run(p, 100, count_item, &c);
    thread_pool_run_each(p, count_item, &c);
    assert_int_equal(thread_pool_progress(p), 103);
    thread_pool_close(p);
}

static void idle_workers_sleep(void **state) {
    (void)state;
    struct thread_pool *p = open_pool(2);
    int times[8] = {0};
    struct count c = {.times = times, .threads = 2};
    thread_pool_run(p, 8, count_item, &c);
    struct timespec before, after;
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){0, 200000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    assert_true(used < 0.05);
    thread_pool_close(p);
}

static void wrong_numbers_of_threads_are_refused(void **state) {
    (void)state;
    struct thread_pool *p = (void *)1;
    struct error err;
    assert_int_equal(thread_pool_open(&p, 0, &err), STATUS_USAGE);
    assert_null(p);
    assert_non_null(strstr(err.text, "expected 1 to"));
    assert_int_equal(thread_pool_open(&p, -3, &err), STATUS_USAGE);
    assert_int_equal(thread_pool_open(&p, 1 << 20, NULL), STATUS_USAGE);
    thread_pool_close(NULL);
}

static void run_inside(void *ctx, int64_t item, int worker) {
    (void)item;
    (void)worker;
    thread_pool_run(ctx, 1, count_item, NULL);
}

static void a_job_inside_a_job_stops_the_program(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        struct thread_pool *p;
        if (thread_pool_open(&p, 1, NULL) != STATUS_OK) _exit(1);
        thread_pool_run(p, 1, run_inside, p);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_inside_a_job_stops_the_program),
        cmocka_unit_test(every_item_runs_once),
        cmocka_unit_test(many_short_jobs_keep_their_items_apart),
        cmocka_unit_test(each_worker_runs_once),
        cmocka_unit_test(each_runs_on_different_threads_and_the_caller_is_worker_0),
        cmocka_unit_test(two_threads_work_at_the_same_time),
        cmocka_unit_test(progress_counts_items_while_a_job_runs),
        cmocka_unit_test(idle_workers_sleep),
        cmocka_unit_test(wrong_numbers_of_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
