/* attention: every variant that this machine can run against a float64 oracle written here and
 * against _ref; KV layouts; and the property on which chunked prefill rests, that a row's bits do
 * not depend on anything but the row, its position and the cache.
 *
 * test_attention --bench prints speeds instead. */
#include "kernels/bf16.h"
#include "kernels/cost.h"
#include "kernels/device.h"
#include "kernels/element.h"
#include "kernels/random.h"
#include "tests/enough_memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MAX_THREADS = 3, GUARD = 0x5a, GAP = 5 };

/* A sequence: queries of every position in three copies, keys and values, all as plain rows. */
struct sequence {
    int32_t H, K, D, total, capacity;
    enum dtype dtype;
    struct attention_pattern pattern;
    float scale, factor;
    void *q[Q_COPIES]; /* [total][H*D] */
    void *k, *v;       /* [K][total][D] */
};

static void *allocate(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static void *random_elements(size_t n, enum dtype dtype, uint64_t stream) {
    void *p = allocate(n * dtype_bytes(dtype));
    for (size_t i = 0; i < n; i += 4) {
        float four[4];
        random_normal4(7, stream, i / 4, four);
        for (size_t j = 0; j < 4 && i + j < n; j++) element_store(p, i + j, dtype, four[j]);
    }
    return p;
}

static struct sequence sequence_open(int32_t H, int32_t K, int32_t D, int32_t total,
                                     enum dtype dtype, struct attention_pattern pattern) {
    struct sequence s = {H, K, D, total, 0, dtype, pattern, 0, 0, {0}, 0, 0};
    s.capacity = (total + KV_TILE) / KV_TILE * KV_TILE; /* always some unused positions */
    s.scale = 1 / sqrtf((float)D);
    s.factor = pattern.chunk ? 1.125f : 1.0f;
    for (int c = 0; c < (pattern.chunk ? Q_COPIES : 1); c++)
        s.q[c] = random_elements((size_t)total * (size_t)(H * D), dtype, 10 + (uint64_t)c);
    s.k = random_elements((size_t)K * (size_t)total * (size_t)D, dtype, 20);
    s.v = random_elements((size_t)K * (size_t)total * (size_t)D, dtype, 21);
    return s;
}

static void sequence_close(struct sequence *s) {
    for (int c = 0; c < Q_COPIES; c++) free(s->q[c]);
    free(s->k);
    free(s->v);
}

static size_t kv_index(const struct sequence *s, int head, int32_t position) {
    return ((size_t)head * (size_t)s->total + (size_t)position) * (size_t)s->D;
}

static void fill(void *p, size_t n, enum dtype dtype, float value) {
    for (size_t i = 0; i < n; i++) element_store(p, i, dtype, value);
}

/* ---- the cache */

static struct kv_view view_open(const struct kv_layout *layout, int32_t capacity, int32_t heads,
                                int32_t D, enum dtype dtype) {
    const size_t bytes = layout->bytes(capacity, heads, D, dtype);
    return (struct kv_view){layout, allocate(bytes), allocate(bytes), capacity, heads, D, dtype};
}

static void view_close(struct kv_view *view) {
    free(view->k);
    free(view->v);
}

static void write_positions(const struct sequence *s, const struct kv_view *view, int32_t begin,
                            int32_t end) {
    for (int h = 0; h < s->K; h++)
        view->layout->write(view, h, begin, end - begin,
                            element_at(s->k, kv_index(s, h, begin), s->dtype), s->D,
                            element_at(s->v, kv_index(s, h, begin), s->dtype), s->D);
}

static struct kv_view cache_of(const struct sequence *s, const struct kv_layout *layout) {
    struct kv_view view = view_open(layout, s->capacity, s->K, s->D, s->dtype);
    write_positions(s, &view, 0, s->total);
    return view;
}

/* Keys and values of one position, in all heads. */
static void overwrite(const struct sequence *s, const struct kv_view *view, int32_t position,
                      float key, float value) {
    const size_t D = (size_t)s->D;
    void *k = allocate(D * dtype_bytes(s->dtype)), *v = allocate(D * dtype_bytes(s->dtype));
    fill(k, D, s->dtype, key);
    fill(v, D, s->dtype, value);
    for (int h = 0; h < s->K; h++) view->layout->write(view, h, position, 1, k, s->D, v, s->D);
    free(k);
    free(v);
}

/* ---- running a variant */

static struct device *devices[MAX_THREADS + 1]; /* by number of threads; set up once by main */

static int64_t row_width(const struct sequence *s) {
    return s->H * s->D + GAP;
}

/* Runs rows [q_start, q_start + n), padded by `padding` rows; returns [n][H*D], owned by the
 * caller. Checks that nothing around the output was touched. */
static void *run_rows(const struct variant *variant, int threads, const struct sequence *s,
                      const struct kv_view *view, int32_t q_start, int32_t n, int32_t padding) {
    const size_t element = dtype_bytes(s->dtype), width = (size_t)(s->H * s->D);
    const size_t rows = (size_t)(n + padding), ldo = (size_t)row_width(s);
    struct step_params step = {.q_start = q_start,
                               .n_tokens = n,
                               .kv_len = q_start + n,
                               .prompt_tokens = s->total,
                               .key_factor = 1,
                               .query_factor = s->factor};
    unsigned char *out = allocate((rows + 1) * ldo * element);
    memset(out, GUARD, (rows + 1) * ldo * element);
    struct attention_args args = {.ldq = (int64_t)width,
                                  .kv = *view,
                                  .ldo = (int64_t)ldo,
                                  .out = out,
                                  .step = &step,
                                  .pattern = s->pattern,
                                  .rows = n + padding,
                                  .H = s->H,
                                  .D = s->D,
                                  .scale = s->scale,
                                  .dtype = s->dtype};
    void *q[Q_COPIES] = {0};
    for (int c = 0; c < Q_COPIES; c++) {
        if (!s->q[c]) continue;
        /* exactly `rows` rows, so that a sanitizer sees a read beyond them */
        args.q[c] = q[c] = allocate(rows * width * element);
        memcpy(q[c], element_at(s->q[c], (size_t)q_start * width, s->dtype),
               (size_t)n * width * element);
    }
    variant->run(devices[threads], &args);

    unsigned char *packed = allocate((size_t)n * width * element);
    for (size_t r = 0; r <= rows; r++) {
        const unsigned char *row = out + r * ldo * element;
        if (r < (size_t)n) memcpy(packed + r * width * element, row, width * element);
        for (size_t i = r < rows ? width * element : 0; i < ldo * element; i++)
            assert_int_equal(row[i], GUARD);
    }
    for (int c = 0; c < Q_COPIES; c++) free(q[c]);
    free(out);
    return packed;
}

/* A test's body for every usable variant and element type that it serves. */
typedef void variant_test(const struct variant *variant, enum dtype dtype);

static void each_variant(variant_test *test) {
    int n;
    const struct variant *table = variant_table(&n);
    for (int i = 0; i < n; i++) {
        const struct variant *v = &table[i];
        if (v->op != OP_ATTENTION || v->device != DEVICE_CPU || !variant_usable(v, NULL)) continue;
        for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++)
            if (v->dtypes & 1 << dtype) test(v, dtype);
    }
}

