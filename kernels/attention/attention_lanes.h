/* Vectors of queries: what the attention kernels of every instruction set do with one lane per
 * query. Masks, the exponential, and the running maximum of a block. */
#ifndef KERNELS_ATTENTION_LANES_H
#define KERNELS_ATTENTION_LANES_H

#include "kernels/attention/attention_tiles.h"
#include "kernels/vector.h"

#include <math.h>

/* Per lane: x where i < n, else y. n holds integers. */
#if defined(__AVX512F__)
typedef __m512i lane_counts;
VECTOR_INLINE lane_counts load_counts(const int32_t *end, int32_t begin) {
    return _mm512_sub_epi32(_mm512_loadu_si512(end), _mm512_set1_epi32(begin));
}
VECTOR_INLINE vf select_below(int32_t i, lane_counts n, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(_mm512_set1_epi32(i), n), y, x);
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
#endif

/* How much of a block a group of queries sees: keys below `all` are seen by every query, keys at
 * and beyond `any` by none. */
struct lane_view {
    int32_t all, any;
};
static inline struct lane_view view_of(const int32_t *end, int32_t lanes, int32_t begin) {
    const int32_t first = end[0] - begin, last = end[lanes - 1] - begin;
    return (struct lane_view){first < 0                 ? 0
                              : first < ATTENTION_BLOCK ? first
                                                        : ATTENTION_BLOCK,
                              last < 0                 ? 0
                              : last < ATTENTION_BLOCK ? last
                                                       : ATTENTION_BLOCK};
}

#endif
