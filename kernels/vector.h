/* One vector of f32 of the widest set that the including file is compiled for (AVX-512: 16 lanes,
 * AVX2: 8), with exact widening from bf16 and rounding to it, so that an op's body is written once
 * for both. Only for files that end in _avx2.c, _avx512.c, _avx512_bf16.c or _amx_bf16.c, and for
 * headers that they include.
 *
 * Plain arithmetic is written with operators (vf is a vector type of the compiler). `dtype` should
 * be a constant where these are called: it selects code, and costs a branch otherwise. */
#ifndef KERNELS_VECTOR_H
#define KERNELS_VECTOR_H

#include "kernels/element.h"

#include <immintrin.h>
#include <string.h>

/* In front of a loop with a constant number of turns that must vanish, so that an array indexed by
 * it lives in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#define VECTOR_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

enum { VF_LANES = 16 };
typedef __m512 vf;

VECTOR_INLINE vf vf_zero(void) {
    return _mm512_setzero_ps();
}
VECTOR_INLINE vf vf_set(float x) {
    return _mm512_set1_ps(x);
}
VECTOR_INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

VECTOR_INLINE vf vf_widen(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
/* To nearest even in the upper half of each lane, the lower half zero; NaN made quiet: f32_to_bf16
 * of bf16.h, lane by lane. */
VECTOR_INLINE __m512i vf_round_bits(vf x) {
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_and_si512(up, _mm512_set1_epi32(-65536));
}
VECTOR_INLINE __m256i vf_narrow(vf x) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(vf_round_bits(x), 16));
}
/* "round" of ops.h: to the element type and back. */
VECTOR_INLINE vf vf_round(vf x, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? _mm512_castsi512_ps(vf_round_bits(x)) : x;
}

VECTOR_INLINE vf vf_load(const void *base, size_t i, enum dtype dtype) {
    if (dtype == DTYPE_F32) return _mm512_loadu_ps((const float *)base + i);
    return vf_widen(_mm256_loadu_si256((const void *)((const bf16 *)base + i)));
}
VECTOR_INLINE void vf_store(void *base, size_t i, enum dtype dtype, vf x) {
    if (dtype == DTYPE_F32)
        _mm512_storeu_ps((float *)base + i, x);
    else
        _mm256_storeu_si256((void *)((bf16 *)base + i), vf_narrow(x));
}

/* The first n elements (lanes beyond are zero), n >= 1; more than VF_LANES means all. */
VECTOR_INLINE __mmask16 vf_mask(int64_t n) {
    return (__mmask16)(n >= VF_LANES ? 0xffffu : (1u << n) - 1u);
}
VECTOR_INLINE vf vf_load_first(const void *base, size_t i, int64_t n, enum dtype dtype) {
    if (dtype == DTYPE_F32) return _mm512_maskz_loadu_ps(vf_mask(n), (const float *)base + i);
    return vf_widen(_mm256_maskz_loadu_epi16(vf_mask(n), (const bf16 *)base + i));
}
VECTOR_INLINE void vf_store_first(void *base, size_t i, int64_t n, enum dtype dtype, vf x) {
    if (dtype == DTYPE_F32)
        _mm512_mask_storeu_ps((float *)base + i, vf_mask(n), x);
    else
        _mm256_mask_storeu_epi16((bf16 *)base + i, vf_mask(n), vf_narrow(x));
}

/* Sum of the lanes, always in the same order. */
VECTOR_INLINE float vf_sum(vf x) {
    return _mm512_reduce_add_ps(x);
}

/* Elements i, i + 2, ... and i + 1, i + 3, ... of 2 * VF_LANES elements. */
VECTOR_INLINE void vf_load_pairs(const void *base, size_t i, enum dtype dtype, vf *even, vf *odd) {
    if (dtype == DTYPE_F32) {
        vf low = vf_load(base, i, dtype), high = vf_load(base, i + VF_LANES, dtype);
        __m512i lane = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        *even = _mm512_permutex2var_ps(low, lane, high);
        *odd = _mm512_permutex2var_ps(low, _mm512_or_si512(lane, _mm512_set1_epi32(1)), high);
    } else {
        __m512i pair = _mm512_loadu_si512((const bf16 *)base + i);
        *even = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
        *odd = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
    }
}

