/* rope_cache, written once for both vector widths (vector.h). An item is a run of positions that
 * begins and ends at absolute multiples of CACHE_ROWS, so that what a cache layout interleaves is
 * written by one thread as a rule. No multiply-adds: the reference's bits. */
#ifndef KERNELS_ROPE_CACHE_VECTOR_H
#define KERNELS_ROPE_CACHE_VECTOR_H

#include "kernels/device.h"
#include "kernels/vector.h"

enum { CACHE_ROWS = 16 };

VECTOR_INLINE void rotate_some(const void *in, void *out, const float *cosine, const float *sine,
                               vf factor, size_t i, int64_t n, size_t half,
                               const enum dtype dtype) {
    vf a = vf_load_first(in, i, n, dtype), b = vf_load_first(in, i + half, n, dtype);
    vf c = vf_load_first(cosine, i, n, DTYPE_F32), s = vf_load_first(sine, i, n, DTYPE_F32);
    vf_store_first(out, i, n, dtype, (a * c - b * s) * factor);
    vf_store_first(out, i + half, n, dtype, (b * c + a * s) * factor);
}

/* One head of one row; in and out may be the same. */
VECTOR_INLINE void rotate(const void *in, void *out, const float *cosine, const float *sine,
                          float factor, size_t D, const enum dtype dtype) {
    const size_t half = D / 2;
    size_t i = 0;
    for (; i + VF_LANES <= half; i += VF_LANES)
        rotate_some(in, out, cosine, sine, vf_set(factor), i, VF_LANES, half, dtype);
    if (i < half)
        rotate_some(in, out, cosine, sine, vf_set(factor), i, (int64_t)(half - i), half, dtype);
}

VECTOR_INLINE void rotate_queries(const struct rope_cache_args *a, size_t row,
                                  const enum dtype dtype) {
    const size_t D = (size_t)a->D, H = (size_t)a->H;
    for (size_t copy = 0; copy < (size_t)a->copies; copy++) {
        const size_t table = (copy * (size_t)a->rows + row) * (D / 2);
        for (size_t h = 0; h < H; h++)
            rotate(element_at(a->qkv, row * (size_t)a->ldqkv + h * D, dtype),
                   element_at_mut(a->q[copy], (row * H + h) * D, dtype), a->cos + table,
                   a->sin + table, 1.0f, D, dtype);
    }
}

/* Rows [begin, end) of all heads; keys: room for the rotated keys of one head. */
VECTOR_INLINE void cache_rows(const struct rope_cache_args *a, int32_t begin, int32_t end,
                              void *keys, const enum dtype dtype) {
    const size_t D = (size_t)a->D, K = (size_t)a->kv.heads, ld = (size_t)a->ldqkv;
    for (size_t head = 0; head < K; head++) {
        const size_t column = ((size_t)a->H + head) * D;
        for (size_t row = (size_t)begin; row < (size_t)end; row++) {
            const size_t table = row * (D / 2);
            rotate(element_at(a->qkv, row * ld + column, dtype),
                   element_at_mut(keys, (row - (size_t)begin) * D, dtype), a->cos + table,
                   a->sin + table, a->step->key_factor, D, dtype);
        }
        a->kv.layout->write(&a->kv, (int)head, a->step->q_start + begin, end - begin, keys, a->D,
                            element_at(a->qkv, (size_t)begin * ld + column + K * D, dtype),
                            a->ldqkv);
    }
}

VECTOR_INLINE void rope_rows(const struct rope_cache_args *a, int32_t begin, int32_t end,
                             void *keys, const enum dtype dtype) {
    for (int32_t row = begin; a->q[0] && row < end; row++) rotate_queries(a, (size_t)row, dtype);
    if (end > a->step->n_tokens) end = a->step->n_tokens;
    if (begin < end) cache_rows(a, begin, end, keys, dtype);
}

struct rope_run {
    struct device *dev;
    const struct rope_cache_args *args;
};

static void rope_item(void *ctx, int64_t item, int worker) {
    const struct rope_run *r = ctx;
    const struct rope_cache_args *a = r->args;
    int32_t begin = (int32_t)item * CACHE_ROWS - a->step->q_start % CACHE_ROWS;
    int32_t end = begin + CACHE_ROWS < a->rows ? begin + CACHE_ROWS : a->rows;
    if (begin < 0) begin = 0;
    void *keys = device_scratch(r->dev, worker);
    if (a->dtype == DTYPE_BF16)
        rope_rows(a, begin, end, keys, DTYPE_BF16);
    else
        rope_rows(a, begin, end, keys, DTYPE_F32);
}

static inline void rope_cache_vector(struct device *dev, const struct rope_cache_args *a) {
    struct rope_run r = {dev, a};
    const int64_t before = a->step->q_start % CACHE_ROWS;
    device_parallel(dev, (before + a->rows + CACHE_ROWS - 1) / CACHE_ROWS, rope_item, &r);
}

#endif
