/* Loader: cuts tensors into shards, fuses and interleaves their rows, has the device pack them.
 * Before it: a model_source; after it: forward.c. One walk names every weight in order; without a
 * source it only adds up. Packing goes weight by weight through one staging buffer, so that no
 * model is ever held twice; random numbers are made where they are to lie. */
#include "engine/weights.h"

#include <stdlib.h>

/* ---- which rows of which tensors make a weight */

struct piece {
    enum tensor rows, bias; /* bias: TENSORS for none */
    int64_t row, n, col;
};
struct recipe {
    int64_t K;
    int pieces;
    bool alternate; /* row by row, instead of one piece after the other */
    struct piece piece[3];
};

static struct recipe recipe_of(const struct model_config *m, const struct shard *s,
                               enum linear linear) {
    const int64_t C = m->C, D = m->D, q_begin = s->head_begin * D, kv_begin = s->kv_begin * D;
    const struct piece q = {TENSOR_Q, TENSOR_Q_BIAS, q_begin, s->H * D, 0},
                       k = {TENSOR_K, TENSOR_K_BIAS, kv_begin, s->K * D, 0},
                       v = {TENSOR_V, TENSOR_V_BIAS, kv_begin, s->K * D, 0},
                       o = {TENSOR_O, TENSORS, 0, C, q_begin},
                       gate = {TENSOR_GATE, TENSORS, s->ffn_begin, s->F, 0},
                       up = {TENSOR_UP, TENSORS, s->ffn_begin, s->F, 0},
                       down = {TENSOR_DOWN, TENSORS, 0, C, s->ffn_begin};
    switch (linear) {
    case LINEAR_QKV: return (struct recipe){C, 3, false, {q, k, v}};
    case LINEAR_Q: return (struct recipe){C, 1, false, {q}};
    case LINEAR_KV: return (struct recipe){C, 2, false, {k, v}};
    case LINEAR_O: return (struct recipe){s->H * D, 1, false, {o}};
    case LINEAR_GATE_UP: return (struct recipe){C, 2, true, {gate, up}};
    case LINEAR_DOWN: return (struct recipe){s->F, 1, false, {down}};
    case LINEARS: break;
    }
    return (struct recipe){0};
}

static bool layer_has(const struct model_config *m, int layer, enum linear linear) {
    const bool last = layer == m->layers - 1;
    if (linear == LINEAR_QKV) return !last;
    if (linear == LINEAR_Q || linear == LINEAR_KV) return last;
    return true;
}

struct weight_shape linear_shape(const struct model_config *m, const struct shard *s,
                                 enum linear linear, enum dtype dtype) {
    const struct recipe r = recipe_of(m, s, linear);
    int64_t N = 0;
    for (int i = 0; i < r.pieces; i++) N += r.piece[i].n;
    return (struct weight_shape){(int32_t)N, (int32_t)r.K, dtype, r.piece[0].bias != TENSORS};
}

/* ---- the walk */

struct loader {
    struct device *dev;
    const struct model_config *m;
    struct ranks ranks;
    enum dtype dtype;
    struct layout *layout;
    struct weights *out;         /* NULL: only add up */
    struct model_source *source; /* borrowed */
    bool made;                   /* on the device, not read */
    struct load_stops stops;
    char *staging; /* owned */
    size_t staging_bytes;
    enum status status; /* the first failure; nothing is done after it */
    struct error *err;
};

static bool is_set(const volatile int *flag) {
    return flag && __atomic_load_n(flag, __ATOMIC_RELAXED) != 0;
}

/* Each weight comes through here before anything is done for it. */
static bool stage(struct loader *l, size_t bytes) {
    if (l->status == STATUS_OK && (is_set(l->stops.asked) || is_set(l->stops.failed)))
        l->status = error_set(l->err, STATUS_INTERRUPTED, "stopped while loading %s", l->m->name);
    if (l->status != STATUS_OK) return false;
    if (bytes <= l->staging_bytes) return true;
    free(l->staging);
    l->staging = malloc(bytes);
    l->staging_bytes = l->staging ? bytes : 0;
    if (!l->staging)
        l->status = error_set(l->err, STATUS_NO_MEMORY,
                              "no memory for %zu bytes of weights on their way", bytes);
    return l->staging != NULL;
}

/* Into the staging buffer. */
static void read_rows(struct loader *l, enum tensor tensor, int layer, struct matrix_part part,
                      void *out, int64_t ld) {
    if (l->status == STATUS_OK)
        l->status = l->source->read(l->source, tensor, layer, part.row, part.rows, part.col,
                                    part.cols, l->dtype, out, ld, l->err);
}

