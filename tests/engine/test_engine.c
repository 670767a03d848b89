/* A loaded model: the tensor parallel split, shards against slices, options, memory as predicted,
 * costs by formula. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine_core.h"
#include "kernels/bf16.h"
#include "kernels/device.h" /* a weight's data, packed by the reference: plain rows */
#include "tests/enough_memory.h"

static struct model_config config_of(const char *model) {
    struct model_config m;
    assert_int_equal(engine_model_config(model, &m, NULL), STATUS_OK);
    return m;
}

static struct engine_opts options(const char *model, int tp) {
    struct engine_opts o = engine_opts_defaults();
    o.model = model;
    o.tensor_parallel_size = tp;
    o.threads = 1;
    return o;
}

/* ---- the split */

static void every_head_and_column_belongs_to_one_rank(void **state) {
    (void)state;
    struct model_config m = config_of("random:nano");
    for (int tp = 1; tp <= 8; tp *= 2) {
        int32_t head = 0, ffn = 0, vocab = 0;
        for (int rank = 0; rank < tp; rank++) {
            const struct shard s = shard_of(&m, tp, rank);
            assert_true(s.head_begin == head && s.ffn_begin == ffn && s.vocab_begin == vocab);
            head += s.H, ffn += s.F, vocab += s.V;
            /* grouped queries: each head finds its kv head on its own rank */
            for (int h = 0; h < s.H; h++) {
                const int kv_head = (s.head_begin + h) / (m.H / m.K);
                assert_int_equal(kv_head, s.kv_begin + h / (s.H / s.K));
            }
        }
        assert_true(head == m.H && ffn == m.F && vocab == m.V);
    }
}

static void kv_heads_are_repeated_when_ranks_outnumber_them(void **state) {
    (void)state;
    struct model_config m = config_of("random:nano"); /* 4 kv heads */
    for (int rank = 0; rank < 8; rank++) {
        assert_int_equal(shard_of(&m, 8, rank).K, 1);
        assert_int_equal(shard_of(&m, 8, rank).kv_begin, rank / 2);
    }
}

static void a_split_that_does_not_divide_shows_the_arithmetic(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int tp;
        const char *text;
    } bad[] = {
        {"random:qwen2.5-0.5b", 4, "14 query heads: 14 = 4 x 3 + 2"},
        {"random:2x64x12x4x16x96x256", 3, "4 key/value heads: 4 = 3 x 1 + 1"},
        {"random:2x96x12x4x16x96x256", 6, "6 = 4 x 1 + 2"},
        {"random:2x64x8x4x16x98x256", 4, "98 columns of the MLP: 98 = 4 x 24 + 2"},
        {"random:2x64x8x4x16x96x250", 4, "250 tokens of the vocabulary: 250 = 4 x 62 + 2"},
        {"random:nano", 0, "expected 1 to 8"},
        {"random:nano", 16, "expected 1 to 8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct model_config m = config_of(bad[i].model);
        struct error err = {""};
        assert_int_equal(engine_check_parallel(&m, bad[i].tp, &err), STATUS_USAGE);
        assert_non_null(strstr(err.text, bad[i].text));
        struct engine_opts o = options(bad[i].model, bad[i].tp);
        struct engine *e;
        assert_int_equal(engine_open(&e, &o, NULL), STATUS_USAGE);
        assert_null(e);
    }
}

/* ---- weights */

/* Row n of a fused weight as it should be: where it comes from in the whole model. */
static void expect_row(struct model_source *src, int layer, enum tensor tensor, int64_t row,
                       int64_t col, int64_t cols, const bf16 *got) {
    bf16 want[512];
    assert_true(cols <= 512);
    src->read(src, tensor, layer, row, 1, col, cols, DTYPE_BF16, want, cols, NULL);
    assert_memory_equal(want, got, (size_t)cols * sizeof *want);
}

static void expect_bias(struct model_source *src, int layer, enum tensor tensor, int64_t at,
                        bf16 got) {
    bf16 want;
    src->read(src, tensor, layer, 0, 1, at, 1, DTYPE_BF16, &want, 1, NULL);
    assert_int_equal(want, got);
}

