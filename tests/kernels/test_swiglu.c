/* swiglu: against the reference on noise, its limits, and the accuracy of its exponential. --bench
 * prints GB/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

/* Rows x F around vectors and items (16384 elements). */
static const int32_t sizes[][2] = {{1, 1},  {1, 7},   {3, 5},     {1, 16},    {1, 17},   {2, 15},
                                   {5, 33}, {128, 1}, {127, 129}, {1, 16384}, {5, 3277}, {257, 64}};

static void noise_is_near_the_reference(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (size_t s = 0; s < COUNT(sizes); s++) {
            const int32_t rows = sizes[s][0], F = sizes[s][1];
            const size_t n = (size_t)rows * (size_t)F;
            void *in = make_normal(2 * n, dtype, s), *want = make(n, dtype);
            for (size_t j = 0; j < 2 * n; j++)
                element_store(in, j, dtype, 4 * element_load(in, j, dtype));
            test_reference(OP_SWIGLU)->run(dev, &(struct swiglu_args){in, want, rows, F, dtype});
            for (int i = 0; test_variant(OP_SWIGLU, dtype, i); i++) {
                const struct variant *v = test_variant(OP_SWIGLU, dtype, i);
                void *out = make_guarded(n, dtype);
                v->run(dev, &(struct swiglu_args){in, out, rows, F, dtype});
                for (size_t j = 0; j < n; j++)
                    if (!close_enough(element_load(out, j, dtype), element_load(want, j, dtype),
                                      dtype, dtype == DTYPE_BF16 ? 1.5 : 4, 0))
                        fail_msg("%s: %d x %d, element %zu is %g, not %g", v->name, rows, F, j,
                                 (double)element_load(out, j, dtype),
                                 (double)element_load(want, j, dtype));
                free_guarded(out, n, dtype);
            }
            free(in);
            free(want);
        }
        device_close(dev);
    }
}

/* A gate of zero gives zero, a large one is itself, a very negative one nothing; infinity and NaN
 * as the formula says. */
static void limits_are_exact(void **state) {
    (void)state;
    static const float cases[][3] = {
        /* gate, up, result */
        {0, 7, 0},    {96, 3, 288},        {1024, -2, -2048}, {INFINITY, 2, INFINITY},
        {-200, 5, 0}, {-INFINITY, 1, NAN}, {NAN, 1, NAN},     {1, NAN, NAN}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(1, dtype);
        for (int i = 0; test_variant(OP_SWIGLU, dtype, i); i++) {
            const struct variant *v = test_variant(OP_SWIGLU, dtype, i);
            for (size_t c = 0; c < COUNT(cases); c++) {
                float in[2] = {0}, out[1];
                element_store(in, 0, dtype, cases[c][0]);
                element_store(in, 1, dtype, cases[c][1]);
                v->run(dev, &(struct swiglu_args){in, out, 1, 1, dtype});
                float got = element_load(out, 0, dtype), want = cases[c][2];
                if (isnan(want) ? !isnan(got) : got != want)
                    fail_msg("%s: silu(%g) * %g gave %g", v->name, (double)cases[c][0],
                             (double)cases[c][1], (double)got);
            }
        }
        device_close(dev);
    }
}

/* In f32 against f64, over all that does not underflow: a few units in the last place. */
static void silu_is_accurate_to_a_few_ulps(void **state) {
    (void)state;
    enum { N = 100000 };
    struct device *dev = test_device(2, DTYPE_F32);
    float *in = make(2 * N, DTYPE_F32), *out = make(N, DTYPE_F32);
    for (int j = 0; j < N; j++) {
        in[2 * j] = -80 + 160.0f * (float)j / N;
        in[2 * j + 1] = 1;
    }
    for (int i = 0; test_variant(OP_SWIGLU, DTYPE_F32, i); i++) {
        const struct variant *v = test_variant(OP_SWIGLU, DTYPE_F32, i);
        v->run(dev, &(struct swiglu_args){in, out, 1, N, DTYPE_F32});
        for (int j = 0; j < N; j++) {
            double g = (double)in[2 * j], want = g / (1 + exp(-g));
            if (fabs((double)out[j] - want) > 4 * 0x1p-24 * fabs(want))
                fail_msg("%s: silu(%.9g) is %.9g, not %.9g", v->name, g, (double)out[j], want);
        }
    }
    free(in);
    free(out);
    device_close(dev);
}

/* silu is rounded before the product: without that a third of the products would differ. What may
 * differ is a silu so near the middle of two bf16 that the last bit of an exponential decides. */
static void bf16_rounds_twice_as_the_reference_does(void **state) {
    (void)state;
    enum { N = 100000 };
    struct device *dev = test_device(2, DTYPE_BF16);
    bf16 *in = make_normal(2 * N, DTYPE_BF16, 5), *want = make(N, DTYPE_BF16);
    bf16 *out = make(N, DTYPE_BF16);
    test_reference(OP_SWIGLU)->run(dev, &(struct swiglu_args){in, want, 1, N, DTYPE_BF16});
    for (int i = 0; test_variant(OP_SWIGLU, DTYPE_BF16, i); i++) {
        const struct variant *v = test_variant(OP_SWIGLU, DTYPE_BF16, i);
        v->run(dev, &(struct swiglu_args){in, out, 1, N, DTYPE_BF16});
        int different = 0;
        for (int j = 0; j < N; j++) different += out[j] != want[j];
        if (different > N / 1000) fail_msg("%s: %d of %d differ", v->name, different, N);
    }
    free(in);
    free(want);
    free(out);
    device_close(dev);
}

/* Bits do not depend on an element's place or on the number of threads. */
static void an_element_has_its_bits_anywhere(void **state) {
    (void)state;
    enum { N = 40000, PLACES = 37 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *one = test_device(1, dtype), *three = test_device(3, dtype);
        void *in = make_normal(2 * N, dtype, 9), *all = make(N, dtype), *part = make(N, dtype);
        for (int i = 0; test_variant(OP_SWIGLU, dtype, i); i++) {
            const struct variant *v = test_variant(OP_SWIGLU, dtype, i);
            v->run(one, &(struct swiglu_args){in, all, 1, N, dtype});
            for (size_t at = 1; at < PLACES; at++) {
                v->run(three, &(struct swiglu_args){element_at(in, 2 * at, dtype), part, 1,
                                                    N - (int32_t)at, dtype});
                assert_same_bits(part, element_at(all, at, dtype), N - at, dtype, "%s: from %zu",
                                 v->name, at);
            }
        }
        free(in);
        free(all);
        free(part);
        device_close(one);
        device_close(three);
    }
}

static int bench(void) {
    enum { F = 18944, ROWS = 2048 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        void *in = make_normal((size_t)ROWS * F * 2, dtype, 1),
             *out = make((size_t)ROWS * F, dtype);
        memset(out, 0, (size_t)ROWS * F * dtype_bytes(dtype));
        bench_bytes(OP_SWIGLU, dtype, &(struct swiglu_args){in, out, ROWS, F, dtype},
                    3.0 * ROWS * F * (double)dtype_bytes(dtype), "2048 x 18944");
        free(in);
        free(out);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_SWIGLU);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_is_near_the_reference),
        cmocka_unit_test(limits_are_exact),
        cmocka_unit_test(silu_is_accurate_to_a_few_ulps),
        cmocka_unit_test(bf16_rounds_twice_as_the_reference_does),
        cmocka_unit_test(an_element_has_its_bits_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
