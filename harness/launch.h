/* Workers: separate processes that run cases, watched by the supervisor.
 *
 * The supervisor starts `bench worker --fd N --dir RUN.partial --time BEGIN END --probe NAME ID...`
 * for each launch; the worker reads config.ini and plan.json there, loads the engine once, runs its
 * cases in the order given, writes a fragment for each, and tells what it does in `struct event`s
 * over a SOCK_SEQPACKET pair. Behind a launcher ([engine] launcher) it is several processes, `bench
 * worker --at NAME ...`, each under a guard (guard.h); process 0 runs the cases, the others follow
 * it (engine_follow), and any of them may die for all. It dies with the supervisor
 * (PR_SET_PDEATHSIG). When it dies early, the case in flight gets its fragment from the supervisor
 * (signal or exit code, stderr tail), and a fresh worker takes the rest. A worker that dies with no
 * case in flight costs the first case that remains, so the number of workers is bounded; after
 * LAUNCH_LOAD_DEATHS deaths in a row without a case begun, the rest of the launch gets that reason
 * too. */
#ifndef HARNESS_LAUNCH_H
#define HARNESS_LAUNCH_H

#include "harness/result.h"
#include "harness/time_limit.h"

enum { LAUNCH_LOAD_DEATHS = 3, STDERR_TAIL_BYTES = 16384 };

/* What a worker does with its cases: run them, or watch chosen chunks of them once more. */
#define PROBE_TABLE(X)                                                                             \
    X(PROBE_OFF, "off")     /* runs the cases */                                                   \
    X(PROBE_NONE, "none")   /* the chunks of [trace] cupti alone, without any probe, */            \
    X(PROBE_SPANS, "spans") /* with one of them: their latencies are the case's chunks */          \
    X(PROBE_NVTX, "nvtx")                                                                          \
    X(PROBE_CUPTI, "cupti")                                                                        \
    X(PROBE_TRACE, "trace") /* with CUPTI, whose records go into the fragments that are there */   \
    X(PROBE_ONCE, "once")   /* the chunk of [trace] profile_chunk alone, for a profiler */
enum probe {
#define X(name, text) name,
    PROBE_TABLE(X)
#undef X
        PROBES
};
const char *probe_name(enum probe p);

enum event_kind {
    EVENT_LOADING, /* model is being loaded */
    EVENT_LOADED,
    EVENT_CASE_BEGIN, /* case_index */
    EVENT_CHUNK,  /* after a chunk: chunk (1 = first) of chunks, repeat (negative: warm-up), tokens
                     done, latency, bytes held on the device */
    EVENT_DECODE, /* after a token: chunk is its number, chunks the most there can be */
    EVENT_HEARTBEAT, /* kernels made progress since the last one */
    EVENT_CASE_END,  /* fragment is on disk; enum case_status in `value`, reason in `text`; `wrong`:
                        a check failed, which the text tells instead */
    EVENT_ERROR,     /* the worker ends, and why: text; enum status in `value` */
    EVENT_STILL,     /* instead of a heartbeat inside a step: what the devices are at, in `text` */
    EVENT_PROCESS_BEGIN, /* of a worker that a launcher has started as several: `chunk` of `chunks`;
                            its pid in `value` */
    EVENT_PROCESS_END, /* the same, by its guard (guard.h): wait status in `value`, CLOCK_MONOTONIC
                          in latency_ns */
};
struct event {
    int32_t kind, case_index; /* place of the id on the worker's command line */
    int32_t repeat, chunk, chunks, n_tokens;
    int64_t tokens_done, tokens_total, latency_ns, resident_bytes, value;
    bool wrong;
    char text[600];
};

/* Told as it happens, for the screen. `c` is NULL outside cases. */
struct launch_observer {
    void (*event)(void *ctx, const struct case_plan *c, const struct event *e);
    void (*case_done)(void *ctx, const struct case_plan *c, enum case_status status,
                      const char *reason);
    void (*tick)(void *ctx); /* some ten times a second */
    void *ctx;
};

struct launch_opts {
    const char *program; /* what to execute as `worker`; NULL: this program */
    const char *dir;     /* RUN.partial: config.ini, plan.json, fragments, worker logs */
    int64_t watchdog_s;
    enum probe probe;
    struct time_limit limit; /* after it no case begins, and the one at work ends */
    const volatile int
        *interrupts; /* counts SIGINT: 1: finish the chunk and stop, 2: stop at once */
};

/* Runs the cases of launch number `launch` of the plan whose `pending` flag is set; leaves a
 * fragment for every one of them, whatever happens, except after a second interrupt (only the case
 * in flight has one then). With PROBE_TRACE the fragments are there, and get what was recorded or
 * why it was not, unless the run was interrupted. STATUS_INTERRUPTED after an interrupt; STATUS_IO
 * if fragments can't be written; else STATUS_OK, also when cases failed: their fragments tell. */
enum status launch_run(const struct plan *p, int launch, const bool *pending,
                       const struct launch_opts *opts, const struct launch_observer *observer,
                       struct error *err);

#endif
