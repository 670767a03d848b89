/* What the tests of kernels share: devices, every usable variant of an op, inputs, buffers with
 * canaries on both sides, comparisons, and the clock of --bench. Include after cmocka.h. */
#ifndef TESTS_KERNEL_TEST_H
#define TESTS_KERNEL_TEST_H

#include "kernels/device.h"
#include "kernels/element.h"
#include "kernels/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CANARY_BYTES = 256, CANARY = 0xa5 };
#define COUNT(array) (sizeof(array) / sizeof *(array))

static inline struct device *test_device(int threads, enum dtype dtype) {
    struct device_opts opts = device_opts_defaults();
    opts.kind = DEVICE_CPU;
    opts.threads = threads;
    opts.dtype = dtype;
    struct device *dev = NULL;
    struct error err = {""};
    if (device_open(&dev, &opts, &err) != STATUS_OK) fail_msg("%s", err.text);
    return dev;
}

/* The i-th variant of `op` that runs here and serves dtype; NULL past the last. */
static inline const struct variant *test_variant(enum op op, enum dtype dtype, int i) {
    int n = 0;
    const struct variant *table = variant_table(&n);
    for (int row = 0; row < n; row++) {
        const struct variant *v = &table[row];
        if (v->op != op || v->device != DEVICE_CPU || !(v->dtypes & (1 << dtype))) continue;
        if (!variant_usable(v, NULL)) continue;
        if (i-- == 0) return v;
    }
    return NULL;
}

static inline const struct variant *test_reference(enum op op) {
    for (int i = 0;; i++) {
        const struct variant *v = test_variant(op, DTYPE_F32, i);
        assert_non_null(v);
        if (strcmp(v->name, "ref") == 0) return v;
    }
}

/* Names what this machine cannot run, so that a green test does not hide it. */
static inline void print_skipped(enum op op) {
    int n = 0;
    const struct variant *table = variant_table(&n);
    for (int row = 0; row < n; row++) {
        const char *why = "";
        if (table[row].op == op && !variant_usable(&table[row], &why))
            print_message("not run here: %s %s: %s\n", op_name(op), table[row].name, why);
    }
}

/* ---- buffers */

/* Exactly n elements, so that the address sanitizer sees a read past the end. */
static inline void *make(size_t n, enum dtype dtype) {
    void *p = malloc(n * dtype_bytes(dtype) + (n == 0));
    assert_non_null(p);
    return p;
}

/* Zeroed, at 256 bytes, as an arena gives it. */
static inline void *make_aligned(size_t bytes) {
    void *p = aligned_alloc(256, (bytes + 256) / 256 * 256);
    assert_non_null(p);
    memset(p, 0, (bytes + 256) / 256 * 256);
    return p;
}

static inline void *copy_of(const void *from, size_t n, enum dtype dtype) {
    void *p = make(n, dtype);
    memcpy(p, from, n * dtype_bytes(dtype));
    return p;
}

/* n elements between canaries; every byte is the canary's, so what was not written shows too. */
static inline void *make_guarded(size_t n, enum dtype dtype) {
    size_t bytes = n * dtype_bytes(dtype) + 2 * CANARY_BYTES;
    char *p = malloc(bytes);
    assert_non_null(p);
    memset(p, CANARY, bytes);
    return p + CANARY_BYTES;
}

static inline bool untouched(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)at)[i] != CANARY) return false;
    return true;
}

static inline void free_guarded(void *p, size_t n, enum dtype dtype) {
    assert_true(untouched((char *)p - CANARY_BYTES, CANARY_BYTES));
    assert_true(untouched((char *)p + n * dtype_bytes(dtype), CANARY_BYTES));
    free((char *)p - CANARY_BYTES);
}

/* ---- inputs */

static inline void fill_normal(void *p, size_t n, enum dtype dtype, uint64_t seed) {
    for (size_t i = 0; i < n; i += 4) {
        float value[4];
        random_normal4(seed, 0, i / 4, value);
        for (size_t j = 0; j < 4 && i + j < n; j++) element_store(p, i + j, dtype, value[j]);
    }
}

/* Integers in [-most, most]. */
static inline void fill_integers(void *p, size_t n, enum dtype dtype, int most, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        uint32_t counter[4] = {(uint32_t)i}, word[4];
        philox4x32(seed, counter, word);
        element_store(p, i, dtype, (float)((int)(word[0] % (2u * (unsigned)most + 1)) - most));
    }
}

static inline void *make_normal(size_t n, enum dtype dtype, uint64_t seed) {
    void *p = make(n, dtype);
    fill_normal(p, n, dtype, seed);
    return p;
}

static inline void *make_integers(size_t n, enum dtype dtype, int most, uint64_t seed) {
    void *p = make(n, dtype);
    fill_integers(p, n, dtype, most, seed);
    return p;
}

/* ---- comparisons */

#define assert_same_bits(a, b, n, dtype, ...)                                                      \
    do {                                                                                           \
        if (memcmp(a, b, (size_t)(n)*dtype_bytes(dtype)) != 0) fail_msg(__VA_ARGS__);              \
    } while (0)

/* Of two values of dtype near each other: by at most `ulps` units of the element type at `near`,
 * and `slack` for what sums in another order differ by. NaN equals NaN. */
static inline bool close_enough(float got, float want, enum dtype dtype, double ulps,
                                double slack) {
    if (isnan(got) || isnan(want)) return isnan(got) && isnan(want);
    if (got == want) return true;
    double unit = dtype == DTYPE_BF16 ? 0x1p-7 : 0x1p-23;
    return fabs((double)got - (double)want) <= ulps * unit * fabs((double)want) + slack;
}

/* ---- --bench */

static inline bool wants_bench(int argc, char **argv) {
    return argc > 1 && strcmp(argv[1], "--bench") == 0;
}

static inline double test_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best time of a call: the machine's noise only adds. */
static inline double best_seconds(struct device *dev, op_function *run, const void *args) {
    double best = HUGE_VAL, spent = 0;
    for (int i = 0; i < 5 || (spent < 0.3 && i < 1000); i++) {
        double begin = test_seconds();
        run(dev, args);
        double took = test_seconds() - begin;
        if (took < best) best = took;
        spent += took;
    }
    return best;
}

/* GB/s of every variant for one call that moves `bytes`. */
static inline void bench_bytes(enum op op, enum dtype dtype, const void *args, double bytes,
                               const char *what) {
    struct device *dev = test_device(0, dtype);
    printf("%-12s %-9s %-26s", op_name(op), dtype_name(dtype), what);
    for (int i = 0; test_variant(op, dtype, i); i++) {
        const struct variant *v = test_variant(op, dtype, i);
        printf("  %s %.1f GB/s", v->name, bytes / best_seconds(dev, v->run, args) * 1e-9);
    }
    printf("\n");
    device_close(dev);
}

#endif