static const struct variant *reference(void) {
    int n;
    const struct variant *table = variant_table(&n);
    for (int i = 0; i < n; i++)
        if (table[i].run == attention_ref) return &table[i];
    fail_msg("attention_ref is not in ops.inc");
    return NULL;
}

/* Step through a list of cases: the reference is slow and takes some of them, and so does everybody
 * under a sanitizer (run_all.sh says so). */
static bool sanitized(void) {
    const char *tier = getenv("BENCH_TEST_TIER");
    return tier && (strcmp(tier, "asan") == 0 || strcmp(tier, "tsan") == 0);
}

static size_t shape_step(void) {
    return sanitized() ? 3 : 1;
}

static int step_of(const struct variant *variant) {
    return variant->run == attention_ref || sanitized() ? 5 : 1;
}

/* ---- the oracle */

/* From the definition: same chunk, the one before, or any earlier one. */
static int copy_for(const struct sequence *s, int32_t query, int32_t key) {
    if (s->pattern.chunk == 0) return 0;
    const int32_t apart = query / s->pattern.chunk - key / s->pattern.chunk;
    return apart > 2 ? 2 : apart;
}

/* One query of one head; out [D], and sum of probability * |value| [D], the scale of an error. */
static void oracle(const struct sequence *s, int32_t position, int h, double *out, double *weight) {
    const size_t D = (size_t)s->D, n = (size_t)position + 1;
    const int head = h / (s->H / s->K);
    double *score = allocate(n * sizeof *score), max = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        const void *q = s->q[copy_for(s, position, (int32_t)j)];
        const size_t from = ((size_t)position * (size_t)s->H + (size_t)h) * D;
        for (size_t d = 0; d < D; d++)
            score[j] += (double)element_load(q, from + d, s->dtype) *
                        (double)element_load(s->k, kv_index(s, head, (int32_t)j) + d, s->dtype);
        score[j] *= (double)s->scale * (double)s->factor;
        max = fmax(max, score[j]);
    }
    for (size_t d = 0; d < D; d++) out[d] = weight[d] = 0;
    for (size_t j = 0; j < n; j++) {
        const double p = exp(score[j] - max);
        sum += p;
        for (size_t d = 0; d < D; d++) {
            const double v =
                (double)element_load(s->v, kv_index(s, head, (int32_t)j) + d, s->dtype);
            out[d] += p * v;
            weight[d] += p * fabs(v);
        }
    }
    for (size_t d = 0; d < D; d++) out[d] /= sum, weight[d] /= sum;
    free(score);
}

