/* attention with f32 multiply-adds, for the vectors of the including file (AVX-512 or AVX2): keys
 * and values are f32 rows, an element is broadcast against two vectors of queries. A block of keys
 * takes three passes: scores and their maximum, probabilities, their products with the values. */
#ifndef KERNELS_ATTENTION_FMA_H
#define KERNELS_ATTENTION_FMA_H

#include "kernels/attention/attention_lanes.h"

enum { SUMS = VF_LANES }; /* of a tile, in registers: half of them */

#define EACH_HALF UNROLL for (int h = 0; h < halves; h++)
#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)

/* 2^x for x <= 0, to 2 units in the last place, exactly 1 at 0 and exactly 0 below -126.5. */
VECTOR_INLINE vf exp2_below_one(vf x) {
    x = vf_max(vf_set(-127.0f), x);
    vf n = vf_round_to_integer(x);
    vf f = x - n;
    vf p = vf_set(0x1.41fbbcp-13f);
    p = vf_fma(p, f, vf_set(0x1.5f3e54p-10f));
    p = vf_fma(p, f, vf_set(0x1.3b2d4cp-7f));
    p = vf_fma(p, f, vf_set(0x1.c6aee8p-5f));
    p = vf_fma(p, f, vf_set(0x1.ebfbdcp-3f));
    p = vf_fma(p, f, vf_set(0x1.62e430p-1f));
    p = vf_fma(p, f, vf_set(1.0f));
    return p * vf_whole_power_of_two(n);
}

/* Scores of `rows` keys from `first` on; `max` follows. */
VECTOR_INLINE void score_rows(const struct attention_tile *t, const struct attention_group *g,
                              const float *k, int32_t first, const lane_counts *seen, vf max[2],
                              const int rows, const int halves, const bool masked) {
    const size_t D = (size_t)t->D;
    const float *q = (const float *)(const void *)g->q;
    float *scores = t->scores + first * LANES;
    vf s[SUMS][2];
    EACH_ROW EACH_HALF s[r][h] = vf_zero();
    k += (size_t)first * D;
    for (size_t i = 0; i < D; i++) {
        vf query[2];
        EACH_HALF query[h] = vf_load(q, i * LANES + (size_t)(VF_LANES * h), DTYPE_F32);
        EACH_ROW {
            const vf key = vf_set(k[(size_t)r * D + i]);
            EACH_HALF s[r][h] = vf_fma(query[h], key, s[r][h]);
        }
    }
    EACH_ROW EACH_HALF {
        if (masked) s[r][h] = select_below(first + r, seen[h], s[r][h], vf_set(-INFINITY));
        max[h] = vf_max(s[r][h], max[h]);
        vf_store(scores, (size_t)(r * LANES + VF_LANES * h), DTYPE_F32, s[r][h]);
    }
}

/* Scores become probabilities; returns the factor for what came before. */
VECTOR_INLINE vf soften(const struct attention_tile *t, const struct attention_group *g,
                        vf block_max, const int h) {
    const size_t lane = (size_t)(VF_LANES * h);
    const vf scale = vf_set(t->scale), old = vf_load(g->max, lane, DTYPE_F32);
    const vf max = vf_max(block_max, old), keep = exp2_below_one((old - max) * scale);
    vf sum = vf_zero();
    for (size_t j = 0; j < (size_t)g->any; j++) {
        const size_t at = j * LANES + lane;
        const vf p = exp2_below_one((vf_load(t->scores, at, DTYPE_F32) - max) * scale);
        sum += p;
        vf_store(t->scores, at, DTYPE_F32, p);
    }
    vf_store(g->max, lane, DTYPE_F32, max);
    vf_store(g->sum, lane, DTYPE_F32, vf_fma(vf_load(g->sum, lane, DTYPE_F32), keep, sum));
    return keep;
}

/* Elements [first, first + rows) of the output. A query that does not see a key must not even
 * multiply it by zero, for it may hold a NaN. */
VECTOR_INLINE void value_rows(const struct attention_tile *t, const struct attention_group *g,
                              const float *v, int32_t first, const lane_counts *seen,
                              const vf *keep, const int rows, const int halves) {
    const size_t D = (size_t)t->D;
    const float *p = t->scores;
    float *out = g->out + first * LANES;
    vf sum[SUMS][2];
    int32_t j = 0;
    EACH_ROW EACH_HALF sum[r][h] = vf_zero();
    v += first;
    for (; j < g->all; j++, v += D, p += LANES) {
        vf probability[2];
        EACH_HALF probability[h] = vf_load(p, (size_t)(VF_LANES * h), DTYPE_F32);
        EACH_ROW {
            const vf value = vf_set(v[r]);
            EACH_HALF sum[r][h] = vf_fma(probability[h], value, sum[r][h]);
        }
    }
    for (; j < g->any; j++, v += D, p += LANES) EACH_ROW EACH_HALF {
            const vf probability = vf_load(p, (size_t)(VF_LANES * h), DTYPE_F32);
            const vf with = vf_fma(probability, vf_set(v[r]), sum[r][h]);
            sum[r][h] = select_below(j, seen[h], with, sum[r][h]);
        }
    EACH_ROW EACH_HALF {
        const size_t at = (size_t)(r * LANES + VF_LANES * h);
        vf_store(out, at, DTYPE_F32, vf_fma(vf_load(out, at, DTYPE_F32), keep[h], sum[r][h]));
    }
}

VECTOR_INLINE void attend(const struct attention_tile *t, const struct attention_group *g,
                          const struct attention_block *block, const int halves) {
    const int rows = SUMS / halves;
    lane_counts seen[2];
    vf max[2], keep[2];
    EACH_HALF {
        seen[h] = load_counts(g->end + VF_LANES * h, block->begin);
        max[h] = vf_set(-INFINITY);
    }
    for (int32_t j = 0; j < g->any; j += rows) {
        if (j + rows <= g->all)
            score_rows(t, g, block->k, j, seen, max, rows, halves, false);
        else
            score_rows(t, g, block->k, j, seen, max, rows, halves, true);
    }
    EACH_HALF keep[h] = soften(t, g, max[h], h);
    for (int32_t d = 0; d < t->D; d += rows)
        value_rows(t, g, block->v, d, seen, keep, rows, halves);
}

static void attend_block(const struct attention_tile *t, const struct attention_block *block) {
    for (int32_t i = 0; i < t->groups; i++) {
        const struct attention_group g = group_at(t, i, LANES, t->D, block->begin);
        if (g.any == 0) continue;
        if (t->count - i * LANES > VF_LANES)
            attend(t, &g, block, 2);
        else
            attend(t, &g, block, 1);
    }
}

#endif
