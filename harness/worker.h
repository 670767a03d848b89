/* The worker process: loads the engine of a launch once and runs its cases one after another. */
#ifndef HARNESS_WORKER_H
#define HARNESS_WORKER_H

#include "harness/bench.h"
#include "harness/launch.h"

/* Body of the hidden subcommand `worker`. Returns its exit code. */
int worker_main(int argc, char **argv, const struct bench_hooks *hooks);

/* Runs one case on an open engine and fills the result; used by worker_main. stop: set by SIGTERM
 * or the supervisor's wish: end after the chunk in flight with CASE_INTERRUPTED. send: events, or
 * NULL. */
struct case_env {
    const volatile int *stop;
    void (*send)(void *ctx, const struct event *e);
    void *ctx;
    const struct bench_hooks *hooks;
};
enum status worker_run_case(struct engine *e, const struct plan *p, const struct case_plan *c,
                            const struct case_env *env, struct case_result *out, struct error *err);

#endif
