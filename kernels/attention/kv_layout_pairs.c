/* KV layout "pairs", bf16 alone, for kernels that multiply pairs of bf16 (vdpbf16ps):
 *
 *   keys    [K][capacity][D]           a pair is two neighbouring elements of one key
 *   values  [K][capacity / 2][D][2]    a pair is the same element of keys 2i and 2i + 1
 *
 * The kernels hold queries in the lanes and broadcast pairs of keys and values. Written by
 * rope_cache, read by attention and by the spot check. */
#include "kernels/bf16.h"
#include "kernels/device.h"

#include <string.h>

static size_t pairs_bytes(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype) {
    return (size_t)heads * (size_t)capacity * (size_t)head_dim * dtype_bytes(dtype);
}

static size_t key_index(const struct kv_view *view, int head, int32_t position) {
    return ((size_t)head * (size_t)view->capacity + (size_t)position) * (size_t)view->head_dim;
}

/* First element of a position's value; the next ones follow at a distance of 2. */
static bf16 *value_at(const struct kv_view *view, int head, int32_t position) {
    return (bf16 *)view->v + key_index(view, head, position & ~1) + (position & 1);
}

/* One position: its half of the pairs, the other half is somebody else's. */
static void write_half(bf16 *to, const bf16 *value, size_t D) {
    for (size_t d = 0; d < D; d++) to[2 * d] = value[d];
}

static void write_pair(bf16 *to, const bf16 *even, const bf16 *odd, size_t D) {
    for (size_t d = 0; d < D; d++) {
        const uint32_t pair = (uint32_t)even[d] | (uint32_t)odd[d] << 16;
        memcpy(to + 2 * d, &pair, sizeof pair);
    }
}

static void pairs_write(const struct kv_view *view, int head, int32_t begin, int32_t n,
                        const void *k, int64_t ld_k, const void *v, int64_t ld_v) {
    const size_t D = (size_t)view->head_dim;
    const bf16 *key = k, *value = v;
    bf16 *to = (bf16 *)view->k + key_index(view, head, begin);
    for (int32_t t = 0; t < n; t++) memcpy(to + (size_t)t * D, key + t * ld_k, D * sizeof *to);

    int32_t t = 0;
    if (n > 0 && begin % 2) write_half(value_at(view, head, begin), value, D), t++;
    for (; t + 1 < n; t += 2)
        write_pair(value_at(view, head, begin + t), value + t * ld_v, value + (t + 1) * ld_v, D);
    if (t < n) write_half(value_at(view, head, begin + t), value + t * ld_v, D);
}

static void pairs_unpack(const struct kv_view *view, int head, int32_t begin, int32_t n, float *k,
                         float *v) {
    const size_t D = (size_t)view->head_dim;
    for (int32_t t = 0; t < n; t++) {
        const bf16 *key = (const bf16 *)view->k + key_index(view, head, begin + t);
        const bf16 *value = value_at(view, head, begin + t);
        for (size_t d = 0; d < D; d++) {
            if (k) k[(size_t)t * D + d] = bf16_to_f32(key[d]);
            if (v) v[(size_t)t * D + d] = bf16_to_f32(value[2 * d]);
        }
    }
}

const struct kv_layout kv_layout_pairs = {"pairs", pairs_bytes, pairs_write, pairs_unpack};
