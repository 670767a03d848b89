/* attention on a GPU: every variant of ops.inc that this GPU can run, against _ref on the CPU and
 * against an oracle in float64 written here; rows that keep their bits whatever chunk they come in,
 * launched or replayed; what lies beyond the context is NaN in every test.
 *
 * --small runs a part, for sanitizers; --bench prints speeds instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"
#include "kernels/op_runs.h"

enum { MOST_PADDING = 3 };
static const size_t arena_size = (size_t)256 << 20;
static bool small; /* --small */

/* A sequence: queries of every position in up to three copies, keys and values as plain rows, all
 * in host memory, owned. */
struct sequence {
    int32_t H, K, D, total;
    enum dtype dtype;
    struct attention_pattern pattern;
    float factor;
    void *q[Q_COPIES]; /* [total][H*D] */
    void *k, *v;       /* [K][total][D] */
};

static const struct attention_pattern plain = {0, 0};

static size_t width_of(const struct sequence *s) {
    return (size_t)s->H * (size_t)s->D;
}

static size_t kv_index(const struct sequence *s, int head, int32_t position) {
    return ((size_t)head * (size_t)s->total + (size_t)position) * (size_t)s->D;
}

static struct sequence sequence_open(int32_t H, int32_t K, int32_t D, int32_t total,
                                     enum dtype dtype, struct attention_pattern pattern) {
    struct sequence s = {H, K, D, total, dtype, pattern, pattern.chunk ? 1.125f : 1.0f, {0}, 0, 0};
    const size_t positions = (size_t)total, kv = (size_t)K * positions * (size_t)D;
    for (int c = 0; c < (pattern.chunk ? Q_COPIES : 1); c++)
        s.q[c] = make_normal(positions * width_of(&s), dtype, 10 + (uint64_t)c);
    s.k = make_normal(kv, dtype, 20);
    s.v = make_normal(kv, dtype, 21);
    return s;
}

static void sequence_close(struct sequence *s) {
    for (int c = 0; c < Q_COPIES; c++) free(s->q[c]);
    free(s->k);
    free(s->v);
}

static void fill(void *p, size_t begin, size_t n, enum dtype dtype, float value) {
    for (size_t i = begin; i < begin + n; i++) element_store(p, i, dtype, value);
}

/* ---- the same on a device */

/* Keys and values as a layout keeps them, NaN beyond the sequence; host memory. */
static struct kv_view cache_of(const struct sequence *s, const struct kv_layout *layout) {
    const int32_t capacity = (s->total + KV_TILE) / KV_TILE * KV_TILE;
    const size_t bytes = layout->bytes(capacity, s->K, s->D, s->dtype);
    struct kv_view view = {layout,  make_aligned(bytes), make_aligned(bytes), capacity, s->K, s->D,
                           s->dtype};
    void *nan = make((size_t)capacity * (size_t)s->D, s->dtype);
    fill(nan, 0, (size_t)capacity * (size_t)s->D, s->dtype, NAN);
    for (int h = 0; h < s->K; h++) {
        layout->write(&view, h, 0, s->total, element_at(s->k, kv_index(s, h, 0), s->dtype), s->D,
                      element_at(s->v, kv_index(s, h, 0), s->dtype), s->D);
        layout->write(&view, h, s->total, capacity - s->total, nan, s->D, nan, s->D);
    }
    free(nan);
    return view;
}

static struct step_params step_of(const struct sequence *s, int32_t q_start, int32_t n) {
    return (struct step_params){.q_start = q_start,
                                .n_tokens = n,
                                .kv_len = q_start + n,
                                .prompt_tokens = s->total,
                                .key_factor = 1,
                                .query_factor = s->factor};
}

/* Rows of queries begin at multiples of sixteen bytes, rows of the output anywhere. */
static struct attention_args args_of(const struct sequence *s, int64_t gap) {
    return (struct attention_args){.ldq = s->H * s->D + (gap + 7) / 8 * 8,
                                   .ldo = s->H * s->D + gap,
                                   .pattern = s->pattern,
                                   .H = s->H,
                                   .D = s->D,
                                   .scale = 1 / sqrtf((float)s->D),
                                   .dtype = s->dtype};
}

/* A sequence on the GPU: rows of the output are `gap` elements longer than their heads, and
 * MOST_PADDING rows stand behind the last. Arrays are forgotten with the test's arena. */
