/* KV layout "rows": keys and values as [K][capacity][D]. What the reference, the FMA kernels and
 * TMA read. Written by rope_cache, read by attention and by the spot check. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <string.h>

static size_t rows_bytes(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype) {
    return (size_t)heads * (size_t)capacity * (size_t)head_dim * dtype_bytes(dtype);
}

static size_t row_index(const struct kv_view *view, int head, int32_t position) {
    return ((size_t)head * (size_t)view->capacity + (size_t)position) * (size_t)view->head_dim;
}

static void rows_write(const struct kv_view *view, int head, int32_t begin, int32_t n,
                       const void *k, int64_t ld_k, const void *v, int64_t ld_v) {
    const size_t D = (size_t)view->head_dim, row_bytes = D * dtype_bytes(view->dtype);
    const size_t first = row_index(view, head, begin);
    for (size_t t = 0; t < (size_t)n; t++) {
        memcpy(element_at_mut(view->k, first + t * D, view->dtype),
               element_at(k, t * (size_t)ld_k, view->dtype), row_bytes);
        memcpy(element_at_mut(view->v, first + t * D, view->dtype),
               element_at(v, t * (size_t)ld_v, view->dtype), row_bytes);
    }
}

static void widen(float *to, const void *from, size_t first, size_t n, enum dtype dtype) {
    if (dtype == DTYPE_F32) {
        memcpy(to, (const float *)from + first, n * sizeof *to);
        return;
    }
    for (size_t i = 0; i < n; i++) to[i] = bf16_to_f32(((const bf16 *)from)[first + i]);
}

static void rows_unpack(const struct kv_view *view, int head, int32_t begin, int32_t n, float *k,
                        float *v) {
    const size_t first = row_index(view, head, begin), count = (size_t)n * (size_t)view->head_dim;
    if (k) widen(k, view->k, first, count, view->dtype);
    if (v) widen(v, view->v, first, count, view->dtype);
}

const struct kv_layout kv_layout_rows = {"rows", rows_bytes, rows_write, rows_unpack};

/* The same for kernels that serve only some heads. */
static size_t rows_sm90_bytes(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype) {
    const bool served = dtype == DTYPE_BF16 && (head_dim == 64 || head_dim == 128);
    return served ? rows_bytes(capacity, heads, head_dim, dtype) : 0;
}

static size_t rows_mma_bytes(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype) {
    const bool served = dtype == DTYPE_BF16 && head_dim % 32 == 0 && head_dim <= 128;
    return served ? rows_bytes(capacity, heads, head_dim, dtype) : 0;
}

static size_t rows_simt_bytes(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype) {
    return head_dim % 16 == 0 && head_dim <= 256 ? rows_bytes(capacity, heads, head_dim, dtype) : 0;
}

const struct kv_layout kv_layout_rows_sm90 = {"rows", rows_sm90_bytes, rows_write, rows_unpack};
const struct kv_layout kv_layout_rows_mma = {"rows", rows_mma_bytes, rows_write, rows_unpack};
const struct kv_layout kv_layout_rows_simt = {"rows", rows_simt_bytes, rows_write, rows_unpack};
