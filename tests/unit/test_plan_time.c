/* The time of a plan: what the budget buys, and predictions. */
#include "plan_fixture.h"

#include "harness/budget.h"
#include "harness/predict.h"

#include <math.h>

/* ---- the budget */

static void sampled_chunks_hold_both_ends_and_spread(void **state) {
    (void)state;
    int out[1024];
    assert_int_equal(plan_sampled_chunks(1, 5, out), 1);
    assert_int_equal(out[0], 0);
    assert_int_equal(plan_sampled_chunks(128, 5, out), 5);
    const int expected[] = {0, 32, 64, 95, 127};
    assert_memory_equal(out, expected, sizeof expected);
    for (int chunks = 1; chunks < 200; chunks++)
        for (int k = 2; k < 40; k++) {
            const int n = plan_sampled_chunks(chunks, k, out);
            assert_int_equal(n, k < chunks ? k : chunks);
            assert_int_equal(out[0], 0);
            assert_int_equal(out[n - 1], chunks - 1);
            for (int i = 1; i < n; i++) assert_true(out[i] > out[i - 1]);
        }
}

/* small, wanted: of samples; -1: not on offer. */
static struct budget_case offer(int group, double small, double wanted, double full) {
    struct budget_case b = {.group = group};
    if (small >= 0) b.form[b.n++] = (struct budget_form){COVER_SAMPLED, 3, small};
    if (wanted >= 0) b.form[b.n++] = (struct budget_form){COVER_SAMPLED, 5, wanted};
    if (full >= 0) b.form[b.n++] = (struct budget_form){COVER_FULL, 40, full};
    return b;
}

static void without_a_budget_everything_is_full(void **state) {
    (void)state;
    struct budget_case c[] = {offer(0, 0.5, 1, 1e9), offer(0, -1, -1, 5)};
    assert_true(budget_decide(c, 2, INFINITY) == 1e9 + 5);
    assert_int_equal(c[0].chosen, 2);
    assert_int_equal(c[1].chosen, 0);
}

static void every_prompt_gets_its_cheapest_case_before_any_gets_a_second(void **state) {
    (void)state;
    struct budget_case c[] = {offer(0, -1, 10, 40), offer(0, -1, 12, 40), offer(1, -1, 70, 1000),
                              offer(1, -1, 60, 1000)};
    assert_true(budget_decide(c, 4, 81) == 70);
    const int expected[] = {0, -1, -1, 0};
    for (int i = 0; i < 4; i++) assert_int_equal(c[i].chosen, expected[i]);
    assert_true(c[1].left_s == 11);
}

/* Twice two lengths: all four have a sample before a better one is bought, however cheap. */
static void every_case_gets_a_sample_before_any_gets_a_better_one(void **state) {
    (void)state;
    struct budget_case c[] = {offer(0, 10, 11, 12), offer(0, 10, 11, 12), offer(1, 100, 150, 900),
                              offer(1, 100, 150, 900)};
    assert_true(budget_decide(c, 4, 220) == 220);
    for (int i = 0; i < 4; i++) assert_int_equal(c[i].chosen, 0);
    assert_true(budget_decide(c, 4, 273) == 224);
    const int expected[] = {2, 2, 0, 0};
    for (int i = 0; i < 4; i++) assert_int_equal(c[i].chosen, expected[i]);
    assert_true(budget_decide(c, 4, 274) == 274);
    assert_int_equal(c[2].chosen, 1);
    assert_int_equal(c[3].chosen, 0);
}

static void forced_coverage_is_kept_or_skipped_and_excluded_cases_cost_nothing(void **state) {
    (void)state;
    struct budget_case c[] = {offer(0, -1, -1, 100), offer(1, -1, 20, -1), offer(2, -1, -1, -1),
                              offer(3, -1, -1, 2)};
    assert_true(budget_decide(c, 4, 50) == 22);
    const int expected[] = {-1, 0, -1, 0};
    for (int i = 0; i < 4; i++) assert_int_equal(c[i].chosen, expected[i]);
    assert_true(budget_decide(c, 0, 50) == 0);
}

