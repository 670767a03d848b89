/* Sums over all tensor-parallel ranks. Two stages: the ranks of a device by OP_ALL_REDUCE, f32 in
 * rank order; then a collective between devices. Which second stage there is, is what a struct comm
 * says: none (comm_local.c), NCCL, MPI. */
#ifndef ENGINE_COMM_H
#define ENGINE_COMM_H

#include "engine/forward.h"

struct reduction {
    void *const *partial; /* [R of the device], each [rows][C] */
    void *out;            /* [rows][C]; may be partial[0] */
    int32_t rows;
    enum role role; /* of the linear whose parts they are; ROLE_NONE: the embedding */
    int layer;
};

struct comm {
    const char *name;
    /* Issues what makes `out` the sum over all ranks. Called by every device at the same place of
     * its walk. Not called when tp is 1. */
    enum status (*all_reduce)(const struct forward *f, const struct reduction *r,
                              const struct op_sink *sink, struct error *err);
};

extern const struct comm comm_local;

#endif
