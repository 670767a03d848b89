/* Every usable linear against the reference: exact on integers, near on noise, and the same bits
 * for a row wherever it stands. --bench prints GFLOP/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

/* Around the panel (32), the slice of oneDNN (512), pairs of k, odd sizes. */
static const struct {
    int32_t N, K;
} shapes[] = {{1, 1},   {15, 2},   {16, 17},  {31, 33},  {32, 32},   {33, 31},
              {97, 64}, {129, 77}, {511, 40}, {512, 96}, {513, 130}, {1152, 24}};
static const int32_t row_counts[] = {1, 2, 5, 6, 7, 11, 12, 13, 15, 16, 17, 255, 256, 257};
enum { MOST_ROWS = 257 };

static struct weight pack(struct device *dev, const struct variant *v, int32_t N, int32_t K,
                          enum dtype dtype, const void *rows, const void *bias) {
    struct weight w = {{N, K, dtype, bias != NULL}, v->weight_layout, NULL, (void *)bias, NULL};
    w.data = make_aligned(w.layout->bytes(w.shape));
    struct error err = {""};
    if (w.layout->pack(dev, &w, rows, &err) != STATUS_OK) fail_msg("%s: %s", v->name, err.text);
    return w;
}

static void unpack(struct weight *w) {
    if (w->layout->release) w->layout->release(w);
    free(w->data);
}

static void *reference(struct device *dev, int32_t N, int32_t K, enum dtype dtype, const void *rows,
                       const void *bias, const void *x, int32_t n) {
    const struct variant *ref = test_reference(OP_LINEAR);
    struct weight w = pack(dev, ref, N, K, dtype, rows, bias);
    void *y = make((size_t)n * (size_t)N, dtype);
    ref->run(dev, &(struct linear_args){&w, x, y, K, N, n});
    unpack(&w);
    return y;
}

static void run_guarded(struct device *dev, const struct variant *v, const struct weight *w,
                        const void *x, int32_t n, const void *want) {
    const size_t size = (size_t)n * (size_t)w->shape.N;
    const enum dtype dtype = w->shape.dtype;
    void *y = make_guarded(size, dtype);
    v->run(dev, &(struct linear_args){w, x, y, w->shape.K, w->shape.N, n});
    assert_same_bits(y, want, size, dtype, "%s %s: %d x %d, %d rows", v->name, dtype_name(dtype),
                     w->shape.N, w->shape.K, n);
    free_guarded(y, size, dtype);
}

static void integers_are_exact_at_every_edge(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (size_t s = 0; s < COUNT(shapes); s++) {
            const int32_t N = shapes[s].N, K = shapes[s].K;
            void *rows = make_integers((size_t)N * (size_t)K, dtype, 3, s);
            void *bias = s % 2 ? make_integers((size_t)N, dtype, 9, s + 100) : NULL;
            void *x = make_integers((size_t)MOST_ROWS * (size_t)K, dtype, 3, s + 200);
            void *want = reference(dev, N, K, dtype, rows, bias, x, MOST_ROWS);
            for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
                const struct variant *v = test_variant(OP_LINEAR, dtype, i);
                struct weight w = pack(dev, v, N, K, dtype, rows, bias);
                for (size_t r = 0; r < COUNT(row_counts); r++) {
                    void *exact = copy_of(x, (size_t)row_counts[r] * (size_t)K, dtype);
                    run_guarded(dev, v, &w, exact, row_counts[r], want);
                    free(exact);
                }
                unpack(&w);
            }
            free(rows);
            free(bias);
            free(x);
            free(want);
        }
        device_close(dev);
    }
}

/* Sums in f32 against f64: a thousand terms of size one differ by less than 1e-3; then one
 * rounding to the element type. */
static void noise_is_near_the_reference(void **state) {
    (void)state;
    enum { N = 150, K = 901, ROWS = 67 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *rows = make_normal((size_t)N * K, dtype, 1), *bias = make_normal(N, dtype, 2);
        void *x = make_normal((size_t)ROWS * K, dtype, 3);
        void *want = reference(dev, N, K, dtype, rows, bias, x, ROWS);
        for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LINEAR, dtype, i);
            struct weight w = pack(dev, v, N, K, dtype, rows, bias);
            void *y = make((size_t)ROWS * N, dtype);
            v->run(dev, &(struct linear_args){&w, x, y, K, N, ROWS});
            for (size_t j = 0; j < (size_t)ROWS * N; j++) {
                float got = element_load(y, j, dtype), near = element_load(want, j, dtype);
                if (!close_enough(got, near, dtype, 1, 1e-3))
                    fail_msg("%s: element %zu is %g, not %g", v->name, j, (double)got,
                             (double)near);
            }
            free(y);
            unpack(&w);
        }
        free(rows);
        free(bias);
        free(x);
        free(want);
        device_close(dev);
    }
}

