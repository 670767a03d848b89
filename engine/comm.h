/* Sums over all tensor-parallel ranks, and what else the devices of a run owe each other. One
 * device sums its ranks' parts by OP_ALL_REDUCE, f32 in rank order (comm_local.c); several exchange
 * their parts first, so that the order and the bits are the same (comm_group.c), or leave the sum
 * to the library that joins them (comm_library.c). */
#ifndef ENGINE_COMM_H
#define ENGINE_COMM_H

#include "engine/forward.h"

struct reduction {
    void *const *partial; /* [tp]; each [rows][C] of a rank of this device, else the device's slice
                             of them: struct buffers */
    void *out;            /* [rows][C]; may be the first partial of the device */
    int32_t rows;
    enum role role; /* of the linear whose parts they are; ROLE_NONE: the embedding */
    int layer;
    uint8_t aside; /* of all its calls, as in struct op_call */
};

struct comm {
    const char *name;
    /* Issues what makes `out` the sum over all ranks. Called by every device at the same place of
     * its walk. Not called when tp is 1. */
    enum status (*all_reduce)(const struct forward *f, const struct reduction *r,
                              const struct op_sink *sink, struct error *err);
    /* Makes logits [V] whole, of which each device has computed its ranks' part. NULL: they are. */
    enum status (*gather_logits)(const struct forward *f, float *logits, const struct op_sink *sink,
                                 struct error *err);
};

extern const struct comm comm_local, comm_group, comm_library;

/* exchange: the variant of OP_EXCHANGE that joins the devices, or what was asked for. */
static inline const struct comm *comm_of(struct ranks ranks, const char *exchange) {
    if (ranks_devices(ranks) == 1) return &comm_local;
    return exchange_takes_sums(exchange) ? &comm_library : &comm_group;
}

/* gather_logits of several devices: the vocabulary of a device's ranks is one run of it. */
enum status comm_gather_logits(const struct forward *f, float *logits, const struct op_sink *sink,
                               struct error *err);

#endif
