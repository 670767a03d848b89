/* Verdicts: each check passes what is right, fails what is wrong with a text that says where, and
 * never says "ok" about what it did not see. */
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

static const struct attention_pattern plain = {0, 0};
static struct model_config model;
static struct prompt prompt, text;
static float *truth, tolerance[20]; /* [answer_length][V], [answer_length] */

static int setup(void **state) {
    (void)state;
    struct error err = {""};
    if (engine_model_config("needle", &model, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_int_equal(prompt_make(&prompt, "needle:2k", &model, 2048, plain, 1, &err), STATUS_OK);
    assert_int_equal(prompt_make(&text, "random:100", &model, 100, plain, 1, &err), STATUS_OK);
    truth = malloc((size_t)prompt.needle.answer_length * (size_t)model.V * sizeof *truth);
    assert_non_null(truth);
    assert_int_equal(needle_expected_logits(&model, &prompt.needle, plain, truth, tolerance, &err),
                     STATUS_OK);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    prompt_free(&prompt);
    prompt_free(&text);
    free(truth);
    return 0;
}

/* ---- tokens */

static struct check_result tokens(const struct prompt *p, const int32_t *ids, int n) {
    struct check_result r = {0};
    check_tokens(&r, &model, p, ids, n, 5);
    return r;
}

static void the_right_answer_passes(void **state) {
    (void)state;
    assert_int_equal(tokens(&prompt, prompt.needle.answer, 20).verdict, VERDICT_OK);
}

static void the_first_wrong_token_is_named(void **state) {
    (void)state;
    int32_t ids[21];
    for (int wrong = 0; wrong < 20; wrong++) {
        char words[40];
        memcpy(ids, prompt.needle.answer, 20 * sizeof *ids);
        ids[wrong] = 'x';
        if (wrong < 19) ids[19] = 'y';
        const struct check_result r = tokens(&prompt, ids, 20);
        assert_int_equal(r.verdict, VERDICT_FAILED);
        snprintf(words, sizeof words, "answer token %d: expected ", wrong);
        assert_non_null(strstr(r.detail, words));
        assert_int_equal(strstr(r.detail, "stands at") != NULL,
                         prompt.needle.needle_positions[wrong] >= 0);
    }
    memcpy(ids, prompt.needle.answer, 20 * sizeof *ids);
    ids[20] = 'x';
    assert_int_equal(tokens(&prompt, ids, 21).verdict, VERDICT_FAILED);
}

static void a_part_of_the_answer_is_not_called_right(void **state) {
    (void)state;
    const struct check_result r = tokens(&prompt, prompt.needle.answer, 5);
    assert_int_equal(r.verdict, VERDICT_NOT_CHECKED);
    assert_non_null(strstr(r.detail, "only 5 of 20 answer tokens were generated: max_tokens = 5"));
    assert_int_equal(tokens(&prompt, NULL, 0).verdict, VERDICT_NOT_CHECKED);
    assert_int_equal(tokens(&text, prompt.needle.answer, 20).verdict, VERDICT_NOT_CHECKED);
}

static void a_name_of_a_token_can_always_be_read(void **state) {
    (void)state;
    const struct {
        int32_t id;
        const char *words;
    } names[] = {{0, "got 0 (\\x00)"},
                 {'\n', "got 10 (\\x0a)"},
                 {'x', "got 120 (x)"},
                 {200, "got 200 (\\xc8)"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct check_result r = tokens(&prompt, &names[i].id, 1);
        assert_int_equal(r.verdict, VERDICT_FAILED);
        if (!strstr(r.detail, names[i].words)) fail_msg("%s", r.detail);
    }
}

/* ---- logits */

static struct check_result logits(const float *rows, int n) {
    struct check_result r = {0};
    struct check_logits *c;
    assert_int_equal(check_logits_open(&c, &model, &prompt, plain, NULL), STATUS_OK);
    for (int i = 0; i < n; i++) check_logits_row(c, i, rows + (size_t)i * (size_t)model.V);
    check_logits_finish(c, &r);
    return r;
}

static float *copy_of_truth(void) {
    const size_t bytes = 20 * (size_t)model.V * sizeof *truth;
    float *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, truth, bytes);
    return copy;
}

static void analytic_logits_pass_up_to_the_tolerance(void **state) {
    (void)state;
    const int32_t V = model.V;
    for (int i = 0; i < 20; i++) {
        float *rows = copy_of_truth(), *row = rows + i * V;
        const float limit = tolerance[i];
        row[i * 7] += 0.99f * limit;
        struct check_result r = logits(rows, 20);
        assert_int_equal(r.verdict, VERDICT_OK);
        assert_true(fabs(r.worst - 0.99) < 1e-3 && r.limit == 1);
        row[i * 7] += 0.02f * limit;
        r = logits(rows, 20);
        assert_int_equal(r.verdict, VERDICT_FAILED);
        char words[40];
        snprintf(words, sizeof words, "answer row %d,", i);
        assert_non_null(strstr(r.detail, words));
        row[i * 7] = NAN;
        r = logits(rows, 20);
        assert_int_equal(r.verdict, VERDICT_FAILED);
        free(rows);
    }
}

static void rows_after_a_wrong_token_have_no_truth(void **state) {
    (void)state;
    const int32_t V = model.V;
    float *rows = copy_of_truth();
    rows[3 * V + 'x'] = 99;
    for (int i = 4 * V; i < 20 * V; i++) rows[i] = 1e6f;
    const struct check_result r = logits(rows, 20);
    assert_int_equal(r.verdict, VERDICT_FAILED);
    assert_non_null(strstr(r.detail, "answer row 3, logit of 120 (x)"));
    free(rows);
}

static void no_row_is_no_verdict(void **state) {
    (void)state;
    struct check_logits *c;
    struct check_result r = logits(truth, 0);
    assert_int_equal(r.verdict, VERDICT_NOT_CHECKED);
    check_logits_finish(NULL, &r);
    assert_int_equal(r.verdict, VERDICT_NOT_CHECKED);
    assert_int_equal(check_logits_open(&c, &model, &text, plain, NULL), STATUS_USAGE);
    assert_null(c);
}

/* ---- finite */

static void one_bad_value_is_enough(void **state) {
    (void)state;
    float row[100] = {0};
    struct check_result r = {.detail = "not yet"};
    check_finite_row(&r, row, 100, 0);
    assert_int_equal(r.verdict, VERDICT_OK);
    assert_string_equal(r.detail, "");
    row[99] = NAN;
    check_finite_row(&r, row, 100, 1);
    assert_int_equal(r.verdict, VERDICT_FAILED);
    assert_non_null(strstr(r.detail, "row 1, id 99: NaN"));
    row[99] = 0;
    check_finite_row(&r, row, 100, 2);
    assert_int_equal(r.verdict, VERDICT_FAILED);
    memset(&r, 0, sizeof r);
    row[0] = -INFINITY;
    check_finite_row(&r, row, 100, 3);
    assert_non_null(strstr(r.detail, "row 3, id 0: infinity"));
}

/* ---- count */

static struct case_result make_counted(void) {
    struct case_result r = {.status = CASE_OK, .coverage = COVER_FULL, .repeats = 2};
    r.prompt_tokens = 1000;
    for (int repeat = 0; repeat < 2; repeat++) {
        for (int c = 0; c < 3; c++) {
            const struct chunk_row row = {.repeat = repeat,
                                          .chunk = c,
                                          .start_token = 400 * c,
                                          .n_tokens = c < 2 ? 400 : 200};
            assert_int_equal(result_add_chunk(&r, &row, NULL), STATUS_OK);
        }
        for (int i = 0; i < 5; i++) {
            const struct decode_row row = {.repeat = repeat, .step = i};
            assert_int_equal(result_add_decode(&r, &row, NULL), STATUS_OK);
        }
    }
    return r;
}

static void every_token_once_passes(void **state) {
    (void)state;
    struct case_result r = make_counted();
    check_count(&r, 1004);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_OK);
    check_count(&r, 1005);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_FAILED);
    r.n_decode = 0;
    check_count(&r, 1000);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_OK);
    result_free(&r);
}

