/* attention on Hopper: against an oracle in float64 written here and against _ref, on shapes that
 * cut its tiles, its items and its dual chunks everywhere; and a row's bits in any chunk, eager or
 * replayed, whatever lies in the cache behind it. --small leaves out what is slow under a
 * sanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"

enum { ARENA = 256 << 20, PADDING = 3 };
static bool small;

/* A sequence on the host and its cache on the GPU. */
struct sequence {
    int32_t H, K, D, total, capacity, chunk;
    float factor, scale;
    bf16 *q[Q_COPIES]; /* [total][H*D] */
    bf16 *k, *v;       /* [K][capacity][D]; zeros from `total` on */
    struct kv_view gpu;
};

static size_t width_of(const struct sequence *s) {
    return (size_t)s->H * (size_t)s->D;
}

static struct gpu_test open_test(int32_t D, size_t arena) {
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, D, "sm90", arena);
    return t;
}

static const struct variant *sm90(void) {
    return variant_named(DEVICE_CUDA, OP_ATTENTION, "sm90");
}

static bf16 *cache_of(const struct sequence *s, uint64_t seed) {
    const size_t D = (size_t)s->D, plane = (size_t)s->capacity * D, rows = (size_t)s->total * D;
    bf16 *p = calloc((size_t)s->K * plane, sizeof *p);
    assert_non_null(p);
    for (size_t h = 0; h < (size_t)s->K; h++)
        fill_normal(p + h * plane, rows, DTYPE_BF16, seed + h);
    return p;
}

static void put_cache(struct gpu_test *t, const struct sequence *s) {
    const size_t bytes = (size_t)s->K * (size_t)s->capacity * (size_t)s->D * sizeof(bf16);
    device_write(t->gpu, s->gpu.k, s->k, bytes);
    device_write(t->gpu, s->gpu.v, s->v, bytes);
}

/* Who attends to what: heads, rows [begin, begin + n), dual chunks (0: none). */
struct shape {
    int32_t H, K, begin, n, chunk;
};

/* Queries of the rows alone, keys and values of all positions. Forgets what the arena held. */
static struct sequence sequence_open(struct gpu_test *t, int32_t D, struct shape c) {
    struct sequence s = {.H = c.H, .K = c.K, .D = D, .total = c.begin + c.n, .chunk = c.chunk};
    s.capacity = (s.total + KV_TILE) / KV_TILE * KV_TILE; /* always some unused positions */
    s.factor = c.chunk ? 1.125f : 1;
    s.scale = (float)(1 / sqrt((double)D));
    const size_t before = (size_t)c.begin * width_of(&s), rows = (size_t)c.n * width_of(&s);
    for (int copy = 0; copy < (c.chunk ? Q_COPIES : 1); copy++) {
        s.q[copy] = calloc(before + rows, sizeof(bf16)); /* what is not filled takes no memory */
        assert_non_null(s.q[copy]);
        fill_normal(s.q[copy] + before, rows, DTYPE_BF16, 10 + (uint64_t)copy);
    }
    s.k = cache_of(&s, 100);
    s.v = cache_of(&s, 200);
    const size_t bytes = (size_t)s.K * (size_t)s.capacity * (size_t)D * sizeof(bf16);
    gpu_test_reset(t, ARENA + 2 * bytes);
    s.gpu = (struct kv_view){
        sm90()->kv_layout, gpu_new(t, bytes), gpu_new(t, bytes), s.capacity, s.K, D, DTYPE_BF16};
    put_cache(t, &s);
    return s;
}

static void sequence_close(struct sequence *s) {
    for (int c = 0; c < Q_COPIES; c++) free(s->q[c]);
    free(s->k);
    free(s->v);
}

/* ---- running */

static struct step_params step_of(const struct sequence *s, int32_t begin, int32_t n) {
    return (struct step_params){.q_start = begin,
                                .n_tokens = n,
                                .kv_len = begin + n,
                                .prompt_tokens = s->total,
                                .key_factor = 1,
                                .query_factor = s->factor};
}

/* A call for rows [begin, begin + n) and some of padding, on the GPU; rows of out are `gap` wider
 * than they must be. */
