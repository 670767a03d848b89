/* The needle model, its prompts and the truth about them: codes and weights against the properties
 * that the construction rests on, and the analytic logits against a plain float64 transformer that
 * reads the weights and knows nothing of the construction. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model.h"
#include "engine/needle_codes.h"
#include "kernels/bf16.h"

static const char *const shapes[] = {"8x4x64", "4x4x64", "28x4x128"};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const struct attention_pattern plain = {0, 0}, small_chunks = {512, 128},
                                      dual_chunk = {253952, 8192};

/* ---- codes and weights */

static void identities_of_a_slice_stay_apart(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct needle_codes c;
        struct needle_shape s;
        assert_true(needle_shape_find(shapes[i], &s));
        needle_codes_make(&c, &s);
        const int limit = s.t == 16 ? 8 : s.t == 32 ? 12 : 20;
        for (int k = 0; k < s.K; k++)
            for (int a = 0; a < NEEDLE_VOCAB; a++)
                for (int b = 0; b < a; b++) {
                    int dot = 0;
                    for (int d = 0; d < s.t; d++)
                        dot +=
                            needle_identity_code(&c, k, a, d) * needle_identity_code(&c, k, b, d);
                    if (needle_identity(a) == needle_identity(b))
                        assert_int_equal(dot, s.t);
                    else
                        assert_true(dot <= limit);
                }
    }
}

static void value_codes_are_orthogonal(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct needle_codes c;
        struct needle_shape s;
        assert_true(needle_shape_find(shapes[i], &s));
        needle_codes_make(&c, &s);
        for (int a = 0; a < NEEDLE_VALUES; a++)
            for (int b = 0; b < NEEDLE_VALUES; b++) {
                int dot = 0;
                for (int d = 0; d < s.K * s.v; d++)
                    dot += needle_value_code(&c, a, d) * needle_value_code(&c, b, d);
                assert_int_equal(dot, a == b ? s.K * s.v : 0);
            }
    }
}

static void configuration_is_that_of_a_long_context_qwen2(void **state) {
    (void)state;
    struct model_config m;
    assert_true(needle_model_config(NULL, &m));
    assert_string_equal(m.name, "needle:8x4x64");
    assert_true(needle_is_model(&m));
    assert_int_equal(m.C, 512);
    assert_int_equal(m.V, 384);
    assert_int_equal(m.layers, 3);
    assert_true(m.max_position_embeddings >= 1048576 + 256);
    assert_int_equal(m.dual_chunk.chunk, 253952);
    assert_int_equal(m.dual_chunk.chunk % KV_TILE, 0);
    assert_int_equal(m.dual_chunk.chunk + m.dual_chunk.local, m.dual_chunk_original_max);
    assert_false(needle_model_config("8x4x65", &m));
    strcpy(m.name, "random:nano");
    assert_false(needle_is_model(&m));
}

static void unknown_shape_names_those_that_exist(void **state) {
    (void)state;
    struct model_source *s;
    struct error err;
    assert_int_equal(needle_model_open(&s, "2x2x2", &err), STATUS_USAGE);
    assert_null(s);
    assert_non_null(strstr(err.text, "28x4x128"));
}

struct extent {
    int64_t rows, cols;
};
static struct extent tensor_extent(const struct model_config *m, enum tensor t) {
    const int64_t q = (int64_t)m->H * m->D, kv = (int64_t)m->K * m->D;
    const struct extent all[TENSORS] = {
        [TENSOR_EMBED] = {m->V, m->C}, [TENSOR_INPUT_NORM] = {1, m->C},
        [TENSOR_Q] = {q, m->C},        [TENSOR_Q_BIAS] = {1, q},
        [TENSOR_K] = {kv, m->C},       [TENSOR_K_BIAS] = {1, kv},
        [TENSOR_V] = {kv, m->C},       [TENSOR_V_BIAS] = {1, kv},
        [TENSOR_O] = {m->C, q},        [TENSOR_POST_NORM] = {1, m->C},
        [TENSOR_GATE] = {m->F, m->C},  [TENSOR_UP] = {m->F, m->C},
        [TENSOR_DOWN] = {m->C, m->F},  [TENSOR_FINAL_NORM] = {1, m->C},
        [TENSOR_HEAD] = {m->V, m->C},
    };
    return all[t];
}

