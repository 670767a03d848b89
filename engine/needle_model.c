/* The embedded model: a three-layer Qwen2 whose weights are formulas, so that its answers are known
 * in advance. A model_source like any other; engine.c reads it and cannot tell it from a
 * checkpoint. The codes come from needle_codes.c, the truth about its logits is needle_oracle.c's.
 *
 *   layer 1  every head looks one position back (query and key are constants from the bias, RoPE
 *            turns their product into a peak at distance 1) and copies its slice of T there to P
 *   layer 2  query T here, key P there: rows whose token before is this token; copies V to R
 *   layer 3  the same lookup; copies R + V to O, from where the head reads the answer
 *
 * Attention writes the negative of a code, the MLP of the layer adds it twice: without its MLP a
 * layer gives the opposite answer. Every token has the same design norm (RMS), held by the constant
 * dimensions, so that RMSNorm is a fixed gain. What makes a fault visible in the logits although
 * the tokens stay right: norm gains that differ from place to place, a position weight that differs
 * from query head to query head, gate factors that differ from neuron to neuron, a faint signature
 * in the v bias. */
#include "engine/model.h"
#include "engine/needle_codes.h"
#include "kernels/bf16.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double THETA = 1e15;     /* low frequencies turn less than 0.03 rad in 2^20 tokens */
static const double PEAK_SCORE = 40;  /* layer 1: per pair of dimensions */
static const double MATCH_SCORE = 64; /* layers 2 and 3 */
static const double RMS = 64;         /* of the residual stream */
enum { NORMS = 2 * NEEDLE_LAYERS + 1, GATE_FACTORS_MAX = 256 };

struct needle_source {
    struct model_source source; /* first: the two share their address */
    struct needle_codes codes;
    double norm_dims[2]; /* the two constants that bring every row to RMS */
    int gate_factor_count;
    double gate_factors[GATE_FACTORS_MAX];
};

/* ---- configuration */

bool needle_model_config(const char *shape, struct model_config *out) {
    struct needle_shape s;
    if (!needle_shape_find(shape, &s)) return false;
    *out = (struct model_config){
        .layers = NEEDLE_LAYERS,
        .C = s.C,
        .H = s.H,
        .K = s.K,
        .D = s.D,
        .F = s.F,
        .V = NEEDLE_VOCAB,
        .rms_norm_eps = 1e-5f,
        .rope_theta = THETA,
        .max_position_embeddings = 1048576 + 4096,
        .dual_chunk = {.chunk = 262144 - 8192, .local = 8192},
        .dual_chunk_original_max = 262144,
        .eos = {NEEDLE_EOS},
        .eos_count = 1,
    };
    snprintf(out->name, sizeof out->name, "needle:%dx%dx%d", s.H, s.K, s.D);
    return true;
}

bool needle_is_model(const struct model_config *m) {
    static const char prefix[] = "needle:";
    struct needle_shape s;
    return strncmp(m->name, prefix, sizeof prefix - 1) == 0 &&
           needle_shape_find(m->name + sizeof prefix - 1, &s) && m->name[sizeof prefix - 1] &&
           m->H == s.H && m->K == s.K && m->D == s.D && m->C == s.C && m->V == NEEDLE_VOCAB;
}

/* ---- rows of tensors: each function names the elements of row i that are not zero */

/* The part of a row that was asked for. */
struct row {
    int64_t col, cols;
    enum dtype dtype;
    void *out; /* [cols] */
};

static void set(const struct row *r, int64_t col, double value) {
    if (col < r->col || col >= r->col + r->cols) return;
    const bf16 x = f32_to_bf16((float)value);
    if (r->dtype == DTYPE_BF16)
        ((bf16 *)r->out)[col - r->col] = x;
    else
        ((float *)r->out)[col - r->col] = bf16_to_f32(x);
}

static double norm_gain(int norm) {
    return ldexp(1, 3 + norm);
}
/* A weight that reads a normed row of layer l's attention or MLP as if it had not been normed. */
static double undo_attention_norm(int layer) {
    return RMS / norm_gain(2 * layer);
}
static double undo_mlp_norm(int layer) {
    return RMS / norm_gain(2 * layer + 1);
}

static double inv_freq(const struct needle_shape *s, int i) {
    return pow(THETA, -2.0 * i / s->D);
}

/* Layers 2 and 3 match in the head dimensions of the lowest frequencies: index of such a dimension
 * in the slice, or -1. */
static int slice_index(const struct needle_shape *s, int dim) {
    const int half = s->D / 2, first = half - s->t / 2;
    if (dim % half < first) return -1;
    return dim % half - first + (dim >= half ? s->t / 2 : 0);
}

/* What layer l copies: slices of n dimensions from one subspace to another. */
struct copy {
    int32_t from, to, n;
};
static struct copy layer_copy(const struct needle_shape *s, int layer) {
    const struct copy copies[NEEDLE_LAYERS] = {
        {s->T, s->P, s->t}, {s->V, s->R, s->v}, {s->R, s->O, s->v}};
    return copies[layer];
}

