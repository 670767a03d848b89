/* The spot check: attention of sampled (layer, head, row) points, recomputed in float64 from the
 * cached keys and values and the row's query before its rotation, by a plain loop over all keys;
 * and the cached key and value of the point's own row, from what they were before the rotation.
 * Nothing of the engine's arithmetic is used: phases and factors come from the definition of dual
 * chunk attention (Qwen2.5-1M report, 3.1), the kv head from the model's global mapping.
 * Before it: worker_case.c taps the rows, and calls it after each chunk and after the pass; owns
 * its points, what was tapped of them, and a row of scores.
 *
 * Tolerance of a key, per element of factor * (a cos - b sin), v = 2^-24 (half a unit of f32):
 *  - f32 arithmetic: cosine and sine stored (v), products (v), their difference (v), the factor
 *    stored (v), its product (v), each relative to at most factor * (|a| + |b|); angles differ by
 *    less than 2^-30 at a million tokens. 5 v and a little, hence 2^-21 of that;
 *  - in bf16 one rounding to nearest: half a unit of the cached element comes on top, by which the
 *    deviation is reduced, so that "worst" still means a part of what arithmetic may do.
 * A value must be the same bits.
 *
 * Tolerance, per element of an output row, from what a correct kernel may round (u = 2^-8 for bf16,
 * the largest relative error of one rounding):
 *  - the stored output: u, and as much again for probabilities that are all rounded alike;
 *  - every probability: independent relative errors of at most e_j, hence 4 sqrt(sum (p_j v_j
 * e_j)^2), ten standard deviations. e_j is u where probabilities meet the values as bf16 (2^-20 in
 * f32: exp and its argument), plus 2^-20 of sum |q_d k_jd| for a score summed in f32, plus a whole
 *    unit of every q_d that lies so near a tie that f32 may have rounded it the other way;
 *  - f32 sums over n keys: 2^-22 sqrt(n) of the largest partial sum, ten standard deviations too.
 * The independent part shrinks with the number of keys as the output itself does, so a row that
 * looks at a million keys alike is held to a few percent, one that looks at one key to 1/64. */
#include "harness/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPIES = 3, KEY_BLOCK = 1024 };

struct point {
    int layer, head;
    int32_t row;    /* its attention, key and value */
    int32_t kv_row; /* a row that has a key and a value, but maybe nothing else; mostly the same */
    bool row_kept, kv_row_kept;
};

/* Vectors that were tapped of a point: of its row, and the key and value of its kv_row where that
 * is another one. */
enum kept { KEPT_QUERY, KEPT_OUTPUT, KEPT_KEY, KEPT_VALUE, KEPT_KV_KEY, KEPT_KV_VALUE, KEPT };

struct check_spot {
    struct model_config m;
    int ranks;
    struct attention_pattern pattern; /* chunk 0: plain */
    double factor;                    /* DCA's f of the whole prompt */
    enum dtype dtype;
    int n, done;
    struct point *points; /* [n], owned */
    float *kept;          /* [n][KEPT][D], owned */
    double *score;        /* [prompt_tokens], owned; then probabilities */
    float *error;         /* [prompt_tokens], owned: relative, of a probability */
    float *block;         /* [KEY_BLOCK][D], owned */
    double worst;         /* deviation over tolerance */
    char worst_text[200];
    char failure[200]; /* what no tolerance excuses; "" */
};

/* ---- choosing points */

struct choice {
    const struct case_plan *c;
    const int *chunks;
    int n_chunks;
    const int32_t *random; /* [count] */
};

/* The points go evenly over the chunks; the first and the last chunk are always among them. */
static int chunk_of_point(int i, int count, int n_chunks) {
    if (count >= n_chunks) return (int)((int64_t)i * n_chunks / count);
    return count > 1 ? (int)((int64_t)i * (n_chunks - 1) / (count - 1)) : 0;
}

