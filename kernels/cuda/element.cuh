/* Elements of a tensor on a GPU, the counterpart of element.h: widened to f32 on the way in,
 * rounded once to nearest even on the way out, sixteen bytes at a time where a tensor allows it.
 * Under the .cu file of every small op. */
#ifndef KERNELS_CUDA_ELEMENT_CUH
#define KERNELS_CUDA_ELEMENT_CUH

#include <cuda_bf16.h>
#include <stdint.h>

/* Elements of a sixteen-byte access. */
template <typename T> struct lanes {
    enum { N = 16 / sizeof(T) };
};

static inline bool is_aligned(const void *p, size_t bytes) {
    return (uintptr_t)p % bytes == 0;
}

static inline unsigned int blocks_of(size_t items, size_t per_block) {
    return (unsigned int)((items + per_block - 1) / per_block);
}

/* ---- one element */

static __device__ __forceinline__ float widen(float x) {
    return x;
}
static __device__ __forceinline__ float widen(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <typename T> static __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* "round" of ops.h: to the element type and back. */
template <typename T> static __device__ __forceinline__ float round_to(float x) {
    return widen(narrow<T>(x));
}

/* ---- sixteen bytes */

static __device__ __forceinline__ void widen_lanes(uint4 v, float out[4], const float *) {
    out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
    out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
}
static __device__ __forceinline__ void widen_lanes(uint4 v, float out[8], const __nv_bfloat16 *) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(word[i] << 16);
        out[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
}

static __device__ __forceinline__ uint32_t narrow_pair(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}
static __device__ __forceinline__ uint4 narrow_lanes(const float in[4], const float *) {
    return make_uint4(__float_as_uint(in[0]), __float_as_uint(in[1]), __float_as_uint(in[2]),
                      __float_as_uint(in[3]));
}
static __device__ __forceinline__ uint4 narrow_lanes(const float in[8], const __nv_bfloat16 *) {
    return make_uint4(narrow_pair(in[0], in[1]), narrow_pair(in[2], in[3]),
                      narrow_pair(in[4], in[5]), narrow_pair(in[6], in[7]));
}

/* A group of lanes at p, of which n exist; those past n are zero and are not read. ALIGNED promises
 * that p is at a multiple of sixteen bytes and that all of them exist. Both give the same values in
 * the same places, so that a sum over groups has one order whatever the alignment. A kernel that
 * wants several groups on their way at a time loads them packed and widens them afterwards: a
 * conversion beside its load would wait for it. */
template <typename T, bool ALIGNED>
static __device__ __forceinline__ uint4 load_packed(const T *p, int n) {
    if constexpr (ALIGNED) {
        return *(const uint4 *)p;
    } else {
        float out[lanes<T>::N];
#pragma unroll
        for (int i = 0; i < lanes<T>::N; i++) out[i] = i < n ? widen(p[i]) : 0.0f;
        return narrow_lanes(out, p);
    }
}

template <typename T>
static __device__ __forceinline__ void unpack_lanes(uint4 packed, float out[lanes<T>::N]) {
    widen_lanes(packed, out, (const T *)NULL);
}

template <typename T, bool ALIGNED>
static __device__ __forceinline__ void load_lanes(const T *p, int n, float out[lanes<T>::N]) {
    unpack_lanes<T>(load_packed<T, ALIGNED>(p, n), out);
}

/* Rounds; writes the first n. */
template <typename T, bool ALIGNED>
static __device__ __forceinline__ void store_lanes(T *p, int n, const float in[lanes<T>::N]) {
    if constexpr (ALIGNED) {
        *(uint4 *)p = narrow_lanes(in, p);
    } else {
#pragma unroll
        for (int i = 0; i < lanes<T>::N; i++)
            if (i < n) p[i] = narrow<T>(in[i]);
    }
}

/* ---- sums of a warp: a fixed tree, the result in every lane */

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
static __device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

/* ---- copies, in units of sixteen, four or two bytes: the widest that divides every address */

static inline size_t unit_of(uintptr_t addresses_and_strides) {
    return addresses_and_strides % 16 == 0 ? 16 : addresses_and_strides % 4 == 0 ? 4 : 2;
}

/* n units, by the threads of a block; a NULL source is zeros. */
template <typename U> static __device__ void copy_units(U *to, const U *from, int64_t n) {
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = from ? from[i] : U{};
}

#endif
