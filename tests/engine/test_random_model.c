/* Random models: exact shapes, and numbers that do not depend on how they are asked for. Which name
 * means which model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"
#include "kernels/bf16.h"

static struct model_source *open_source(const char *preset, uint64_t seed) {
    struct model_source *s;
    assert_int_equal(random_model_open(&s, preset, seed, NULL), STATUS_OK);
    return s;
}

static void presets_have_the_shapes_of_the_real_models(void **state) {
    (void)state;
    struct model_config m;
    assert_int_equal(engine_model_config("random:qwen2.5-7b-1m", &m, NULL), STATUS_OK);
    assert_true(model_parameters(&m) == 7615616512); /* QWEN2's own count */
    assert_int_equal(m.dual_chunk.chunk, 253952);
    assert_int_equal(m.dual_chunk.local, 8192);
    assert_true(m.rope_theta == 1e7 && m.rms_norm_eps == 1e-5f && !m.tie_word_embeddings);
    assert_int_equal(engine_model_config("random:qwen2.5-14b-1m", &m, NULL), STATUS_OK);
    assert_true(model_parameters(&m) == 14770033664);
    assert_int_equal(engine_model_config("random:qwen2.5-0.5b", &m, NULL), STATUS_OK);
    assert_true(model_parameters(&m) == 494032768);
    assert_true(m.rope_theta == 1e6 && m.rms_norm_eps == 1e-6f && m.tie_word_embeddings);
    assert_int_equal(engine_model_config("random:nano", &m, NULL), STATUS_OK);
    assert_true(m.layers == 4 && m.C == 512 && m.H == 8 && m.K == 4 && m.D == 64 && m.F == 1408);
    assert_int_equal(engine_model_config("random:half-b", &m, NULL), STATUS_OK);
    assert_true(m.layers == 24 && m.C == 1024 && m.H == 16 && m.K == 4 && m.D == 64 && m.F == 4864);
}

static void every_listed_model_can_be_configured(void **state) {
    (void)state;
    const char *name, *description;
    struct model_config m;
    int n = 0;
    for (; engine_builtin_model(n, &name, &description); n++) {
        assert_true(description[0]);
        if (strcmp(name, "random:LxCxHxKxDxFxV") == 0) continue; /* the pattern */
        assert_int_equal(engine_model_config(name, &m, NULL), STATUS_OK);
        for (int tp = 1; tp <= 2; tp++)
            assert_int_equal(engine_check_parallel(&m, tp, NULL), STATUS_OK);
    }
    assert_true(n >= 8);
    assert_false(engine_builtin_model(-1, &name, &description));
}

static void shapes_are_spelled_out(void **state) {
    (void)state;
    struct model_config m;
    assert_int_equal(engine_model_config("random:2x64x8x4x16x96x256", &m, NULL), STATUS_OK);
    assert_true(m.layers == 2 && m.C == 64 && m.H == 8 && m.K == 4 && m.D == 16 && m.F == 96 &&
                m.V == 256 && !m.tie_word_embeddings && m.dual_chunk.chunk == 0);
    assert_int_equal(
        engine_model_config("random:2x64x8x4x16x96x256/tied/dual:256:64:512", &m, NULL), STATUS_OK);
    assert_true(m.tie_word_embeddings && m.dual_chunk.chunk == 256 && m.dual_chunk.local == 64 &&
                m.dual_chunk_original_max == 512);
}

