/* A session: the same bits whatever the chunk size, mode, threads or pruning; what it refuses; what
 * it shows. Numbers against an independent implementation are test_forward_numpy.py's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/needle.h"
#include "kernels/device.h"
#include "tests/enough_memory.h"

/* ---- allocations of this process, counted: none may happen in a step. Sanitizers keep malloc to
 * themselves. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
static int64_t mallocs;
#ifndef SANITIZED
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
void *malloc(size_t bytes) {
    __atomic_fetch_add(&mallocs, 1, __ATOMIC_RELAXED);
    return __libc_malloc(bytes);
}
void *calloc(size_t n, size_t bytes) {
    __atomic_fetch_add(&mallocs, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, bytes);
}
void *realloc(void *old, size_t bytes) {
    __atomic_fetch_add(&mallocs, 1, __ATOMIC_RELAXED);
    return __libc_realloc(old, bytes);
}
#endif

static const char SMALL[] = "random:3x128x8x4x64x160x256";
static const char DUAL[] = "random:3x128x8x4x64x160x256/dual:128:64:256";
enum { S = 300, V = 256, MORE = 4 };

static struct engine *open_engine_with(const char *linear, const char *model, int tp,
                                       enum dtype dtype, bool prune, int threads) {
    struct engine_opts o = engine_opts_defaults();
    struct engine *e;
    struct error err = {""};
    o.model = model;
    o.tensor_parallel_size = tp;
    o.dtype = dtype;
    o.prune_last_layer = prune;
    o.threads = threads;
    o.block_rows = 100;
    o.linear_backend = linear;
    o.dual_chunk_attention = strstr(model, "/dual") != NULL;
    if (engine_open(&e, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    return e;
}
static struct engine *open_engine(const char *model, int tp, enum dtype dtype, bool prune,
                                  int threads) {
    return open_engine_with("auto", model, tp, dtype, prune, threads);
}

static struct session_opts session_of(int32_t chunk, bool graph) {
    struct session_opts o = session_opts_defaults();
    o.prompt_tokens = S;
    o.max_tokens = MORE;
    o.chunk_tokens = chunk;
    o.graph = graph;
    o.sampling = (struct sampling_opts){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    return o;
}

static struct session *open_session(struct engine *e, const struct session_opts *o) {
    struct session *s;
    struct error err = {""};
    if (session_open(&s, e, o, &err) != STATUS_OK) fail_msg("%s", err.text);
    return s;
}

static const int32_t *prompt(void) {
    static int32_t ids[S + MORE];
    engine_random_tokens(11, V, S + MORE, ids);
    return ids;
}

/* From where the session stands to `end`. */
static void prefill(struct session *s, const int32_t *ids, int32_t end, int32_t chunk) {
    while (session_position(s) < end) {
        const int32_t at = session_position(s), left = end - at;
        struct chunk_result r;
        struct error err = {""};
        if (session_prefill(s, ids + at, left < chunk ? left : chunk, &r, &err) != STATUS_OK)
            fail_msg("%s", err.text);
    }
}

struct answer {
    float logits[MORE][V], logprob[MORE];
    int32_t id[MORE];
};

static void generate(struct session *s, struct answer *a) {
    memset(a, 0, sizeof *a);
    for (int i = 0; i < MORE; i++) {
        struct token_result t;
        assert_int_equal(session_generate(s, &t, NULL), STATUS_OK);
        assert_int_equal(session_logits(s, a->logits[i], NULL), STATUS_OK);
        a->id[i] = t.id;
        a->logprob[i] = t.logprob;
    }
}

static void answer(struct engine *e, const struct session_opts *o, struct answer *a) {
    struct session *s = open_session(e, o);
    prefill(s, prompt(), S, o->chunk_tokens);
    generate(s, a);
    session_close(s);
}

/* ---- the same bits */

