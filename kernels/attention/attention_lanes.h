/* Vectors of queries: what the attention kernels of every instruction set do with one lane per
 * query. Masks, the exponential, and the running maximum of a block. */
#ifndef KERNELS_ATTENTION_LANES_H
#define KERNELS_ATTENTION_LANES_H

#include "kernels/attention/attention_tiles.h"
#include "kernels/vector.h"

#include <math.h>

/* select_below: in each lane x where i < n, else y. vf_whole_power_of_two: 2^n for a whole n in
 * [-126, 127], and 0 for -127. load_strided: p[0], p[stride], ... */
#if defined(__AVX512F__)
typedef __m512i lane_counts;
VECTOR_INLINE lane_counts load_counts(const int32_t *end, int32_t begin) {
    return _mm512_sub_epi32(_mm512_loadu_si512(end), _mm512_set1_epi32(begin));
}
VECTOR_INLINE vf select_below(int32_t i, lane_counts n, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(_mm512_set1_epi32(i), n), y, x);
}
VECTOR_INLINE vf vf_whole_power_of_two(vf n) {
    return vf_power_of_two(_mm512_cvtps_epi32(n));
}
VECTOR_INLINE vf load_strided(const float *p, const int stride) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(stride)), p, 4);
}
#else
typedef __m256i lane_counts;
VECTOR_INLINE lane_counts load_counts(const int32_t *end, int32_t begin) {
    return _mm256_sub_epi32(_mm256_loadu_si256((const void *)end), _mm256_set1_epi32(begin));
}
VECTOR_INLINE vf select_below(int32_t i, lane_counts n, vf x, vf y) {
    __m256i below = _mm256_cmpgt_epi32(n, _mm256_set1_epi32(i));
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(below));
}
VECTOR_INLINE vf vf_whole_power_of_two(vf n) {
    return vf_power_of_two(_mm256_cvtps_epi32(n));
}
VECTOR_INLINE vf load_strided(const float *p, const int stride) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_i32gather_ps(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32(stride)), 4);
}
#endif

enum { LANES = 2 * VF_LANES }; /* queries of a group */

/* attention_kernel's store */
static void store_query(void *to, const float *out, float scale, int32_t D, enum dtype dtype) {
    for (size_t d = 0; d < (size_t)D; d += VF_LANES) {
        const vf x = load_strided(out + d * LANES, LANES) * vf_set(scale) + vf_zero();
        if (dtype == DTYPE_BF16)
            vf_store(to, d, DTYPE_BF16, x);
        else
            vf_store(to, d, DTYPE_F32, x);
    }
}

/* A group of queries at a block of keys. Keys of the block below `all` are seen by every query,
 * keys at and beyond `any` by none. */
struct attention_group {
    const uint32_t *q;
    const int32_t *end;
    float *max, *sum, *out;
    int32_t all, any;
};

static inline int32_t keys_before(int32_t end, int32_t begin) {
    const int32_t n = end - begin;
    return n < 0 ? 0 : n < ATTENTION_BLOCK ? n : ATTENTION_BLOCK;
}

/* words: of a packed query */
static inline struct attention_group group_at(const struct attention_tile *t, int32_t i,
                                              int32_t lanes, int32_t words, int32_t begin) {
    const size_t first = (size_t)i * (size_t)lanes;
    const int32_t *end = t->end + first;
    return (struct attention_group){.q = t->q + first * (size_t)words,
                                    .end = end,
                                    .max = t->max + first,
                                    .sum = t->sum + first,
                                    .out = t->out + first * (size_t)t->D,
                                    .all = keys_before(end[0], begin),
                                    .any = keys_before(end[lanes - 1], begin)};
}

#endif
