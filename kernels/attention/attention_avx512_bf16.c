/* attention for bf16 on AVX512_BF16: 32 queries in two vectors, pairs of key and value elements
 * broadcast against them. A group of queries takes a block of keys in three passes: scores and
 * their maximum, probabilities rounded to bf16 pairs, their products with the values. The second
 * pass of a group runs between the products of the next group's first one. */
#include "kernels/attention/attention_lanes.h"

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

/* A group on its way through a block. */
struct scored {
    struct attention_group g;
    int halves;          /* vectors with queries in them */
    bool whole;          /* both halves, and every query sees every key */
    float *scores;       /* [ATTENTION_BLOCK][LANES], then pairs of probabilities in their place */
    lane_counts seen[2]; /* keys that a query sees */
    vf max[2];           /* of the block's scores */
    vf keep[2];          /* factor for what came before this block */
};

/* ---- scores */

/* Two vectors of pairs of `rows` queries' elements with the same pairs of keys' elements. */
VECTOR_INLINE void multiply_keys(vf s[16][2], const uint32_t *q, const bf16 *k, size_t D,
                                 const int rows, const int halves) {
    __m512bh query[2];
    EACH_HALF query[h] = load_pairs(q + VF_LANES * h);
    EACH_ROW {
        const __m512bh pair = broadcast_pair(k + (size_t)r * D);
        EACH_HALF s[r][h] = _mm512_dpbf16_ps(s[r][h], query[h], pair);
    }
}

VECTOR_INLINE void keep_scores(struct scored *to, vf s[16][2], int32_t first, const int rows,
                               const int halves, const bool masked) {
    float *scores = to->scores + first * LANES;
    vf max[2];
    EACH_HALF max[h] = to->max[h];
    EACH_ROW EACH_HALF {
        if (masked) s[r][h] = select_below(first + r, to->seen[h], s[r][h], vf_set(-INFINITY));
        max[h] = vf_max(s[r][h], max[h]);
        _mm512_storeu_ps(scores + r * LANES + VF_LANES * h, s[r][h]);
    }
    EACH_HALF to->max[h] = max[h];
}

VECTOR_INLINE void score_rows(struct scored *to, const bf16 *k, size_t D, int32_t first,
                              const int rows, const int halves, const bool masked) {
    vf s[16][2];
    EACH_ROW EACH_HALF s[r][h] = vf_zero();
    k += (size_t)first * D;
    for (size_t i = 0; i < D / 2; i++)
        multiply_keys(s, to->g.q + i * LANES, k + 2 * i, D, rows, halves);
    keep_scores(to, s, first, rows, halves, masked);
}

VECTOR_INLINE void score_halves(struct scored *to, const bf16 *k, size_t D, const int halves) {
    const int rows = 16 / halves;
    for (int32_t j = 0; j < to->g.any; j += rows) {
        if (j + rows <= to->g.all)
            score_rows(to, k, D, j, rows, halves, false);
        else
            score_rows(to, k, D, j, rows, halves, true);
    }
}

static void score(struct scored *to, const bf16 *k, size_t D) {
    if (to->halves == 2)
        score_halves(to, k, D, 2);
    else
        score_halves(to, k, D, 1);
}

/* ---- probabilities */

/* Of two keys and a vector of queries: where their scores were. Returns their sum. */
VECTOR_INLINE vf soften_pair(float *scores, int32_t key, int h, vf max, vf scale) {
    const float *s = scores + key * LANES + VF_LANES * h;
    vf even = exp2_below_one((_mm512_loadu_ps(s) - max) * scale);
    vf odd = exp2_below_one((_mm512_loadu_ps(s + LANES) - max) * scale);
    _mm512_storeu_si512(scores + key / 2 * LANES + VF_LANES * h, pack_pair(even, odd));
    return even + odd;
}

/* From here on `max` is that of all keys so far. */
VECTOR_INLINE void raise_max(struct scored *x, vf scale, const int halves) {
    EACH_HALF {
        const vf old = _mm512_loadu_ps(x->g.max + VF_LANES * h);
        x->max[h] = vf_max(x->max[h], old);
        x->keep[h] = exp2_below_one((old - x->max[h]) * scale);
        _mm512_storeu_ps(x->g.max + VF_LANES * h, x->max[h]);
    }
}

VECTOR_INLINE void add_sum(struct scored *x, const vf sum[2], const int halves) {
    EACH_HALF {
        float *all = x->g.sum + VF_LANES * h;
        _mm512_storeu_ps(all, vf_fma(_mm512_loadu_ps(all), x->keep[h], sum[h]));
    }
}

VECTOR_INLINE void soften_halves(struct scored *x, vf scale, const int halves) {
    vf sum[2];
    raise_max(x, scale, halves);
    EACH_HALF {
        sum[h] = vf_zero();
        for (int32_t j = 0; j < x->g.any; j += 2)
            sum[h] += soften_pair(x->scores, j, h, x->max[h], scale);
    }
    add_sum(x, sum, halves);
}

static void soften(struct scored *x, vf scale) {
    if (x->halves == 2)
        soften_halves(x, scale, 2);
    else
        soften_halves(x, scale, 1);
}

/* score(to) and soften(x) in small alternating pieces, both whole: while the multipliers work on
 * the scores of one group, the adders and shifters work on the exponentials of the other. */
