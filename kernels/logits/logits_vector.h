/* logits, written once for both vector widths (vector.h). Usually one row against the whole head:
 * bound by reading the head, so threads share the vocabulary. A dot product is four chains by
 * turns, whatever the number of rows. */
#ifndef KERNELS_LOGITS_VECTOR_H
#define KERNELS_LOGITS_VECTOR_H

#include "kernels/device.h"
#include "kernels/vector.h"

enum { HEAD_ROWS = 64 /* of an item */, CHAINS = 4 };

VECTOR_INLINE float dot(const void *x, size_t xi, const void *w, size_t wi, int32_t n,
                        const enum dtype dtype) {
    vf chain[CHAINS];
    UNROLL for (int i = 0; i < CHAINS; i++) chain[i] = vf_zero();
    const int32_t step = CHAINS * VF_LANES;
    int32_t c = 0;
    for (; c + step <= n; c += step) {
        UNROLL for (int i = 0; i < CHAINS; i++) {
            const size_t at = (size_t)(c + i * VF_LANES);
            chain[i] = vf_fma(vf_load(x, xi + at, dtype), vf_load(w, wi + at, dtype), chain[i]);
        }
    }
    for (; c < n; c += VF_LANES)
        chain[0] = vf_fma(vf_load_first(x, xi + (size_t)c, n - c, dtype),
                          vf_load_first(w, wi + (size_t)c, n - c, dtype), chain[0]);
    return vf_sum((chain[0] + chain[1]) + (chain[2] + chain[3]));
}

static void logits_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct logits_args *a = ctx;
    const size_t C = (size_t)a->C, rows = (size_t)a->rows, V = (size_t)a->V;
    const size_t begin = (size_t)item * HEAD_ROWS;
    const size_t end = V - begin < HEAD_ROWS ? V : begin + HEAD_ROWS;
    for (size_t v = begin; v < end; v++)
        for (size_t t = 0; t < rows; t++)
            a->out[t * (size_t)a->ldout + v] =
                a->dtype == DTYPE_BF16 ? dot(a->x, t * C, a->head, v * C, a->C, DTYPE_BF16)
                                       : dot(a->x, t * C, a->head, v * C, a->C, DTYPE_F32);
}

static inline void logits_vector(struct device *dev, const struct logits_args *a) {
    device_parallel(dev, ((int64_t)a->V + HEAD_ROWS - 1) / HEAD_ROWS, logits_item, (void *)a);
}

#endif
