/* Runs of one op that follow one another without a pause: some are issued before the host waits for
 * one. What it does meanwhile (reading a GPU's clocks and joules takes milliseconds) leaves the
 * device no rest, in which a card at its power limit would cool and then run faster than it can
 * sustain. */
#ifndef KERNELS_OP_RUNS_H
#define KERNELS_OP_RUNS_H

#include "kernels/op_bench.h"

struct op_runs {
    struct op_bench *b;
    int64_t issued, passed; /* run i ends at the device's mark i, modulo DEVICE_MARKS */
    int ahead, most_ahead;  /* of the one that is waited for */
};

/* Uses all marks of the device of b, which must outlive the runs; issues nothing yet. */
struct op_runs op_runs_begin(struct op_bench *b);
/* Waits for the next one: its seconds by the device's clock, from the end of the one before it. */
enum status op_runs_next(struct op_runs *r, double *seconds, struct error *err);
/* Waits for those that were issued ahead. */
enum status op_runs_end(struct op_runs *r, struct error *err);

#endif
