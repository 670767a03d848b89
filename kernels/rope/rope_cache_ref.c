/* rope_cache, the specification: rotates queries into their copies, rotates keys and writes them
 * with their values into the KV cache. After the qkv linear, before attention. */
#include "kernels/device.h"
#include "kernels/element.h"

/* out = round(factor * rotate(in)), NeoX: the first half of the head against the second. */
static void rotate(const void *in, void *out, const float *cosine, const float *sine, float factor,
                   size_t D, enum dtype dtype) {
    const size_t half = D / 2;
    for (size_t i = 0; i < half; i++) {
        float a = element_load(in, i, dtype), b = element_load(in, i + half, dtype);
        element_store(out, i, dtype, (a * cosine[i] - b * sine[i]) * factor);
        element_store(out, i + half, dtype, (b * cosine[i] + a * sine[i]) * factor);
    }
}

static void rotate_queries(const struct rope_cache_args *a, size_t row) {
    const size_t D = (size_t)a->D, H = (size_t)a->H;
    for (size_t copy = 0; copy < (size_t)a->copies; copy++) {
        size_t table = (copy * (size_t)a->rows + row) * (D / 2);
        for (size_t h = 0; h < H; h++)
            rotate(element_at(a->qkv, row * (size_t)a->ldqkv + h * D, a->dtype),
                   element_at_mut(a->q[copy], (row * H + h) * D, a->dtype), a->cos + table,
                   a->sin + table, 1.0f, D, a->dtype);
    }
}

static void cache_keys_and_values(struct device *dev, const struct rope_cache_args *a, size_t row) {
    const size_t D = (size_t)a->D, K = (size_t)a->kv.heads, table = row * (D / 2);
    const size_t keys = row * (size_t)a->ldqkv + (size_t)a->H * D, values = keys + K * D;
    void *key = device_scratch(dev, 0);
    for (size_t head = 0; head < K; head++) {
        rotate(element_at(a->qkv, keys + head * D, a->dtype), key, a->cos + table, a->sin + table,
               a->step->key_factor, D, a->dtype);
        a->kv.layout->write(&a->kv, (int)head, a->step->q_start + (int32_t)row, 1, key, a->D,
                            element_at(a->qkv, values + head * D, a->dtype), a->D);
    }
}

void rope_cache_ref(struct device *dev, const void *args) {
    const struct rope_cache_args *a = args;
    for (int32_t row = 0; row < a->rows; row++) {
        if (a->q[0]) rotate_queries(a, (size_t)row);
        if (row < a->step->n_tokens) cache_keys_and_values(dev, a, (size_t)row);
    }
}
