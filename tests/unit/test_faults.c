/* The whole path of a case (engine, session, checks, as the worker runs it) on the needle model:
 * right in every placement, and every fault noticed by the check that should notice it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "harness/check.h"
#include "harness/worker.h"
#include "tests/enough_memory.h"

struct variant {
    const char *model;
    int tp;
    enum dtype dtype;
    int32_t tokens, chunk;
    bool graph, dual_chunk;
};

/* What the hooks of a case need: a fault in the arithmetic, a chunk that is not fed. */
struct broken {
    struct fault *fault; /* or NULL */
    int dropped;         /* chunk, or -1 */
};

static bool before_chunk(void *ctx, const char *case_id, int repeat, int chunk) {
    const struct broken *b = ctx;
    (void)case_id, (void)repeat;
    if (b->fault) fault_at_chunk(b->fault, chunk, true);
    return chunk == b->dropped;
}

static struct case_plan make_case(const struct variant *v) {
    struct case_plan c = {.coverage = COVER_FULL,
                          .engine = engine_opts_defaults(),
                          .session = session_opts_defaults(),
                          .chunks = (v->tokens + v->chunk - 1) / v->chunk};
    snprintf(c.id, sizeof c.id, "needle_c%d_%s", v->chunk, v->graph ? "graph" : "eager");
    snprintf(c.prompt, sizeof c.prompt, "needle:%d", v->tokens);
    c.engine.model = v->model;
    c.engine.tensor_parallel_size = v->tp;
    c.engine.dtype = v->dtype;
    c.engine.device = DEVICE_CPU;
    c.engine.prune_last_layer = true;
    c.engine.dual_chunk_attention = v->dual_chunk;
    c.session.prompt_tokens = v->tokens;
    c.session.max_tokens = 24;
    c.session.chunk_tokens = v->chunk;
    c.session.graph = v->graph;
    c.session.sampling = (struct sampling_opts){0, 1, 1, 0, 1};
    return c;
}

/* fault: a text of fault.h, "drop:C", or NULL. */
static void run_case(const struct variant *v, const char *fault, struct case_result *out) {
    struct error err = {""};
    struct broken broken = {.dropped = -1};
    if (fault && strncmp(fault, "drop:", 5) == 0)
        broken.dropped = atoi(fault + 5);
    else if (fault)
        assert_non_null(broken.fault = fault_open(fault));
    const struct bench_hooks hooks = {.before_chunk = before_chunk, .before_chunk_ctx = &broken};
    const struct case_env env = {.hooks = &hooks};
    struct plan *plan = calloc(1, sizeof *plan);
    assert_non_null(plan);
    config_defaults(&plan->config);
    plan->config.repeats = 1;
    plan->config.warmup = 0;
    plan->config.spot = 16;
    plan->config.truth = true;
    strcpy(plan->config.spans, "none");
    plan->config.prompt_seed = 1;
    assert_int_equal(engine_model_config(v->model, &plan->model, &err), STATUS_OK);
    struct case_plan c = make_case(v);
    if (broken.fault) c.engine.interpose = fault_interpose, c.engine.interpose_ctx = broken.fault;
    struct engine *engine;
    if (engine_open(&engine, &c.engine, &err) != STATUS_OK) fail_msg("%s", err.text);
    if (worker_run_case(engine, plan, &c, &env, out, &err) != STATUS_OK) fail_msg("%s", err.text);
    engine_close(engine);
    fault_close(broken.fault);
    free(plan);
}

static void print_case(const struct variant *v, const struct case_result *r, const char *fault) {
    print_message("%s tp %d %s %d tokens by %d %s%s %s:", v->model, v->tp, dtype_name(v->dtype),
                  v->tokens, v->chunk, v->graph ? "graph" : "eager", v->dual_chunk ? " dca" : "",
                  fault ? fault : "right");
    for (int i = 0; i < CHECKS; i++)
        print_message(" %s %s %.3g;", check_name(i), verdict_text(r->check[i].verdict),
                      r->check[i].worst);
    print_message("\n");
}

static void expect(const struct case_result *r, enum check check, enum verdict verdict) {
    if (r->check[check].verdict != verdict)
        fail_msg("%s: %s, expected %s: %s", check_name(check),
                 verdict_text(r->check[check].verdict), verdict_text(verdict),
                 r->check[check].detail);
}

static void expect_right(const struct variant *v, const struct case_result *r) {
    print_case(v, r, NULL);
    for (int i = 0; i < CHECK_INVARIANCE; i++) expect(r, i, VERDICT_OK);
}

static void right_in_every_placement_and_the_same_in_every_chunking(void **state) {
    (void)state;
    static const struct {
        const char *model;
        int tp;
        enum dtype dtype;
        bool dual_chunk;
    } placements[] = {
        {"needle", 1, DTYPE_BF16, false},        {"needle", 2, DTYPE_BF16, false},
        {"needle", 4, DTYPE_BF16, true},         {"needle", 8, DTYPE_BF16, false},
        {"needle", 1, DTYPE_F32, true},          {"needle", 4, DTYPE_F32, false},
        {"needle:4x4x64", 1, DTYPE_BF16, false}, {"needle:4x4x64", 4, DTYPE_F32, false},
    };
    static const struct {
        int32_t chunk;
        bool graph;
    } ways[] = {{2048, false}, {512, true}, {300, false}, {129, true}};
    enum { WAYS = sizeof ways / sizeof *ways };
    for (size_t p = 0; p < sizeof placements / sizeof *placements; p++) {
        struct case_result results[WAYS], *list[WAYS];
        for (int w = 0; w < WAYS; w++) {
            const struct variant v = {
                placements[p].model, placements[p].tp, placements[p].dtype,     2048,
                ways[w].chunk,       ways[w].graph,    placements[p].dual_chunk};
            list[w] = &results[w];
            run_case(&v, NULL, &results[w]);
            expect_right(&v, &results[w]);
        }
        check_invariance(list, WAYS);
        for (int w = 0; w < WAYS; w++) {
            expect(&results[w], CHECK_INVARIANCE, VERDICT_OK);
            result_free(&results[w]);
        }
    }
}

