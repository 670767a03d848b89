/* Where weights come from. A source knows the model's configuration and can produce any rectangle
 * of any tensor in the checkpoint's own (unsharded, unfused) shape; the loader in engine.c cuts
 * shards, fuses, packs. Random and needle models compute their numbers; a checkpoint on disk reads
 * them. Numbers of a rectangle do not depend on how it is asked for, so shard r of any tp holds the
 * same numbers as that slice of tp 1. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/engine.h"
#include "kernels/random_matrix.h"

/* name as in a Hugging Face checkpoint; %d is the layer */
#define TENSOR_TABLE(X)                                                                            \
    X(TENSOR_EMBED, "model.embed_tokens.weight")                           /* [V][C] */            \
    X(TENSOR_INPUT_NORM, "model.layers.%d.input_layernorm.weight")         /* [1][C] */            \
    X(TENSOR_Q, "model.layers.%d.self_attn.q_proj.weight")                 /* [H*D][C] */          \
    X(TENSOR_Q_BIAS, "model.layers.%d.self_attn.q_proj.bias")              /* [1][H*D] */          \
    X(TENSOR_K, "model.layers.%d.self_attn.k_proj.weight")                 /* [K*D][C] */          \
    X(TENSOR_K_BIAS, "model.layers.%d.self_attn.k_proj.bias")              /* [1][K*D] */          \
    X(TENSOR_V, "model.layers.%d.self_attn.v_proj.weight")                 /* [K*D][C] */          \
    X(TENSOR_V_BIAS, "model.layers.%d.self_attn.v_proj.bias")              /* [1][K*D] */          \
    X(TENSOR_O, "model.layers.%d.self_attn.o_proj.weight")                 /* [C][H*D] */          \
    X(TENSOR_POST_NORM, "model.layers.%d.post_attention_layernorm.weight") /* [1][C] */            \
    X(TENSOR_GATE, "model.layers.%d.mlp.gate_proj.weight")                 /* [F][C] */            \
    X(TENSOR_UP, "model.layers.%d.mlp.up_proj.weight")                     /* [F][C] */            \
    X(TENSOR_DOWN, "model.layers.%d.mlp.down_proj.weight")                 /* [C][F] */            \
    X(TENSOR_FINAL_NORM, "model.norm.weight")                              /* [1][C] */            \
    X(TENSOR_HEAD, "lm_head.weight")                                       /* [V][C] */
enum tensor {
#define X(name, text) name,
    TENSOR_TABLE(X)
#undef X
        TENSORS
};

struct model_source {
    struct model_config config;
    /* Rows [row, row + rows) x columns [col, col + cols) of tensor, as dtype, into out with row
     * stride ld elements. bf16 sources widen exactly; f32 values are rounded to bf16 first in both
     * dtypes, so that a float32 run has the weights of the bf16 run. */
    enum status (*read)(struct model_source *s, enum tensor tensor, int layer, int64_t row,
                        int64_t rows, int64_t col, int64_t cols, enum dtype dtype, void *out,
                        int64_t ld, struct error *err);
    void (*close)(struct model_source *s);
    /* Where every tensor is such a matrix: which. A device makes them itself. Or NULL. */
    void (*matrix)(struct model_source *s, enum tensor tensor, int layer,
                   struct random_matrix *out);
};

/* Opens the source that `model` names (engine_opts.model). seed: random weights. */
enum status model_source_open(struct model_source **out, const char *model, uint64_t seed,
                              struct error *err);
void model_source_close(struct model_source *s); /* NULL is legal */

/* The two computed kinds. Names after the colon; NULL or "" is the default shape. */
enum status random_model_open(struct model_source **out, const char *preset, uint64_t seed,
                              struct error *err);
enum status needle_model_open(struct model_source **out, const char *shape, struct error *err);

/* Configuration alone; false if there is no such preset or shape. */
bool random_model_config(const char *preset, struct model_config *out);
bool needle_model_config(const char *shape, struct model_config *out);

#endif