/* What rounding allows: the result to bf16 once and every probability once, each by half a unit in
 * the last of 8 bits; in f32 a few roundings of 2^-24 in scores of magnitude 4. */
static double tolerance(enum dtype dtype, double value, double weight) {
    if (dtype == DTYPE_BF16) return 0x1.08p-8 * (fabs(value) + weight);
    return 3e-6 * weight;
}

static void assert_rows_right(const struct variant *v, const struct sequence *s, const void *got,
                              int32_t q_start, int32_t n, int32_t stride) {
    const size_t D = (size_t)s->D, H = (size_t)s->H;
    double *want = allocate(D * sizeof *want), *weight = allocate(D * sizeof *weight);
    if (sanitized()) stride *= 4;
    for (int32_t i = 0; i < n + stride - 1; i += stride) {
        const int32_t t = i < n ? i : n - 1; /* the last row always */
        for (size_t h = 0; h < H; h++) {
            oracle(s, q_start + t, (int)h, want, weight);
            for (size_t d = 0; d < D; d++) {
                const double x = (double)element_load(got, ((size_t)t * H + h) * D + d, s->dtype);
                if (!(fabs(x - want[d]) <= tolerance(s->dtype, want[d], weight[d])))
                    fail_msg("%s %s H %d K %d D %d q_start %d row %d of %d head %zu [%zu]: %.9g, "
                             "expected %.9g",
                             v->name, dtype_name(s->dtype), s->H, s->K, s->D, q_start, t, n, h, d,
                             x, want[d]);
            }
        }
    }
    free(want);
    free(weight);
}

static void assert_same_bits(const struct sequence *s, const void *a, const void *b, int32_t rows,
                             const char *what) {
    const size_t width = (size_t)(s->H * s->D);
    for (int32_t t = 0; t < rows; t++)
        for (size_t i = 0; i < width; i++)
            if (memcmp(element_at(a, (size_t)t * width + i, s->dtype),
                       element_at(b, (size_t)t * width + i, s->dtype), dtype_bytes(s->dtype)) != 0)
                fail_msg("%s: row %d, element %zu: %a is not %a", what, t, i,
                         (double)element_load(a, (size_t)t * width + i, s->dtype),
                         (double)element_load(b, (size_t)t * width + i, s->dtype));
}

