/* rope_table against angles computed here, in long double, from the definition; rope_cache against
 * the reference bit for bit, through every KV layout. --bench prints GB/s. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

static void fill_frequencies(double *inv_freq, int D, double theta) {
    for (int i = 0; i < D / 2; i++) inv_freq[i] = pow(theta, -2.0 * i / D);
}

/* ---- the table */

/* The definition again, in the words of the report: C = Lc + w; keys and intra queries turn by
 * p mod Lc, successive ones by min(p mod Lc + Lc, C), inter ones by C. */
static int64_t phase_of(struct attention_pattern a, int copy, int64_t p) {
    if (a.chunk == 0) return p;
    int64_t lc = a.chunk, c = lc + a.local, i = p % lc;
    if (copy == 2) return c;
    if (copy == 0) return i;
    return i + lc > c ? c : i + lc;
}

static void angles_are_the_definition(void **state) {
    (void)state;
    enum { D = 64, ROWS = 131 };
    static const int32_t starts[] = {0, 1, 253952 - 60, 1048576 - ROWS};
    static const struct attention_pattern patterns[] = {{0, 0}, {253952, 8192}, {128, 50}};
    double inv_freq[D / 2];
    fill_frequencies(inv_freq, D, 1e7);
    for (int threads = 1; threads <= 3; threads += 2) {
        struct device *dev = test_device(threads, DTYPE_F32);
        for (size_t s = 0; s < COUNT(starts) * COUNT(patterns); s++) {
            struct attention_pattern pattern = patterns[s % COUNT(patterns)];
            struct step_params step = {.q_start = starts[s / COUNT(patterns)], .n_tokens = ROWS};
            const int copies = pattern.chunk ? 3 : 1;
            const size_t n = (size_t)copies * ROWS * D / 2;
            for (int i = 0; test_variant(OP_ROPE_TABLE, DTYPE_F32, i); i++) {
                float *cosine = make_guarded(n, DTYPE_F32), *sine = make_guarded(n, DTYPE_F32);
                test_variant(OP_ROPE_TABLE, DTYPE_F32, i)
                    ->run(dev, &(struct rope_table_args){inv_freq, cosine, sine, &step, pattern,
                                                         ROWS, D, copies});
                for (size_t j = 0; j < n; j++) {
                    int copy = (int)(j / (ROWS * D / 2)), row = (int)(j / (D / 2)) % ROWS;
                    long double angle = (long double)phase_of(pattern, copy, step.q_start + row) *
                                        (long double)inv_freq[j % (D / 2)];
                    assert_true(fabsl((long double)cosine[j] - cosl(angle)) < 1e-7L);
                    assert_true(fabsl((long double)sine[j] - sinl(angle)) < 1e-7L);
                }
                free_guarded(cosine, n, DTYPE_F32);
                free_guarded(sine, n, DTYPE_F32);
            }
        }
        device_close(dev);
    }
}

/* ---- the rotation and the cache */

struct setup {
    int32_t H, K, D, rows, n_tokens, q_start, copies, capacity;
    enum dtype dtype;
    const struct kv_layout *layout;
};

struct result {
    void *q[Q_COPIES];
    size_t q_elements;
    struct kv_view kv;
};

static struct result make_result(const struct setup *s) {
    struct result r = {.q_elements = (size_t)s->rows * (size_t)(s->H * s->D)};
    for (int c = 0; c < s->copies; c++) r.q[c] = make_guarded(r.q_elements, s->dtype);
    size_t bytes = s->layout->bytes(s->capacity, s->K, s->D, s->dtype);
    r.kv = (struct kv_view){
        s->layout, make_aligned(bytes), make_aligned(bytes), s->capacity, s->K, s->D, s->dtype};
    return r;
}

static void free_result(const struct setup *s, struct result *r) {
    for (int c = 0; c < s->copies; c++) free_guarded(r->q[c], r->q_elements, s->dtype);
    free(r->kv.k);
    free(r->kv.v);
}

/* Tables of noise: the kernel must not care that they are no cosines. */
static struct result run(const struct setup *s, const struct variant *v, struct device *dev) {
    const int32_t ld = (s->H + 2 * s->K) * s->D + 3;
    void *qkv = make_normal((size_t)s->rows * (size_t)ld - 3, s->dtype, 1);
    const size_t table = (size_t)s->copies * (size_t)s->rows * (size_t)s->D / 2;
    float *cosine = make_normal(table, DTYPE_F32, 2), *sine = make_normal(table, DTYPE_F32, 3);
    struct step_params step = {
        .q_start = s->q_start, .n_tokens = s->n_tokens, .key_factor = 1.0852f};
    struct result r = make_result(s);
    struct rope_cache_args a = {.qkv = qkv,
                                .ldqkv = ld,
                                .q = {r.q[0], r.q[1], r.q[2]},
                                .cos = cosine,
                                .sin = sine,
                                .kv = r.kv,
                                .step = &step,
                                .rows = s->rows,
                                .H = s->H,
                                .D = s->D,
                                .copies = s->copies,
                                .dtype = s->dtype};
    v->run(dev, &a);
    free(qkv);
    free(cosine);
    free(sine);
    return r;
}

