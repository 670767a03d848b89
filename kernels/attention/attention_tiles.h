/* What the blocked attention kernels have in common: work items, segments, and the form in which
 * queries and their state lie in memory. A kernel of an instruction set supplies one function that
 * takes a tile of queries over one block of keys.
 *
 * Queries are numbered row by row over the query heads of one kv head (query n of a chunk: row
 * n / G, head n % G of the group), so that the whole group shares the keys and values, and they lie
 * side by side in the lanes of vectors: maximum, sum and output of a query never leave its lane.
 * That is also why a query's bits cannot depend on its neighbours. Blocks of keys begin at absolute
 * multiples of ATTENTION_BLOCK, in ascending order, whatever the tile. */
#ifndef KERNELS_ATTENTION_TILES_H
#define KERNELS_ATTENTION_TILES_H

#include "kernels/device.h"

enum {
    ATTENTION_BLOCK = 128 /* keys whose scores are kept at once; divides KV_TILE */
};

/* A run of queries with the same segments. Groups of `lanes` queries; those beyond `count` in the
 * last group are zero, see what the last real query sees, and are not stored. */
struct attention_tile {
    int32_t count, groups, D;
    uint32_t *q;      /* [groups][words][lanes]: pairs of bf16 (words D/2) or f32 (words D) */
    int32_t *end;     /* [groups][lanes]: first position that the query does not see, ascending */
    float *max, *sum; /* [groups][lanes]: of the scores before scaling; of the probabilities */
    float *out;       /* [groups][D][lanes]: not yet divided by sum */
    float *scores;    /* [2][ATTENTION_BLOCK][lanes], scratch: scores, probabilities */
    float *k, *v;     /* [ATTENTION_BLOCK][D], scratch: widened keys and values */
    float scale;      /* from q . k to the exponent of 2 */
};

/* Keys [begin, begin + ATTENTION_BLOCK) of the tile's kv head. */
struct attention_block {
    const void *k, *v; /* pairs: as in kv_layout_pairs; otherwise f32 [ATTENTION_BLOCK][D] */
    int32_t begin;     /* absolute; some query of the tile sees it */
};

struct attention_kernel {
    int32_t lanes; /* queries of a group */
    int32_t tile;  /* most queries of a work item, a multiple of lanes */
    bool pairs;    /* takes pairs of bf16 from kv_layout_pairs; otherwise f32 or bf16 from rows */
    void (*block)(const struct attention_tile *tile, const struct attention_block *block);
    /* One query's output: to[d] = round(out[d * lanes] * scale + 0). The zero takes the sign away
     * that a zero may have from keys which the query does not see. */
    void (*store)(void *to, const float *out, float scale, int32_t D, enum dtype dtype);
};

void attention_tiles_run(struct device *dev, const struct attention_args *args,
                         const struct attention_kernel *kernel);

#endif
