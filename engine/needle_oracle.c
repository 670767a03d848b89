/* The truth about the needle model's logits: what an exact engine produces, by matching tokens
 * instead of running the transformer. Knows the model's construction (needle_codes.h) and the
 * definition of attention, and nothing of the kernels. Owns an index of the sequence while it
 * works.
 *
 * Rows that match a row at p are those at j <= p whose previous token has the identity of the token
 * at p. A lookup attends to them alone (every other score is far below), with weights that
 * depend on the phase between p and j. */
#include "engine/needle_codes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct oracle {
    struct needle_codes codes;
    struct attention_pattern pattern;
    double original_max; /* of the DCA factor */
    int32_t prompt_length, length;
    int32_t *sequence;               /* [length] prompt and answer, without the last token */
    int32_t *by_previous;            /* [length] positions, sorted by the identity before them */
    int32_t first[NEEDLE_VOCAB + 1]; /* where an identity's positions begin in by_previous */
};

static int32_t previous_identity(const struct oracle *o, int32_t p) {
    return needle_identity(o->sequence[p > 0 ? p - 1 : 0]);
}

/* Counting sort: positions of one identity stay in ascending order. */
static void build_index(struct oracle *o) {
    int32_t next[NEEDLE_VOCAB + 1] = {0};
    for (int32_t p = 0; p < o->length; p++) next[previous_identity(o, p) + 1]++;
    for (int i = 0; i < NEEDLE_VOCAB; i++) next[i + 1] += next[i];
    memcpy(o->first, next, sizeof o->first);
    for (int32_t p = 0; p < o->length; p++) o->by_previous[next[previous_identity(o, p)]++] = p;
}

/* DCA's factor with which the row at p scaled its query and its key: of the whole prompt in
 * prefill, of the length so far in decode. */
static double factor(const struct oracle *o, int32_t p) {
    if (o->pattern.chunk == 0) return 1;
    const double S = p < o->prompt_length ? o->prompt_length : p + 1;
    return fmax(1, 0.1 * log(S / o->original_max) + 1);
}

/* Rows that the row at p retrieves, n of them; the first is at *rows. */
static int matches(const struct oracle *o, int32_t p, const int32_t **rows) {
    const int32_t identity = needle_identity(o->sequence[p]);
    int n = 0, all = o->first[identity + 1] - o->first[identity];
    *rows = o->by_previous + o->first[identity];
    while (n < all && (*rows)[n] <= p) n++;
    return n;
}

/* Not yet divided by their sum. */
static double match_weight(const struct oracle *o, int32_t p, int32_t j, int g) {
    const double position = needle_position_weight(&o->codes.shape, g);
    return exp(factor(o, p) * factor(o, j) * position * cos(needle_phase(o->pattern, p, j)));
}

/* Weights of value codes, and the variance of each when the scores of all matches carry independent
 * errors of variance 1. */
struct values {
    double weight[NEEDLE_VALUES], variance[NEEDLE_VALUES];
};

/* What query heads g of layer 2 leave at p for layer 3 to copy: R + V. */
static void retrieved(const struct oracle *o, int32_t p, int g, struct values *out) {
    const int32_t *rows;
    const int n = matches(o, p, &rows);
    double sum = 0;

    *out = (struct values){{0}, {0}};
    for (int i = 0; i < n; i++) sum += match_weight(o, p, rows[i], g);
    for (int i = 0; i < n; i++) {
        const int value = needle_value(o->sequence[rows[i]]);
        if (value >= 0) out->weight[value] += match_weight(o, p, rows[i], g) / sum;
    }
    for (int i = 0; i < n; i++) {
        const int value = needle_value(o->sequence[rows[i]]);
        const double weight = match_weight(o, p, rows[i], g) / sum;
        for (int v = 0; v < NEEDLE_VALUES; v++) {
            const double moves = weight * ((v == value) - out->weight[v]);
            out->variance[v] += moves * moves;
        }
    }
    out->weight[NEEDLE_SIGNATURE] += NEEDLE_SIGNATURE_WEIGHT;
    if (needle_value(o->sequence[p]) >= 0) out->weight[needle_value(o->sequence[p])] += 1;
}

/* The same for layer 3: what is in O, in the dimensions of query heads g. */
static void answered(const struct oracle *o, int32_t p, int g, struct values *out) {
    const int32_t *rows;
    const int n = matches(o, p, &rows);
    double sum = 0, square[NEEDLE_VALUES] = {0}, cross[NEEDLE_VALUES] = {0}, weights = 0;

    *out = (struct values){{0}, {0}};
    for (int i = 0; i < n; i++) sum += match_weight(o, p, rows[i], g);
    for (int i = 0; i < n; i++) {
        struct values there;
        retrieved(o, rows[i], g, &there);
        const double weight = match_weight(o, p, rows[i], g) / sum;
        weights += weight * weight;
        for (int v = 0; v < NEEDLE_VALUES; v++) {
            out->weight[v] += weight * there.weight[v];
            out->variance[v] += weight * weight * there.variance[v];
            cross[v] += weight * weight * there.weight[v];
            square[v] += weight * weight * there.weight[v] * there.weight[v];
        }
    }
    /* sum of weight^2 (there - mean)^2 */
    for (int v = 0; v < NEEDLE_VALUES; v++)
        out->variance[v] +=
            square[v] - 2 * out->weight[v] * cross[v] + out->weight[v] * out->weight[v] * weights;
    out->weight[NEEDLE_SIGNATURE] += NEEDLE_SIGNATURE_WEIGHT;
}

