/* attention by cuDNN: against an oracle in float64 written here and against the plain kernel, over
 * numbers of rows, contexts and head shapes; one plan for all chunks of a size; and a session that
 * makes its plans when it opens. Ends with 77 where the library is not. --small leaves out what is
 * slow under a sanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/needle.h"
#include "gpu_array.h"

enum { ARENA = 512 << 20, PADDING = 3 };
static bool small;

/* Queries of rows [begin, begin + n), keys and values of all positions before their end. */
struct shape {
    int32_t H, K, D, begin, n;
};
struct sequence {
    struct shape c;
    int32_t capacity;
    bf16 *q;     /* [n][H*D] */
    bf16 *k, *v; /* [K][capacity][D]; what is not seen is large */
};

static size_t width_of(const struct shape *c) {
    return (size_t)c->H * (size_t)c->D;
}

static struct gpu_test open_test(int32_t D) {
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, D, "cudnn", ARENA);
    return t;
}

static bf16 *cache_of(const struct sequence *s, uint64_t seed) {
    const size_t D = (size_t)s->c.D, plane = (size_t)s->capacity * D;
    const size_t seen = (size_t)(s->c.begin + s->c.n) * D;
    bf16 *p = malloc((size_t)s->c.K * plane * sizeof *p);
    assert_non_null(p);
    for (size_t h = 0; h < (size_t)s->c.K; h++) {
        fill_normal(p + h * plane, seen, DTYPE_BF16, seed + h);
        for (size_t i = seen; i < plane; i++)
            p[h * plane + i] = f32_to_bf16(i % 2 ? -1e30f : 1e30f);
    }
    return p;
}

/* room: positions that the cache has beside those that are seen. */
static struct sequence sequence_open(struct shape c, int32_t room) {
    struct sequence s = {.c = c};
    s.capacity = (c.begin + c.n + room + KV_TILE - 1) / KV_TILE * KV_TILE;
    s.q = make((size_t)c.n * width_of(&c), DTYPE_BF16);
    fill_normal(s.q, (size_t)c.n * width_of(&c), DTYPE_BF16, 10);
    s.k = cache_of(&s, 100);
    s.v = cache_of(&s, 200);
    return s;
}

static void sequence_close(struct sequence *s) {
    free(s->q);
    free(s->k);
    free(s->v);
}

/* ---- running */

static struct step_params step_of(const struct shape *c) {
    return (struct step_params){.q_start = c->begin,
                                .n_tokens = c->n,
                                .kv_len = c->begin + c->n,
                                .prompt_tokens = c->begin + c->n,
                                .key_factor = 1,
                                .query_factor = 1};
}

/* A call with some rows of padding, and rows of out that are `gap` wider than they must be. */
static struct attention_args call_of(struct gpu_test *t, const struct sequence *s,
                                     const struct kv_layout *layout, size_t gap) {
    const struct shape *c = &s->c;
    const size_t width = width_of(c), rows = (size_t)c->n + PADDING;
    const size_t cache = (size_t)c->K * (size_t)s->capacity * (size_t)c->D * sizeof(bf16);
    const struct step_params step = step_of(c);
    gpu_test_reset(t, ARENA + 2 * cache);
    struct attention_args a = {.ldq = (int64_t)width,
                               .kv = {layout, gpu_put(t, s->k, cache), gpu_put(t, s->v, cache),
                                      s->capacity, c->K, c->D, DTYPE_BF16},
                               .ldo = (int64_t)(width + gap),
                               .rows = (int32_t)rows,
                               .H = c->H,
                               .D = c->D,
                               .scale = (float)(1 / sqrt((double)c->D)),
                               .dtype = DTYPE_BF16};
    void *q = gpu_new(t, rows * width * sizeof(bf16));
    device_write(t->gpu, q, s->q, (size_t)c->n * width * sizeof(bf16));
    a.q[0] = q;
    a.step = gpu_put(t, &step, sizeof step);
    a.out = gpu_guarded(t, rows * (width + gap), 0, DTYPE_BF16);
    return a;
}