static float *read_all(struct model_source *s, enum tensor t, int layer) {
    const struct extent e = tensor_extent(&s->config, t);
    float *out = malloc((size_t)(e.rows * e.cols) * sizeof *out);
    assert_non_null(out);
    assert_int_equal(s->read(s, t, layer, 0, e.rows, 0, e.cols, DTYPE_F32, out, e.cols, NULL),
                     STATUS_OK);
    return out;
}

static void a_rectangle_is_that_part_of_the_tensor(void **state) {
    (void)state;
    struct model_source *s;
    assert_int_equal(needle_model_open(&s, "8x4x64", NULL), STATUS_OK);
    for (int t = 0; t < TENSORS; t++)
        for (int layer = 0; layer < s->config.layers; layer++) {
            const struct extent e = tensor_extent(&s->config, t);
            const int64_t row = e.rows / 3, rows = e.rows - row - e.rows / 5;
            const int64_t col = e.cols / 7, cols = e.cols / 2, ld = cols + 3;
            float *whole = read_all(s, t, layer);
            bf16 *part = malloc((size_t)(rows * ld) * sizeof *part);
            assert_non_null(part);
            memset(part, 0xa5, (size_t)(rows * ld) * sizeof *part);
            assert_int_equal(s->read(s, t, layer, row, rows, col, cols, DTYPE_BF16, part, ld, NULL),
                             STATUS_OK);
            for (int64_t i = 0; i < rows; i++) {
                for (int64_t j = 0; j < cols; j++)
                    assert_true(bf16_to_f32(part[i * ld + j]) ==
                                whole[(row + i) * e.cols + col + j]);
                for (int64_t j = cols; j < ld; j++) assert_int_equal(part[i * ld + j], 0xa5a5);
            }
            free(part);
            free(whole);
        }
    model_source_close(s);
}

/* T, P of +-1 and V, or what the layers put beside it, come to the same norm for every token. */
static void every_token_has_the_design_norm(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct model_source *s;
        struct needle_shape shape;
        assert_int_equal(needle_model_open(&s, shapes[i], NULL), STATUS_OK);
        assert_true(needle_shape_find(shapes[i], &shape));
        const int C = s->config.C;
        float *table = read_all(s, TENSOR_EMBED, 0);
        for (int n = 0; n < NEEDLE_VOCAB; n++) {
            double sum = shape.K * shape.t; /* P, written by layer 1 */
            for (int c = 0; c < C; c++) sum += (double)table[n * C + c] * table[n * C + c];
            assert_true(fabs(sqrt(sum / C) / 64 - 1) < 2e-4);
        }
        free(table);
        model_source_close(s);
    }
}

/* What makes exchanged gates of two ranks visible, and keeps the copies exact. */
static void gates_differ_from_rank_to_rank_and_are_undone_exactly(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct model_source *s;
        struct needle_shape shape;
        assert_int_equal(needle_model_open(&s, shapes[i], NULL), STATUS_OK);
        assert_true(needle_shape_find(shapes[i], &shape));
        const int C = s->config.C, F = s->config.F;
        float *gate = read_all(s, TENSOR_GATE, 1), *down = read_all(s, TENSOR_DOWN, 1);
        for (int tp = 2; tp <= 8; tp *= 2)
            for (int a = 0; a < tp; a++)
                for (int b = 0; b < a; b++) {
                    int differ = 0;
                    for (int f = 0; f < F / tp; f++)
                        differ += gate[(a * F / tp + f) * C + shape.ones] !=
                                  gate[(b * F / tp + f) * C + shape.ones];
                    assert_true(differ > F / tp * 3 / 4);
                }
        for (int f = 0; f < F; f++) {
            /* layer 2: norm gain 64 (the fourth of 8, 16, ...), two neurons for each dimension */
            const double g = (double)gate[f * C + shape.ones] * 64, silu = g / (1 + exp(-g));
            double w = 0;
            for (int c = 0; c < C; c++) w += (double)down[c * F + f];
            assert_true(g >= 1 && g < 4);
            assert_true(fabs(w * silu + 1) <= 0x1p-10);
            assert_true(fabs(w * (double)bf16_to_f32(f32_to_bf16((float)silu)) + 1) <= 0x1p-10);
        }
        free(gate);
        free(down);
        model_source_close(s);
    }
}

