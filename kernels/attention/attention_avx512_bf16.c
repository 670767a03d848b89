/* attention for bf16 on AVX512_BF16: 32 queries in two vectors, pairs of key and value elements
 * broadcast against them. A block of keys takes three passes that stay in the first level cache:
 * scores and their maximum, probabilities rounded to bf16 pairs, their products with the values. */
#include "kernels/attention/attention_lanes.h"

enum { LANES = 2 * VF_LANES };

#define EACH_HALF UNROLL for (int h = 0; h < halves; h++)
#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)

VECTOR_INLINE __m512bh load_pairs(const void *p) {
    return (__m512bh)_mm512_loadu_si512(p);
}
VECTOR_INLINE __m512bh broadcast_pair(const bf16 *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* 2^x for x <= 0, relative error 3e-6, exactly 1 at 0 and exactly 0 below -126. */
VECTOR_INLINE vf exp2_below_one(vf x) {
    const vf tiny = vf_set(0x1p-126f);
    x = vf_max(vf_set(-126.0f), x);
    vf n = vf_round_to_integer(x);
    vf f = x - n;
    vf p = vf_set(0x1.3a02ccp-7f);
    p = vf_fma(p, f, vf_set(0x1.c9fc46p-5f));
    p = vf_fma(p, f, vf_set(0x1.ec0378p-3f));
    p = vf_fma(p, f, vf_set(0x1.62e12cp-1f));
    p = vf_fma(p, f, vf_set(1.0f));
    __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
    return (vf)_mm512_add_epi32((__m512i)p, exponent) - tiny;
}

/* Both rounded to bf16, half away from zero, side by side. */
VECTOR_INLINE __m512i pack_pair(vf even, vf odd) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i upper =
        _mm512_set_epi16(63, 31, 61, 29, 59, 27, 57, 25, 55, 23, 53, 21, 51, 19, 49, 17, 47, 15, 45,
                         13, 43, 11, 41, 9, 39, 7, 37, 5, 35, 3, 33, 1);
    return _mm512_permutex2var_epi16(_mm512_add_epi32((__m512i)even, half), upper,
                                     _mm512_add_epi32((__m512i)odd, half));
}

/* Scores of `rows` keys from `first` on; `max` follows. */
VECTOR_INLINE void score_rows(const struct attention_tile *t, const struct attention_group *g,
                              const bf16 *k, int32_t first, const lane_counts *seen, vf max[2],
                              const int rows, const int halves, const bool masked) {
    const size_t D = (size_t)t->D;
    vf s[16][2];
    EACH_ROW EACH_HALF s[r][h] = vf_zero();
    k += (size_t)first * D;
    for (size_t i = 0; i < D / 2; i++) {
        __m512bh q[2];
        EACH_HALF q[h] = load_pairs(g->q + i * LANES + VF_LANES * h);
        EACH_ROW {
            const __m512bh pair = broadcast_pair(k + (size_t)r * D + 2 * i);
            EACH_HALF s[r][h] = _mm512_dpbf16_ps(s[r][h], q[h], pair);
        }
    }
    EACH_ROW EACH_HALF {
        if (masked) s[r][h] = select_below(first + r, seen[h], s[r][h], vf_set(-INFINITY));
        max[h] = vf_max(s[r][h], max[h]);
        _mm512_storeu_ps(t->scores + (first + r) * LANES + VF_LANES * h, s[r][h]);
    }
}

/* Probabilities of a vector of queries; returns the factor for what came before. */
VECTOR_INLINE vf soften(const struct attention_tile *t, const struct attention_group *g,
                        vf block_max, const int h) {
    const vf scale = vf_set(t->scale), old = _mm512_loadu_ps(g->max + VF_LANES * h);
    const vf max = vf_max(block_max, old), keep = exp2_below_one((old - max) * scale);
    vf sum = vf_zero();
    for (int32_t j = 0; j < g->any; j += 2) {
        const float *s = t->scores + j * LANES + VF_LANES * h;
        vf even = exp2_below_one((_mm512_loadu_ps(s) - max) * scale);
        vf odd = exp2_below_one((_mm512_loadu_ps(s + LANES) - max) * scale);
        sum += even + odd;
        _mm512_storeu_si512(t->pairs + j / 2 * LANES + VF_LANES * h, pack_pair(even, odd));
    }
    _mm512_storeu_ps(g->max + VF_LANES * h, max);
    _mm512_storeu_ps(g->sum + VF_LANES * h,
                     vf_fma(_mm512_loadu_ps(g->sum + VF_LANES * h), keep, sum));
    return keep;
}

/* Where only some queries see a pair of keys: the others must not even multiply it by zero, for it
 * may hold a NaN. */
VECTOR_INLINE vf add_seen(vf sum, __m512bh p, __m512bh v, int32_t key, lane_counts seen) {
    const __m512bh even = (__m512bh)_mm512_and_si512((__m512i)v, _mm512_set1_epi32(0xffff));
    const vf one = select_below(key, seen, _mm512_dpbf16_ps(sum, p, even), sum);
    return select_below(key + 1, seen, _mm512_dpbf16_ps(sum, p, v), one);
}

/* Elements [first, first + rows) of the output. */
VECTOR_INLINE void value_rows(const struct attention_tile *t, const struct attention_group *g,
                              const bf16 *v, int32_t first, const lane_counts *seen, const vf *keep,
                              const int rows, const int halves) {
    const size_t stride = 2 * (size_t)t->D;
    const uint32_t *pairs = t->pairs;
    vf sum[16][2];
    int32_t j = 0;
    EACH_ROW EACH_HALF sum[r][h] = vf_zero();
    v += 2 * first;
    for (; j < g->all / 2; j++, v += stride, pairs += LANES) {
        __m512bh p[2];
        EACH_HALF p[h] = load_pairs(pairs + VF_LANES * h);
        EACH_ROW {
            const __m512bh pair = broadcast_pair(v + 2 * r);
            EACH_HALF sum[r][h] = _mm512_dpbf16_ps(sum[r][h], p[h], pair);
        }
    }
    for (; 2 * j < g->any; j++, v += stride, pairs += LANES)
        EACH_ROW EACH_HALF sum[r][h] = add_seen(sum[r][h], load_pairs(pairs + VF_LANES * h),
                                                broadcast_pair(v + 2 * r), 2 * j, seen[h]);
    EACH_ROW EACH_HALF {
        float *out = g->out + (first + r) * LANES + VF_LANES * h;
        _mm512_storeu_ps(out, vf_fma(_mm512_loadu_ps(out), keep[h], sum[r][h]));
    }
}

VECTOR_INLINE void attend(const struct attention_tile *t, const struct attention_group *g,
                          const struct attention_block *block, const int halves) {
    const int rows = 16 / halves;
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
        const struct attention_group g = group_at(t, i, LANES, t->D / 2, block->begin);
        if (g.any == 0) continue;
        if (t->count - i * LANES > VF_LANES)
            attend(t, &g, block, 2);
        else
            attend(t, &g, block, 1);
    }
}

void attention_avx512_bf16(struct device *dev, const void *args) {
    static const struct attention_kernel kernel = {
        .lanes = LANES, .tile = 256, .pairs = true, .block = attend_block};
    attention_tiles_run(dev, args, &kernel);
}