static void chunks_modes_threads_and_pruning_give_the_same_bits(void **state) {
    (void)state;
    static const struct {
        int32_t chunk;
        bool graph, prune;
        int threads;
    } ways[] = {{7, false, true, 1},    {7, true, false, 2},   {128, true, true, 2},
                {129, false, false, 1}, {1000, true, true, 1}, {64, false, true, 2}};
    static const char *const models[] = {SMALL, DUAL};
    for (int run = 0; run < 2 * 2 * 4; run++) {
        const char *model = models[run % 2];
        const enum dtype dtype = run / 2 % 2 ? DTYPE_F32 : DTYPE_BF16;
        const int tp = 1 << run / 4;
        struct answer first, other;
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            struct engine *e = open_engine(model, tp, dtype, ways[i].prune, ways[i].threads);
            const struct session_opts o = session_of(ways[i].chunk, ways[i].graph);
            answer(e, &o, i == 0 ? &first : &other);
            if (i > 0) assert_memory_equal(&first, &other, sizeof first);
            engine_close(e);
        }
        for (int v = 0; v < V; v++) assert_true(isfinite(first.logits[0][v]));
    }
}

static void one_token_at_a_time_gives_the_same_bits(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 2, DTYPE_BF16, true, 1);
    const struct session_opts at_once = session_of(S, false), one_by_one = session_of(1, true);
    struct answer whole, single;
    answer(e, &at_once, &whole);
    answer(e, &one_by_one, &single);
    assert_memory_equal(&whole, &single, sizeof whole);
    engine_close(e);
}

static void decoding_continues_as_a_longer_prompt_would(void **state) {
    (void)state;
    for (int tp = 1; tp <= 8; tp *= 8) {
        struct engine *e = open_engine(SMALL, tp, DTYPE_BF16, true, 1);
        struct session_opts o = session_of(50, false);
        struct answer a;
        answer(e, &o, &a);
        for (int i = 1; i < MORE; i++) {
            int32_t ids[S + MORE];
            float logits[V];
            memcpy(ids, prompt(), sizeof ids);
            memcpy(ids + S, a.id, sizeof a.id);
            o.prompt_tokens = S + i;
            struct session *s = open_session(e, &o);
            prefill(s, ids, S + i, o.chunk_tokens);
            assert_int_equal(session_logits(s, logits, NULL), STATUS_OK);
            assert_memory_equal(logits, a.logits[i], sizeof logits);
            session_close(s);
        }
        engine_close(e);
    }
}

static void logits_at_a_position_are_those_of_a_prompt_that_ends_there(void **state) {
    (void)state;
    static const int32_t at[] = {299, 0, 63, 64, 130};
    struct engine *e = open_engine(SMALL, 4, DTYPE_BF16, true, 2);
    struct session_opts o = session_of(64, true), shorter = session_of(64, false);
    float got[V], want[V];
    o.logits_at = at;
    o.logits_at_count = 5;
    for (int i = 0; i < 5; i++) {
        struct session *s = open_session(e, &o);
        prefill(s, prompt(), S, 64);
        assert_int_equal(session_logits_at(s, i, got, NULL), STATUS_OK);
        session_close(s);
        shorter.prompt_tokens = at[i] + 1;
        s = open_session(e, &shorter);
        prefill(s, prompt(), at[i] + 1, 64);
        assert_int_equal(session_logits(s, want, NULL), STATUS_OK);
        assert_memory_equal(got, want, sizeof got);
        session_close(s);
    }
    engine_close(e);
}

/* Sampled, and with a penalty: neither the draws nor the tokens of what came before remain. */
static void a_reset_session_gives_the_same_bits_again(void **state) {
    (void)state;
    for (int graph = 0; graph < 2; graph++) {
        struct engine *e = open_engine(SMALL, 2, DTYPE_BF16, true, 1);
        struct session_opts o = session_of(64, graph);
        o.sampling =
            (struct sampling_opts){.temperature = 1, .top_p = 1, .repetition_penalty = 1.5f};
        struct session *s = open_session(e, &o);
        int32_t few[S], all[S];
        struct answer first, other, again;
        for (int i = 0; i < S; i++) few[i] = i % 16, all[i] = i % V;
        prefill(s, few, S, 64);
        generate(s, &first);
        assert_int_equal(session_reset(s, NULL), STATUS_OK);
        assert_int_equal(session_position(s), 0);
        prefill(s, all, S, 64);
        generate(s, &other);
        assert_int_equal(session_reset(s, NULL), STATUS_OK);
        assert_int_equal(session_skip_to(s, 200, 5, NULL), STATUS_OK);
        assert_int_equal(session_reset(s, NULL), STATUS_OK);
        prefill(s, few, S, 64);
        generate(s, &again);
        assert_memory_equal(&first, &again, sizeof first);
        assert_memory_not_equal(&first, &other, sizeof first);
        session_close(s);
        engine_close(e);
    }
}