static struct attention_args call_of(struct gpu_test *t, const struct sequence *s, int32_t begin,
                                     int32_t n, size_t gap) {
    const size_t width = width_of(s), rows = (size_t)n + PADDING;
    const struct step_params step = step_of(s, begin, n);
    struct attention_args a = {.ldq = (int64_t)width,
                               .kv = s->gpu,
                               .ldo = (int64_t)(width + gap),
                               .pattern = {s->chunk, s->chunk / 8},
                               .rows = (int32_t)rows,
                               .H = s->H,
                               .D = s->D,
                               .scale = s->scale,
                               .dtype = DTYPE_BF16};
    for (int c = 0; c < Q_COPIES; c++) {
        if (!s->q[c]) continue;
        void *q = gpu_new(t, rows * width * sizeof(bf16));
        device_write(t->gpu, q, s->q[c] + (size_t)begin * width, (size_t)n * width * sizeof(bf16));
        a.q[c] = q;
    }
    a.step = gpu_put(t, &step, sizeof step);
    a.out = gpu_guarded(t, rows * (width + gap), 0, DTYPE_BF16);
    return a;
}

/* The rows, packed, of what a call left; nothing else may have been written. */
static bf16 *rows_of(struct gpu_test *t, const struct sequence *s, const struct attention_args *a,
                     int32_t n) {
    const size_t width = width_of(s), ldo = (size_t)a->ldo;
    bf16 *all = gpu_unguard(t, a->out, (size_t)a->rows * ldo, DTYPE_BF16);
    bf16 *packed = make((size_t)n * width, DTYPE_BF16);
    for (size_t r = 0; r < (size_t)a->rows; r++) {
        const size_t written = r < (size_t)n ? width : 0;
        memcpy(packed + (r < (size_t)n ? r : 0) * width, all + r * ldo, written * sizeof(bf16));
        if (!untouched(all + r * ldo + written, (ldo - written) * sizeof(bf16)))
            fail_msg("row %zu of %d: written where nothing belongs", r, n);
    }
    free(all);
    return packed;
}

static bf16 *attend(struct gpu_test *t, const struct sequence *s, int32_t begin, int32_t n,
                    size_t gap) {
    const struct attention_args a = call_of(t, s, begin, n, gap);
    gpu_run(t, sm90(), &a);
    return rows_of(t, s, &a, n);
}

/* ---- the oracle */

static const bf16 *row_at(const struct sequence *s, const bf16 *plane, int32_t h, int32_t j) {
    const size_t head = (size_t)(h / (s->H / s->K));
    return plane + (head * (size_t)s->capacity + (size_t)j) * (size_t)s->D;
}

static double score_of(const struct sequence *s, int32_t p, int32_t h, int32_t j) {
    const int32_t apart = s->chunk ? p / s->chunk - j / s->chunk : 0;
    const bf16 *q =
        s->q[apart > 2 ? 2 : apart] + (size_t)p * width_of(s) + (size_t)h * (size_t)s->D;
    const bf16 *k = row_at(s, s->k, h, j);
    double sum = 0;
    for (int32_t d = 0; d < s->D; d++) sum += (double)bf16_to_f32(q[d]) * (double)bf16_to_f32(k[d]);
    return sum * (double)s->scale * (double)s->factor;
}

/* out [D], and the sum of probability * |value| [D], the scale of an error. */
static void oracle(const struct sequence *s, int32_t p, int32_t h, double *out, double *weight) {
    double *score = malloc(((size_t)p + 1) * sizeof *score), max = -HUGE_VAL, sum = 0;
    assert_non_null(score);
    for (int32_t j = 0; j <= p; j++) max = fmax(max, score[j] = score_of(s, p, h, j));
    for (int32_t d = 0; d < s->D; d++) out[d] = weight[d] = 0;
    for (int32_t j = 0; j <= p; j++) {
        const double probability = exp(score[j] - max);
        const bf16 *v = row_at(s, s->v, h, j);
        sum += probability;
        for (int32_t d = 0; d < s->D; d++) {
            out[d] += probability * (double)bf16_to_f32(v[d]);
            weight[d] += probability * fabs((double)bf16_to_f32(v[d]));
        }
    }
    for (int32_t d = 0; d < s->D; d++) out[d] /= sum, weight[d] /= sum;
    free(score);
}