/* ---- tests of values */

/* All scores equal and small integers as values: every probability is exactly 1, and the mean of a
 * power of two of them is exact before the last rounding. */
static void equal_keys(const struct variant *variant, enum dtype dtype) {
    struct sequence s = sequence_open(2, 1, 64, 256, dtype, (struct attention_pattern){0, 0});
    fill(s.k, (size_t)s.total * 64, dtype, 0.5f);
    for (size_t i = 0; i < (size_t)s.total * 64; i++)
        element_store(s.v, i, dtype, (float)((int)(i * i % 17) - 8));
    struct kv_view view = cache_of(&s, variant->kv_layout);
    void *got = run_rows(variant, 2, &s, &view, 0, s.total, 0);
    for (size_t n = 1; n <= (size_t)s.total; n *= 2)
        for (size_t i = 0; i < 128; i++) {
            double sum = 0;
            for (size_t j = 0; j < n; j++) sum += (double)element_load(s.v, j * 64 + i % 64, dtype);
            const float want = element_round((float)(sum / (double)n), dtype);
            assert_true(element_load(got, (n - 1) * 128 + i, dtype) == want);
        }
    free(got);
    view_close(&view);
    sequence_close(&s);
}

static void mean_of_integers_under_equal_keys_is_exact(void **state) {
    (void)state;
    each_variant(equal_keys);
}

/* One key far above all others, also by more than f32's exponents reach: its value, bit for bit,
 * from the position on where it is seen. */
static void one_hot(const struct variant *variant, enum dtype dtype) {
    const float heights[] = {40, 3e17f};
    for (size_t i = 0; i < 2; i++)
        for (int32_t hot = 0; hot < 300; hot += 37 * step_of(variant)) {
            struct sequence s =
                sequence_open(4, 2, 64, 300, dtype, (struct attention_pattern){0, 0});
            fill(s.q[0], (size_t)s.total * 256, dtype, heights[i]);
            fill(s.k, (size_t)s.K * (size_t)s.total * 64, dtype, -1);
            for (int h = 0; h < s.K; h++)
                fill(element_at_mut(s.k, kv_index(&s, h, hot), dtype), 64, dtype, heights[i]);
            struct kv_view view = cache_of(&s, variant->kv_layout);
            void *got = run_rows(variant, 2, &s, &view, hot, s.total - hot, 0);
            for (int32_t t = 0; t < s.total - hot; t++)
                for (int h = 0; h < s.H; h++)
                    assert_memory_equal(element_at(got, (size_t)(t * s.H + h) * 64, dtype),
                                        element_at(s.v, kv_index(&s, h / 2, hot), dtype),
                                        64 * dtype_bytes(dtype));
            free(got);
            view_close(&view);
            sequence_close(&s);
        }
}

static void a_dominating_key_gives_its_value_exactly(void **state) {
    (void)state;
    each_variant(one_hot);
}

