/* Verdicts on what a case produced: ids and logits against the known answer, finite values, every
 * prompt token once, the same bits from cases that must agree. The spot check is check_spot.c's.
 * Before it: worker_case.c feeds it while the case runs; after it: record and show. */
#include "harness/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 3, 4))) static void verdict(struct check_result *out, enum verdict v,
                                                          const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(out->detail, sizeof out->detail, format, ap);
    va_end(ap);
    out->verdict = v;
}

/* "120 (x)": the id, and its text where it says more than that; control characters escaped. */
enum { TOKEN_NAME_BYTES = 64 };
static const char *token_name(const struct model_config *m, int32_t id,
                              char out[TOKEN_NAME_BYTES]) {
    char text[32];
    engine_token_text(m, id, text, sizeof text);
    const unsigned char first = (unsigned char)text[0];
    if (first < 0x20 || first >= 0x7f)
        snprintf(out, TOKEN_NAME_BYTES, "%d (\\x%02x)", id, first);
    else
        snprintf(out, TOKEN_NAME_BYTES, "%d (%s)", id, text);
    return out;
}

/* ---- ids */

static void wrong_token(struct check_result *out, const struct model_config *m,
                        const struct needle_prompt *needle, int i, int32_t got) {
    char expected_name[TOKEN_NAME_BYTES], got_name[TOKEN_NAME_BYTES], where[80] = "";
    if (needle->needle_positions[i] >= 0)
        snprintf(where, sizeof where, "; its needle stands at token %d of %d",
                 needle->needle_positions[i], needle->length);
    verdict(out, VERDICT_FAILED, "answer token %d: expected %s, got %s%s", i,
            token_name(m, needle->answer[i], expected_name), token_name(m, got, got_name), where);
}

void check_tokens(struct check_result *out, const struct model_config *m, const struct prompt *p,
                  const int32_t *ids, int n, int max_tokens) {
    const struct needle_prompt *needle = &p->needle;
    int i = 0;
    if (!p->has_answer) {
        verdict(out, VERDICT_NOT_CHECKED, "the answer to this prompt is not known");
        return;
    }
    while (i < n && i < needle->answer_length && ids[i] == needle->answer[i]) i++;
    if (i < n && i < needle->answer_length)
        wrong_token(out, m, needle, i, ids[i]);
    else if (n > needle->answer_length)
        verdict(out, VERDICT_FAILED, "%d tokens after the end of the answer",
                n - needle->answer_length);
    else if (n < needle->answer_length)
        verdict(out, VERDICT_NOT_CHECKED,
                n == max_tokens ? "only %d of %d answer tokens were generated: max_tokens = %d"
                                : "only %d of %d answer tokens were generated, of %d allowed",
                n, needle->answer_length, max_tokens);
    else
        verdict(out, VERDICT_OK, "%d tokens", n);
}

/* ---- logits */

struct check_logits {
    const struct model_config *m; /* borrowed */
    int32_t *answer;              /* [rows], owned */
    float *expected;              /* [rows][V], owned */
    float *tolerance;             /* [rows], owned */
    int rows, seen;
    bool astray;  /* a token was wrong: later rows have no truth */
    double worst; /* of the tolerance */
    int worst_row;
    int32_t worst_id;
    float worst_got;
};