struct on_gpu {
    const struct sequence *s;
    struct attention_args args; /* of position 0; what they only read is below once more */
    struct step_params *step;
    void *q[Q_COPIES];
    size_t out_elements;
};

/* Queries at rows of ld elements, NaN between and behind them. */
static void *spread_rows(const struct sequence *s, const void *q, size_t ld) {
    const size_t width = width_of(s), size = dtype_bytes(s->dtype);
    const size_t rows = (size_t)s->total + MOST_PADDING;
    char *out = make(rows * ld, s->dtype);
    fill(out, 0, rows * ld, s->dtype, NAN);
    for (size_t t = 0; t < (size_t)s->total; t++)
        memcpy(out + t * ld * size, (const char *)q + t * width * size, width * size);
    return out;
}

static struct on_gpu put_sequence(struct gpu_test *t, const struct sequence *s,
                                  const struct variant *v, size_t gap) {
    struct on_gpu g = {.s = s, .args = args_of(s, (int64_t)gap)};
    const size_t ldq = (size_t)g.args.ldq, rows = (size_t)s->total + MOST_PADDING;
    for (int c = 0; c < Q_COPIES && s->q[c]; c++) {
        void *q = spread_rows(s, s->q[c], ldq);
        g.args.q[c] = g.q[c] = gpu_put(t, q, rows * ldq * dtype_bytes(s->dtype));
        free(q);
    }
    const struct kv_view view = cache_of(s, v->kv_layout);
    const size_t bytes = v->kv_layout->bytes(view.capacity, s->K, s->D, s->dtype);
    g.args.kv = view;
    g.args.kv.k = gpu_put(t, view.k, bytes);
    g.args.kv.v = gpu_put(t, view.v, bytes);
    free(view.k);
    free(view.v);
    g.out_elements = rows * (size_t)g.args.ldo;
    g.args.out = gpu_guarded(t, g.out_elements, 0, s->dtype);
    g.args.step = g.step = gpu_new(t, sizeof *g.step);
    return g;
}

/* Rows [q_start, q_start + n) of the sequence, padded, into their places of the output. */
static struct attention_args chunk_of(const struct on_gpu *g, int32_t q_start, int32_t n,
                                      int32_t padding) {
    struct attention_args a = g->args;
    a.rows = n + padding;
    a.out = element_at_mut(a.out, (size_t)q_start * (size_t)a.ldo, a.dtype);
    for (int c = 0; c < Q_COPIES; c++)
        if (a.q[c]) a.q[c] = element_at(a.q[c], (size_t)q_start * (size_t)a.ldq, a.dtype);
    return a;
}

static void write_step(struct gpu_test *t, const struct on_gpu *g, int32_t q_start, int32_t n) {
    const struct step_params step = step_of(g->s, q_start, n);
    device_write(t->gpu, g->step, &step, sizeof step);
}

static void run_chunk(struct gpu_test *t, const struct variant *v, const struct on_gpu *g,
                      int32_t q_start, int32_t n, int32_t padding) {
    const struct attention_args a = chunk_of(g, q_start, n, padding);
    write_step(t, g, q_start, n);
    gpu_run(t, v, &a);
}

/* Rows [begin, end) of the output as [rows][H*D], owned by the caller, after a look at everything
 * around them: canaries, the gaps, and the rows that nobody may have written. */
static void *take_rows(struct gpu_test *t, const struct on_gpu *g, int32_t begin, int32_t end) {
    const size_t size = dtype_bytes(g->s->dtype), width = width_of(g->s), ld = (size_t)g->args.ldo;
    char *all = gpu_unguard(t, g->args.out, g->out_elements, g->s->dtype);
    char *rows = make((size_t)(end - begin) * width, g->s->dtype);
    for (size_t r = 0; r * ld < g->out_elements; r++) {
        const char *row = all + r * ld * size;
        const bool written = r >= (size_t)begin && r < (size_t)end + MOST_PADDING;
        if (!untouched(row + width * size, (ld - width) * size))
            fail_msg("written behind row %zu", r);
        if (!written && !untouched(row, width * size)) fail_msg("row %zu was written", r);
        if (written && r < (size_t)end)
            memcpy(rows + (r - (size_t)begin) * width * size, row, width * size);
    }
    free(all);
    return rows;
}