static void random_budgets_are_never_overspent_and_never_waste_a_fitting_case(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (int round = 0; round < 2000; round++) {
        struct budget_case c[20];
        double spent = 0, first_forms = 0;
        for (int i = 0; i < 20; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const double full = (double)(seed >> 40 & 1023) + 1;
            c[i] = offer((int)(seed >> 33 & 3), seed >> 61 & 1 ? full / 8 : -1,
                         seed >> 60 & 1 ? full / 4 : -1, full);
        }
        const double budget = (double)(seed >> 45 & 4095);
        const double told = budget_decide(c, 20, budget);
        for (int i = 0; i < 20; i++) {
            spent += c[i].chosen < 0 ? 0 : c[i].form[c[i].chosen].cost_s;
            first_forms += c[i].chosen < 0 ? 0 : c[i].form[0].cost_s;
        }
        assert_true(fabs(told - spent) < 1e-6 && spent <= budget);
        for (int i = 0; i < 20; i++) {
            const int next = c[i].chosen + 1;
            if (next == 0) assert_true(first_forms + c[i].form[0].cost_s > budget);
            if (next < c[i].n)
                assert_true(c[i].form[next].cost_s - (next ? c[i].form[next - 1].cost_s : 0) >
                            c[i].left_s);
        }
    }
}

static void the_plan_obeys_the_budget_and_gives_its_arithmetic(void **state) {
    struct fixture *f = *state;
    const char *const large = "prompt.source=needle:512k";
    const char *const chunk = "engine.max_num_batched_tokens=512";
    make_ok(f, SETS(large, chunk, "run.time_budget=1s", "run.coverage=full"));
    assert_int_equal(f->plan.cases[0].coverage, COVER_SKIPPED);
    assert_has(f->plan.cases[0].reason, "time: 1024 of 1024 chunks take ");
    assert_has(f->plan.cases[0].reason, " of 900 ms are left");
    assert_true(f->plan.total_s == 0);

    make_ok(f, SETS(large, chunk, "run.coverage=sample:7", "run.time_budget=10000h"));
    assert_int_equal(f->plan.cases[0].coverage, COVER_SAMPLED);
    assert_int_equal(f->plan.cases[0].sampled, 7);
    assert_has(f->plan.cases[0].reason, "sample:7");
    const double sampled = f->plan.total_s;
    make_ok(f, SETS(large, chunk, "run.time_budget=1s", "run.coverage=full", "run.repeats=2"));
    assert_has(f->plan.cases[0].reason, " in 2 passes, but ");
    assert_true(sampled > 0);

    make_ok(f, SETS(large, chunk, "run.time_budget=0"));
    assert_int_equal(f->plan.cases[0].coverage, COVER_FULL);
    assert_string_equal(f->plan.cases[0].reason, "");
    const double full = f->plan.total_s;
    assert_true(full > 10 * sampled);
    assert_true(f->plan.cases[0].predicted_total_s >= f->plan.cases[0].predicted_prefill_s);

    /* more repeats than a budget between the two has room for, at full length */
    char budget[64];
    snprintf(budget, sizeof budget, "run.time_budget=%.0f", floor(full / 2));
    make_ok(f, SETS(large, chunk, budget));
    assert_int_equal(f->plan.cases[0].coverage, COVER_SAMPLED);
    assert_int_equal(f->plan.cases[0].sampled, 5);
    assert_has(f->plan.cases[0].reason, "all 1024 chunks take ");

    /* as many chunks as there are is simply full */
    make_ok(f, SETS("run.coverage=sample:4", "engine.max_num_batched_tokens=512"));
    assert_int_equal(f->plan.cases[0].coverage, COVER_FULL);
    plan_free(&f->plan);
}