/* Rows [q | k | v], those of q and of kv where the layer keeps them apart. */
static void check_qkv(struct engine *e, struct model_source *src, int layer, int rank) {
    const struct model_config *m = &src->config;
    const struct shard s = shard_of(m, e->devices.ranks[0].tp, rank);
    const struct weight *const *w = e->weights[0]->rank[rank].layer[layer].linear;
    const int64_t q = (int64_t)s.H * m->D, kv = (int64_t)s.K * m->D;
    assert_true((layer == m->layers - 1) == (w[LINEAR_QKV] == NULL));
    for (int64_t n = 0; n < q + 2 * kv; n++) {
        const struct weight *in = w[LINEAR_QKV] ? w[LINEAR_QKV] : w[n < q ? LINEAR_Q : LINEAR_KV];
        const int64_t at = w[LINEAR_QKV] || n < q ? n : n - q;
        const enum tensor t = n < q ? TENSOR_Q : n < q + kv ? TENSOR_K : TENSOR_V;
        const int64_t row = t == TENSOR_Q   ? (int64_t)s.head_begin * m->D + n
                            : t == TENSOR_K ? (int64_t)s.kv_begin * m->D + n - q
                                            : (int64_t)s.kv_begin * m->D + n - q - kv;
        expect_row(src, layer, t, row, 0, m->C, (const bf16 *)in->data + at * m->C);
        expect_bias(src, layer, (enum tensor)(t + 1), row, ((const bf16 *)in->bias)[at]);
    }
}

static void check_rest(struct engine *e, struct model_source *src, int layer, int rank) {
    const struct model_config *m = &src->config;
    const struct shard s = shard_of(m, e->devices.ranks[0].tp, rank);
    const struct weight *const *w = e->weights[0]->rank[rank].layer[layer].linear;
    const int64_t q = (int64_t)s.H * m->D;
    for (int64_t n = 0; n < m->C; n++) {
        expect_row(src, layer, TENSOR_O, n, (int64_t)s.head_begin * m->D, q,
                   (const bf16 *)w[LINEAR_O]->data + n * q);
        expect_row(src, layer, TENSOR_DOWN, n, s.ffn_begin, s.F,
                   (const bf16 *)w[LINEAR_DOWN]->data + n * s.F);
    }
    for (int64_t n = 0; n < 2 * s.F; n++)
        expect_row(src, layer, n % 2 ? TENSOR_UP : TENSOR_GATE, s.ffn_begin + n / 2, 0, m->C,
                   (const bf16 *)w[LINEAR_GATE_UP]->data + n * m->C);
    for (int64_t n = 0; n < s.V; n++) {
        expect_row(src, 0, TENSOR_EMBED, s.vocab_begin + n, 0, m->C,
                   (const bf16 *)e->weights[0]->rank[rank].embed + n * m->C);
        expect_row(src, 0, m->tie_word_embeddings ? TENSOR_EMBED : TENSOR_HEAD, s.vocab_begin + n,
                   0, m->C, (const bf16 *)e->weights[0]->rank[rank].head + n * m->C);
    }
}

static void shards_of_any_tp_are_slices_of_the_whole(void **state) {
    (void)state;
    static const char *const models[] = {"random:2x64x8x4x16x96x64",
                                         "random:2x48x8x2x16x40x64/tied"};
    for (size_t i = 0; i < 2; i++)
        for (int tp = 1; tp <= 8; tp *= 2) {
            struct engine_opts o = options(models[i], tp);
            o.linear_backend = "ref";
            o.seed = 3;
            struct engine *e;
            struct model_source *src;
            assert_int_equal(engine_open(&e, &o, NULL), STATUS_OK);
            assert_int_equal(model_source_open(&src, models[i], 3, NULL), STATUS_OK);
            for (int layer = 0; layer < 2; layer++) {
                for (int rank = 0; rank < tp; rank++) {
                    check_qkv(e, src, layer, rank);
                    check_rest(e, src, layer, rank);
                }
                expect_row(src, layer, TENSOR_INPUT_NORM, 0, 0, src->config.C,
                           e->weights[0]->norms[layer].input);
                expect_row(src, layer, TENSOR_POST_NORM, 0, 0, src->config.C,
                           e->weights[0]->norms[layer].post);
            }
            expect_row(src, 0, TENSOR_FINAL_NORM, 0, 0, src->config.C, e->weights[0]->final_norm);
            model_source_close(src);
            engine_close(e);
        }
}

/* ---- options */