static void counted(struct case_result *r, const char *words) {
    check_count(r, 1004);
    assert_int_equal(r->check[CHECK_COUNT].verdict, VERDICT_FAILED);
    if (!strstr(r->check[CHECK_COUNT].detail, words)) fail_msg("%s", r->check[CHECK_COUNT].detail);
}

static void what_was_left_out_or_came_twice_is_named(void **state) {
    (void)state;
    struct case_result r = make_counted();
    r.chunks[4].start_token = 500;
    counted(&r, "repeat 2: chunk 2 begins at token 500 instead of 400: tokens were left out");
    r.chunks[4].start_token = 0;
    counted(&r, "tokens came twice");
    r.chunks[4].start_token = 400;
    r.chunks[5].n_tokens = 199;
    counted(&r, "repeat 2: 999 of 1000");
    r.chunks[5].n_tokens = 201;
    counted(&r, "repeat 2: 1001 of 1000");
    r.n_chunks = 5;
    counted(&r, "repeat 2: 800 of 1000");
    r.n_chunks = 3;
    counted(&r, "repeat 2: 0 of 1000");
    r.coverage = COVER_SAMPLED;
    check_count(&r, 1000);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_NOT_CHECKED);
    result_free(&r);
}

/* ---- memory */

static void an_allocation_inside_a_step_is_a_failure(void **state) {
    (void)state;
    struct case_result r = {0};
    check_memory(&r);
    assert_int_equal(r.check[CHECK_MEMORY].verdict, VERDICT_OK);
    r.step_allocations = 7;
    check_memory(&r);
    assert_int_equal(r.check[CHECK_MEMORY].verdict, VERDICT_FAILED);
    assert_non_null(strstr(r.check[CHECK_MEMORY].detail, "7 allocations inside steps"));
}

