/* Normal numbers made on the GPU, the same bits as the CPU's: operands of benchmarks, random
 * weights, and the keys and values before a chunk of a sampled run. There each position of a head
 * is a stream of its own, keys in its even blocks of four, values in its odd. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/random.h"
#include "kernels/random_matrix.h"

enum { THREADS = 256 };

/* A block of four, or the n that are left of the head. */
static __device__ void store4(float *p, const float v[4], int n) {
    if (n == 4 && (uintptr_t)p % 16 == 0) {
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < n) p[i] = v[i];
}
static __device__ void store4(__nv_bfloat16 *p, const float v[4], int n) {
    if (n == 4 && (uintptr_t)p % 8 == 0) {
        *(uint2 *)p = make_uint2(narrow_pair(v[0], v[1]), narrow_pair(v[2], v[3]));
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < n) p[i] = narrow<__nv_bfloat16>(v[i]);
}

template <typename T> static __global__ void fill_normal_kernel(T *dst, int64_t n, uint64_t seed) {
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    float four[4];
    if (i >= n) return;
    random_normal4(seed, 0, (uint64_t)i / 4, four);
    store4(dst + i, four, (int)min((int64_t)4, n - i));
}

void cuda_fill_normal(struct device *dev, void *dst, int64_t n, enum dtype dtype, uint64_t seed) {
    if (n <= 0) return;
    const unsigned int blocks = blocks_of((size_t)(n + 3) / 4, THREADS);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (dtype == DTYPE_BF16)
        fill_normal_kernel<<<blocks, THREADS, 0, stream>>>((__nv_bfloat16 *)dst, n, seed);
    else
        fill_normal_kernel<<<blocks, THREADS, 0, stream>>>((float *)dst, n, seed);
    cuda_check(dev, cudaGetLastError(), "cuda_fill_normal");
}

/* A thread makes the values of one draw of four that lie in a row; `draws` of them reach over it.
 */
template <typename T>
static __global__ void random_matrix_kernel(struct random_matrix m, struct matrix_part part,
                                            int64_t draws, T *out, int64_t ld) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / draws;
    if (row >= part.rows) return;
    const int64_t first = (part.row + row) * m.columns + part.col;
    const int64_t draw = first / 4 + i % draws;
    const int64_t col = 4 * draw - first; /* of the first of the four: from -3 on */
    float four[4];
    if (col >= part.cols) return;
    random_normal4(m.seed, m.stream, (uint64_t)draw, four);
#pragma unroll
    for (int k = 0; k < 4; k++) /* two roundings, as without contraction */
        four[k] = round_to<__nv_bfloat16>(__fadd_rn(m.mean, __fmul_rn(m.deviation, four[k])));
    T *at = out + row * ld + col;
    if (col >= 0) {
        store4(at, four, (int)min((int64_t)4, part.cols - col));
        return;
    }
#pragma unroll
    for (int k = 1; k < 4; k++)
        if (col + k >= 0 && col + k < part.cols) at[k] = narrow<T>(four[k]);
}

void cuda_random_matrix(struct device *dev, const struct random_matrix *m,
                        const struct matrix_part *part, enum dtype dtype, void *out, int64_t ld) {
    if (part->rows <= 0 || part->cols <= 0) return;
    const int64_t draws = part->cols / 4 + 2;
    const unsigned int blocks = blocks_of((size_t)(part->rows * draws), THREADS);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (dtype == DTYPE_BF16)
        random_matrix_kernel<<<blocks, THREADS, 0, stream>>>(*m, *part, draws, (__nv_bfloat16 *)out,
                                                             ld);
    else
        random_matrix_kernel<<<blocks, THREADS, 0, stream>>>(*m, *part, draws, (float *)out, ld);
    cuda_check(dev, cudaGetLastError(), "cuda_random_matrix");
}

/* A thread makes four elements of a key and the same four of its value; blockIdx.y is the head. */
template <typename T>
static __global__ void fill_kv_kernel(struct kv_view view, int32_t begin, int32_t end,
                                      uint64_t seed) {
    const int64_t D = view.head_dim, fours = (D + 3) / 4;
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t position = begin + i / fours, d = i % fours * 4, head = blockIdx.y;
    if (position >= end) return;
    const uint64_t stream = (uint64_t)head << 32 | (uint32_t)position;
    const int64_t at = (head * view.capacity + position) * D + d;
    const int n = (int)min((int64_t)4, D - d);
    float keys[4], values[4];
    random_normal4(seed, stream, (uint64_t)d / 2, keys);
    random_normal4(seed, stream, (uint64_t)d / 2 + 1, values);
    store4((T *)view.k + at, keys, n);
    store4((T *)view.v + at, values, n);
}

void cuda_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                  uint64_t seed) {
    if (end <= begin) return;
    const size_t fours = (size_t)(view->head_dim + 3) / 4;
    const dim3 blocks(blocks_of((size_t)(end - begin) * fours, THREADS), (unsigned int)view->heads);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (view->dtype == DTYPE_BF16)
        fill_kv_kernel<__nv_bfloat16><<<blocks, THREADS, 0, stream>>>(*view, begin, end, seed);
    else
        fill_kv_kernel<float><<<blocks, THREADS, 0, stream>>>(*view, begin, end, seed);
    cuda_check(dev, cudaGetLastError(), "cuda_kv_fill");
}
