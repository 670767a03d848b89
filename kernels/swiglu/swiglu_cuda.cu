/* swiglu on a GPU: silu(gate) * up, from interleaved pairs. Between the gate_up and the down
 * linear.
 *
 * In bf16 the exponential and the quotient are the hardware's approximations, a few f32 units off
 * where the rounding to bf16 that follows is 2^15 times as coarse; gates below -87, whose silu is
 * under 1e-36, give zero. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

/* A thread takes ROUNDS groups of lanes, half of them gates, a block's width apart. */
enum { THREADS = 256, ROUNDS = 2 };

static __device__ __forceinline__ float silu(float gate, const float *) {
    return gate / (1.0f + expf(-gate));
}
static __device__ __forceinline__ float silu(float gate, const __nv_bfloat16 *) {
    return __fdividef(gate, 1.0f + __expf(-gate));
}

template <typename T> static __device__ __forceinline__ float gated(float gate, float up) {
    return round_to<T>(silu(gate, (const T *)NULL)) * up;
}

/* Half a group on the way out: eight bytes. */
static __device__ __forceinline__ void store_half(float *p, const float v[2]) {
    *(float2 *)p = make_float2(v[0], v[1]);
}
static __device__ __forceinline__ void store_half(__nv_bfloat16 *p, const float v[4]) {
    *(uint2 *)p = make_uint2(narrow_pair(v[0], v[1]), narrow_pair(v[2], v[3]));
}

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS) swiglu_kernel(const T *in, T *out, size_t all) {
    constexpr int N = lanes<T>::N, PAIRS = N / 2;
    const size_t first = ((size_t)blockIdx.x * ROUNDS * THREADS + threadIdx.x) * PAIRS;
    uint4 packed[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const size_t at = first + (size_t)i * THREADS * PAIRS;
        if (at + PAIRS <= all)
            packed[i] = load_packed<T, ALIGNED>(in + 2 * at, N);
        else if (at < all)
            packed[i] = load_packed<T, false>(in + 2 * at, (int)(2 * (all - at)));
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const size_t at = first + (size_t)i * THREADS * PAIRS;
        float pair[N], v[PAIRS];
        if (at >= all) return;
        unpack_lanes<T>(packed[i], pair);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) v[j] = gated<T>(pair[2 * j], pair[2 * j + 1]);
        if (ALIGNED && at + PAIRS <= all) {
            store_half(out + at, v);
            continue;
        }
#pragma unroll
        for (int j = 0; j < PAIRS; j++)
            if (at + j < all) out[at + j] = narrow<T>(v[j]);
    }
}

template <typename T> static void launch(struct cuda_device *gpu, const struct swiglu_args *a) {
    const size_t all = (size_t)a->rows * (size_t)a->F;
    const unsigned int blocks = blocks_of(all, ROUNDS * THREADS * lanes<T>::N / 2);
    const T *in = (const T *)a->in;
    T *out = (T *)a->out;
    if (is_aligned(in, 16) && is_aligned(out, 8))
        swiglu_kernel<T, true><<<blocks, THREADS, 0, gpu->stream>>>(in, out, all);
    else
        swiglu_kernel<T, false><<<blocks, THREADS, 0, gpu->stream>>>(in, out, all);
}

void swiglu_cuda(struct device *dev, const void *args) {
    const struct swiglu_args *a = (const struct swiglu_args *)args;
    if (a->dtype == DTYPE_BF16)
        launch<__nv_bfloat16>(cuda_device(dev), a);
    else
        launch<float>(cuda_device(dev), a);
    cuda_check(dev, cudaGetLastError(), "swiglu_cuda");
}
