/* FLOP and bytes of one op call: the arithmetic under every "% of ceiling" and every prediction.
 * Counts only what is executed: causal attention counts the keys that each row sees (and not the
 * masked part of a diagonal tile), a pruned layer counts nothing. Bytes are compulsory traffic:
 * each operand once. */
#ifndef KERNELS_COST_H
#define KERNELS_COST_H

#include "kernels/ops.h"

struct cost {
    int64_t flops, bytes;
};

/* `step` is a host copy of what the call's step pointer will hold when it runs (positions decide
 * attention's work); for calls without a step pointer it may be NULL. */
struct cost op_cost(const struct op_call *call, const struct step_params *step);

/* The same for calls that exist only in a plan. */
struct cost linear_cost(int64_t rows, int64_t N, int64_t K, bool bias, enum dtype dtype);
struct attention_cost_shape {
    int64_t H, K, D;
    int64_t copies; /* of the query: 1 plain, 3 dual chunk */
    enum dtype dtype;
};
struct cost attention_cost(const struct attention_cost_shape *s, int64_t q_start, int64_t n);

/* The step pointer of a call (device memory), or NULL where the op has none. */
const struct step_params *op_step(const struct op_call *call);

/* Query-key pairs that rows [q_start, q_start + n) see under plain causal or dual chunk attention:
 * the same. */
int64_t attention_pairs(int64_t q_start, int64_t n);

#endif
