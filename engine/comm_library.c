/* Ranks on several devices, summed by the library that joins them: each device adds its own ranks'
 * parts up, and one call of the library sums over devices. What the library does inside, and in
 * which order it adds, is its own: other bits than comm_group.c's, by a few roundings. For
 * comparison, and where a library knows the machine's links better. Room for slices of other
 * devices' parts is taken all the same (buffers.h). Before it: forward.c. */
#include "engine/comm.h"

static enum status reduce_by_library(const struct forward *f, const struct reduction *r,
                                     const struct op_sink *sink, struct error *err) {
    const bool several = f->ranks.end - f->ranks.begin > 1;
    const struct op_call call = {
        .op = OP_EXCHANGE,
        .role = ROLE_SUM,
        .rank = SHARED_RANK,
        .layer = (int16_t)r->layer,
        .aside = r->aside,
        .exchange.sum = {.in = several ? r->out : r->partial[f->ranks.begin],
                         .out = r->out,
                         .elements = (int64_t)r->rows * f->m->C,
                         .devices = ranks_devices(f->ranks),
                         .dtype = f->dtype}};
    const enum status s = several ? comm_local.all_reduce(f, r, sink, err) : STATUS_OK;
    return s == STATUS_OK ? sink->emit(sink->ctx, &call, NULL, err) : s;
}

const struct comm comm_library = {
    .name = "library", .all_reduce = reduce_by_library, .gather_logits = comm_gather_logits};