/* Row for point i: the chunk's last, first, then any. */
static int32_t wanted_row(const struct choice *k, int i, int count) {
    const int32_t size = k->c->session.chunk_tokens;
    const int32_t start = k->chunks[chunk_of_point(i, count, k->n_chunks)] * size;
    const int32_t left = k->c->session.prompt_tokens - start, n = left < size ? left : size;
    return start + (i % 4 == 0 ? n - 1 : i % 4 == 1 ? 0 : k->random[i] % n);
}

/* A row of the same chunk that is tapped already, if no further row can be. One tap is kept for the
 * last row of the prompt. */
static int32_t affordable_row(const struct check_spot *c, int32_t row, int32_t chunk_tokens) {
    int32_t rows[TAP_ROWS];
    const int32_t start = row / chunk_tokens * chunk_tokens;
    const int n = check_spot_rows(c, start, chunk_tokens, rows);
    for (int i = 0; i < n; i++)
        if (rows[i] == row) return row;
    return n < TAP_ROWS - 1 ? row : rows[row % n];
}

/* Layers and heads in turn, rows from the first to the last chunk. In the last layer of a pruned
 * model only the prompt's last row is attended; all rows have keys and values there. */
static void choose_points(struct check_spot *c, const struct choice *k, int count) {
    const struct case_plan *plan = k->c;
    const int32_t S = plan->session.prompt_tokens;
    const int first_head = k->random[0] % c->m.H;
    for (int i = 0; i < count; i++) {
        struct point p = {.layer = i % c->m.layers,
                          .head = (i + i / c->m.layers + first_head) % c->m.H};
        const bool last_only = plan->engine.prune_last_layer && p.layer == c->m.layers - 1;
        p.kv_row = affordable_row(c, wanted_row(k, i, count), plan->session.chunk_tokens);
        p.row = last_only ? S - 1 : p.kv_row;
        c->points[c->n++] = p;
    }
}

static enum status allocate(struct check_spot *c, int count, int32_t S, struct error *err) {
    c->points = calloc((size_t)count, sizeof *c->points);
    c->kept = malloc((size_t)count * KEPT * (size_t)c->m.D * sizeof *c->kept);
    c->score = malloc((size_t)S * sizeof *c->score);
    c->error = malloc((size_t)S * sizeof *c->error);
    c->block = malloc((size_t)KEY_BLOCK * (size_t)c->m.D * sizeof *c->block);
    if (c->points && c->kept && c->score && c->error && c->block) return STATUS_OK;
    return error_set(err, STATUS_NO_MEMORY, "no memory for the spot check of %d tokens", S);
}

enum status check_spot_open(struct check_spot **out, const struct engine_info *info,
                            const struct case_plan *c, const int *chunks, int n_chunks,
                            int64_t count, uint64_t seed, struct error *err) {
    const int32_t S = c->session.prompt_tokens;
    *out = NULL;
    if (count < 1 || count > 100000 || n_chunks < 1 || info->model.D > HEAD_DIM_MAX)
        return error_set(err, STATUS_USAGE,
                         "spot check of %lld rows in %d chunks at head dim %d: expected 1 to "
                         "100000 rows, chunks, at most %d",
                         (long long)count, n_chunks, info->model.D, HEAD_DIM_MAX);
    struct check_spot *s = calloc(1, sizeof *s);
    int32_t *random = malloc((size_t)count * sizeof *random);
    enum status status = STATUS_NO_MEMORY;
    if (s && random) {
        s->m = info->model;
        s->ranks = info->ranks;
        s->dtype = c->engine.dtype;
        s->factor = 1;
        if (c->engine.dual_chunk_attention && s->m.dual_chunk.chunk > 0) {
            s->pattern = s->m.dual_chunk;
            s->factor = fmax(1, 0.1 * log((double)S / s->m.dual_chunk_original_max) + 1);
        }
        status = allocate(s, (int)count, S, err);
    } else {
        error_set(err, STATUS_NO_MEMORY, "no memory for the spot check");
    }
    if (status == STATUS_OK) {
        engine_random_tokens(seed, INT32_MAX, (int32_t)count, random);
        choose_points(s, &(struct choice){c, chunks, n_chunks, random}, (int)count);
        *out = s;
    } else {
        check_spot_finish(s, NULL);
    }
    free(random);
    return status;
}

