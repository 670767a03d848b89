/* rope_cache on a GPU: rotates queries into their copies and keys into the cache, and copies values
 * there. After the qkv linear, before attention. The cache is in the layout "rows":
 * [K][capacity][D].
 *
 * Blocks take heads one after another, whichever rows they are of, so that few heads a row leave no
 * thread without work; and enough threads fit beside each other to keep memory busy.
 *
 * Products and their difference are rounded one by one, as the reference does: no fused
 * multiply-add, hence the same bits. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { THREADS = 256, BLOCKS_AT_ONCE = 4 };

/* N elements as they lie in memory: sixteen bytes, or one element where an address or a stride
 * forbids that. */
template <typename T, int N> struct packed { typedef uint4 type; };
template <typename T> struct packed<T, 1> { typedef T type; };

template <typename T, int N>
static __device__ __forceinline__ void unpack(typename packed<T, N>::type v, float out[N]) {
    if constexpr (N == 1)
        out[0] = widen(v);
    else
        unpack_lanes<T>(v, out);
}
template <typename T, int N> static __device__ __forceinline__ void store(T *p, const float in[N]) {
    if constexpr (N == 1)
        *p = narrow<T>(in[0]);
    else
        store_lanes<T, true>(p, N, in);
}

template <int N> static __device__ __forceinline__ void load_table(const float *p, float out[N]) {
    if constexpr (N == 1) {
        out[0] = *p;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) widen_lanes(*(const uint4 *)(p + i), out + i, p);
    }
}

/* first and second: elements from i on of the head's halves, not rotated; `to` the head, the tables
 * the row's angles. */
template <typename T, int N>
static __device__ __forceinline__ void
rotate(typename packed<T, N>::type first, typename packed<T, N>::type second, const float *cosines,
       const float *sines, float factor, T *to, int i, int half) {
    float c[N], s[N], low[N], high[N], x[N], y[N];
    load_table<N>(cosines + i, c);
    load_table<N>(sines + i, s);
    unpack<T, N>(first, low);
    unpack<T, N>(second, high);
#pragma unroll
    for (int j = 0; j < N; j++) {
        x[j] = __fsub_rn(__fmul_rn(low[j], c[j]), __fmul_rn(high[j], s[j])) * factor;
        y[j] = __fadd_rn(__fmul_rn(high[j], c[j]), __fmul_rn(low[j], s[j])) * factor;
    }
    store<T, N>(to + i, x);
    store<T, N>(to + half + i, y);
}

template <typename T>
static __device__ __forceinline__ T *cached(void *base, const struct kv_view &kv, int head,
                                            int32_t position) {
    return (T *)base + ((int64_t)head * kv.capacity + position) * kv.head_dim;
}

/* One head of the row, at elements i and half + i: a query, a key or a value. */
template <typename T, int N>
static __device__ void do_head(const struct rope_cache_args &a, int64_t row, int head, int i) {
    const int half = a.D / 2, K = a.kv.heads, position = a.step->q_start + (int32_t)row;
    const T *from = (const T *)a.qkv + row * a.ldqkv + (int64_t)head * a.D;
    typedef typename packed<T, N>::type group;
    const group first = *(const group *)(from + i), second = *(const group *)(from + half + i);
    const float *cosines = a.cos + row * half, *sines = a.sin + row * half;
    if (head < a.H) {
#pragma unroll
        for (int copy = 0; copy < Q_COPIES; copy++) {
            if (copy >= a.copies) break;
            const int64_t table = (int64_t)copy * a.rows * half;
            T *to = (T *)a.q[copy] + (row * a.H + head) * a.D;
            rotate<T, N>(first, second, cosines + table, sines + table, 1.0f, to, i, half);
        }
    } else if (head < a.H + K) {
        rotate<T, N>(first, second, cosines, sines, a.step->key_factor,
                     cached<T>(a.kv.k, a.kv, head - a.H, position), i, half);
    } else {
        T *to = cached<T>(a.kv.v, a.kv, head - a.H - K, position);
        *(group *)(to + i) = first;
        *(group *)(to + half + i) = second;
    }
}

/* threadIdx.x runs over a head's pairs, threadIdx.y over heads: of a row those from `begin` on, then
 * those of the next. Rows that only fill up a step have queries alone. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
    rope_cache_kernel(struct rope_cache_args a, int begin) {
    const unsigned int heads = (unsigned int)(a.H + 2 * a.kv.heads - begin);
    const unsigned int at = blockIdx.x * blockDim.y + threadIdx.y, row = at / heads;
    const int head = begin + (int)(at % heads);
    if (row >= (unsigned int)(head < a.H ? a.rows : a.step->n_tokens)) return;
    for (int i = (int)threadIdx.x * N; i < a.D / 2; i += (int)blockDim.x * N)
        do_head<T, N>(a, row, head, i);
}

template <typename T> static bool is_vectorial(const struct rope_cache_args *a) {
    uintptr_t bits = (uintptr_t)a->qkv | (uintptr_t)a->cos | (uintptr_t)a->sin |
                     (uintptr_t)a->kv.k | (uintptr_t)a->kv.v;
    for (int copy = 0; copy < a->copies; copy++) bits |= (uintptr_t)a->q[copy];
    return bits % 16 == 0 && a->D / 2 % lanes<T>::N == 0 && a->ldqkv % lanes<T>::N == 0;
}

template <typename T, int N>
static void launch(struct cuda_device *gpu, const struct rope_cache_args *a) {
    const int pairs = a->D / 2 / N, wide = pairs < THREADS ? pairs : THREADS;
    const dim3 threads((unsigned int)wide, (unsigned int)(THREADS / wide));
    const int begin = a->q[0] ? 0 : a->H;
    const int64_t heads = (int64_t)a->rows * (a->H + 2 * a->kv.heads - begin);
    const int64_t blocks = (heads + threads.y - 1) / threads.y;
    rope_cache_kernel<T, N><<<(unsigned int)blocks, threads, 0, gpu->stream>>>(*a, begin);
}

template <typename T>
static void by_alignment(struct cuda_device *gpu, const struct rope_cache_args *a) {
    if (is_vectorial<T>(a))
        launch<T, lanes<T>::N>(gpu, a);
    else
        launch<T, 1>(gpu, a);
}

void rope_cache_cuda(struct device *dev, const void *args) {
    const struct rope_cache_args *a = (const struct rope_cache_args *)args;
    if (a->dtype == DTYPE_BF16)
        by_alignment<__nv_bfloat16>(cuda_device(dev), a);
    else
        by_alignment<float>(cuda_device(dev), a);
    cuda_check(dev, cudaGetLastError(), "rope_cache_cuda");
}