/* One chunk from a fresh arena. */
static void *run_rows(struct gpu_test *t, const struct variant *v, const struct sequence *s,
                      int32_t q_start, int32_t n, size_t gap) {
    gpu_test_reset(t, arena_size);
    const struct on_gpu g = put_sequence(t, s, v, gap);
    run_chunk(t, v, &g, q_start, n, (q_start + n) % (MOST_PADDING + 1));
    return take_rows(t, &g, q_start, q_start + n);
}

/* ---- every variant */

/* The i-th that runs here and serves this, or NULL past the last. */
static const struct variant *variant_for(enum dtype dtype, int32_t D, int i) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int row = 0; row < n; row++) {
        if (v[row].op != OP_ATTENTION || v[row].device != DEVICE_CUDA) continue;
        if (!(v[row].dtypes & (1 << dtype)) || !variant_usable(v + row, NULL)) continue;
        if (v[row].library && v[row].library->lacks) continue; /* it has a test of its own */
        if (v[row].kv_layout->bytes(KV_TILE, 1, D, dtype) == 0) continue;
        if (i-- == 0) return v + row;
    }
    return NULL;
}

static struct gpu_test open_test(enum dtype dtype) {
    struct gpu_test t;
    gpu_test_open(&t, dtype, 0, "auto", arena_size);
    return t;
}

/* ---- the oracle */

static int copy_for(const struct sequence *s, int32_t query, int32_t key) {
    if (s->pattern.chunk == 0) return 0;
    const int32_t apart = query / s->pattern.chunk - key / s->pattern.chunk;
    return apart > 2 ? 2 : apart;
}

static double score_of(const struct sequence *s, int32_t position, int h, int32_t key) {
    const size_t D = (size_t)s->D, row = ((size_t)position * (size_t)s->H + (size_t)h) * D;
    const size_t at = kv_index(s, h / (s->H / s->K), key);
    const void *q = s->q[copy_for(s, position, key)];
    double sum = 0;
    for (size_t d = 0; d < D; d++)
        sum += (double)element_load(q, row + d, s->dtype) *
               (double)element_load(s->k, at + d, s->dtype);
    return sum * (double)args_of(s, 0).scale * (double)s->factor;
}

/* One query of one head: out [D], and the mean |value| under the same weights, the scale of an
 * error. */
static void oracle(const struct sequence *s, int32_t position, int h, double *out, double *size) {
    const size_t D = (size_t)s->D;
    double *score = malloc(((size_t)position + 1) * sizeof *score), most = -HUGE_VAL, sum = 0;
    assert_non_null(score);
    for (int32_t j = 0; j <= position; j++) {
        score[j] = score_of(s, position, h, j);
        most = fmax(most, score[j]);
    }
    for (size_t d = 0; d < D; d++) out[d] = size[d] = 0;
    for (int32_t j = 0; j <= position; j++) {
        const double p = exp(score[j] - most);
        const size_t at = kv_index(s, h / (s->H / s->K), j);
        sum += p;
        for (size_t d = 0; d < D; d++) {
            const double value = (double)element_load(s->v, at + d, s->dtype);
            out[d] += p * value;
            size[d] += p * fabs(value);
        }
    }
    for (size_t d = 0; d < D; d++) out[d] /= sum, size[d] /= sum;
    free(score);
}

/* bf16: the result is rounded once, and so is every probability, by half a unit in the last of 8
 * bits. f32: sums in f32, over D products and over the keys. */
static double tolerance(const struct sequence *s, double value, double size) {
    if (s->dtype == DTYPE_BF16) return 0x1.08p-8 * (fabs(value) + size);
    return (1e-5 + 1e-9 * s->total) * size;
}

static void assert_row_right(const struct variant *v, const struct sequence *s, const void *row,
                             int32_t position, int h) {
    enum { MOST_D = 256 };
    double want[MOST_D], size[MOST_D];
    oracle(s, position, h, want, size);
    for (size_t d = 0; d < (size_t)s->D; d++) {
        const double got = (double)element_load(row, (size_t)(h * s->D) + d, s->dtype);
        if (!(fabs(got - want[d]) <= tolerance(s, want[d], size[d])))
            fail_msg("%s %s H %d K %d D %d chunk %d: position %d of %d, head %d, [%zu]: %.9g, "
                     "expected %.9g",
                     v->name, dtype_name(s->dtype), s->H, s->K, s->D, s->pattern.chunk, position,
                     s->total, h, d, got, want[d]);
    }
}

