/* Synthetic keys and values for sampled coverage: standard normal, the same bits as the CPU
 * backend's, since they are exact in integers up to one multiplication. Layout rows. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/random.h"

#include <cuda_bf16.h>

template <typename T> __device__ T narrow(float x);
template <> __device__ float narrow<float>(float x) {
    return x;
}
template <> __device__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* A thread makes four values of a position's keys and four of its values: neighbouring draws of the
 * position's stream. */
template <typename T>
__global__ void fill(T *k, T *v, int32_t capacity, int32_t D, int32_t begin, int32_t n,
                     uint64_t seed) {
    const int32_t quads = (D + 3) / 4, head = (int32_t)blockIdx.y;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)n * quads) return;
    const int32_t position = begin + (int32_t)(i / quads), d = (int32_t)(i % quads) * 4;
    const uint64_t stream = (uint64_t)head << 32 | (uint32_t)position;
    const int64_t at = ((int64_t)head * capacity + position) * D + d;
    float keys[4], values[4];
    random_normal4(seed, stream, (uint64_t)d / 2, keys);
    random_normal4(seed, stream, (uint64_t)d / 2 + 1, values);
    for (int j = 0; j < 4 && d + j < D; j++) {
        k[at + j] = narrow<T>(keys[j]);
        v[at + j] = narrow<T>(values[j]);
    }
}

extern "C" void cuda_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin,
                             int32_t end, uint64_t seed) {
    const int threads = 256;
    const int32_t n = end - begin, D = view->head_dim;
    if (n <= 0) return;
    const int64_t items = (int64_t)n * ((D + 3) / 4);
    const dim3 grid((unsigned)((items + threads - 1) / threads), (unsigned)view->heads);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (view->dtype == DTYPE_BF16)
        fill<<<grid, threads, 0, stream>>>((__nv_bfloat16 *)view->k, (__nv_bfloat16 *)view->v,
                                           view->capacity, D, begin, n, seed);
    else
        fill<<<grid, threads, 0, stream>>>((float *)view->k, (float *)view->v, view->capacity, D,
                                           begin, n, seed);
    cuda_check(dev, cudaGetLastError(), "kv_fill");
}