/* Time for one of eight cases, in full: all eight cannot have it. */
static void cases_that_are_asked_for_have_the_time_first(void **state) {
    struct fixture *f = *state;
    const char *const large = "prompt.source=needle:512k,needle:500k";
    const char *const sizes = "engine.max_num_batched_tokens=512,1024,2048,4096";
    const char *const eager = "engine.enforce_eager=true";
    make_ok(f, SETS(large, sizes, eager, "run.time_budget=0"));
    assert_int_equal(f->plan.n, 8);
    char id[80], budget[64];
    strcpy(id, f->plan.cases[5].id);
    snprintf(budget, sizeof budget, "run.time_budget=%.0f", f->plan.total_s / 5);
    make_ok(f, SETS(large, sizes, eager, budget));
    assert_int_not_equal(f->plan.cases[5].coverage, COVER_FULL);
    load(f, SETS(large, sizes, eager, budget));
    plan_free(&f->plan);
    f->config.only = id;
    assert_int_equal(plan_make(&f->plan, &f->config, &f->errors), STATUS_OK);
    assert_int_equal(f->plan.cases[5].coverage, COVER_FULL);
    for (int i = 0; i < 8; i++) /* what is left is for the others, should they be asked for */
        if (i != 5 && f->plan.cases[i].coverage != COVER_FULL)
            assert_has(f->plan.cases[i].reason, "time: ");
    assert_true(f->plan.total_s <= (double)f->config.time_budget_s);

    /* a launch that is not asked for is not loaded: time for one case and one loading is enough */
    const char *const ranks = "engine.tensor_parallel_size=1,2,4", *one = "*_tp1_*";
    const char *const model = "model.path=random:half-b", *prompt = "prompt.source=random:2k";
    make_ok(f, SETS(model, prompt, ranks, eager, "run.time_budget=0", "run.coverage=full"));
    snprintf(budget, sizeof budget, "run.time_budget=%.0f",
             ceil((f->plan.cases[0].predicted_total_s + 1.5 * f->plan.load_s / 3) / 0.9));
    load(f, SETS(model, prompt, ranks, eager, budget, "run.coverage=full"));
    plan_free(&f->plan);
    f->config.only = one;
    assert_int_equal(plan_make(&f->plan, &f->config, &f->errors), STATUS_OK);
    assert_int_equal(f->plan.cases[0].coverage, COVER_FULL);
    plan_free(&f->plan);
}

static void a_case_that_cannot_fit_in_memory_is_skipped_with_the_sum(void **state) {
    struct fixture *f = *state;
    make_ok(f, SETS("model.path=random:qwen2.5-14b-1m", "model.dtype=float32",
                    "prompt.source=random:900k", "engine.max_num_batched_tokens=128k"));
    const struct case_plan *c = &f->plan.cases[0];
    if (c->memory.available_bytes >= c->memory.total_bytes) skip();
    assert_int_equal(c->coverage, COVER_SKIPPED);
    assert_has(c->reason, "memory: weights ");
    assert_has(c->reason, " + kv ");
    assert_has(c->reason, "GiB are available");
    assert_true(c->memory.total_bytes > (int64_t)300 << 30);
    plan_free(&f->plan);
}

/* ---- predictions */