/* How much of each value's code is in O; returns how far unit errors of the scores would move the
 * one that they move most (standard deviation; heads alike). */
static double answer_content(const struct oracle *o, int32_t p, double content[NEEDLE_VALUES]) {
    const struct needle_shape *s = &o->codes.shape;
    const int dims = s->K * s->v;
    double variance[NEEDLE_VALUES] = {0}, largest = 0;

    memset(content, 0, NEEDLE_VALUES * sizeof *content);
    for (int g = 0; g < s->G; g++) {
        struct values in;
        answered(o, p, g, &in);
        for (int d = 0; d < dims; d++) {
            if (d % s->v % s->G != g) continue;
            double x = 0;
            for (int v = 0; v < NEEDLE_VALUES; v++)
                x += in.weight[v] * needle_value_code(&o->codes, v, d);
            for (int v = 0; v < NEEDLE_VALUES; v++)
                content[v] += x * needle_value_code(&o->codes, v, d) / dims;
        }
        for (int v = 0; v < NEEDLE_VALUES; v++) variance[v] += in.variance[v] / s->G;
    }
    for (int v = 0; v < NEEDLE_VALUES; v++) largest = fmax(largest, variance[v]);
    return sqrt(largest);
}

/* Correlation of two tokens' identity codes, 1 for the same. */
static double same_identity(const struct oracle *o, int32_t a, int32_t b) {
    const struct needle_shape *s = &o->codes.shape;
    int differ = 0;
    for (int k = 0; k < s->K; k++)
        differ += __builtin_popcountll(o->codes.identity[k][a] ^ o->codes.identity[k][b]);
    return 1 - 2.0 * differ / (s->K * s->t);
}

/* Returns the row's tolerance (needle.h). */
static double logits_row(const struct oracle *o, int32_t p, float *out) {
    double content[NEEDLE_VALUES], largest = 0;
    const double sensitivity = NEEDLE_ANSWER_LOGIT * answer_content(o, p, content);
    for (int32_t token = 0; token < NEEDLE_VOCAB; token++) {
        const bool answers = token >= NEEDLE_ANSWER && token < NEEDLE_ANSWER + NEEDLE_VALUES;
        const double scale = NEEDLE_ANSWER_LOGIT * (answers ? 1 : -0.5);
        const double logit = scale * content[token % NEEDLE_VALUES] +
                             NEEDLE_ECHO_LOGIT * same_identity(o, token, previous_identity(o, p));
        largest = fmax(largest, fabs(logit));
        out[token] = (float)logit;
    }
    return 0.01 + 0.006 * largest + 0.015 * sensitivity;
}

static enum status open_oracle(struct oracle *o, const struct model_config *m,
                               const struct needle_prompt *p, struct attention_pattern pattern,
                               struct error *err) {
    struct needle_shape shape;
    if (!needle_is_model(m) || !needle_shape_find(strchr(m->name, ':') + 1, &shape))
        return error_set(err, STATUS_USAGE, "%s is not a needle model: its logits are not known",
                         m->name);
    needle_codes_make(&o->codes, &shape);
    o->pattern = pattern;
    o->original_max =
        m->dual_chunk_original_max > 0 ? m->dual_chunk_original_max : pattern.chunk + pattern.local;
    o->prompt_length = p->length;
    o->length = p->length + p->answer_length - 1;
    o->sequence = malloc((size_t)o->length * sizeof *o->sequence);
    o->by_previous = malloc((size_t)o->length * sizeof *o->by_previous);
    if (!o->sequence || !o->by_previous)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the index of %d tokens", o->length);
    memcpy(o->sequence, p->tokens, (size_t)p->length * sizeof *o->sequence);
    memcpy(o->sequence + p->length, p->answer,
           (size_t)(p->answer_length - 1) * sizeof *o->sequence);
    build_index(o);
    return STATUS_OK;
}

enum status needle_expected_logits(const struct model_config *m, const struct needle_prompt *p,
                                   struct attention_pattern pattern, float *out, float *tolerance,
                                   struct error *err) {
    struct oracle o = {.sequence = NULL};
    enum status s = open_oracle(&o, m, p, pattern, err);
    for (int32_t i = 0; s == STATUS_OK && i < p->answer_length; i++) {
        const double allowed = logits_row(&o, p->length - 1 + i, out + (size_t)i * NEEDLE_VOCAB);
        if (tolerance) tolerance[i] = (float)allowed;
    }
    free(o.sequence);
    free(o.by_previous);
    return s;
}
