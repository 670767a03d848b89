/* add_rmsnorm: exact where a root is, near the reference on noise, rows independent of each other.
 * --bench prints GB/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

static const int32_t widths[] = {1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 896};
static const int32_t row_counts[] = {1, 15, 16, 17, 33};

/* Rows of +-2 have a mean square of 4 and with eps 0 a factor of 1/2: y = +-gain. */
static void twos_become_the_gain(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (size_t c = 0; c < COUNT(widths); c++) {
            const int32_t C = widths[c], rows = 17;
            const size_t n = (size_t)rows * (size_t)C;
            void *h = make_integers(n, dtype, 1, c), *gain = make_integers((size_t)C, dtype, 50, 1);
            for (size_t i = 0; i < n; i++)
                element_store(h, i, dtype, element_load(h, i, dtype) > 0 ? 2.0f : -2.0f);
            for (int i = 0; test_variant(OP_ADD_RMSNORM, dtype, i); i++) {
                const struct variant *v = test_variant(OP_ADD_RMSNORM, dtype, i);
                void *y = make_guarded(n, dtype);
                v->run(dev, &(struct add_rmsnorm_args){h, NULL, gain, y, rows, C, 0, dtype});
                for (size_t j = 0; j < n; j++) {
                    float g = element_load(gain, j % (size_t)C, dtype);
                    float want = element_load(h, j, dtype) > 0 ? g : -g;
                    if (element_load(y, j, dtype) != want)
                        fail_msg("%s: C %d, element %zu", v->name, C, j);
                }
                free_guarded(y, n, dtype);
            }
            free(h);
            free(gain);
        }
        device_close(dev);
    }
}

/* The new h is elementwise, hence the reference's bits; y follows a sum of another order, which can
 * turn two roundings over. */
static void noise_is_near_the_reference(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (size_t c = 0; c < COUNT(widths); c++) {
            const int32_t C = widths[c], rows = 19;
            const size_t n = (size_t)rows * (size_t)C;
            void *h = make_normal(n, dtype, c), *x = make_normal(n, dtype, c + 50);
            void *gain = make_normal((size_t)C, dtype, c + 90);
            void *h_want = copy_of(h, n, dtype), *y_want = make(n, dtype);
            test_reference(OP_ADD_RMSNORM)
                ->run(dev,
                      &(struct add_rmsnorm_args){h_want, x, gain, y_want, rows, C, 1e-6f, dtype});
            for (int i = 0; test_variant(OP_ADD_RMSNORM, dtype, i); i++) {
                const struct variant *v = test_variant(OP_ADD_RMSNORM, dtype, i);
                void *h_got = make_guarded(n, dtype), *y = make_guarded(n, dtype);
                memcpy(h_got, h, n * dtype_bytes(dtype));
                v->run(dev, &(struct add_rmsnorm_args){h_got, x, gain, y, rows, C, 1e-6f, dtype});
                assert_same_bits(h_got, h_want, n, dtype, "%s: h, C %d", v->name, C);
                for (size_t j = 0; j < n; j++)
                    if (!close_enough(element_load(y, j, dtype), element_load(y_want, j, dtype),
                                      dtype, dtype == DTYPE_BF16 ? 2 : 8, 0))
                        fail_msg("%s: C %d, element %zu is %g, not %g", v->name, C, j,
                                 (double)element_load(y, j, dtype),
                                 (double)element_load(y_want, j, dtype));
                free_guarded(h_got, n, dtype);
                free_guarded(y, n, dtype);
            }
            free(h);
            free(x);
            free(gain);
            free(h_want);
            free(y_want);
        }
        device_close(dev);
    }
}

/* 1 + 2^-8 is stored as 1 in bf16. The mean is of what was stored, so y is 1; of the exact sum it
 * would be 1 - 2^-8. */
static void the_mean_is_of_the_rounded_sum(void **state) {
    (void)state;
    struct device *dev = test_device(1, DTYPE_BF16);
    for (int i = 0; test_variant(OP_ADD_RMSNORM, DTYPE_BF16, i); i++) {
        bf16 h = f32_to_bf16(1), x = f32_to_bf16(0x1p-8f), gain = f32_to_bf16(1), y;
        test_variant(OP_ADD_RMSNORM, DTYPE_BF16, i)
            ->run(dev, &(struct add_rmsnorm_args){&h, &x, &gain, &y, 1, 1, 0, DTYPE_BF16});
        assert_true(bf16_to_f32(h) == 1 && bf16_to_f32(y) == 1);
    }
    device_close(dev);
}

