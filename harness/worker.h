/* The worker process: loads the engine of a launch once and runs its cases one after another.
 * worker.c is the process (arguments, events, heartbeat), worker_case.c is one case, worker_probe.c
 * some chunks of one under a probe. */
#ifndef HARNESS_WORKER_H
#define HARNESS_WORKER_H

#include "harness/bench.h"
#include "harness/clocks.h"
#include "harness/launch.h"
#include "harness/time_limit.h"

/* Body of the hidden subcommand `worker`. Returns its exit code. */
int worker_main(int argc, char **argv, const struct bench_hooks *hooks);

/* What a case needs of its process. */
struct case_env {
    const volatile int *stop; /* not zero: end after the chunk in flight with CASE_INTERRUPTED */
    const struct time_limit *limit; /* when it is up, end after the chunk in flight; or NULL */
    void (*send)(void *ctx, const struct event *e); /* or NULL */
    /* Told around each step of the engine (true, then false): inside, only the engine's own
     * progress counts as life; outside, work of the host does. Or NULL. */
    void (*in_step)(void *ctx, bool inside);
    void *ctx;
    struct clocks *clocks;           /* of the engine's GPUs, or NULL */
    const struct bench_hooks *hooks; /* or NULL */
    struct nvtx *nvtx;               /* kernels/nvtx.h; or NULL */
    enum probe probe;                /* for worker_probe_case() */
    struct activity *activity;       /* kernels/activity/activity.h; or NULL */
};
/* Runs one case on an open engine. *out is initialised here and filled as far as the case came,
 * its status and reason included, whatever is returned; the caller frees it.
 * STATUS_INTERRUPTED: stopped by env->stop. STATUS_TIMEOUT: by env->limit before a repeat had
 * ended, CASE_SKIPPED; later it only costs the repeats that did not run, and the reason says so. In
 * the pass that records spans, when all else is done, neither a stop nor a failure costs more than
 * the spans: the reason says so. Any other failure is the case's own; err says why, and so does
 * out->reason; the engine is good for the next case. */
enum status worker_run_case(struct engine *e, const struct plan *p, const struct case_plan *c,
                            const struct case_env *env, struct case_result *out, struct error *err);
/* Puts down what the open engine came to where the plan says "auto", and how it was opened. */
void worker_keep_facts(const struct engine *e, struct case_result *out);
/* What the engine told of a chunk, as a row of the result. */
struct chunk_row worker_chunk_row(int pass, int chunk, const struct chunk_result *r);
/* PROBE_ONCE: runs the chunk of [trace] profile_chunk, as it would run after the chunks before it;
 * a profiler that waits for it captures it. Otherwise runs the chunks that [trace] cupti names (the
 * last, where it names none) under a probe, each as often as [run] warmup and repeats say (a trace:
 * once, after once), against a synthetic cache. The chunks are *out's where the probe is not a
 * trace, and it has no output; with CUPTI out->kernel_trace has the records of the last time of
 * each. *out and what is returned: as worker_run_case(). */
enum status worker_probe_case(struct engine *e, const struct plan *p, const struct case_plan *c,
                              const struct case_env *env, struct case_result *out,
                              struct error *err);

#endif