/* ---- the phase */

static void phase_follows_the_definition_of_dual_chunk_attention(void **state) {
    (void)state;
    const int32_t Lc = 253952, C = 262144;
    assert_int_equal(needle_phase(plain, 1000000, 1), 999999);
    assert_int_equal(needle_phase(dual_chunk, Lc - 1, 0), Lc - 1);
    assert_int_equal(needle_phase(dual_chunk, Lc, Lc - 1), 1);
    assert_int_equal(needle_phase(dual_chunk, Lc + 8191, Lc - 1), 8192);
    assert_int_equal(needle_phase(dual_chunk, Lc + 8192, Lc - 1), C - Lc + 1);
    assert_int_equal(needle_phase(dual_chunk, 2 * Lc - 1, Lc - 1), C - Lc + 1);
    assert_int_equal(needle_phase(dual_chunk, 2 * Lc, Lc - 1), C - Lc + 1);
    assert_int_equal(needle_phase(dual_chunk, 4 * Lc + 7, 5), C - 5);
    assert_int_equal(needle_phase(dual_chunk, 4 * Lc + 7, 4 * Lc), 7);
}

/* ---- prompts */

static struct needle_prompt build(int32_t length, const double *depths, int n,
                                  struct attention_pattern pattern, uint64_t seed) {
    struct needle_prompt p;
    struct error err = {""};
    const enum status s = needle_prompt_build(&p, length, depths, n, pattern, seed, &err);
    if (s != STATUS_OK) fail_msg("%d tokens, seed %d: %s", length, (int)seed, err.text);
    return p;
}

static void prompt_has_the_asked_length_and_ends_with_the_question(void **state) {
    (void)state;
    const int32_t lengths[] = {1024, 1025, 1031, 4099, 65535, 65536, 65537};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct needle_prompt p = build(lengths[i], NULL, 0, plain, 5);
        assert_int_equal(p.length, lengths[i]);
        for (int32_t t = 0; t < p.length; t++) assert_in_range(p.tokens[t], 0, NEEDLE_VOCAB - 1);
        assert_int_equal(p.tokens[p.length - 1], NEEDLE_ANSWER + 4);
        assert_int_equal(p.tokens[p.length - 2], NEEDLE_ANSWER + 4);
        assert_int_equal(p.answer_length, 20);
        assert_int_equal(p.answer[p.answer_length - 1], NEEDLE_EOS);
        needle_prompt_free(&p);
    }
}

static void prompt_depends_on_its_seed_alone(void **state) {
    (void)state;
    struct needle_prompt a = build(5000, NULL, 0, plain, 7), b = build(5000, NULL, 0, plain, 7),
                         c = build(5000, NULL, 0, plain, 8);
    assert_memory_equal(a.tokens, b.tokens, 5000 * sizeof *a.tokens);
    assert_memory_not_equal(a.tokens, c.tokens, 5000 * sizeof *a.tokens);
    needle_prompt_free(&a);
    needle_prompt_free(&b);
    needle_prompt_free(&c);
}

static void filler_holds_every_byte_value(void **state) {
    (void)state;
    struct needle_prompt p = build(65536, NULL, 0, plain, 1);
    int seen[256] = {0}, different = 0;
    for (int32_t t = 0; t < p.length; t++)
        if (p.tokens[t] < 256) different += !seen[p.tokens[t]]++;
    assert_int_equal(different, 256);
    assert_true(seen['e'] > 1000 && seen[0xe3] > seen[0xff]);
    needle_prompt_free(&p);
}

/* Position after `from` of the pair (a b), or -1. */
static int32_t find_pair(const struct needle_prompt *p, int32_t a, int32_t b, int32_t from) {
    for (int32_t t = from < 1 ? 1 : from; t < p->length; t++)
        if (p->tokens[t - 1] == a && p->tokens[t] == b) return t;
    return -1;
}

