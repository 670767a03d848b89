/* The linear on a GPU: exact on integers, near the reference on noise (float32 to float32's own
 * precision), and a row's bits the same in any number of rows, in eager and graph mode, at any
 * stride; one algorithm for each shape of weight, remembered. --small leaves out the 7B model's
 * shapes, for sanitizers; --bench prints TFLOP/s of those shapes beside the library's free choice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"
#include "gpu_bench_linear.h"
#include "kernels/linear/pinned.h"

#include <unistd.h>

enum { ARENA = 192 << 20 };

/* The 7B model's on one rank and on one of four: qkv, o, gate_up, down. */
static const struct weight_shape large[] = {
    {4608, 3584, DTYPE_BF16, true},   {3584, 3584, DTYPE_BF16, false},
    {37888, 3584, DTYPE_BF16, false}, {3584, 18944, DTYPE_BF16, false},
    {1152, 3584, DTYPE_BF16, true},   {3584, 896, DTYPE_BF16, false},
    {9472, 3584, DTYPE_BF16, false},  {3584, 4736, DTYPE_BF16, false}};

/* Of the needle model and other small ones. */
static const struct {
    int32_t N, K;
} small[] = {{64, 64},    {128, 512}, {192, 512},  {512, 512}, {1024, 512},
             {2816, 512}, {512, 128}, {512, 1408}, {1152, 896}};
static const int32_t row_counts[] = {1, 2, 7, 64, 100, 129, 257};
enum { MOST_ROWS = 257 };

static char folder[] = "/tmp/test_linear_XXXXXX"; /* where choices are kept */

static const struct variant *cublas(void) {
    return variant_named(DEVICE_CUDA, OP_LINEAR, "cublas");
}

static struct gpu_test open_test(enum dtype dtype, size_t bytes) {
    struct gpu_test t;
    gpu_test_open(&t, dtype, 0, "auto", bytes);
    return t;
}

static const struct weight *pack(struct gpu_test *t, struct weight_shape shape, const void *rows,
                                 const void *bias) {
    const struct weight *w = NULL;
    struct error err = {""};
    if (device_weight_pack(t->gpu, t->arena, SHARED_RANK, shape, rows, bias, &w, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return w;
}

/* x is on the host; so is the result, [rows][N], which the caller frees. */
static void *linear(struct gpu_test *t, const struct weight *w, const void *x, int32_t rows) {
    const struct weight_shape s = w->shape;
    const size_t n = (size_t)rows * (size_t)s.N, in = (size_t)rows * (size_t)s.K;
    struct linear_args a = {
        w, gpu_put(t, x, in * dtype_bytes(s.dtype)), gpu_guarded(t, n, 0, s.dtype), s.K, s.N, rows};
    gpu_run(t, cublas(), &a);
    return gpu_unguard(t, a.y, n, s.dtype);
}

static void *reference(struct gpu_test *t, struct weight_shape s, const void *rows,
                       const void *bias, const void *x, int32_t n) {
    const struct weight w = {s, &weight_layout_rows, (void *)rows, (void *)bias, NULL};
    void *y = make((size_t)n * (size_t)s.N, s.dtype);
    variant_named(DEVICE_CPU, OP_LINEAR, "ref")
        ->run(t->cpu, &(struct linear_args){&w, x, y, s.K, s.N, n});
    return y;
}

/* ---- values */

static void integers_case(struct gpu_test *t, struct weight_shape s) {
    void *rows = make_integers((size_t)s.N * (size_t)s.K, s.dtype, 3, 1);
    void *bias = s.bias ? make_integers((size_t)s.N, s.dtype, 9, 2) : NULL;
    void *x = make_integers((size_t)MOST_ROWS * (size_t)s.K, s.dtype, 3, 3);
    void *want = reference(t, s, rows, bias, x, MOST_ROWS);
    const struct weight *w = pack(t, s, rows, bias);
    for (size_t i = 0; i < COUNT(row_counts); i++) {
        void *got = linear(t, w, x, row_counts[i]);
        assert_same_bits(got, want, (size_t)row_counts[i] * (size_t)s.N, s.dtype,
                         "%s %d x %d, %d rows", dtype_name(s.dtype), s.N, s.K, row_counts[i]);
        free(got);
    }
    free(want);
    free(x);
    free(bias);
    free(rows);
}

static void integers_are_exact(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        for (size_t i = 0; i < COUNT(small); i++) {
            gpu_test_reset(&t, ARENA);
            integers_case(&t, (struct weight_shape){small[i].N, small[i].K, dtype, i % 2});
        }
        gpu_test_close(&t);
    }
}

/* A thousand terms of size one, summed in f32 in any order, differ by less than 1e-3; in TF32 they
 * would not. */
static void noise_is_near_the_reference(void **state) {
    (void)state;
    enum { N = 192, K = 1024, ROWS = 131 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        const struct weight_shape s = {N, K, dtype, true};
        void *rows = make_normal((size_t)N * K, dtype, 1), *bias = make_normal(N, dtype, 2);
        void *x = make_normal((size_t)ROWS * K, dtype, 3);
        void *want = reference(&t, s, rows, bias, x, ROWS);
        void *got = linear(&t, pack(&t, s, rows, bias), x, ROWS);
        for (size_t j = 0; j < (size_t)ROWS * N; j++)
            if (!close_enough(element_load(got, j, dtype), element_load(want, j, dtype), dtype, 1,
                              1e-3))
                fail_msg("element %zu is %g, not %g", j, (double)element_load(got, j, dtype),
                         (double)element_load(want, j, dtype));
        free(got);
        free(want);
        free(x);
        free(bias);
        free(rows);
        gpu_test_close(&t);
    }
}

static void nan_spoils_its_row_alone(void **state) {
    (void)state;
    enum { N = 128, K = 512, ROWS = 40, BAD = 14 };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        void *rows = make_normal((size_t)N * K, dtype, 9);
        void *x = make_normal((size_t)ROWS * K, dtype, 10);
        element_store(x, (size_t)BAD * K + K - 1, dtype, NAN);
        void *y =
            linear(&t, pack(&t, (struct weight_shape){N, K, dtype, false}, rows, NULL), x, ROWS);
        for (size_t j = 0; j < (size_t)ROWS * N; j++)
            assert_int_equal(isnan(element_load(y, j, dtype)) != 0, j / N == BAD);
        free(y);
        free(x);
        free(rows);
        gpu_test_close(&t);
    }
}