/* Every stride-th row, and the last; rows: [n][H*D] from q_start on. */
static void assert_rows_right(const struct variant *v, const struct sequence *s, const void *rows,
                              int32_t q_start, int32_t n, int32_t stride) {
    for (int32_t i = 0; i < n + stride - 1; i += stride) {
        const int32_t t = i < n ? i : n - 1;
        for (int h = 0; h < s->H; h++)
            assert_row_right(v, s, element_at(rows, (size_t)t * width_of(s), s->dtype), q_start + t,
                             h);
    }
}

/* ---- tests of values */

struct heads {
    int32_t H, K, D;
};
static const struct heads shapes[] = {{7, 1, 128},  {8, 4, 64},   {4, 4, 32},  {3, 1, 96},
                                      {28, 4, 128}, {40, 8, 128}, {16, 4, 64}, {8, 4, 32},
                                      {14, 2, 64},  {4, 4, 128},  {2, 2, 16},  {2, 1, 256}};

static size_t shape_count(void) {
    return small ? 4 : COUNT(shapes);
}

static void *reference_rows(struct gpu_test *t, const struct sequence *s, int32_t q_start,
                            int32_t n) {
    const size_t first = (size_t)q_start * width_of(s);
    const struct step_params step = step_of(s, q_start, n);
    struct attention_args a = args_of(s, 0);
    void *out = make((size_t)n * width_of(s), s->dtype);
    a.rows = n, a.out = out, a.step = &step, a.kv = cache_of(s, &kv_layout_rows);
    for (int c = 0; c < Q_COPIES; c++)
        if (s->q[c]) a.q[c] = element_at(s->q[c], first, s->dtype);
    variant_named(DEVICE_CPU, OP_ATTENTION, "ref")->run(t->cpu, &a);
    free(a.kv.k);
    free(a.kv.v);
    return out;
}

static void like_reference(struct gpu_test *t, const struct sequence *s) {
    enum { ROWS = 70 };
    const int32_t q_start = s->total - ROWS;
    void *want = reference_rows(t, s, q_start, ROWS);
    const struct variant *v;
    for (int i = 0; (v = variant_for(s->dtype, s->D, i)); i++) {
        void *got = run_rows(t, v, s, q_start, ROWS, 0);
        for (size_t e = 0; e < ROWS * width_of(s); e++) {
            const double x = (double)element_load(got, e, s->dtype);
            const double y = (double)element_load(want, e, s->dtype);
            if (!(fabs(x - y) <= (s->dtype == DTYPE_BF16 ? 0x1p-7 * (fabs(y) + 0.5) : 1e-5)))
                fail_msg("%s H %d K %d D %d: row %zu [%zu]: %.9g, reference %.9g", v->name, s->H,
                         s->K, s->D, e / width_of(s), e % width_of(s), x, y);
        }
        free(got);
    }
    free(want);
}

static void every_variant_agrees_with_the_cpu_s_reference(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < shape_count(); i++) {
            const struct attention_pattern pattern = {i % 2 ? 128 : 0, 64};
            struct sequence s = sequence_open(shapes[i].H, shapes[i].K, shapes[i].D,
                                              dtype == DTYPE_BF16 ? 321 : 326, dtype, pattern);
            like_reference(&t, &s);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* One chunk at the end of a sequence, so that whatever follows it in the cache is NaN. */
static void check_chunk(struct gpu_test *t, const struct heads *h, struct attention_pattern pattern,
                        enum dtype dtype, int32_t q_start, int32_t n, int32_t stride) {
    struct sequence s = sequence_open(h->H, h->K, h->D, q_start + n, dtype, pattern);
    static const size_t gaps[] = {0, 5, 8};
    const struct variant *v;
    for (int i = 0; (v = variant_for(dtype, s.D, i)); i++) {
        void *got = run_rows(t, v, &s, q_start, n, gaps[n % 3]);
        assert_rows_right(v, &s, got, q_start, n, stride);
        free(got);
    }
    sequence_close(&s);
}

static void rows_match_the_oracle_at_every_edge(void **state) {
    (void)state;
    static const int32_t chunks[][2] = {{0, 1},   {0, 63},    {0, 64},   {0, 65},    {0, 127},
                                        {0, 128}, {0, 129},   {1, 1},    {126, 3},   {127, 1},
                                        {127, 2}, {128, 1},   {131, 67}, {128, 128}, {200, 55},
                                        {255, 2}, {509, 131}, {100, 412}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(chunks); i += small ? 5 : 1)
            for (size_t shape = 0; shape < 4; shape++)
                check_chunk(&t, &shapes[shape], plain, dtype, chunks[i][0], chunks[i][1], 17);
        gpu_test_close(&t);
    }
}

