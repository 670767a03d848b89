/* result.c: growth, texts, and the facts derived from rows. */
#include "harness/result.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct case_plan small_plan(enum coverage coverage) {
    struct case_plan p = {.id = "needle-1k_c256_eager_tp2_bf16", .prompt = "needle:1k"};
    p.engine.tensor_parallel_size = 2;
    p.engine.attention_backend = "auto";
    p.engine.linear_backend = "ref";
    p.session.prompt_tokens = 1000;
    p.session.chunk_tokens = 256;
    p.coverage = coverage;
    return p;
}

static void init_takes_the_plan_and_claims_nothing(void **state) {
    (void)state;
    struct case_plan p = small_plan(COVER_FULL);
    struct case_result r;
    result_init(&r, &p);
    assert_string_equal(r.id, p.id);
    assert_string_equal(r.linear, "ref");
    assert_string_equal(r.dtype, "bfloat16");
    assert_int_equal(r.status, CASE_FAILED);
    assert_true(strlen(r.reason) > 0);
    for (int i = 0; i < CHECKS; i++) {
        assert_int_equal(r.check[i].verdict, VERDICT_NOT_CHECKED);
        assert_string_equal(r.check[i].detail, "the case did not run to its end");
        assert_true(isnan(r.check[i].worst) && isnan(r.check[i].limit));
    }
    result_free(&r);
    result_free(&r);
}

static void init_of_a_skipped_case_keeps_its_reason(void **state) {
    (void)state;
    struct case_plan p = small_plan(COVER_SKIPPED);
    strcpy(p.reason, "needs 9 GiB, 4 GiB are free");
    struct case_result r;
    result_init(&r, &p);
    assert_string_equal(r.check[CHECK_SPOT].detail, "the case was skipped");
    assert_int_equal(r.status, CASE_SKIPPED);
    assert_string_equal(r.reason, p.reason);
    result_free(&r);
}

static void init_names_the_text_from_the_web(void **state) {
    (void)state;
    struct case_plan p = small_plan(COVER_FULL);
    struct case_result r;
    strcpy(p.text_sha256, "9f86d0");
    result_init(&r, &p);
    assert_string_equal(r.prompt_url, "");
    assert_string_equal(r.prompt_file_sha256, "");
    strcpy(p.prompt, "url:http://host/x.txt");
    result_init(&r, &p);
    assert_string_equal(r.prompt_url, "http://host/x.txt");
    assert_string_equal(r.prompt_file_sha256, "9f86d0");
}

static void added_rows_keep_their_order_across_growth(void **state) {
    (void)state;
    struct case_result r = {.tp = 1};
    for (int i = 0; i < 1000; i++) {
        struct chunk_row c = {.chunk = i};
        struct memory_row m = {.chunk = i};
        struct decode_row d = {.step = i};
        struct span_row s[3] = {{.chunk = 3 * i}, {.chunk = 3 * i + 1}, {.chunk = 3 * i + 2}};
        assert_int_equal(result_add_chunk(&r, &c, NULL), STATUS_OK);
        assert_int_equal(result_add_memory(&r, &m, NULL), STATUS_OK);
        assert_int_equal(result_add_decode(&r, &d, NULL), STATUS_OK);
        assert_int_equal(result_add_spans(&r, s, i % 4, NULL), STATUS_OK);
    }
    assert_int_equal(r.n_chunks, 1000);
    assert_int_equal(r.n_spans, 250 * (0 + 1 + 2 + 3));
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(r.chunks[i].chunk, i);
        assert_int_equal(r.memory[i].chunk, i);
        assert_int_equal(r.decode[i].step, i);
    }
    for (int64_t i = 1; i < r.n_spans; i++) assert_true(r.spans[i].chunk > r.spans[i - 1].chunk);
    result_free(&r);
}

static void capacity_doubles_and_never_falls_short(void **state) {
    (void)state;
    assert_int_equal(result_capacity(0), 0);
    for (int64_t n = 1; n < 5000; n++) {
        int64_t c = result_capacity(n);
        assert_true(c >= n && (n <= 8 || c < 2 * n));
        assert_int_equal(result_capacity(c), c);
    }
    assert_true(result_capacity(INT64_MAX) == INT64_MAX);
}

