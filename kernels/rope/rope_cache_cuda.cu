/* rope_cache on a GPU: a block takes a few rows, rotates their queries into their copies, their
 * keys into the cache, and copies their values there. After the qkv linear, before attention. The
 * cache is in the layout "rows": [K][capacity][D].
 *
 * Products and their difference are rounded one by one, as the reference does: no fused
 * multiply-add, hence the same bits. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

/* Pieces that a thread loads before it rotates the first: a memory's latency is paid once for all.
 * A block's rows are about as many as that makes, however few heads they have. */
enum { THREADS = 256, AT_ONCE = 4 };

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

/* What a thread does at once: elements i and half + i, N each, of a head of a row; a query, a key
 * or a value. */
template <typename T, int N> struct piece {
    int64_t row;
    int head, i;
    typename packed<T, N>::type first, second; /* not rotated */
};

/* Piece number `index` of the rows from `row` on, whose heads count from `begin`. */
template <typename T, int N>
static __device__ __forceinline__ piece<T, N>
load_piece(const struct rope_cache_args &a, int64_t row, int begin, int heads, int index) {
    const int half = a.D / 2, groups = half / N, along = index / groups;
    piece<T, N> p;
    p.row = row + along / heads;
    p.head = begin + along % heads;
    p.i = (index - along * groups) * N;
    const T *from = (const T *)a.qkv + p.row * a.ldqkv + (int64_t)p.head * a.D + p.i;
    typedef typename packed<T, N>::type group;
    p.first = *(const group *)from;
    p.second = *(const group *)(from + half);
    return p;
}

template <typename T, int N>
static __device__ __forceinline__ void finish_piece(const struct rope_cache_args &a,
                                                    const piece<T, N> &p) {
    const int half = a.D / 2, K = a.kv.heads, position = a.step->q_start + (int32_t)p.row;
    const float *cosines = a.cos + p.row * half, *sines = a.sin + p.row * half;
    if (p.head < a.H) {
#pragma unroll
        for (int copy = 0; copy < Q_COPIES; copy++) {
            if (copy >= a.copies) break;
            const int64_t table = (int64_t)copy * a.rows * half;
            T *to = (T *)a.q[copy] + (p.row * a.H + p.head) * a.D;
            rotate<T, N>(p.first, p.second, cosines + table, sines + table, 1.0f, to, p.i, half);
        }
        return;
    }
    if (p.row >= a.step->n_tokens) return; /* padding leaves the cache alone */
    if (p.head < a.H + K) {
        rotate<T, N>(p.first, p.second, cosines, sines, a.step->key_factor,
                     cached<T>(a.kv.k, a.kv, p.head - a.H, position), p.i, half);
    } else {
        typedef typename packed<T, N>::type group;
        T *to = cached<T>(a.kv.v, a.kv, p.head - a.H - K, position) + p.i;
        *(group *)to = p.first;
        *(group *)(to + half) = p.second;
    }
}

template <typename T, int N>
static __global__ void __launch_bounds__(THREADS)
    rope_cache_kernel(struct rope_cache_args a, int rows_of_block) {
    const int64_t row = (int64_t)blockIdx.x * rows_of_block;
    const int rows = (int)(a.rows - row < rows_of_block ? a.rows - row : rows_of_block);
    const int begin = a.q[0] ? 0 : a.H, heads = a.H + 2 * a.kv.heads - begin;
    const int pieces = rows * heads * (a.D / 2 / N);
    for (int index = (int)threadIdx.x; index < pieces; index += THREADS * AT_ONCE) {
        piece<T, N> p[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (index + k * THREADS < pieces)
                p[k] = load_piece<T, N>(a, row, begin, heads, index + k * THREADS);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (index + k * THREADS < pieces) finish_piece(a, p[k]);
    }
}

template <typename T> static bool is_vectorial(const struct rope_cache_args *a) {
    uintptr_t bits = (uintptr_t)a->qkv | (uintptr_t)a->cos | (uintptr_t)a->sin |
                     (uintptr_t)a->kv.k | (uintptr_t)a->kv.v;
    for (int copy = 0; copy < a->copies; copy++) bits |= (uintptr_t)a->q[copy];
    return bits % 16 == 0 && a->D / 2 % lanes<T>::N == 0 && a->ldqkv % lanes<T>::N == 0;
}

template <typename T, int N>
static void launch(struct cuda_device *gpu, const struct rope_cache_args *a) {
    const int heads = a->H + 2 * a->kv.heads - (a->q[0] ? 0 : a->H);
    const int pieces = heads * (a->D / 2 / N); /* of a row */
    const int rows = pieces < THREADS * AT_ONCE ? THREADS * AT_ONCE / pieces : 1;
    rope_cache_kernel<T, N>
        <<<(unsigned int)((a->rows + rows - 1) / rows), THREADS, 0, gpu->stream>>>(*a, rows);
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
