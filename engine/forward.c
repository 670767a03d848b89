/* The Qwen2 transformer, once.
 *
 *   h = embed(token)
 *   in every layer   h += o(attention(rope(qkv(norm(h)))))
 *                    h += down(silu(gate(norm(h))) * up(norm(h)))
 *   logits = head(norm(h))
 *
 * h and its norm y exist once per device; qkv, o, gate_up and down are cut over the ranks, which
 * run one after another. What follows attention works on blocks of rows, so that its wide rows
 * never exist for a whole chunk. Adding a part's result to h and taking the norm for the part after
 * it is one op: each part finds its input in y. Where ranks lie on several devices, the sum over
 * them may be taken aside (ops.h), while the linears of other blocks run. Before it: session.c;
 * after it: a sink, and behind that the kernels. */
#include "engine/forward.h"

#include "engine/comm.h"

#include <math.h>

/* A walk through the model: the first failure ends it. */
struct walk {
    const struct forward *f;
    const struct step *step;
    const struct op_sink *sink;
    struct error *err;
    enum status status;
};

static void emit(struct walk *w, const struct op_call *call, const struct weight_shape *linear) {
    if (w->status == STATUS_OK) w->status = w->sink->emit(w->sink->ctx, call, linear, w->err);
}

/* Row `row` of a matrix of `cols`. By number, not by pointer: a walk that only counts has no
 * memory. */
static void *row_of(const struct walk *w, const void *base, int64_t row, int64_t cols) {
    return (void *)((uintptr_t)base + matrix_bytes(row, cols, w->f->dtype));
}

static struct shard shard(const struct walk *w, int rank) {
    return shard_of(w->f->m, w->f->ranks.tp, rank);
}

/* ---- the ops that several parts use */

struct matrix {
    void *at;
    int64_t ld;
};

static void linear(struct walk *w, enum linear kind, enum role role, int layer, int rank,
                   int32_t rows, struct matrix x, struct matrix y) {
    const struct forward *f = w->f;
    const struct shard s = shard(w, rank);
    const struct weight_shape shape = linear_shape(f->m, &s, kind, f->dtype);
    const struct op_call call = {
        .op = OP_LINEAR,
        .role = role,
        .rank = (int16_t)rank,
        .layer = (int16_t)layer,
        .linear = {.w = f->weights ? f->weights->rank[rank].layer[layer].linear[kind] : NULL,
                   .x = x.at,
                   .y = y.at,
                   .ldx = x.ld,
                   .ldy = y.ld,
                   .rows = rows}};
    emit(w, &call, &shape);
}

/* Rows [row, row + n) of the step, and where sums of them are taken. */
struct block {
    int64_t row;
    int32_t n;            /* 0: there is no such block */
    void *const *partial; /* [R] */
    void *sum;
    uint8_t aside;
};

/* How many blocks later what reads a sum comes: 0 where sums are taken in turn. */
static int lag(const struct walk *w) {
    const struct buffers *b = w->f->buffers;
    return b->blocks > 1 && w->step->rows > b->block_rows ? 1 : 0;
}

static int64_t blocks(const struct walk *w) {
    const int64_t B = w->f->buffers->block_rows;
    return (w->step->rows + B - 1) / B;
}

static struct block block(const struct walk *w, int64_t i) {
    const struct buffers *b = w->f->buffers;
    if (i < 0 || i >= blocks(w)) return (struct block){.n = 0};
    const int64_t row = i * b->block_rows, left = w->step->rows - row;
    const int at = lag(w) > 0 ? (int)(i % b->blocks) : 0;
    return (struct block){.row = row,
                          .n = (int32_t)(left < b->block_rows ? left : b->block_rows),
                          .partial = b->partial[at],
                          .sum = b->partial[at][w->f->ranks.begin],
                          .aside = (uint8_t)(lag(w) > 0 ? at + 1 : 0)};
}

/* h += x (if x), y = norm(h) with the gain of the part that reads y; after the block's sum. */
static void add_norm(struct walk *w, int layer, const void *gain, const void *x,
                     const struct block *b) {
    const struct forward *f = w->f;
    const struct op_call call = {.op = OP_ADD_RMSNORM,
                                 .rank = SHARED_RANK,
                                 .layer = (int16_t)layer,
                                 .after = b->aside,
                                 .add_rmsnorm = {.h = row_of(w, w->step->h, b->row, f->m->C),
                                                 .x = x,
                                                 .gain = gain,
                                                 .y = row_of(w, w->step->y, b->row, f->m->C),
                                                 .rows = b->n,
                                                 .C = f->m->C,
                                                 .eps = f->m->rms_norm_eps,
                                                 .dtype = f->dtype}};
    emit(w, &call, NULL);
}