static void more_rows_than_memory_can_name_are_refused(void **state) {
    (void)state;
    struct case_result r = {.n_spans = INT64_MAX};
    struct span_row s[2] = {{0}, {0}};
    struct error err = {""};
    assert_int_equal(result_add_spans(&r, s, 2, &err), STATUS_NO_MEMORY);
    assert_true(strlen(err.text) > 0);
    r.n_spans = 0;
}

static void ttft_is_the_median_with_its_spread(void **state) {
    (void)state;
    int64_t odd[] = {3000, 1000, 2000}, even[] = {4000, 1000, 3000, 2000};
    struct case_result r = {.prompt_tokens = 1000, .tp = 1, .ttft_ns = odd, .n_ttft = 3};
    struct case_summary s;
    result_summary(&r, &s);
    assert_int_equal(s.ttft_median_ns, 2000);
    assert_int_equal(s.ttft_min_ns, 1000);
    assert_int_equal(s.ttft_max_ns, 3000);
    assert_true(s.prefill_tok_s == 1000 * 1e9 / 2000);
    r.ttft_ns = even, r.n_ttft = 4;
    result_summary(&r, &s);
    assert_int_equal(s.ttft_median_ns, 2500);
    assert_int_equal(even[0], 4000);
}

static void what_was_not_measured_is_nan(void **state) {
    (void)state;
    struct case_result r = {.tp = 1};
    struct decode_row first = {.step = 0, .latency_ns = 7};
    struct case_summary s;
    assert_int_equal(result_add_decode(&r, &first, NULL), STATUS_OK);
    result_summary(&r, &s);
    assert_true(isnan(s.prefill_tok_s) && isnan(s.decode_tok_s));
    assert_int_equal(s.output, VERDICT_NOT_CHECKED);
    result_free(&r);
}

static void decode_rate_leaves_out_the_sampling_of_the_first_token(void **state) {
    (void)state;
    struct case_result r = {.tp = 1};
    struct decode_row rows[] = {{.step = 0, .latency_ns = 1},
                                {.step = 1, .latency_ns = 400000000},
                                {.step = 2, .latency_ns = 600000000}};
    for (int i = 0; i < 3; i++) assert_int_equal(result_add_decode(&r, &rows[i], NULL), STATUS_OK);
    struct case_summary s;
    result_summary(&r, &s);
    assert_true(s.decode_tok_s == 2.0);
    result_free(&r);
}

static void peak_of_a_rank_is_its_own_and_its_share_of_what_ranks_share(void **state) {
    (void)state;
    struct case_result r = {.tp = 2, .devices = 1};
    struct memory_row shared = {.rank = SHARED_RANK}, own = {.rank = 0};
    shared.use.high_water[MEMORY_WORKSPACE] = 101;
    own.use.high_water[MEMORY_KV] = 1000;
    own.driver_after = 3000, own.driver_high_water = 3500, own.unaccounted = 99;
    assert_int_equal(result_add_memory(&r, &shared, NULL), STATUS_OK);
    assert_int_equal(result_add_memory(&r, &own, NULL), STATUS_OK);
    own.rank = 1, own.use.high_water[MEMORY_WEIGHTS] = 500;
    assert_int_equal(result_add_memory(&r, &own, NULL), STATUS_OK);
    struct case_summary s;
    result_summary(&r, &s);
    assert_int_equal(s.peak_bytes_rank, 1500 + 51);
    assert_int_equal(s.peak_bytes_device, 1000 + 1500 + 101);
    assert_int_equal(s.peak_driver_bytes, 3500);
    assert_int_equal(s.unaccounted_bytes, 99);
    /* on a GPU each: the shared row is of both, and so is its driver's figure */
    r.devices = 2;
    strcpy(r.device, "cuda");
    r.memory[0].driver_after = r.memory[0].driver_high_water = 7000, r.memory[0].unaccounted = 200;
    result_summary(&r, &s);
    assert_int_equal(s.peak_bytes_rank, 1500 + 51);
    assert_int_equal(s.peak_bytes_device, (1000 + 1500 + 101) / 2);
    assert_int_equal(s.peak_driver_bytes, 3500);
    assert_int_equal(s.unaccounted_bytes, 99);
    /* devices of the CPU share its memory, but those of several processes do not */
    strcpy(r.device, "cpu");
    assert_int_equal(result_memories(&r), 1);
    r.memories = 2;
    result_summary(&r, &s);
    assert_int_equal(s.peak_bytes_device, (1000 + 1500 + 101) / 2);
    result_free(&r);
}