static const struct {
    int32_t H, K, D;
} shapes[] = {{8, 4, 64}, {4, 4, 64}, {7, 1, 64}, {14, 2, 128}, {4, 4, 128}, {3, 1, 16}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void edges(const struct variant *variant, enum dtype dtype) {
    static const int32_t chunks[][2] = {
        {0, 1},   {0, 15},  {0, 16},  {0, 17},   {0, 127}, {0, 128},  {0, 129},   {1, 1},
        {126, 3}, {127, 1}, {128, 1}, {131, 67}, {255, 2}, {509, 13}, {383, 131}, {521, 1}};
    const int step = step_of(variant);
    for (size_t i = 0; i < SHAPES; i += shape_step()) {
        struct sequence s = sequence_open(shapes[i].H, shapes[i].K, shapes[i].D, 523, dtype,
                                          (struct attention_pattern){0, 0});
        struct kv_view view = cache_of(&s, variant->kv_layout);
        for (size_t c = i % (size_t)step; c < sizeof chunks / sizeof *chunks; c += (size_t)step) {
            const int32_t q_start = chunks[c][0], n = chunks[c][1];
            void *got = run_rows(variant, 2, &s, &view, q_start, n, (int32_t)c % 3);
            assert_rows_right(variant, &s, got, q_start, n, 13);
            free(got);
        }
        view_close(&view);
        sequence_close(&s);
    }
}

static void rows_match_the_oracle_at_every_edge(void **state) {
    (void)state;
    each_variant(edges);
}

/* Against _ref, element by element, over whole chunks: no row is left out as with the oracle. */
static void like_reference(const struct variant *variant, enum dtype dtype) {
    const int32_t rows = sanitized() ? 20 : 138;
    for (size_t i = 0; i < 4; i += shape_step()) {
        struct sequence s = sequence_open(shapes[i].H, shapes[i].K, shapes[i].D, 389, dtype,
                                          (struct attention_pattern){i % 2 ? 128 : 0, 64});
        struct kv_view view = cache_of(&s, variant->kv_layout);
        struct kv_view plain = cache_of(&s, &kv_layout_rows);
        void *got = run_rows(variant, 2, &s, &view, 251, rows, 0);
        void *want = run_rows(reference(), 1, &s, &plain, 251, rows, 0);
        for (size_t e = 0; e < (size_t)(rows * s.H * s.D); e++) {
            const double x = (double)element_load(got, e, dtype);
            const double y = (double)element_load(want, e, dtype);
            assert_true(fabs(x - y) <= (dtype == DTYPE_BF16 ? 0x1p-7 * (fabs(y) + 0.5) : 2e-6));
        }
        free(want);
        free(got);
        view_close(&plain);
        view_close(&view);
        sequence_close(&s);
    }
}

static void every_variant_agrees_with_ref(void **state) {
    (void)state;
    each_variant(like_reference);
}

static void dual_chunk(const struct variant *variant, enum dtype dtype) {
    static const int32_t chunks[][2] = {{0, 255}, {200, 130}, {255, 2},    {250, 290}, {511, 1},
                                        {512, 1}, {767, 3},   {1000, 101}, {1100, 1}};
    const int step = step_of(variant);
    for (size_t i = 0; i < 4; i += shape_step()) {
        struct sequence s = sequence_open(shapes[i].H, shapes[i].K, shapes[i].D, 1101, dtype,
                                          (struct attention_pattern){256, 128});
        struct kv_view view = cache_of(&s, variant->kv_layout);
        for (size_t c = i % (size_t)step; c < sizeof chunks / sizeof *chunks; c += (size_t)step) {
            void *got = run_rows(variant, 2, &s, &view, chunks[c][0], chunks[c][1], 0);
            assert_rows_right(variant, &s, got, chunks[c][0], chunks[c][1], 53);
            free(got);
        }
        view_close(&view);
        sequence_close(&s);
    }
}

static void dual_chunk_rows_see_each_key_with_the_right_copy(void **state) {
    (void)state;
    each_variant(dual_chunk);
}

/* Sums of many equal terms drift when they are kept in one f32 or, worse, in bf16. */
static void long_context(const struct variant *variant, enum dtype dtype) {
    struct sequence s = sequence_open(1, 1, 16, 70001, dtype, (struct attention_pattern){0, 0});
    fill(s.k, (size_t)s.total * 16, dtype, 0.25f);
    fill(s.v, (size_t)s.total * 16, dtype, 1.3671875f);
    struct kv_view view = cache_of(&s, variant->kv_layout);
    void *got = run_rows(variant, 1, &s, &view, s.total - 1, 1, 0);
    for (size_t d = 0; d < 16; d++) {
        const double error = fabs((double)element_load(got, d, dtype) - 1.3671875);
        assert_true(error <= (dtype == DTYPE_BF16 ? 0 : 1e-6));
    }
    free(got);
    view_close(&view);
    sequence_close(&s);
}

static void a_mean_over_many_keys_does_not_drift(void **state) {
    (void)state;
    each_variant(long_context);
}

/* ---- tests of invariance */

static void assert_chunks_agree(const struct variant *variant, const struct sequence *s,
                                const struct kv_view *view) {
    static const int32_t sizes[] = {131, 1, 7, 64, 128, 300};
    const size_t width = (size_t)(s->H * s->D);
    unsigned char *whole = run_rows(variant, 1, s, view, 0, s->total, 0);
    for (int threads = 2; threads <= MAX_THREADS; threads++) {
        void *again = run_rows(variant, threads, s, view, 0, s->total, 3);
        assert_same_bits(s, whole, again, s->total, "threads");
        free(again);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i += (size_t)step_of(variant))
        for (int32_t begin = 0; begin < s->total; begin += sizes[i]) {
            const int32_t left = s->total - begin, n = left < sizes[i] ? left : sizes[i];
            void *part = run_rows(variant, 1 + (begin + n) % 2, s, view, begin, n, begin % 2);
            assert_same_bits(s, element_at(whole, (size_t)begin * width, s->dtype), part, n,
                             variant->name);
            free(part);
        }
    free(whole);
}

static void invariance(const struct variant *variant, enum dtype dtype) {
    if (variant->run == attention_ref) return; /* row by row by construction, and slow */
    for (size_t i = 0; i < SHAPES; i += shape_step()) {
        struct sequence s = sequence_open(shapes[i].H, shapes[i].K, shapes[i].D, 409, dtype,
                                          (struct attention_pattern){i % 2 ? 128 : 0, 64});
        struct kv_view view = cache_of(&s, variant->kv_layout);
        assert_chunks_agree(variant, &s, &view);
        view_close(&view);
        sequence_close(&s);
    }
}

static void rows_do_not_depend_on_chunks_or_threads(void **state) {
    (void)state;
    each_variant(invariance);
}

/* Scores that keep growing, so that every block brings a new maximum; negative zeros and values
 * near the smallest number, whose sign and survival could depend on keys that are not seen. */
static void awkward_invariance(const struct variant *variant, enum dtype dtype) {
    if (variant->run == attention_ref) return;
    struct sequence s = sequence_open(4, 2, 64, 409, dtype, (struct attention_pattern){0, 0});
    for (int32_t j = 0; j < s.total; j++)
        for (int h = 0; h < s.K; h++)
            for (size_t d = 0; d < 64; d++) {
                const size_t at = kv_index(&s, h, j) + d;
                element_store(s.k, at, dtype, (float)j * 0.25f);
                const float v = element_load(s.v, at, dtype);
                if (d < 16) element_store(s.v, at, dtype, -0.0f);
                if (d >= 16 && d < 32) element_store(s.v, at, dtype, v * 1e-37f);
            }
    fill(s.q[0], (size_t)s.total * 256, dtype, 1);
    struct kv_view view = cache_of(&s, variant->kv_layout);
    assert_chunks_agree(variant, &s, &view);
    view_close(&view);
    sequence_close(&s);
}

static void growing_scores_and_tiny_values_are_invariant_too(void **state) {
    (void)state;
    each_variant(awkward_invariance);
}

/* ---- tests of what must not leak */

static void poison(const struct variant *variant, enum dtype dtype) {
    static const int32_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 199, 200};
    struct sequence s = sequence_open(4, 2, 64, 200, dtype, (struct attention_pattern){0, 0});
    struct kv_view clean = cache_of(&s, variant->kv_layout);
    unsigned char *want = run_rows(variant, 2, &s, &clean, 0, s.total, 0);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i += (size_t)step_of(variant)) {
        const int32_t length = lengths[i];
        struct kv_view view = cache_of(&s, variant->kv_layout);
        for (int32_t j = length; j < s.capacity; j++) overwrite(&s, &view, j, NAN, NAN);
        void *alone = run_rows(variant, 1, &s, &view, 0, length, 0);
        assert_same_bits(&s, want, alone, length, "context before a NaN");
        void *together = run_rows(variant, 1, &s, &view, 0, s.total, 0);
        assert_same_bits(&s, want, together, length, "rows before a NaN in one chunk with others");
        for (size_t e = (size_t)length * 256; e < (size_t)s.total * 256; e++)
            assert_true(isnan(element_load(together, e, dtype)));
        free(together);
        free(alone);
        view_close(&view);
    }
    free(want);
    view_close(&clean);
    sequence_close(&s);
}

