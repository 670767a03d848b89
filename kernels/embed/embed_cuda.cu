/* embed on a GPU: a block copies one row of the table, or writes zeros where another rank has it.
 * The first op of a step; all_reduce adds the ranks' rows. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { THREADS = 128 };

template <typename U> static __global__ void embed_kernel(struct embed_args a, int64_t row_units) {
    const int64_t t = blockIdx.x;
    const int32_t id = a.ids[t];
    const bool ours = id >= a.vocab_begin && id < a.vocab_end;
    const U *from = ours ? (const U *)a.table + (int64_t)(id - a.vocab_begin) * row_units : NULL;
    copy_units((U *)a.out + t * row_units, from, row_units);
}

void embed_cuda(struct device *dev, const void *args) {
    const struct embed_args *a = (const struct embed_args *)args;
    const size_t row_bytes = (size_t)a->C * dtype_bytes(a->dtype);
    const size_t unit = unit_of((uintptr_t)a->table | (uintptr_t)a->out | row_bytes);
    const int64_t row_units = (int64_t)(row_bytes / unit);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (unit == 16)
        embed_kernel<uint4><<<a->rows, THREADS, 0, stream>>>(*a, row_units);
    else if (unit == 4)
        embed_kernel<uint32_t><<<a->rows, THREADS, 0, stream>>>(*a, row_units);
    else
        embed_kernel<uint16_t><<<a->rows, THREADS, 0, stream>>>(*a, row_units);
    cuda_check(dev, cudaGetLastError(), "embed_cuda");
}