static void options_that_cannot_work_are_refused(void **state) {
    (void)state;
    struct engine *e;
    struct error err;
    struct engine_opts o = options("random:qwen2.5-0.5b", 1);
    o.dual_chunk_attention = true;
    assert_int_equal(engine_open(&e, &o, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "dual_chunk_attention"));
    o = options("random:nano", 1);
    o.block_rows = 0;
    assert_int_equal(engine_open(&e, &o, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "block_rows 0"));
    o = options("random:nano", 1);
    o.attention_backend = "none-such";
    assert_int_not_equal(engine_open(&e, &o, &err), STATUS_OK);
    assert_null(e);
    engine_close(NULL);
}

static void a_model_that_does_not_fit_says_how_much_it_needs(void **state) {
    (void)state;
    struct engine *e;
    struct error err;
    struct engine_opts o = options("random:500x16384x128x8x128x65536x1024", 1);
    assert_int_equal(engine_open(&e, &o, &err), STATUS_NO_MEMORY);
    assert_non_null(strstr(err.text, "weights"));
}

/* A source that wishes to stop while it is read for the `at`th time. */
struct stopping_source {
    struct model_source source;
    struct model_source *real;
    int reads, at, stop;
};

static enum status read_and_stop(struct model_source *source, enum tensor tensor, int layer,
                                 int64_t row, int64_t rows, int64_t col, int64_t cols,
                                 enum dtype dtype, void *out, int64_t ld, struct error *err) {
    struct stopping_source *s = (struct stopping_source *)source;
    if (++s->reads == s->at) s->stop = 1;
    return s->real->read(s->real, tensor, layer, row, rows, col, cols, dtype, out, ld, err);
}

static void loading_stops_before_its_next_weight(void **state) {
    (void)state;
    struct engine_opts o = options("random:nano", 1);
    struct stopping_source s = {.at = 21};
    struct device *dev;
    struct weights *w;
    struct error err;
    assert_int_equal(model_source_open(&s.real, o.model, 0, &err), STATUS_OK);
    s.source = (struct model_source){.config = s.real->config, .read = read_and_stop};
    assert_int_equal(engine_device_open(&dev, &o, &s.source.config, 0, 1, &err), STATUS_OK);
    const struct ranks ranks = {1, 0, 1};
    for (int why = 0; why < 2; why++) { /* asked to, or because another device failed */
        const struct load_stops stops = {why == 0 ? &s.stop : NULL, why == 1 ? &s.stop : NULL};
        s.reads = s.stop = 0;
        assert_int_equal(weights_load(&w, dev, &s.source, ranks, DTYPE_BF16, stops, &err),
                         STATUS_INTERRUPTED);
        assert_null(w);
        assert_non_null(strstr(err.text, "stopped while loading"));
        assert_in_range(s.reads, s.at, s.at + 5); /* qkv, the largest weight, is three and three */
    }
    device_close(dev);
    model_source_close(s.real);

    s.stop = 1; /* and through the door */
    struct engine *e;
    o.stop = &s.stop;
    assert_int_equal(engine_open(&e, &o, &err), STATUS_INTERRUPTED);
    assert_null(e);
}

static void info_describes_what_was_loaded(void **state) {
    (void)state;
    struct engine *e;
    struct engine_opts o = options("random:2x64x8x4x16x96x64", 8);
    assert_int_equal(engine_open(&e, &o, NULL), STATUS_OK);
    const struct engine_info *i = engine_info(e);
    assert_true(i->ranks == 8 && i->devices == 1 && i->kv_heads_per_rank == 1 &&
                i->kv_replicas == 2 && i->load_ns > 0);
    assert_true(i->parameters == model_parameters(&i->model));
    assert_non_null(i->device[0].variant[OP_ATTENTION]);
    engine_close(e);
}

/* ---- memory */

static enum status predict(const struct engine_opts *o, const struct session_opts *so,
                           struct memory_prediction *out) {
    struct engine_planner *p;
    enum status s = engine_planner_open(&p, o, NULL);
    if (s == STATUS_OK) s = engine_planner_predict(p, so, out, NULL);
    engine_planner_close(p);
    return s;
}

