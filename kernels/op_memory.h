/* Which memory an op call reads and writes: what tells, of a walk through a step, how long the
 * contents of each buffer are needed. Beside cost.h, which says how much. */
#ifndef KERNELS_OP_MEMORY_H
#define KERNELS_OP_MEMORY_H

#include "kernels/backend.h"

/* `rows` runs of row_bytes bytes, `stride` bytes from one to the next. */
struct op_region {
    const void *at; /* device memory, not followed */
    int64_t rows, row_bytes, stride;
    bool written; /* else read; what is updated in place is both, in two regions */
};
/* An exchange has most: what is sent and what is received; of tapped rows each is one, both ways.
 */
enum { OP_REGIONS_MAX = 2 * (MAX_RANKS > TAP_ROWS ? MAX_RANKS : TAP_ROWS) };

/* Regions of a call in buffers, reads before writes. Weights, gains and tables of the model, step
 * parameters, and keys and values in the cache are none: they outlive the step. linear: shape of
 * its weight where the call is an OP_LINEAR, else not looked at. step: host copy of what the call
 * will read. Returns their number; none is empty. */
int op_memory(const struct op_call *call, const struct weight_shape *linear,
              const struct step_params *step, struct op_region out[OP_REGIONS_MAX]);

#endif