static void a_seed_samples_the_same_text_at_any_chunk_size(void **state) {
    (void)state;
    struct answer first, other, next_seed;
    struct engine *e = open_engine(SMALL, 4, DTYPE_BF16, true, 2);
    struct session_opts o = session_of(37, false);
    o.sampling = (struct sampling_opts){
        .temperature = 1.5f, .top_p = 0.95f, .repetition_penalty = 1.1f, .top_k = 50, .seed = 3};
    answer(e, &o, &first);
    o.chunk_tokens = 128;
    o.graph = true;
    answer(e, &o, &other);
    assert_memory_equal(&first, &other, sizeof first);
    o.sampling.seed = 4;
    answer(e, &o, &next_seed);
    assert_memory_not_equal(first.id, next_seed.id, sizeof first.id);
    engine_close(e);
}

static void the_prompt_is_penalised_for_repetition(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 1, DTYPE_BF16, true, 1);
    struct session_opts o = session_of(64, false);
    int32_t ids[S]; /* every second token of the vocabulary occurs */
    struct answer a;
    for (int i = 0; i < S; i++) ids[i] = 2 * i % V;
    o.sampling.repetition_penalty = 1000;
    struct session *s = open_session(e, &o);
    prefill(s, ids, S, 64);
    generate(s, &a);
    for (int i = 0; i < MORE; i++) {
        assert_int_equal(a.id[i] % 2, 1);
        for (int k = 0; k < i; k++) assert_int_not_equal(a.id[i], a.id[k]);
    }
    session_close(s);
    engine_close(e);
}

/* ---- steps */

/* The first kernel for this machine that is all our own. */
static const char *own_linear(void) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int i = 0; i < n; i++)
        if (v[i].op == OP_LINEAR && v[i].device == DEVICE_CPU && !strstr(v[i].name, "onednn") &&
            variant_usable(v + i, NULL))
            return v[i].name;
    return NULL;
}

/* Of oneDNN that cannot be said: it allocates, and frees again, whenever it executes. */
static void a_step_allocates_nothing(void **state) {
    (void)state;
    for (int way = 0; way < 6; way++) {
        const bool own = way < 4;
        struct engine *e = open_engine_with(own ? own_linear() : "auto", SMALL, way < 2 ? 4 : 1,
                                            DTYPE_BF16, true, 2);
        struct session_opts o = session_of(64, way % 2);
        o.taps = true;
        struct session *s = open_session(e, &o);
        assert_int_equal(session_spans_enable(s, 10000, NULL), STATUS_OK);
        struct answer a;
        prefill(s, prompt(), 128, 64); /* libraries may set themselves up in a first step */
        const int64_t before = engine_allocations(e);
        const int64_t mallocs_before = __atomic_load_n(&mallocs, __ATOMIC_RELAXED);
        prefill(s, prompt(), S, 64);
        generate(s, &a);
        assert_true(engine_allocations(e) == before);
        if (own) assert_true(__atomic_load_n(&mallocs, __ATOMIC_RELAXED) == mallocs_before);
        session_close(s);
        engine_close(e);
    }
}

static void equal_chunks_are_replayed_and_a_ragged_one_is_not(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 2, DTYPE_BF16, true, 1);
    struct session_opts o = session_of(128, true);
    struct session *s = open_session(e, &o);
    assert_int_equal(session_spans_enable(s, 1000, NULL), STATUS_OK);
    struct graph_info g;
    int64_t n, dropped;
    session_graph_info(s, &g);
    assert_true(g.graphs == 2 && g.bytes > 0 && g.capture_ns > 0);
    assert_true(g.chunk_nodes > 0 && g.nodes > g.chunk_nodes);
    session_spans(s, 0, &n, &dropped);
    assert_true(n == 0); /* recording ran nothing */
    for (int32_t at = 0; at < S; at += 128) {
        struct chunk_result r;
        const int32_t tokens = S - at < 128 ? S - at : 128;
        assert_int_equal(session_prefill(s, prompt() + at, tokens, &r, NULL), STATUS_OK);
        assert_true(r.replayed == (tokens == 128));
        assert_true(r.start_token == at && r.n_tokens == tokens);
        assert_true(r.device_latency_ns[0] > 0 && r.device_latency_ns[0] <= r.latency_ns);
        assert_true(r.host_ns > 0 && r.host_ns <= r.latency_ns);
    }
    session_close(s);
    o.graph = false;
    s = open_session(e, &o);
    session_graph_info(s, &g);
    assert_true(g.graphs == 0 && g.nodes == 0 && g.bytes == 0);
    session_close(s);
    engine_close(e);
}