/* Every run of rows [begin, begin + n), on any number of threads, gives those rows' bits. */
static void a_row_has_its_bits_in_any_company(void **state) {
    (void)state;
    enum { N = 530, K = 101, ROWS = 520 };
    static const int32_t begins[] = {0, 1, 7, 13, 200, 263};
    static const int threads[] = {1, 2, 3};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        void *rows = make_normal((size_t)N * K, dtype, 4), *bias = make_normal(N, dtype, 5);
        void *x = make_normal((size_t)ROWS * K, dtype, 6);
        for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LINEAR, dtype, i);
            if (strcmp(v->name, "ref") == 0) continue;
            void *all = make((size_t)ROWS * N, dtype);
            for (size_t t = 0; t < COUNT(threads); t++) {
                struct device *dev = test_device(threads[t], dtype);
                struct weight w = pack(dev, v, N, K, dtype, rows, bias);
                if (t == 0) v->run(dev, &(struct linear_args){&w, x, all, K, N, ROWS});
                for (size_t b = 0; b < COUNT(begins); b++)
                    for (size_t r = 0; r < COUNT(row_counts); r++)
                        run_guarded(dev, v, &w, element_at(x, (size_t)begins[b] * K, dtype),
                                    row_counts[r], element_at(all, (size_t)begins[b] * N, dtype));
                unpack(&w);
                device_close(dev);
            }
            free(all);
        }
        free(rows);
        free(bias);
        free(x);
    }
}

/* Wider rows than needed: what lies between rows is neither read (NaN) nor written. */
static void strides_change_no_bit_and_gaps_stay(void **state) {
    (void)state;
    enum { N = 45, K = 63, ROWS = 273, LDX = K + 5, LDY = N + 3 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *rows = make_normal((size_t)N * K, dtype, 7);
        void *dense = make_normal((size_t)ROWS * K, dtype, 8);
        void *wide = make((size_t)ROWS * LDX, dtype);
        for (size_t j = 0; j < (size_t)ROWS * LDX; j++) element_store(wide, j, dtype, NAN);
        for (size_t t = 0; t < ROWS; t++)
            memcpy(element_at_mut(wide, t * LDX, dtype), element_at(dense, t * K, dtype),
                   K * dtype_bytes(dtype));
        for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LINEAR, dtype, i);
            struct weight w = pack(dev, v, N, K, dtype, rows, NULL);
            void *want = make((size_t)ROWS * N, dtype);
            void *y = make_guarded((size_t)ROWS * LDY, dtype);
            v->run(dev, &(struct linear_args){&w, dense, want, K, N, ROWS});
            v->run(dev, &(struct linear_args){&w, wide, y, LDX, LDY, ROWS});
            for (size_t t = 0; t < ROWS; t++) {
                assert_same_bits(element_at(y, t * LDY, dtype), element_at(want, t * N, dtype), N,
                                 dtype, "%s: row %zu", v->name, t);
                assert_true(
                    untouched(element_at(y, t * LDY + N, dtype), (LDY - N) * dtype_bytes(dtype)));
            }
            free_guarded(y, (size_t)ROWS * LDY, dtype);
            free(want);
            unpack(&w);
        }
        free(rows);
        free(dense);
        free(wide);
        device_close(dev);
    }
}

static void nan_spoils_its_row_alone(void **state) {
    (void)state;
    enum { N = 40, K = 33, ROWS = 30, BAD = 14 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *rows = make_normal((size_t)N * K, dtype, 9);
        void *x = make_normal((size_t)ROWS * K, dtype, 10);
        element_store(x, (size_t)BAD * K + K - 1, dtype, NAN);
        for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LINEAR, dtype, i);
            struct weight w = pack(dev, v, N, K, dtype, rows, NULL);
            void *y = make((size_t)ROWS * N, dtype);
            v->run(dev, &(struct linear_args){&w, x, y, K, N, ROWS});
            for (size_t j = 0; j < (size_t)ROWS * N; j++)
                assert_int_equal(isnan(element_load(y, j, dtype)) != 0, j / N == BAD);
            free(y);
            unpack(&w);
        }
        free(rows);
        free(x);
        device_close(dev);
    }
}

static void bench_shape(struct device *dev, enum dtype dtype, int32_t N, int32_t K, int32_t n) {
    void *rows = make_normal((size_t)N * (size_t)K, dtype, 1);
    void *x = make_normal((size_t)n * (size_t)K, dtype, 2);
    void *y = make((size_t)n * (size_t)N, dtype);
    printf("linear %-9s N %5d K %5d rows %4d", dtype_name(dtype), N, K, n);
    for (int i = 0; test_variant(OP_LINEAR, dtype, i); i++) {
        const struct variant *v = test_variant(OP_LINEAR, dtype, i);
        if (strcmp(v->name, "ref") == 0) continue;
        struct weight w = pack(dev, v, N, K, dtype, rows, NULL);
        double s = best_seconds(dev, v->run, &(struct linear_args){&w, x, y, K, N, n});
        printf("  %s %.0f GFLOP/s", v->name, 2e-9 * n * N * K / s);
        unpack(&w);
    }
    printf("\n");
    free(rows);
    free(x);
    free(y);
}

static int bench(void) {
    static const int32_t sizes[][2] = {{512, 512},   {1024, 512},  {2816, 512}, {512, 1408},
                                       {1152, 896},  {896, 896},   {9728, 896}, {896, 4864},
                                       {4864, 1024}, {1024, 1024}, {256, 512},  {512, 128}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(0, dtype);
        for (size_t i = 0; i < COUNT(sizes); i++) {
            bench_shape(dev, dtype, sizes[i][0], sizes[i][1], 2048);
            bench_shape(dev, dtype, sizes[i][0], sizes[i][1], 1);
        }
        device_close(dev);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_LINEAR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact_at_every_edge),
        cmocka_unit_test(noise_is_near_the_reference),
        cmocka_unit_test(a_row_has_its_bits_in_any_company),
        cmocka_unit_test(strides_change_no_bit_and_gaps_stay),
        cmocka_unit_test(nan_spoils_its_row_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