static bool lies_in(int32_t row, int32_t start, int32_t n) {
    return row >= start && row - start < n;
}

int check_spot_rows(const struct check_spot *c, int32_t start, int32_t n,
                    int32_t positions[TAP_ROWS]) {
    int rows = 0;
    for (int i = 0; i < 2 * c->n; i++) {
        const struct point *p = &c->points[i / 2];
        const int32_t row = i % 2 ? p->kv_row : p->row;
        bool known = !lies_in(row, start, n) || rows == TAP_ROWS;
        for (int k = 0; k < rows && !known; k++) known = positions[k] == row;
        if (!known) positions[rows++] = row;
    }
    return rows;
}

/* ---- attention of one row, from its definition */

/* The row's query as the three kinds of keys meet it: of its own dual chunk, of the one before, of
 * those before that. */
struct rotated_query {
    double x[COPIES][HEAD_DIM_MAX];
    double unsure[COPIES][HEAD_DIM_MAX]; /* a unit where rounding could go either way, else 0 */
};

static int query_kind(const struct check_spot *c, int32_t row, int32_t key) {
    if (c->pattern.chunk == 0) return 0;
    const int32_t between = row / c->pattern.chunk - key / c->pattern.chunk;
    return between > 2 ? 2 : between;
}

static int64_t query_phase(const struct check_spot *c, int32_t row, int kind) {
    const int64_t Lc = c->pattern.chunk, C = Lc + c->pattern.local;
    if (Lc == 0) return row;
    const int64_t i = row % Lc;
    if (kind == 0) return i;
    return kind == 1 && i + Lc < C ? i + Lc : C;
}

/* Rounded to 8 bits, to nearest even, and how near x is to a value that rounds otherwise. */
static double round_bf16(double x, double uncertainty, double *unsure) {
    int exponent;
    const double unit = x == 0 ? 0 : (frexp(x, &exponent), ldexp(1, exponent - 8));
    if (unit == 0) return *unsure = 0, x;
    const double down = floor(x / unit), rest = x / unit - down;
    *unsure = fabs(rest - 0.5) * unit <= uncertainty ? unit : 0;
    const bool up = rest > 0.5 || (rest == 0.5 && fmod(down, 2) != 0);
    return (down + up) * unit;
}

static int64_t key_phase(const struct check_spot *c, int32_t row) {
    return c->pattern.chunk > 0 ? row % c->pattern.chunk : row;
}

/* Elements i and i + D/2 of a head, turned. */
static void rotate_pair(const struct check_spot *c, int i, int64_t phase, double a, double b,
                        double out[2]) {
    const double angle = (double)phase * pow(c->m.rope_theta, -2.0 * i / c->m.D);
    out[0] = a * cos(angle) - b * sin(angle);
    out[1] = b * cos(angle) + a * sin(angle);
}

static void rotate_query(const struct check_spot *c, const float *q, int32_t row,
                         struct rotated_query *out) {
    const int half = c->m.D / 2;
    for (int kind = 0; kind < COPIES; kind++)
        for (int i = 0; i < half; i++) {
            const double a = (double)q[i], b = (double)q[i + half];
            double rotated[2];
            rotate_pair(c, i, query_phase(c, row, kind), a, b, rotated);
            for (int k = 0; k < 2; k++) {
                double *x = &out->x[kind][i + k * half], *unsure = &out->unsure[kind][i + k * half];
                *x = rotated[k];
                *unsure = 0;
                if (c->dtype == DTYPE_BF16)
                    *x = round_bf16(*x, ldexp(fabs(a) + fabs(b), -22), unsure);
            }
        }
}

