/* sample on a GPU against the reference: the same ids, sets and counters over settings, seeds and
 * kinds of logits, log-probabilities near. --small runs a part, for sanitizers;
 * --bench prints the time of a token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"

enum { ARENA = 16 << 20, WHOLE_V = 152064 };

static bool small; /* --small */

/* One sequence on one device. */
struct side {
    uint32_t *seen;
    int32_t draw, id;
    float logprob;
};

/* Where a call's arguments lie on the GPU. */
struct remote {
    float *logits, *logprob;
    uint32_t *seen;
    int32_t *draw, *id;
    void *scratch;
    struct sample_params *params;
};

static size_t seen_words(int32_t V) {
    return ((size_t)V + 31) / 32;
}

static struct remote make_remote(struct gpu_test *t, const float *logits, int32_t V) {
    return (struct remote){.logits = gpu_put(t, logits, (size_t)V * sizeof *logits),
                           .logprob = gpu_guarded(t, 1, 0, DTYPE_F32),
                           .seen = gpu_guarded(t, seen_words(V), 0, DTYPE_F32),
                           .draw = gpu_guarded(t, 1, 0, DTYPE_F32),
                           .id = gpu_guarded(t, 1, 0, DTYPE_F32),
                           .scratch = gpu_guarded(t, sample_scratch_bytes(V) / 4, 0, DTYPE_F32),
                           .params = gpu_new(t, sizeof(struct sample_params))};
}

static void read_guarded(struct gpu_test *t, void *to, const void *from, size_t words) {
    void *copy = gpu_unguard(t, from, words, DTYPE_F32);
    memcpy(to, copy, words * 4);
    free(copy);
}

static void sample_on_gpu(struct gpu_test *t, const struct remote *r, struct side *s, int32_t V,
                          const struct sample_params *params) {
    device_write(t->gpu, r->params, params, sizeof *params);
    device_write(t->gpu, r->seen, s->seen, seen_words(V) * sizeof *s->seen);
    device_write(t->gpu, r->draw, &s->draw, sizeof s->draw);
    struct sample_args a = {r->logits,  r->seen,    r->draw,   r->id,
                            r->logprob, r->scratch, r->params, V};
    gpu_run(t, variant_named(DEVICE_CUDA, OP_SAMPLE, "cuda"), &a);
    read_guarded(t, s->seen, r->seen, seen_words(V));
    read_guarded(t, &s->draw, r->draw, 1);
    read_guarded(t, &s->id, r->id, 1);
    read_guarded(t, &s->logprob, r->logprob, 1);
    free(gpu_unguard(t, r->scratch, sample_scratch_bytes(V) / 4, DTYPE_F32));
}

static void sample_on_cpu(struct gpu_test *t, const float *logits, struct side *s, int32_t V,
                          const struct sample_params *params) {
    void *scratch = make_aligned(sample_scratch_bytes(V));
    struct sample_args a = {logits, s->seen, &s->draw, &s->id, &s->logprob, scratch, params, V};
    variant_named(DEVICE_CPU, OP_SAMPLE, "ref")->run(t->cpu, &a);
    free(scratch);
}

static void compare(const struct side *got, const struct side *want, int32_t V, const char *what,
                    const struct sample_params *p) {
    if (got->id != want->id)
        fail_msg("%s, V %d, temperature %g, top_k %d, top_p %g, draw %d: id %d, not %d", what, V,
                 (double)p->temperature, p->top_k, (double)p->top_p, want->draw, got->id, want->id);
    if (!close_enough(got->logprob, want->logprob, DTYPE_F32, 2, 1e-9))
        fail_msg("%s, V %d: log-probability %.9g, not %.9g", what, V, (double)got->logprob,
                 (double)want->logprob);
    assert_int_equal(got->draw, want->draw);
    assert_memory_equal(got->seen, want->seen, seen_words(V) * sizeof *want->seen);
}

/* ---- kinds of logits */

static void spread(float *l, int32_t V) {
    fill_normal(l, (size_t)V, DTYPE_F32, 11);
    for (int32_t i = 0; i < V; i++) l[i] *= 3;
}

static void tied(float *l, int32_t V) {
    fill_integers(l, (size_t)V, DTYPE_F32, 3, 12);
    for (int32_t i = 0; i < V; i += 5) l[i] = l[i] == 0 ? -0.0f : l[i];
}

static void equal(float *l, int32_t V) {
    for (int32_t i = 0; i < V; i++) l[i] = 7;
}

static void one_finite(float *l, int32_t V) {
    for (int32_t i = 0; i < V; i++) l[i] = -INFINITY;
    l[V * 2 / 3] = -5;
}

static void none_finite(float *l, int32_t V) {
    for (int32_t i = 0; i < V; i++) l[i] = -INFINITY;
}

static void with_nan(float *l, int32_t V) {
    spread(l, V);
    for (int32_t i = 0; i < V; i += 3) l[i] = NAN;
}

static void only_nan(float *l, int32_t V) {
    for (int32_t i = 0; i < V; i++) l[i] = NAN;
}

static void with_infinity(float *l, int32_t V) {
    spread(l, V);
    l[V / 2] = INFINITY;
    l[V - 1] = INFINITY;
}

/* What a model of random weights says: hardly a preference. */
static void flat(float *l, int32_t V) {
    fill_normal(l, (size_t)V, DTYPE_F32, 13);
    for (int32_t i = 0; i < V; i++) l[i] *= 0.02f;
}

