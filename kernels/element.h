/* One element of a tensor of either dtype, widened to f32 on the way in and rounded once on the way
 * out: what the reference kernels and the scalar ends of the fast ones are written with. */
#ifndef KERNELS_ELEMENT_H
#define KERNELS_ELEMENT_H

#include "kernels/bf16.h"
#include "kernels/random.h"
#include "kernels/types.h"

static inline float element_load(const void *base, size_t i, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)base)[i]) : ((const float *)base)[i];
}

static inline void element_store(void *base, size_t i, enum dtype dtype, float value) {
    if (dtype == DTYPE_BF16)
        ((bf16 *)base)[i] = f32_to_bf16(value);
    else
        ((float *)base)[i] = value;
}

/* "round" of ops.h: to the element type and back. */
static inline float element_round(float value, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
}

/* Values [begin, end) of a standard normal sequence into the same places of `base`; begin is a
 * multiple of four. */
static inline void element_fill_normal(void *base, int64_t begin, int64_t end, enum dtype dtype,
                                       uint64_t seed) {
    for (int64_t i = begin; i < end; i += 4) {
        float four[4];
        random_normal4(seed, 0, (uint64_t)i / 4, four);
        for (int64_t j = 0; j < 4 && i + j < end; j++)
            element_store(base, (size_t)(i + j), dtype, four[j]);
    }
}

static inline const void *element_at(const void *base, size_t i, enum dtype dtype) {
    return (const char *)base + i * dtype_bytes(dtype);
}

static inline void *element_at_mut(void *base, size_t i, enum dtype dtype) {
    return (char *)base + i * dtype_bytes(dtype);
}

#endif
