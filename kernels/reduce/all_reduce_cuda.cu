/* all_reduce on a GPU: the partial sums of the ranks that share it, added in f32 in rank order and
 * rounded once. After the embedding and the o and down linears. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { THREADS = 256 };

/* A thread adds one group of lanes. RANKS is a constant so that all loads are issued before the
 * first sum waits. */
template <typename T, int RANKS, bool ALIGNED>
static __device__ void add_group(const struct all_reduce_args &a, size_t at, int n) {
    float sum[lanes<T>::N], next[RANKS][lanes<T>::N];
#pragma unroll
    for (int r = 0; r < RANKS; r++)
        load_lanes<T, ALIGNED>((const T *)a.partial[r] + at, n, next[r]);
#pragma unroll
    for (int i = 0; i < lanes<T>::N; i++) {
        sum[i] = next[0][i];
#pragma unroll
        for (int r = 1; r < RANKS; r++) sum[i] += next[r][i];
    }
    store_lanes<T, ALIGNED>((T *)a.out + at, n, sum);
}

template <typename T, int RANKS, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    all_reduce_kernel(struct all_reduce_args a, size_t all) {
    const size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * lanes<T>::N;
    if (at >= all) return;
    const size_t left = all - at;
    if (left >= lanes<T>::N)
        add_group<T, RANKS, ALIGNED>(a, at, lanes<T>::N);
    else
        add_group<T, RANKS, false>(a, at, (int)left);
}

template <typename T, int RANKS>
static void launch(struct cuda_device *gpu, const struct all_reduce_args *a) {
    const size_t all = (size_t)a->rows * (size_t)a->C;
    const unsigned int blocks = blocks_of(all, THREADS * lanes<T>::N);
    bool aligned = is_aligned(a->out, 16);
    for (int r = 0; r < RANKS; r++) aligned = aligned && is_aligned(a->partial[r], 16);
    if (aligned)
        all_reduce_kernel<T, RANKS, true><<<blocks, THREADS, 0, gpu->stream>>>(*a, all);
    else
        all_reduce_kernel<T, RANKS, false><<<blocks, THREADS, 0, gpu->stream>>>(*a, all);
}

template <typename T>
static void by_ranks(struct cuda_device *gpu, const struct all_reduce_args *a) {
    static_assert(MAX_RANKS == 8, "one case for each number of ranks");
    switch (a->ranks) {
    case 1: launch<T, 1>(gpu, a); break;
    case 2: launch<T, 2>(gpu, a); break;
    case 3: launch<T, 3>(gpu, a); break;
    case 4: launch<T, 4>(gpu, a); break;
    case 5: launch<T, 5>(gpu, a); break;
    case 6: launch<T, 6>(gpu, a); break;
    case 7: launch<T, 7>(gpu, a); break;
    case 8: launch<T, 8>(gpu, a); break;
    }
}

void all_reduce_cuda(struct device *dev, const void *args) {
    const struct all_reduce_args *a = (const struct all_reduce_args *)args;
    if (a->dtype == DTYPE_BF16)
        by_ranks<__nv_bfloat16>(cuda_device(dev), a);
    else
        by_ranks<float>(cuda_device(dev), a);
    cuda_check(dev, cudaGetLastError(), "all_reduce_cuda");
}