/* ---- bits */

/* Wider rows than needed: what lies between rows is neither read (NaN) nor written. */
static void strides_change_no_bit_and_gaps_stay(void **state) {
    (void)state;
    enum { N = 192, K = 512, ROWS = 273, LDX = K + 64, LDY = N + 128, WIDE = (ROWS - 1) * LDY + N };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        const size_t size = dtype_bytes(dtype);
        void *rows = make_normal((size_t)N * K, dtype, 7);
        void *dense = make_normal((size_t)ROWS * K, dtype, 8);
        void *wide = make((size_t)ROWS * LDX, dtype);
        for (size_t j = 0; j < (size_t)ROWS * LDX; j++) element_store(wide, j, dtype, NAN);
        for (size_t r = 0; r < ROWS; r++)
            memcpy(element_at_mut(wide, r * LDX, dtype), element_at(dense, r * K, dtype), K * size);
        const struct weight *w = pack(&t, (struct weight_shape){N, K, dtype, false}, rows, NULL);
        void *want = linear(&t, w, dense, ROWS);
        struct linear_args a = {w,
                                gpu_put(&t, wide, (size_t)ROWS * LDX * size),
                                gpu_guarded(&t, WIDE, 0, dtype),
                                LDX,
                                LDY,
                                ROWS};
        gpu_run(&t, cublas(), &a);
        void *got = gpu_unguard(&t, a.y, WIDE, dtype);
        for (size_t r = 0; r < ROWS; r++) {
            assert_same_bits(element_at(got, r * LDY, dtype), element_at(want, r * N, dtype), N,
                             dtype, "row %zu", r);
            if (r + 1 < ROWS)
                assert_true(untouched(element_at(got, r * LDY + N, dtype), (LDY - N) * size));
        }
        free(got);
        free(want);
        free(wide);
        free(dense);
        free(rows);
        gpu_test_close(&t);
    }
}