/* Half a unit of bf16's last place for the result and for every probability. */
static void assert_row_right(const struct sequence *s, const bf16 *got, int32_t p, int32_t h) {
    double want[128], weight[128];
    oracle(s, p, h, want, weight);
    for (int32_t d = 0; d < s->D; d++) {
        const double x = (double)bf16_to_f32(got[h * s->D + d]);
        if (!(fabs(x - want[d]) <= 0x1.08p-8 * (fabs(want[d]) + weight[d])))
            fail_msg("H %d K %d D %d total %d chunk %d, position %d, head %d [%d]: %.9g, not %.9g",
                     s->H, s->K, s->D, s->total, s->chunk, p, h, d, x, want[d]);
    }
}

/* Every `stride`-th pair of a row and a head, and the last row. */
static void assert_rows_right(const struct sequence *s, const bf16 *got, int32_t begin, int32_t n,
                              int32_t stride) {
    for (int32_t i = 0; i < n * s->H; i += stride)
        assert_row_right(s, got + (size_t)(i / s->H) * width_of(s), begin + i / s->H, i % s->H);
    for (int32_t h = 0; h < s->H; h++)
        assert_row_right(s, got + (size_t)(n - 1) * width_of(s), begin + n - 1, h);
}

/* ---- values */

/* Chunks that begin and end at, before and after borders of tiles and units; groups of heads that
 * fill an item and that leave warpgroups without work; dual chunks of one tile and of several. */
static const struct shape shapes[] = {
    {1, 1, 0, 1, 0},         {1, 1, 0, 64, 0},      {2, 1, 0, 65, 0},       {4, 4, 0, 127, 0},
    {4, 4, 0, 128, 0},       {4, 4, 0, 129, 0},     {7, 1, 100, 333, 0},    {28, 4, 640, 130, 0},
    {40, 8, 127, 129, 0},    {16, 4, 255, 258, 0},  {14, 2, 511, 1, 0},     {8, 4, 384, 128, 0},
    {3, 1, 128, 300, 0},     {7, 1, 0, 1100, 128},  {14, 2, 500, 400, 256}, {28, 4, 1023, 130, 256},
    {4, 4, 3000, 300, 1024}, {5, 1, 2047, 2, 1024}, {2, 1, 0, 3300, 1024},  {7, 1, 0, 1500, 0},
};

