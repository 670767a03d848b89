/* All ranks on one device: the local sum is the sum. Before it: forward.c. */
#include "engine/comm.h"

static enum status reduce_locally(const struct forward *f, const struct reduction *r,
                                  const struct op_sink *sink, struct error *err) {
    struct op_call call = {.op = OP_ALL_REDUCE,
                           .role = r->role,
                           .rank = SHARED_RANK,
                           .layer = (int16_t)r->layer,
                           .aside = r->aside,
                           .all_reduce = {.out = r->out,
                                          .ranks = f->ranks.end - f->ranks.begin,
                                          .rows = r->rows,
                                          .C = f->m->C,
                                          .dtype = f->dtype}};
    for (int i = 0; i < call.all_reduce.ranks; i++)
        call.all_reduce.partial[i] = r->partial[f->ranks.begin + i];
    return sink->emit(sink->ctx, &call, NULL, err);
}

const struct comm comm_local = {.name = "local", .all_reduce = reduce_locally};
