/* The part of blocked attention that is the same for every instruction set: cuts a chunk into work
 * items, packs queries into lanes, walks segments and blocks of keys, divides and stores. */
#include "kernels/attention/attention_tiles.h"
#include "kernels/element.h"

#include <assert.h>
#include <float.h>
#include <string.h>

struct attention_work {
    const struct attention_args *args;
    const struct attention_kernel *kernel;
    struct device *dev;
    int32_t group;   /* query heads that share a kv head */
    int64_t queries; /* of one kv head */
    int64_t tile;    /* of them in a work item */
    int64_t tiles;
};

static size_t query_words(const struct attention_kernel *kernel, int32_t D) {
    return kernel->pairs ? (size_t)D / 2 : (size_t)D;
}

/* Scratch of a tile, in the order in which take_scratch() cuts it. */
static size_t query_bytes(const struct attention_kernel *kernel, int32_t D) {
    return (query_words(kernel, D) + 3 + (size_t)D) * sizeof(float);
}
static size_t block_bytes(const struct attention_kernel *kernel, int32_t D) {
    const size_t values = 2 * (size_t)D + 2 * (size_t)kernel->lanes;
    return ATTENTION_BLOCK * values * sizeof(float);
}

static struct attention_tile take_scratch(const struct attention_work *w, int worker) {
    const size_t D = (size_t)w->args->D, n = (size_t)w->tile;
    const size_t scores = 2 * (size_t)ATTENTION_BLOCK * (size_t)w->kernel->lanes;
    struct attention_tile tile = {.D = w->args->D};
    tile.scores = device_scratch(w->dev, worker);
    tile.k = tile.scores + scores;
    tile.v = tile.k + ATTENTION_BLOCK * D;
    tile.out = tile.v + ATTENTION_BLOCK * D;
    tile.q = (uint32_t *)(tile.out + n * D);
    tile.end = (int32_t *)(tile.q + n * query_words(w->kernel, w->args->D));
    tile.max = (float *)(tile.end + n);
    tile.sum = tile.max + n;
    /* log2(e): the kernels' exponential is one of 2 */
    tile.scale = w->args->scale * w->args->step->query_factor * 1.44269504f;
    return tile;
}

/* ---- queries in, output out */

static size_t query_index(const struct attention_work *w, int head, int64_t query, int64_t ld) {
    const int64_t row = query / w->group, h = head * (int64_t)w->group + query % w->group;
    return (size_t)(row * ld + h * w->args->D);
}

static void pack_pairs(uint32_t *to, size_t lanes, const bf16 *q, size_t words) {
    for (size_t i = 0; i < words; i++) memcpy(to + i * lanes, q + 2 * i, sizeof *to);
}

static void pack_floats(uint32_t *to, size_t lanes, const void *q, size_t from, size_t words,
                        enum dtype dtype) {
    for (size_t i = 0; i < words; i++) {
        const float wide = element_load(q, from + i, dtype);
        memcpy(to + i * lanes, &wide, sizeof *to);
    }
}

static void pack_queries(const struct attention_work *w, const struct attention_tile *tile,
                         int head, int64_t first, const void *q) {
    const size_t lanes = (size_t)w->kernel->lanes, words = query_words(w->kernel, tile->D);
    for (size_t n = 0; n < (size_t)tile->groups * lanes; n++) {
        uint32_t *to = tile->q + n / lanes * lanes * words + n % lanes;
        if (n >= (size_t)tile->count) {
            for (size_t i = 0; i < words; i++) to[i * lanes] = 0;
            continue;
        }
        const size_t from = query_index(w, head, first + (int64_t)n, w->args->ldq);
        if (w->kernel->pairs)
            pack_pairs(to, lanes, (const bf16 *)q + from, words);
        else
            pack_floats(to, lanes, q, from, words, w->args->dtype);
    }
}

static void reset(const struct attention_work *w, const struct attention_tile *tile,
                  int64_t first) {
    const size_t n = (size_t)tile->groups * (size_t)w->kernel->lanes;
    for (size_t i = 0; i < n; i++) {
        const int64_t last = tile->count - 1,
                      query = first + ((int64_t)i < last ? (int64_t)i : last);
        tile->end[i] = w->args->step->q_start + (int32_t)(query / w->group) + 1;
        tile->max[i] = -FLT_MAX; /* not infinity: its difference to itself would be NaN */
        tile->sum[i] = 0;
    }
    memset(tile->out, 0, n * (size_t)tile->D * sizeof *tile->out);
}

static void store(const struct attention_work *w, const struct attention_tile *tile, int head,
                  int64_t first) {
    const size_t lanes = (size_t)w->kernel->lanes, D = (size_t)tile->D;
    for (size_t n = 0; n < (size_t)tile->count; n++) {
        const float *out = tile->out + n / lanes * lanes * D + n % lanes;
        const size_t to = query_index(w, head, first + (int64_t)n, w->args->ldo);
        w->kernel->store(element_at_mut(w->args->out, to, w->args->dtype), out, 1 / tile->sum[n],
                         tile->D, w->args->dtype);
    }
}

