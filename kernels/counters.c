/* Counters of a pool's threads. See counters.h. Owns a group of events per thread. Before it:
 * backend_cpu.c, which reads them around an op. */
#include "kernels/counters.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- a pool's threads ---- */

struct counters {
    const struct counter_source *source; /* borrowed */
    int threads;
    struct counted_thread *thread; /* [threads]; owned */
    int *error;                    /* [threads], 0: open; owned */
    struct counter_reading *from;  /* [threads]; owned */
    bool *known;                   /* [threads]: from was read; owned */
};

static void open_thread(void *ctx, int64_t item, int worker) {
    struct counters *c = ctx;
    (void)item;
    c->thread[worker] = (struct counted_thread){worker, {-1, -1, -1}};
    c->error[worker] = c->source->open(c->source->ctx, &c->thread[worker]);
}

static enum status cannot_count(const struct counters *c, struct error *err) {
    char why[200];
    for (int i = 0; i < c->threads; i++)
        if (c->error[i] != 0)
            return error_set(err, STATUS_UNSUPPORTED, "%s",
                             c->source->explain(c->source->ctx, c->error[i], why, sizeof why));
    return STATUS_OK;
}

enum status counters_open(struct counters **out, struct thread_pool *pool,
                          const struct counter_source *source, struct error *err) {
    *out = NULL;
    struct counters *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for counters");
    c->source = source;
    c->threads = thread_pool_threads(pool);
    c->thread = calloc((size_t)c->threads, sizeof *c->thread);
    c->error = calloc((size_t)c->threads, sizeof *c->error);
    c->from = calloc((size_t)c->threads, sizeof *c->from);
    c->known = calloc((size_t)c->threads, sizeof *c->known);
    if (!c->thread || !c->error || !c->from || !c->known) {
        c->threads = 0;
        counters_close(c);
        return error_set(err, STATUS_NO_MEMORY, "no memory for counters");
    }
    thread_pool_run_each(pool, open_thread, c);
    const enum status s = cannot_count(c, err);
    if (s == STATUS_OK)
        *out = c;
    else
        counters_close(c);
    return s;
}

void counters_close(struct counters *c) {
    if (!c) return;
    for (int i = 0; i < c->threads; i++)
        if (c->error[i] == 0) c->source->close(c->source->ctx, &c->thread[i]);
    free(c->thread);
    free(c->error);
    free(c->from);
    free(c->known);
    free(c);
}

static int64_t scaled(int64_t from, int64_t to, int64_t enabled_ns, int64_t running_ns) {
    const int64_t counted = to - from;
    if (from < 0 || to < from || (running_ns <= 0 && enabled_ns > 0)) return -1;
    if (running_ns >= enabled_ns) return counted;
    return (int64_t)((double)counted * (double)enabled_ns / (double)running_ns + 0.5);
}

struct span_counts counter_difference(const struct counter_reading *from,
                                      const struct counter_reading *to) {
    const int64_t enabled = to->enabled_ns - from->enabled_ns,
                  running = to->running_ns - from->running_ns;
    const struct span_counts *a = &from->total, *b = &to->total;
    return (struct span_counts){scaled(a->cycles, b->cycles, enabled, running),
                                scaled(a->instructions, b->instructions, enabled, running),
                                scaled(a->llc_misses, b->llc_misses, enabled, running)};
}

void counters_begin(struct counters *c) {
    for (int i = 0; i < c->threads; i++)
        c->known[i] = c->source->read(c->source->ctx, &c->thread[i], &c->from[i]);
}

static void add_known(int64_t *sum, int64_t value) {
    *sum = *sum < 0 || value < 0 ? -1 : *sum + value;
}

struct span_counts counters_end(struct counters *c) {
    static const struct span_counts unknown = {-1, -1, -1};
    struct span_counts sum = {0, 0, 0};
    for (int i = 0; i < c->threads; i++) {
        struct counter_reading to;
        const bool known = c->source->read(c->source->ctx, &c->thread[i], &to) && c->known[i];
        const struct span_counts of = known ? counter_difference(&c->from[i], &to) : unknown;
        add_known(&sum.cycles, of.cycles);
        add_known(&sum.instructions, of.instructions);
        add_known(&sum.llc_misses, of.llc_misses);
    }
    return sum;
}

