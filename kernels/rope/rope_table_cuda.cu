/* rope_table on a GPU: cosines and sines of every row's integer phase, angles in f64. Once per
 * step, before the first layer; rope_cache reads it. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/rope/rope_phase.h"

enum { THREADS = 128 };

/* A thread for each angle of one copy. */
static __global__ void rope_table_kernel(struct rope_table_args a) {
    const int64_t half = a.D / 2, n = a.rows * half;
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int copy = (int)blockIdx.y;
    if (i >= n) return;
    const int32_t position = a.step->q_start + (int32_t)(i / half);
    double sine, cosine;
    sincos(rope_phase(a.pattern, copy, position) * a.inv_freq[i % half], &sine, &cosine);
    a.cos[copy * n + i] = (float)cosine;
    a.sin[copy * n + i] = (float)sine;
}

void rope_table_cuda(struct device *dev, const void *args) {
    const struct rope_table_args *a = (const struct rope_table_args *)args;
    const dim3 blocks(blocks_of((size_t)a->rows * (size_t)(a->D / 2), THREADS),
                      (unsigned int)a->copies);
    rope_table_kernel<<<blocks, THREADS, 0, cuda_device(dev)->stream>>>(*a);
    cuda_check(dev, cudaGetLastError(), "rope_table_cuda");
}