static void names_that_mean_nothing_say_what_is_accepted(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum status status;
        const char *text;
    } bad[] = {{"", STATUS_USAGE, "random:PRESET"},
               {"random", STATUS_USAGE, "accepted are"},
               {"random:", STATUS_USAGE, "accepted are"},
               {"random:nanoo", STATUS_USAGE, "accepted are"},
               {"needle:3x3x3", STATUS_USAGE, "needle:4x4x64"},
               {"random:2x64x8x4x16x96", STATUS_USAGE, "accepted are"},
               {"random:2x64x8x4x16x96x256/tiedd", STATUS_USAGE, "accepted are"},
               {"random:2x64x8x4x16x96x256/dual:256", STATUS_USAGE, "accepted are"},
               {"random:0x64x8x4x16x96x256", STATUS_UNSUPPORTED, "expected 1 to"},
               {"random:2x64x8x-4x16x96x256", STATUS_UNSUPPORTED, "expected 1 to"},
               {"random:2x64x8x3x16x96x256", STATUS_UNSUPPORTED, "no multiple of 3"},
               {"random:2x64x8x4x24x96x256", STATUS_UNSUPPORTED, "multiple of 16"},
               {"random:2x64x8x4x272x96x256", STATUS_UNSUPPORTED, "up to 256"},
               {"random:2x64x8x4x16x96x256/dual:100:10:50", STATUS_UNSUPPORTED, "multiple of 128"},
               {"/no/such/folder", STATUS_USAGE, "not known"},
               {"/", STATUS_UNSUPPORTED, "checkpoints"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct model_source *s;
        struct error err = {""};
        assert_int_equal(model_source_open(&s, bad[i].name, 0, &err), bad[i].status);
        assert_null(s);
        assert_non_null(strstr(err.text, bad[i].text));
    }
    model_source_close(NULL);
}

/* Rectangles of odd sizes at odd places, all over a tensor, against the tensor as a whole. */
static void any_rectangle_holds_the_numbers_of_the_whole(void **state) {
    (void)state;
    struct model_source *s = open_source("3x31x3x3x10x37x59", 5);
    static const struct {
        enum tensor tensor;
        int64_t rows, cols;
    } tensors[] = {{TENSOR_Q, 30, 31},     {TENSOR_DOWN, 31, 37},  {TENSOR_O, 31, 30},
                   {TENSOR_EMBED, 59, 31}, {TENSOR_Q_BIAS, 1, 30}, {TENSOR_POST_NORM, 1, 31}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const int64_t R = tensors[i].rows, C = tensors[i].cols;
        bf16 *whole = malloc((size_t)(R * C) * sizeof *whole);
        float part[16 * 17];
        s->read(s, tensors[i].tensor, 1, 0, R, 0, C, DTYPE_BF16, whole, C, NULL);
        for (int64_t row = 0; row < R; row += 5)
            for (int64_t col = 0; col < C; col += 3) {
                const int64_t rows = R - row < 7 ? R - row : 7, cols = C - col < 11 ? C - col : 11;
                for (int k = 0; k < 16 * 17; k++) part[k] = -99;
                s->read(s, tensors[i].tensor, 1, row, rows, col, cols, DTYPE_F32, part, 17, NULL);
                for (int64_t r = 0; r < 16; r++)
                    for (int64_t c = 0; c < 17; c++)
                        assert_true(part[r * 17 + c] ==
                                    (r < rows && c < cols
                                         ? bf16_to_f32(whole[(row + r) * C + col + c])
                                         : -99));
            }
        free(whole);
    }
    model_source_close(s);
}

static void large_rectangles_cut_over_threads_hold_the_same_numbers(void **state) {
    (void)state;
    struct model_source *s = open_source("nano", 9);
    enum { ROWS = 1408, COLS = 512 };
    bf16 *whole = malloc(sizeof(bf16[ROWS][COLS])), row[COLS];
    s->read(s, TENSOR_UP, 3, 0, ROWS, 0, COLS, DTYPE_BF16, whole, COLS, NULL);
    for (int i = 0; i < ROWS; i++) {
        s->read(s, TENSOR_UP, 3, i, 1, 0, COLS, DTYPE_BF16, row, COLS, NULL);
        assert_memory_equal(row, whole + (size_t)i * COLS, sizeof row);
    }
    free(whole);
    model_source_close(s);
}