/* Score of one key, and what a correct kernel's probability may be wrong by, relatively. */
static double key_score(const struct check_spot *c, const struct rotated_query *q, int kind,
                        const float *k, float *error) {
    const double scale = c->factor / sqrt(c->m.D);
    double sum = 0, size = 0, unsure = 0;
    for (int d = 0; d < c->m.D; d++) {
        const double product = q->x[kind][d] * (double)k[d];
        sum += product;
        size += fabs(product);
        unsure += q->unsure[kind][d] * fabs((double)k[d]);
    }
    const double probability = ldexp(1, c->dtype == DTYPE_BF16 ? -8 : -20);
    *error = (float)(probability + scale * (ldexp(size, -20) + unsure));
    return scale * sum;
}

static bool all_zero(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}

static int rank_of(const struct check_spot *c, const struct point *p) {
    return p->head / (c->m.H / c->ranks);
}
static int kv_head_of(const struct check_spot *c, const struct point *p) {
    return p->head / (c->m.H / c->m.K);
}

/* A global kv head's keys or values at [begin, begin + n) into c->block. */
static enum status read_block(struct check_spot *c, struct session *s, const struct point *p,
                              bool keys, int32_t begin, int32_t n, struct error *err) {
    return session_kv_read(s, p->layer, rank_of(c, p), kv_head_of(c, p), begin, n,
                           keys ? c->block : NULL, keys ? NULL : c->block, err);
}

/* Fills score with probabilities (not yet divided by *sum). */
static enum status score_keys(struct check_spot *c, struct session *s, const struct point *p,
                              const struct rotated_query *q, double *sum, struct error *err) {
    double top = -INFINITY;
    for (int32_t begin = 0; begin <= p->row; begin += KEY_BLOCK) {
        const int32_t left = p->row + 1 - begin, n = left < KEY_BLOCK ? left : KEY_BLOCK;
        const enum status status = read_block(c, s, p, true, begin, n, err);
        if (status != STATUS_OK) return status;
        for (int32_t i = 0; i < n; i++) {
            const float *k = c->block + (size_t)i * (size_t)c->m.D;
            const int32_t j = begin + i;
            c->score[j] = key_score(c, q, query_kind(c, p->row, j), k, &c->error[j]);
            if (c->score[j] > top) top = c->score[j];
            if (!c->failure[0] && all_zero(k, c->m.D))
                snprintf(c->failure, sizeof c->failure,
                         "layer %d, kv head %d: the key of token %d was never written", p->layer,
                         kv_head_of(c, p), j);
        }
    }
    *sum = 0;
    for (int32_t j = 0; j <= p->row; j++) *sum += c->score[j] = exp(c->score[j] - top);
    return STATUS_OK;
}

struct attended {
    double out[HEAD_DIM_MAX];
    double largest[HEAD_DIM_MAX]; /* partial sum */
    double noise[HEAD_DIM_MAX];   /* sum of (p v e)^2 */
};

static enum status weigh_values(struct check_spot *c, struct session *s, const struct point *p,
                                double sum, struct attended *a, struct error *err) {
    memset(a, 0, sizeof *a);
    for (int32_t begin = 0; begin <= p->row; begin += KEY_BLOCK) {
        const int32_t left = p->row + 1 - begin, n = left < KEY_BLOCK ? left : KEY_BLOCK;
        const enum status status = read_block(c, s, p, false, begin, n, err);
        if (status != STATUS_OK) return status;
        for (int32_t i = 0; i < n; i++) {
            const double probability = c->score[begin + i] / sum;
            const double error = (double)c->error[begin + i];
            for (int d = 0; d < c->m.D; d++) {
                const double part = probability * (double)c->block[i * c->m.D + d];
                a->out[d] += part;
                if (fabs(a->out[d]) > a->largest[d]) a->largest[d] = fabs(a->out[d]);
                a->noise[d] += part * part * error * error;
            }
        }
    }
    return STATUS_OK;
}

static double tolerance(const struct check_spot *c, const struct attended *a, int d, int32_t keys) {
    const double stored = ldexp(fabs(a->out[d]), c->dtype == DTYPE_BF16 ? -7 : -21);
    const double summed = ldexp(sqrt(keys), -22) * a->largest[d];
    return stored + 4 * sqrt(a->noise[d]) + summed + 1e-30;
}