static void dual_chunk_rows_see_each_key_with_the_right_copy(void **state) {
    (void)state;
    static const struct attention_pattern patterns[] = {{256, 128}, {1024, 128}};
    static const int32_t chunks[][2] = {{200, 130}, {250, 290}, {767, 3},  {1000, 101},
                                        {511, 1},   {512, 1},   {990, 83}, {2040, 30},
                                        {3071, 2},  {2900, 200}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < (small ? 2 : COUNT(chunks)); i++)
            for (size_t p = 0; p < (small ? 1 : COUNT(patterns)); p++)
                for (size_t shape = 0; shape < (small ? 2 : 4); shape++)
                    check_chunk(&t, &shapes[shape], patterns[p], dtype, chunks[i][0], chunks[i][1],
                                83);
        gpu_test_close(&t);
    }
}

/* kv_len % 128 of 0, 1 and 127; the first row anywhere in its tile. */
static void long_contexts_match_the_oracle(void **state) {
    (void)state;
    static const int32_t chunks[][2] = {{4000, 96}, {20000, 353}, {20000, 351}, {65407, 1}};
    static const int32_t small_chunk[2] = {928, 96};
    static const struct heads heads[] = {{2, 1, 128}, {2, 1, 64}, {2, 1, 32}, {2, 1, 96}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < (small ? 1 : COUNT(chunks)); i++)
            for (size_t j = 0; j < COUNT(heads); j++) {
                const int32_t *c = small ? small_chunk : chunks[i];
                check_chunk(&t, &heads[j], plain, dtype, c[0], c[1], 120);
            }
        gpu_test_close(&t);
    }
}

/* A decode step may add in another order, but not to another sum. */
static void decode_at(struct gpu_test *t, const struct sequence *s) {
    const int32_t position = s->total - 1;
    const struct variant *v;
    for (int i = 0; (v = variant_for(s->dtype, s->D, i)); i++) {
        gpu_test_reset(t, arena_size);
        const struct on_gpu g = put_sequence(t, s, v, 0);
        struct attention_args a = chunk_of(&g, position, 1, 0);
        a.decode = true;
        write_step(t, &g, position, 1);
        gpu_run(t, v, &a);
        void *got = take_rows(t, &g, position, s->total);
        assert_rows_right(v, s, got, position, 1, 1);
        free(got);
    }
}

static void decoded_rows_match_the_oracle(void **state) {
    (void)state;
    static const int32_t positions[] = {0, 511, 512, 3071, 1, 513, 1300, 3072, 9999};
    static const struct heads heads[] = {{7, 1, 128}, {8, 4, 64},  {4, 4, 32},
                                         {3, 1, 96},  {14, 1, 64}, {2, 1, 256}};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < (small ? 3 : COUNT(positions)); i++)
            for (size_t j = 0; j < COUNT(heads); j++) {
                const struct attention_pattern pattern = {(i + j) % 2 ? 1024 : 0, 128};
                struct sequence s = sequence_open(heads[j].H, heads[j].K, heads[j].D,
                                                  positions[i] + 1, dtype, pattern);
                decode_at(&t, &s);
                sequence_close(&s);
            }
        gpu_test_close(&t);
    }
}

/* ---- tests of bits */