/* Spans switched on for a pass and off again, and the last chunk once more: always the same bits,
 * and none of them where they are off. */
static void spans_come_and_go_within_a_session(void **state) {
    (void)state;
    for (int graph = 0; graph < 2; graph++) {
        struct engine *e = open_engine(SMALL, 2, DTYPE_BF16, true, 1);
        struct session_opts o = session_of(128, graph);
        struct session *s = open_session(e, &o);
        float *logits[3];
        const size_t n_logits = (size_t)engine_info(e)->model.V;
        const int32_t last = (S - 1) / 128 * 128;
        for (int way = 0; way < 3; way++) {
            const bool traced = way == 1;
            int64_t n, dropped;
            logits[way] = calloc(n_logits, sizeof(float));
            assert_non_null(logits[way]);
            assert_int_equal(session_spans_enable(s, traced ? 2000 : 0, NULL), STATUS_OK);
            if (way < 2)
                assert_int_equal(session_reset(s, NULL), STATUS_OK);
            else
                assert_int_equal(session_rewind(s, last, NULL), STATUS_OK);
            prefill(s, prompt(), S, 128);
            session_spans(s, 0, &n, &dropped);
            assert_true((n > 0) == traced && dropped == 0);
            assert_int_equal(session_logits(s, logits[way], NULL), STATUS_OK);
            assert_memory_equal(logits[way], logits[0], sizeof(float) * n_logits);
        }
        assert_int_equal(session_rewind(s, S + 1, NULL), STATUS_USAGE);
        assert_int_equal(session_rewind(s, -1, NULL), STATUS_USAGE);
        for (int way = 0; way < 3; way++) free(logits[way]);
        session_close(s);
        engine_close(e);
    }
}

/* In both modes, and as the prediction says. */
static void the_work_of_a_chunk_is_the_sum_of_its_spans(void **state) {
    (void)state;
    for (int way = 0; way < 4; way++) {
        const bool graph = way % 2, prune = way / 2;
        struct engine *e = open_engine(SMALL, 4, DTYPE_BF16, prune, 1);
        struct engine_opts eo = engine_opts_defaults();
        eo.tensor_parallel_size = 4;
        eo.block_rows = 100;
        eo.prune_last_layer = prune;
        struct session_opts o = session_of(128, graph);
        struct session *s = open_session(e, &o);
        assert_int_equal(session_spans_enable(s, 2000, NULL), STATUS_OK);
        for (int32_t at = 0; at < S; at += 128) {
            struct chunk_result r;
            const int32_t tokens = S - at < 128 ? S - at : 128;
            int64_t n, dropped, flops = 0, bytes = 0;
            session_spans_reset(s);
            assert_int_equal(session_prefill(s, prompt() + at, tokens, &r, NULL), STATUS_OK);
            const struct span *spans = session_spans(s, 0, &n, &dropped);
            for (int64_t i = 0; i < n; i++) flops += spans[i].flops, bytes += spans[i].bytes;
            const struct chunk_cost c =
                engine_chunk_cost(&engine_info(e)->model, &eo, at, tokens, at + tokens == S);
            assert_true(dropped == 0 && c.ops == n);
            assert_true(r.flops == flops && r.bytes == bytes);
            assert_true(c.linear_flops + c.attention_flops + c.other_flops == flops);
        }
        session_close(s);
        engine_close(e);
    }
}

/* ---- what is refused */