/* Into memory of the device. */
static void make_rows(struct loader *l, enum tensor tensor, int layer, struct matrix_part part,
                      void *out, int64_t ld) {
    struct random_matrix m;
    l->source->matrix(l->source, tensor, layer, &m);
    device_random_matrix(l->dev, &m, &part, l->dtype, out, ld);
}

typedef void rows_function(struct loader *l, enum tensor tensor, int layer, struct matrix_part part,
                           void *out, int64_t ld);

/* Puts a weight's tensors where its rows and bias are to lie. */
static void put_pieces(struct loader *l, const struct recipe *r, int layer, rows_function *put,
                       char *rows, char *bias) {
    const size_t item = dtype_bytes(l->dtype);
    int64_t begin = 0;
    for (int i = 0; i < r->pieces; i++) {
        const struct piece *p = &r->piece[i];
        const int64_t first = r->alternate ? i : begin, every = r->alternate ? r->pieces : 1;
        put(l, p->rows, layer, (struct matrix_part){p->row, p->n, p->col, r->K},
            rows + (size_t)(first * r->K) * item, every * r->K);
        if (p->bias != TENSORS)
            put(l, p->bias, layer, (struct matrix_part){0, 1, p->row, p->n},
                bias + (size_t)begin * item, p->n);
        begin += p->n;
    }
}

static const struct weight *read_linear(struct loader *l, const struct shard *s, int layer,
                                        enum linear linear) {
    const struct recipe r = recipe_of(l->m, s, linear);
    const struct weight_shape shape = linear_shape(l->m, s, linear, l->dtype);
    const size_t item = dtype_bytes(l->dtype), bias_at = (size_t)shape.N * (size_t)shape.K * item;
    const struct weight *packed = NULL;
    if (!stage(l, bias_at + (size_t)shape.N * item)) return NULL;
    char *bias = shape.bias ? l->staging + bias_at : NULL;
    put_pieces(l, &r, layer, read_rows, l->staging, bias);
    if (l->status == STATUS_OK)
        l->status = device_weight_pack(l->dev, l->layout->arena, s->rank, shape, l->staging, bias,
                                       &packed, l->err);
    return packed;
}

static const struct weight *make_linear(struct loader *l, const struct shard *s, int layer,
                                        enum linear linear) {
    const struct recipe r = recipe_of(l->m, s, linear);
    const struct weight *w = NULL;
    void *rows, *bias;
    if (!stage(l, 0)) return NULL;
    l->status = device_weight_pack(l->dev, l->layout->arena, s->rank,
                                   linear_shape(l->m, s, linear, l->dtype), NULL, NULL, &w, l->err);
    if (l->status != STATUS_OK) return NULL;
    device_weight_place(w, &rows, &bias);
    put_pieces(l, &r, layer, make_rows, rows, bias);
    return w;
}

static const struct weight *take_linear(struct loader *l, const struct shard *s, int layer,
                                        enum linear linear) {
    layout_add(l->layout, s->rank,
               device_weight_bytes(l->dev, linear_shape(l->m, s, linear, l->dtype)));
    if (!l->out) return NULL;
    return l->made && device_weights_are_plain(l->dev) ? make_linear(l, s, layer, linear)
                                                       : read_linear(l, s, layer, linear);
}

/* Plain rows, [n][cols], made in place or through the staging buffer some rows at a time. */
static const void *take_rows(struct loader *l, int rank, enum tensor tensor, int layer, int64_t row,
                             int64_t n, int64_t cols) {
    enum { STAGED_BYTES = 64 << 20 };
    const size_t row_bytes = (size_t)cols * dtype_bytes(l->dtype);
    const int64_t most = STAGED_BYTES / (int64_t)row_bytes + 1;
    char *at = layout_take(l->layout, rank, (size_t)n * row_bytes);
    if (l->made) {
        if (stage(l, 0))
            make_rows(l, tensor, layer, (struct matrix_part){row, n, 0, cols}, at, cols);
        return at;
    }
    for (int64_t i = 0; l->out && l->status == STATUS_OK && i < n; i += most) {
        const int64_t rows = n - i < most ? n - i : most;
        if (!stage(l, (size_t)rows * row_bytes)) break;
        read_rows(l, tensor, layer, (struct matrix_part){row + i, rows, 0, cols}, l->staging, cols);
        if (l->status == STATUS_OK)
            device_write(l->dev, at + (size_t)i * row_bytes, l->staging, (size_t)rows * row_bytes);
    }
    return at;
}

