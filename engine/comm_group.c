/* Ranks on several devices. A sum is taken in three steps: each device gets the parts of all ranks
 * for its slice of the rows, adds them up in rank order, and gives the sums to the others. Each
 * number is so added by one device, in f32, in the order in which one device with all ranks would:
 * the same bits. What passes between devices is what a ring would pass. Before it: forward.c. */
#include "engine/comm.h"

static void *at(const void *base, int64_t rows, const struct forward *f) {
    return (void *)((uintptr_t)base + matrix_bytes(rows, f->m->C, f->dtype));
}

static struct rows_slice slice_of(const struct forward *f, const struct reduction *r, int device) {
    return rows_slice(r->rows, ranks_devices(f->ranks), device);
}

static int64_t bytes_of(const struct forward *f, struct rows_slice s) {
    return (int64_t)matrix_bytes(s.n, f->m->C, f->dtype);
}

static void send(struct exchange_args *a, void *from, int64_t bytes, int peer) {
    if (bytes > 0) a->send[a->sends++] = (struct exchange_part){from, bytes, peer};
}

static void receive(struct exchange_args *a, void *to, int64_t bytes, int peer) {
    if (bytes > 0) a->receive[a->receives++] = (struct exchange_part){to, bytes, peer};
}

static struct op_call exchange_call(enum role role, int layer, uint8_t aside) {
    return (struct op_call){.op = OP_EXCHANGE,
                            .role = role,
                            .rank = SHARED_RANK,
                            .layer = (int16_t)layer,
                            .aside = aside};
}

/* Everyone's parts of this device's slice. */
static struct op_call scatter_parts(const struct forward *f, const struct reduction *r) {
    struct op_call call = exchange_call(ROLE_SCATTER, r->layer, r->aside);
    const int devices = ranks_devices(f->ranks), self = ranks_device(f->ranks);
    const int64_t mine = bytes_of(f, slice_of(f, r, self));
    for (int d = 0; d < devices; d++) {
        const struct ranks peer = ranks_of(f->ranks.tp, devices, d);
        const struct rows_slice theirs = slice_of(f, r, d);
        if (d == self) continue;
        for (int rank = f->ranks.begin; rank < f->ranks.end; rank++)
            send(&call.exchange, at(r->partial[rank], theirs.begin, f), bytes_of(f, theirs), d);
        for (int rank = peer.begin; rank < peer.end; rank++)
            receive(&call.exchange, r->partial[rank], mine, d);
    }
    return call;
}

static struct op_call sum_slice(const struct forward *f, const struct reduction *r) {
    const struct rows_slice mine = slice_of(f, r, ranks_device(f->ranks));
    struct op_call call = {.op = OP_ALL_REDUCE,
                           .role = r->role,
                           .rank = SHARED_RANK,
                           .layer = (int16_t)r->layer,
                           .aside = r->aside,
                           .all_reduce = {.out = at(r->out, mine.begin, f),
                                          .ranks = f->ranks.tp,
                                          .rows = mine.n,
                                          .C = f->m->C,
                                          .dtype = f->dtype}};
    for (int rank = 0; rank < f->ranks.tp; rank++) {
        const bool local = rank >= f->ranks.begin && rank < f->ranks.end;
        call.all_reduce.partial[rank] = at(r->partial[rank], local ? mine.begin : 0, f);
    }
    return call;
}

static struct op_call gather_sums(const struct forward *f, const struct reduction *r) {
    struct op_call call = exchange_call(ROLE_GATHER, r->layer, r->aside);
    const int self = ranks_device(f->ranks);
    const struct rows_slice mine = slice_of(f, r, self);
    for (int d = 0; d < ranks_devices(f->ranks); d++) {
        const struct rows_slice theirs = slice_of(f, r, d);
        if (d == self) continue;
        send(&call.exchange, at(r->out, mine.begin, f), bytes_of(f, mine), d);
        receive(&call.exchange, at(r->out, theirs.begin, f), bytes_of(f, theirs), d);
    }
    return call;
}

static enum status reduce_over_devices(const struct forward *f, const struct reduction *r,
                                       const struct op_sink *sink, struct error *err) {
    const struct op_call parts = scatter_parts(f, r), sum = sum_slice(f, r),
                         sums = gather_sums(f, r);
    enum status s = sink->emit(sink->ctx, &parts, NULL, err);
    if (s == STATUS_OK && sum.all_reduce.rows > 0) s = sink->emit(sink->ctx, &sum, NULL, err);
    return s == STATUS_OK ? sink->emit(sink->ctx, &sums, NULL, err) : s;
}

enum status comm_gather_logits(const struct forward *f, float *logits, const struct op_sink *sink,
                               struct error *err) {
    struct op_call call = exchange_call(ROLE_HEAD, -1, 0);
    const int devices = ranks_devices(f->ranks), self = ranks_device(f->ranks);
    const int64_t V = f->m->V / devices, bytes = V * (int64_t)sizeof *logits;
    for (int d = 0; d < devices; d++) {
        if (d == self) continue;
        send(&call.exchange, (void *)((uintptr_t)logits + (uintptr_t)(self * bytes)), bytes, d);
        receive(&call.exchange, (void *)((uintptr_t)logits + (uintptr_t)(d * bytes)), bytes, d);
    }
    return sink->emit(sink->ctx, &call, NULL, err);
}

const struct comm comm_group = {
    .name = "group", .all_reduce = reduce_over_devices, .gather_logits = comm_gather_logits};
