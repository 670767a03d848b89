/* Hardware counters of the threads of a pool: processor cycles, instructions and cache misses
 * between two moments, summed over the threads. One group of events a thread, so that all of its
 * counters are of the same time; where the processor has too few and takes turns, values are scaled
 * by the part of the time in which they counted. Costs a system call a thread at each moment. */
#ifndef KERNELS_COUNTERS_H
#define KERNELS_COUNTERS_H

#include "kernels/thread_pool.h"
#include "kernels/types.h"

/* What a thread's group says, since it was opened. */
struct counter_reading {
    struct span_counts total;       /* -1: this one is not counted */
    int64_t enabled_ns, running_ns; /* for how long it was to count, and did */
};
enum { COUNTED_EVENTS = 3 };
/* What a source keeps of a thread. */
struct counted_thread {
    int worker;
    int fd[COUNTED_EVENTS]; /* -1: none */
};
/* Where counts come from. */
struct counter_source {
    /* Called by the thread that it counts. 0, or an error number: nothing stays open. */
    int (*open)(void *ctx, struct counted_thread *t);
    bool (*read)(void *ctx, const struct counted_thread *t, struct counter_reading *out);
    void (*close)(void *ctx, struct counted_thread *t);
    /* Why it cannot be opened, for people. Returns out. */
    char *(*explain)(void *ctx, int error, char *out, size_t size);
    void *ctx;
};
/* perf_event_open(2): what runs in user space. */
extern const struct counter_source counter_source_perf;
/* Whether the calling thread can be counted by it; else why not, for people. */
bool counters_are_there(char *why_not, size_t size);

struct counters;
/* Counts the threads of the pool, which the calling thread drives. The source's ctx is borrowed.
 * STATUS_UNSUPPORTED says why they cannot be counted. */
enum status counters_open(struct counters **out, struct thread_pool *pool,
                          const struct counter_source *source, struct error *err);
void counters_close(struct counters *c); /* NULL is legal */
void counters_begin(struct counters *c);
/* Since counters_begin(). A count that is not known of one thread is not known of their sum: -1. */
struct span_counts counters_end(struct counters *c);

/* What was counted between two readings of a group, scaled to all of the time between them. */
struct span_counts counter_difference(const struct counter_reading *from,
                                      const struct counter_reading *to);

#endif
