/* tap: the named rows and no others, also from rows with gaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

static void named_rows_are_copied_others_left(void **state) {
    (void)state;
    enum { ROWS = 20, LD = 13, N = 9 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        struct step_params step = {.n_tokens = ROWS, .tap_row = {3, -1, 0, 19, -1, 3, -1, 7}};
        void *src = make_normal(ROWS * LD - (LD - N), dtype, 1);
        for (int i = 0; test_variant(OP_TAP, dtype, i); i++) {
            const struct variant *v = test_variant(OP_TAP, dtype, i);
            void *dst = make_guarded(TAP_ROWS * N, dtype);
            v->run(dev, &(struct tap_args){src, dst, LD, &step, N, dtype});
            for (size_t t = 0; t < TAP_ROWS; t++) {
                const void *row = element_at(dst, t * N, dtype);
                if (step.tap_row[t] < 0)
                    assert_true(untouched(row, N * dtype_bytes(dtype)));
                else
                    assert_same_bits(row, element_at(src, (size_t)step.tap_row[t] * LD, dtype), N,
                                     dtype, "%s: tap %zu", v->name, t);
            }
            free_guarded(dst, TAP_ROWS * N, dtype);
        }
        free(src);
        device_close(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(named_rows_are_copied_others_left)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
