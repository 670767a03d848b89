/* The spot check against a small attention kernel of the test's own, right and wrong: what rounds
 * as ops.h allows must pass, what looks at other keys, turns by other angles or maps heads
 * otherwise must not. The session is the test's, too: a cache of random keys and values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "harness/check.h"

enum { LAYERS = 3, H = 6, K = 3, D = 64, S = 2000, CHUNK = 400 };

/* What is wrong with the kernel; zeros: nothing. */
struct wrong {
    double theta;       /* keys and queries turned with another theta */
    int shift;          /* keys turned as if they stood there */
    int window;         /* keys seen back from the row */
    int lost, lost_end; /* keys that the kernel does not see */
    bool gqa;           /* head h asks h mod K */
    bool no_factor;     /* softmax scale without DCA's factor */
    bool plain;         /* dual chunk model, plain phases of queries */
    bool unwritten;     /* keys [lost, lost_end) are zeros in the cache, and seen as such */
    bool nan;
    bool swapped_turn; /* cosine and sine exchanged, of keys alone */
    bool key_phase;    /* dual chunk model, plain phases of keys alone */
    bool key_factor;   /* keys in the cache without DCA's factor */
    bool last_bit;     /* one element of every key is a bf16 unit further, or 8e-6 */
    bool other_value;  /* one element of every value is */
    int32_t only;      /* the last five in this row alone; 0: in all */
};

struct session {
    enum dtype dtype;
    struct attention_pattern pattern;
    double factor, gain; /* gain of the scores: flat to spiky */
    struct wrong wrong;
    int32_t position;
};

static const double THETA = 1e6;

/* ---- numbers: exact values of a place, unrotated */

static double normal(uint32_t layer, uint32_t what, uint32_t head, uint32_t row, uint32_t d) {
    uint64_t z = ((uint64_t)layer << 56 | (uint64_t)what << 48 | (uint64_t)head << 40) ^
                 ((uint64_t)row << 10 | d);
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        z = (z + 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
        z ^= z >> 31;
        sum += (double)(z >> 32) / 4294967296.0 - 0.5;
    }
    return sum * 1.7;
}

static float rounded(double x, enum dtype dtype) {
    float f = (float)x;
    uint32_t u;
    if (dtype == DTYPE_F32) return f;
    memcpy(&u, &f, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &u, sizeof f);
    return f;
}

static float query_at(const struct session *s, int layer, int head, int32_t row, int d) {
    return rounded(s->gain * normal(layer, 1, head, row, d), s->dtype);
}

/* in f32, as kernels do it */
static void rotate(float *x, double theta, int64_t phase, float factor, bool swapped,
                   enum dtype dtype) {
    for (int i = 0; i < D / 2; i++) {
        const double turn = (double)phase * pow(theta, -2.0 * i / D);
        const double angle = swapped ? acos(0) - turn : turn;
        const float c = (float)cos(angle), n = (float)sin(angle), a = x[i], b = x[i + D / 2];
        x[i] = rounded((a * c - b * n) * factor, dtype);
        x[i + D / 2] = rounded((b * c + a * n) * factor, dtype);
    }
}

static double theta_of(const struct session *s) {
    return s->wrong.theta > 0 ? s->wrong.theta : THETA;
}

static float unturned_key_at(const struct session *s, int layer, int kv_head, int32_t j, int d) {
    return rounded(normal(layer, 2, kv_head, j, d), s->dtype);
}

static void key_at(const struct session *s, int layer, int kv_head, int32_t j, float k[D]) {
    const struct wrong right = {0}, *w = s->wrong.only && s->wrong.only != j ? &right : &s->wrong;
    const int32_t chunk = w->key_phase ? 0 : s->pattern.chunk;
    for (int d = 0; d < D; d++) k[d] = unturned_key_at(s, layer, kv_head, j, d);
    rotate(k, theta_of(s), (chunk ? j % chunk : j) + s->wrong.shift,
           w->key_factor ? 1 : (float)s->factor, w->swapped_turn, s->dtype);
    if (w->last_bit) k[5] *= s->dtype == DTYPE_BF16 ? 1.0078125f : 1.000008f;
    if (s->wrong.unwritten && j >= s->wrong.lost && j < s->wrong.lost_end)
        memset(k, 0, D * sizeof *k);
}

