/* The small ops on a GPU against their references: the same bits wherever ops.h says how to round,
 * near them where a sum has its own order or a function its own last bit. Addresses and widths that
 * forbid sixteen-byte accesses, rows in any company, canaries. --bench prints GB/s beside a copy.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"
#include "gpu_bench_ops.h"

enum { ARENA = 32 << 20 };
static const int32_t widths[] = {1, 7, 8, 9, 64, 77, 896, 1021, 3584};
static const int32_t row_counts[] = {1, 2, 13, 32, 67};

static struct gpu_test open_test(enum dtype dtype) {
    struct gpu_test t;
    gpu_test_open(&t, dtype, 0, "auto", ARENA);
    return t;
}

static const struct variant *on_gpu(enum op op) {
    return variant_named(DEVICE_CUDA, op, "cuda");
}

static void run_reference(struct gpu_test *t, enum op op, const void *args) {
    variant_named(DEVICE_CPU, op, "ref")->run(t->cpu, args);
}

/* ---- embed, tap, all_reduce: the reference's bits */

static void embed_case(struct gpu_test *t, int32_t C, int32_t rows, size_t skew, enum dtype dtype) {
    const int32_t begin = 100, end = 200;
    const size_t n = (size_t)rows * (size_t)C, words = (size_t)(end - begin) * (size_t)C;
    int32_t *ids = make((size_t)rows, DTYPE_F32);
    for (int32_t r = 0; r < rows; r++) ids[r] = r < 4 ? (int32_t[]){199, 200, 100, 99}[r] : r * 7;
    void *table = make_normal(words, dtype, 1), *want = make(n, dtype);
    struct embed_args a = {table, ids, want, begin, end, rows, C, dtype};
    run_reference(t, OP_EMBED, &a);
    a.table = gpu_put_skewed(t, table, words, skew, dtype);
    a.ids = gpu_put(t, ids, (size_t)rows * sizeof *ids);
    a.out = gpu_guarded(t, n, skew, dtype);
    gpu_run(t, on_gpu(OP_EMBED), &a);
    void *got = gpu_unguard(t, a.out, n, dtype);
    assert_same_bits(got, want, n, dtype, "%d rows of %d, skew %zu", rows, C, skew);
    free(got);
    free(want);
    free(table);
    free(ids);
}

static void embed_has_the_reference_s_bits(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(widths) * COUNT(row_counts) * 2; i++) {
            gpu_test_reset(&t, ARENA);
            embed_case(&t, widths[i / 2 % COUNT(widths)], row_counts[i / 2 / COUNT(widths)], i % 2,
                       dtype);
        }
        gpu_test_close(&t);
    }
}

static void tap_copies_the_rows_that_are_asked_for(void **state) {
    (void)state;
    enum { ROWS = 11 };
    const struct step_params step = {.tap_row = {3, -1, 0, 10, -1, 3, 7, -1}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(widths) * 2; i++) {
            gpu_test_reset(&t, ARENA);
            const int32_t n = widths[i / 2];
            const size_t ld = (size_t)n + i % 2 * 3, taken = TAP_ROWS * (size_t)n;
            void *src = make_normal(ROWS * ld, dtype, 1), *want = make(taken, dtype);
            memset(want, CANARY, taken * dtype_bytes(dtype));
            struct tap_args a = {src, want, (int64_t)ld, &step, n, dtype};
            run_reference(&t, OP_TAP, &a);
            a.src = gpu_put_skewed(&t, src, ROWS * ld, i % 2, dtype);
            a.dst = gpu_guarded(&t, taken, i % 2, dtype);
            a.step = gpu_put(&t, &step, sizeof step);
            gpu_run(&t, on_gpu(OP_TAP), &a);
            void *got = gpu_unguard(&t, a.dst, taken, dtype);
            assert_same_bits(got, want, taken, dtype, "rows of %d", n);
            free(got);
            free(want);
            free(src);
        }
        gpu_test_close(&t);
    }
}