/* Gain of layer l's input norm; after the last layer comes the final norm. */
static const void *input_gain(const struct forward *f, int layer) {
    if (!f->weights) return NULL;
    return layer < f->m->layers ? f->weights->norms[layer].input : f->weights->final_norm;
}
static const void *post_gain(const struct forward *f, int layer) {
    return f->weights ? f->weights->norms[layer].post : NULL;
}

/* Where a rank puts its part of a sum that belongs into `sum`. */
static void *part_of(const struct walk *w, const struct block *b, int rank, void *sum) {
    return w->f->ranks.tp == 1 ? sum : b->partial[rank];
}

static void all_reduce(struct walk *w, enum role role, int layer, const struct block *b,
                       void *sum) {
    const struct forward *f = w->f;
    const struct reduction r = {b->partial, sum, b->n, role, layer, b->aside};
    if (f->ranks.tp > 1 && w->status == STATUS_OK)
        w->status = f->comm->all_reduce(f, &r, w->sink, w->err);
}

/* ---- the parts, in order */

/* Cosines and sines of all rows, for every layer and rank. */
static void rotations(struct walk *w) {
    const struct buffers *b = w->f->buffers;
    const struct op_call call = {.op = OP_ROPE_TABLE,
                                 .rank = SHARED_RANK,
                                 .layer = -1,
                                 .rope_table = {.inv_freq = b->inv_freq,
                                                .cos = b->cos,
                                                .sin = b->sin,
                                                .step = w->step->params,
                                                .pattern = w->f->pattern,
                                                .rows = w->step->rows,
                                                .D = w->f->m->D,
                                                .copies = b->copies}};
    emit(w, &call, NULL);
}

/* Each rank has the rows of its part of the vocabulary, the others give zeros. */
static void look_up(struct walk *w, struct block b) {
    const struct forward *f = w->f;
    void *h = row_of(w, w->step->h, b.row, f->m->C);
    if (b.n == 0) return;
    for (int rank = f->ranks.begin; rank < f->ranks.end; rank++) {
        const struct shard s = shard(w, rank);
        const struct op_call call = {
            .op = OP_EMBED,
            .rank = (int16_t)rank,
            .layer = -1,
            .embed = {.table = f->weights ? f->weights->rank[rank].embed : NULL,
                      .ids = (const int32_t *)((uintptr_t)w->step->ids +
                                               (uintptr_t)b.row * sizeof(int32_t)),
                      .out = part_of(w, &b, rank, h),
                      .vocab_begin = s.vocab_begin,
                      .vocab_end = s.vocab_begin + s.V,
                      .rows = b.n,
                      .C = f->m->C,
                      .dtype = f->dtype}};
        emit(w, &call, NULL);
    }
    all_reduce(w, ROLE_NONE, -1, &b, h);
}

/* y for the first layer. */
static void first_norm(struct walk *w, struct block b) {
    if (b.n > 0) add_norm(w, -1, input_gain(w->f, 0), NULL, &b);
}

static void embedding(struct walk *w) {
    for (int64_t i = 0; i < blocks(w) + lag(w); i++) {
        look_up(w, block(w, i));
        first_norm(w, block(w, i - lag(w)));
    }
}

/* Copies chosen rows of a rank's queries, keys and values or attention output aside, for the spot
 * check. */
static void tap(struct walk *w, enum role role, int layer, int rank, struct matrix src) {
    const struct buffers *b = w->f->buffers;
    const struct shard s = shard(w, rank);
    const int32_t n = (role == ROLE_KEY_VALUE ? 2 * s.K : s.H) * w->f->m->D;
    if (!w->step->taps) return;
    const void *all = role == ROLE_QUERY       ? b->tap_query[rank]
                      : role == ROLE_KEY_VALUE ? b->tap_kv[rank]
                                               : b->tap_output[rank];
    const struct op_call call = {.op = OP_TAP,
                                 .role = role,
                                 .rank = (int16_t)rank,
                                 .layer = (int16_t)layer,
                                 .tap = {.src = src.at,
                                         .dst = row_of(w, all, (int64_t)layer * TAP_ROWS, n),
                                         .ld = src.ld,
                                         .step = w->step->params,
                                         .n = n,
                                         .dtype = w->f->dtype}};
    emit(w, &call, NULL);
}

/* The rank's columns of qkv: [q | k | v]. */
static struct matrix qkv_of(const struct walk *w, int rank) {
    const struct shard s = shard(w, rank);
    return (struct matrix){w->f->buffers->qkv, (int64_t)(s.H + 2 * s.K) * w->f->m->D};
}

/* Keys and values of them. */
static struct matrix kv_of(const struct walk *w, int rank) {
    const struct matrix qkv = qkv_of(w, rank);
    return (struct matrix){row_of(w, qkv.at, 1, (int64_t)shard(w, rank).H * w->f->m->D), qkv.ld};
}