static float value_at(const struct session *s, int layer, int kv_head, int32_t j, int d) {
    return rounded(normal(layer, 3, kv_head, j, d), s->dtype);
}

/* ---- the kernel under test: one row, online softmax over tiles of 128 keys in f32 */

static int64_t phase_of_query(const struct session *s, int32_t row, int32_t key) {
    const int32_t Lc = s->pattern.chunk, C = Lc + s->pattern.local;
    if (Lc == 0) return row;
    if (s->wrong.plain || row / Lc == key / Lc) return row % Lc;
    if (row / Lc == key / Lc + 1) return row % Lc + Lc < C ? row % Lc + Lc : C;
    return C;
}

static bool sees(const struct session *s, int32_t row, int32_t j) {
    const struct wrong *w = &s->wrong;
    if (w->window > 0 && j <= row - w->window) return false;
    return w->unwritten || j < w->lost || j >= w->lost_end;
}

static void attend(const struct session *s, int layer, int head, int32_t row, float out[D]) {
    const int kv_head = s->wrong.gqa ? head % K : head / (H / K);
    const float scale = (float)(1 / sqrt(D) * (s->wrong.no_factor ? 1 : s->factor));
    float top = -INFINITY, sum = 0, acc[D] = {0};
    for (int32_t tile = 0; tile <= row; tile += 128) {
        const int32_t end = tile + 128 < row + 1 ? tile + 128 : row + 1;
        float score[128], q[D], k[D], best = top;
        int64_t turned = -1;
        for (int32_t j = tile; j < end; j++) {
            if (phase_of_query(s, row, j) != turned) {
                turned = phase_of_query(s, row, j);
                for (int d = 0; d < D; d++) q[d] = query_at(s, layer, head, row, d);
                rotate(q, theta_of(s), turned + s->wrong.shift, 1, false, s->dtype);
            }
            key_at(s, layer, kv_head, j, k);
            float x = 0;
            for (int d = 0; d < D; d++) x += q[d] * k[d];
            score[j - tile] = sees(s, row, j) ? x * scale : -INFINITY;
            best = fmaxf(best, score[j - tile]);
        }
        if (best == -INFINITY) continue;
        const float shrink = expf(top - best);
        sum *= shrink;
        for (int d = 0; d < D; d++) acc[d] *= shrink;
        for (int32_t j = tile; j < end; j++) {
            const float p = expf(score[j - tile] - best);
            sum += p;
            for (int d = 0; d < D; d++)
                acc[d] += rounded(p, s->dtype) * value_at(s, layer, kv_head, j, d);
        }
        top = best;
    }
    for (int d = 0; d < D; d++) out[d] = rounded(acc[d] / sum, s->dtype);
    if (s->wrong.nan) out[7] = NAN;
}

/* ---- the session that the check sees */

int32_t session_position(const struct session *s) {
    return s->position;
}

enum status session_tap_read(struct session *s, int layer, int head, int32_t position, float *query,
                             float *output, struct error *err) {
    (void)err;
    for (int d = 0; d < D; d++) query[d] = query_at(s, layer, head, position, d);
    attend(s, layer, head, position, output);
    return STATUS_OK;
}

enum status session_tap_read_kv(struct session *s, int layer, int rank, int kv_head,
                                int32_t position, float *key, float *value, struct error *err) {
    (void)err;
    assert_int_equal(rank, kv_head); /* three ranks */
    assert_true(s->position - CHUNK <= position && position < s->position);
    for (int d = 0; d < D; d++) key[d] = unturned_key_at(s, layer, kv_head, position, d);
    for (int d = 0; d < D; d++) value[d] = value_at(s, layer, kv_head, position, d);
    if (s->wrong.other_value && (!s->wrong.only || s->wrong.only == position))
        value[D - 1] = nextafterf(value[D - 1], 9);
    return STATUS_OK;
}