static void nan_reaches_those_who_see_it_and_nobody_else(void **state) {
    (void)state;
    each_variant(poison);
}

/* A key whose score is minus infinity counts as absent, at the front and elsewhere. */
static void minus_infinity(const struct variant *variant, enum dtype dtype) {
    struct sequence s = sequence_open(2, 1, 64, 150, dtype, (struct attention_pattern){0, 0});
    for (size_t i = 0; i < (size_t)s.total * 128; i++)
        element_store(s.q[0], i, dtype, fabsf(element_load(s.q[0], i, dtype)) + 0.5f);
    struct kv_view view = cache_of(&s, variant->kv_layout);
    for (int32_t j = 0; j < 149; j++)
        if (j < 130 || j % 3 == 0) {
            overwrite(&s, &view, j, -INFINITY, 1000);
            /* for the oracle: as low as it gets without an infinity */
            fill(element_at_mut(s.k, kv_index(&s, 0, j), dtype), 64, dtype, -1e30f);
        }
    void *got = run_rows(variant, 1, &s, &view, 130, 20, 0);
    assert_rows_right(variant, &s, got, 130, 20, 1);
    free(got);
    view_close(&view);
    sequence_close(&s);
}

static void keys_at_minus_infinity_do_not_count(void **state) {
    (void)state;
    each_variant(minus_infinity);
}