/* in_place: the sum takes the place of the first partial. */
static void reduce_case(struct gpu_test *t, int ranks, int32_t rows, int32_t C, size_t skew,
                        bool in_place, enum dtype dtype) {
    const size_t n = (size_t)rows * (size_t)C;
    void *partial[MAX_RANKS], *want = make(n, dtype);
    struct all_reduce_args a = {.out = want, .ranks = ranks, .rows = rows, .C = C, .dtype = dtype};
    for (int r = 0; r < ranks; r++) a.partial[r] = partial[r] = make_normal(n, dtype, (uint64_t)r);
    run_reference(t, OP_ALL_REDUCE, &a);
    a.out = gpu_guarded(t, n, skew, dtype);
    for (int r = 0; r < ranks; r++) a.partial[r] = gpu_put_skewed(t, partial[r], n, skew, dtype);
    if (in_place) {
        device_write(t->gpu, a.out, partial[0], n * dtype_bytes(dtype));
        a.partial[0] = a.out;
    }
    gpu_run(t, on_gpu(OP_ALL_REDUCE), &a);
    void *got = gpu_unguard(t, a.out, n, dtype);
    assert_same_bits(got, want, n, dtype, "%d ranks, %d rows of %d", ranks, rows, C);
    for (int r = 0; r < ranks; r++) free(partial[r]);
    free(got);
    free(want);
}

static void all_reduce_has_the_reference_s_bits(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t c = 0; c < COUNT(widths); c++) {
            for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
                gpu_test_reset(&t, ARENA);
                for (size_t skew = 0; skew < 2; skew++)
                    reduce_case(&t, ranks, row_counts[ranks % 4], widths[c], skew, ranks % 3 == 1,
                                dtype);
            }
        }
        gpu_test_close(&t);
    }
}

/* ---- swiglu */

static void *swiglu(struct gpu_test *t, const void *in, int32_t rows, int32_t F, size_t skew,
                    enum dtype dtype) {
    const size_t n = (size_t)rows * (size_t)F;
    struct swiglu_args a = {gpu_put_skewed(t, in, 2 * n, skew, dtype),
                            gpu_guarded(t, n, skew, dtype), rows, F, dtype};
    gpu_run(t, on_gpu(OP_SWIGLU), &a);
    return gpu_unguard(t, a.out, n, dtype);
}

/* Where exp(-gate) vanishes beside 1, silu is the gate itself: products of integers. */
static void swiglu_is_exact_on_large_integers(void **state) {
    (void)state;
    enum { ROWS = 5, F = 77, N = ROWS * F };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        void *in = make_integers(2 * N, dtype, 7, 1);
        for (size_t i = 0; i < N; i++)
            element_store(in, 2 * i, dtype, element_load(in, 2 * i, dtype) > 0 ? 32.0f : 0.0f);
        void *got = swiglu(&t, in, ROWS, F, 0, dtype);
        for (size_t i = 0; i < N; i++)
            assert_true(element_load(got, i, dtype) ==
                        element_load(in, 2 * i, dtype) * element_load(in, 2 * i + 1, dtype));
        free(got);
        free(in);
        gpu_test_close(&t);
    }
}

static void swiglu_is_near_the_reference(void **state) {
    (void)state;
    const float extremes[] = {0, -0.0f, 1e-30f, -1e-3f, -80, 80, 1e30f, -1e30f, INFINITY, NAN};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(widths) * 2; i++) {
            gpu_test_reset(&t, ARENA);
            const int32_t F = widths[i / 2], rows = 13;
            const size_t n = (size_t)rows * (size_t)F;
            void *in = make_normal(2 * n, dtype, i), *want = make(n, dtype);
            for (size_t e = 0; e < COUNT(extremes) && e < n; e++)
                element_store(in, 2 * e, dtype, extremes[e]);
            run_reference(&t, OP_SWIGLU, &(struct swiglu_args){in, want, rows, F, dtype});
            void *got = swiglu(&t, in, rows, F, i % 2, dtype);
            for (size_t j = 0; j < n; j++)
                if (!close_enough(element_load(got, j, dtype), element_load(want, j, dtype), dtype,
                                  dtype == DTYPE_BF16 ? 2 : 8, 1e-30))
                    fail_msg("F %d, element %zu, gate %g: %g, not %g", F, j,
                             (double)element_load(in, 2 * j, dtype),
                             (double)element_load(got, j, dtype),
                             (double)element_load(want, j, dtype));
            free(got);
            free(want);
            free(in);
        }
        gpu_test_close(&t);
    }
}

/* ---- add_rmsnorm */

struct norm {
    void *h, *y; /* on the host */
};