/* Every run of rows [begin, begin + n) gives those rows' bits of the whole. */
static void a_row_has_its_bits_in_any_company(void **state) {
    (void)state;
    static const int32_t begins[] = {0, 1, 13, 200};
    enum { ROWS = 200 + MOST_ROWS };
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        for (size_t i = 0; i < COUNT(small); i++) {
            gpu_test_reset(&t, ARENA);
            const size_t N = (size_t)small[i].N, K = (size_t)small[i].K;
            void *rows = make_normal(N * K, dtype, 4), *bias = make_normal(N, dtype, 5);
            void *x = make_normal(ROWS * K, dtype, 6);
            const struct weight *w =
                pack(&t, (struct weight_shape){small[i].N, small[i].K, dtype, true}, rows, bias);
            void *all = linear(&t, w, x, ROWS);
            for (size_t b = 0; b < COUNT(begins); b++)
                for (size_t r = 0; r < COUNT(row_counts); r++) {
                    const size_t at = (size_t)begins[b], n = (size_t)row_counts[r];
                    void *part = linear(&t, w, element_at(x, at * K, dtype), row_counts[r]);
                    assert_same_bits(part, element_at(all, at * N, dtype), n * N, dtype,
                                     "%s %zu x %zu, rows %zu + %zu", dtype_name(dtype), N, K, at,
                                     n);
                    free(part);
                }
            free(all);
            free(x);
            free(bias);
            free(rows);
        }
        gpu_test_close(&t);
    }
}

static void must(enum status s, const struct error *err) {
    if (s != STATUS_OK) fail_msg("%s", err->text);
}

static void replay_case(struct gpu_test *t, enum dtype dtype) {
    enum { N = 512, K = 1408, ROWS = 300 };
    struct error err = {""};
    struct device_graph *graph = NULL;
    const size_t n = (size_t)ROWS * N;
    void *rows = make_normal((size_t)N * K, dtype, 1), *x = make_normal((size_t)ROWS * K, dtype, 2);
    void *other = make_normal((size_t)ROWS * K, dtype, 3);
    const struct weight *w = pack(t, (struct weight_shape){N, K, dtype, false}, rows, NULL);
    void *want = linear(t, w, other, ROWS);
    void *x_at = gpu_put(t, x, (size_t)ROWS * K * dtype_bytes(dtype));
    const struct op_call call = {.op = OP_LINEAR,
                                 .rank = SHARED_RANK,
                                 .layer = -1,
                                 .linear = {w, x_at, gpu_guarded(t, n, 0, dtype), K, N, ROWS}};
    must(device_capture_begin(t->gpu, &err), &err);
    must(device_run(t->gpu, &call, &err), &err);
    must(device_capture_end(t->gpu, &graph, &err), &err);
    device_write(t->gpu, x_at, other, (size_t)ROWS * K * dtype_bytes(dtype));
    const int64_t allocations = device_allocations(t->gpu);
    must(device_graph_launch(t->gpu, graph, &err), &err);
    must(device_sync(t->gpu, &err), &err);
    assert_int_equal(device_allocations(t->gpu), allocations);
    void *got = gpu_unguard(t, call.linear.y, n, dtype);
    assert_same_bits(got, want, n, dtype, "replayed, %s", dtype_name(dtype));
    device_graph_close(t->gpu, graph);
    free(got);
    free(want);
    free(other);
    free(x);
    free(rows);
}

static void a_replayed_product_reads_new_rows_and_has_the_same_bits(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        replay_case(&t, dtype);
        gpu_test_close(&t);
    }
}

/* ---- choices */

static const struct weight_shape chosen_shape = {1024, 768, DTYPE_BF16, true};

static bool same_algorithm(const struct cublas_pinned *a, const struct cublas_pinned *b) {
    return a->algorithm == b->algorithm && a->tile == b->tile && a->stages == b->stages &&
           a->inner == b->inner && a->cluster == b->cluster;
}