static void embed_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_codes *c = &n->codes;
    const struct needle_shape *s = &c->shape;
    const int32_t token = (int32_t)i;
    const int value = needle_value(token);

    (void)layer;
    set(r, s->ones, RMS);
    set(r, s->ones + 1, n->norm_dims[0]);
    set(r, s->ones + 2, n->norm_dims[1]);
    for (int k = 0; k < s->K; k++)
        for (int d = 0; d < s->t; d++)
            set(r, s->T + k * s->t + d, needle_identity_code(c, k, token, d));
    for (int d = 0; value >= 0 && d < s->K * s->v; d++)
        set(r, s->V + d, needle_value_code(c, value, d));
}

static void gain_row(const struct needle_source *n, int norm, const struct row *r) {
    for (int d = 0; d < n->codes.shape.C; d++) set(r, d, norm_gain(norm));
}
static void input_norm_row(const struct needle_source *n, int layer, int64_t i,
                           const struct row *r) {
    (void)i;
    gain_row(n, 2 * layer, r);
}
static void post_norm_row(const struct needle_source *n, int layer, int64_t i,
                          const struct row *r) {
    (void)i;
    gain_row(n, 2 * layer + 1, r);
}
static void final_norm_row(const struct needle_source *n, int layer, int64_t i,
                           const struct row *r) {
    (void)layer, (void)i;
    gain_row(n, NORMS - 1, r);
}

static void q_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const int k = (int)i / s->D / s->G, at = slice_index(s, (int)i % s->D);
    if (layer == 0 || at < 0) return;
    set(r, s->T + k * s->t + at, undo_attention_norm(layer) * MATCH_SCORE * sqrt(s->D) / s->t);
}

static void q_bias_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const int half = s->D / 2;

    (void)i;
    for (int h = 0; h < s->H; h++) {
        if (layer > 0) {
            set(r, h * s->D, needle_position_weight(s, h % s->G) * sqrt(s->D));
            continue;
        }
        for (int d = 0; d < s->D / 4; d++) {
            set(r, h * s->D + d, PEAK_SCORE * sqrt(s->D) * cos(inv_freq(s, d)));
            set(r, h * s->D + half + d, -PEAK_SCORE * sqrt(s->D) * sin(inv_freq(s, d)));
        }
    }
}

static void k_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const int k = (int)i / s->D, at = slice_index(s, (int)i % s->D);
    if (layer == 0 || at < 0) return;
    set(r, s->P + k * s->t + at, undo_attention_norm(layer));
}

static void k_bias_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    (void)i;
    for (int k = 0; k < s->K; k++)
        for (int d = 0; d < (layer == 0 ? s->D / 4 : 1); d++) set(r, k * s->D + d, 1);
}

static void v_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const struct copy copy = layer_copy(s, layer);
    const int k = (int)i / s->D, dim = (int)i % s->D, spacing = s->D / copy.n;
    if (dim % spacing) return;
    set(r, copy.from + k * copy.n + dim / spacing, undo_attention_norm(layer));
    if (layer == 2) set(r, s->V + k * copy.n + dim / spacing, undo_attention_norm(layer));
}

static void v_bias_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    (void)i;
    if (layer == 0) return;
    for (int d = 0; d < s->K * s->v; d++)
        set(r, d / s->v * s->D + d % s->v * (s->D / s->v),
            NEEDLE_SIGNATURE_WEIGHT * needle_value_code(&n->codes, NEEDLE_SIGNATURE, d));
}

/* The G query heads of a group see the same slice; dimension d of it is head d mod G's to copy. */
static void o_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const struct copy copy = layer_copy(s, layer);
    const int at = (int)i - copy.to;
    if (at < 0 || at >= s->K * copy.n) return;
    const int k = at / copy.n, d = at % copy.n;
    set(r, (k * s->G + d % s->G) * s->D + d * (s->D / copy.n), -1);
}

/* Neuron f of the MLP copies one dimension of the layer's target; several share it if F is larger.
 */
static int neuron_dim(const struct needle_shape *s, int layer, int f) {
    const struct copy copy = layer_copy(s, layer);
    return copy.to + f * (s->K * copy.n) / s->F;
}
/* Neighbouring ranks' neurons have other factors: the number of factors divides no slice. */
static double gate_factor(const struct needle_source *n, int f) {
    return n->gate_factors[f % n->gate_factor_count];
}
static double silu(double x) {
    return x / (1 + exp(-x));
}

static void gate_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    set(r, s->ones, gate_factor(n, (int)i) * undo_mlp_norm(layer) / RMS);
}

static void up_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    set(r, neuron_dim(&n->codes.shape, layer, (int)i), undo_mlp_norm(layer));
}

static void down_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_shape *s = &n->codes.shape;
    const int copied = s->K * layer_copy(s, layer).n;
    for (int f = 0; f < s->F; f++) {
        if (neuron_dim(s, layer, f) != i) continue;
        set(r, f, -2.0 * copied / s->F / silu(gate_factor(n, f)));
    }
}

