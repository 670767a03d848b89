/* all_reduce: f32 sums in rank order, rounded once, bit for bit in every variant. --bench prints
 * GB/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

static const int32_t sizes[][2] = {{1, 1},   {1, 15},   {1, 17},     {3, 11},
                                   {16, 16}, {17, 129}, {128, 1031}, {1, 16385}};

struct partials {
    void *of[MAX_RANKS];
};

static struct partials make_partials(size_t n, enum dtype dtype) {
    struct partials p;
    for (int r = 0; r < MAX_RANKS; r++) p.of[r] = make_normal(n, dtype, (uint64_t)r);
    return p;
}

static void free_partials(struct partials *p) {
    for (int r = 0; r < MAX_RANKS; r++) free(p->of[r]);
}

static struct all_reduce_args args_of(const struct partials *p, void *out, int ranks, int32_t rows,
                                      int32_t C, enum dtype dtype) {
    struct all_reduce_args a = {.out = out, .ranks = ranks, .rows = rows, .C = C, .dtype = dtype};
    for (int r = 0; r < ranks; r++) a.partial[r] = p->of[r];
    return a;
}

static void sums_are_in_rank_order_and_rounded_once(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(3, dtype);
        for (size_t s = 0; s < COUNT(sizes); s++) {
            const size_t n = (size_t)sizes[s][0] * (size_t)sizes[s][1];
            struct partials p = make_partials(n, dtype);
            for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
                for (int i = 0; test_variant(OP_ALL_REDUCE, dtype, i); i++) {
                    const struct variant *v = test_variant(OP_ALL_REDUCE, dtype, i);
                    void *out = make_guarded(n, dtype);
                    struct all_reduce_args a =
                        args_of(&p, out, ranks, sizes[s][0], sizes[s][1], dtype);
                    v->run(dev, &a);
                    for (size_t j = 0; j < n; j++) {
                        float sum = element_load(p.of[0], j, dtype);
                        for (int r = 1; r < ranks; r++) sum += element_load(p.of[r], j, dtype);
                        float got = element_load(out, j, dtype);
                        if (got != element_round(sum, dtype))
                            fail_msg("%s: %d ranks, element %zu", v->name, ranks, j);
                    }
                    free_guarded(out, n, dtype);
                }
            }
            free_partials(&p);
        }
        device_close(dev);
    }
}

static void the_sum_may_replace_the_first_partial(void **state) {
    (void)state;
    enum { ROWS = 9, C = 33, N = ROWS * C };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        struct partials p = make_partials(N, dtype);
        for (int i = 0; test_variant(OP_ALL_REDUCE, dtype, i); i++) {
            const struct variant *v = test_variant(OP_ALL_REDUCE, dtype, i);
            void *out = make(N, dtype), *first = p.of[0];
            struct all_reduce_args a = args_of(&p, out, 4, ROWS, C, dtype);
            v->run(dev, &a);
            p.of[0] = copy_of(first, N, dtype);
            a = args_of(&p, p.of[0], 4, ROWS, C, dtype);
            v->run(dev, &a);
            assert_same_bits(p.of[0], out, N, dtype, "%s", v->name);
            free(p.of[0]);
            p.of[0] = first;
            free(out);
        }
        free_partials(&p);
        device_close(dev);
    }
}

/* 1 + 2^-8 lies between two bf16 (ties go to 1); with another 2^-8 the sum is 1 + 2^-7. */
static void rounding_waits_for_the_last_rank(void **state) {
    (void)state;
    struct device *dev = test_device(1, DTYPE_BF16);
    for (int i = 0; test_variant(OP_ALL_REDUCE, DTYPE_BF16, i); i++) {
        bf16 one = f32_to_bf16(1), small = f32_to_bf16(0x1p-8f), out;
        struct all_reduce_args a = {{&one, &small, &small}, &out, 3, 1, 1, DTYPE_BF16};
        test_variant(OP_ALL_REDUCE, DTYPE_BF16, i)->run(dev, &a);
        assert_true(bf16_to_f32(out) == 1 + 0x1p-7f);
    }
    device_close(dev);
}

static int bench(void) {
    enum { C = 3584, ROWS = 8192 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct partials p = make_partials((size_t)ROWS * C, dtype);
        struct all_reduce_args a = args_of(&p, p.of[7], 4, ROWS, C, dtype);
        bench_bytes(OP_ALL_REDUCE, dtype, &a, 5.0 * ROWS * C * (double)dtype_bytes(dtype),
                    "4 ranks, 8192 x 3584");
        free_partials(&p);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_ALL_REDUCE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_in_rank_order_and_rounded_once),
        cmocka_unit_test(the_sum_may_replace_the_first_partial),
        cmocka_unit_test(rounding_waits_for_the_last_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