static void a_step_that_cannot_be_is_refused_and_changes_nothing(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 1, DTYPE_BF16, true, 1);
    struct session_opts o = session_of(64, false);
    o.max_tokens = 1;
    struct session *s = open_session(e, &o), *second;
    struct chunk_result r;
    struct token_result t;
    struct error err;
    int32_t wrong[2] = {3, V};
    float logits[V];
    assert_int_equal(session_open(&second, e, &o, NULL), STATUS_USAGE);
    assert_null(second);
    assert_int_equal(session_prefill(s, wrong, 2, &r, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "token 1 of the prompt is 256: expected 0 to 255"));
    wrong[1] = -1;
    assert_int_equal(session_prefill(s, wrong, 2, &r, &err), STATUS_USAGE);
    assert_int_equal(session_prefill(s, prompt(), 0, &r, &err), STATUS_USAGE);
    assert_int_equal(session_prefill(s, prompt(), 65, &r, &err), STATUS_USAGE);
    assert_int_equal(session_position(s), 0);
    prefill(s, prompt(), 256, 64);
    assert_int_equal(session_generate(s, &t, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "256 of 300"));
    assert_int_equal(session_logits(s, logits, &err), STATUS_USAGE);
    assert_int_equal(session_prefill(s, prompt(), 45, &r, &err), STATUS_USAGE);
    prefill(s, prompt(), S, 64);
    assert_int_equal(session_prefill(s, prompt(), 1, &r, &err), STATUS_USAGE);
    assert_int_equal(session_generate(s, &t, &err), STATUS_OK);
    assert_int_equal(session_generate(s, &t, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "max_tokens = 1"));
    assert_int_equal(session_position(s), S);
    session_close(s);
    session_close(NULL);
    engine_close(e);
}

static void sessions_that_make_no_sense_are_refused(void **state) {
    (void)state;
    static const int32_t outside[] = {S};
    struct engine *e = open_engine(SMALL, 1, DTYPE_BF16, true, 1);
    struct session *s;
    struct session_opts bad[6];
    for (int i = 0; i < 6; i++) bad[i] = session_of(64, false);
    bad[0].prompt_tokens = 0;
    bad[1].max_tokens = -1;
    bad[2].chunk_tokens = 0;
    bad[3].prompt_tokens = INT32_MAX;
    bad[4].logits_at = outside, bad[4].logits_at_count = 1;
    bad[5].sampling.temperature = -1;
    for (int i = 0; i < 6; i++) {
        struct error err = {""};
        assert_int_equal(session_open(&s, e, &bad[i], &err), STATUS_USAGE);
        assert_null(s);
        assert_true(err.text[0] != 0);
    }
    struct session_opts large = session_of(64, false);
    large.prompt_tokens = 1 << 30; /* 3 TiB of keys and values */
    assert_int_equal(session_open(&s, e, &large, NULL), STATUS_NO_MEMORY);
    const struct session_opts fine = session_of(64, false);
    session_close(open_session(e, &fine)); /* the engine is as it was */
    engine_close(e);
}

/* ---- skipping */

static void skipping_fills_the_cache_and_ends_the_answer(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 2, DTYPE_BF16, true, 2);
    const struct session_opts o = session_of(64, true);
    struct session *s = open_session(e, &o);
    struct token_result t;
    struct error err;
    float k[200 * 64], v[200 * 64], again[200 * 64];
    prefill(s, prompt(), 64, 64);
    assert_int_equal(session_skip_to(s, 63, 1, NULL), STATUS_USAGE);
    assert_int_equal(session_skip_to(s, S, 1, NULL), STATUS_USAGE);
    assert_int_equal(session_skip_to(s, 250, 1, NULL), STATUS_OK);
    assert_int_equal(session_position(s), 250);
    assert_int_equal(session_kv_read(s, 2, 1, 3, 50, 200, k, v, NULL), STATUS_OK);
    double squares = 0;
    for (int i = 14 * 64; i < 200 * 64; i++) squares += (double)k[i] * (double)k[i];
    assert_true(fabs(squares / (186 * 64) - 1) < 0.1);
    for (int i = 0; i < 200 * 64; i += 64) assert_true(k[i] != 0 && v[i] != 0);
    assert_int_equal(session_kv_read(s, 1, 1, 3, 50, 200, again, v, NULL), STATUS_OK);
    assert_memory_not_equal(k + 14 * 64, again + 14 * 64, 64 * sizeof *k); /* layers differ */
    prefill(s, prompt(), S, 64);
    assert_int_equal(session_generate(s, &t, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "skipped"));
    session_close(s);
    engine_close(e);
}