/* One key far above all others, also by more than f32's exponents reach: its value, bit for bit. */
static void one_hot(struct gpu_test *t, int32_t D, enum dtype dtype, float height, int32_t hot) {
    struct sequence s = sequence_open(4, 2, D, 300, dtype, plain);
    const size_t total = (size_t)s.total, row = (size_t)D * dtype_bytes(dtype);
    fill(s.q[0], 0, total * width_of(&s), dtype, height);
    fill(s.k, 0, 2 * total * (size_t)D, dtype, -1);
    for (int h = 0; h < s.K; h++) fill(s.k, kv_index(&s, h, hot), (size_t)D, dtype, height);
    const struct variant *v;
    for (int i = 0; (v = variant_for(dtype, D, i)); i++) {
        char *got = run_rows(t, v, &s, hot, s.total - hot, 0);
        for (size_t e = 0; e < (total - (size_t)hot) * 4; e++)
            if (memcmp(got + e * row, element_at(s.v, kv_index(&s, e % 4 / 2, hot), dtype), row))
                fail_msg("%s D %d: key %d of height %g, row %zu", v->name, D, hot, (double)height,
                         e / 4);
        free(got);
    }
    sequence_close(&s);
}

static void a_dominating_key_gives_its_value_exactly(void **state) {
    (void)state;
    static const int32_t dims[] = {64, 128, 32, 96};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < (small ? 1 : COUNT(dims)); i++)
            for (int32_t hot = 0; hot < 300; hot += small ? 150 : 37) {
                one_hot(&t, dims[i], dtype, 40, hot);
                one_hot(&t, dims[i], dtype, 3e17f, hot);
            }
        gpu_test_close(&t);
    }
}

/* Every probability is exactly 1, and the mean of a power of two of small integers is exact. */
static void equal_keys(struct gpu_test *t, int32_t D, enum dtype dtype) {
    struct sequence s = sequence_open(2, 1, D, 256, dtype, plain);
    fill(s.k, 0, (size_t)(s.total * D), dtype, 0.5f);
    fill_integers(s.v, (size_t)(s.total * D), dtype, 8, 5);
    const struct variant *v;
    for (int i = 0; (v = variant_for(dtype, D, i)); i++) {
        void *got = run_rows(t, v, &s, 0, s.total, 0);
        for (int32_t n = 1; n <= s.total; n *= 2)
            for (size_t d = 0; d < (size_t)D; d++) {
                double sum = 0;
                for (int32_t j = 0; j < n; j++)
                    sum += (double)element_load(s.v, kv_index(&s, 0, j) + d, dtype);
                const float want = element_round((float)(sum / n), dtype);
                const size_t at = (size_t)(n - 1) * width_of(&s) + d;
                if (!(element_load(got, at, dtype) == want))
                    fail_msg("%s D %d: mean of %d, [%zu]", v->name, D, n, d);
            }
        free(got);
    }
    sequence_close(&s);
}

static void the_mean_of_integers_under_equal_keys_is_exact(void **state) {
    (void)state;
    static const int32_t dims[] = {32, 64, 96, 128};
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < COUNT(dims); i++) equal_keys(&t, dims[i], dtype);
        gpu_test_close(&t);
    }
}

/* ---- tests of invariance */

static void *in_chunks(struct gpu_test *t, const struct variant *v, const struct sequence *s,
                       int32_t size) {
    gpu_test_reset(t, arena_size);
    const struct on_gpu g = put_sequence(t, s, v, 0);
    for (int32_t begin = 0; begin < s->total; begin += size) {
        const int32_t left = s->total - begin;
        run_chunk(t, v, &g, begin, left < size ? left : size, begin % (MOST_PADDING + 1));
    }
    return take_rows(t, &g, 0, s->total);
}

static void assert_chunks_agree(struct gpu_test *t, const struct sequence *s) {
    static const int32_t sizes[] = {128, 1000, 131, 64, 7, 1};
    const struct variant *v;
    for (int i = 0; (v = variant_for(s->dtype, s->D, i)); i++) {
        void *whole = in_chunks(t, v, s, s->total);
        for (size_t c = 0; c < (small ? 3 : COUNT(sizes)); c++) {
            void *parts = in_chunks(t, v, s, sizes[c]);
            for (size_t r = 0; r < (size_t)s->total; r++) {
                const size_t at = r * width_of(s);
                assert_same_bits(element_at(whole, at, s->dtype), element_at(parts, at, s->dtype),
                                 width_of(s), s->dtype,
                                 "%s %s H %d D %d: row %zu has other bits in chunks of %d", v->name,
                                 dtype_name(s->dtype), s->H, s->D, r, sizes[c]);
            }
            free(parts);
        }
        free(whole);
    }
}

