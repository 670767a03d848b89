/* Buffers of a session, by category, each named once: the same walk predicts and allocates. Before
 * it: session.c and the prediction; after it: forward.c, which computes in them. */
#include "engine/buffers.h"

#include <string.h>

/* A rank's query, key or value rows: all ranks are equally large. */
static struct shard any_shard(const struct buffer_sizes *s) {
    return shard_of(s->m, s->ranks.tp, s->ranks.begin);
}

static void place_activations(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const struct shard r = any_shard(s);
    const int64_t C = s->m->C, D = s->m->D, T = s->rows, B = s->block_rows;
    b->h = layout_take(l, SHARED_RANK, matrix_bytes(T, C, s->dtype));
    b->y = layout_take(l, SHARED_RANK, matrix_bytes(T, C, s->dtype));
    b->qkv = layout_take(l, SHARED_RANK, matrix_bytes(T, (r.H + 2 * r.K) * D, s->dtype));
    for (int i = 0; i < s->copies; i++)
        b->q[i] = layout_take(l, SHARED_RANK, matrix_bytes(T, r.H * D, s->dtype));
    for (int rank = s->ranks.begin; rank < s->ranks.end; rank++)
        b->attended[rank] = layout_take(l, rank, matrix_bytes(T, r.H * D, s->dtype));
    b->gate_up = layout_take(l, SHARED_RANK, matrix_bytes(B, 2 * (int64_t)r.F, s->dtype));
    b->activated = layout_take(l, SHARED_RANK, matrix_bytes(B, r.F, s->dtype));
    b->logits = layout_take(l, SHARED_RANK, matrix_bytes(1, s->m->V, DTYPE_F32));
    b->logits_at =
        layout_take(l, SHARED_RANK, matrix_bytes(s->logits_at_count, s->m->V, DTYPE_F32));
    if (s->ranks.tp == 1) b->partial[0] = layout_take(l, 0, matrix_bytes(B, C, s->dtype));
}

static void place_comm(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    if (s->ranks.tp == 1) return;
    const int32_t slice = rows_slice(s->block_rows, ranks_devices(s->ranks), 0).n;
    for (int rank = 0; rank < s->ranks.tp; rank++) {
        const bool mine = rank >= s->ranks.begin && rank < s->ranks.end;
        b->partial[rank] =
            layout_take(l, mine ? rank : SHARED_RANK,
                        matrix_bytes(mine ? s->block_rows : slice, s->m->C, s->dtype));
    }
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
        b->k[rank] = layout_take(l, rank, layers * b->kv_bytes);
        b->v[rank] = layout_take(l, rank, layers * b->kv_bytes);
    }
}

static void place_sampling(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const size_t V = (size_t)s->m->V;
    b->sample =
        (struct sample_args){.logits = b->logits,
                             .seen = layout_take(l, SHARED_RANK, (V + 31) / 32 * sizeof(uint32_t)),
                             .draw = layout_take(l, SHARED_RANK, sizeof(int32_t)),
                             .id = layout_take(l, SHARED_RANK, sizeof(int32_t)),
                             .logprob = layout_take(l, SHARED_RANK, sizeof(float)),
                             .scratch = layout_take(l, SHARED_RANK, sample_scratch_bytes(s->m->V)),
                             .params = layout_take(l, SHARED_RANK, sizeof(struct sample_params)),
                             .V = s->m->V};
}

static void place_taps(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const struct shard r = any_shard(s);
    const int64_t D = s->m->D, rows = (int64_t)s->m->layers * TAP_ROWS;
    for (int rank = s->ranks.begin; s->taps && rank < s->ranks.end; rank++) {
        b->tap_query[rank] = layout_take(l, rank, matrix_bytes(rows, r.H * D, s->dtype));
        b->tap_output[rank] = layout_take(l, rank, matrix_bytes(rows, r.H * D, s->dtype));
        b->tap_kv[rank] = layout_take(l, rank, matrix_bytes(rows, 2 * r.K * D, s->dtype));
    }
}

static void place_workspace(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    const size_t half = (size_t)s->m->D / 2;
    const size_t angles = (size_t)s->copies * (size_t)s->rows * half;
    for (int i = 0; i < STEPS; i++)
        b->params[i] = layout_take(l, SHARED_RANK, sizeof(struct step_params));
    b->ids = layout_take(l, SHARED_RANK, (size_t)s->rows * sizeof(int32_t));
    b->inv_freq = layout_take(l, SHARED_RANK, half * sizeof(double));
    b->cos = layout_take(l, SHARED_RANK, angles * sizeof(float));
    b->sin = layout_take(l, SHARED_RANK, angles * sizeof(float));
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
    *b = (struct buffers){.block_rows = s->block_rows, .copies = s->copies};
}

static void place_all(struct buffers *b, const struct buffer_sizes *s, struct layout *l) {
    start(b, s);
    for (int i = 0; i < ARENAS; i++) arenas[i].place(b, s, &l[arenas[i].category]);
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
        arenas[i].place(b, s, &(struct layout){.arena = b->arena[c]});
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