/* ---- tests of layouts */

struct writers {
    const struct sequence *s;
    const struct kv_view *view;
    const int32_t *border; /* [ranges + 1] */
};

static void write_range(void *ctx, int64_t item, int worker) {
    const struct writers *w = ctx;
    (void)worker;
    write_positions(w->s, w->view, w->border[item], w->border[item + 1]);
}

static void round_trip(const struct kv_layout *layout, enum dtype dtype) {
    enum { RANGES = 40 };
    struct sequence s = sequence_open(1, 3, 64, 500, dtype, (struct attention_pattern){0, 0});
    struct kv_view view = view_open(layout, s.capacity, s.K, s.D, dtype);
    int32_t border[RANGES + 1] = {3}; /* positions 0..2 are never written */
    for (int i = 0; i < RANGES; i++) border[i + 1] = border[i] + (i * 7 + 3) % 25;
    assert_true(border[RANGES] <= s.total);
    struct writers writers = {&s, &view, border};
    struct thread_pool *pool;
    struct error err;
    assert_int_equal(thread_pool_open(&pool, 4, &err), STATUS_OK);
    thread_pool_run(pool, RANGES, write_range, &writers);
    thread_pool_close(pool);

    const size_t elements = (size_t)s.capacity * 64;
    float *k = allocate(elements * sizeof *k), *v = allocate(elements * sizeof *v);
    for (int h = 0; h < s.K; h++) {
        layout->unpack(&view, h, 0, s.capacity, k, NULL);
        layout->unpack(&view, h, 0, s.capacity, NULL, v);
        for (size_t i = 0; i < elements; i++) {
            const bool written = i / 64 >= 3 && i / 64 < (size_t)border[RANGES];
            const size_t from = kv_index(&s, h, 0) + i;
            assert_true(k[i] == (written ? element_load(s.k, from, dtype) : 0));
            assert_true(v[i] == (written ? element_load(s.v, from, dtype) : 0));
        }
        layout->unpack(&view, h, 101, 6, k, v);
        for (size_t i = 0; i < 6 * 64; i++)
            assert_true(v[i] == element_load(s.v, kv_index(&s, h, 101) + i, dtype));
    }
    free(k);
    free(v);
    view_close(&view);
    sequence_close(&s);
}