/* Each answer token that has a needle: (h carrier) at its position, and later (asker h). */
static void every_needle_is_two_hops_and_the_value_comes_first(void **state) {
    (void)state;
    const double depths[] = {0, 1};
    for (int n = 0; n <= 2; n++) {
        struct needle_prompt p = build(3000, n ? depths : NULL, n, plain, 3);
        int needles = 0;
        for (int i = 0; i < p.answer_length; i++) {
            const int32_t at = p.needle_positions[i];
            if (at < 0) continue;
            const int32_t asker = i ? p.answer[i - 1] : p.tokens[p.length - 1];
            needles++;
            assert_int_equal(p.tokens[at], NEEDLE_CARRIER + p.answer[i] - NEEDLE_ANSWER);
            assert_true(find_pair(&p, asker, p.tokens[at - 1], at + 1) > at);
            assert_int_equal(find_pair(&p, p.tokens[at - 1], p.tokens[at], at + 1), -1);
        }
        assert_int_equal(needles, 10);
        needle_prompt_free(&p);
    }
}

static void values_stand_at_the_asked_depth(void **state) {
    (void)state;
    const double depth[] = {0.25};
    struct needle_prompt p = build(100000, depth, 1, plain, 3);
    for (int i = 0; i < p.answer_length; i++)
        if (p.needle_positions[i] >= 0) assert_in_range(p.needle_positions[i], 24500, 25500);
    needle_prompt_free(&p);
}

/* What makes the loss of any chunk visible: a 128th of a long prompt holds pairs of both kinds. */
static void every_128th_of_a_long_prompt_is_counted(void **state) {
    (void)state;
    const struct attention_pattern patterns[] = {plain, dual_chunk};
    for (int i = 0; i < 2; i++) {
        struct needle_prompt p = build(1048576, NULL, 0, patterns[i], 1);
        const int32_t chunk = p.length / 128;
        for (int c = 0; c < 128; c++) {
            int ticks = 0, calls = 0;
            for (int32_t t = c * chunk + 1; t < (c + 1) * chunk; t++) {
                if (p.tokens[t] < NEEDLE_CARRIER) continue;
                ticks += p.tokens[t - 1] >= NEEDLE_TICK && p.tokens[t - 1] < NEEDLE_TICK + 4;
                calls += p.tokens[t - 1] >= NEEDLE_CALL && p.tokens[t - 1] < NEEDLE_CALL + 4;
            }
            assert_true(ticks >= 1 && calls >= 1);
        }
        needle_prompt_free(&p);
    }
}

static void too_short_a_prompt_says_what_is_needed(void **state) {
    (void)state;
    struct needle_prompt p;
    struct error err;
    assert_int_equal(needle_prompt_build(&p, needle_min_length() - 1, NULL, 0, plain, 1, &err),
                     STATUS_USAGE);
    assert_non_null(strstr(err.text, "1024"));
    assert_null(p.tokens);
    assert_int_equal(needle_prompt_build(&p, 2000, (double[]){0.5, 1.01}, 2, plain, 1, &err),
                     STATUS_USAGE);
    assert_int_equal(needle_prompt_build(&p, 2000, (double[]){NAN}, 1, plain, 1, &err),
                     STATUS_USAGE);
    needle_prompt_free(&p);
}

/* ---- the truth */

static float tolerance[20]; /* of the rows of the newest expected() */

