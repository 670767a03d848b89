/* Whose work a record of the GPU is: a place in the model's forward pass, as a number that goes
 * through CUPTI and comes back with the record. */
#ifndef KERNELS_ACTIVITY_OP_PLACE_H
#define KERNELS_ACTIVITY_OP_PLACE_H

#include "kernels/ops.h"

enum { PLACE_UNKNOWN = 255 };

struct op_place {
    int16_t rank;  /* or SHARED_RANK */
    int16_t layer; /* or -1 */
    uint8_t op;    /* enum op; PLACE_UNKNOWN: nobody's, or not known whose */
    uint8_t role;  /* enum role */
    uint8_t variant;
    uint8_t device; /* of the run */
};

/* Never 0; the place of any op call of any model comes back whole. */
uint64_t op_place_pack(struct op_place p);
/* What was not packed here has PLACE_UNKNOWN. */
struct op_place op_place_unpack(uint64_t packed);
static inline struct op_place op_place_unknown(void) {
    return (struct op_place){.rank = SHARED_RANK, .layer = -1, .op = PLACE_UNKNOWN};
}

#endif
