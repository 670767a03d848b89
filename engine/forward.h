/* The transformer as a generator of op calls: forward.c walks the model once and hands every call
 * to a sink. What the sink does decides what the walk is for: run the ops, record them, add up
 * their cost. One forward is one device's part; its ranks run one after another. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/buffers.h"
#include "engine/weights.h"

/* linear: shape of the weight of an OP_LINEAR (whose w is NULL where nothing is loaded), else NULL.
 */
struct op_sink {
    enum status (*emit)(void *ctx, const struct op_call *call, const struct weight_shape *linear,
                        struct error *err);
    void *ctx;
};

struct comm;
struct forward {
    const struct model_config *m;
    struct ranks ranks;
    enum dtype dtype;
    struct attention_pattern pattern;
    const struct weights *weights; /* borrowed; NULL: nothing is loaded */
    const struct buffers *buffers; /* borrowed */
    const struct comm *comm;
};

/* Rows that go through the model together. Nothing here may change between two runs of a recorded
 * step: what changes is behind params and ids, in device memory. */
struct step {
    const struct step_params *params;
    const int32_t *ids; /* [rows]; NULL where h and y are there already */
    void *h, *y;        /* [rows][C]: residual stream; its norm, which the next part reads */
    int32_t rows;
    bool prune; /* the last layer computes only keys and values; forward_finish() does the rest */
    bool taps;
    bool decode; /* the newest token of a decode step */
};

/* Tokens to h and y of all rows: after the last layer y is the final norm; pruned, y is what the
 * last layer reads. */
enum status forward_body(const struct forward *f, const struct step *step,
                         const struct op_sink *sink, struct error *err);
/* The last row of a prompt, from where the body left it to its logits. rows = 1. */
enum status forward_finish(const struct forward *f, const struct step *step,
                           const struct op_sink *sink, struct error *err);
/* Logits [V] of one row of a finished y. */
enum status forward_logits(const struct forward *f, const void *y, float *out,
                           const struct op_sink *sink, struct error *err);
enum status forward_sample(const struct forward *f, const struct op_sink *sink, struct error *err);
/* The newest token through the whole model, and the next one. rows = 1. */
enum status forward_decode(const struct forward *f, const struct step *step,
                           const struct op_sink *sink, struct error *err);

#endif