enum status session_kv_read(struct session *s, int layer, int rank, int kv_head, int32_t begin,
                            int32_t n, float *k, float *v, struct error *err) {
    (void)err;
    assert_int_equal(rank, kv_head); /* three ranks */
    assert_true(begin >= 0 && begin + n <= s->position);
    for (int32_t j = 0; j < n; j++) {
        if (k) key_at(s, layer, kv_head, begin + j, k + j * D);
        for (int d = 0; v && d < D; d++) v[j * D + d] = value_at(s, layer, kv_head, begin + j, d);
    }
    return STATUS_OK;
}

/* ---- running the check */

static const int all_chunks[] = {0, 1, 2, 3, 4};

static struct case_plan make_case(enum dtype dtype, bool dual) {
    struct case_plan c = {0};
    c.engine.dtype = dtype;
    c.engine.dual_chunk_attention = dual;
    c.engine.prune_last_layer = true;
    c.session.prompt_tokens = S;
    c.session.chunk_tokens = CHUNK;
    return c;
}

static struct engine_info make_info(void) {
    struct engine_info info = {.ranks = 3};
    info.model = (struct model_config){.layers = LAYERS,
                                       .H = H,
                                       .K = K,
                                       .D = D,
                                       .rope_theta = THETA,
                                       .dual_chunk = {640, 128},
                                       .dual_chunk_original_max = 768};
    return info;
}

static void check_all(struct check_spot *spot, struct session *s) {
    for (int i = 0; i < check_spot_points(spot); i++)
        assert_int_equal(check_spot_run(spot, s, i, NULL), STATUS_OK);
}

static struct check_result run(struct session s, int count) {
    const bool dual = s.pattern.chunk > 0;
    const struct case_plan c = make_case(s.dtype, dual);
    const struct engine_info info = make_info();
    struct check_result result = {0};
    struct check_spot *spot;
    assert_int_equal(check_spot_open(&spot, &info, &c, all_chunks, 5, count, 9, NULL), STATUS_OK);
    for (int i = 0; i < 5; i++) {
        int32_t rows[TAP_ROWS];
        s.position = (i + 1) * CHUNK;
        assert_true(check_spot_rows(spot, i * CHUNK, CHUNK, rows) <= TAP_ROWS);
        assert_int_equal(check_spot_keep(spot, &s, i * CHUNK, CHUNK, NULL), STATUS_OK);
    }
    check_all(spot, &s);
    check_spot_finish(spot, &result);
    return result;
}

static struct session make_session(enum dtype dtype, bool dual, double gain) {
    struct session s = {.dtype = dtype, .factor = 1, .gain = gain};
    if (dual) {
        s.pattern = (struct attention_pattern){640, 128};
        s.factor = 0.1 * log(S / 768.0) + 1;
    }
    return s;
}

static void a_kernel_that_rounds_as_allowed_passes(void **state) {
    (void)state;
    static const double gains[] = {0, 0.3, 1, 3, 20};
    for (int dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++)
        for (int dual = 0; dual < 2; dual++)
            for (size_t g = 0; g < sizeof gains / sizeof *gains; g++) {
                const struct check_result r = run(make_session(dtype, dual, gains[g]), 18);
                print_message("%s %s gain %g: %.2f of the tolerance\n", dtype_name(dtype),
                              dual ? "dual chunk" : "plain", gains[g], r.worst);
                if (r.verdict != VERDICT_OK) fail_msg("%s", r.detail);
                assert_true(r.worst < 0.8 && r.limit == 1);
            }
}