/* The second where either is NaN. */
VECTOR_INLINE vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
VECTOR_INLINE vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
VECTOR_INLINE vf vf_round_to_integer(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2^n for integers n in [-126, 127]. */
VECTOR_INLINE vf vf_power_of_two(__m512i n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
/* x * 2^n for integers n, rounded once where the result is denormal. */
VECTOR_INLINE vf vf_scale(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}

#else

enum { VF_LANES = 8 };
typedef __m256 vf;

VECTOR_INLINE vf vf_zero(void) {
    return _mm256_setzero_ps();
}
VECTOR_INLINE vf vf_set(float x) {
    return _mm256_set1_ps(x);
}
VECTOR_INLINE vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

VECTOR_INLINE vf vf_widen(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
/* To nearest even in the upper half of each lane, the lower half zero; NaN made quiet: f32_to_bf16
 * of bf16.h, lane by lane. */
VECTOR_INLINE __m256i vf_round_bits(vf x) {
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_si256(_mm256_blendv_epi8(up, quiet, nan), _mm256_set1_epi32(-65536));
}
VECTOR_INLINE __m128i vf_narrow(vf x) {
    __m256i word = _mm256_srli_epi32(vf_round_bits(x), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(word), _mm256_extracti128_si256(word, 1));
}
/* "round" of ops.h: to the element type and back. */
VECTOR_INLINE vf vf_round(vf x, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? _mm256_castsi256_ps(vf_round_bits(x)) : x;
}

VECTOR_INLINE vf vf_load(const void *base, size_t i, enum dtype dtype) {
    if (dtype == DTYPE_F32) return _mm256_loadu_ps((const float *)base + i);
    return vf_widen(_mm_loadu_si128((const void *)((const bf16 *)base + i)));
}
VECTOR_INLINE void vf_store(void *base, size_t i, enum dtype dtype, vf x) {
    if (dtype == DTYPE_F32)
        _mm256_storeu_ps((float *)base + i, x);
    else
        _mm_storeu_si128((void *)((bf16 *)base + i), vf_narrow(x));
}

/* The first n elements (lanes beyond are zero), n >= 1; more than VF_LANES means all. */
VECTOR_INLINE vf vf_load_first(const void *base, size_t i, int64_t n, enum dtype dtype) {
    if (n >= VF_LANES) return vf_load(base, i, dtype);
    float part[VF_LANES] = {0};
    memcpy(part, element_at(base, i, dtype), (size_t)n * dtype_bytes(dtype));
    return vf_load(part, 0, dtype);
}
VECTOR_INLINE void vf_store_first(void *base, size_t i, int64_t n, enum dtype dtype, vf x) {
    float part[VF_LANES];
    if (n >= VF_LANES) {
        vf_store(base, i, dtype, x);
        return;
    }
    vf_store(part, 0, dtype, x);
    memcpy(element_at_mut(base, i, dtype), part, (size_t)n * dtype_bytes(dtype));
}

/* Sum of the lanes, always in the same order. */
VECTOR_INLINE float vf_sum(vf x) {
    __m128 four = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
    __m128 two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_movehdup_ps(two));
}

/* 2^n for integers n in [-126, 127]. */
VECTOR_INLINE vf vf_power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* Elements i, i + 2, ... and i + 1, i + 3, ... of 2 * VF_LANES elements. */
VECTOR_INLINE void vf_load_pairs(const void *base, size_t i, enum dtype dtype, vf *even, vf *odd) {
    if (dtype == DTYPE_F32) {
        vf low = vf_load(base, i, dtype), high = vf_load(base, i + VF_LANES, dtype);
        __m256d evens = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
        __m256d odds = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
        *even = _mm256_castpd_ps(_mm256_permute4x64_pd(evens, 0xd8));
        *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(odds, 0xd8));
    } else {
        __m256i pair = _mm256_loadu_si256((const void *)((const bf16 *)base + i));
        *even = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
        *odd = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(-65536)));
    }
}

/* The second where either is NaN. */
VECTOR_INLINE vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
VECTOR_INLINE vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
VECTOR_INLINE vf vf_round_to_integer(vf x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x * 2^n for integers n in [-252, 254], in two steps so that neither factor leaves the normals. */
VECTOR_INLINE vf vf_scale(vf x, vf n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return x * vf_power_of_two(half) * vf_power_of_two(_mm256_sub_epi32(whole, half));
}

#endif

/* exp to within 2 units in the last place; overflows to infinity, underflows through denormals to
 * 0; NaN stays. Cody and Waite's reduction by ln 2, then Taylor's polynomial on [-0.35, 0.35]. */
VECTOR_INLINE vf vf_exp(vf x) {
    x = vf_min(vf_set(89.0f), vf_max(vf_set(-104.0f), x));
    vf n = vf_round_to_integer(x * vf_set(1.44269504f));
    vf r = vf_fma(n, vf_set(-0.693359375f), x);
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.0f / 5040);
    p = vf_fma(p, r, vf_set(1.0f / 720));
    p = vf_fma(p, r, vf_set(1.0f / 120));
    p = vf_fma(p, r, vf_set(1.0f / 24));
    p = vf_fma(p, r, vf_set(1.0f / 6));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_scale(p, n);
}

#endif
