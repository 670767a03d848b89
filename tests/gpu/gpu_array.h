/* Arrays of GPU tests beyond gpu_test.h: at addresses that are not aligned, between canaries, and
 * of both dtypes at once. Include after cmocka.h. */
#ifndef GPU_ARRAY_H
#define GPU_ARRAY_H

#include "gpu_test.h"
#include "kernel_test.h"

/* n elements on the GPU, `skew` elements past an aligned address; nothing lies behind them. */
static inline void *gpu_put_skewed(struct gpu_test *t, const void *host, size_t n, size_t skew,
                                   enum dtype dtype) {
    const size_t size = dtype_bytes(dtype);
    char *at = (char *)gpu_new(t, (n + skew) * size) + skew * size;
    device_write(t->gpu, at, host, n * size);
    return at;
}

/* n elements between canaries, of canary bytes themselves, `skew` elements past an aligned address.
 */
static inline void *gpu_guarded(struct gpu_test *t, size_t n, size_t skew, enum dtype dtype) {
    const size_t size = dtype_bytes(dtype), bytes = (n + skew) * size + 2 * CANARY_BYTES;
    char *fill = malloc(bytes);
    assert_non_null(fill);
    memset(fill, CANARY, bytes);
    char *base = gpu_put(t, fill, bytes);
    free(fill);
    return base + CANARY_BYTES + skew * size;
}

/* A host copy of n guarded elements, after a look at the canaries: the caller frees it. */
static inline void *gpu_unguard(struct gpu_test *t, const void *at, size_t n, enum dtype dtype) {
    const size_t bytes = n * dtype_bytes(dtype);
    char *all = malloc(bytes + 2 * CANARY_BYTES);
    assert_non_null(all);
    gpu_get(t, all, (const char *)at - CANARY_BYTES, bytes + 2 * CANARY_BYTES);
    if (!untouched(all, CANARY_BYTES)) fail_msg("written before the array");
    if (!untouched(all + CANARY_BYTES + bytes, CANARY_BYTES)) fail_msg("written past the array");
    memmove(all, all + CANARY_BYTES, bytes);
    return all;
}

#endif