static void project_qkv(struct walk *w, int layer, int rank, bool with_queries) {
    const struct forward *f = w->f;
    const struct matrix y = {w->step->y, f->m->C}, qkv = qkv_of(w, rank), kv = kv_of(w, rank);
    if (layer < f->m->layers - 1) {
        linear(w, LINEAR_QKV, ROLE_QKV, layer, rank, w->step->rows, y, qkv);
        return;
    }
    if (with_queries) linear(w, LINEAR_Q, ROLE_QKV, layer, rank, w->step->rows, y, qkv);
    linear(w, LINEAR_KV, ROLE_QKV, layer, rank, w->step->rows, y, kv);
}

/* Rotates; new keys and values go into the cache. */
static void rotate_and_cache(struct walk *w, int layer, int rank, bool with_queries) {
    const struct buffers *b = w->f->buffers;
    const struct matrix qkv = qkv_of(w, rank);
    struct op_call call = {.op = OP_ROPE_CACHE,
                           .rank = (int16_t)rank,
                           .layer = (int16_t)layer,
                           .rope_cache = {.qkv = qkv.at,
                                          .ldqkv = qkv.ld,
                                          .cos = b->cos,
                                          .sin = b->sin,
                                          .kv = buffers_kv(b, rank, layer),
                                          .step = w->step->params,
                                          .rows = w->step->rows,
                                          .H = shard(w, rank).H,
                                          .D = w->f->m->D,
                                          .copies = b->copies,
                                          .dtype = w->f->dtype}};
    for (int i = 0; with_queries && i < b->copies; i++) call.rope_cache.q[i] = b->q[i];
    emit(w, &call, NULL);
}

static void attention(struct walk *w, int layer, int rank) {
    const struct forward *f = w->f;
    const struct buffers *b = f->buffers;
    const int32_t H = shard(w, rank).H, D = f->m->D;
    const int64_t ld = (int64_t)H * D;
    struct op_call call = {.op = OP_ATTENTION,
                           .rank = (int16_t)rank,
                           .layer = (int16_t)layer,
                           .attention = {.ldq = ld,
                                         .kv = buffers_kv(b, rank, layer),
                                         .out = b->attended[rank],
                                         .ldo = ld,
                                         .step = w->step->params,
                                         .pattern = f->pattern,
                                         .rows = w->step->rows,
                                         .H = H,
                                         .D = D,
                                         .scale = (float)(1 / sqrt((double)D)),
                                         .decode = w->step->decode,
                                         .dtype = f->dtype}};
    for (int i = 0; i < b->copies; i++) call.attention.q[i] = b->q[i];
    project_qkv(w, layer, rank, true);
    tap(w, ROLE_QUERY, layer, rank, qkv_of(w, rank));
    tap(w, ROLE_KEY_VALUE, layer, rank, kv_of(w, rank));
    rotate_and_cache(w, layer, rank, true);
    emit(w, &call, NULL);
    tap(w, ROLE_OUTPUT, layer, rank, (struct matrix){b->attended[rank], ld});
}

/* o_proj of a block, into its sum. */
static void attention_output(struct walk *w, int layer, struct block b) {
    const struct forward *f = w->f;
    if (b.n == 0) return;
    for (int rank = f->ranks.begin; rank < f->ranks.end; rank++) {
        const int64_t width = (int64_t)shard(w, rank).H * f->m->D;
        const struct matrix x = {row_of(w, f->buffers->attended[rank], b.row, width), width};
        linear(w, LINEAR_O, ROLE_O, layer, rank, b.n, x,
               (struct matrix){part_of(w, &b, rank, b.sum), f->m->C});
    }
    all_reduce(w, ROLE_O, layer, &b, b.sum);
}

static void swiglu(struct walk *w, int layer, int rank, int32_t n) {
    const struct op_call call = {.op = OP_SWIGLU,
                                 .rank = (int16_t)rank,
                                 .layer = (int16_t)layer,
                                 .swiglu = {.in = w->f->buffers->gate_up,
                                            .out = w->f->buffers->activated,
                                            .rows = n,
                                            .F = shard(w, rank).F,
                                            .dtype = w->f->dtype}};
    emit(w, &call, NULL);
}