/* The real rows, packed. Between rows and around them nothing may have been written. */
static bf16 *rows_of(struct gpu_test *t, const struct shape *c, const struct attention_args *a) {
    const size_t width = width_of(c), ldo = (size_t)a->ldo;
    bf16 *all = gpu_unguard(t, a->out, (size_t)a->rows * ldo, DTYPE_BF16);
    bf16 *packed = make((size_t)c->n * width, DTYPE_BF16);
    for (size_t r = 0; r < (size_t)a->rows; r++) {
        if (r < (size_t)c->n) memcpy(packed + r * width, all + r * ldo, width * sizeof(bf16));
        if (!untouched(all + r * ldo + width, (ldo - width) * sizeof(bf16)))
            fail_msg("row %zu of %d: written where nothing belongs", r, c->n);
    }
    free(all);
    return packed;
}

static bf16 *attend(struct gpu_test *t, const struct sequence *s, const char *kernel, size_t gap) {
    const struct variant *v = variant_named(DEVICE_CUDA, OP_ATTENTION, kernel);
    const struct attention_args a = call_of(t, s, v->kv_layout, gap);
    gpu_run(t, v, &a);
    return rows_of(t, &s->c, &a);
}

/* ---- the oracle */

/* out [D], and the sum of probability * |value| [D], the scale of an error. */
static void oracle(const struct sequence *s, int32_t row, int32_t h, double *out, double *weight) {
    const struct shape *c = &s->c;
    const size_t D = (size_t)c->D, plane = (size_t)(h / (c->H / c->K)) * (size_t)s->capacity * D;
    const bf16 *q = s->q + (size_t)row * width_of(c) + (size_t)h * D;
    const int32_t seen = c->begin + row + 1;
    double *score = malloc((size_t)seen * sizeof *score), max = -HUGE_VAL, sum = 0;
    assert_non_null(score);
    for (size_t j = 0; j < (size_t)seen; j++) {
        const bf16 *k = s->k + plane + j * D;
        score[j] = 0;
        for (size_t d = 0; d < D; d++)
            score[j] += (double)bf16_to_f32(q[d]) * (double)bf16_to_f32(k[d]);
        score[j] /= sqrt((double)D);
        max = fmax(max, score[j]);
    }
    for (size_t d = 0; d < D; d++) out[d] = weight[d] = 0;
    for (size_t j = 0; j < (size_t)seen; j++) {
        const double p = exp(score[j] - max);
        const bf16 *v = s->v + plane + j * D;
        sum += p;
        for (size_t d = 0; d < D; d++) {
            out[d] += p * (double)bf16_to_f32(v[d]);
            weight[d] += p * fabs((double)bf16_to_f32(v[d]));
        }
    }
    for (size_t d = 0; d < D; d++) out[d] /= sum, weight[d] /= sum;
    free(score);
}

/* Every `stride`-th pair of a row and a head: half a unit of bf16's last place for the result and
 * for every probability. */
static void assert_rows_right(const struct sequence *s, const bf16 *got, int32_t stride) {
    const struct shape *c = &s->c;
    double want[128], weight[128];
    for (int32_t i = 0; i < c->n * c->H; i += stride) {
        const int32_t row = i / c->H, h = i % c->H;
        const bf16 *x = got + (size_t)row * width_of(c) + (size_t)h * (size_t)c->D;
        oracle(s, row, h, want, weight);
        for (int32_t d = 0; d < c->D; d++)
            if (!(fabs((double)bf16_to_f32(x[d]) - want[d]) <=
                  0x1.08p-8 * (fabs(want[d]) + weight[d])))
                fail_msg("H %d K %d D %d, %d rows from %d: row %d, head %d [%d]: %.9g, not %.9g",
                         c->H, c->K, c->D, c->n, c->begin, row, h, d, (double)bf16_to_f32(x[d]),
                         want[d]);
    }
}