static float *expected(const struct model_config *m, const struct needle_prompt *p,
                       struct attention_pattern pattern) {
    float *out = malloc((size_t)p->answer_length * NEEDLE_VOCAB * sizeof *out);
    struct error err = {""};
    assert_non_null(out);
    assert_int_equal(p->answer_length, sizeof tolerance / sizeof *tolerance);
    if (needle_expected_logits(m, p, pattern, out, tolerance, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return out;
}

/* Least distance of a right token's logit from the next best. */
static double least_margin(const struct needle_prompt *p, const float *logits) {
    double least = INFINITY;
    for (int i = 0; i < p->answer_length; i++) {
        const float *row = logits + (size_t)i * NEEDLE_VOCAB;
        for (int n = 0; n < NEEDLE_VOCAB; n++)
            if (n != p->answer[i]) least = fmin(least, (double)row[p->answer[i]] - row[n]);
    }
    return least;
}

static void the_planted_answer_wins_by_a_wide_margin(void **state) {
    (void)state;
    static const int32_t lengths[] = {1024,   1025,   1030,   1061,   1100,    1500,   2048,
                                      3001,   8192,   20000,  65535,  65536,   100003, 253952,
                                      253953, 262144, 507904, 614400, 1000000, 1048576};
    static const double depths[] = {0, 1, 0.5, 0.1, 0.9};
    const struct attention_pattern patterns[] = {plain, small_chunks, dual_chunk};
    for (int i = 0; i < SHAPES; i++) {
        struct model_config m;
        assert_true(needle_model_config(shapes[i], &m));
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            for (int v = 0; v < 3 * 4; v++) {
                const struct attention_pattern pattern = patterns[v % 3];
                const int n = v / 3; /* of the depths; 0: spread */
                if (lengths[l] > 200000 && n > 1) continue;
                struct needle_prompt p = build(lengths[l], n ? depths : NULL, n, pattern, 11 + l);
                float *logits = expected(&m, &p, pattern);
                if (!(least_margin(&p, logits) > (pattern.chunk == 512 ? 0.5 : 1)))
                    fail_msg("%s, %d tokens, pattern %d, %d depths: margin %.2f", shapes[i],
                             lengths[l], pattern.chunk, n, least_margin(&p, logits));
                free(logits);
                needle_prompt_free(&p);
            }
    }
}

static void short_prompts_have_room_whatever_the_seed(void **state) {
    (void)state;
    struct model_config m;
    assert_true(needle_model_config("8x4x64", &m));
    for (uint64_t seed = 0; seed < 60; seed++) {
        const struct attention_pattern pattern = seed % 2 ? small_chunks : plain;
        const double depth[] = {(double)(seed % 11) / 10};
        struct needle_prompt p = build(1024 + (int32_t)(seed % 37), seed % 3 ? depth : NULL,
                                       seed % 3 > 0, pattern, seed);
        float *logits = expected(&m, &p, pattern);
        assert_true(least_margin(&p, logits) > 0.5);
        free(logits);
        needle_prompt_free(&p);
    }
}

/* A lost pair of a census must show in some row by more than the tolerance, at every length. */
static void losing_any_counted_pair_moves_a_logit_beyond_tolerance(void **state) {
    (void)state;
    struct model_config m;
    assert_true(needle_model_config("8x4x64", &m));
    const int32_t lengths[] = {1024, 16384, 1048576};
    for (size_t l = 0; l < 3; l++) {
        struct needle_prompt p = build(lengths[l], NULL, 0, dual_chunk, 2);
        float *right = expected(&m, &p, dual_chunk);
        float allowed[20];
        double least = INFINITY;
        int pairs = 0;
        memcpy(allowed, tolerance, sizeof allowed);
        for (int32_t t = 1; t < p.length; t++) {
            const int32_t first = p.tokens[t - 1];
            const bool counted = p.tokens[t] >= NEEDLE_CARRIER &&
                                 ((first >= NEEDLE_TICK && first < NEEDLE_TICK + 4) ||
                                  (first >= NEEDLE_CALL && first < NEEDLE_CALL + 4));
            if (!counted || pairs++ % 8 != 0) continue;
            p.tokens[t - 1] = ' ';
            float *lost = expected(&m, &p, dual_chunk);
            p.tokens[t - 1] = first;
            double worst = 0;
            for (int i = 0; i < p.answer_length; i++) {
                const float *row = right + (size_t)i * NEEDLE_VOCAB;
                for (int n = 0; n < NEEDLE_VOCAB; n++)
                    worst =
                        fmax(worst, fabs((double)lost[i * NEEDLE_VOCAB + n] - row[n]) / allowed[i]);
            }
            if (!(worst > 1)) fail_msg("%d tokens, pair at %d: %.2f", p.length, t, worst);
            least = fmin(least, worst);
            free(lost);
        }
        print_message("%d tokens: a lost pair moves a logit by %.1f tolerances or more\n", p.length,
                      least);
        assert_true(pairs >= 80);
        free(right);
        needle_prompt_free(&p);
    }
}

static void other_models_have_no_known_logits(void **state) {
    (void)state;
    struct model_config m;
    struct error err;
    assert_true(needle_model_config("8x4x64", &m));
    struct needle_prompt p = build(1024, NULL, 0, plain, 2);
    strcpy(m.name, "random:nano");
    assert_int_equal(needle_expected_logits(&m, &p, plain, NULL, NULL, &err), STATUS_USAGE);
    needle_prompt_free(&p);
}

/* ---- a plain transformer in float64, one sequence at once */

struct forward {
    const struct model_config *m;
    int T;
    double *h, *x, *q, *k, *v, *a, *g, *u; /* [T][C], [T][C], [T][H*D], [T][K*D] x 2, [T][H*D],
                                              [T][F] x 2 */
};

static double *numbers(int64_t n) {
    double *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static void multiply(double *y, const double *x, int T, struct model_source *s, enum tensor t,
                     int layer, const float *bias, bool add) {
    const struct extent e = tensor_extent(&s->config, t);
    float *w = read_all(s, t, layer);
    for (int i = 0; i < T; i++)
        for (int64_t n = 0; n < e.rows; n++) {
            double sum = bias ? bias[n] : 0;
            for (int64_t c = 0; c < e.cols; c++) sum += x[i * e.cols + c] * w[n * e.cols + c];
            y[i * e.rows + n] = add ? y[i * e.rows + n] + sum : sum;
        }
    free(w);
}

static void project(double *y, const double *x, int T, struct model_source *s, enum tensor t,
                    int layer) {
    float *bias = read_all(s, t + 1, layer);
    multiply(y, x, T, s, t, layer, bias, false);
    free(bias);
}

static void norm(struct forward *f, struct model_source *s, enum tensor t, int layer) {
    float *gain = read_all(s, t, layer);
    const int C = f->m->C;
    for (int i = 0; i < f->T; i++) {
        double sum = 0;
        for (int c = 0; c < C; c++) sum += f->h[i * C + c] * f->h[i * C + c];
        const double r = 1 / sqrt(sum / C + (double)f->m->rms_norm_eps);
        for (int c = 0; c < C; c++) f->x[i * C + c] = f->h[i * C + c] * r * gain[c];
    }
    free(gain);
}

static void rotate(double *x, int D, double theta, int64_t position) {
    for (int i = 0; i < D / 2; i++) {
        const double angle = (double)position * pow(theta, -2.0 * i / D);
        const double a = x[i], b = x[i + D / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + D / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void attend(struct forward *f) {
    const int H = f->m->H, K = f->m->K, D = f->m->D;
    double *score = numbers(f->T);
    for (int i = 0; i < f->T; i++)
        for (int h = 0; h < H; h++) {
            const double *q = f->q + (i * H + h) * D;
            double sum = 0, top = -INFINITY;
            for (int j = 0; j <= i; j++) {
                const double *k = f->k + (j * K + h / (H / K)) * D;
                score[j] = 0;
                for (int d = 0; d < D; d++) score[j] += q[d] * k[d] / sqrt(D);
                top = fmax(top, score[j]);
            }
            double *out = f->a + (i * H + h) * D;
            memset(out, 0, (size_t)D * sizeof *out);
            for (int j = 0; j <= i; j++) {
                const double p = exp(score[j] - top), *v = f->v + (j * K + h / (H / K)) * D;
                sum += p;
                if (p > 1e-30)
                    for (int d = 0; d < D; d++) out[d] += p * v[d];
            }
            for (int d = 0; d < D; d++) out[d] /= sum;
        }
    free(score);
}

static void layer(struct forward *f, struct model_source *s, int l) {
    const struct model_config *m = f->m;
    norm(f, s, TENSOR_INPUT_NORM, l);
    project(f->q, f->x, f->T, s, TENSOR_Q, l);
    project(f->k, f->x, f->T, s, TENSOR_K, l);
    project(f->v, f->x, f->T, s, TENSOR_V, l);
    for (int i = 0; i < f->T; i++) {
        for (int h = 0; h < m->H; h++) rotate(f->q + (i * m->H + h) * m->D, m->D, m->rope_theta, i);
        for (int h = 0; h < m->K; h++) rotate(f->k + (i * m->K + h) * m->D, m->D, m->rope_theta, i);
    }
    attend(f);
    multiply(f->h, f->a, f->T, s, TENSOR_O, l, NULL, true);
    norm(f, s, TENSOR_POST_NORM, l);
    multiply(f->g, f->x, f->T, s, TENSOR_GATE, l, NULL, false);
    multiply(f->u, f->x, f->T, s, TENSOR_UP, l, NULL, false);
    for (int64_t i = 0; i < (int64_t)f->T * m->F; i++) f->u[i] *= f->g[i] / (1 + exp(-f->g[i]));
    multiply(f->h, f->u, f->T, s, TENSOR_DOWN, l, NULL, true);
}

static void analytic_logits_are_those_of_a_plain_transformer(void **state) {
    (void)state;
    struct model_source *s;
    assert_int_equal(needle_model_open(&s, "4x4x64", NULL), STATUS_OK);
    const struct model_config *m = &s->config;
    struct needle_prompt p = build(1024, NULL, 0, plain, 4);
    float *truth = expected(m, &p, plain), *table = read_all(s, TENSOR_EMBED, 0);
    const int T = p.length + p.answer_length - 1, C = m->C;
    struct forward f = {
        .m = m,
        .T = T,
        .h = numbers((int64_t)T * C),
        .x = numbers((int64_t)T * C),
        .q = numbers((int64_t)T * m->H * m->D),
        .k = numbers((int64_t)T * m->K * m->D),
        .v = numbers((int64_t)T * m->K * m->D),
        .a = numbers((int64_t)T * m->H * m->D),
        .g = numbers((int64_t)T * m->F),
        .u = numbers((int64_t)T * m->F),
    };
    for (int i = 0; i < T; i++) {
        const int32_t token = i < p.length ? p.tokens[i] : p.answer[i - p.length];
        for (int c = 0; c < C; c++) f.h[i * C + c] = table[token * C + c];
    }
    for (int l = 0; l < m->layers; l++) layer(&f, s, l);
    norm(&f, s, TENSOR_FINAL_NORM, 0);
    double *logits = numbers((int64_t)p.answer_length * m->V);
    multiply(logits, f.x + (size_t)(p.length - 1) * C, p.answer_length, s, TENSOR_HEAD, 0, NULL,
             false);
    double worst = 0;
    for (int i = 0; i < p.answer_length; i++) {
        const float *row = truth + (size_t)i * m->V;
        for (int n = 0; n < m->V; n++)
            worst = fmax(worst, fabs(logits[i * m->V + n] - row[n]) / tolerance[i]);
    }
    print_message("worst difference %.3f of the tolerance\n", worst);
    assert_true(worst < 0.5);
    free(logits);
    for (double **x = &f.h; x <= &f.u; x++) free(*x);
    free(truth);
    free(table);
    needle_prompt_free(&p);
    model_source_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identities_of_a_slice_stay_apart),
        cmocka_unit_test(value_codes_are_orthogonal),
        cmocka_unit_test(configuration_is_that_of_a_long_context_qwen2),
        cmocka_unit_test(unknown_shape_names_those_that_exist),
        cmocka_unit_test(a_rectangle_is_that_part_of_the_tensor),
        cmocka_unit_test(every_token_has_the_design_norm),
        cmocka_unit_test(gates_differ_from_rank_to_rank_and_are_undone_exactly),
        cmocka_unit_test(phase_follows_the_definition_of_dual_chunk_attention),
        cmocka_unit_test(prompt_has_the_asked_length_and_ends_with_the_question),
        cmocka_unit_test(prompt_depends_on_its_seed_alone),
        cmocka_unit_test(filler_holds_every_byte_value),
        cmocka_unit_test(every_needle_is_two_hops_and_the_value_comes_first),
        cmocka_unit_test(values_stand_at_the_asked_depth),
        cmocka_unit_test(every_128th_of_a_long_prompt_is_counted),
        cmocka_unit_test(too_short_a_prompt_says_what_is_needed),
        cmocka_unit_test(the_planted_answer_wins_by_a_wide_margin),
        cmocka_unit_test(short_prompts_have_room_whatever_the_seed),
        cmocka_unit_test(losing_any_counted_pair_moves_a_logit_beyond_tolerance),
        cmocka_unit_test(other_models_have_no_known_logits),
        cmocka_unit_test(analytic_logits_are_those_of_a_plain_transformer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