/* ---- looking inside */

/* Attention of one row from the tapped query and the cached keys and values, dense, f64. */
static void check_row(struct session *s, int tp, int layer, int head, int32_t position) {
    enum { D = 64, H = 8, K = 4 };
    static float k[S * D], v[S * D];
    static double p[S];
    float query[D], output[D];
    double q[D], sum = 0, top = -INFINITY;
    assert_int_equal(session_tap_read(s, layer, head, position, query, output, NULL), STATUS_OK);
    assert_int_equal(
        session_kv_read(s, layer, head / (H / tp), head / (H / K), 0, position + 1, k, v, NULL),
        STATUS_OK);
    for (int i = 0; i < D / 2; i++) {
        const double angle = position * pow(1e7, -2.0 * i / D);
        const double a = (double)query[i], b = (double)query[i + D / 2];
        q[i] = a * cos(angle) - b * sin(angle);
        q[i + D / 2] = b * cos(angle) + a * sin(angle);
    }
    for (int j = 0; j <= position; j++) {
        p[j] = 0;
        for (int d = 0; d < D; d++) p[j] += q[d] * (double)k[j * D + d] / sqrt(D);
        top = fmax(top, p[j]);
    }
    for (int j = 0; j <= position; j++) sum += p[j] = exp(p[j] - top);
    for (int d = 0; d < D; d++) {
        double out = 0;
        for (int j = 0; j <= position; j++) out += p[j] / sum * (double)v[j * D + d];
        assert_true(fabs(out - (double)output[d]) < 2e-5 * fmax(1, fabs(out)));
    }
}

static void taps_show_what_attention_did(void **state) {
    (void)state;
    for (int tp = 1; tp <= 8; tp *= 2)
        for (int graph = 0; graph < 2; graph++) {
            struct engine *e = open_engine(SMALL, tp, DTYPE_F32, true, 1);
            struct session_opts o = session_of(128, graph);
            o.taps = true;
            struct session *s = open_session(e, &o);
            const int32_t rows[] = {128, 255, 200, 127, 256};
            float x[64], y[64];
            prefill(s, prompt(), 128, 128);
            assert_int_equal(session_tap(s, rows, 5, NULL), STATUS_OK);
            prefill(s, prompt(), 256, 128);
            for (int i = 0; i < 3; i++)
                for (int head = 0; head < 8; head++)
                    for (int layer = 0; layer < 2; layer++) check_row(s, tp, layer, head, rows[i]);
            assert_int_equal(session_tap_read(s, 0, 0, 127, x, y, NULL), STATUS_USAGE);
            assert_int_equal(session_tap_read(s, 0, 0, 256, x, y, NULL), STATUS_USAGE);
            assert_int_equal(session_tap_read(s, 0, 0, 201, x, y, NULL), STATUS_USAGE);
            assert_int_equal(session_tap_read(s, 2, 0, 200, x, y, NULL), STATUS_USAGE); /* pruned */
            const int32_t last[] = {270, S - 1};
            assert_int_equal(session_tap(s, last, 2, NULL), STATUS_OK);
            prefill(s, prompt(), S, 128);
            for (int head = 0; head < 8; head++)
                for (int layer = 0; layer < 3; layer++) check_row(s, tp, layer, head, S - 1);
            check_row(s, tp, 1, 3, 270);
            assert_int_equal(session_tap_read(s, 2, 0, 270, x, y, NULL), STATUS_USAGE);
            assert_int_equal(session_tap_read(s, 0, 0, 200, x, y, NULL), STATUS_USAGE); /* old */
            session_close(s);
            engine_close(e);
        }
}

/* What was tapped, rotated to `phase` here, is what the cache holds; all ranks that have the head.
 */