static void compare(const struct setup *s, const struct variant *v, struct result *got,
                    struct result *want) {
    for (int c = 0; c < s->copies; c++)
        assert_same_bits(got->q[c], want->q[c], (size_t)s->n_tokens * (size_t)(s->H * s->D),
                         s->dtype, "%s: query copy %d", v->name, c);
    size_t bytes = s->layout->bytes(s->capacity, s->K, s->D, s->dtype);
    if (memcmp(got->kv.k, want->kv.k, bytes) || memcmp(got->kv.v, want->kv.v, bytes))
        fail_msg("%s: cache %s differs at q_start %d, %d of %d rows", v->name, s->layout->name,
                 s->q_start, s->n_tokens, s->rows);
}

static const struct kv_layout *layout_of(enum dtype dtype, int i) {
    const struct variant *v = test_variant(OP_ATTENTION, dtype, i);
    return v ? v->kv_layout : NULL;
}

/* The whole cache is compared, so what padding rows would have written shows as well. */
static void every_variant_has_the_references_bits(void **state) {
    (void)state;
    static const int32_t heads[][3] = {{2, 1, 64}, {3, 3, 16}, {4, 2, 128}, {1, 1, 32}};
    static const int32_t spans[][3] = {/* q_start, n_tokens, rows */
                                       {0, 1, 1},  {0, 16, 16},   {1, 15, 16}, {7, 33, 40},
                                       {15, 2, 2}, {128, 64, 64}, {129, 1, 1}, {100, 131, 140}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(3, dtype);
        for (size_t c = 0; c < COUNT(heads) * COUNT(spans); c++) {
            const int32_t *h = heads[c % COUNT(heads)], *p = spans[c / COUNT(heads)];
            for (int l = 0; layout_of(dtype, l); l++) {
                struct setup s = {h[0], h[1],          h[2], p[2],  p[1],
                                  p[0], c % 2 ? 3 : 1, 256,  dtype, layout_of(dtype, l)};
                struct result want = run(&s, test_reference(OP_ROPE_CACHE), dev);
                for (int i = 0; test_variant(OP_ROPE_CACHE, dtype, i); i++) {
                    const struct variant *v = test_variant(OP_ROPE_CACHE, dtype, i);
                    struct result got = run(&s, v, dev);
                    compare(&s, v, &got, &want);
                    free_result(&s, &got);
                }
                free_result(&s, &want);
            }
        }
        device_close(dev);
    }
}

/* A quarter turn in every pair, from the definition: (a, b) becomes (-b, a); keys are doubled by
 * the factor, values come as they are. */
static void a_quarter_turn_swaps_the_halves(void **state) {
    (void)state;
    enum { H = 2, K = 1, D = 16, ROWS = 5, LD = (H + 2 * K) * D, START = 3 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        void *qkv = make_integers(ROWS * LD, dtype, 50, 1);
        float cosine[ROWS * D / 2] = {0}, sine[ROWS * D / 2];
        for (int i = 0; i < ROWS * D / 2; i++) sine[i] = 1;
        struct step_params step = {.q_start = START, .n_tokens = ROWS, .key_factor = 2};
        for (int i = 0; test_variant(OP_ROPE_CACHE, dtype, i); i++) {
            struct setup s = {H, K, D, ROWS, ROWS, START, 1, 128, dtype, layout_of(dtype, 0)};
            struct result r = make_result(&s);
            struct rope_cache_args a = {qkv,   LD,   {r.q[0]}, cosine, sine, r.kv,
                                        &step, ROWS, H,        D,      1,    dtype};
            test_variant(OP_ROPE_CACHE, dtype, i)->run(dev, &a);
            float k[ROWS * D], v[ROWS * D];
            s.layout->unpack(&r.kv, 0, START, ROWS, k, v);
            for (size_t j = 0; j < ROWS * H * D; j++) {
                const size_t row = j / (H * D), d = j % D, in = row * LD + j % (H * D);
                float want = d < D / 2 ? -element_load(qkv, in + D / 2, dtype)
                                       : element_load(qkv, in - D / 2, dtype);
                assert_true(element_load(r.q[0], j, dtype) == want);
            }
            for (size_t j = 0; j < ROWS * D; j++) {
                const size_t d = j % D, in = j / D * LD + H * D + d;
                float want = d < D / 2 ? -element_load(qkv, in + D / 2, dtype)
                                       : element_load(qkv, in - D / 2, dtype);
                assert_true(k[j] == 2 * want);
                assert_true(v[j] == element_load(qkv, in + D, dtype));
            }
            free_result(&s, &r);
        }
        free(qkv);
        device_close(dev);
    }
}