static void add_clocks(struct case_result *r, int32_t repeat, int32_t chunk, int64_t energy_mj) {
    struct chunk_row chunk_row = {.repeat = repeat, .chunk = chunk, .n_tokens = 100};
    chunk_row.latency_ns = 500000000 + 500000000 * chunk;
    struct clock_row c = {.repeat = repeat, .chunk = chunk, .energy_mj = energy_mj};
    c.samples = 1 + 2 * chunk;
    c.sm_clock_mean_mhz = 1000 + 400 * chunk, c.sm_clock_min_mhz = 900 + 100 * chunk;
    c.power_mean_w = 300, c.throttle_reasons_seen = 1 << chunk;
    assert_int_equal(result_add_chunk(r, &chunk_row, NULL), STATUS_OK);
    assert_int_equal(result_add_clocks(r, &c, NULL), STATUS_OK);
}

static void energy_is_of_a_repeat_and_of_a_token_and_known_whole_or_not_at_all(void **state) {
    (void)state;
    struct case_result r = {.tp = 1};
    struct case_summary s;
    result_summary(&r, &s);
    assert_true(isnan(s.energy_j) && isnan(s.energy_j_per_token) && isnan(s.power_mean_w));
    assert_true(isnan(s.power_w));
    assert_true(s.sm_clock_min_mhz == -1 && s.throttle_reasons == -1);
    add_clocks(&r, 0, 0, 3000);
    result_summary(&r, &s);
    assert_true(s.energy_j == 3 && isnan(s.power_w)); /* half a second is too short for a counter */
    for (int i = 1; i < 4; i++) add_clocks(&r, i / 2, i % 2, 3000);
    result_summary(&r, &s);
    assert_true(s.energy_j == 6);
    assert_true(fabs(s.energy_j_per_token - 0.03) < 1e-12);
    assert_true(s.sm_clock_mean_mhz == 1300); /* by samples: 1 of 1000, 3 of 1400 MHz */
    assert_true(s.power_mean_w == 300);
    assert_true(s.power_w == 4); /* 12 J in 3 s */
    assert_int_equal(s.sm_clock_min_mhz, 900);
    assert_int_equal(s.throttle_reasons, 3);
    add_clocks(&r, 2, 0, -1);
    result_summary(&r, &s);
    assert_true(isnan(s.energy_j) && isnan(s.energy_j_per_token) && !isnan(s.power_mean_w));
    assert_true(isnan(s.power_w));
    result_free(&r);
}

static enum verdict output_of(enum coverage coverage, enum verdict tokens, enum verdict spot,
                              enum verdict finite) {
    struct case_result r = {.coverage = coverage, .tp = 1};
    r.check[CHECK_TOKENS].verdict = tokens;
    r.check[CHECK_SPOT].verdict = spot;
    r.check[CHECK_FINITE].verdict = finite;
    struct case_summary s;
    result_summary(&r, &s);
    return s.output;
}

