/* One tensor-parallel rank's share of a model: which heads, which columns of the MLP, which part of
 * the vocabulary. Pure functions of (config, tp, rank); everything that cuts uses them. */
#ifndef ENGINE_SHARD_H
#define ENGINE_SHARD_H

#include "engine/engine.h"

struct shard {
    int rank;
    int32_t H, K, F, V; /* of this rank */
    int32_t head_begin, kv_begin, ffn_begin, vocab_begin;
};

/* The ranks that one device holds: [begin, end) of tp. */
struct ranks {
    int tp, begin, end;
};

/* Each of `devices`, a divisor of tp, holds equally many. */
static inline struct ranks ranks_of(int tp, int devices, int device) {
    const int n = tp / devices;
    return (struct ranks){tp, device * n, (device + 1) * n};
}
static inline int ranks_devices(struct ranks r) {
    return r.tp / (r.end - r.begin);
}
static inline int ranks_device(struct ranks r) {
    return r.begin / (r.end - r.begin);
}

/* tp must have passed engine_check_parallel(). With tp > K several ranks hold the same kv head. */
struct shard shard_of(const struct model_config *m, int tp, int rank);

#endif