static void take_rank(struct loader *l, int rank) {
    const struct model_config *m = l->m;
    const struct shard s = shard_of(m, l->ranks.tp, rank);
    struct rank_weights *out = l->out ? &l->out->rank[rank] : NULL;
    for (int layer = 0; layer < m->layers; layer++)
        for (int linear = 0; linear < LINEARS; linear++) {
            if (!layer_has(m, layer, linear)) continue;
            const struct weight *w = take_linear(l, &s, layer, linear);
            if (out) out->layer[layer].linear[linear] = w;
        }
    const void *embed = take_rows(l, rank, TENSOR_EMBED, 0, s.vocab_begin, s.V, m->C);
    const void *head = m->tie_word_embeddings
                           ? embed
                           : take_rows(l, rank, TENSOR_HEAD, 0, s.vocab_begin, s.V, m->C);
    if (out) out->embed = embed, out->head = head;
}

static void take_all(struct loader *l) {
    const int64_t C = l->m->C;
    for (int layer = 0; layer < l->m->layers; layer++) {
        const void *input = take_rows(l, SHARED_RANK, TENSOR_INPUT_NORM, layer, 0, 1, C);
        const void *post = take_rows(l, SHARED_RANK, TENSOR_POST_NORM, layer, 0, 1, C);
        if (l->out) l->out->norms[layer] = (struct layer_norms){input, post};
    }
    const void *final_norm = take_rows(l, SHARED_RANK, TENSOR_FINAL_NORM, 0, 0, 1, C);
    if (l->out) l->out->final_norm = final_norm;
    for (int r = l->ranks.begin; r < l->ranks.end; r++) take_rank(l, r);
}

/* ---- the doors */

void weights_layout(struct device *dev, const struct model_config *m, struct ranks ranks,
                    enum dtype dtype, struct layout *l) {
    take_all(&(struct loader){.dev = dev, .m = m, .ranks = ranks, .dtype = dtype, .layout = l});
}

int64_t weights_count(const struct model_config *m, struct ranks ranks) {
    int64_t n = 0;
    for (int layer = 0; layer < m->layers; layer++)
        for (int linear = 0; linear < LINEARS; linear++) n += layer_has(m, layer, linear);
    return n * (ranks.end - ranks.begin);
}

static enum status allocate(struct weights *w, struct device *dev, const struct model_config *m,
                            struct ranks ranks, size_t bytes, struct error *err) {
    const size_t layers = (size_t)m->layers;
    bool all = (w->norms = calloc(layers, sizeof *w->norms)) != NULL;
    for (int r = ranks.begin; r < ranks.end; r++)
        all = (w->rank[r].layer = calloc(layers, sizeof *w->rank[r].layer)) && all;
    if (!all) return error_set(err, STATUS_NO_MEMORY, "no memory for the tables of a model");
    enum status s = arena_open(&w->arena, dev, MEMORY_WEIGHTS, bytes, err);
    return s == STATUS_OK ? s : error_prefix(err, s, "weights of %s", m->name);
}

enum status weights_load(struct weights **out, struct device *dev, struct model_source *source,
                         struct ranks ranks, enum dtype dtype, struct load_stops stops,
                         struct error *err) {
    const struct model_config *m = &source->config;
    struct layout layout = {0};
    *out = NULL;
    weights_layout(dev, m, ranks, dtype, &layout);
    struct weights *w = calloc(1, sizeof *w);
    if (!w) return error_set(err, STATUS_NO_MEMORY, "no memory for the tables of a model");
    enum status s = allocate(w, dev, m, ranks, layout_total(&layout), err);
    if (s == STATUS_OK) {
        struct loader l = {.dev = dev,
                           .m = m,
                           .ranks = ranks,
                           .dtype = dtype,
                           .layout = &(struct layout){.arena = w->arena},
                           .out = w,
                           .source = source,
                           .made = source->matrix != NULL,
                           .stops = stops,
                           .err = err};
        take_all(&l);
        free(l.staging);
        s = l.status == STATUS_OK ? device_sync(dev, err) : l.status;
    }
    if (s == STATUS_OK)
        *out = w;
    else
        weights_close(w);
    return s;
}

void weights_close(struct weights *w) {
    if (!w) return;
    for (int r = 0; r < MAX_RANKS; r++) free(w->rank[r].layer);
    free(w->norms);
    arena_close(w->arena);
    free(w);
}

int64_t model_parameters(const struct model_config *m) {
    const int64_t C = m->C, q = (int64_t)m->H * m->D, kv = (int64_t)m->K * m->D;
    const int64_t layer = (q + 2 * kv) * (C + 1) + C * q + 3 * C * m->F + 2 * C;
    return layer * m->layers + C + (int64_t)m->V * C * (m->tie_word_embeddings ? 1 : 2);
}