/* ---- comparing */

/* One element of what a point is about. */
struct element {
    const char *what;
    int32_t row;
    int d;
    double expected, got;
};

static void judge_element(struct check_spot *c, const struct point *p, const struct element *e,
                          double deviation, double limit) {
    double off = deviation == 0 ? 0 : deviation / limit;
    if (isnan(off)) off = INFINITY;
    if (off <= c->worst) return;
    c->worst = off;
    snprintf(c->worst_text, sizeof c->worst_text,
             "%s of layer %d, head %d (kv head %d), token %d, element %d: expected %.9g, got %.9g, "
             "tolerance %.2g",
             e->what, p->layer, p->head, kv_head_of(c, p), e->row, e->d, e->expected, e->got,
             limit);
}

static void compare_output(struct check_spot *c, const struct point *p, const struct attended *a,
                           const float *got) {
    for (int d = 0; d < c->m.D; d++) {
        const struct element e = {"output", p->row, d, a->out[d], (double)got[d]};
        judge_element(c, p, &e, fabs(e.got - e.expected), tolerance(c, a, d, p->row + 1));
    }
}

/* How far the f32 number that was stored as `got` lies from the right one, at least. */
static double before_rounding(const struct check_spot *c, double got, double right) {
    int exponent;
    const double off = fabs(got - right);
    if (c->dtype != DTYPE_BF16 || !isfinite(got)) return off;
    frexp(got, &exponent);
    const double half_unit = ldexp(1, exponent - 9);
    return off > half_unit ? off - half_unit : 0;
}

static void compare_key(struct check_spot *c, const struct point *p, int32_t row, const float *key,
                        const float *cached) {
    const int half = c->m.D / 2;
    for (int i = 0; i < half; i++) {
        const double a = (double)key[i], b = (double)key[i + half];
        const double limit = c->factor * ldexp(fabs(a) + fabs(b), -21) + ldexp(1, -126);
        double rotated[2];
        rotate_pair(c, i, key_phase(c, row), a, b, rotated);
        for (int k = 0; k < 2; k++) {
            const int d = i + k * half;
            const struct element e = {"key", row, d, c->factor * rotated[k], (double)cached[d]};
            judge_element(c, p, &e, before_rounding(c, e.got, e.expected), limit);
        }
    }
}

static void compare_value(struct check_spot *c, const struct point *p, int32_t row,
                          const float *value, const float *cached) {
    for (int d = 0; d < c->m.D; d++) {
        const struct element e = {"value", row, d, (double)value[d], (double)cached[d]};
        judge_element(c, p, &e, fabs(e.got - e.expected), 0);
    }
}

static float *kept_of(const struct check_spot *c, const struct point *p, enum kept kept) {
    return c->kept + ((size_t)(p - c->points) * KEPT + kept) * (size_t)c->m.D;
}

/* Key and value of a row as the cache has them, against what they were before the rotation; key: of
 * the two that were kept. */
static enum status check_cached(struct check_spot *c, struct session *s, const struct point *p,
                                int32_t row, enum kept key, struct error *err) {
    float cached[2][HEAD_DIM_MAX];
    const enum status status = session_kv_read(s, p->layer, rank_of(c, p), kv_head_of(c, p), row, 1,
                                               cached[0], cached[1], err);
    if (status != STATUS_OK) return status;
    compare_key(c, p, row, kept_of(c, p, key), cached[0]);
    compare_value(c, p, row, kept_of(c, p, key + 1), cached[1]);
    return STATUS_OK;
}

static enum status check_attention(struct check_spot *c, struct session *s, const struct point *p,
                                   struct error *err) {
    struct rotated_query rotated;
    struct attended a;
    double sum;
    rotate_query(c, kept_of(c, p, KEPT_QUERY), p->row, &rotated);
    enum status status = score_keys(c, s, p, &rotated, &sum, err);
    if (status == STATUS_OK) status = weigh_values(c, s, p, sum, &a, err);
    if (status != STATUS_OK) return status;
    compare_output(c, p, &a, kept_of(c, p, KEPT_OUTPUT));
    return STATUS_OK;
}

