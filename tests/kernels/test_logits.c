/* logits: exact on integers, near the reference on noise, the same bits whatever rows and slices of
 * the vocabulary come together. --bench prints GB/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

static const int32_t widths[] = {1, 15, 16, 17, 33, 63, 64, 65, 200};
static const int32_t vocabularies[] = {1, 63, 64, 65, 131};

static void integers_are_exact_at_every_edge(void **state) {
    (void)state;
    enum { ROWS = 3, GAP = 2 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (size_t c = 0; c < COUNT(widths); c++) {
            for (size_t k = 0; k < COUNT(vocabularies); k++) {
                const int32_t C = widths[c], V = vocabularies[k], ld = V + GAP;
                void *head = make_integers((size_t)V * (size_t)C, dtype, 9, c);
                void *x = make_integers(ROWS * (size_t)C, dtype, 9, k + 50);
                float *want = make(ROWS * (size_t)ld, DTYPE_F32);
                test_reference(OP_LOGITS)->run(
                    dev, &(struct logits_args){head, x, want, ld, ROWS, V, C, dtype});
                for (int i = 0; test_variant(OP_LOGITS, dtype, i); i++) {
                    const struct variant *v = test_variant(OP_LOGITS, dtype, i);
                    float *out = make_guarded(ROWS * (size_t)ld, DTYPE_F32);
                    v->run(dev, &(struct logits_args){head, x, out, ld, ROWS, V, C, dtype});
                    for (int t = 0; t < ROWS; t++) {
                        assert_same_bits(out + t * ld, want + t * ld, V, DTYPE_F32,
                                         "%s: C %d V %d row %d", v->name, C, V, t);
                        assert_true(untouched(out + t * ld + V, GAP * sizeof *out));
                    }
                    free_guarded(out, ROWS * (size_t)ld, DTYPE_F32);
                }
                free(head);
                free(x);
                free(want);
            }
        }
        device_close(dev);
    }
}

static void noise_is_near_the_reference(void **state) {
    (void)state;
    enum { C = 901, V = 100, ROWS = 4 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *head = make_normal(V * C, dtype, 1), *x = make_normal(ROWS * C, dtype, 2);
        float want[ROWS * V], out[ROWS * V];
        test_reference(OP_LOGITS)->run(dev,
                                       &(struct logits_args){head, x, want, V, ROWS, V, C, dtype});
        for (int i = 0; test_variant(OP_LOGITS, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LOGITS, dtype, i);
            v->run(dev, &(struct logits_args){head, x, out, V, ROWS, V, C, dtype});
            for (int j = 0; j < ROWS * V; j++)
                if (fabsf(out[j] - want[j]) > 2e-4f)
                    fail_msg("%s: %g, not %g", v->name, (double)out[j], (double)want[j]);
        }
        free(head);
        free(x);
        device_close(dev);
    }
}

static void a_logit_has_its_bits_in_any_company(void **state) {
    (void)state;
    enum { C = 77, V = 300, ROWS = 9 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *one = test_device(1, dtype), *three = test_device(3, dtype);
        void *head = make_normal(V * C, dtype, 1), *x = make_normal(ROWS * C, dtype, 2);
        float all[ROWS * V], part[ROWS * V];
        for (int i = 0; test_variant(OP_LOGITS, dtype, i); i++) {
            const struct variant *v = test_variant(OP_LOGITS, dtype, i);
            v->run(one, &(struct logits_args){head, x, all, V, ROWS, V, C, dtype});
            for (int row = 0; row < ROWS; row++) {
                const int32_t begin = 7 * row, n = V - 13 * row - begin;
                v->run(three, &(struct logits_args){element_at(head, (size_t)begin * C, dtype),
                                                    element_at(x, (size_t)row * C, dtype), part, n,
                                                    1, n, C, dtype});
                assert_same_bits(part, all + row * V + begin, n, DTYPE_F32, "%s: row %d", v->name,
                                 row);
            }
        }
        free(head);
        free(x);
        device_close(one);
        device_close(three);
    }
}

static int bench(void) {
    enum { C = 3584, V = 38016 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        void *head = make_normal((size_t)V * C, dtype, 1), *x = make_normal(C, dtype, 2);
        float *out = make(V, DTYPE_F32);
        struct logits_args a = {head, x, out, V, 1, V, C, dtype};
        bench_bytes(OP_LOGITS, dtype, &a, (double)V * C * (double)dtype_bytes(dtype),
                    "1 row, 38016 x 3584");
        free(head);
        free(x);
        free(out);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_LOGITS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact_at_every_edge),
        cmocka_unit_test(noise_is_near_the_reference),
        cmocka_unit_test(a_logit_has_its_bits_in_any_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