static void memory_is_as_predicted(struct engine *e, const struct memory_prediction *p) {
    int64_t total = 0;
    for (int rank = SHARED_RANK; rank < p->ranks; rank++) {
        struct memory_use use;
        engine_memory(e, rank, &use);
        for (int c = 0; c < MEMORY_CATEGORIES; c++) {
            assert_true(use.bytes[c] == (rank < 0 ? p->shared_bytes[c] : p->rank_bytes[rank][c]));
            total += use.bytes[c];
        }
    }
    assert_true(total == p->total_bytes);
}

static void prediction_equals_accounting(void **state) {
    (void)state;
    static const int32_t at[] = {0, 5, 299};
    static const struct {
        const char *model;
        int tp;
        enum dtype dtype;
        bool dual, prune;
        struct session_opts session;
    } runs[] = {
        {"random:2x64x8x4x16x96x256",
         1,
         DTYPE_BF16,
         false,
         true,
         {.prompt_tokens = 300, .max_tokens = 9, .chunk_tokens = 77}},
        {"random:2x64x8x4x16x96x256/tied",
         4,
         DTYPE_F32,
         false,
         false,
         {.prompt_tokens = 300, .max_tokens = 9, .chunk_tokens = 77, .graph = true}},
        {"random:2x64x8x4x16x96x256/dual:128:64:256",
         8,
         DTYPE_BF16,
         true,
         true,
         {.prompt_tokens = 300,
          .max_tokens = 1,
          .chunk_tokens = 1000,
          .graph = true,
          .taps = true}},
        {"random:nano",
         2,
         DTYPE_BF16,
         true,
         true,
         {.prompt_tokens = 300,
          .chunk_tokens = 128,
          .taps = true,
          .logits_at = at,
          .logits_at_count = 3,
          .graph = true}},
        {"needle",
         4,
         DTYPE_BF16,
         false,
         true,
         {.prompt_tokens = 1024, .max_tokens = 32, .chunk_tokens = 256, .graph = true}},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct engine_opts o = options(runs[i].model, runs[i].tp);
        o.dtype = runs[i].dtype;
        o.dual_chunk_attention = runs[i].dual;
        o.prune_last_layer = runs[i].prune;
        o.block_rows = 50;
        struct session_opts so = runs[i].session;
        so.sampling = session_opts_defaults().sampling;
        struct memory_prediction p;
        struct engine *e;
        struct session *s;
        assert_int_equal(predict(&o, &so, &p), STATUS_OK);
        assert_true(p.available_bytes > 0 && p.total_bytes > 0);
        assert_int_equal(engine_open(&e, &o, NULL), STATUS_OK);
        assert_int_equal(session_open(&s, e, &so, NULL), STATUS_OK);
        memory_is_as_predicted(e, &p);
        session_close(s);
        for (int rank = SHARED_RANK; rank < p.ranks; rank++) { /* and all of it is given back */
            struct memory_use use;
            engine_memory(e, rank, &use);
            assert_true(use.bytes[MEMORY_KV] == 0 && use.bytes[MEMORY_ACTIVATIONS] == 0 &&
                        use.bytes[MEMORY_GRAPH] == 0);
        }
        engine_close(e);
    }
}

/* One planner serves every session of an engine, in any order, and each as if it were alone. */
static void a_planner_predicts_again_and_again(void **state) {
    (void)state;
    struct engine_opts o = options("random:nano", 2);
    struct session_opts a = session_opts_defaults(), b = a;
    a.prompt_tokens = 1000, b.prompt_tokens = 4000, b.graph = true;
    struct engine_planner *p;
    struct memory_prediction first, second, again, alone;
    assert_int_equal(engine_planner_open(&p, &o, NULL), STATUS_OK);
    assert_int_equal(engine_planner_predict(p, &a, &first, NULL), STATUS_OK);
    assert_int_equal(engine_planner_predict(p, &b, &second, NULL), STATUS_OK);
    assert_int_equal(engine_planner_predict(p, &a, &again, NULL), STATUS_OK);
    engine_planner_close(p);
    engine_planner_close(NULL);
    assert_true(second.total_bytes > first.total_bytes);
    assert_int_equal(again.total_bytes, first.total_bytes);
    assert_memory_equal(again.rank_bytes, first.rank_bytes, sizeof first.rank_bytes);
    assert_int_equal(predict(&o, &b, &alone), STATUS_OK);
    assert_int_equal(alone.total_bytes, second.total_bytes);
}

