/* Hardware counters: differences and scaling, sums over threads and what is not known, from a
 * source that a test controls; each op's own beside its span; and the processor's, where it has
 * any. */
#include "kernels/counters.h"
#include "kernels/device_core.h"
#include "tests/enough_memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "swiglu_call.h"

enum { THREADS = 3 };

/* Every reading of worker w is 1000 * (w + 1) cycles further, twice as many instructions, and 7
 * misses; it ran all the time, or half of it. */
struct fake {
    int open, opened, closed, fails_for; /* worker + 1 */
    int64_t reads[THREADS];
    bool half, no_misses, silent;
};

static int fake_open(void *ctx, struct counted_thread *t) {
    struct fake *f = ctx;
    if (f->fails_for == t->worker + 1) return EACCES;
    __atomic_fetch_add(&f->open, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&f->opened, 1, __ATOMIC_RELAXED);
    return 0;
}

static bool fake_read(void *ctx, const struct counted_thread *t, struct counter_reading *out) {
    struct fake *f = ctx;
    const int64_t n = ++f->reads[t->worker];
    *out = (struct counter_reading){
        {1000 * (t->worker + 1) * n, 2000 * (t->worker + 1) * n, f->no_misses ? -1 : 7 * n},
        100 * n,
        f->half ? 50 * n : 100 * n};
    return !f->silent;
}

static void fake_close(void *ctx, struct counted_thread *t) {
    struct fake *f = ctx;
    (void)t;
    f->open--, f->closed++;
}

static char *fake_explain(void *ctx, int error, char *out, size_t size) {
    (void)ctx;
    snprintf(out, size, "the fake says %d", error);
    return out;
}

static struct counter_source source_of(struct fake *f) {
    return (struct counter_source){fake_open, fake_read, fake_close, fake_explain, f};
}

static void counts_are_differences_scaled_by_the_time_that_was_counted(void **state) {
    const struct counter_reading from = {{100, 200, 3}, 1000, 1000};
    struct counter_reading to = {{600, 1200, 10}, 2000, 2000};
    (void)state;
    struct span_counts c = counter_difference(&from, &to);
    assert_true(c.cycles == 500 && c.instructions == 1000 && c.llc_misses == 7);
    to.running_ns = 1250; /* a quarter of the time */
    c = counter_difference(&from, &to);
    assert_true(c.cycles == 2000 && c.instructions == 4000 && c.llc_misses == 28);
    to.running_ns = 1000; /* none of it: nobody knows */
    c = counter_difference(&from, &to);
    assert_true(c.cycles == -1 && c.instructions == -1 && c.llc_misses == -1);
    to = from; /* no time at all has passed for this thread: it did nothing */
    c = counter_difference(&from, &to);
    assert_true(c.cycles == 0 && c.instructions == 0 && c.llc_misses == 0);
    to = (struct counter_reading){{600, -1, -1}, 2000, 2000};
    c = counter_difference(&from, &to);
    assert_true(c.cycles == 500 && c.instructions == -1 && c.llc_misses == -1);
}

static void threads_are_summed_and_closed(void **state) {
    struct fake f = {0};
    const struct counter_source source = source_of(&f);
    struct thread_pool *pool;
    struct counters *c;
    (void)state;
    assert_int_equal(thread_pool_open(&pool, THREADS, NULL), STATUS_OK);
    assert_int_equal(counters_open(&c, pool, &source, NULL), STATUS_OK);
    assert_int_equal(f.open, THREADS);
    counters_begin(c);
    struct span_counts sum = counters_end(c);
    assert_true(sum.cycles == 6000 && sum.instructions == 12000 && sum.llc_misses == 21);
    f.half = true;
    counters_begin(c);
    f.reads[2] += 4; /* one thread did five times as much */
    sum = counters_end(c);
    assert_true(sum.cycles == 2 * (1000 + 2000 + 5 * 3000) && sum.llc_misses == 2 * 7 * 7);
    f.no_misses = true;
    counters_begin(c);
    sum = counters_end(c);
    assert_true(sum.cycles == 12000 && sum.llc_misses == -1);
    f.silent = true;
    counters_begin(c);
    assert_true(counters_end(c).cycles == -1);
    counters_close(c);
    counters_close(NULL);
    assert_int_equal(f.open, 0);
    thread_pool_close(pool);
}