static void what_is_wrong_is_found(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct wrong wrong;
        bool dual_only;
    } faults[] = {
        {"theta", {.theta = 9.9e5}, false},
        {"positions one further", {.shift = 1}, false},
        {"window of 64", {.window = 64}, false},
        {"a tenth of the keys lost", {.lost = 100, .lost_end = 300}, false},
        {"first tile lost", {.lost = 0, .lost_end = 128}, false},
        {"heads mapped to other kv heads", {.gqa = true}, false},
        {"factor missing", {.no_factor = true}, true},
        {"plain phases", {.plain = true}, true},
        {"keys never written", {.unwritten = true, .lost = 300, .lost_end = 301}, false},
        {"not a number", {.nan = true}, false},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (int dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++)
            for (int dual = faults[i].dual_only; dual < 2; dual++) {
                struct session s = make_session(dtype, dual, 1);
                s.wrong = faults[i].wrong;
                const struct check_result r = run(s, 18);
                print_message("%s, %s %s: %.3g\n", faults[i].name, dtype_name(dtype),
                              dual ? "dual chunk" : "plain", r.worst);
                if (r.verdict != VERDICT_FAILED) fail_msg("%s: %s", faults[i].name, r.detail);
                assert_true(strstr(r.detail, "token") != NULL);
            }
}