static void values_are_near_the_oracle(void **state) {
    (void)state;
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t i = 0; i < COUNT(shapes); i += small ? 3 : 1) {
            const struct shape *c = &shapes[i];
            struct sequence s = sequence_open(&t, D, *c);
            bf16 *got = attend(&t, &s, c->begin, c->n, 8 * (i % 2));
            const int32_t pairs = c->n * c->H;
            assert_rows_right(&s, got, c->begin, c->n, pairs > 600 ? pairs / 600 + 1 : 1);
            free(got);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

static void values_are_near_the_reference(void **state) {
    (void)state;
    enum { H = 4, K = 2, BEGIN = 200, N = 190 };
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        struct sequence s = sequence_open(&t, D, (struct shape){H, K, BEGIN, N, 128});
        const size_t n = N * width_of(&s);
        const struct step_params step = step_of(&s, BEGIN, N);
        bf16 *got = attend(&t, &s, BEGIN, N, 0), *want = make(n, DTYPE_BF16);
        struct attention_args a = {.ldq = (int64_t)width_of(&s),
                                   .kv = s.gpu,
                                   .out = want,
                                   .ldo = (int64_t)width_of(&s),
                                   .step = &step,
                                   .pattern = {s.chunk, 16},
                                   .rows = N,
                                   .H = H,
                                   .D = D,
                                   .scale = s.scale,
                                   .dtype = DTYPE_BF16};
        for (int c = 0; c < Q_COPIES; c++) a.q[c] = s.q[c] + BEGIN * width_of(&s);
        a.kv.k = s.k, a.kv.v = s.v;
        variant_named(DEVICE_CPU, OP_ATTENTION, "ref")->run(t.cpu, &a);
        for (size_t i = 0; i < n; i++)
            if (!close_enough(bf16_to_f32(got[i]), bf16_to_f32(want[i]), DTYPE_BF16, 1, 0x1p-7))
                fail_msg("D %d, element %zu: %g, not %g", D, i, (double)bf16_to_f32(got[i]),
                         (double)bf16_to_f32(want[i]));
        free(got);
        free(want);
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* Equal scores weigh all keys alike: constant values come out as they are. */
static void equal_scores_give_the_mean(void **state) {
    (void)state;
    enum { TOTAL = 700 };
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        struct sequence s = sequence_open(&t, D, (struct shape){2, 1, 0, TOTAL, 0});
        memset(s.q[0], 0, TOTAL * width_of(&s) * sizeof(bf16));
        for (size_t i = 0; i < (size_t)TOTAL * (size_t)D; i++)
            s.v[i] = f32_to_bf16((float)(i % (size_t)D % 7) - 3);
        put_cache(&t, &s);
        bf16 *got = attend(&t, &s, 0, TOTAL, 0);
        for (size_t i = 0; i < TOTAL * width_of(&s); i++)
            if (bf16_to_f32(got[i]) != (float)(i % (size_t)D % 7) - 3)
                fail_msg("D %d, element %zu: %g", D, i, (double)bf16_to_f32(got[i]));
        free(got);
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* A key that outweighs all others by e^80 is all that a query sees, wherever it lies; queries
 * before it see the rest. */
static void one_huge_logit_takes_all(void **state) {
    (void)state;
    enum { TOTAL = 600, BEGIN = 400 };
    static const int32_t places[] = {0, 63, 127, 128, 300, 399, 400, 511, 512, 599};
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        struct sequence s = sequence_open(&t, D, (struct shape){4, 2, 0, TOTAL, 0});
        for (size_t i = 0; i < TOTAL * width_of(&s); i++)
            if (i % (size_t)D == 0) s.q[0][i] = f32_to_bf16(64);
        for (size_t i = 0; i < COUNT(places); i++) {
            const int32_t place = places[i];
            bf16 *keys = s.k + (size_t)place * (size_t)D, was = *keys;
            *keys = f32_to_bf16(64); /* of kv head 0 */
            put_cache(&t, &s);
            bf16 *got = attend(&t, &s, BEGIN, TOTAL - BEGIN, 0);
            for (int32_t p = BEGIN; p < TOTAL; p += 7) {
                const bf16 *row = got + (size_t)(p - BEGIN) * width_of(&s);
                if (p < place)
                    assert_row_right(&s, row, p, 0);
                else
                    assert_same_bits(row, row_at(&s, s.v, 0, place), D, DTYPE_BF16,
                                     "D %d, key %d, query %d", D, place, p);
                assert_row_right(&s, row, p, 3);
            }
            *keys = was;
            free(got);
        }
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* Values are 1 more or less, by the block of keys and the column: a row whose sums miss a block, or
 * have one twice, is off by more than rounding. */
static void move_values(struct gpu_test *t, struct sequence *s) {
    enum { BLOCK = 16384 };
    for (int32_t h = 0; h < s->K; h++)
        for (int32_t j = 0; j < s->total; j++) {
            bf16 *v = s->v + ((size_t)h * (size_t)s->capacity + (size_t)j) * (size_t)s->D;
            const uint32_t block = (uint32_t)(j / BLOCK + h) * 0x9e3779b1u;
            for (int32_t d = 0; d < s->D; d++)
                v[d] = f32_to_bf16(bf16_to_f32(v[d]) + (block >> (d % 29) & 1 ? 1 : -1));
        }
    put_cache(t, s);
}

/* A million keys, plain and in dual chunks of the size of a real model: more than the cache holds,
 * so that clusters keep in step, and each has several items. Some rows alone, too: the same bits.
 */
static void values_are_right_far_out(void **state) {
    (void)state;
    enum { N = 9000, TOTAL = 1 << 20, PART = 130 };
    static const int32_t chunks[] = {0, 253952}, parts[] = {0, 4321, N - PART};
    if (small) return;
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t i = 0; i < COUNT(chunks); i++) {
            struct sequence s = sequence_open(&t, D, (struct shape){7, 1, TOTAL - N, N, chunks[i]});
            move_values(&t, &s);
            bf16 *got = attend(&t, &s, TOTAL - N, N, 0);
            assert_rows_right(&s, got, TOTAL - N, N, 9001);
            for (size_t k = 0; k < COUNT(parts); k++) {
                bf16 *part = attend(&t, &s, TOTAL - N + parts[k], PART, 0);
                assert_same_bits(part, got + (size_t)parts[k] * width_of(&s), PART * width_of(&s),
                                 DTYPE_BF16, "D %d chunk %d: rows from %d alone", D, chunks[i],
                                 parts[k]);
                free(part);
            }
            free(got);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* More than two items for every CTA that there is, whichever it draws: near the oracle, the same
 * again, and in parts that are no CTA's second item. */
static void later_items_are_as_right_as_the_first(void **state) {
    (void)state;
    enum { PART = 130 };
    const int32_t N = small ? 2000 : 3500;
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (int32_t chunk = 0; chunk <= 256; chunk += 256) {
            struct sequence s = sequence_open(&t, D, (struct shape){28, 4, 0, N, chunk});
            const size_t width = width_of(&s), n = (size_t)N * width;
            bf16 *got = attend(&t, &s, 0, N, 0), *again = attend(&t, &s, 0, N, 0);
            assert_same_bits(again, got, n, DTYPE_BF16, "D %d chunk %d: once more", D, chunk);
            assert_rows_right(&s, got, 0, N, small ? 977 : 193);
            for (int32_t at = 0; at < N - PART; at += small ? 600 : 250) {
                bf16 *part = attend(&t, &s, at, PART, 0);
                assert_same_bits(part, got + (size_t)at * width, PART * width, DTYPE_BF16,
                                 "D %d chunk %d: rows from %d alone", D, chunk, at);
                free(part);
            }
            free(again);
            free(got);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* ---- what must not matter */

static void nothing_beyond_the_context_is_seen(void **state) {
    (void)state;
    static const uint16_t litter[] = {0x7fff, 0x7f80, 0xff80, 0x7f7f};
    static const int32_t ends[] = {128, 129, 192, 200, 255, 256, 300};
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t e = 0; e < COUNT(ends); e++) {
            const int32_t total = ends[e], begin = total > 130 ? total - 130 : 0;
            struct sequence s = sequence_open(&t, D, (struct shape){14, 2, 0, total, 0});
            bf16 *clean = attend(&t, &s, begin, total - begin, 0);
            for (size_t h = 0; h < 2; h++)
                for (size_t i = (size_t)total * (size_t)D; i < (size_t)s.capacity * (size_t)D; i++)
                    s.k[h * (size_t)s.capacity * (size_t)D + i] =
                        s.v[h * (size_t)s.capacity * (size_t)D + i] = litter[i % 4];
            put_cache(&t, &s);
            bf16 *got = attend(&t, &s, begin, total - begin, 0);
            assert_same_bits(got, clean, (size_t)(total - begin) * width_of(&s), DTYPE_BF16,
                             "D %d, %d keys", D, total);
            free(got);
            free(clean);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* Chunk sizes 1 (only near the ends), below, at and above the tile, on borders and off them. */
static void chunks_case(struct gpu_test *t, const struct sequence *s, int32_t begin) {
    static const int32_t sizes[] = {1, 37, 64, 100, 128, 256, 333};
    const int32_t n = s->total - begin;
    const size_t width = width_of(s);
    bf16 *whole = attend(t, s, begin, n, 0);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const int32_t size = sizes[i];
        for (int32_t at = 0; at < n; at += size) {
            if (size == 1 && at > 2 && at < n - 3) continue;
            const int32_t rows = n - at < size ? n - at : size;
            bf16 *part = attend(t, s, begin + at, rows, 0);
            assert_same_bits(part, whole + (size_t)at * width, (size_t)rows * width, DTYPE_BF16,
                             "H %d D %d chunk %d: rows [%d, %d) alone", s->H, s->D, s->chunk,
                             begin + at, begin + at + rows);
            free(part);
        }
    }
    free(whole);
}

static void a_row_has_its_bits_in_any_chunk(void **state) {
    (void)state;
    static const struct shape cases[] = {
        {7, 1, 0, 700, 0}, {14, 2, 1000, 400, 256}, {4, 4, 100, 500, 128}, {28, 4, 520, 260, 0}};
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t i = 0; i < COUNT(cases); i += small ? 3 : 1) {
            const struct shape *c = &cases[i];
            struct sequence s = sequence_open(&t, D, *c);
            chunks_case(&t, &s, c->begin);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* What scores rise by up to a tile, which the kernel comes to from those behind it. */
typedef float score_level(const struct sequence *s, int32_t tile, float nats);

static float by_the_tile(const struct sequence *s, int32_t tile, float nats) {
    return nats * (float)(s->total / KV_TILE - tile);
}

/* Steps of `nats` in the first tiles and on both sides of where sums are put aside: every 128. */
static float in_steps(const struct sequence *s, int32_t tile, float nats) {
    const int32_t first = s->total / KV_TILE - 2;
    return nats *
           (float)((tile < first) + (tile < 257) + (tile < 212) + (tile < 128) + (tile < 90));
}

/* Scores rise (rows 0 mod 3), stay (1) or fall (2), down to key 0. */
static void let_scores_rise(struct gpu_test *t, struct sequence *s, score_level *level,
                            float nats) {
    const size_t D = (size_t)s->D, width = width_of(s);
    const float way[3] = {8, 0, -8};
    for (int copy = 0; copy < Q_COPIES; copy++)
        for (size_t i = 0; s->q[copy] && i < (size_t)s->total * width; i += D)
            s->q[copy][i] = f32_to_bf16(way[i / width % 3]);
    for (size_t h = 0; h < (size_t)s->K; h++)
        for (int32_t j = 0; j < s->total; j++)
            s->k[(h * (size_t)s->capacity + (size_t)j) * D] =
                f32_to_bf16(level(s, j / KV_TILE, nats) / (8 * s->scale * s->factor));
    put_cache(t, s);
}

/* Where a row gets a new maximum on its way, and its neighbours do not: right, and the same in any
 * chunk. 20 nats a tile take two tiles to that, 45 and 300 one. */
static void rows_whose_scores_rise_are_right(void **state) {
    (void)state;
    static const struct shape cases[] = {{7, 1, 200, 500, 0}, {4, 2, 100, 540, 128}};
    static const float nats[] = {5, 20, 45, 300};
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t i = 0; i < COUNT(cases) * COUNT(nats); i += small ? 3 : 1) {
            const struct shape *c = &cases[i % 2];
            struct sequence s = sequence_open(&t, D, *c);
            let_scores_rise(&t, &s, by_the_tile, nats[i / 2]);
            bf16 *got = attend(&t, &s, c->begin, c->n, 0);
            assert_rows_right(&s, got, c->begin, c->n, 5);
            free(got);
            chunks_case(&t, &s, c->begin);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* The same where sums have been put aside before the maximum that makes them small, and after. */
static void sums_put_aside_follow_a_new_maximum(void **state) {
    (void)state;
    static const float nats[] = {20, 45};
    const int32_t TOTAL = small ? 18000 : 40000, N = small ? 20 : 140;
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        for (size_t i = small ? 1 : 0; i < COUNT(nats); i++) {
            struct sequence s = sequence_open(&t, D, (struct shape){7, 1, TOTAL - N, N, 0});
            let_scores_rise(&t, &s, in_steps, nats[i]);
            bf16 *got = attend(&t, &s, TOTAL - N, N, 0), *part = attend(&t, &s, TOTAL - 3, 3, 0);
            assert_rows_right(&s, got, TOTAL - N, N, small ? 7 : 23);
            assert_same_bits(part, got + (N - 3) * width_of(&s), 3 * width_of(&s), DTYPE_BF16,
                             "D %d, the last three rows", D);
            free(part);
            free(got);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* A query that is no number is a matter of its own row alone. */
static void a_row_that_is_no_number_spoils_no_other(void **state) {
    (void)state;
    enum { TOTAL = 400, BAD = 333 };
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        struct sequence s = sequence_open(&t, D, (struct shape){2, 1, 0, TOTAL, 0});
        const size_t width = width_of(&s);
        bf16 *want = attend(&t, &s, 0, TOTAL, 0);
        s.q[0][BAD * width] = 0x7fff; /* of head 0 */
        bf16 *got = attend(&t, &s, 0, TOTAL, 0);
        assert_true(isnan(bf16_to_f32(got[BAD * width])));
        memcpy(got + BAD * width, want + BAD * width, (size_t)D * sizeof *got);
        assert_same_bits(got, want, TOTAL * width, DTYPE_BF16, "D %d", D);
        free(want);
        free(got);
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* Rows that sixteen bytes do not fit to are stored in another way. */
static void the_stride_of_the_output_changes_nothing(void **state) {
    (void)state;
    enum { N = 200 };
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D, ARENA);
        struct sequence s = sequence_open(&t, D, (struct shape){7, 1, 0, N, 0});
        bf16 *want = attend(&t, &s, 0, N, 0);
        static const size_t gaps[] = {1, 5, 8, 64};
        for (size_t i = 0; i < COUNT(gaps); i++) {
            bf16 *got = attend(&t, &s, 0, N, gaps[i]);
            assert_same_bits(got, want, N * width_of(&s), DTYPE_BF16, "D %d, gap %zu", D, gaps[i]);
            free(got);
        }
        free(want);
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* One recorded call, replayed for three chunks: it reads where it is from device memory. */
static void replay_case(int32_t D) {
    enum { N = 150, CHUNKS = 3 };
    struct error err = {""};
    struct gpu_test t = open_test(D, ARENA);
    struct sequence s = sequence_open(&t, D, (struct shape){7, 1, 0, N * CHUNKS, 128});
    const size_t n = N * width_of(&s);
    struct attention_args a = call_of(&t, &s, 0, N, 0);
    const struct op_call call = {.op = OP_ATTENTION, .layer = 0, .attention = a};
    struct device_graph *graph = NULL;
    if (device_capture_begin(t.gpu, &err) != STATUS_OK ||
        device_run(t.gpu, &call, &err) != STATUS_OK ||
        device_capture_end(t.gpu, &graph, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    for (int32_t i = 0; i < CHUNKS; i++) {
        const struct step_params step = step_of(&s, i * N, N);
        device_write(t.gpu, (void *)(uintptr_t)a.step, &step, sizeof step);
        for (int c = 0; c < Q_COPIES; c++)
            device_write(t.gpu, (void *)(uintptr_t)a.q[c], s.q[c] + (size_t)i * n,
                         n * sizeof(bf16));
        if (device_graph_launch(t.gpu, graph, &err) != STATUS_OK ||
            device_sync(t.gpu, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        bf16 *got = rows_of(&t, &s, &a, N), *want = attend(&t, &s, i * N, N, 0);
        assert_same_bits(got, want, n, DTYPE_BF16, "D %d, chunk %d", D, i);
        free(got);
        free(want);
    }
    device_graph_close(t.gpu, graph);
    sequence_close(&s);
    gpu_test_close(&t);
}

static void a_replayed_call_has_the_eager_bits(void **state) {
    (void)state;
    replay_case(64);
    replay_case(128);
}

/* Rows of queries that TMA cannot read are refused, and the device goes on. */
static void queries_off_sixteen_bytes_are_an_error(void **state) {
    (void)state;
    struct error err = {""};
    struct gpu_test t = open_test(128, ARENA);
    struct sequence s = sequence_open(&t, 128, (struct shape){1, 1, 0, 130, 0});
    struct attention_args a = call_of(&t, &s, 0, 130, 0), odd = a;
    odd.ldq++;
    sm90()->run(t.gpu, &odd);
    assert_int_not_equal(device_sync(t.gpu, &err), STATUS_OK);
    assert_non_null(strstr(err.text, "attention_sm90"));
    gpu_run(&t, sm90(), &a);
    bf16 *got = rows_of(&t, &s, &a, 130);
    assert_rows_right(&s, got, 0, 130, 1);
    free(got);
    sequence_close(&s);
    gpu_test_close(&t);
}

int main(int argc, char **argv) {
    small = wants_small(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_near_the_oracle),
        cmocka_unit_test(values_are_near_the_reference),
        cmocka_unit_test(equal_scores_give_the_mean),
        cmocka_unit_test(one_huge_logit_takes_all),
        cmocka_unit_test(values_are_right_far_out),
        cmocka_unit_test(later_items_are_as_right_as_the_first),
        cmocka_unit_test(nothing_beyond_the_context_is_seen),
        cmocka_unit_test(a_row_has_its_bits_in_any_chunk),
        cmocka_unit_test(rows_whose_scores_rise_are_right),
        cmocka_unit_test(sums_put_aside_follow_a_new_maximum),
        cmocka_unit_test(a_row_that_is_no_number_spoils_no_other),
        cmocka_unit_test(the_stride_of_the_output_changes_nothing),
        cmocka_unit_test(a_replayed_call_has_the_eager_bits),
        cmocka_unit_test(queries_off_sixteen_bytes_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