/* ---- values */

static void values_are_near_the_oracle(void **state) {
    (void)state;
    static const struct shape cases[] = {
        {28, 4, 128, 0, 1},     {28, 4, 128, 0, 130},  {28, 4, 128, 127, 37},
        {28, 4, 128, 700, 300}, {7, 1, 128, 128, 128}, {28, 4, 128, 5000, 64},
        {4, 4, 128, 255, 1},    {16, 4, 64, 0, 1},     {16, 4, 64, 0, 257},
        {16, 4, 64, 1, 127},    {16, 4, 64, 900, 200}, {8, 4, 64, 5000, 65}};
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t = open_test(D);
        for (size_t i = 0; i < COUNT(cases); i += small ? 3 : 1) {
            if (cases[i].D != D) continue;
            struct sequence s = sequence_open(cases[i], 1 + (int32_t)i % 3 * 500);
            bf16 *got = attend(&t, &s, "cudnn", i % 2 ? 64 : 0);
            assert_rows_right(&s, got, cases[i].n * cases[i].H / 200 + 1);
            free(got);
            sequence_close(&s);
        }
        gpu_test_close(&t);
    }
}

/* Far out the plain kernel is the oracle, itself held against float64 elsewhere. */
static void values_are_near_the_plain_kernel_far_out(void **state) {
    (void)state;
    static const struct shape cases[] = {{28, 4, 128, 65536 - 512, 512}, {16, 4, 64, 40000, 300}};
    if (small) return;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct gpu_test t = open_test(cases[i].D);
        struct sequence s = sequence_open(cases[i], 0);
        bf16 *got = attend(&t, &s, "cudnn", 0), *want = attend(&t, &s, "simt", 0);
        for (size_t j = 0; j < (size_t)cases[i].n * width_of(&cases[i]); j++) {
            const double x = (double)bf16_to_f32(got[j]), y = (double)bf16_to_f32(want[j]);
            /* a mean of thousands of normal values: of the order of 1 / sqrt(keys) */
            if (!(fabs(x - y) <= 0x1p-7 * fabs(y) + 0x1p-8 / 40))
                fail_msg("D %d, element %zu: %.9g, plain %.9g", cases[i].D, j, x, y);
        }
        free(got);
        free(want);
        sequence_close(&s);
        gpu_test_close(&t);
    }
}

/* A call is the same for every chunk of a size: it reads where it is from device memory. */
static void one_plan_serves_all_chunks_of_a_size(void **state) {
    (void)state;
    enum { ROWS = 96, CHUNKS = 5 };
    struct gpu_test t = open_test(128);
    struct sequence s = sequence_open((struct shape){28, 4, 128, 0, ROWS * CHUNKS}, 100);
    const struct variant *v = variant_named(DEVICE_CUDA, OP_ATTENTION, "cudnn");
    const struct sequence first = {{28, 4, 128, 0, ROWS}, s.capacity, s.q, s.k, s.v};
    const struct attention_args a = call_of(&t, &first, v->kv_layout, 0);
    const size_t n = ROWS * width_of(&s.c);
    gpu_run(&t, v, &a);
    const int64_t before = device_allocations(t.gpu);
    for (int32_t i = CHUNKS - 1; i >= 0; i--) {
        struct sequence part = first;
        part.c.begin = i * ROWS;
        part.q = s.q + (size_t)i * n;
        const struct step_params step = step_of(&part.c);
        device_write(t.gpu, (void *)(uintptr_t)a.step, &step, sizeof step);
        device_write(t.gpu, (void *)(uintptr_t)a.q[0], part.q, n * sizeof(bf16));
        gpu_run(&t, v, &a);
        bf16 *got = rows_of(&t, &part.c, &a);
        assert_rows_right(&part, got, 53);
        free(got);
    }
    assert_true(device_allocations(t.gpu) == before);
    sequence_close(&s);
    gpu_test_close(&t);
}

