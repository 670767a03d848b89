/* rope_table, rope_cache and the synthetic cache on a GPU against the CPU: angles to the last bit
 * of their f32, rotated queries, keys and values bit for bit, padding rows outside the cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"
#include "kernels/random_matrix.h"

enum { ARENA = 32 << 20 };

static struct gpu_test open_test(enum dtype dtype) {
    struct gpu_test t;
    gpu_test_open(&t, dtype, 0, "auto", ARENA);
    return t;
}

/* ---- the table */

static void table_case(struct gpu_test *t, struct attention_pattern pattern, int32_t q_start,
                       int32_t rows, int32_t D) {
    const int32_t copies = pattern.chunk ? 3 : 1;
    const size_t half = (size_t)D / 2, n = (size_t)copies * (size_t)rows * half;
    const struct step_params step = {.q_start = q_start, .n_tokens = rows};
    double *inv_freq = malloc(half * sizeof *inv_freq);
    assert_non_null(inv_freq);
    for (size_t i = 0; i < half; i++) inv_freq[i] = pow(1e7, -2.0 * (double)i / D);
    float *cosine = make(n, DTYPE_F32), *sine = make(n, DTYPE_F32);
    struct rope_table_args a = {inv_freq, cosine, sine, &step, pattern, rows, D, copies};
    variant_named(DEVICE_CPU, OP_ROPE_TABLE, "ref")->run(t->cpu, &a);
    a.inv_freq = gpu_put(t, inv_freq, half * sizeof *inv_freq);
    a.step = gpu_put(t, &step, sizeof step);
    a.cos = gpu_guarded(t, n, 0, DTYPE_F32);
    a.sin = gpu_guarded(t, n, 0, DTYPE_F32);
    gpu_run(t, variant_named(DEVICE_CUDA, OP_ROPE_TABLE, "cuda"), &a);
    float *got_cosine = gpu_unguard(t, a.cos, n, DTYPE_F32);
    float *got_sine = gpu_unguard(t, a.sin, n, DTYPE_F32);
    for (size_t i = 0; i < n; i++)
        if (!close_enough(got_cosine[i], cosine[i], DTYPE_F32, 1, 0) ||
            !close_enough(got_sine[i], sine[i], DTYPE_F32, 1, 0))
            fail_msg("chunk %d, from %d, D %d: angle %zu", pattern.chunk, q_start, D, i);
    free(got_cosine);
    free(got_sine);
    free(cosine);
    free(sine);
    free(inv_freq);
}

static void angles_are_the_reference_s(void **state) {
    (void)state;
    static const struct attention_pattern patterns[] = {{0, 0}, {253952, 8192}, {128, 50}};
    static const int32_t starts[] = {0, 1, 253952 - 60, 1048576 - 131};
    static const int32_t dims[] = {2, 6, 64, 128};
    struct gpu_test t = open_test(DTYPE_BF16);
    for (size_t p = 0; p < COUNT(patterns); p++) {
        for (size_t i = 0; i < COUNT(starts) * COUNT(dims); i++) {
            gpu_test_reset(&t, ARENA);
            table_case(&t, patterns[p], starts[i / COUNT(dims)], i % 2 ? 131 : 1,
                       dims[i % COUNT(dims)]);
        }
    }
    gpu_test_close(&t);
}

/* ---- the rotation and the cache */

struct setup {
    int32_t H, K, D, rows, n_tokens, q_start, copies;
    bool keys_only;
    size_t skew; /* elements by which arrays are off alignment, and rows of qkv longer */
};

static const struct setup setups[] = {
    {4, 2, 128, 67, 67, 0, 1, false, 0},  {7, 1, 128, 64, 51, 100, 3, false, 0},
    {4, 2, 128, 67, 13, 5, 3, false, 1},  {2, 1, 64, 1, 1, 255, 1, false, 0},
    {3, 3, 6, 31, 30, 129, 3, false, 0},  {5, 1, 2, 17, 1, 0, 1, false, 0},
    {4, 2, 64, 33, 32, 128, 1, true, 0},  {4, 2, 64, 33, 32, 128, 3, true, 1},
    {28, 4, 128, 19, 19, 7, 3, false, 0}, {2, 1, 1000, 5, 4, 11, 3, false, 0},
};
enum { CAPACITY = 256 };

