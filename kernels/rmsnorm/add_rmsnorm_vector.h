/* add_rmsnorm, written once for both vector widths (vector.h). A row passes twice: the sum and its
 * squares, then the scaled output from what is still in the first level cache. Squares are added in
 * four vectors by turns, whose lanes are then added in a fixed order. */
#ifndef KERNELS_ADD_RMSNORM_VECTOR_H
#define KERNELS_ADD_RMSNORM_VECTOR_H

#include "kernels/device.h"
#include "kernels/vector.h"

#include <math.h>

enum { NORM_ROWS = 16 /* of an item */, CHAINS = 4 };

/* h + x, rounded and stored; without x, h as it is. */
VECTOR_INLINE vf take(const struct add_rmsnorm_args *a, size_t i, int64_t n,
                      const enum dtype dtype) {
    vf h = vf_load_first(a->h, i, n, dtype);
    if (!a->x) return h;
    h = vf_round(h + vf_load_first(a->x, i, n, dtype), dtype);
    vf_store_first(a->h, i, n, dtype, h);
    return h;
}

VECTOR_INLINE float mean_of_squares(const struct add_rmsnorm_args *a, size_t row,
                                    const enum dtype dtype) {
    vf chain[CHAINS];
    UNROLL for (int i = 0; i < CHAINS; i++) chain[i] = vf_zero();
    const int32_t step = CHAINS * VF_LANES;
    int32_t c = 0;
    for (; c + step <= a->C; c += step) {
        UNROLL for (int i = 0; i < CHAINS; i++) {
            vf h = take(a, row + (size_t)(c + i * VF_LANES), VF_LANES, dtype);
            chain[i] = vf_fma(h, h, chain[i]);
        }
    }
    for (; c < a->C; c += VF_LANES) {
        vf h = take(a, row + (size_t)c, a->C - c, dtype);
        chain[0] = vf_fma(h, h, chain[0]);
    }
    return vf_sum((chain[0] + chain[1]) + (chain[2] + chain[3])) / (float)a->C;
}

VECTOR_INLINE void scale(const struct add_rmsnorm_args *a, size_t row, int32_t c, int64_t n, vf r,
                         const enum dtype dtype) {
    const size_t i = row + (size_t)c;
    vf y = vf_round(vf_load_first(a->h, i, n, dtype) * r, dtype);
    vf_store_first(a->y, i, n, dtype, y * vf_load_first(a->gain, (size_t)c, n, dtype));
}

VECTOR_INLINE void norm_row(const struct add_rmsnorm_args *a, size_t row, const enum dtype dtype) {
    float mean = mean_of_squares(a, row, dtype);
    if (!a->y) return;
    vf r = vf_set(1.0f / sqrtf(mean + a->eps));
    int32_t c = 0;
    for (; c + VF_LANES <= a->C; c += VF_LANES) scale(a, row, c, VF_LANES, r, dtype);
    if (c < a->C) scale(a, row, c, a->C - c, r, dtype);
}

static void norm_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct add_rmsnorm_args *a = ctx;
    int64_t begin = item * NORM_ROWS, end = begin + NORM_ROWS;
    if (end > a->rows) end = a->rows;
    for (int64_t t = begin; t < end; t++) {
        const size_t row = (size_t)t * (size_t)a->C;
        if (a->dtype == DTYPE_BF16)
            norm_row(a, row, DTYPE_BF16);
        else
            norm_row(a, row, DTYPE_F32);
    }
}

static inline void add_rmsnorm_vector(struct device *dev, const struct add_rmsnorm_args *a) {
    device_parallel(dev, ((int64_t)a->rows + NORM_ROWS - 1) / NORM_ROWS, norm_item, (void *)a);
}

#endif