/* ---- keys */

static void widen(float *to, const void *from, size_t first, size_t n, enum dtype dtype) {
    for (size_t i = 0; i < n; i++) to[i] = element_load(from, first + i, dtype);
}

static struct attention_block block_at(const struct attention_work *w,
                                       const struct attention_tile *tile, int head, int32_t begin) {
    const struct kv_view *kv = &w->args->kv;
    const size_t D = (size_t)tile->D;
    const size_t first = ((size_t)head * (size_t)kv->capacity + (size_t)begin) * D;
    struct attention_block block = {.begin = begin};
    if (w->kernel->pairs || kv->dtype == DTYPE_F32) {
        block.k = element_at(kv->k, first, kv->dtype);
        block.v = element_at(kv->v, first, kv->dtype);
    } else {
        widen(tile->k, kv->k, first, ATTENTION_BLOCK * D, kv->dtype);
        widen(tile->v, kv->v, first, ATTENTION_BLOCK * D, kv->dtype);
        block.k = tile->k, block.v = tile->v;
    }
    return block;
}

/* Queries [first, first + tile->count) of a kv head: all have the segments of the last one, but for
 * their own end. */
static void run_tile(const struct attention_work *w, struct attention_tile *tile, int head,
                     int64_t first) {
    const struct attention_args *a = w->args;
    const int32_t lanes = w->kernel->lanes;
    const int32_t last = a->step->q_start + (int32_t)((first + tile->count - 1) / w->group);
    struct attention_segment segment[Q_COPIES];
    const int segments = attention_segments(a->pattern, last, segment);
    tile->groups = (tile->count + lanes - 1) / lanes;
    reset(w, tile, first);
    for (int s = 0; s < segments; s++) {
        pack_queries(w, tile, head, first, a->q[segment[s].copy]);
        for (int32_t begin = segment[s].begin; begin < segment[s].end; begin += ATTENTION_BLOCK) {
            struct attention_block block = block_at(w, tile, head, begin);
            w->kernel->block(tile, &block);
        }
    }
    store(w, tile, head, first);
}

/* One item: queries of one kv head, cut where the segments change. */
static void run_item(void *ctx, int64_t item, int worker) {
    const struct attention_work *w = ctx;
    const int32_t heads = w->args->kv.heads, q_start = w->args->step->q_start;
    const int32_t chunk = w->args->pattern.chunk;
    const int64_t index = w->tiles - 1 - item / heads; /* longest first */
    int64_t first = index * w->tile;
    const int64_t end = first + w->tile < w->queries ? first + w->tile : w->queries;
    struct attention_tile tile = take_scratch(w, worker);
    while (first < end) {
        int64_t next = end;
        if (chunk) {
            const int64_t position = q_start + first / w->group;
            const int64_t border = ((position / chunk + 1) * chunk - q_start) * w->group;
            if (border < next) next = border;
        }
        tile.count = (int32_t)(next - first);
        run_tile(w, &tile, (int)(item % heads), first);
        first = next;
    }
}

/* Multiply-adds of q . k in an item, at most: 140 GFLOP in all, or device_progress would stand
 * still for more than a second. */
static const int64_t item_work = (int64_t)1 << 35;

/* Queries of an item: as many as the kernel likes, fewer when that would leave threads idle, takes
 * too long or does not fit into the scratch. No result depends on it. */
static int64_t tile_of(struct device *dev, const struct attention_work *w) {
    const int64_t lanes = w->kernel->lanes, wanted = 4 * (int64_t)device_threads(dev);
    const int64_t room = DEVICE_SCRATCH_BYTES - (int64_t)block_bytes(w->kernel, w->args->D);
    int64_t tile = w->kernel->tile;
    while (tile > lanes && (w->queries + tile - 1) / tile * w->args->kv.heads < wanted) tile /= 2;
    while (tile > lanes && tile * w->args->step->kv_len * w->args->D > item_work) tile /= 2;
    while (tile > lanes && tile * (int64_t)query_bytes(w->kernel, w->args->D) > room) tile /= 2;
    return tile < lanes ? lanes : tile;
}

void attention_tiles_run(struct device *dev, const struct attention_args *args,
                         const struct attention_kernel *kernel) {
    assert(args->D % 16 == 0 && args->H % args->kv.heads == 0);
    assert(args->pattern.chunk % KV_TILE == 0);
    struct attention_work w = {.args = args, .kernel = kernel, .dev = dev};
    w.group = args->H / args->kv.heads;
    w.queries = (int64_t)args->step->n_tokens * w.group;
    w.tile = tile_of(dev, &w);
    w.tiles = (w.queries + w.tile - 1) / w.tile;
    device_parallel(dev, w.tiles * args->kv.heads, run_item, &w);
}