struct rotated {
    void *q[Q_COPIES], *k, *v; /* host memory */
};

static size_t queries(const struct setup *s) {
    return (size_t)s->rows * (size_t)s->H * (size_t)s->D;
}

static size_t cached(const struct setup *s) {
    return (size_t)s->K * CAPACITY * (size_t)s->D;
}

static size_t angles(const struct setup *s) {
    return (size_t)s->copies * (size_t)s->rows * (size_t)s->D / 2;
}

static struct rope_cache_args args_of(const struct setup *s, enum dtype dtype) {
    return (struct rope_cache_args){
        .ldqkv = (s->H + 2 * s->K) * s->D + (int64_t)s->skew,
        .kv = {&kv_layout_rows, NULL, NULL, CAPACITY, s->K, s->D, dtype},
        .rows = s->rows,
        .H = s->H,
        .D = s->D,
        .copies = s->copies,
        .dtype = dtype};
}

static struct step_params step_of(const struct setup *s) {
    return (struct step_params){
        .q_start = s->q_start, .n_tokens = s->n_tokens, .key_factor = 1.0852f};
}

static void *canaries(size_t n, enum dtype dtype) {
    void *p = make(n, dtype);
    memset(p, CANARY, n * dtype_bytes(dtype));
    return p;
}

/* Tables of noise: the kernel must not care that they are no cosines. */
static struct rotated rotate_on_cpu(struct gpu_test *t, const struct setup *s, const void *qkv,
                                    const float *cosine, const float *sine, enum dtype dtype) {
    struct rope_cache_args a = args_of(s, dtype);
    const struct step_params step = step_of(s);
    struct rotated r = {.k = canaries(cached(s), dtype), .v = canaries(cached(s), dtype)};
    a.qkv = qkv, a.cos = cosine, a.sin = sine, a.step = &step, a.kv.k = r.k, a.kv.v = r.v;
    if (!s->keys_only)
        for (int c = 0; c < s->copies; c++) a.q[c] = r.q[c] = canaries(queries(s), dtype);
    variant_named(DEVICE_CPU, OP_ROPE_CACHE, "ref")->run(t->cpu, &a);
    return r;
}

static struct rotated rotate_on_gpu(struct gpu_test *t, const struct setup *s, const void *qkv,
                                    const float *cosine, const float *sine, enum dtype dtype) {
    struct rope_cache_args a = args_of(s, dtype);
    const struct step_params step = step_of(s);
    a.qkv = gpu_put_skewed(t, qkv, (size_t)s->rows * (size_t)a.ldqkv, s->skew, dtype);
    a.cos = gpu_put_skewed(t, cosine, angles(s), s->skew, DTYPE_F32);
    a.sin = gpu_put_skewed(t, sine, angles(s), s->skew, DTYPE_F32);
    a.step = gpu_put(t, &step, sizeof step);
    a.kv.k = gpu_guarded(t, cached(s), s->skew, dtype);
    a.kv.v = gpu_guarded(t, cached(s), s->skew, dtype);
    if (!s->keys_only)
        for (int c = 0; c < s->copies; c++) a.q[c] = gpu_guarded(t, queries(s), s->skew, dtype);
    gpu_run(t, variant_named(DEVICE_CUDA, OP_ROPE_CACHE, "cuda"), &a);
    struct rotated r = {.k = gpu_unguard(t, a.kv.k, cached(s), dtype),
                        .v = gpu_unguard(t, a.kv.v, cached(s), dtype)};
    for (int c = 0; c < Q_COPIES; c++)
        if (a.q[c]) r.q[c] = gpu_unguard(t, a.q[c], queries(s), dtype);
    return r;
}

static void free_rotated(struct rotated *r) {
    for (int c = 0; c < Q_COPIES; c++) free(r->q[c]);
    free(r->k);
    free(r->v);
}