static void a_row_has_its_bits_in_any_company(void **state) {
    (void)state;
    enum { C = 77, ROWS = 40 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        void *h = make_normal(ROWS * C, dtype, 1), *x = make_normal(ROWS * C, dtype, 2);
        void *gain = make_normal(C, dtype, 3);
        for (int i = 0; test_variant(OP_ADD_RMSNORM, dtype, i); i++) {
            const struct variant *v = test_variant(OP_ADD_RMSNORM, dtype, i);
            struct device *one = test_device(1, dtype), *three = test_device(3, dtype);
            void *all = make(ROWS * C, dtype), *sum = copy_of(h, ROWS * C, dtype);
            v->run(one, &(struct add_rmsnorm_args){sum, x, gain, all, ROWS, C, 1e-6f, dtype});
            for (size_t begin = 0; begin < 7; begin++) {
                for (size_t r = 0; r < COUNT(row_counts); r++) {
                    const size_t n = (size_t)row_counts[r] * C;
                    void *part = copy_of(element_at(h, begin * C, dtype), n, dtype);
                    void *y = make_guarded(n, dtype);
                    v->run(three,
                           &(struct add_rmsnorm_args){part, element_at(x, begin * C, dtype), gain,
                                                      y, row_counts[r], C, 1e-6f, dtype});
                    assert_same_bits(y, element_at(all, begin * C, dtype), n, dtype,
                                     "%s: rows %zu + %d", v->name, begin, row_counts[r]);
                    free(part);
                    free_guarded(y, n, dtype);
                }
            }
            free(all);
            free(sum);
            device_close(one);
            device_close(three);
        }
        free(h);
        free(x);
        free(gain);
    }
}

static void without_y_only_the_sum_is_made(void **state) {
    (void)state;
    enum { C = 33, ROWS = 18 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *h = make_integers(ROWS * C, dtype, 50, 1), *x = make_integers(ROWS * C, dtype, 50, 2);
        for (int i = 0; test_variant(OP_ADD_RMSNORM, dtype, i); i++) {
            const struct variant *v = test_variant(OP_ADD_RMSNORM, dtype, i);
            void *sum = copy_of(h, ROWS * C, dtype);
            v->run(dev, &(struct add_rmsnorm_args){sum, x, NULL, NULL, ROWS, C, 0, dtype});
            for (size_t j = 0; j < ROWS * C; j++)
                assert_true(element_load(sum, j, dtype) ==
                            element_load(h, j, dtype) + element_load(x, j, dtype));
            free(sum);
        }
        free(h);
        free(x);
        device_close(dev);
    }
}

static void nan_spoils_its_row_alone(void **state) {
    (void)state;
    enum { C = 20, ROWS = 5, BAD = 3 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *h = make_normal(ROWS * C, dtype, 1), *gain = make_normal(C, dtype, 2);
        element_store(h, BAD * C + 19, dtype, NAN);
        for (int i = 0; test_variant(OP_ADD_RMSNORM, dtype, i); i++) {
            const struct variant *v = test_variant(OP_ADD_RMSNORM, dtype, i);
            void *y = make(ROWS * C, dtype);
            v->run(dev, &(struct add_rmsnorm_args){h, NULL, gain, y, ROWS, C, 1e-6f, dtype});
            for (size_t j = 0; j < ROWS * C; j++)
                assert_int_equal(isnan(element_load(y, j, dtype)) != 0, j / C == BAD);
            free(y);
        }
        free(h);
        free(gain);
        device_close(dev);
    }
}

static int bench(void) {
    enum { C = 3584, ROWS = 8192 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        void *h = make_normal((size_t)ROWS * C, dtype, 1),
             *x = make_normal((size_t)ROWS * C, dtype, 2);
        void *gain = make_normal(C, dtype, 3), *y = make((size_t)ROWS * C, dtype);
        memset(x, 0, (size_t)ROWS * C * dtype_bytes(dtype));
        struct add_rmsnorm_args a = {h, x, gain, y, ROWS, C, 1e-6f, dtype};
        bench_bytes(OP_ADD_RMSNORM, dtype, &a, 4.0 * ROWS * C * (double)dtype_bytes(dtype),
                    "8192 x 3584");
        free(h);
        free(x);
        free(gain);
        free(y);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_ADD_RMSNORM);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twos_become_the_gain),
        cmocka_unit_test(noise_is_near_the_reference),
        cmocka_unit_test(the_mean_is_of_the_rounded_sum),
        cmocka_unit_test(a_row_has_its_bits_in_any_company),
        cmocka_unit_test(without_y_only_the_sum_is_made),
        cmocka_unit_test(nan_spoils_its_row_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