/* ---- invariance */

enum { CASES = 5 };
static struct case_result *make_cases(struct case_result *list[CASES]) {
    static int32_t ids[CASES][3];
    struct case_result *r = calloc(CASES, sizeof *r);
    assert_non_null(r);
    for (int i = 0; i < CASES; i++) {
        for (int k = 0; k < 3; k++) ids[i][k] = 10 + k;
        r[i] = (struct case_result){.status = CASE_OK,
                                    .coverage = COVER_FULL,
                                    .tp = 2,
                                    .chunk_tokens = 512 << i,
                                    .graph = i % 2,
                                    .dtype = "bfloat16",
                                    .prompt = "needle:2k",
                                    .prompt_sha256 = "ab",
                                    .logits_hash = 77,
                                    .output = ids[i],
                                    .n_output = 3};
        snprintf(r[i].id, sizeof r[i].id, "case-%d", i);
        list[i] = &r[i];
    }
    return r;
}

static enum verdict invariance_of(const struct case_result *r) {
    return r->check[CHECK_INVARIANCE].verdict;
}

static void same_bits_pass(void **state) {
    (void)state;
    struct case_result *list[CASES], *r = make_cases(list);
    check_invariance(list, CASES);
    for (int i = 0; i < CASES; i++) assert_int_equal(invariance_of(&r[i]), VERDICT_OK);
    free(r);
}

static void other_logits_or_tokens_fail_all_that_should_agree(void **state) {
    (void)state;
    struct case_result *list[CASES], *r = make_cases(list);
    r[3].logits_hash = 78;
    check_invariance(list, CASES);
    for (int i = 0; i < CASES; i++) assert_int_equal(invariance_of(&r[i]), VERDICT_FAILED);
    assert_non_null(strstr(r[0].check[CHECK_INVARIANCE].detail, "case-3"));
    assert_non_null(
        strstr(r[0].check[CHECK_INVARIANCE].detail, "agrees with 3 others, not with 1"));
    free(r);

    r = make_cases(list);
    r[1].output[2] = 99;
    check_invariance(list, CASES);
    assert_non_null(strstr(r[1].check[CHECK_INVARIANCE].detail, "token 2 is 99, there 12"));
    free(r);

    r = make_cases(list);
    r[1].n_output = 2;
    check_invariance(list, CASES);
    assert_non_null(strstr(r[1].check[CHECK_INVARIANCE].detail, "2 tokens, there 3"));
    free(r);
}

/* A kernel of an op that promises no row the same bits. */
static const char *kernel_without_promise(enum op op) {
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++)
        if (v.op == op && v.lacks & LACKS_SAME_BITS) return v.name;
    print_message("skipped: no %s of this program lacks that promise\n", op_name(op));
    skip();
    return NULL;
}

/* Of a kernel that is made of a library: what it does not promise is told, and is no failure. */
static void a_library_that_promises_nothing_is_excused(void **state) {
    (void)state;
    const char *name = kernel_without_promise(OP_ATTENTION);
    struct case_result *list[CASES], *r = make_cases(list);
    for (int k = 0; k < CASES; k++) snprintf(r[k].attention, sizeof r[k].attention, "%s", name);
    check_invariance(list, CASES);
    for (int k = 0; k < CASES; k++) assert_int_equal(invariance_of(&r[k]), VERDICT_OK);
    r[3].logits_hash = 78;
    check_invariance(list, CASES);
    for (int k = 0; k < CASES; k++) assert_int_equal(invariance_of(&r[k]), VERDICT_NOT_CHECKED);
    assert_non_null(strstr(r[0].check[CHECK_INVARIANCE].detail, "promises no row the same bits"));
    assert_non_null(strstr(r[0].check[CHECK_INVARIANCE].detail, "case-3"));
    free(r);
}