static void rotate_case(struct gpu_test *t, const struct setup *s, enum dtype dtype) {
    const size_t ld = (size_t)args_of(s, dtype).ldqkv;
    void *qkv = make_normal((size_t)s->rows * ld, dtype, 1);
    float *cosine = make_normal(angles(s), DTYPE_F32, 2);
    float *sine = make_normal(angles(s), DTYPE_F32, 3);
    struct rotated want = rotate_on_cpu(t, s, qkv, cosine, sine, dtype);
    struct rotated got = rotate_on_gpu(t, s, qkv, cosine, sine, dtype);
    const size_t real = (size_t)s->n_tokens * (size_t)s->H * (size_t)s->D;
    for (int c = 0; c < s->copies && !s->keys_only; c++)
        assert_same_bits(got.q[c], want.q[c], real, dtype, "query copy %d, H %d, D %d", c, s->H,
                         s->D);
    assert_same_bits(got.k, want.k, cached(s), dtype, "keys, H %d, D %d", s->H, s->D);
    assert_same_bits(got.v, want.v, cached(s), dtype, "values, H %d, D %d", s->H, s->D);
    free_rotated(&want);
    free_rotated(&got);
    free(qkv);
    free(cosine);
    free(sine);
}

static void queries_keys_and_values_have_the_reference_s_bits(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(setups); i++) {
            gpu_test_reset(&t, ARENA);
            rotate_case(&t, &setups[i], dtype);
        }
        gpu_test_close(&t);
    }
}

/* ---- synthetic keys and values */

static void fill_case(struct gpu_test *t, int32_t D, int32_t begin, int32_t end, enum dtype dtype) {
    enum { HEADS = 3 };
    const size_t n = HEADS * CAPACITY * (size_t)D;
    struct kv_view view = {
        &kv_layout_rows, canaries(n, dtype), canaries(n, dtype), CAPACITY, HEADS, D, dtype};
    void *k = view.k, *v = view.v;
    device_kv_fill(t->cpu, &view, begin, end, 77);
    view.k = gpu_guarded(t, n, 0, dtype);
    view.v = gpu_guarded(t, n, 0, dtype);
    device_kv_fill(t->gpu, &view, begin, end, 77);
    void *got_k = gpu_unguard(t, view.k, n, dtype), *got_v = gpu_unguard(t, view.v, n, dtype);
    assert_same_bits(got_k, k, n, dtype, "keys [%d, %d), D %d", begin, end, D);
    assert_same_bits(got_v, v, n, dtype, "values [%d, %d), D %d", begin, end, D);
    free(got_k);
    free(got_v);
    free(k);
    free(v);
}

static void synthetic_keys_and_values_have_the_cpu_s_bits(void **state) {
    (void)state;
    static const int32_t dims[] = {2, 6, 64, 128, 130};
    static const int32_t ranges[][2] = {{0, CAPACITY}, {0, 1}, {13, 200}, {255, CAPACITY}, {9, 9}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(dims) * COUNT(ranges); i++) {
            gpu_test_reset(&t, ARENA);
            const int32_t *range = ranges[i / COUNT(dims)];
            fill_case(&t, dims[i % COUNT(dims)], range[0], range[1], dtype);
        }
        gpu_test_close(&t);
    }
}

/* ---- random weights */

/* Parts of a matrix of odd width, at every place in a draw of four, side by side or apart. */
static void random_matrices_have_the_host_s_bits(void **state) {
    (void)state;
    static const struct matrix_part parts[] = {{0, 61, 0, 203}, {0, 1, 1, 1},    {5, 3, 2, 9},
                                               {7, 50, 3, 199}, {11, 9, 4, 128}, {2, 30, 201, 2}};
    const struct random_matrix m = {
        .seed = 5, .stream = 3 << 8 | 7, .mean = 1, .deviation = 0.1f, .columns = 203};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(parts) * 4; i++) {
            const struct matrix_part *p = &parts[i / 4];
            const int64_t ld = p->cols + (i % 2 ? 5 : 0);
            const size_t n = (size_t)(p->rows * ld), offset = i / 2 % 2;
            gpu_test_reset(&t, ARENA);
            void *want = canaries(n, dtype), *at = gpu_guarded(&t, n, offset, dtype);
            random_matrix_write(&m, p, dtype, want, ld);
            device_random_matrix(t.gpu, &m, p, dtype, at, ld);
            void *got = gpu_unguard(&t, at, n, dtype);
            assert_same_bits(got, want, n, dtype, "part %zu", i);
            free(got);
            free(want);
        }
        gpu_test_close(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles_are_the_reference_s),
        cmocka_unit_test(queries_keys_and_values_have_the_reference_s_bits),
        cmocka_unit_test(synthetic_keys_and_values_have_the_cpu_s_bits),
        cmocka_unit_test(random_matrices_have_the_host_s_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
