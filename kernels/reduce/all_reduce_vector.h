/* all_reduce, written once for both vector widths (vector.h). The order of the sum is the ranks',
 * so the bits are the reference's. */
#ifndef KERNELS_ALL_REDUCE_VECTOR_H
#define KERNELS_ALL_REDUCE_VECTOR_H

#include "kernels/device.h"
#include "kernels/vector.h"

enum { REDUCE_ELEMENTS = 16384 /* of an item */ };

VECTOR_INLINE void reduce_some(const struct all_reduce_args *a, size_t i, int64_t n,
                               const enum dtype dtype) {
    vf sum = vf_load_first(a->partial[0], i, n, dtype);
    for (int r = 1; r < a->ranks; r++) sum = sum + vf_load_first(a->partial[r], i, n, dtype);
    vf_store_first(a->out, i, n, dtype, sum);
}

VECTOR_INLINE void reduce_range(const struct all_reduce_args *a, size_t begin, size_t end,
                                const enum dtype dtype) {
    size_t i = begin;
    for (; i + VF_LANES <= end; i += VF_LANES) reduce_some(a, i, VF_LANES, dtype);
    if (i < end) reduce_some(a, i, (int64_t)(end - i), dtype);
}

static void reduce_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct all_reduce_args *a = ctx;
    const size_t all = (size_t)a->rows * (size_t)a->C, begin = (size_t)item * REDUCE_ELEMENTS;
    const size_t end = all - begin < REDUCE_ELEMENTS ? all : begin + REDUCE_ELEMENTS;
    if (a->dtype == DTYPE_BF16)
        reduce_range(a, begin, end, DTYPE_BF16);
    else
        reduce_range(a, begin, end, DTYPE_F32);
}

static inline void all_reduce_vector(struct device *dev, const struct all_reduce_args *a) {
    const int64_t all = (int64_t)a->rows * a->C;
    device_parallel(dev, (all + REDUCE_ELEMENTS - 1) / REDUCE_ELEMENTS, reduce_item, (void *)a);
}

#endif