static void values_have_the_variance_of_their_fan_in(void **state) {
    (void)state;
    struct model_source *s = open_source("nano", 1);
    static const struct {
        enum tensor tensor;
        int64_t rows, cols;
        double mean, deviation;
    } t[] = {{TENSOR_Q, 512, 512, 0, 0.04419},     {TENSOR_DOWN, 512, 1408, 0, 0.02665},
             {TENSOR_O, 512, 512, 0, 0.04419},     {TENSOR_EMBED, 2048, 512, 0, 1},
             {TENSOR_HEAD, 2048, 512, 0, 0.04419}, {TENSOR_INPUT_NORM, 1, 512, 1, 0.1},
             {TENSOR_V_BIAS, 1, 256, 0, 0.1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const int64_t n = t[i].rows * t[i].cols;
        float *x = malloc((size_t)n * sizeof *x);
        double sum = 0, squares = 0;
        s->read(s, t[i].tensor, 0, 0, t[i].rows, 0, t[i].cols, DTYPE_F32, x, t[i].cols, NULL);
        for (int64_t k = 0; k < n; k++) sum += (double)x[k];
        for (int64_t k = 0; k < n; k++) squares += pow((double)x[k] - sum / (double)n, 2);
        const double deviation = sqrt(squares / (double)n);
        assert_true(fabs(sum / (double)n - t[i].mean) < 5 * t[i].deviation / sqrt((double)n));
        assert_true(fabs(deviation / t[i].deviation - 1) < 5 / sqrt((double)n));
        free(x);
    }
    model_source_close(s);
}

static void tensors_layers_and_seeds_differ(void **state) {
    (void)state;
    enum { N = 256 };
    struct model_source *a = open_source("nano", 1), *b = open_source("nano", 2);
    bf16 x[N], y[N];
    a->read(a, TENSOR_Q, 0, 0, 1, 0, N, DTYPE_BF16, x, N, NULL);
    a->read(a, TENSOR_K, 0, 0, 1, 0, N, DTYPE_BF16, y, N, NULL);
    assert_memory_not_equal(x, y, sizeof x);
    a->read(a, TENSOR_Q, 1, 0, 1, 0, N, DTYPE_BF16, y, N, NULL);
    assert_memory_not_equal(x, y, sizeof x);
    b->read(b, TENSOR_Q, 0, 0, 1, 0, N, DTYPE_BF16, y, N, NULL);
    assert_memory_not_equal(x, y, sizeof x);
    model_source_close(a);
    model_source_close(b);
}

/* ---- made where they are to lie */

static struct weights *load(struct device *dev, struct model_source *s, struct ranks ranks,
                            enum dtype dtype) {
    struct weights *w;
    struct error err = {""};
    if (weights_load(&w, dev, s, ranks, dtype, (struct load_stops){NULL, NULL}, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return w;
}

static void assert_same_weight(const struct weight *a, const struct weight *b) {
    void *rows[2], *bias[2];
    assert_int_equal(a != NULL, b != NULL);
    if (!a) return;
    const struct weight_shape s = weight_shape(a);
    device_weight_place(a, &rows[0], &bias[0]);
    device_weight_place(b, &rows[1], &bias[1]);
    assert_memory_equal(rows[0], rows[1], (size_t)s.N * (size_t)s.K * dtype_bytes(s.dtype));
    assert_int_equal(bias[0] != NULL, s.bias);
    if (s.bias) assert_memory_equal(bias[0], bias[1], (size_t)s.N * dtype_bytes(s.dtype));
}

/* linear: a kernel whose weights are plain rows, made in place, or one whose weights are packed. */
static void compare_made(const char *linear, bool plain, enum dtype dtype, struct ranks ranks) {
    struct model_source *made = open_source("2x64x8x4x16x96x250", 3);
    struct model_source *read = open_source("2x64x8x4x16x96x250", 3);
    struct device_opts o = device_opts_defaults();
    struct device *dev;
    o.linear = linear;
    o.dtype = dtype;
    o.head_dim = 16;
    assert_int_equal(device_open(&dev, &o, NULL), STATUS_OK);
    assert_int_equal(device_weights_are_plain(dev), plain);
    assert_non_null(made->matrix);
    read->matrix = NULL;
    struct weights *a = load(dev, made, ranks, dtype), *b = load(dev, read, ranks, dtype);
    const struct model_config *m = &made->config;
    const size_t item = dtype_bytes(dtype), row = (size_t)m->C * item;
    for (int r = ranks.begin; r < ranks.end; r++) {
        const size_t V = (size_t)shard_of(m, ranks.tp, r).V;
        for (int i = 0; plain && i < m->layers * LINEARS; i++)
            assert_same_weight(a->rank[r].layer[i / LINEARS].linear[i % LINEARS],
                               b->rank[r].layer[i / LINEARS].linear[i % LINEARS]);
        assert_memory_equal(a->rank[r].embed, b->rank[r].embed, V * row);
        assert_memory_equal(a->rank[r].head, b->rank[r].head, V * row);
    }
    for (int i = 0; i < m->layers; i++) {
        assert_memory_equal(a->norms[i].input, b->norms[i].input, row);
        assert_memory_equal(a->norms[i].post, b->norms[i].post, row);
    }
    assert_memory_equal(a->final_norm, b->final_norm, row);
    weights_close(a);
    weights_close(b);
    device_close(dev);
    model_source_close(made);
    model_source_close(read);
}

static void weights_made_in_place_are_those_that_are_read(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        compare_made("ref", true, dtype, (struct ranks){1, 0, 1});
        compare_made("ref", true, dtype, (struct ranks){2, 0, 2});
        compare_made("ref", true, dtype, (struct ranks){4, 2, 4});
    }
    compare_made("avx2", false, DTYPE_F32, (struct ranks){2, 0, 2});
}

static void tokens_have_a_text(void **state) {
    (void)state;
    struct model_config needle, nano;
    char text[16], small[4];
    assert_int_equal(engine_model_config("needle", &needle, NULL), STATUS_OK);
    assert_int_equal(engine_model_config("random:nano", &nano, NULL), STATUS_OK);
    assert_int_equal(engine_token_text(&needle, 'a', text, sizeof text), 1);
    assert_string_equal(text, "a");
    assert_int_equal(engine_token_text(&needle, 0, text, sizeof text), 1);
    assert_int_equal(text[0], 0);
    engine_token_text(&needle, needle.eos[0], text, sizeof text);
    assert_string_equal(text, "<eos>");
    for (int id = 256; id < needle.V; id++) {
        const size_t n = engine_token_text(&needle, id, text, sizeof text);
        assert_true(n == strlen(text) && text[0] == '<' && text[n - 1] == '>');
    }
    assert_int_equal(engine_token_text(&nano, 'a', text, sizeof text), 4);
    assert_string_equal(text, "<97>");
    assert_int_equal(engine_token_text(&nano, 97, small, sizeof small), 4);
    assert_string_equal(small, "<97");
    assert_int_equal(engine_token_text(&nano, 97, NULL, 0), 4);
}

static void bytes_become_their_ids(void **state) {
    (void)state;
    int32_t ids[3];
    engine_bytes_to_tokens("a\xff\x00", 3, ids);
    assert_true(ids[0] == 'a' && ids[1] == 255 && ids[2] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_the_shapes_of_the_real_models),
        cmocka_unit_test(every_listed_model_can_be_configured),
        cmocka_unit_test(shapes_are_spelled_out),
        cmocka_unit_test(names_that_mean_nothing_say_what_is_accepted),
        cmocka_unit_test(any_rectangle_holds_the_numbers_of_the_whole),
        cmocka_unit_test(large_rectangles_cut_over_threads_hold_the_same_numbers),
        cmocka_unit_test(values_have_the_variance_of_their_fan_in),
        cmocka_unit_test(tensors_layers_and_seeds_differ),
        cmocka_unit_test(weights_made_in_place_are_those_that_are_read),
        cmocka_unit_test(tokens_have_a_text),
        cmocka_unit_test(bytes_become_their_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