static void prediction_knows_the_published_sizes(void **state) {
    (void)state;
    struct engine_opts o = options("random:qwen2.5-7b-1m", 4);
    struct session_opts so = session_opts_defaults();
    so.prompt_tokens = 1048320;
    so.max_tokens = 256;
    so.chunk_tokens = 131072;
    struct memory_prediction p;
    assert_int_equal(predict(&o, &so, &p), STATUS_OK);
    for (int rank = 0; rank < 4; rank++) /* 57,344 B a token in all: 14.0 GiB a rank */
        assert_true(p.rank_bytes[rank][MEMORY_KV] == (int64_t)14 << 30);
    int64_t weights = p.shared_bytes[MEMORY_WEIGHTS];
    for (int rank = 0; rank < 4; rank++) weights += p.rank_bytes[rank][MEMORY_WEIGHTS];
    assert_true(weights >= 2 * (int64_t)7615616512 && weights < (int64_t)(2.02 * 7615616512.0));
}

static void a_prediction_of_nonsense_is_refused(void **state) {
    (void)state;
    struct engine_opts o = options("random:nano", 1);
    struct session_opts so = session_opts_defaults();
    struct memory_prediction p;
    so.prompt_tokens = 0;
    assert_int_equal(predict(&o, &so, &p), STATUS_USAGE);
    o.tensor_parallel_size = 3;
    so.prompt_tokens = 10;
    assert_int_equal(predict(&o, &so, &p), STATUS_USAGE);
}

/* ---- costs */

static void costs_of_chunks_add_up_to_the_published_formulas(void **state) {
    (void)state;
    struct model_config m = config_of("random:qwen2.5-7b-1m");
    struct engine_opts o = options("random:qwen2.5-7b-1m", 4);
    o.prune_last_layer = false;
    const int64_t N = 65536;
    int64_t attention = 0, linear = 0;
    for (int64_t at = 0; at < N; at += 10000) {
        const int64_t n = N - at < 10000 ? N - at : 10000;
        const struct chunk_cost c = engine_chunk_cost(&m, &o, at, n, at + n == N);
        attention += c.attention_flops;
        linear += c.linear_flops;
        assert_true(c.ops > 0 && c.bytes > 0 && c.other_flops > 0);
    }
    assert_true(attention == 200704 * N * (N + 1));
    const int64_t per_token = linear / N;
    assert_true(per_token > 13050000000 && per_token < 13060000000);
}

static void pruning_saves_the_last_layer(void **state) {
    (void)state;
    struct model_config m = config_of("random:nano");
    struct engine_opts o = options("random:nano", 1);
    const struct chunk_cost pruned = engine_chunk_cost(&m, &o, 4096, 1024, false);
    o.prune_last_layer = false;
    const struct chunk_cost full = engine_chunk_cost(&m, &o, 4096, 1024, false);
    assert_true(full.attention_flops * 3 == pruned.attention_flops * 4);
    /* the last layer keeps k and v: 2 K D C of (2 H + 2 K) D C + 3 C F */
    const int64_t kv = 2 * 1024 * (int64_t)512 * 512 + 1024 * 512;
    assert_true(pruned.linear_flops == full.linear_flops / 4 * 3 + kv);
}

int main(void) {
    if (!enough_memory(128)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_and_column_belongs_to_one_rank),
        cmocka_unit_test(kv_heads_are_repeated_when_ranks_outnumber_them),
        cmocka_unit_test(a_split_that_does_not_divide_shows_the_arithmetic),
        cmocka_unit_test(shards_of_any_tp_are_slices_of_the_whole),
        cmocka_unit_test(options_that_cannot_work_are_refused),
        cmocka_unit_test(a_model_that_does_not_fit_says_how_much_it_needs),
        cmocka_unit_test(loading_stops_before_its_next_weight),
        cmocka_unit_test(info_describes_what_was_loaded),
        cmocka_unit_test(prediction_equals_accounting),
        cmocka_unit_test(a_planner_predicts_again_and_again),
        cmocka_unit_test(prediction_knows_the_published_sizes),
        cmocka_unit_test(a_prediction_of_nonsense_is_refused),
        cmocka_unit_test(costs_of_chunks_add_up_to_the_published_formulas),
        cmocka_unit_test(pruning_saves_the_last_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
