/* logits on a GPU: a warp multiplies one row of the head with up to ROWS rows of the input, at the
 * speed at which the head can be read. After the final norm, before sampling; each rank computes
 * its slice of the vocabulary. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { WARPS = 8, MOST_ROWS = 4, DEPTH = 4 };

/* DEPTH groups of a row, a warp's width apart; zeros past its end. */
template <typename T, bool ALIGNED>
static __device__ __forceinline__ void load_depth(const T *row, int c, int C, uint4 packed[DEPTH]) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        const int at = c + d * 32 * lanes<T>::N;
        packed[d] = at < C ? load_packed<T, ALIGNED>(row + at, C - at) : make_uint4(0, 0, 0, 0);
    }
}

template <typename T>
static __device__ __forceinline__ float multiply(uint4 x, uint4 w, float sum) {
    float value[lanes<T>::N], weight[lanes<T>::N];
    unpack_lanes<T>(x, value);
    unpack_lanes<T>(w, weight);
#pragma unroll
    for (int i = 0; i < lanes<T>::N; i++) sum = fmaf(value[i], weight[i], sum);
    return sum;
}

/* The dot products of one row of the head, w, with rows of x. A lane sums its groups in ascending
 * order, DEPTH of them on their way at a time: an order that depends on C alone. */
template <typename T, int ROWS, bool ALIGNED>
static __device__ __forceinline__ void dot(const T *w, const T *x, int C, int rows,
                                           float sum[ROWS]) {
    constexpr int N = lanes<T>::N;
    for (int c = (int)(threadIdx.x % 32) * N; c < C; c += DEPTH * 32 * N) {
        uint4 weight[DEPTH], value[DEPTH];
        load_depth<T, ALIGNED>(w, c, C, weight);
#pragma unroll
        for (int t = 0; t < ROWS; t++) {
            if (t >= rows) break;
            load_depth<T, ALIGNED>(x + (int64_t)t * C, c, C, value);
#pragma unroll
            for (int d = 0; d < DEPTH; d++) sum[t] = multiply<T>(value[d], weight[d], sum[t]);
        }
    }
}

template <typename T, int ROWS, bool ALIGNED>
static __global__ void __launch_bounds__(WARPS * 32) logits_kernel(struct logits_args a) {
    const int64_t v = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int first = (int)blockIdx.y * ROWS, rows = min(ROWS, a.rows - first);
    if (v >= a.V) return;
    float sum[ROWS] = {};
    dot<T, ROWS, ALIGNED>((const T *)a.head + v * a.C, (const T *)a.x + (int64_t)first * a.C, a.C,
                          rows, sum);
#pragma unroll
    for (int t = 0; t < ROWS; t++) {
        float whole = warp_sum(sum[t]);
        if (threadIdx.x % 32 == 0 && t < rows) a.out[(first + t) * a.ldout + v] = whole;
    }
}

template <typename T, bool ALIGNED>
static void launch(struct cuda_device *gpu, const struct logits_args *a) {
    const unsigned int blocks = blocks_of((size_t)a->V, WARPS);
    if (a->rows == 1)
        logits_kernel<T, 1, ALIGNED><<<blocks, WARPS * 32, 0, gpu->stream>>>(*a);
    else
        logits_kernel<T, MOST_ROWS, ALIGNED>
            <<<dim3(blocks, blocks_of((size_t)a->rows, MOST_ROWS)), WARPS * 32, 0, gpu->stream>>>(
                *a);
}

template <typename T>
static void by_alignment(struct cuda_device *gpu, const struct logits_args *a) {
    if (is_aligned(a->head, 16) && is_aligned(a->x, 16) && a->C % lanes<T>::N == 0)
        launch<T, true>(gpu, a);
    else
        launch<T, false>(gpu, a);
}

void logits_cuda(struct device *dev, const void *args) {
    const struct logits_args *a = (const struct logits_args *)args;
    if (a->dtype == DTYPE_BF16)
        by_alignment<__nv_bfloat16>(cuda_device(dev), a);
    else
        by_alignment<float>(cuda_device(dev), a);
    cuda_check(dev, cudaGetLastError(), "logits_cuda");
}
