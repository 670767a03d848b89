/* A model's weights as the devices hold them: cut into shards, fused, packed. Owned by the engine.
 *
 * Within a shard the rows of qkv are [q | k | v], and gate and up alternate row by row, so that a
 * linear's epilogue may fuse swiglu. The last layer keeps q apart from k and v: with pruning most
 * rows need only the latter, and a product's bits may depend on the shape of the weight, so both
 * modes use the same two. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include "engine/layout.h"
#include "engine/model.h"
#include "engine/shard.h"

enum linear {
    LINEAR_QKV,     /* [(H+2K)D][C], bias; all layers but the last */
    LINEAR_Q,       /* [H*D][C], bias; last layer */
    LINEAR_KV,      /* [2K*D][C], bias; last layer */
    LINEAR_O,       /* [C][H*D] */
    LINEAR_GATE_UP, /* [2F][C] */
    LINEAR_DOWN,    /* [C][F] */
    LINEARS
};
struct weight_shape linear_shape(const struct model_config *m, const struct shard *s,
                                 enum linear linear, enum dtype dtype);

struct layer_weights {
    const struct weight *linear[LINEARS]; /* NULL where the layer has none */
};
struct rank_weights {
    struct layer_weights *layer; /* [L], owned */
    const void *embed;           /* [V][C] of this rank, plain rows */
    const void *head;            /* the same memory where the embeddings are tied */
};
struct layer_norms {
    const void *input, *post; /* [C] */
};
struct weights {
    struct rank_weights rank[MAX_RANKS];
    struct layer_norms *norms; /* [L], owned; shared by the ranks of a device */
    const void *final_norm;    /* [C] */
    struct arena *arena;       /* owned */
};

/* Adds up what weights_load() will take on this device. */
void weights_layout(struct device *dev, const struct model_config *m, struct ranks ranks,
                    enum dtype dtype, struct layout *l);
int64_t weights_count(const struct model_config *m, struct ranks ranks); /* linears */
/* Either not zero ends the loading before its next weight with STATUS_INTERRUPTED. */
struct load_stops {
    const volatile int *asked, *failed; /* by the caller; on another device. Or NULL */
};
enum status weights_load(struct weights **out, struct device *dev, struct model_source *source,
                         struct ranks ranks, enum dtype dtype, struct load_stops stops,
                         struct error *err);
void weights_close(struct weights *w); /* NULL is legal */

int64_t model_parameters(const struct model_config *m);

#endif