static void right_with_the_heads_of_the_large_model(void **state) {
    (void)state;
    const struct variant v = {"needle:28x4x128", 4, DTYPE_BF16, 1024, 400, false, false};
    struct case_result r;
    run_case(&v, NULL, &r);
    expect_right(&v, &r);
    result_free(&r);
}

/* The needle's truth: ids or logits. */
static bool truth_failed(const struct case_result *r) {
    return r->check[CHECK_TOKENS].verdict == VERDICT_FAILED ||
           r->check[CHECK_LOGITS].verdict == VERDICT_FAILED;
}

static void every_fault_is_noticed_by_the_check_that_should(void **state) {
    (void)state;
    static const struct {
        const char *fault;
        int tp;
        bool spot; /* the spot check must notice, too; the answer always does */
    } faults[] = {
        {"zero_rank:0", 4, false},     {"zero_rank:3", 4, false},   {"zero_rank:1", 2, false},
        {"swap_ranks:1,2", 4, true},   {"swap_ranks:0,1", 2, true}, {"shift_position:0", 1, true},
        {"shift_position:2", 4, true}, {"wrong_rotation", 2, true}, {"window:64", 2, true},
        {"gqa_map", 1, true},          {"gqa_map", 2, true},        {"lost_keys:1", 2, true},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const enum dtype dtype = i % 3 ? DTYPE_BF16 : DTYPE_F32;
        const struct variant v = {"needle", faults[i].tp, dtype, 2048, 512, false, false};
        struct case_result r;
        run_case(&v, faults[i].fault, &r);
        print_case(&v, &r, faults[i].fault);
        expect(&r, CHECK_COUNT, VERDICT_OK);
        expect(&r, CHECK_SPOT, faults[i].spot ? VERDICT_FAILED : VERDICT_OK);
        if (!truth_failed(&r)) fail_msg("not noticed by the answer");
        result_free(&r);
    }
}

static void a_lost_chunk_is_counted(void **state) {
    (void)state;
    for (int chunk = 0; chunk < 4; chunk++) {
        const struct variant v = {"needle", 2, DTYPE_BF16, 2048, 512, false, false};
        char fault[20];
        struct case_result r;
        snprintf(fault, sizeof fault, "drop:%d", chunk);
        run_case(&v, fault, &r);
        print_case(&v, &r, fault);
        expect(&r, CHECK_COUNT, VERDICT_FAILED);
        assert_int_not_equal(r.check[CHECK_TOKENS].verdict, VERDICT_OK);
        assert_int_not_equal(r.check[CHECK_LOGITS].verdict, VERDICT_OK);
        result_free(&r);
    }
}

static void a_value_that_is_no_number_is_found(void **state) {
    (void)state;
    const struct variant v = {"needle", 2, DTYPE_BF16, 2048, 512, false, false};
    struct case_result r;
    run_case(&v, "nan_logits", &r);
    print_case(&v, &r, "nan_logits");
    expect(&r, CHECK_FINITE, VERDICT_FAILED);
    expect(&r, CHECK_LOGITS, VERDICT_FAILED);
    result_free(&r);
}

/* Last bits alone, in one chunk size: within every tolerance, but not the same. */
static void a_drift_between_chunk_sizes_is_found_by_invariance_alone(void **state) {
    (void)state;
    const int32_t chunks[] = {1024, 512, 700};
    struct case_result results[3], *list[3];
    for (int i = 0; i < 3; i++) {
        const struct variant v = {"needle", 2, DTYPE_BF16, 2048, chunks[i], false, false};
        list[i] = &results[i];
        run_case(&v, "drift:512", list[i]);
        print_case(&v, list[i], "drift:512");
        for (int c = 0; c < CHECK_INVARIANCE; c++) expect(list[i], c, VERDICT_OK);
    }
    check_invariance(list, 3);
    for (int i = 0; i < 3; i++) expect(list[i], CHECK_INVARIANCE, VERDICT_FAILED);
    assert_non_null(strstr(results[1].check[CHECK_INVARIANCE].detail, "agrees with 0 others"));
    for (int i = 0; i < 3; i++) result_free(list[i]);
}

int main(void) {
    if (!enough_memory(384)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_in_every_placement_and_the_same_in_every_chunking),
        cmocka_unit_test(right_with_the_heads_of_the_large_model),
        cmocka_unit_test(every_fault_is_noticed_by_the_check_that_should),
        cmocka_unit_test(a_lost_chunk_is_counted),
        cmocka_unit_test(a_value_that_is_no_number_is_found),
        cmocka_unit_test(a_drift_between_chunk_sizes_is_found_by_invariance_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