/* The same of what sums over devices. */
static void sums_in_a_librarys_order_are_excused(void **state) {
    (void)state;
    const char *name = kernel_without_promise(OP_EXCHANGE);
    struct case_result *list[CASES], *r = make_cases(list);
    for (int k = 0; k < CASES; k++) snprintf(r[k].exchange, sizeof r[k].exchange, "%s", name);
    r[3].logits_hash = 78;
    check_invariance(list, CASES);
    for (int k = 0; k < CASES; k++) assert_int_equal(invariance_of(&r[k]), VERDICT_NOT_CHECKED);
    assert_non_null(strstr(r[0].check[CHECK_INVARIANCE].detail, "exchange_backend = nccl_sum"));
    for (int k = 0; k < CASES; k++) snprintf(r[k].exchange, sizeof r[k].exchange, "peer");
    check_invariance(list, CASES);
    assert_int_equal(invariance_of(&r[3]), VERDICT_FAILED);
    free(r);
}

static void cases_that_differ_in_more_are_not_compared(void **state) {
    (void)state;
    struct case_result *list[CASES], *r = make_cases(list);
    for (int i = 0; i < CASES; i++) r[i].logits_hash = (uint64_t)i; /* all would fail */
    r[0].tp = 4;
    strcpy(r[1].dtype, "float32");
    strcpy(r[2].prompt_sha256, "cd");
    r[3].status = CASE_FAILED;
    r[4].coverage = COVER_SAMPLED;
    check_invariance(list, CASES);
    for (int i = 0; i < CASES; i++) assert_int_equal(invariance_of(&r[i]), VERDICT_NOT_CHECKED);
    free(r);
}

static void what_is_not_compared_says_why(void **state) {
    (void)state;
    static const char *const why[CASES] = {"no other case that ran in full", "skipped",
                                           "did not run to its end", "sampled coverage",
                                           "nothing was generated"};
    struct case_result *list[CASES], *r = make_cases(list);
    r[1].status = CASE_SKIPPED;
    r[2].status = CASE_CRASHED;
    r[3].coverage = COVER_SAMPLED;
    r[4].n_output = 0;
    check_invariance(list, CASES);
    for (int i = 0; i < CASES; i++) {
        assert_int_equal(invariance_of(&r[i]), VERDICT_NOT_CHECKED);
        if (!strstr(r[i].check[CHECK_INVARIANCE].detail, why[i]))
            fail_msg("case %d: %s", i, r[i].check[CHECK_INVARIANCE].detail);
    }
    free(r);
}

static void a_failure_between_repeats_stays(void **state) {
    (void)state;
    struct case_result *list[CASES], *r = make_cases(list);
    r[2].check[CHECK_INVARIANCE].verdict = VERDICT_FAILED;
    strcpy(r[2].check[CHECK_INVARIANCE].detail, "repeat 1");
    check_invariance(list, CASES);
    assert_int_equal(invariance_of(&r[2]), VERDICT_FAILED);
    assert_string_equal(r[2].check[CHECK_INVARIANCE].detail, "repeat 1");
    assert_int_equal(invariance_of(&r[1]), VERDICT_OK);
    free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_right_answer_passes),
        cmocka_unit_test(the_first_wrong_token_is_named),
        cmocka_unit_test(a_part_of_the_answer_is_not_called_right),
        cmocka_unit_test(a_name_of_a_token_can_always_be_read),
        cmocka_unit_test(analytic_logits_pass_up_to_the_tolerance),
        cmocka_unit_test(rows_after_a_wrong_token_have_no_truth),
        cmocka_unit_test(no_row_is_no_verdict),
        cmocka_unit_test(one_bad_value_is_enough),
        cmocka_unit_test(every_token_once_passes),
        cmocka_unit_test(what_was_left_out_or_came_twice_is_named),
        cmocka_unit_test(an_allocation_inside_a_step_is_a_failure),
        cmocka_unit_test(same_bits_pass),
        cmocka_unit_test(other_logits_or_tokens_fail_all_that_should_agree),
        cmocka_unit_test(a_library_that_promises_nothing_is_excused),
        cmocka_unit_test(sums_in_a_librarys_order_are_excused),
        cmocka_unit_test(cases_that_differ_in_more_are_not_compared),
        cmocka_unit_test(what_is_not_compared_says_why),
        cmocka_unit_test(a_failure_between_repeats_stays),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
