/* swiglu, written once for both vector widths (vector.h). */
#ifndef KERNELS_SWIGLU_VECTOR_H
#define KERNELS_SWIGLU_VECTOR_H

#include "kernels/device.h"
#include "kernels/vector.h"

enum { SWIGLU_ELEMENTS = 16384 /* of an item; a multiple of every vector */ };

VECTOR_INLINE vf gated(vf gate, vf up, const enum dtype dtype) {
    vf silu = vf_round(gate / (vf_set(1.0f) + vf_exp(vf_zero() - gate)), dtype);
    return silu * up;
}

VECTOR_INLINE void swiglu_range(const struct swiglu_args *a, size_t begin, size_t end,
                                const enum dtype dtype) {
    vf gate, up;
    size_t i = begin;
    for (; i + VF_LANES <= end; i += VF_LANES) {
        vf_load_pairs(a->in, 2 * i, dtype, &gate, &up);
        vf_store(a->out, i, dtype, gated(gate, up, dtype));
    }
    if (i == end) return;
    float last[2 * VF_LANES] = {0};
    memcpy(last, element_at(a->in, 2 * i, dtype), 2 * (end - i) * dtype_bytes(dtype));
    vf_load_pairs(last, 0, dtype, &gate, &up);
    vf_store_first(a->out, i, (int64_t)(end - i), dtype, gated(gate, up, dtype));
}

static void swiglu_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct swiglu_args *a = ctx;
    const size_t all = (size_t)a->rows * (size_t)a->F, begin = (size_t)item * SWIGLU_ELEMENTS;
    const size_t end = all - begin < SWIGLU_ELEMENTS ? all : begin + SWIGLU_ELEMENTS;
    if (a->dtype == DTYPE_BF16)
        swiglu_range(a, begin, end, DTYPE_BF16);
    else
        swiglu_range(a, begin, end, DTYPE_F32);
}

static inline void swiglu_vector(struct device *dev, const struct swiglu_args *a) {
    const int64_t all = (int64_t)a->rows * a->F;
    device_parallel(dev, (all + SWIGLU_ELEMENTS - 1) / SWIGLU_ELEMENTS, swiglu_item, (void *)a);
}

#endif
