/* What each probe costs: one chunk of a case, run under one probe after the other, in turn, round
 * by round, each time in a worker process of its own. Before it: plan.c, launch.c; after it:
 * cmd_overhead.c. */
#ifndef HARNESS_OVERHEAD_H
#define HARNESS_OVERHEAD_H

#include "harness/launch.h"

enum { OVERHEAD_ARMS = 6, OVERHEAD_ROUNDS_MAX = 100 };

struct overhead_arm {
    enum probe probe;
    bool graph;
    int64_t *latency_ns; /* of all its samples, round after round; owned */
    int n;
    int64_t round_ns[OVERHEAD_ROUNDS_MAX]; /* median of each round */
    int64_t kernels, dropped;              /* of CUPTI: of the chunk; records in all */
    char left_out[400];                    /* why it was not run; "" */
    const char *note;                      /* or NULL */
};

struct overhead {
    const struct plan *plan;
    const struct case_plan *mode[2]; /* the case eager, and recorded; NULL: not of this plan */
    int chunk;                       /* from 0 */
    int rounds;
    struct overhead_arm arm[OVERHEAD_ARMS];
};

/* The case with this id, and the one that differs from it in nothing but its mode. chunk: the
 * one that [trace] cupti of the plan's configuration names. STATUS_USAGE: there is no such case;
 * STATUS_RUN_FAILED: the plan skips it. The plan must outlive *o. */
enum status overhead_open(struct overhead *o, const struct plan *p, const char *id, int rounds,
                          struct error *err);
void overhead_close(struct overhead *o); /* a zeroed one is legal */

/* Told before each worker starts. */
typedef void overhead_observer(void *ctx, int round, const struct overhead_arm *arm);
/* dir: RUN.partial, with the plan in it. An arm that cannot run is left out from then on, and says
 * why. STATUS_INTERRUPTED, STATUS_IO; STATUS_RUN_FAILED: not even a chunk without a probe ran. */
enum status overhead_run(struct overhead *o, const struct launch_opts *opts,
                         overhead_observer *observer, void *ctx, struct error *err);

/* The arm without a probe in the same mode. */
const struct overhead_arm *overhead_none(const struct overhead *o, const struct overhead_arm *a);
/* Its median over that without a probe; least and most of the rounds' own. NaN: not known. */
double overhead_ratio(const struct overhead *o, const struct overhead_arm *a, double *least,
                      double *most);

#endif