static void a_prefill_is_the_sum_of_its_chunks(void **state) {
    (void)state;
    struct model_config model;
    struct error err;
    assert_int_equal(engine_model_config("random:qwen2.5-7b-1m", &model, &err), STATUS_OK);
    struct engine_opts engine = engine_opts_defaults();
    engine.model = "random:qwen2.5-7b-1m";
    engine.tensor_parallel_size = 4;
    struct session_opts session = session_opts_defaults();
    const struct device_rates rates = {1e12, 1e12, 1e11, 1e12, 1000};
    const int32_t lengths[] = {1, 8191, 8192, 8193, 614400, 1000001};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        session.prompt_tokens = lengths[i];
        session.chunk_tokens = lengths[i] < 8192 ? lengths[i] : 8192;
        const struct case_work work = {.model = &model,
                                       .engine = &engine,
                                       .session = &session,
                                       .rates = &rates,
                                       .threads = 1,
                                       .passes = 1,
                                       .k = 1000};
        struct case_time t;
        predict_case(&work, &t);
        double sum = 0;
        for (int64_t start = 0; start < lengths[i]; start += session.chunk_tokens) {
            const int64_t left = lengths[i] - start;
            const int64_t n = left < session.chunk_tokens ? left : session.chunk_tokens;
            const struct chunk_cost cost = engine_chunk_cost(&model, &engine, start, n, n == left);
            sum += predict_chunk_s(&cost, engine.device, &rates);
        }
        assert_true(fabs(t.full_prefill_s - sum) <= 1e-9 * sum);
        assert_true(fabs(t.sampled_prefill_s - sum) <= 1e-9 * sum); /* k is all of them */
    }
}

static void parameters_are_those_of_the_model_card(void **state) {
    (void)state;
    struct model_config model;
    struct error err;
    assert_int_equal(engine_model_config("random:qwen2.5-7b-1m", &model, &err), STATUS_OK);
    assert_int_equal(predict_parameters(&model), 7615616512);
}

/* What the rates do not hold differs by kind of device: a GPU opens at a cost and fills its memory
 * faster, and its loading is the host's work. */
static void a_gpu_is_predicted_by_constants_of_its_own(void **state) {
    (void)state;
    struct model_config model;
    struct error err;
    assert_int_equal(engine_model_config("random:nano", &model, &err), STATUS_OK);
    struct engine_opts engine = engine_opts_defaults();
    struct session_opts session = session_opts_defaults();
    const struct device_rates rates = {1e12, 1e12, 1e11, 1e12, 1000};
    session.prompt_tokens = 1 << 20;
    session.chunk_tokens = 8192;
    struct case_work work = {.model = &model,
                             .engine = &engine,
                             .session = &session,
                             .rates = &rates,
                             .session_bytes = 1 << 30,
                             .threads = 1,
                             .passes = 1,
                             .k = 4};
    struct case_time cpu, gpu;
    predict_case(&work, &cpu);
    engine.device = DEVICE_CUDA;
    predict_case(&work, &gpu);
    assert_true(gpu.full_prefill_s == cpu.full_prefill_s); /* the rates alone */
    assert_true(gpu.sampled_prefill_s < cpu.sampled_prefill_s);
    assert_true(gpu.sampled_fixed_s - STEADY_STATE_S < cpu.sampled_fixed_s);
    const double one = predict_load_s(&model, DEVICE_CUDA, 1);
    const double many = predict_load_s(&model, DEVICE_CUDA, 16);
    assert_true(many < one && many > 1); /* opening does not shrink with the cores */
    assert_true(predict_load_s(&model, DEVICE_CPU, 16) < 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampled_chunks_hold_both_ends_and_spread),
        cmocka_unit_test(without_a_budget_everything_is_full),
        cmocka_unit_test(every_prompt_gets_its_cheapest_case_before_any_gets_a_second),
        cmocka_unit_test(every_case_gets_a_sample_before_any_gets_a_better_one),
        cmocka_unit_test(forced_coverage_is_kept_or_skipped_and_excluded_cases_cost_nothing),
        cmocka_unit_test(random_budgets_are_never_overspent_and_never_waste_a_fitting_case),
        cmocka_unit_test(the_plan_obeys_the_budget_and_gives_its_arithmetic),
        cmocka_unit_test(cases_that_are_asked_for_have_the_time_first),
        cmocka_unit_test(a_case_that_cannot_fit_in_memory_is_skipped_with_the_sum),
        cmocka_unit_test(a_prefill_is_the_sum_of_its_chunks),
        cmocka_unit_test(parameters_are_those_of_the_model_card),
        cmocka_unit_test(a_gpu_is_predicted_by_constants_of_its_own),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