static void check_kv_row(struct session *s, int tp, int layer, int32_t position, int32_t phase,
                         double factor, double relative) {
    enum { D = 64, K = 4 };
    for (int rank = 0; rank < tp; rank++)
        for (int head = rank * K / tp; head < (rank + 1) * K / tp || head == rank * K / tp;
             head++) {
            float key[D], value[D], k[D], v[D];
            assert_int_equal(session_tap_read_kv(s, layer, rank, head, position, key, value, NULL),
                             STATUS_OK);
            assert_int_equal(session_kv_read(s, layer, rank, head, position, 1, k, v, NULL),
                             STATUS_OK);
            assert_memory_equal(v, value, sizeof v);
            for (int i = 0; i < D / 2; i++) {
                const double angle = phase * pow(1e7, -2.0 * i / D);
                const double a = (double)key[i], b = (double)key[i + D / 2];
                const double first = factor * (a * cos(angle) - b * sin(angle));
                const double second = factor * (b * cos(angle) + a * sin(angle));
                const double limit = 1e-6 * (fabs(a) + fabs(b));
                assert_true(fabs((double)k[i] - first) <= limit + relative * fabs(first));
                assert_true(fabs((double)k[i + D / 2] - second) <= limit + relative * fabs(second));
            }
        }
}

static void taps_show_keys_and_values_of_all_rows_before_their_rotation(void **state) {
    (void)state;
    for (int way = 0; way < 16; way++) {
        const bool graph = way % 2, dual = way / 2 % 2;
        const enum dtype dtype = way / 4 % 2 ? DTYPE_F32 : DTYPE_BF16;
        const int tp = way / 8 ? 8 : 2;
        const double factor = dual ? 0.1 * log(S / 256.0) + 1 : 1;
        struct engine *e = open_engine(dual ? DUAL : SMALL, tp, dtype, true, 1);
        struct session_opts o = session_of(100, graph);
        o.taps = true;
        struct session *s = open_session(e, &o);
        const int32_t rows[] = {S - 1, 200, 270, 199};
        float x[64], y[64];
        prefill(s, prompt(), 200, 100);
        assert_int_equal(session_tap(s, rows, 4, NULL), STATUS_OK);
        prefill(s, prompt(), S, 100);
        for (int i = 0; i < 3; i++)
            for (int layer = 0; layer < 3; layer++) /* the last one, too, which is pruned */
                check_kv_row(s, tp, layer, rows[i], dual ? rows[i] % 128 : rows[i], factor,
                             dtype == DTYPE_BF16 ? 0x1p-8 : 0);
        assert_int_equal(session_tap_read_kv(s, 0, 0, 0, 199, x, y, NULL), STATUS_USAGE);
        assert_int_equal(session_tap_read_kv(s, 0, 0, 0, 201, x, y, NULL), STATUS_USAGE);
        assert_int_equal(session_tap_read_kv(s, 0, 0, 3, 200, x, y, NULL), STATUS_USAGE);
        assert_int_equal(session_tap_read_kv(s, 0, tp, 0, 200, x, y, NULL), STATUS_USAGE);
        assert_int_equal(session_tap_read_kv(s, 3, 0, 0, 200, x, y, NULL), STATUS_USAGE);
        session_close(s);
        engine_close(e);
    }
}

static void ranks_that_repeat_a_kv_head_hold_the_same(void **state) {
    (void)state;
    struct engine *e = open_engine(SMALL, 8, DTYPE_BF16, true, 1);
    const struct session_opts o = session_of(64, false);
    struct session *s = open_session(e, &o);
    static float a[2][S * 64], b[2][S * 64];
    prefill(s, prompt(), S, 64);
    for (int head = 0; head < 4; head++)
        for (int layer = 0; layer < 3; layer++) {
            assert_int_equal(session_kv_read(s, layer, 2 * head, head, 0, S, a[0], a[1], NULL),
                             STATUS_OK);
            assert_int_equal(session_kv_read(s, layer, 2 * head + 1, head, 0, S, b[0], b[1], NULL),
                             STATUS_OK);
            assert_memory_equal(a, b, sizeof a);
            assert_int_equal(
                session_kv_read(s, layer, 2 * head, (head + 1) % 4, 0, S, b[0], b[1], NULL),
                STATUS_USAGE);
        }
    assert_int_equal(session_kv_read(s, 0, 0, 0, 0, S + 1, a[0], a[1], NULL), STATUS_USAGE);
    assert_int_equal(session_kv_read(s, 3, 0, 0, 0, 1, a[0], a[1], NULL), STATUS_USAGE);
    assert_int_equal(session_kv_read(s, 0, 8, 3, 0, 1, a[0], a[1], NULL), STATUS_USAGE);
    session_close(s);
    engine_close(e);
}

