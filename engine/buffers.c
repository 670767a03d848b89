/* Buffers of a session, by category, each named once: the same walk predicts and allocates. Before
 * it: session.c and the prediction; after it: forward.c, which computes in them. */
#include "engine/buffers.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* A rank's query, key or value rows: all ranks are equally large. */
static struct shard any_shard(const struct buffer_sizes *s) {
    return shard_of(s->m, s->ranks.tp, s->ranks.begin);
}

/* The only way to memory: who takes some says what for. */
static void *take(struct buffers *b, struct layout *l, const char *name, int rank,
                  enum buffer_life life, size_t bytes) {
    void *at = layout_take(l, rank, bytes);
    if (bytes == 0) return at;
    assert(b->n_named < BUFFERS_MAX);
    struct buffer *named = &b->named[b->n_named++];
    *named = (struct buffer){.at = at, .bytes = (int64_t)bytes, .rank = rank, .life = life};
    snprintf(named->name, sizeof named->name, "%s", name);
    return at;
}

static void place_activations(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const struct shard r = any_shard(s);
    const int64_t C = s->m->C, D = s->m->D, T = s->rows, B = s->block_rows;
    const size_t stream = matrix_bytes(T, C, s->dtype), heads = matrix_bytes(T, r.H * D, s->dtype);
    const size_t row = matrix_bytes(1, (r.H + 2 * r.K) * D, s->dtype);
    b->h = take(b, l, "h", SHARED_RANK, LIVES_BETWEEN_OPS, stream);
    b->y = take(b, l, "y", SHARED_RANK, LIVES_BETWEEN_OPS, stream);
    b->qkv = take(b, l, "qkv", SHARED_RANK, LIVES_BETWEEN_OPS, (size_t)T * row);
    b->named[b->n_named - 1].pitch = (int64_t)row;
    for (int i = 0; i < s->copies; i++)
        b->q[i] = take(b, l, i ? "q (far)" : "q", SHARED_RANK, LIVES_BETWEEN_OPS, heads);
    for (int rank = s->ranks.begin; rank < s->ranks.end; rank++)
        b->attended[rank] = take(b, l, "attended", rank, LIVES_BETWEEN_OPS, heads);
    b->gate_up = take(b, l, "gate_up", SHARED_RANK, LIVES_BETWEEN_OPS,
                      matrix_bytes(B, 2 * (int64_t)r.F, s->dtype));
    b->activated =
        take(b, l, "activated", SHARED_RANK, LIVES_BETWEEN_OPS, matrix_bytes(B, r.F, s->dtype));
    b->logits = take(b, l, "logits", SHARED_RANK, LIVES_AFTER, matrix_bytes(1, s->m->V, DTYPE_F32));
    b->logits_at = take(b, l, "logits_at", SHARED_RANK, LIVES_ALWAYS,
                        matrix_bytes(s->logits_at_count, s->m->V, DTYPE_F32));
    if (s->ranks.tp == 1)
        b->partial[0][0] =
            take(b, l, "partial", 0, LIVES_BETWEEN_OPS, matrix_bytes(B, C, s->dtype));
}

static void place_parts(struct buffers *b, int block, const struct buffer_sizes *s,
                        struct layout *l) {
    const int32_t slice = rows_slice(s->block_rows, ranks_devices(s->ranks), 0).n;
    for (int rank = 0; rank < s->ranks.tp; rank++) {
        const bool mine = rank >= s->ranks.begin && rank < s->ranks.end;
        b->partial[block][rank] =
            take(b, l, mine ? "partial" : "partial (peer)", mine ? rank : SHARED_RANK,
                 LIVES_BETWEEN_OPS, matrix_bytes(mine ? s->block_rows : slice, s->m->C, s->dtype));
    }
}

static void place_comm(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    for (int i = 0; s->ranks.tp > 1 && i < s->blocks; i++) place_parts(b, i, s, l);
}

static void place_kv(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const struct shard r = any_shard(s);
    const size_t layers = (size_t)s->m->layers;
    b->kv = (struct kv_view){.layout = s->kv_layout,
                             .capacity = s->capacity,
                             .heads = r.K,
                             .head_dim = s->m->D,
                             .dtype = s->dtype};
    b->kv_bytes =
        s->kv_layout ? arena_bytes(s->kv_layout->bytes(s->capacity, r.K, s->m->D, s->dtype)) : 0;
    for (int rank = s->ranks.begin; rank < s->ranks.end; rank++) {
        b->k[rank] = take(b, l, "kv", rank, LIVES_IN_CACHE, layers * b->kv_bytes);
        b->v[rank] = take(b, l, "kv", rank, LIVES_IN_CACHE, layers * b->kv_bytes);
    }
}