/* x NULL: only normalised; gain NULL: only added. */
static struct norm add_rmsnorm(struct gpu_test *t, const void *h, const void *x, const void *gain,
                               int32_t rows, int32_t C, float eps, size_t skew, enum dtype dtype) {
    const size_t n = (size_t)rows * (size_t)C;
    struct add_rmsnorm_args a = {.rows = rows, .C = C, .eps = eps, .dtype = dtype};
    a.h = gpu_guarded(t, n, skew, dtype);
    device_write(t->gpu, a.h, h, n * dtype_bytes(dtype));
    if (x) a.x = gpu_put_skewed(t, x, n, skew, dtype);
    if (gain) a.gain = gpu_put_skewed(t, gain, (size_t)C, skew, dtype);
    if (gain) a.y = gpu_guarded(t, n, skew, dtype);
    gpu_run(t, on_gpu(OP_ADD_RMSNORM), &a);
    return (struct norm){gpu_unguard(t, a.h, n, dtype),
                         gain ? gpu_unguard(t, a.y, n, dtype) : NULL};
}

static void free_norm(struct norm *n) {
    free(n->h);
    free(n->y);
}

/* Beside the common widths one that no block can keep in registers. */
static int32_t norm_width(size_t i) {
    return i < COUNT(widths) ? widths[i] : 16400;
}

/* Rows of +-2 have a mean square of 4 and with eps 0 a factor of 1/2: y = +-gain. */
static void twos_become_the_gain(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t c = 0; c <= COUNT(widths); c++) {
            gpu_test_reset(&t, ARENA);
            const int32_t C = norm_width(c), rows = 7;
            const size_t n = (size_t)rows * (size_t)C;
            void *h = make_integers(n, dtype, 1, c), *gain = make_integers((size_t)C, dtype, 50, 1);
            for (size_t i = 0; i < n; i++)
                element_store(h, i, dtype, element_load(h, i, dtype) > 0 ? 2.0f : -2.0f);
            struct norm got = add_rmsnorm(&t, h, NULL, gain, rows, C, 0, c % 2, dtype);
            for (size_t i = 0; i < n; i++)
                if (element_load(got.y, i, dtype) * 2 !=
                    element_load(h, i, dtype) * element_load(gain, i % (size_t)C, dtype))
                    fail_msg("C %d, element %zu", C, i);
            free_norm(&got);
            free(h);
            free(gain);
        }
        gpu_test_close(&t);
    }
}

/* h is elementwise: the reference's bits. y follows a sum of another order, which can turn two
 * roundings over; whether addresses are aligned changes nothing in it. */
static void norms_are_near_the_reference(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t c = 0; c <= COUNT(widths); c++) {
            gpu_test_reset(&t, ARENA);
            const int32_t C = norm_width(c), rows = 13;
            const size_t n = (size_t)rows * (size_t)C;
            void *h = make_normal(n, dtype, c), *x = make_normal(n, dtype, c + 50);
            void *gain = make_normal((size_t)C, dtype, c + 90), *y = make(n, dtype);
            struct norm got = add_rmsnorm(&t, h, x, gain, rows, C, 1e-6f, 0, dtype);
            struct norm skewed = add_rmsnorm(&t, h, x, gain, rows, C, 1e-6f, 1, dtype);
            run_reference(&t, OP_ADD_RMSNORM,
                          &(struct add_rmsnorm_args){h, x, gain, y, rows, C, 1e-6f, dtype});
            assert_same_bits(got.h, h, n, dtype, "h, C %d", C);
            assert_same_bits(skewed.h, h, n, dtype, "skewed h, C %d", C);
            assert_same_bits(skewed.y, got.y, n, dtype, "skewed y, C %d", C);
            for (size_t i = 0; i < n; i++)
                if (!close_enough(element_load(got.y, i, dtype), element_load(y, i, dtype), dtype,
                                  dtype == DTYPE_BF16 ? 2 : 16, 0))
                    fail_msg("C %d, element %zu is %g, not %g", C, i,
                             (double)element_load(got.y, i, dtype),
                             (double)element_load(y, i, dtype));
            free_norm(&got);
            free_norm(&skewed);
            free(h);
            free(x);
            free(gain);
            free(y);
        }
        gpu_test_close(&t);
    }
}

static void a_normalised_row_has_its_bits_in_any_company(void **state) {
    (void)state;
    enum { C = 1021, ROWS = 20 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        void *h = make_normal(ROWS * C, dtype, 1), *x = make_normal(ROWS * C, dtype, 2);
        void *gain = make_normal(C, dtype, 3);
        element_store(h, 4 * C + 5, dtype, NAN); /* spoils its row alone */
        struct norm all = add_rmsnorm(&t, h, x, gain, ROWS, C, 1e-6f, 0, dtype);
        for (size_t i = 0; i < ROWS * C; i++)
            assert_int_equal(isnan(element_load(all.y, i, dtype)) != 0, i / C == 4);
        for (size_t r = 0; r < ROWS; r++) {
            struct norm one =
                add_rmsnorm(&t, element_at(h, r * C, dtype), element_at(x, r * C, dtype), gain, 1,
                            C, 1e-6f, r % 2, dtype);
            assert_same_bits(one.y, element_at(all.y, r * C, dtype), C, dtype, "row %zu", r);
            free_norm(&one);
        }
        struct norm sum = add_rmsnorm(&t, h, x, NULL, ROWS, C, 0, 0, dtype);
        assert_same_bits(sum.h, all.h, ROWS * C, dtype, "without y");
        free_norm(&sum);
        free_norm(&all);
        free(h);
        free(x);
        free(gain);
        gpu_test_close(&t);
    }
}