static void head_row(const struct needle_source *n, int layer, int64_t i, const struct row *r) {
    const struct needle_codes *c = &n->codes;
    const struct needle_shape *s = &c->shape;
    const int32_t token = (int32_t)i;
    const bool answers = token >= NEEDLE_ANSWER && token < NEEDLE_ANSWER + NEEDLE_VALUES;
    const double undo = RMS / norm_gain(NORMS - 1);
    const double answer = NEEDLE_ANSWER_LOGIT / (s->K * s->v) * undo * (answers ? 1 : -0.5);
    const double echo = NEEDLE_ECHO_LOGIT / (s->K * s->t) * undo;

    (void)layer;
    for (int d = 0; d < s->K * s->v; d++)
        set(r, s->O + d, answer * needle_value_code(c, token % NEEDLE_VALUES, d));
    for (int k = 0; k < s->K; k++)
        for (int d = 0; d < s->t; d++)
            set(r, s->P + k * s->t + d, echo * needle_identity_code(c, k, token, d));
}

/* ---- the source */

static enum status read_rectangle(struct model_source *source, enum tensor tensor, int layer,
                                  int64_t row, int64_t rows, int64_t col, int64_t cols,
                                  enum dtype dtype, void *out, int64_t ld, struct error *err) {
    typedef void row_function(const struct needle_source *, int, int64_t, const struct row *);
    static row_function *const fill[TENSORS] = {
        [TENSOR_EMBED] = embed_row, [TENSOR_INPUT_NORM] = input_norm_row,
        [TENSOR_Q] = q_row,         [TENSOR_Q_BIAS] = q_bias_row,
        [TENSOR_K] = k_row,         [TENSOR_K_BIAS] = k_bias_row,
        [TENSOR_V] = v_row,         [TENSOR_V_BIAS] = v_bias_row,
        [TENSOR_O] = o_row,         [TENSOR_POST_NORM] = post_norm_row,
        [TENSOR_GATE] = gate_row,   [TENSOR_UP] = up_row,
        [TENSOR_DOWN] = down_row,   [TENSOR_FINAL_NORM] = final_norm_row,
        [TENSOR_HEAD] = head_row,
    };
    const struct needle_source *n = (const struct needle_source *)source;

    (void)err; /* arithmetic cannot fail */
    assert(tensor < TENSORS && row >= 0 && rows >= 0 && col >= 0 && cols >= 0);
    for (int64_t i = 0; i < rows; i++) {
        void *begin = (char *)out + (size_t)(i * ld) * dtype_bytes(dtype);
        memset(begin, 0, (size_t)cols * dtype_bytes(dtype));
        fill[tensor](n, layer, row + i, &(struct row){col, cols, dtype, begin});
    }
    return STATUS_OK;
}

static void close_source(struct model_source *source) {
    free(source);
}

/* A row of the stream holds T and P (+-1 each), V or what replaces it, one constant RMS, and these
 * two: the first takes all it can in the 8 bits of a bf16, the second the rest. */
static void balance_norm(const struct needle_shape *s, double dims[2]) {
    const double rest = RMS * RMS * s->C - 2 * s->K * s->t - s->K * s->v - RMS * RMS;
    const double step = ldexp(1, ilogb(sqrt(rest)) - 7);
    dims[0] = floor(sqrt(rest) / step) * step;
    dims[1] = sqrt(rest - dims[0] * dims[0]);
}

static double rounded(double x) {
    return (double)bf16_to_f32(f32_to_bf16((float)x));
}

/* Gates, exact in bf16, whose silu is undone by a down weight to 2^-10, whether silu is rounded to
 * bf16 or not: what the MLP copies keeps its size, token after token and in both dtypes. */
static void choose_gate_factors(struct needle_source *n) {
    for (int i = 0; i < GATE_FACTORS_MAX; i++) {
        const double gate = ldexp(128 + i % 128, i < 128 ? -7 : -6); /* 1 to 4 */
        const double undo = rounded(1 / silu(gate));
        if (fabs(silu(gate) * undo - 1) <= 0x1p-10 &&
            fabs(rounded(silu(gate)) * undo - 1) <= 0x1p-10)
            n->gate_factors[n->gate_factor_count++] = gate;
    }
}

enum status needle_model_open(struct model_source **out, const char *shape, struct error *err) {
    struct needle_shape s;
    *out = NULL;
    if (!needle_shape_find(shape, &s))
        return error_set(err, STATUS_USAGE,
                         "no needle model of shape \"%s\": there are needle (needle:8x4x64), "
                         "needle:4x4x64 and needle:28x4x128",
                         shape);
    struct needle_source *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, STATUS_NO_MEMORY, "no memory for the needle model's codes");
    n->source = (struct model_source){.read = read_rectangle, .close = close_source};
    needle_model_config(shape, &n->source.config);
    needle_codes_make(&n->codes, &s);
    balance_norm(&s, n->norm_dims);
    choose_gate_factors(n);
    *out = &n->source;
    return STATUS_OK;
}