/* What of a point the chunk [start, start + n) has. */
static enum status keep_point(struct check_spot *c, struct session *s, struct point *p,
                              int32_t start, int32_t n, struct error *err) {
    const bool row = !p->row_kept && lies_in(p->row, start, n);
    const bool kv_row = !p->kv_row_kept && lies_in(p->kv_row, start, n);
    const int rank = rank_of(c, p), kv_head = kv_head_of(c, p);
    enum status status = STATUS_OK;
    if (row)
        status = session_tap_read(s, p->layer, p->head, p->row, kept_of(c, p, KEPT_QUERY),
                                  kept_of(c, p, KEPT_OUTPUT), err);
    if (row && status == STATUS_OK)
        status = session_tap_read_kv(s, p->layer, rank, kv_head, p->row, kept_of(c, p, KEPT_KEY),
                                     kept_of(c, p, KEPT_VALUE), err);
    if (kv_row && p->kv_row != p->row && status == STATUS_OK)
        status = session_tap_read_kv(s, p->layer, rank, kv_head, p->kv_row,
                                     kept_of(c, p, KEPT_KV_KEY), kept_of(c, p, KEPT_KV_VALUE), err);
    if (status != STATUS_OK) return status;
    p->row_kept |= row;
    p->kv_row_kept |= kv_row;
    return STATUS_OK;
}

enum status check_spot_keep(struct check_spot *c, struct session *s, int32_t start, int32_t n,
                            struct error *err) {
    /* a prompt that lost a chunk has other rows here; that is the count check's to say */
    if (session_position(s) != start + n) return STATUS_OK;
    for (int i = 0; i < c->n; i++) {
        const enum status status = keep_point(c, s, &c->points[i], start, n, err);
        if (status != STATUS_OK) return error_prefix(err, status, "spot check");
    }
    return STATUS_OK;
}

static enum status check_point(struct check_spot *c, struct session *s, const struct point *p,
                               struct error *err) {
    enum status status = STATUS_OK;
    if (p->row_kept) status = check_attention(c, s, p, err);
    if (p->row_kept && status == STATUS_OK) status = check_cached(c, s, p, p->row, KEPT_KEY, err);
    if (p->kv_row_kept && p->kv_row != p->row && status == STATUS_OK)
        status = check_cached(c, s, p, p->kv_row, KEPT_KV_KEY, err);
    c->done += status == STATUS_OK && p->row_kept && p->kv_row_kept;
    return status;
}

int check_spot_points(const struct check_spot *c) {
    return c->n;
}

enum status check_spot_run(struct check_spot *c, struct session *s, int point, struct error *err) {
    const enum status status = check_point(c, s, &c->points[point], err);
    return status == STATUS_OK ? status : error_prefix(err, status, "spot check");
}

static void judge(const struct check_spot *c, struct check_result *out) {
    if (c->done > 0) out->worst = c->worst, out->limit = 1;
    if (c->failure[0] || c->worst > 1) {
        out->verdict = VERDICT_FAILED;
        snprintf(out->detail, sizeof out->detail, "%s", c->failure[0] ? c->failure : c->worst_text);
    } else if (c->done == c->n) {
        out->verdict = VERDICT_OK;
        snprintf(out->detail, sizeof out->detail,
                 "all %d sampled rows; worst and limit in tolerances", c->n);
    } else {
        out->verdict = VERDICT_NOT_CHECKED;
        snprintf(out->detail, sizeof out->detail, "%d of %d rows were seen; those are right",
                 c->done, c->n);
    }
}

void check_spot_finish(struct check_spot *c, struct check_result *out) {
    if (out && c) judge(c, out);
    if (out && !c) {
        out->verdict = VERDICT_NOT_CHECKED;
        snprintf(out->detail, sizeof out->detail, "switched off: [check] spot = 0");
    }
    if (!c) return;
    free(c->points);
    free(c->kept);
    free(c->score);
    free(c->error);
    free(c->block);
    free(c);
}
