/* Arithmetic that goes wrong on purpose, so that tests can see the checks notice. A fault is a
 * text:
 *
 *   zero_rank:R          rank R's partial sums never arrive
 *   swap_ranks:A,B       two ranks' attention outputs are exchanged
 *   shift_position:C     chunk C is rotated as if it stood one token later
 *   wrong_rotation       every angle is another (theta is its own square root)
 *   key_rotation         cosine and sine of keys alone are exchanged
 *   key_phase            dual chunk attention's keys, and they alone, keep their absolute positions
 *   window:W             attention sees W tokens back (up to the end of the first dual chunk)
 *   gqa_map              query head h asks kv head h mod K instead of h / (H / K)
 *   lost_keys:C          keys and values of chunk C are zeros
 *   nan_logits           one logit is not a number
 *   no_work              no op is run at all: what is left is the time of the harness
 *   drift:T              in steps of T tokens the last bits of one rank's attention are others
 *   bad_address:C        in chunk C attention writes to where nothing is
 *   kill_rank:R,T        rank R's process is killed in a step of T tokens that is not the first
 *   stick_rank:R,T       rank R's device hangs there
 *
 * It works as an interposer in front of the ops, hence in eager mode alone. */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include "engine/engine.h"

struct fault;

/* NULL if there is no such fault. */
struct fault *fault_open(const char *text);
void fault_close(struct fault *f); /* NULL is legal */

/* For engine_opts.interpose; ctx is the fault. */
bool fault_interpose(void *ctx, struct device *dev, struct op_call *call);
/* To be told before each chunk: which it is, and whether things go wrong in it. */
void fault_at_chunk(struct fault *f, int chunk, bool active);

#endif
