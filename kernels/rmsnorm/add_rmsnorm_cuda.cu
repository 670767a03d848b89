/* add_rmsnorm on a GPU: a block adds and normalises one row, which its threads keep in registers
 * between the sum of squares and the product: h and x are read once, h and y written once. Before
 * qkv and gate_up linears and the head.
 *
 * The number of threads, and with it the order of the sum, depends on C alone: thread i of n sums
 * groups i, i + n, ... in that order, then come a tree within each warp and the warps in turn. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum {
    KEPT = 4,           /* groups of lanes that a thread keeps */
    KEPT_THREADS = 512, /* most of a block whose threads keep a row */
    WIDE_THREADS = 1024
};

/* A group of h and of x, packed; without x nothing is read for it. */
struct group {
    uint4 h, x;
};

template <typename T, bool ALIGNED>
static __device__ __forceinline__ void load_group(const struct add_rmsnorm_args &a, int64_t row,
                                                  int c, struct group &g) {
    g.h = load_packed<T, ALIGNED>((const T *)a.h + row + c, a.C - c);
    if (a.x) g.x = load_packed<T, ALIGNED>((const T *)a.x + row + c, a.C - c);
}

/* Stores h + x, rounded, keeps it as h, and adds its squares to `squares`. */
template <typename T, bool ALIGNED>
static __device__ __forceinline__ void add_group(const struct add_rmsnorm_args &a, int64_t row,
                                                 int c, struct group &g, float &squares) {
    constexpr int N = lanes<T>::N;
    float h[N], x[N];
    unpack_lanes<T>(g.h, h);
    if (a.x) {
        unpack_lanes<T>(g.x, x);
#pragma unroll
        for (int i = 0; i < N; i++) h[i] = round_to<T>(h[i] + x[i]);
        g.h = narrow_lanes(h, (const T *)NULL);
        store_lanes<T, ALIGNED>((T *)a.h + row + c, a.C - c, h);
    }
#pragma unroll
    for (int i = 0; i < N; i++) squares = fmaf(h[i], h[i], squares);
}

template <typename T, bool ALIGNED>
static __device__ __forceinline__ void scale_group(const struct add_rmsnorm_args &a, int64_t row,
                                                   int c, uint4 packed, float r) {
    constexpr int N = lanes<T>::N;
    float h[N], gain[N], y[N];
    unpack_lanes<T>(packed, h);
    load_lanes<T, ALIGNED>((const T *)a.gain + c, a.C - c, gain);
#pragma unroll
    for (int i = 0; i < N; i++) y[i] = round_to<T>(h[i] * r) * gain[i];
    store_lanes<T, ALIGNED>((T *)a.y + row + c, a.C - c, y);
}

/* Of the whole block, in every thread. */
static __device__ float block_sum(float x) {
    __shared__ float of_warp[WIDE_THREADS / 32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (unsigned int w = 0; w < blockDim.x / 32; w++) sum += of_warp[w];
    return sum;
}

static __device__ float factor_of(const struct add_rmsnorm_args &a, float squares) {
    return 1.0f / sqrtf(block_sum(squares) / (float)a.C + a.eps);
}

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(KEPT_THREADS) kept_kernel(struct add_rmsnorm_args a) {
    const int64_t row = (int64_t)blockIdx.x * a.C;
    const int stride = (int)blockDim.x * lanes<T>::N, begin = (int)threadIdx.x * lanes<T>::N;
    struct group kept[KEPT];
    float squares = 0;
#pragma unroll
    for (int g = 0; g < KEPT; g++)
        if (begin + g * stride < a.C) load_group<T, ALIGNED>(a, row, begin + g * stride, kept[g]);
#pragma unroll
    for (int g = 0; g < KEPT; g++)
        if (begin + g * stride < a.C)
            add_group<T, ALIGNED>(a, row, begin + g * stride, kept[g], squares);
    if (!a.y) return;
    const float r = factor_of(a, squares);
#pragma unroll
    for (int g = 0; g < KEPT; g++)
        if (begin + g * stride < a.C)
            scale_group<T, ALIGNED>(a, row, begin + g * stride, kept[g].h, r);
}

/* Rows that a block cannot keep: h is read again. */
template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(WIDE_THREADS) wide_kernel(struct add_rmsnorm_args a) {
    const int64_t row = (int64_t)blockIdx.x * a.C;
    const int stride = (int)blockDim.x * lanes<T>::N, begin = (int)threadIdx.x * lanes<T>::N;
    struct group g;
    float squares = 0;
    for (int c = begin; c < a.C; c += stride) {
        load_group<T, ALIGNED>(a, row, c, g);
        add_group<T, ALIGNED>(a, row, c, g, squares);
    }
    if (!a.y) return;
    const float r = factor_of(a, squares);
    for (int c = begin; c < a.C; c += stride)
        scale_group<T, ALIGNED>(a, row, c, load_packed<T, ALIGNED>((T *)a.h + row + c, a.C - c), r);
}

template <typename T, bool ALIGNED>
static void launch(struct cuda_device *gpu, const struct add_rmsnorm_args *a) {
    const unsigned int warps = blocks_of((size_t)a->C, 32 * KEPT * lanes<T>::N);
    if (warps * 32 <= KEPT_THREADS)
        kept_kernel<T, ALIGNED><<<a->rows, warps * 32, 0, gpu->stream>>>(*a);
    else
        wide_kernel<T, ALIGNED><<<a->rows, WIDE_THREADS, 0, gpu->stream>>>(*a);
}

template <typename T>
static void by_alignment(struct cuda_device *gpu, const struct add_rmsnorm_args *a) {
    const uintptr_t bits = (uintptr_t)a->h | (uintptr_t)a->x | (uintptr_t)a->gain | (uintptr_t)a->y;
    if (bits % 16 == 0 && a->C % lanes<T>::N == 0)
        launch<T, true>(gpu, a);
    else
        launch<T, false>(gpu, a);
}

void add_rmsnorm_cuda(struct device *dev, const void *args) {
    const struct add_rmsnorm_args *a = (const struct add_rmsnorm_args *)args;
    if (a->dtype == DTYPE_BF16)
        by_alignment<__nv_bfloat16>(cuda_device(dev), a);
    else
        by_alignment<float>(cuda_device(dev), a);
    cuda_check(dev, cudaGetLastError(), "add_rmsnorm_cuda");
}