/* ---- what it does not serve */

static void dual_chunk_attention_and_odd_rows_are_refused(void **state) {
    (void)state;
    struct error err = {""};
    struct gpu_test t = open_test(128);
    struct sequence s = sequence_open((struct shape){4, 2, 128, 10, 20}, 0);
    const struct variant *v = variant_named(DEVICE_CUDA, OP_ATTENTION, "cudnn");
    struct op_call call = {.op = OP_ATTENTION, .attention = call_of(&t, &s, v->kv_layout, 0)};
    assert_int_equal(device_prepare(t.gpu, &call, &err), STATUS_OK);
    call.attention.ldq++;
    assert_int_equal(device_prepare(t.gpu, &call, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "16 bytes"));
    call.attention.ldq--;
    call.attention.pattern = (struct attention_pattern){256, 32};
    assert_int_equal(device_prepare(t.gpu, &call, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "attention = cudnn: cuDNN has no dual chunk attention"));
    v->run(t.gpu, &call.attention); /* unprepared: an error of the device, which goes on */
    assert_int_not_equal(device_sync(t.gpu, &err), STATUS_OK);
    assert_int_equal(device_sync(t.gpu, &err), STATUS_OK);
    sequence_close(&s);
    gpu_test_close(&t);
}

/* ---- a session */

static void a_session_makes_its_plans_when_it_opens(void **state) {
    (void)state;
    enum { LENGTH = 4000, CHUNK = 1500 };
    const struct attention_pattern plain = {0, 0};
    struct gpu_test t = open_test(128); /* leaves where the library is not */
    gpu_test_close(&t);
    struct engine_opts eo = engine_opts_defaults();
    struct session_opts so = session_opts_defaults();
    struct engine *e;
    struct session *s;
    struct needle_prompt p;
    struct error err = {""};
    eo.model = "needle:28x4x128";
    eo.device = DEVICE_CUDA;
    eo.attention_backend = "cudnn";
    if (engine_open(&e, &eo, &err) != STATUS_OK) fail_msg("%s", err.text);
    if (needle_prompt_build(&p, LENGTH, NULL, 0, plain, 5, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    so.prompt_tokens = LENGTH;
    so.max_tokens = p.answer_length;
    so.chunk_tokens = CHUNK;
    so.sampling = (struct sampling_opts){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    so.graph = true;
    assert_int_equal(session_open(&s, e, &so, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "cudnn runs op by op alone"));
    so.graph = false;
    if (session_open(&s, e, &so, &err) != STATUS_OK) fail_msg("%s", err.text);
    const int64_t before = engine_allocations(e);
    for (int32_t at = 0; at < LENGTH; at += CHUNK) {
        struct chunk_result r;
        const int32_t n = LENGTH - at < CHUNK ? LENGTH - at : CHUNK;
        if (session_prefill(s, p.tokens + at, n, &r, &err) != STATUS_OK) fail_msg("%s", err.text);
    }
    for (int i = 0; i < p.answer_length; i++) {
        struct token_result r;
        if (session_generate(s, &r, &err) != STATUS_OK) fail_msg("%s", err.text);
        assert_int_equal(r.id, p.answer[i]);
    }
    assert_true(engine_allocations(e) == before);
    needle_prompt_free(&p);
    session_close(s);
    engine_close(e);
}

int main(int argc, char **argv) {
    small = wants_small(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_near_the_oracle),
        cmocka_unit_test(values_are_near_the_plain_kernel_far_out),
        cmocka_unit_test(one_plan_serves_all_chunks_of_a_size),
        cmocka_unit_test(dual_chunk_attention_and_odd_rows_are_refused),
        cmocka_unit_test(a_session_makes_its_plans_when_it_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