static void place_sampling(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const size_t V = (size_t)s->m->V, seen = (V + 31) / 32 * sizeof(uint32_t);
    const enum buffer_life always = LIVES_ALWAYS;
    b->sample = (struct sample_args){
        .logits = b->logits,
        .seen = take(b, l, "seen", SHARED_RANK, always, seen),
        .draw = take(b, l, "draw", SHARED_RANK, always, sizeof(int32_t)),
        .id = take(b, l, "id", SHARED_RANK, LIVES_AFTER, sizeof(int32_t)),
        .logprob = take(b, l, "logprob", SHARED_RANK, LIVES_AFTER, sizeof(float)),
        .scratch =
            take(b, l, "sampling", SHARED_RANK, LIVES_BETWEEN_OPS, sample_scratch_bytes(s->m->V)),
        .params = take(b, l, "sample_params", SHARED_RANK, always, sizeof(struct sample_params)),
        .V = s->m->V};
}

static void place_taps(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const struct shard r = any_shard(s);
    const int64_t D = s->m->D, rows = (int64_t)s->m->layers * TAP_ROWS;
    for (int rank = s->ranks.begin; s->taps && rank < s->ranks.end; rank++) {
        const size_t heads = matrix_bytes(rows, r.H * D, s->dtype);
        const size_t kv = matrix_bytes(rows, 2 * r.K * D, s->dtype);
        b->tap_query[rank] = take(b, l, "tap_query", rank, LIVES_AFTER, heads);
        b->tap_output[rank] = take(b, l, "tap_output", rank, LIVES_AFTER, heads);
        b->tap_kv[rank] = take(b, l, "tap_kv", rank, LIVES_AFTER, kv);
    }
}

static void place_workspace(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const size_t half = (size_t)s->m->D / 2;
    const size_t angles = (size_t)s->copies * (size_t)s->rows * half;
    for (int i = 0; i < STEPS; i++)
        b->params[i] = take(b, l, "params", SHARED_RANK, LIVES_ALWAYS, sizeof(struct step_params));
    b->ids = take(b, l, "ids", SHARED_RANK, LIVES_BETWEEN_OPS, (size_t)s->rows * sizeof(int32_t));
    b->inv_freq = take(b, l, "inv_freq", SHARED_RANK, LIVES_ALWAYS, half * sizeof(double));
    b->cos = take(b, l, "cos", SHARED_RANK, LIVES_BETWEEN_OPS, angles * sizeof(float));
    b->sin = take(b, l, "sin", SHARED_RANK, LIVES_BETWEEN_OPS, angles * sizeof(float));
    place_sampling(b, s, l);
    place_taps(b, s, l);
}

typedef void place_function(struct buffers *b, const struct buffer_sizes *s, struct layout *l);
/* In this order: sampling reads the logits, which are an activation. */
static const struct {
    enum memory_category category;
    place_function *place;
} arenas[] = {{MEMORY_KV, place_kv},
              {MEMORY_ACTIVATIONS, place_activations},
              {MEMORY_COMM, place_comm},
              {MEMORY_WORKSPACE, place_workspace}};
enum { ARENAS = sizeof arenas / sizeof arenas[0] };

static void start(struct buffers *b, const struct buffer_sizes *s) {
    *b = (struct buffers){.block_rows = s->block_rows, .blocks = s->blocks, .copies = s->copies};
}

static void place(int arena, struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const int before = b->n_named;
    arenas[arena].place(b, s, l);
    for (int i = before; i < b->n_named; i++) b->named[i].category = arenas[arena].category;
}

static void place_all(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    start(b, s);
    for (int i = 0; i < ARENAS; i++) place(i, b, s, &l[arenas[i].category]);
}

void buffers_layout(const struct buffer_sizes *s, struct layout by_category[MEMORY_CATEGORIES]) {
    struct buffers unused;
    memset(by_category, 0, MEMORY_CATEGORIES * sizeof *by_category);
    place_all(&unused, s, by_category);
}

void buffers_imagine(struct buffers *b, const struct buffer_sizes *s) {
    struct layout unused[MEMORY_CATEGORIES] = {0};
    place_all(b, s, unused);
}

enum status buffers_open(struct buffers *b, struct device *dev, const struct buffer_sizes *s,
                         struct error *err) {
    struct layout sizes[MEMORY_CATEGORIES];
    buffers_layout(s, sizes);
    start(b, s);
    for (int i = 0; i < ARENAS; i++) {
        const enum memory_category c = arenas[i].category;
        const size_t bytes = layout_total(&sizes[c]);
        if (bytes == 0) continue;
        enum status status = arena_open(&b->arena[c], dev, c, bytes, err);
        if (status != STATUS_OK) {
            buffers_close(b);
            return status;
        }
        place(i, b, s, &(struct layout){.arena = b->arena[c]});
    }
    return STATUS_OK;
}

void buffers_close(struct buffers *b) {
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        arena_close(b->arena[c]);
        b->arena[c] = NULL;
    }
}

struct kv_view buffers_kv(const struct buffers *b, int rank, int layer) {
    struct kv_view view = b->kv;
    const uintptr_t at = (uintptr_t)layer * b->kv_bytes;
    view.k = (void *)((uintptr_t)b->k[rank] + at);
    view.v = (void *)((uintptr_t)b->v[rank] + at);
    return view;
}