static void layouts_keep_what_threads_write_in_odd_ranges(void **state) {
    (void)state;
    round_trip(&kv_layout_rows, DTYPE_BF16);
    round_trip(&kv_layout_rows, DTYPE_F32);
    round_trip(&kv_layout_pairs, DTYPE_BF16);
}

/* ---- speed */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best of some runs, in GFLOP/s of what is executed: 4 D for each query head and visible key. */
static double speed(const struct variant *v, int threads, struct sequence *s, int32_t rows) {
    struct kv_view view = cache_of(s, v->kv_layout);
    const int32_t q_start = s->total - rows;
    const double flops = 4.0 * s->D * s->H * (double)attention_pairs(q_start, rows);
    double best = INFINITY, spent = 0;
    while (spent < 1.5) {
        double begin = seconds();
        free(run_rows(v, threads, s, &view, q_start, rows, 0));
        double took = seconds() - begin;
        best = fmin(best, took);
        spent += took;
    }
    view_close(&view);
    return flops / best * 1e-9;
}

static void bench_variant(const struct variant *v, enum dtype dtype) {
    static const struct {
        int32_t H, K, D, keys, rows;
    } cases[] = {{8, 4, 64, 8192, 2048}, {4, 4, 64, 8192, 2048},  {8, 4, 64, 65536, 512},
                 {4, 4, 64, 65536, 512}, {28, 4, 128, 8192, 512}, {4, 4, 64, 65536, 1},
                 {4, 1, 64, 512, 512}};
    if (v->run == attention_ref) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sequence s = sequence_open(cases[i].H, cases[i].K, cases[i].D, cases[i].keys, dtype,
                                          (struct attention_pattern){0, 0});
        printf("%-12s %-9s H %2d K %d D %3d keys %6d rows %5d", v->name, dtype_name(dtype), s.H,
               s.K, s.D, s.total, cases[i].rows);
        for (int threads = 1; threads <= 2; threads++)
            printf("   %d thread%s %6.1f GFLOP/s", threads, threads > 1 ? "s" : "",
                   speed(v, threads, &s, cases[i].rows));
        printf("\n");
        sequence_close(&s);
    }
}

static void print_skipped(void) {
    int n;
    const struct variant *table = variant_table(&n);
    for (int i = 0; i < n; i++) {
        const char *why = NULL;
        if (table[i].op == OP_ATTENTION && !variant_usable(&table[i], &why))
            printf("skipped: attention %s: %s\n", table[i].name, why);
    }
}

static int set_up(void **state) {
    (void)state;
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        struct device_opts opts = device_opts_defaults();
        opts.threads = threads;
        struct error err;
        if (device_open(&devices[threads], &opts, &err) != STATUS_OK) {
            fprintf(stderr, "%s\n", err.text);
            return -1;
        }
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int threads = 1; threads <= MAX_THREADS; threads++) device_close(devices[threads]);
    return 0;
}

int main(int argc, char **argv) {
    if (!enough_memory(192)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_keep_what_threads_write_in_odd_ranges),
        cmocka_unit_test(mean_of_integers_under_equal_keys_is_exact),
        cmocka_unit_test(a_dominating_key_gives_its_value_exactly),
        cmocka_unit_test(rows_match_the_oracle_at_every_edge),
        cmocka_unit_test(every_variant_agrees_with_ref),
        cmocka_unit_test(dual_chunk_rows_see_each_key_with_the_right_copy),
        cmocka_unit_test(a_mean_over_many_keys_does_not_drift),
        cmocka_unit_test(rows_do_not_depend_on_chunks_or_threads),
        cmocka_unit_test(growing_scores_and_tiny_values_are_invariant_too),
        cmocka_unit_test(nan_reaches_those_who_see_it_and_nobody_else),
        cmocka_unit_test(keys_at_minus_infinity_do_not_count),
    };
    print_skipped();
    if (argc == 2 && strcmp(argv[1], "--bench") == 0) {
        if (set_up(NULL) != 0) return 1;
        each_variant(bench_variant);
        return tear_down(NULL);
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