/* The sum of attention_output() into h; the MLP of that, into the block's next sum. */
static void mlp(struct walk *w, int layer, struct block b) {
    const struct forward *f = w->f;
    const struct matrix y = {row_of(w, w->step->y, b.row, f->m->C), f->m->C};
    if (b.n == 0) return;
    add_norm(w, layer, post_gain(f, layer), b.sum, &b);
    for (int rank = f->ranks.begin; rank < f->ranks.end; rank++) {
        const int64_t F = shard(w, rank).F;
        linear(w, LINEAR_GATE_UP, ROLE_GATE_UP, layer, rank, b.n, y,
               (struct matrix){f->buffers->gate_up, 2 * F});
        swiglu(w, layer, rank, b.n);
        linear(w, LINEAR_DOWN, ROLE_DOWN, layer, rank, b.n,
               (struct matrix){f->buffers->activated, F},
               (struct matrix){part_of(w, &b, rank, b.sum), f->m->C});
    }
    all_reduce(w, ROLE_DOWN, layer, &b, b.sum);
}

/* The sum of mlp() into h; y for the next layer. */
static void layer_output(struct walk *w, int layer, struct block b) {
    if (b.n > 0) add_norm(w, layer, input_gain(w->f, layer + 1), b.sum, &b);
}

/* With a lag of one, a block's first sum is taken while the next block's o_proj and the last one's
 * MLP run, its second while the next block's MLP and the o_proj after that do. Three blocks are
 * under way then, each with parts of its own: ASIDES. */
static void decoder_layer(struct walk *w, int layer) {
    const struct ranks r = w->f->ranks;
    for (int rank = r.begin; rank < r.end; rank++) attention(w, layer, rank);
    for (int64_t i = 0; i < blocks(w) + 2 * lag(w); i++) {
        attention_output(w, layer, block(w, i));
        mlp(w, layer, block(w, i - lag(w)));
        layer_output(w, layer, block(w, i - 2 * lag(w)));
    }
}

/* What later tokens need of the last layer. */
static void keys_and_values(struct walk *w, int layer) {
    for (int rank = w->f->ranks.begin; rank < w->f->ranks.end; rank++) {
        project_qkv(w, layer, rank, false);
        tap(w, ROLE_KEY_VALUE, layer, rank, kv_of(w, rank));
        rotate_and_cache(w, layer, rank, false);
    }
}

static void logits(struct walk *w, const void *y, float *out) {
    const struct forward *f = w->f;
    for (int rank = f->ranks.begin; rank < f->ranks.end; rank++) {
        const struct shard s = shard(w, rank);
        const struct op_call call = {
            .op = OP_LOGITS,
            .role = ROLE_HEAD,
            .rank = (int16_t)rank,
            .layer = -1,
            .logits = {.head = f->weights ? f->weights->rank[rank].head : NULL,
                       .x = y,
                       .out = (float *)((uintptr_t)out + (uintptr_t)s.vocab_begin * sizeof(float)),
                       .ldout = f->m->V,
                       .rows = 1,
                       .V = s.V,
                       .C = f->m->C,
                       .dtype = f->dtype}};
        emit(w, &call, NULL);
    }
    if (f->comm->gather_logits && w->status == STATUS_OK)
        w->status = f->comm->gather_logits(f, out, w->sink, w->err);
}

static void sample(struct walk *w) {
    const struct op_call call = {
        .op = OP_SAMPLE, .rank = SHARED_RANK, .layer = -1, .sample = w->f->buffers->sample};
    emit(w, &call, NULL);
}

/* ---- the walks */

static void body(struct walk *w) {
    const int whole = w->f->m->layers - (w->step->prune ? 1 : 0);
    rotations(w);
    embedding(w);
    for (int layer = 0; layer < whole; layer++) decoder_layer(w, layer);
    if (w->step->prune) keys_and_values(w, whole);
}

enum status forward_body(const struct forward *f, const struct step *step,
                         const struct op_sink *sink, struct error *err) {
    struct walk w = {f, step, sink, err, STATUS_OK};
    body(&w);
    return w.status;
}

/* The pruned row passes through the whole last layer; it writes its keys and values a second time,
 * the same bits. */
enum status forward_finish(const struct forward *f, const struct step *step,
                           const struct op_sink *sink, struct error *err) {
    struct walk w = {f, step, sink, err, STATUS_OK};
    if (step->prune) {
        rotations(&w);
        decoder_layer(&w, f->m->layers - 1);
    }
    logits(&w, step->y, f->buffers->logits);
    return w.status;
}

enum status forward_logits(const struct forward *f, const void *y, float *out,
                           const struct op_sink *sink, struct error *err) {
    struct walk w = {f, NULL, sink, err, STATUS_OK};
    logits(&w, y, out);
    return w.status;
}

enum status forward_sample(const struct forward *f, const struct op_sink *sink, struct error *err) {
    struct walk w = {f, NULL, sink, err, STATUS_OK};
    sample(&w);
    return w.status;
}

enum status forward_decode(const struct forward *f, const struct step *step,
                           const struct op_sink *sink, struct error *err) {
    struct walk w = {f, step, sink, err, STATUS_OK};
    body(&w);
    logits(&w, step->y, f->buffers->logits);
    sample(&w);
    return w.status;
}