/* The pruned last layer: no queries wanted, the cache is the same. */
static void without_queries_the_cache_is_filled_alone(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        for (int i = 0; test_variant(OP_ROPE_CACHE, dtype, i); i++) {
            const struct variant *v = test_variant(OP_ROPE_CACHE, dtype, i);
            struct setup with = {2, 2, 32, 21, 21, 5, 1, 128, dtype, layout_of(dtype, 0)};
            struct result want = run(&with, v, dev), got = make_result(&with);
            const int32_t ld = (with.H + 2 * with.K) * with.D + 3;
            void *qkv = make_normal((size_t)with.rows * (size_t)ld - 3, dtype, 1);
            float *cosine = make_normal(21 * 16, DTYPE_F32, 2);
            float *sine = make_normal(21 * 16, DTYPE_F32, 3);
            struct step_params step = {.q_start = 5, .n_tokens = 21, .key_factor = 1.0852f};
            struct rope_cache_args a = {qkv,   ld, {NULL}, cosine, sine, got.kv,
                                        &step, 21, 2,      32,     1,    dtype};
            v->run(dev, &a);
            size_t bytes = with.layout->bytes(128, 2, 32, dtype);
            assert_memory_equal(got.kv.k, want.kv.k, bytes);
            assert_memory_equal(got.kv.v, want.kv.v, bytes);
            assert_true(untouched(got.q[0], got.q_elements * dtype_bytes(dtype)));
            free(qkv);
            free(cosine);
            free(sine);
            free_result(&with, &got);
            free_result(&with, &want);
        }
        device_close(dev);
    }
}

/* A NaN whose bits are all set must not round up into a number. */
static void nan_stays_nan_in_either_type(void **state) {
    (void)state;
    enum { D = 64, LD = 3 * D };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(1, dtype);
        void *qkv = make_integers(LD, dtype, 9, 1);
        float cosine[D / 2], sine[D / 2] = {0};
        for (int i = 0; i < D / 2; i++) memcpy(cosine + i, &(uint32_t){0x7fffffff}, sizeof *cosine);
        struct step_params step = {.n_tokens = 1, .key_factor = 1};
        for (int i = 0; test_variant(OP_ROPE_CACHE, dtype, i); i++) {
            struct setup s = {1, 1, D, 1, 1, 0, 1, 128, dtype, layout_of(dtype, 0)};
            struct result r = make_result(&s);
            struct rope_cache_args a = {qkv,   LD, {r.q[0]}, cosine, sine, r.kv,
                                        &step, 1,  1,        D,      1,    dtype};
            test_variant(OP_ROPE_CACHE, dtype, i)->run(dev, &a);
            for (size_t j = 0; j < D; j++) assert_true(isnan(element_load(r.q[0], j, dtype)));
            free_result(&s, &r);
        }
        free(qkv);
        device_close(dev);
    }
}

static int bench(void) {
    enum { H = 28, K = 4, D = 128, ROWS = 8192, LD = (H + 2 * K) * D };
    double inv_freq[D / 2];
    fill_frequencies(inv_freq, D, 1e7);
    struct step_params step = {.q_start = 0, .n_tokens = ROWS, .key_factor = 1};
    float *cosine = make(ROWS * D / 2, DTYPE_F32), *sine = make(ROWS * D / 2, DTYPE_F32);
    bench_bytes(OP_ROPE_TABLE, DTYPE_BF16,
                &(struct rope_table_args){inv_freq, cosine, sine, &step, {0, 0}, ROWS, D, 1},
                8.0 * ROWS * D / 2, "8192 rows, 64 angles");
    struct setup s = {H, K, D, ROWS, ROWS, 0, 1, ROWS, DTYPE_BF16, layout_of(DTYPE_BF16, 0)};
    struct result r = make_result(&s);
    void *qkv = make_normal((size_t)ROWS * LD, DTYPE_BF16, 1);
    struct rope_cache_args a = {qkv,   LD,   {r.q[0]}, cosine, sine, r.kv,
                                &step, ROWS, H,        D,      1,    DTYPE_BF16};
    bench_bytes(OP_ROPE_CACHE, DTYPE_BF16, &a, 4.0 * ROWS * LD, "8192 rows, 28/4 x 128");
    free(qkv);
    free_result(&s, &r);
    free(cosine);
    free(sine);
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    print_skipped(OP_ROPE_CACHE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles_are_the_definition),
        cmocka_unit_test(every_variant_has_the_references_bits),
        cmocka_unit_test(a_quarter_turn_swaps_the_halves),
        cmocka_unit_test(nan_stays_nan_in_either_type),
        cmocka_unit_test(without_queries_the_cache_is_filled_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