static void a_repeat_that_is_taken_back_leaves_the_rows_of_those_before(void **state) {
    (void)state;
    enum { CHUNKS = 12 };
    struct case_result r = {.repeats = 2};
    for (int repeat = 0; repeat < 3; repeat++) {
        for (int i = 0; i < CHUNKS; i++) {
            const struct chunk_row chunk = {.repeat = repeat, .chunk = i};
            const struct memory_row memory = {.repeat = repeat, .chunk = i};
            const struct clock_row clocks = {.repeat = repeat, .chunk = i};
            const struct decode_row token = {.repeat = repeat, .step = i};
            assert_int_equal(result_add_chunk(&r, &chunk, NULL), STATUS_OK);
            assert_int_equal(result_add_memory(&r, &memory, NULL), STATUS_OK);
            assert_int_equal(result_add_decode(&r, &token, NULL), STATUS_OK);
            assert_int_equal(result_add_clocks(&r, &clocks, NULL), STATUS_OK);
        }
        if (repeat == 1) result_drop_repeat(&r, 1); /* the next one is added where it stood */
    }
    const int64_t counts[] = {r.n_chunks, r.n_memory, r.n_clocks, r.n_decode};
    for (int i = 0; i < 4; i++) assert_int_equal(counts[i], 2 * CHUNKS);
    for (int i = 0; i < 2 * CHUNKS; i++) {
        const int repeat = i < CHUNKS ? 0 : 2;
        assert_int_equal(r.chunks[i].repeat, repeat);
        assert_int_equal(r.memory[i].repeat, repeat);
        assert_int_equal(r.clocks[i].repeat, repeat);
        assert_int_equal(r.decode[i].repeat, repeat);
        assert_int_equal(r.chunks[i].chunk, i % CHUNKS);
    }
    result_free(&r);
}

static void output_is_ok_only_when_the_whole_answer_was_right(void **state) {
    (void)state;
    const enum verdict no = VERDICT_NOT_CHECKED, ok = VERDICT_OK, bad = VERDICT_FAILED;
    assert_int_equal(output_of(COVER_FULL, ok, no, no), ok);
    assert_int_equal(output_of(COVER_FULL, no, ok, ok), VERDICT_SPOT_OK);
    assert_int_equal(output_of(COVER_FULL, ok, ok, ok), ok);
    assert_int_equal(output_of(COVER_FULL, no, ok, bad), bad);
    assert_int_equal(output_of(COVER_FULL, no, no, ok), no);
    assert_int_equal(output_of(COVER_FULL, ok, ok, bad), bad);
    assert_int_equal(output_of(COVER_FULL, no, no, bad), bad);
    assert_int_equal(output_of(COVER_SAMPLED, no, ok, ok), no);
    assert_int_equal(output_of(COVER_SAMPLED, no, bad, ok), bad);
}

static void every_status_and_check_has_a_text_of_its_own(void **state) {
    (void)state;
    for (int i = CASE_OK; i <= CASE_INTERRUPTED; i++)
        for (int j = CASE_OK; j < i; j++)
            assert_string_not_equal(case_status_text((enum case_status)i),
                                    case_status_text((enum case_status)j));
    for (int i = 0; i < CHECKS; i++) assert_string_not_equal(check_name((enum check)i), "unknown");
    assert_string_equal(verdict_text(VERDICT_NOT_CHECKED), "not checked");
    assert_string_equal(verdict_text(VERDICT_SPOT_OK), "spot ok");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_takes_the_plan_and_claims_nothing),
        cmocka_unit_test(init_of_a_skipped_case_keeps_its_reason),
        cmocka_unit_test(init_names_the_text_from_the_web),
        cmocka_unit_test(added_rows_keep_their_order_across_growth),
        cmocka_unit_test(capacity_doubles_and_never_falls_short),
        cmocka_unit_test(more_rows_than_memory_can_name_are_refused),
        cmocka_unit_test(ttft_is_the_median_with_its_spread),
        cmocka_unit_test(what_was_not_measured_is_nan),
        cmocka_unit_test(decode_rate_leaves_out_the_sampling_of_the_first_token),
        cmocka_unit_test(peak_of_a_rank_is_its_own_and_its_share_of_what_ranks_share),
        cmocka_unit_test(energy_is_of_a_repeat_and_of_a_token_and_known_whole_or_not_at_all),
        cmocka_unit_test(a_repeat_that_is_taken_back_leaves_the_rows_of_those_before),
        cmocka_unit_test(output_is_ok_only_when_the_whole_answer_was_right),
        cmocka_unit_test(every_status_and_check_has_a_text_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