static void score_and_soften(struct scored *to, const bf16 *k, size_t D, struct scored *x,
                             vf scale) {
    const int rows = 8, halves = 2;
    const size_t steps = D / 16; /* of the D / 2 between the exponentials of two vectors */
    vf sum[2] = {vf_zero(), vf_zero()};
    raise_max(x, scale, halves);
    for (int32_t j = 0; j < ATTENTION_BLOCK; j += rows, k += (size_t)rows * D) {
        const uint32_t *q = to->g.q;
        const bf16 *pair = k;
        vf s[16][2];
        EACH_ROW EACH_HALF s[r][h] = vf_zero();
        for (int32_t key = j; key < j + rows; key += 2) EACH_HALF {
                for (size_t i = 0; i < steps; i++, q += LANES, pair += 2)
                    multiply_keys(s, q, pair, D, rows, halves);
                sum[h] += soften_pair(x->scores, key, h, x->max[h], scale);
            }
        keep_scores(to, s, j, rows, halves, false);
    }
    add_sum(x, sum, halves);
}

/* ---- output */

/* Where only some queries see a pair of keys: the others must not even multiply it by zero, for it
 * may hold a NaN. */
VECTOR_INLINE vf add_seen(vf sum, __m512bh p, __m512bh v, int32_t key, lane_counts seen) {
    const __m512bh even = (__m512bh)_mm512_and_si512((__m512i)v, _mm512_set1_epi32(0xffff));
    const vf one = select_below(key, seen, _mm512_dpbf16_ps(sum, p, even), sum);
    return select_below(key + 1, seen, _mm512_dpbf16_ps(sum, p, v), one);
}

/* Elements [first, first + rows) of the output. */
VECTOR_INLINE void value_rows(const struct scored *x, const bf16 *v, size_t D, int32_t first,
                              const int rows, const int halves) {
    const float *pairs = x->scores;
    float *out = x->g.out + first * LANES;
    vf sum[16][2];
    int32_t j = 0;
    EACH_ROW EACH_HALF {
        sum[r][h] = vf_zero();
        _mm_prefetch(out + r * LANES + VF_LANES * h, _MM_HINT_T0);
    }
    v += 2 * first;
    for (; j < x->g.all / 2; j++, v += 2 * D, pairs += LANES) {
        __m512bh p[2];
        EACH_HALF p[h] = load_pairs(pairs + VF_LANES * h);
        EACH_ROW {
            const __m512bh pair = broadcast_pair(v + 2 * r);
            EACH_HALF sum[r][h] = _mm512_dpbf16_ps(sum[r][h], p[h], pair);
        }
    }
    for (; 2 * j < x->g.any; j++, v += 2 * D, pairs += LANES)
        EACH_ROW EACH_HALF sum[r][h] = add_seen(sum[r][h], load_pairs(pairs + VF_LANES * h),
                                                broadcast_pair(v + 2 * r), 2 * j, x->seen[h]);
    EACH_ROW EACH_HALF {
        float *to = out + r * LANES + VF_LANES * h;
        _mm512_storeu_ps(to, vf_fma(_mm512_loadu_ps(to), x->keep[h], sum[r][h]));
    }
}

static void add_values(const struct scored *x, const bf16 *v, int32_t D) {
    if (x->halves == 2)
        for (int32_t d = 0; d < D; d += 8) value_rows(x, v, (size_t)D, d, 8, 2);
    else
        for (int32_t d = 0; d < D; d += 16) value_rows(x, v, (size_t)D, d, 16, 1);
}

/* ---- a tile of queries */

static struct scored group_of(const struct attention_tile *t, const struct attention_block *block,
                              int32_t i) {
    struct scored x = {.g = group_at(t, i, LANES, t->D / 2, block->begin)};
    x.halves = t->count - i * LANES > VF_LANES ? 2 : 1;
    x.whole = x.halves == 2 && x.g.all == ATTENTION_BLOCK;
    x.scores = t->scores + i % 2 * ATTENTION_BLOCK * LANES;
    for (int h = 0; h < 2; h++) {
        x.seen[h] = load_counts(x.g.end + VF_LANES * h, block->begin);
        x.max[h] = vf_set(-INFINITY);
    }
    return x;
}

/* The scores of a group are begun before the group in front of it is done. */
static void attend_block(const struct attention_tile *t, const struct attention_block *block) {
    const size_t D = (size_t)t->D;
    const vf scale = vf_set(t->scale);
    int32_t i = 0;
    struct scored x = group_of(t, block, i);
    while (x.g.any == 0) x = group_of(t, block, ++i);
    score(&x, block->k, D);
    while (++i < t->groups) {
        struct scored next = group_of(t, block, i);
        if (x.whole && next.whole) {
            score_and_soften(&next, block->k, D, &x, scale);
        } else {
            soften(&x, scale);
            score(&next, block->k, D);
        }
        add_values(&x, block->v, t->D);
        x = next;
    }
    soften(&x, scale);
    add_values(&x, block->v, t->D);
}

void attention_avx512_bf16(struct device *dev, const void *args) {
    static const struct attention_kernel kernel = {
        .lanes = LANES, .tile = 512, .pairs = true, .block = attend_block, .store = store_query};
    attention_tiles_run(dev, args, &kernel);
}