static const struct kind {
    const char *name;
    void (*fill)(float *logits, int32_t V);
} kinds[] = {{"spread", spread},
             {"tied", tied},
             {"equal", equal},
             {"one finite", one_finite},
             {"none finite", none_finite},
             {"with NaN", with_nan},
             {"only NaN", only_nan},
             {"with infinity", with_infinity},
             {"flat", flat}};

/* temperature, top_p, repetition penalty, top_k, seed */
static const struct sample_params settings[] = {
    {0, 1, 1, 0, 0},        {0, 1, 1.3f, 5, 0},
    {1, 1, 1, 0, 1},        {0.7f, 0.8f, 1.05f, 20, 2},
    {1, 0.9f, 1.1f, 0, 3},  {0.3f, 1, 1, 2, 4},
    {1.5f, 0.5f, 1, 3, 5},  {1, 0, 1, 0, 6},
    {1, 0.999f, 2, 0, 7},   {1, 0.5f, 1, 0, 8},
    {1e6f, 0.3f, 1, 17, 9}, {1, 0.99999994f, 1, 1 << 20, 10},
};

/* A text of `draws` tokens on both devices, each from its own state. */
static void texts_agree(struct gpu_test *t, const struct kind *kind, int32_t V,
                        const struct sample_params *params, int draws) {
    gpu_test_reset(t, ARENA);
    float *logits = make((size_t)V, DTYPE_F32);
    kind->fill(logits, V);
    struct remote remote = make_remote(t, logits, V);
    struct side got = {.seen = calloc(seen_words(V), 4)}, want = {.seen = calloc(seen_words(V), 4)};
    assert_non_null(got.seen);
    assert_non_null(want.seen);
    got.seen[0] = want.seen[0] = 5;
    for (int i = 0; i < draws; i++) {
        sample_on_gpu(t, &remote, &got, V, params);
        sample_on_cpu(t, logits, &want, V, params);
        compare(&got, &want, V, kind->name, params);
    }
    free(got.seen);
    free(want.seen);
    free(logits);
}

static void small_vocabularies_give_the_reference_s_text(void **state) {
    (void)state;
    static const int32_t sizes[] = {1031, 1, 2, 15, 16, 17, 33, 300, 5000};
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, 0, "auto", ARENA);
    for (size_t v = 0; v < (small ? 1 : COUNT(sizes)); v++)
        for (size_t k = 0; k < COUNT(kinds); k++)
            for (size_t s = 0; s < COUNT(settings); s += small ? 5 : 1)
                texts_agree(&t, &kinds[k], sizes[v], &settings[s], small ? 1 : 5);
    gpu_test_close(&t);
}

static void the_whole_vocabulary_gives_the_reference_s_text(void **state) {
    (void)state;
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, 0, "auto", ARENA);
    for (size_t k = 0; k < COUNT(kinds); k += small ? 4 : 1)
        for (size_t s = 0; s < COUNT(settings); s += small ? 5 : 1)
            texts_agree(&t, &kinds[k], WHOLE_V, &settings[s], small ? 1 : 3);
    gpu_test_close(&t);
}

static void many_seeds_give_the_reference_s_id(void **state) {
    (void)state;
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, 0, "auto", ARENA);
    for (uint64_t seed = 0; seed < (small ? 4 : 300); seed++) {
        struct sample_params p = settings[2 + seed % (COUNT(settings) - 2)];
        p.seed = seed * 0x9E3779B97F4A7C15u;
        texts_agree(&t, &kinds[seed % 3], 257, &p, 2);
    }
    gpu_test_close(&t);
}

static int bench(void) {
    static const struct kind bench_kinds[] = {{"spread", spread}, {"flat", flat}};
    static const struct sample_params bench_settings[] = {{0, 1, 1.05f, 0, 1},
                                                          {0.7f, 0.8f, 1.05f, 20, 1},
                                                          {0.7f, 0.8f, 1.05f, 0, 1},
                                                          {1, 1, 1, 0, 1}};
    struct gpu_test t;
    gpu_test_open(&t, DTYPE_BF16, 0, "auto", ARENA);
    float *logits = make(WHOLE_V, DTYPE_F32);
    for (size_t i = 0; i < COUNT(bench_kinds) * COUNT(bench_settings); i++) {
        const struct kind *kind = &bench_kinds[i / COUNT(bench_settings)];
        const struct sample_params *p = &bench_settings[i % COUNT(bench_settings)];
        gpu_test_reset(&t, ARENA);
        kind->fill(logits, WHOLE_V);
        const struct remote r = make_remote(&t, logits, WHOLE_V);
        const int32_t zero = 0;
        device_write(t.gpu, r.params, p, sizeof *p);
        device_write(t.gpu, r.draw, &zero, sizeof zero);
        struct sample_args a = {r.logits,  r.seen,    r.draw,   r.id,
                                r.logprob, r.scratch, r.params, WHOLE_V};
        const double ns = gpu_time_ns(&t, variant_named(DEVICE_CUDA, OP_SAMPLE, "cuda"), &a, 50);
        printf("sample V %d, %-6s temperature %.1f, top_k %2d, top_p %.1f: %7.1f us\n", WHOLE_V,
               kind->name, (double)p->temperature, p->top_k, (double)p->top_p, ns * 1e-3);
    }
    free(logits);
    gpu_test_close(&t);
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    small = wants_small(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_vocabularies_give_the_reference_s_text),
        cmocka_unit_test(the_whole_vocabulary_gives_the_reference_s_text),
        cmocka_unit_test(many_seeds_give_the_reference_s_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