/* ---- perf_event_open(2) ---- */

/* Cycles lead the group. The kernel's generic cache misses are those of the last level on Intel's
 * processors, of the second on AMD's. One that lacks one of the others goes on without it. */
static const uint64_t events[COUNTED_EVENTS] = {
    PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_HW_INSTRUCTIONS, PERF_COUNT_HW_CACHE_MISSES};

/* As PERF_FORMAT_GROUP lays it out. */
struct perf_group {
    uint64_t number, enabled_ns, running_ns, value[COUNTED_EVENTS];
};

static int open_event(uint64_t event, int leader) {
    struct perf_event_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.type = PERF_TYPE_HARDWARE;
    attr.size = sizeof attr;
    attr.config = event;
    attr.exclude_kernel = attr.exclude_hv = 1; /* allowed where perf_event_paranoid is 2 */
    attr.read_format =
        PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
    return (int)syscall(SYS_perf_event_open, &attr, 0, -1, leader, PERF_FLAG_FD_CLOEXEC);
}

static int perf_open(void *ctx, struct counted_thread *t) {
    (void)ctx;
    t->fd[0] = open_event(events[0], -1);
    if (t->fd[0] < 0) return errno;
    for (int i = 1; i < COUNTED_EVENTS; i++) t->fd[i] = open_event(events[i], t->fd[0]);
    return 0;
}

/* The events that are there, in the order in which they were opened. */
static bool perf_read(void *ctx, const struct counted_thread *t, struct counter_reading *out) {
    struct perf_group g = {0};
    int64_t value[COUNTED_EVENTS];
    uint64_t at = 0;
    (void)ctx;
    if (read(t->fd[0], &g, sizeof g) <= 0) return false;
    for (int i = 0; i < COUNTED_EVENTS; i++)
        value[i] = t->fd[i] >= 0 && at < g.number ? (int64_t)g.value[at++] : -1;
    *out = (struct counter_reading){
        {value[0], value[1], value[2]}, (int64_t)g.enabled_ns, (int64_t)g.running_ns};
    return true;
}

static void perf_close(void *ctx, struct counted_thread *t) {
    (void)ctx;
    for (int i = COUNTED_EVENTS - 1; i >= 0; i--)
        if (t->fd[i] >= 0) close(t->fd[i]);
}

/* perf_event_paranoid, or -100 where there is no such file. */
static int paranoid(void) {
    int level = -100;
    FILE *f = fopen("/proc/sys/kernel/perf_event_paranoid", "re");
    if (f && fscanf(f, "%d", &level) != 1) level = -100;
    if (f) fclose(f);
    return level;
}

static char *perf_explain(void *ctx, int error, char *out, size_t size) {
    (void)ctx;
    const int level = paranoid();
    if ((error == EACCES || error == EPERM) && level > 2)
        snprintf(out, size,
                 "not permitted: /proc/sys/kernel/perf_event_paranoid is %d; 2, or the capability "
                 "CAP_PERFMON, allows a process to count itself",
                 level);
    else if (error == EACCES || error == EPERM)
        snprintf(
            out, size,
            "not permitted: perf_event_open is refused, as containers often have it (seccomp)");
    else if (error == ENOENT || error == EOPNOTSUPP || error == ENODEV)
        snprintf(out, size,
                 "no hardware counters: this processor shows none, as most virtual machines");
    else if (error == ENOSYS)
        snprintf(out, size, "the kernel is built without perf events");
    else
        snprintf(out, size, "perf_event_open: %s", strerror(error));
    return out;
}

const struct counter_source counter_source_perf = {
    .open = perf_open, .read = perf_read, .close = perf_close, .explain = perf_explain};

bool counters_are_there(char *why_not, size_t size) {
    struct counted_thread t = {0, {-1, -1, -1}};
    const int error = perf_open(NULL, &t);
    if (error == 0)
        perf_close(NULL, &t);
    else
        perf_explain(NULL, error, why_not, size);
    return error == 0;
}