static void a_thread_that_cannot_be_counted_leaves_none_open(void **state) {
    (void)state;
    for (int who = 1; who <= THREADS; who++) {
        struct fake f = {.fails_for = who};
        const struct counter_source source = source_of(&f);
        struct thread_pool *pool;
        struct counters *c = (void *)&f;
        struct error err = {""};
        assert_int_equal(thread_pool_open(&pool, THREADS, NULL), STATUS_OK);
        assert_int_equal(counters_open(&c, pool, &source, &err), STATUS_UNSUPPORTED);
        assert_null(c);
        assert_true(f.open == 0 && f.closed == THREADS - 1);
        assert_non_null(strstr(err.text, "the fake says 13"));
        thread_pool_close(pool);
    }
}

/* ---- beside spans ---- */

static void every_span_has_its_counts_and_they_end_with_the_spans(void **state) {
    struct fake f = {0};
    const struct counter_source source = source_of(&f);
    struct device *dev = open_device(THREADS);
    struct arena *arena;
    const struct op_call call = swiglu(dev, &arena);
    struct memory_use before, after;
    int64_t n, dropped;
    (void)state;
    device_memory(dev, SHARED_RANK, &before);
    assert_int_equal(device_spans_count(dev, &source, NULL), STATUS_USAGE); /* no spans yet */
    assert_int_equal(device_spans_enable(dev, 2, NULL), STATUS_OK);
    assert_null(device_span_counts(dev));
    assert_int_equal(device_spans_count(dev, &source, NULL), STATUS_OK);
    const int64_t allocations = device_allocations(dev);
    for (int i = 0; i < 3; i++) assert_int_equal(device_run(dev, &call, NULL), STATUS_OK);
    device_spans(dev, &n, &dropped);
    assert_true(n == 2 && dropped == 1); /* no room: and no count beyond the end */
    const struct span_counts *c = device_span_counts(dev);
    for (int i = 0; i < 2; i++)
        assert_true(c[i].cycles == 6000 && c[i].instructions == 12000 && c[i].llc_misses == 21);
    assert_int_equal(device_allocations(dev), allocations);
    assert_int_equal(device_spans_enable(dev, 0, NULL), STATUS_OK);
    assert_null(device_span_counts(dev));
    assert_int_equal(f.open, 0);
    device_memory(dev, SHARED_RANK, &after);
    assert_memory_equal(before.bytes, after.bytes, sizeof before.bytes);
    arena_close(arena);
    device_close(dev);
}

static void what_cannot_be_counted_leaves_the_spans(void **state) {
    struct fake f = {.fails_for = 2};
    const struct counter_source source = source_of(&f);
    struct device *dev = open_device(THREADS);
    struct arena *arena;
    const struct op_call call = swiglu(dev, &arena);
    struct error err = {""};
    int64_t n;
    (void)state;
    assert_int_equal(device_spans_enable(dev, 2, NULL), STATUS_OK);
    assert_int_equal(device_spans_count(dev, &source, &err), STATUS_UNSUPPORTED);
    assert_int_equal(device_run(dev, &call, NULL), STATUS_OK);
    device_spans(dev, &n, NULL);
    assert_int_equal(n, 1);
    assert_null(device_span_counts(dev));
    arena_close(arena);
    device_close(dev);
}

static void what_the_kernel_refuses_has_its_reason(void **state) {
    char text[200];
    (void)state;
    static const struct {
        int error;
        const char *says;
    } reasons[] = {{ENOENT, "virtual machines"},    {EOPNOTSUPP, "no hardware counters"},
                   {EACCES, "not permitted"},       {EPERM, "not permitted"},
                   {ENOSYS, "without perf events"}, {EMFILE, "Too many open files"}};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        assert_non_null(
            strstr(counter_source_perf.explain(NULL, reasons[i].error, text, sizeof text),
                   reasons[i].says));
}

int main(void) {
    if (!enough_memory(128)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_differences_scaled_by_the_time_that_was_counted),
        cmocka_unit_test(threads_are_summed_and_closed),
        cmocka_unit_test(a_thread_that_cannot_be_counted_leaves_none_open),
        cmocka_unit_test(every_span_has_its_counts_and_they_end_with_the_spans),
        cmocka_unit_test(what_cannot_be_counted_leaves_the_spans),
        cmocka_unit_test(what_the_kernel_refuses_has_its_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