enum status check_logits_open(struct check_logits **out, const struct model_config *m,
                              const struct prompt *p, struct attention_pattern pattern,
                              struct error *err) {
    *out = NULL;
    if (!p->has_answer)
        return error_set(err, STATUS_USAGE, "the logits of this prompt's answer are not known");
    const size_t rows = (size_t)p->needle.answer_length;
    struct check_logits *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for the check of logits");
    *c = (struct check_logits){.m = m,
                               .rows = (int)rows,
                               .answer = malloc(rows * sizeof *c->answer),
                               .expected = malloc(rows * (size_t)m->V * sizeof *c->expected),
                               .tolerance = malloc(rows * sizeof *c->tolerance)};
    enum status s = STATUS_OK;
    if (!c->answer || !c->expected || !c->tolerance)
        s = error_set(err, STATUS_NO_MEMORY, "no memory for %zu rows of logits", rows);
    if (s == STATUS_OK) {
        memcpy(c->answer, p->needle.answer, rows * sizeof *c->answer);
        s = needle_expected_logits(m, &p->needle, pattern, c->expected, c->tolerance, err);
    }
    if (s != STATUS_OK) {
        check_logits_finish(c, NULL);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

static int32_t largest(const float *x, int32_t n) {
    int32_t at = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

void check_logits_row(struct check_logits *c, int i, const float *logits) {
    if (c->astray || i != c->seen || i >= c->rows) return;
    const int32_t V = c->m->V;
    const float *expected = c->expected + (size_t)i * (size_t)V;
    const double tolerance = (double)c->tolerance[i];
    for (int32_t id = 0; id < V; id++) {
        double off = fabs((double)logits[id] - (double)expected[id]) / tolerance;
        if (isnan(off)) off = INFINITY;
        if (off <= c->worst && c->seen + id > 0) continue;
        c->worst = off;
        c->worst_row = i, c->worst_id = id, c->worst_got = logits[id];
    }
    c->seen++;
    c->astray = largest(logits, V) != c->answer[i];
}

static void judge_logits(const struct check_logits *c, struct check_result *out) {
    const float *row = c->expected + (size_t)c->worst_row * (size_t)c->m->V;
    if (c->seen == 0) {
        verdict(out, VERDICT_NOT_CHECKED, "no row of logits was seen");
        return;
    }
    out->worst = c->worst;
    out->limit = 1;
    if (c->worst <= 1) {
        verdict(out, VERDICT_OK, "%d of %d answer rows; worst and limit in tolerances", c->seen,
                c->rows);
        return;
    }
    char token[TOKEN_NAME_BYTES];
    verdict(out, VERDICT_FAILED,
            "answer row %d, logit of %s: expected %.4f, got %.4f, tolerance %.4f", c->worst_row,
            token_name(c->m, c->worst_id, token), (double)row[c->worst_id], (double)c->worst_got,
            (double)c->tolerance[c->worst_row]);
}

void check_logits_finish(struct check_logits *c, struct check_result *out) {
    if (!c) {
        if (out) verdict(out, VERDICT_NOT_CHECKED, "switched off");
        return;
    }
    if (out) judge_logits(c, out);
    free(c->answer);
    free(c->expected);
    free(c->tolerance);
    free(c);
}

/* ---- finite */

void check_finite_row(struct check_result *out, const float *logits, int32_t V, int row) {
    if (out->verdict == VERDICT_FAILED) return;
    for (int32_t i = 0; i < V; i++)
        if (!isfinite(logits[i])) {
            verdict(out, VERDICT_FAILED, "row %d, id %d: %s", row, i,
                    isnan(logits[i]) ? "NaN" : "infinity");
            return;
        }
    out->verdict = VERDICT_OK;
    out->detail[0] = 0;
}

/* ---- count */

/* Tokens of a repeat that went through in order; false and a text where they did not. */
static bool count_repeat(struct case_result *r, int repeat, struct check_result *out) {
    int64_t expected = 0;
    for (int64_t i = 0; i < r->n_chunks; i++) {
        const struct chunk_row *row = &r->chunks[i];
        if (row->repeat != repeat) continue;
        if (row->start_token != expected) {
            verdict(out, VERDICT_FAILED,
                    "repeat %d: chunk %d begins at token %d instead of %lld: %s", repeat + 1,
                    row->chunk + 1, row->start_token, (long long)expected,
                    row->start_token > expected ? "tokens were left out" : "tokens came twice");
            return false;
        }
        expected += row->n_tokens;
    }
    if (expected == r->prompt_tokens) return true;
    verdict(out, VERDICT_FAILED, "repeat %d: %lld of %d prompt tokens went through", repeat + 1,
            (long long)expected, r->prompt_tokens);
    return false;
}

static int32_t tokens_decoded(const struct case_result *r, int repeat) {
    int32_t n = 0;
    for (int64_t i = 0; i < r->n_decode; i++) n += r->decode[i].repeat == repeat;
    return n;
}

void check_count(struct case_result *r, int32_t session_position) {
    struct check_result *out = &r->check[CHECK_COUNT];
    if (r->coverage != COVER_FULL) {
        verdict(out, VERDICT_NOT_CHECKED, "sampled coverage does not run every chunk");
        return;
    }
    if (r->repeats < 1) {
        verdict(out, VERDICT_NOT_CHECKED, "no repeat was run");
        return;
    }
    for (int repeat = 0; repeat < r->repeats; repeat++)
        if (!count_repeat(r, repeat, out)) return;
    /* the last generated token has not been through the model */
    const int32_t generated = tokens_decoded(r, r->repeats - 1);
    const int32_t expected = r->prompt_tokens + (generated > 0 ? generated - 1 : 0);
    if (session_position != expected)
        verdict(out, VERDICT_FAILED, "the session stands at token %d, expected %d",
                session_position, expected);
    else
        verdict(out, VERDICT_OK, "%d tokens, each once", r->prompt_tokens);
}

/* ---- memory */

void check_memory(struct case_result *r) {
    struct check_result *out = &r->check[CHECK_MEMORY];
    out->worst = (double)r->step_allocations;
    out->limit = 0;
    if (r->step_allocations > 0)
        verdict(out, VERDICT_FAILED, "%lld allocations inside steps: their times include them",
                (long long)r->step_allocations);
    else
        verdict(out, VERDICT_OK, "no allocation inside a step");
}

/* ---- invariance */

/* Why a case has no bits to compare; NULL where it has. */
static const char *no_bits(const struct case_result *r) {
    if (r->status == CASE_SKIPPED) return "the case was skipped";
    if (r->status != CASE_OK) return "the case did not run to its end";
    if (r->coverage != COVER_FULL) return "sampled coverage produces no answer to compare";
    return r->n_output > 0 ? NULL : "nothing was generated";
}

/* They differ in nothing but chunk size and mode. */
static bool must_agree(const struct case_result *a, const struct case_result *b) {
    return a->tp == b->tp && a->dual_chunk == b->dual_chunk &&
           a->prune_last_layer == b->prune_last_layer && strcmp(a->prompt, b->prompt) == 0 &&
           strcmp(a->prompt_sha256, b->prompt_sha256) == 0 && strcmp(a->dtype, b->dtype) == 0 &&
           strcmp(a->device, b->device) == 0 && strcmp(a->attention, b->attention) == 0 &&
           strcmp(a->linear, b->linear) == 0;
}

static int first_difference(const struct case_result *a, const struct case_result *b) {
    int i = 0;
    while (i < a->n_output && i < b->n_output && a->output[i] == b->output[i]) i++;
    return i < a->n_output || i < b->n_output ? i : -1;
}

static bool same_bits(const struct case_result *a, const struct case_result *b) {
    return a->logits_hash == b->logits_hash && first_difference(a, b) < 0;
}

static void name_difference(struct check_result *out, const struct case_result *r,
                            const struct case_result *other, int agree, int differ) {
    const int at = first_difference(r, other);
    char what[120];
    if (at < 0)
        snprintf(what, sizeof what, "first logits hash to %016llx, there to %016llx",
                 (unsigned long long)r->logits_hash, (unsigned long long)other->logits_hash);
    else if (at < r->n_output && at < other->n_output)
        snprintf(what, sizeof what, "token %d is %d, there %d", at, r->output[at],
                 other->output[at]);
    else
        snprintf(what, sizeof what, "%d tokens, there %d", r->n_output, other->n_output);
    verdict(out, VERDICT_FAILED, "other bits than %s: %s (agrees with %d other%s, not with %d)",
            other->id, what, agree, agree == 1 ? "" : "s", differ);
}

static bool promises_same_bits(enum op op, const char *name) {
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++)
        if (v.op == op && !strcmp(v.name, name) && v.lacks & LACKS_SAME_BITS) return false;
    return true;
}

/* Where a kernel of the case need not give a row the same bits in every chunk size: says so. */
static bool excuse_difference(struct check_result *out, const struct case_result *r,
                              const struct case_result *other) {
    const bool by_attention = !promises_same_bits(OP_ATTENTION, r->attention);
    if (!by_attention && promises_same_bits(OP_EXCHANGE, r->exchange)) return false;
    verdict(out, VERDICT_NOT_CHECKED,
            "%s = %s promises no row the same bits in every chunk size; they are others than in %s",
            by_attention ? "attention_backend" : "exchange_backend",
            by_attention ? r->attention : r->exchange, other->id);
    return true;
}

void check_invariance(struct case_result *const *cases, int n) {
    for (int i = 0; i < n; i++) {
        struct case_result *r = cases[i];
        struct check_result *out = &r->check[CHECK_INVARIANCE];
        const struct case_result *other = NULL;
        int agree = 0, differ = 0;
        if (out->verdict == VERDICT_FAILED) continue;
        if (no_bits(r)) {
            verdict(out, VERDICT_NOT_CHECKED, "%s", no_bits(r));
            continue;
        }
        for (int k = 0; k < n; k++) {
            if (k == i || no_bits(cases[k]) || !must_agree(r, cases[k])) continue;
            if (same_bits(r, cases[k])) {
                agree++;
            } else {
                differ++;
                if (!other) other = cases[k];
            }
        }
        if (other && excuse_difference(out, r, other)) continue;
        if (other)
            name_difference(out, r, other, agree, differ);
        else if (agree > 0)
            verdict(out, VERDICT_OK, "the same bits as %d other case%s", agree,
                    agree == 1 ? "" : "s");
        else
            verdict(out, VERDICT_NOT_CHECKED,
                    "no other case that ran in full differs only in chunk size and mode");
    }
}