/* Scores that keep growing, so that every tile brings a new maximum. */
static void grow_scores(struct sequence *s) {
    const size_t D = (size_t)s->D;
    for (int c = 0; c < Q_COPIES; c++)
        if (s->q[c]) fill(s->q[c], 0, (size_t)s->total * width_of(s), s->dtype, 1);
    for (int h = 0; h < s->K; h++)
        for (int32_t j = 0; j < s->total; j++)
            fill(s->k, kv_index(s, h, j), D, s->dtype, (float)j * (float)(1 + h) / 16);
}

static void rows_do_not_depend_on_their_chunk(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct gpu_test t = open_test(dtype);
        for (size_t i = 0; i < (small ? 2 : 8); i++) {
            const struct attention_pattern pattern = {i % 2 ? 256 : 0, 128};
            struct sequence s = sequence_open(shapes[i % 4].H, shapes[i % 4].K, shapes[i % 4].D,
                                              small ? 409 : 1203, dtype, pattern);
            if (i >= 4) grow_scores(&s);
            assert_chunks_agree(&t, &s);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* ---- a recorded step */

enum { REPLAYED_ROWS = 200 };
static const int32_t replays[][2] = {{0, 200}, {200, 200}, {400, 200}, {555, 199}, {800, 1}};

/* The chunk's rows into the place that the recorded call reads. */
static void write_queries(struct gpu_test *t, const struct on_gpu *g, int32_t q_start, int32_t n) {
    const size_t width = width_of(g->s);
    for (int c = 0; c < Q_COPIES; c++)
        if (g->q[c])
            device_write(t->gpu, g->q[c],
                         element_at(g->s->q[c], (size_t)q_start * width, g->s->dtype),
                         (size_t)n * width * dtype_bytes(g->s->dtype));
}

static void must(enum status s, const struct error *err) {
    if (s != STATUS_OK) fail_msg("%s", err->text);
}

static void replay(struct gpu_test *t, const struct variant *v, const struct sequence *s) {
    struct error err = {""};
    struct device_graph *graph = NULL;
    void *whole = in_chunks(t, v, s, s->total);
    gpu_test_reset(t, arena_size);
    const struct on_gpu g = put_sequence(t, s, v, 0);
    struct op_call call = {.op = OP_ATTENTION, .layer = -1, .attention = g.args};
    call.attention.rows = REPLAYED_ROWS;
    must(device_capture_begin(t->gpu, &err), &err);
    must(device_run(t->gpu, &call, &err), &err);
    must(device_capture_end(t->gpu, &graph, &err), &err);
    const size_t bytes = REPLAYED_ROWS * width_of(s) * dtype_bytes(s->dtype);
    char *got = make(REPLAYED_ROWS * width_of(s), s->dtype);
    for (size_t i = 0; i < COUNT(replays); i++) {
        const int32_t q_start = replays[i][0], n = replays[i][1];
        write_step(t, &g, q_start, n);
        write_queries(t, &g, q_start, n);
        must(device_graph_launch(t->gpu, graph, &err), &err);
        must(device_sync(t->gpu, &err), &err);
        gpu_get(t, got, g.args.out, bytes);
        assert_same_bits(got, element_at(whole, (size_t)q_start * width_of(s), s->dtype),
                         (size_t)n * width_of(s), s->dtype, "%s D %d: replayed at %d", v->name,
                         s->D, q_start);
    }
    device_graph_close(t->gpu, graph);
    free(got);
    free(whole);
}

static void a_replayed_step_reads_its_place_from_memory(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++)
        for (size_t shape = 0; shape < (small ? 1 : 4); shape++) {
            const struct variant *v;
            for (int i = 0; (v = variant_for(dtype, shapes[shape].D, i)); i++) {
                struct gpu_test t;
                gpu_test_open(&t, dtype, shapes[shape].D, v->name, arena_size);
                struct sequence s =
                    sequence_open(shapes[shape].H, shapes[shape].K, shapes[shape].D, 801, dtype,
                                  (struct attention_pattern){shape % 2 ? 256 : 0, 128});
                replay(&t, v, &s);
                sequence_close(&s);
                gpu_test_close(&t);
            }
        }
}

/* ---- speed */

/* The median of a few runs that follow one another; the first ones load the kernel. */
static double median_s(struct op_bench *b) {
    enum { WARMUP = 3, RUNS = 9 };
    struct error err = {""};
    double t[RUNS];
    struct op_runs r = op_runs_begin(b);
    for (int i = -WARMUP; i < RUNS; i++) must(op_runs_next(&r, &t[i < 0 ? 0 : i], &err), &err);
    must(op_runs_end(&r, &err), &err);
    for (int i = 1; i < RUNS; i++)
        for (int k = i; k > 0 && t[k] < t[k - 1]; k--) {
            const double other = t[k];
            t[k] = t[k - 1], t[k - 1] = other;
        }
    return t[RUNS / 2];
}

static void bench_shape(const struct variant *v, enum dtype dtype, const struct op_shape *shape,
                        const struct device_rates *ceilings) {
    struct gpu_test t;
    struct op_bench *b;
    struct error err = {""};
    char text[80];
    op_shape_text(shape, text, sizeof text);
    gpu_test_open(&t, dtype, shape->head_dim, v->name, KV_TILE);
    must(op_bench_open(&b, t.gpu, shape, &err), &err);
    const struct cost cost = op_bench_cost(b);
    const double s = median_s(b), flops = (double)cost.flops / s, bytes = (double)cost.bytes / s;
    printf("%-6s %-9s %-34s %10.3f ms %7.1f TFLOP/s, %5.1f %% of a bfloat16 product, %6.0f GB/s, "
           "%5.1f %% of a copy\n",
           v->name, dtype_name(dtype), text, s * 1e3, flops * 1e-12,
           100 * flops / ceilings->roof_flops, bytes * 1e-9, 100 * bytes / ceilings->copy_bytes);
    fflush(stdout);
    op_bench_close(b);
    gpu_test_close(&t);
}

static struct device_rates measured_ceilings(void) {
    struct gpu_test t;
    struct device_rates rates;
    struct error err = {""};
    gpu_test_open(&t, DTYPE_BF16, 128, "auto", KV_TILE);
    must(device_ceilings(t.gpu, &rates, &err), &err);
    printf("ceilings: %.1f TFLOP/s, %.0f GB/s\n", rates.roof_flops * 1e-12,
           rates.copy_bytes * 1e-9);
    gpu_test_close(&t);
    return rates;
}

/* Long shapes are for kernels with matrix instructions alone. */
static int bench(void) {
    static const struct {
        const char *text;
        bool everybody;
    } cases[] = {
        {"T=4096,N=4096,H=14,K=2,D=64", true},     {"T=4096,N=4096,H=28,K=4,D=128", true},
        {"T=1,N=65536,H=28,K=4,D=128", true},      {"T=8192,N=8192,H=28,K=4,D=128", false},
        {"T=32768,N=32768,H=28,K=4,D=128", false}, {"T=8192,N=204800,H=28,K=4,D=128", false},
        {"T=8192,N=65536,H=7,K=1,D=128", false},   {"T=8192,N=65536,H=16,K=4,D=64", false},
        {"T=8192,N=65536,H=16,K=4,D=96", false},   {"T=8192,N=65536,H=16,K=4,D=32", false}};
    const struct device_rates ceilings = measured_ceilings();
    for (size_t i = 0; i < COUNT(cases); i++)
        for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
            struct op_shape shape;
            const struct variant *v;
            assert_true(op_shape_parse(OP_ATTENTION, cases[i].text, &shape));
            for (int j = 0; (v = variant_for(dtype, shape.head_dim, j)); j++)
                if (cases[i].everybody || v->dtypes == SERVES_BF16)
                    bench_shape(v, dtype, &shape, &ceilings);
        }
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_agrees_with_the_cpu_s_reference),
        cmocka_unit_test(rows_match_the_oracle_at_every_edge),
        cmocka_unit_test(dual_chunk_rows_see_each_key_with_the_right_copy),
        cmocka_unit_test(long_contexts_match_the_oracle),
        cmocka_unit_test(decoded_rows_match_the_oracle),
        cmocka_unit_test(a_dominating_key_gives_its_value_exactly),
        cmocka_unit_test(the_mean_of_integers_under_equal_keys_is_exact),
        cmocka_unit_test(rows_do_not_depend_on_their_chunk),
        cmocka_unit_test(a_replayed_step_reads_its_place_from_memory),
    };
    if (wants_bench(argc, argv)) {
        struct gpu_test t = open_test(DTYPE_BF16); /* or ends here */
        gpu_test_close(&t);
        return bench();
    }
    small = wants_small(argc, argv);
    print_skipped(OP_ATTENTION);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