/* Attention of the wrong keys is right, as far as it can know: the row's own key says it. */
static void what_the_cache_holds_is_not_taken_as_given(void **state) {
    (void)state;
    static const struct {
        const char *name, *found;
        struct wrong wrong;
        bool dual_only;
    } faults[] = {
        {"cosine and sine exchanged", "key of layer ", {.swapped_turn = true}, false},
        {"plain phases of keys", "key of layer ", {.key_phase = true}, true},
        {"keys without factor", "key of layer ", {.key_factor = true}, true},
        {"one unit of a key", "key of layer ", {.last_bit = true}, false},
        {"one bit of a value", "value of layer ", {.other_value = true}, false},
        {"exchanged in the last row",
         ", token 1999, ",
         {.swapped_turn = true, .only = S - 1},
         false},
        {"a bit in the first chunk", ", token 399, ", {.last_bit = true, .only = CHUNK - 1}, false},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (int dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++)
            for (int dual = faults[i].dual_only; dual < 2; dual++) {
                struct session s = make_session(dtype, dual, 1);
                s.wrong = faults[i].wrong;
                const struct check_result r = run(s, 18);
                print_message("%s, %s %s: %.3g; %s\n", faults[i].name, dtype_name(dtype),
                              dual ? "dual chunk" : "plain", r.worst, r.detail);
                if (r.verdict != VERDICT_FAILED) fail_msg("%s: %s", faults[i].name, r.detail);
                assert_non_null(strstr(r.detail, faults[i].found));
            }
}

/* Only its last row is attended there; keys and values are checked in every chunk. */
static void the_pruned_layer_has_keys_of_all_chunks(void **state) {
    (void)state;
    const struct case_plan c = make_case(DTYPE_BF16, false);
    struct engine_info info = make_info();
    struct check_spot *spot;
    int32_t rows[TAP_ROWS];
    info.model.layers = 1;
    assert_int_equal(check_spot_open(&spot, &info, &c, all_chunks, 5, 10, 9, NULL), STATUS_OK);
    for (int i = 0; i < 5; i++) assert_true(check_spot_rows(spot, i * CHUNK, CHUNK, rows) > 0);
    check_spot_finish(spot, NULL);
    for (int32_t wrong = 0; wrong < 2; wrong++) {
        struct session s = make_session(DTYPE_BF16, false, 1);
        struct check_result r = {0};
        s.wrong = (struct wrong){.swapped_turn = wrong, .only = CHUNK - 1};
        assert_int_equal(check_spot_open(&spot, &info, &c, all_chunks, 5, 10, 9, NULL), STATUS_OK);
        for (int i = 0; i < 5; i++) {
            s.position = (i + 1) * CHUNK;
            assert_int_equal(check_spot_keep(spot, &s, i * CHUNK, CHUNK, NULL), STATUS_OK);
        }
        check_all(spot, &s);
        check_spot_finish(spot, &r);
        assert_int_equal(r.verdict, wrong ? VERDICT_FAILED : VERDICT_OK);
        if (wrong) assert_non_null(strstr(r.detail, "key of layer 0, head "));
    }
}

/* Rows of every chunk, all layers and heads, in the last layer of a pruned model the last row. */
static void points_are_spread(void **state) {
    (void)state;
    const struct case_plan c = make_case(DTYPE_BF16, false);
    const struct engine_info info = make_info();
    struct check_spot *spot;
    int32_t rows[TAP_ROWS];
    assert_int_equal(check_spot_open(&spot, &info, &c, all_chunks, 5, 60, 9, NULL), STATUS_OK);
    for (int i = 0; i < 5; i++) {
        const int n = check_spot_rows(spot, i * CHUNK, CHUNK, rows);
        bool last = false;
        assert_in_range(n, 2, TAP_ROWS);
        for (int k = 0; k < n; k++) {
            assert_in_range(rows[k], i * CHUNK, i * CHUNK + CHUNK - 1);
            last = last || rows[k] == S - 1;
            for (int a = 0; a < k; a++) assert_int_not_equal(rows[a], rows[k]);
        }
        assert_int_equal(last, i == 4);
    }
    check_spot_finish(spot, NULL);
}

static void sampled_chunks_get_rows_in_those_chunks_alone(void **state) {
    (void)state;
    const struct case_plan c = make_case(DTYPE_BF16, false);
    const struct engine_info info = make_info();
    const int some[] = {0, 2, 4};
    struct check_spot *spot;
    int32_t rows[TAP_ROWS];
    assert_int_equal(check_spot_open(&spot, &info, &c, some, 3, 12, 9, NULL), STATUS_OK);
    for (int i = 0; i < 5; i++)
        assert_int_equal(check_spot_rows(spot, i * CHUNK, CHUNK, rows) > 0, i % 2 == 0);
    check_spot_finish(spot, NULL);
}

static void rows_that_were_not_seen_are_not_called_right(void **state) {
    (void)state;
    const struct case_plan c = make_case(DTYPE_BF16, false);
    const struct engine_info info = make_info();
    struct session s = make_session(DTYPE_BF16, false, 1);
    struct check_spot *spot;
    struct check_result r = {0};
    assert_int_equal(check_spot_open(&spot, &info, &c, all_chunks, 5, 10, 9, NULL), STATUS_OK);
    s.position = CHUNK;
    assert_int_equal(check_spot_keep(spot, &s, 0, CHUNK, NULL), STATUS_OK);
    /* the session has lost a chunk: its rows are others than planned */
    assert_int_equal(check_spot_keep(spot, &s, CHUNK, CHUNK, NULL), STATUS_OK);
    check_all(spot, &s);
    check_spot_finish(spot, &r);
    assert_int_equal(r.verdict, VERDICT_NOT_CHECKED);
    assert_null(strstr(r.detail, "0 of 10 rows"));
    assert_non_null(strstr(r.detail, "of 10 rows"));
    check_spot_finish(NULL, &r);
    assert_int_equal(r.verdict, VERDICT_NOT_CHECKED);
    assert_non_null(strstr(r.detail, "switched off"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kernel_that_rounds_as_allowed_passes),
        cmocka_unit_test(what_is_wrong_is_found),
        cmocka_unit_test(what_the_cache_holds_is_not_taken_as_given),
        cmocka_unit_test(the_pruned_layer_has_keys_of_all_chunks),
        cmocka_unit_test(points_are_spread),
        cmocka_unit_test(sampled_chunks_get_rows_in_those_chunks_alone),
        cmocka_unit_test(rows_that_were_not_seen_are_not_called_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
