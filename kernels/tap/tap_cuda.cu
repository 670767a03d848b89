/* tap on a GPU: a block copies one of the rows that the step names, for the spot check. Runs beside
 * the op whose input or output it copies. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { THREADS = 256 };

template <typename U>
static __global__ void tap_kernel(struct tap_args a, int64_t ld_units, int64_t row_units) {
    const int32_t row = a.step->tap_row[blockIdx.x];
    if (row < 0) return;
    copy_units((U *)a.dst + blockIdx.x * row_units, (const U *)a.src + row * ld_units, row_units);
}

void tap_cuda(struct device *dev, const void *args) {
    const struct tap_args *a = (const struct tap_args *)args;
    const size_t row_bytes = (size_t)a->n * dtype_bytes(a->dtype);
    const size_t ld_bytes = (size_t)a->ld * dtype_bytes(a->dtype);
    const size_t unit = unit_of((uintptr_t)a->src | (uintptr_t)a->dst | row_bytes | ld_bytes);
    const int64_t row_units = (int64_t)(row_bytes / unit), ld_units = (int64_t)(ld_bytes / unit);
    cudaStream_t stream = cuda_device(dev)->stream;
    if (unit == 16)
        tap_kernel<uint4><<<TAP_ROWS, THREADS, 0, stream>>>(*a, ld_units, row_units);
    else if (unit == 4)
        tap_kernel<uint32_t><<<TAP_ROWS, THREADS, 0, stream>>>(*a, ld_units, row_units);
    else
        tap_kernel<uint16_t><<<TAP_ROWS, THREADS, 0, stream>>>(*a, ld_units, row_units);
    cuda_check(dev, cudaGetLastError(), "tap_cuda");
}