/* What a device opened now chooses. */
static struct cublas_pinned choose(void) {
    struct gpu_test t = open_test(DTYPE_BF16, ARENA);
    void *rows = make_normal((size_t)chosen_shape.N * (size_t)chosen_shape.K, DTYPE_BF16, 1);
    struct cublas_pinned first, second;
    cublas_describe(pack(&t, chosen_shape, rows, NULL), &first);
    const int64_t allocations = device_allocations(t.gpu);
    cublas_describe(pack(&t, chosen_shape, rows, NULL), &second);
    assert_int_equal(device_allocations(t.gpu), allocations + 1); /* the weight: no second search */
    assert_true(same_algorithm(&first, &second) && first.ms == second.ms);
    free(rows);
    gpu_test_close(&t);
    return first;
}

static void open_file(struct gpu_test *t, struct pinned_file *f) {
    struct device_info info;
    device_info(t->gpu, &info);
    pinned_open(f, info.name, (long long)cublasLtGetVersion());
    assert_string_not_equal(f->path, "");
}

static void the_first_choice_kept_serves_from_then_on(void **state) {
    (void)state;
    struct pinned_file f;
    struct gpu_test t = open_test(DTYPE_BF16, ARENA);
    open_file(&t, &f);
    gpu_test_close(&t);
    unlink(f.path);
    const struct cublas_pinned searched = choose(), again = choose();
    assert_false(searched.remembered);
    assert_true(searched.algorithm >= 0 && searched.ms > 0);
    assert_true(again.remembered);
    assert_true(same_algorithm(&searched, &again));
    char nonsense[64];
    memset(nonsense, 0xff, sizeof nonsense);
    unlink(f.path);
    pinned_write(&f, chosen_shape, nonsense, sizeof nonsense, 1); /* whole, but no algorithm */
    const struct cublas_pinned anew = choose(), kept = choose();
    assert_false(anew.remembered);
    assert_true(kept.remembered);
    assert_true(same_algorithm(&anew, &kept));
}

static void where_nothing_is_kept_devices_agree_all_the_same(void **state) {
    (void)state;
    setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
    const struct cublas_pinned a = choose(), b = choose();
    setenv("XDG_CACHE_HOME", folder, 1);
    assert_false(a.remembered);
    assert_false(b.remembered);
    assert_true(same_algorithm(&a, &b));
}

/* ---- the 7B model's shapes */

struct large {
    struct gpu_test *t;
    const struct weight *w;
    void *rows, *bias, *x; /* on the host */
    void *x_at, *y_at;     /* on the GPU */
};
enum { LARGE_ROWS = 8192 };

static void *filled(struct gpu_test *t, void *at, int64_t n, uint64_t seed, size_t bytes) {
    void *host = malloc(bytes);
    assert_non_null(host);
    device_fill_normal(t->gpu, at, n, seed);
    gpu_get(t, host, at, bytes);
    return host;
}

/* x_at and y_at have room for `rows` rows. */
static struct large open_large(struct gpu_test *t, struct weight_shape s, int32_t rows) {
    const int64_t weights = (int64_t)s.N * s.K, inputs = (int64_t)rows * s.K;
    const size_t size = dtype_bytes(s.dtype), weight_bytes = (size_t)weights * size;
    const size_t in = (size_t)inputs * size, out = (size_t)rows * (size_t)s.N * size;
    gpu_test_reset(t,
                   2 * arena_bytes(weight_bytes) + arena_bytes(in) + arena_bytes(out) + (8 << 20));
    struct large l = {.t = t, .x_at = gpu_new(t, in), .y_at = gpu_new(t, out)};
    l.rows = filled(t, gpu_new(t, weight_bytes), weights, 1, weight_bytes);
    l.x = filled(t, l.x_at, inputs, 2, in);
    l.bias = s.bias ? make_normal((size_t)s.N, s.dtype, 3) : NULL;
    l.w = pack(t, s, l.rows, l.bias);
    return l;
}

static void close_large(struct large *l) {
    free(l->rows);
    free(l->bias);
    free(l->x);
}

/* Rows [begin, begin + n), read back. */
static void *some_rows(const struct large *l, size_t begin, int32_t n) {
    const struct weight_shape s = l->w->shape;
    const size_t bytes = (size_t)n * (size_t)s.N * dtype_bytes(s.dtype);
    void *y = malloc(bytes);
    assert_non_null(y);
    struct linear_args a = {
        l->w, element_at(l->x_at, begin * (size_t)s.K, s.dtype), l->y_at, s.K, s.N, n};
    gpu_run(l->t, cublas(), &a);
    gpu_get(l->t, y, l->y_at, bytes);
    return y;
}