/* ---- logits */

/* [rows][V] on the host; a row of the output is three longer than that. */
static float *logits(struct gpu_test *t, const void *head, const void *x, int32_t rows, int32_t V,
                     int32_t C, size_t skew, enum dtype dtype) {
    const size_t ld = (size_t)V + 3, n = (size_t)rows * ld - 3;
    struct logits_args a = {.head = gpu_put_skewed(t, head, (size_t)V * (size_t)C, skew, dtype),
                            .x = gpu_put_skewed(t, x, (size_t)rows * (size_t)C, skew, dtype),
                            .out = gpu_guarded(t, n, 0, DTYPE_F32),
                            .ldout = (int64_t)ld,
                            .rows = rows,
                            .V = V,
                            .C = C,
                            .dtype = dtype};
    gpu_run(t, on_gpu(OP_LOGITS), &a);
    float *wide = gpu_unguard(t, a.out, n, DTYPE_F32);
    float *out = make((size_t)rows * (size_t)V, DTYPE_F32);
    for (size_t r = 0; r < (size_t)rows; r++) {
        memcpy(out + r * (size_t)V, wide + r * ld, (size_t)V * sizeof *out);
        assert_true(r + 1 == (size_t)rows || untouched(wide + r * ld + V, 3 * sizeof *wide));
    }
    free(wide);
    return out;
}

static void logits_case(struct gpu_test *t, int32_t C, bool integers, enum dtype dtype) {
    enum { V = 67, ROWS = 9 };
    const size_t n = ROWS * V;
    const size_t heads = V * (size_t)C, inputs = ROWS * (size_t)C;
    void *head = integers ? make_integers(heads, dtype, 8, 1) : make_normal(heads, dtype, 1);
    void *x = integers ? make_integers(inputs, dtype, 8, 2) : make_normal(inputs, dtype, 2);
    float *want = make(n, DTYPE_F32);
    run_reference(t, OP_LOGITS, &(struct logits_args){head, x, want, V, ROWS, V, C, dtype});
    float *got = logits(t, head, x, ROWS, V, C, 0, dtype);
    float *skewed = logits(t, head, x, ROWS, V, C, 1, dtype);
    assert_same_bits(skewed, got, n, DTYPE_F32, "skewed, C %d", C);
    for (size_t i = 0; i < n; i++)
        if (!close_enough(got[i], want[i], DTYPE_F32, 0, integers ? 0 : 1e-6 * C))
            fail_msg("C %d, %zu is %g, not %g", C, i, (double)got[i], (double)want[i]);
    for (size_t r = 0; r < ROWS; r++) {
        float *one = logits(t, element_at(head, 0, dtype), element_at(x, r * (size_t)C, dtype), 1,
                            V, C, r % 2, dtype);
        assert_same_bits(one, got + r * V, V, DTYPE_F32, "row %zu alone, C %d", r, C);
        free(one);
    }
    free(got);
    free(skewed);
    free(want);
    free(head);
    free(x);
}

static void logits_are_exact_on_integers_near_on_noise_and_by_row(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(widths) * 2; i++) {
            gpu_test_reset(&t, ARENA);
            logits_case(&t, widths[i / 2], i % 2, dtype);
        }
        gpu_test_close(&t);
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return gpu_bench_ops();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_has_the_reference_s_bits),
        cmocka_unit_test(tap_copies_the_rows_that_are_asked_for),
        cmocka_unit_test(all_reduce_has_the_reference_s_bits),
        cmocka_unit_test(swiglu_is_exact_on_large_integers),
        cmocka_unit_test(swiglu_is_near_the_reference),
        cmocka_unit_test(twos_become_the_gain),
        cmocka_unit_test(norms_are_near_the_reference),
        cmocka_unit_test(a_normalised_row_has_its_bits_in_any_company),
        cmocka_unit_test(logits_are_exact_on_integers_near_on_noise_and_by_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