/* ---- the model that knows the answer */

static void expect_needles(const char *model, int tp, enum dtype dtype, bool dual) {
    enum { LENGTH = 2048 };
    struct engine_opts eo = engine_opts_defaults();
    struct engine *e;
    struct needle_prompt p;
    eo.model = model;
    eo.tensor_parallel_size = tp;
    eo.dtype = dtype;
    eo.dual_chunk_attention = dual;
    assert_int_equal(engine_open(&e, &eo, NULL), STATUS_OK);
    const struct model_config *m = &engine_info(e)->model;
    const struct attention_pattern pattern =
        dual ? m->dual_chunk : (struct attention_pattern){0, 0};
    assert_int_equal(needle_prompt_build(&p, LENGTH, NULL, 0, pattern, 5, NULL), STATUS_OK);
    struct session_opts o = session_opts_defaults();
    o.prompt_tokens = LENGTH;
    o.max_tokens = p.answer_length;
    o.chunk_tokens = 600;
    o.graph = tp > 1;
    o.sampling = (struct sampling_opts){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    struct session *s = open_session(e, &o);
    const size_t rows = (size_t)p.answer_length, width = (size_t)m->V;
    float *want = malloc(rows * width * sizeof *want), *got = malloc(width * sizeof *got);
    float *tolerance = malloc(rows * sizeof *tolerance);
    assert_int_equal(needle_expected_logits(m, &p, pattern, want, tolerance, NULL), STATUS_OK);
    prefill(s, p.tokens, LENGTH, 600);
    for (int i = 0; i < p.answer_length; i++) {
        struct token_result t;
        assert_int_equal(session_generate(s, &t, NULL), STATUS_OK);
        assert_int_equal(t.id, p.answer[i]);
        assert_true(t.stop == (i == p.answer_length - 1));
        assert_int_equal(session_logits(s, got, NULL), STATUS_OK);
        for (size_t v = 0; v < width; v++)
            assert_true(fabsf(got[v] - want[(size_t)i * width + v]) <= tolerance[i]);
    }
    free(want), free(got), free(tolerance);
    needle_prompt_free(&p);
    session_close(s);
    engine_close(e);
}

static void the_needle_model_answers_through_every_tp(void **state) {
    (void)state;
    for (int tp = 1; tp <= 8; tp *= 2) expect_needles("needle", tp, DTYPE_BF16, false);
    expect_needles("needle", 2, DTYPE_F32, false);
    expect_needles("needle:4x4x64", 4, DTYPE_BF16, true);
}

int main(void) {
    if (!enough_memory(128)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_modes_threads_and_pruning_give_the_same_bits),
        cmocka_unit_test(one_token_at_a_time_gives_the_same_bits),
        cmocka_unit_test(decoding_continues_as_a_longer_prompt_would),
        cmocka_unit_test(logits_at_a_position_are_those_of_a_prompt_that_ends_there),
        cmocka_unit_test(a_reset_session_gives_the_same_bits_again),
        cmocka_unit_test(a_seed_samples_the_same_text_at_any_chunk_size),
        cmocka_unit_test(the_prompt_is_penalised_for_repetition),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(equal_chunks_are_replayed_and_a_ragged_one_is_not),
        cmocka_unit_test(spans_come_and_go_within_a_session),
        cmocka_unit_test(the_work_of_a_chunk_is_the_sum_of_its_spans),
        cmocka_unit_test(a_step_that_cannot_be_is_refused_and_changes_nothing),
        cmocka_unit_test(sessions_that_make_no_sense_are_refused),
        cmocka_unit_test(skipping_fills_the_cache_and_ends_the_answer),
        cmocka_unit_test(taps_show_what_attention_did),
        cmocka_unit_test(taps_show_keys_and_values_of_all_rows_before_their_rotation),
        cmocka_unit_test(ranks_that_repeat_a_kv_head_hold_the_same),
        cmocka_unit_test(the_needle_model_answers_through_every_tp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