/* A sum of its own at places that walk over rows and columns. 1 ulp of bf16 beside what f32 sums of
 * K terms of size one differ by. */
static void check_places(const struct large *l, const void *y) {
    enum { PLACES = 2000 };
    const struct weight_shape s = l->w->shape;
    for (size_t i = 0; i < PLACES; i++) {
        const size_t r = i * 4093 % LARGE_ROWS, c = i * 10007 % (size_t)s.N;
        double sum = s.bias ? (double)element_load(l->bias, c, s.dtype) : 0;
        for (size_t k = 0; k < (size_t)s.K; k++)
            sum += (double)element_load(l->x, r * (size_t)s.K + k, s.dtype) *
                   (double)element_load(l->rows, c * (size_t)s.K + k, s.dtype);
        const float got = element_load(y, r * (size_t)s.N + c, s.dtype);
        if (!close_enough(got, (float)sum, s.dtype, 1, 2e-6 * s.K))
            fail_msg("%d x %d, row %zu, column %zu is %g, not %g", s.N, s.K, r, c, (double)got,
                     sum);
    }
}

static void the_7b_model_s_shapes_are_right_and_by_row(void **state) {
    (void)state;
    static const struct {
        size_t begin;
        int32_t rows;
    } parts[] = {{0, 1}, {8191, 1}, {5, 7}, {100, 100}, {1, 129}, {3000, 1000}, {17, 4097}};
    struct gpu_test t = open_test(DTYPE_BF16, ARENA);
    for (size_t i = 0; i < COUNT(large); i++) {
        struct large l = open_large(&t, large[i], LARGE_ROWS);
        void *all = some_rows(&l, 0, LARGE_ROWS);
        check_places(&l, all);
        for (size_t p = 0; p < COUNT(parts); p++) {
            const size_t N = (size_t)large[i].N;
            void *part = some_rows(&l, parts[p].begin, parts[p].rows);
            assert_same_bits(part, element_at(all, parts[p].begin * N, DTYPE_BF16),
                             (size_t)parts[p].rows * N, DTYPE_BF16, "%zu x %d, rows %zu + %d", N,
                             large[i].K, parts[p].begin, parts[p].rows);
            free(part);
        }
        free(all);
        close_large(&l);
    }
    gpu_test_close(&t);
}

static int bench(void) {
    static const int32_t rows[] = {1, 8192, 32768};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype, ARENA);
        /* float32 runs fifteen times slower: one shape shows it */
        for (size_t i = 0; i < (dtype == DTYPE_BF16 ? COUNT(large) : 1); i++) {
            const struct weight_shape s = {large[i].N, large[i].K, dtype, false};
            struct large l = open_large(&t, s, rows[COUNT(rows) - 1]);
            print_pinned(l.w);
            for (size_t r = 0; r < COUNT(rows); r++) bench_rows(&t, l.w, l.x_at, l.y_at, rows[r]);
            close_large(&l);
        }
        gpu_test_close(&t);
    }
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(noise_is_near_the_reference),
        cmocka_unit_test(nan_spoils_its_row_alone),
        cmocka_unit_test(strides_change_no_bit_and_gaps_stay),
        cmocka_unit_test(a_row_has_its_bits_in_any_company),
        cmocka_unit_test(a_replayed_product_reads_new_rows_and_has_the_same_bits),
        cmocka_unit_test(the_first_choice_kept_serves_from_then_on),
        cmocka_unit_test(where_nothing_is_kept_devices_agree_all_the_same),
        cmocka_unit_test(the_7b_model_s_shapes_are_right_and_by_row),
    };
    if (wants_bench(argc, argv)) return bench();
    struct gpu_test probe = open_test(DTYPE_BF16, 1); /* ends here without a GPU */
    gpu_test_close(&probe);
    if (!mkdtemp(folder)) return 1;
    setenv("XDG_CACHE_HOME", folder, 1);
    if (wants_small(argc, argv))
        cmocka_set_skip_filter("the_7b_model_s_shapes_are_right_and_by_row");
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
