/* One case on a real engine, the small needle model: what its result holds, whatever happens to it.
 */
#include "harness/worker.h"

#include "fakes/fake_nvml.h"
#include "tests/enough_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const char config_text[] = "[model]\npath = needle\n"
                                  "[engine]\ndevice = cpu\ntensor_parallel_size = 2\nthreads = 2\n"
                                  "max_num_batched_tokens = 350\nenforce_eager = true, false\n"
                                  "[prompt]\nsource = needle:1k\n"
                                  "[sampling]\nmax_tokens = 32\n"
                                  "[run]\nrepeats = 1\nwarmup = 0\ncoverage = full\n"
                                  "[check]\nspot = 4\n";
enum { CHUNK = 350, CHUNKS = 3, RANKS = 2, REPEATS = 2 }; /* 350 + 350 + 324 tokens */

struct fixture {
    char folder[64];
    struct config config;
    struct plan plan;
    struct engine *engine;
};

static void print_errors(const struct config_errors *errors) {
    for (int i = 0; i < errors->n; i++) fprintf(stderr, "%s\n", errors->e[i].text);
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    struct config_errors errors = {0};
    struct error err = {{0}};
    char path[128];
    snprintf(f->folder, sizeof f->folder, "/tmp/test_worker.XXXXXX");
    if (!f || !mkdtemp(f->folder)) return -1;
    setenv("XDG_CACHE_HOME", f->folder, 1);
    snprintf(path, sizeof path, "%s/case.ini", f->folder);
    FILE *file = fopen(path, "w");
    if (!file || fputs(config_text, file) < 0 || fclose(file) != 0) return -1;
    *state = f;
    if (config_load(&f->config, path, NULL, 0, &errors) == STATUS_OK &&
        plan_make(&f->plan, &f->config, &errors) == STATUS_OK &&
        engine_open(&f->engine, &f->plan.cases[0].engine, &err) == STATUS_OK)
        return 0;
    print_errors(&errors);
    fprintf(stderr, "%s\n", err.text);
    return -1;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char command[128];
    engine_close(f->engine);
    plan_free(&f->plan);
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    int rc = system(command);
    free(f);
    return rc;
}

/* What a case told, and a wish to stop after some of it. */
struct listener {
    int chunks, tokens, warmup_chunks, stop, stop_after_chunks, late_after_chunks,
        late_after_tokens;
    bool inside;
    struct time_limit limit; /* up after so many chunks or tokens; or none */
};

static void listen(void *ctx, const struct event *e) {
    struct listener *l = ctx;
    if (e->kind == EVENT_DECODE && ++l->tokens == l->late_after_tokens) l->limit.end_ns = 1;
    if (e->kind != EVENT_CHUNK) return;
    l->chunks++;
    l->warmup_chunks += e->repeat < 0;
    if (l->stop_after_chunks > 0 && l->chunks == l->stop_after_chunks) l->stop = 1;
    if (l->late_after_chunks > 0 && l->chunks == l->late_after_chunks) l->limit.end_ns = 1;
}

static void step(void *ctx, bool inside) {
    struct listener *l = ctx;
    assert_int_not_equal(l->inside, inside);
    l->inside = inside;
}

static enum status run(struct fixture *f, const struct case_plan *c, struct listener *l,
                       const struct bench_hooks *hooks, struct case_result *out) {
    struct error err = {{0}};
    struct case_env env = {.stop = &l->stop,
                           .limit = &l->limit,
                           .send = listen,
                           .in_step = step,
                           .ctx = l,
                           .hooks = hooks};
    enum status s = worker_run_case(f->engine, &f->plan, c, &env, out, &err);
    if (s != STATUS_OK) assert_true(err.text[0] != 0);
    assert_false(l->inside);
    return s;
}

/* The engine's device is a CPU, but the clocks do not know that. */
static void every_measured_chunk_has_its_clocks(void **state) {
    struct fixture *f = *state;
    struct case_result r;
    void *handle;
    struct engine_info gpu = {.devices = 1};
    strcpy(gpu.device[0].bus_id, "0000:07:00.0");
    assert_non_null(fake_nvml_open(FAKE_NVML, &handle));
    struct case_env env = {.clocks = clocks_open(gpu.device, gpu.devices, FAKE_NVML)};
    assert_non_null(env.clocks);
    f->plan.config.warmup = 1;
    enum status s = worker_run_case(f->engine, &f->plan, &f->plan.cases[0], &env, &r, NULL);
    f->plan.config.warmup = 0;
    clocks_close(env.clocks);
    dlclose(handle);
    assert_int_equal(s, STATUS_OK);
    assert_int_equal(r.n_clocks, CHUNKS);
    for (int i = 0; i < CHUNKS; i++) {
        assert_int_equal(r.clocks[i].repeat, 0);
        assert_int_equal(r.clocks[i].chunk, i);
        assert_int_equal(r.clocks[i].sm_clock_mhz, 1980);
        assert_true(r.clocks[i].samples >= 1 && r.clocks[i].energy_mj == 0);
    }
    result_free(&r);
}

static void every_repeat_has_its_rows_and_warm_up_none(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    f->plan.config.repeats = REPEATS;
    f->plan.config.warmup = 1;
    enum status s = run(f, &f->plan.cases[0], &l, NULL, &r);
    f->plan.config.repeats = 1;
    f->plan.config.warmup = 0;
    assert_int_equal(s, STATUS_OK);
    assert_int_equal(r.status, CASE_OK);
    assert_int_equal(r.n_chunks, REPEATS * CHUNKS);
    assert_int_equal(r.n_memory, REPEATS * CHUNKS * (RANKS + 1));
    assert_int_equal(r.n_clocks, 0); /* a CPU has none */
    assert_int_equal(r.n_ttft, REPEATS);
    assert_int_equal(r.repeats, REPEATS);
    assert_int_equal(l.chunks, (1 + REPEATS) * CHUNKS);
    assert_int_equal(l.warmup_chunks, CHUNKS);
    assert_int_equal(r.n_decode, REPEATS * r.n_output);
    assert_int_equal(l.tokens, REPEATS * r.n_output);
    for (int i = 0; i < r.n_chunks; i++) {
        assert_int_equal(r.chunks[i].repeat, i / CHUNKS);
        assert_int_equal(r.chunks[i].start_token, i % CHUNKS * CHUNK);
        assert_int_equal(r.chunks[i].n_tokens, i % CHUNKS == 2 ? 1024 - 2 * CHUNK : CHUNK);
        assert_true(r.chunks[i].latency_ns > 0);
    }
    for (int repeat = 0; repeat < REPEATS; repeat++) { /* TTFT: the chunks and the first token */
        int64_t sum = r.decode[repeat * r.n_output].latency_ns;
        for (int i = 0; i < CHUNKS; i++) sum += r.chunks[repeat * CHUNKS + i].latency_ns;
        assert_int_equal(r.ttft_ns[repeat], sum);
    }
    assert_false(r.ttft_estimated);
    result_free(&r);
}

static void all_checks_of_a_needle_pass_and_no_step_allocates(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    for (int i = 0; i < f->plan.n; i++) {
        struct case_result r;
        assert_int_equal(run(f, &f->plan.cases[i], &l, NULL, &r), STATUS_OK);
        for (int k = 0; k < CHECKS; k++) {
            if (k == CHECK_INVARIANCE) continue; /* needs another case */
            if (r.check[k].verdict != VERDICT_OK)
                fail_msg("%s: %s is %s: %s", r.id, check_name((enum check)k),
                         verdict_text(r.check[k].verdict), r.check[k].detail);
        }
        assert_int_equal(r.check[CHECK_INVARIANCE].verdict, VERDICT_NOT_CHECKED);
        assert_int_equal(r.n_output, r.n_expected);
        assert_memory_equal(r.output, r.expected, sizeof(int32_t) * (size_t)r.n_output);
        assert_true(r.n_top == 20 && r.top[0].id == r.output[0]);
        for (int k = 1; k < r.n_top; k++) assert_true(r.top[k - 1].logprob >= r.top[k].logprob);
        assert_non_null(r.output_text);
        assert_int_equal(r.step_allocations, 0);
        result_free(&r);
    }
}

static void a_failed_case_leaves_the_engine_good_for_the_next(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    struct case_plan broken = f->plan.cases[0];
    snprintf(broken.prompt, sizeof broken.prompt, "file:/nowhere/at/all");
    assert_int_not_equal(run(f, &broken, &l, NULL, &r), STATUS_OK);
    assert_int_equal(r.status, CASE_FAILED);
    assert_non_null(strstr(r.reason, "/nowhere/at/all"));
    result_free(&r);
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_OK);
    assert_int_equal(r.check[CHECK_TOKENS].verdict, VERDICT_OK);
    result_free(&r);
}

static void a_wish_to_stop_ends_the_case_after_its_chunk(void **state) {
    struct fixture *f = *state;
    struct listener l = {.stop_after_chunks = 2};
    struct case_result r;
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_INTERRUPTED);
    assert_int_equal(r.status, CASE_INTERRUPTED);
    assert_int_equal(l.chunks, 2);
    assert_int_equal(r.n_chunks, 2);
    assert_non_null(strstr(r.reason, "before chunk 3 of 3 of repeat 1"));
    for (int k = 0; k < CHECKS; k++) assert_int_not_equal(r.check[k].verdict, VERDICT_OK);
    result_free(&r);
}

static void time_that_is_up_ends_the_case_after_its_chunk(void **state) {
    struct fixture *f = *state;
    struct listener l = {.late_after_chunks = 2};
    struct case_result r;
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_TIMEOUT);
    assert_int_equal(r.status, CASE_SKIPPED);
    assert_int_equal(l.chunks, 2);
    assert_non_null(strstr(r.reason, "time: the budget of "));
    assert_non_null(strstr(r.reason, "is used up, before chunk 3 of 3 of repeat 1"));
    for (int k = 0; k < CHECKS; k++) assert_int_not_equal(r.check[k].verdict, VERDICT_OK);
    result_free(&r);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct squeeze {
    struct time_limit *limit;
    int64_t begin_ns; /* of the first repeat */
};

/* The second of three repeats sleeps three times what the first took, and then has that long to
 * its end: it gets there, with less left than it took. */
static bool leave_less_than_a_repeat(void *ctx, const char *case_id, int repeat, int chunk) {
    struct squeeze *s = ctx;
    (void)case_id;
    if (chunk != 0 || repeat > 1) return false;
    if (repeat == 0) {
        s->begin_ns = now_ns();
        return false;
    }
    const int64_t pause_ns = 3 * (now_ns() - s->begin_ns);
    nanosleep(&(struct timespec){pause_ns / 1000000000, pause_ns % 1000000000}, NULL);
    s->limit->end_ns = now_ns() + pause_ns;
    return false;
}

static void repeats_that_have_no_time_do_not_begin(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct squeeze squeeze = {.limit = &l.limit};
    struct bench_hooks hooks = {.before_chunk = leave_less_than_a_repeat,
                                .before_chunk_ctx = &squeeze};
    struct case_result r;
    const int64_t repeats = f->plan.config.repeats;
    f->plan.config.repeats = 3;
    const enum status s = run(f, &f->plan.cases[0], &l, &hooks, &r);
    f->plan.config.repeats = repeats;
    assert_int_equal(s, STATUS_OK);
    assert_int_equal(r.status, CASE_OK);
    assert_int_equal(r.repeats, 2);
    assert_int_equal(r.n_ttft, 2);
    assert_int_equal(r.n_chunks, 2 * CHUNKS);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_OK);
    assert_string_equal(r.reason, "time: 2 of 3 repeats, for time_budget allowed no more");
    result_free(&r);
}

/* The second of three repeats was begun because the one before it would have fitted, and was
 * slower. It has so many chunks and tokens when the time is up; what was measured until then
 * stands. */
static void cut_second_repeat(struct fixture *f, int chunks, int tokens, int tokens_of_first) {
    const int64_t repeats = f->plan.config.repeats;
    struct listener l = {0};
    struct case_result r;
    if (tokens > 0)
        l.late_after_tokens = tokens_of_first + tokens;
    else
        l.late_after_chunks = CHUNKS + chunks;
    f->plan.config.repeats = 3;
    const enum status s = run(f, &f->plan.cases[0], &l, NULL, &r);
    f->plan.config.repeats = repeats;
    assert_int_equal(s, STATUS_OK);
    assert_int_equal(r.status, CASE_OK);
    assert_int_equal(l.chunks, CHUNKS + chunks);
    assert_int_equal(l.tokens, r.n_output + tokens);
    assert_int_equal(r.repeats, 1);
    assert_int_equal(r.n_ttft, 1);
    assert_int_equal(r.n_chunks, CHUNKS);
    assert_int_equal(r.n_memory, CHUNKS * (engine_info(f->engine)->ranks + 1));
    assert_int_equal(r.n_decode, r.n_output);
    for (int64_t i = 0; i < r.n_chunks; i++) assert_int_equal(r.chunks[i].repeat, 0);
    for (int64_t i = 0; i < r.n_memory; i++) assert_int_equal(r.memory[i].repeat, 0);
    for (int64_t i = 0; i < r.n_decode; i++) assert_int_equal(r.decode[i].repeat, 0);
    for (int k = 0; k < CHECKS; k++) assert_int_not_equal(r.check[k].verdict, VERDICT_FAILED);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_OK);
    assert_int_equal(r.check[CHECK_TOKENS].verdict, VERDICT_OK);
    assert_non_null(strstr(r.reason, "time: 1 of 3 repeats, for time_budget allowed no more"));
    result_free(&r);
}

static void a_repeat_that_the_time_cuts_costs_no_more_than_itself(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_OK);
    const int tokens = r.n_output;
    result_free(&r);
    assert_true(tokens > 2);
    for (int chunks = 1; chunks <= CHUNKS; chunks++) cut_second_repeat(f, chunks, 0, tokens);
    for (int n = 1; n < tokens; n++) cut_second_repeat(f, CHUNKS, n, tokens);
}

/* Stops, or fails, in the pass that follows the only repeat. */
static bool act_in_spans(void *ctx, const char *case_id, int repeat, int chunk) {
    int *stop = ctx;
    (void)case_id;
    if (repeat == 1 && chunk == 1) *stop = 1;
    return false;
}

static bool lose_first_chunk_of_spans(void *ctx, const char *case_id, int repeat, int chunk) {
    (void)ctx;
    (void)case_id;
    return repeat == 1 && chunk == 0;
}

static void a_stop_in_the_pass_that_records_spans_keeps_what_was_measured(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct bench_hooks hooks = {.before_chunk = act_in_spans, .before_chunk_ctx = &l.stop};
    struct case_result r;
    struct case_plan sampled = f->plan.cases[0];
    sampled.coverage = COVER_SAMPLED;
    sampled.sampled = CHUNKS;
    snprintf(sampled.reason, sizeof sampled.reason, "why it is sampled");
    strcpy(f->plan.config.spans, "all");
    for (int i = 0; i < 2; i++) {
        l.stop = 0;
        assert_int_equal(run(f, i ? &sampled : &f->plan.cases[0], &l, &hooks, &r),
                         STATUS_INTERRUPTED);
        assert_int_equal(r.status, CASE_INTERRUPTED); /* --resume records the spans, too */
        assert_int_equal(r.n_spans + r.n_buffers + r.n_buffer_uses, 0);
        assert_true(r.n_chunks == CHUNKS && r.n_ttft == 1);
        assert_int_equal(r.check[CHECK_SPOT].verdict, VERDICT_OK);
        assert_string_equal(r.reason, "spans: stopped before chunk 3 of 3");
        result_free(&r);
    }
    hooks.before_chunk = lose_first_chunk_of_spans; /* not fed: the pass goes on without it */
    l.stop = 0;
    assert_int_equal(run(f, &f->plan.cases[0], &l, &hooks, &r), STATUS_OK);
    assert_string_equal(r.reason, "");
    assert_true(r.n_spans > 0);
    result_free(&r);
    strcpy(f->plan.config.spans, "none");
}

static int64_t high_water_other(const struct case_result *r) {
    int64_t most = 0;
    for (int64_t i = 0; i < r->n_memory; i++)
        if (r->memory[i].use.high_water[MEMORY_OTHER] > most)
            most = r->memory[i].use.high_water[MEMORY_OTHER];
    return most;
}

/* Numbers of the chunks that have spans, as bits; every span is of `repeat`. */
static uint64_t traced_chunks(const struct case_result *r, int32_t repeat) {
    uint64_t chunks = 0;
    for (int64_t i = 0; i < r->n_spans; i++) {
        assert_int_equal(r->spans[i].repeat, repeat);
        assert_in_range(r->spans[i].chunk, 0, 63);
        chunks |= UINT64_C(1) << r->spans[i].chunk;
    }
    return chunks;
}

/* The last of two warm-up passes has spans; the repeats have the memory and the answer of a run
 * without any, in both modes. */
static void spans_of_a_warm_up_pass_leave_no_trace_in_the_repeats(void **state) {
    struct fixture *f = *state;
    f->plan.config.warmup = 2;
    for (int i = 0; i < f->plan.n; i++) {
        struct listener l = {0};
        struct case_result plain, traced;
        strcpy(f->plan.config.spans, "none");
        assert_int_equal(run(f, &f->plan.cases[i], &l, NULL, &plain), STATUS_OK);
        strcpy(f->plan.config.spans, "auto");
        assert_int_equal(run(f, &f->plan.cases[i], &l, NULL, &traced), STATUS_OK);
        assert_int_equal(plain.n_spans + plain.n_buffers + plain.n_buffer_uses, 0);
        assert_true(traced.n_buffers > 0 && traced.n_buffer_uses > traced.n_spans);
        assert_true(traced_chunks(&traced, -1) == (1 << CHUNKS) - 1 && traced.dropped_spans == 0);
        assert_int_equal(traced.n_chunks, plain.n_chunks);
        assert_true(high_water_other(&traced) == high_water_other(&plain));
        assert_true(traced.logits_hash == plain.logits_hash);
        assert_true(traced.step_allocations == 0);
        assert_int_equal(l.chunks, 2 * 3 * CHUNKS);
        result_free(&plain);
        result_free(&traced);
    }
    f->plan.config.warmup = 0;
}

/* Of many chunks a few are kept; without a warm-up the last one runs again where it is short. */
static void few_chunks_are_traced_and_only_where_that_is_cheap(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    struct case_plan many = f->plan.cases[0];
    many.session.chunk_tokens = 16;
    many.chunks = 64;
    f->plan.config.warmup = 1;
    strcpy(f->plan.config.spans, "auto");
    assert_int_equal(run(f, &many, &l, NULL, &r), STATUS_OK);
    const uint64_t chunks = traced_chunks(&r, -1);
    assert_int_equal(__builtin_popcountll(chunks), 5);
    assert_true((chunks & 1) && (chunks >> 63 & 1)); /* the first and the last are among them */
    result_free(&r);

    f->plan.config.warmup = 0;
    f->plan.config.repeats = 4;
    assert_int_equal(run(f, &many, &l, NULL, &r), STATUS_OK);
    assert_true(traced_chunks(&r, 4) == UINT64_C(1) << 63);
    assert_int_equal(r.check[CHECK_TOKENS].verdict, VERDICT_OK);
    result_free(&r);
    f->plan.config.repeats = 1;
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_OK); /* a third of its time */
    assert_int_equal(r.n_spans, 0);
    result_free(&r);
    strcpy(f->plan.config.spans, "none");
}

/* Every check of the small case that did not run must say so with a reason that holds. */
static void a_check_that_did_not_run_says_why(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    struct config before = f->plan.config;
    f->plan.config.truth = f->plan.config.invariance = false;
    f->plan.config.spot = 0;
    assert_int_equal(run(f, &f->plan.cases[0], &l, NULL, &r), STATUS_OK);
    static const struct {
        enum check check;
        const char *why;
    } want[] = {{CHECK_TOKENS, "[check] truth = false"},
                {CHECK_LOGITS, "[check] truth = false"},
                {CHECK_SPOT, "[check] spot = 0"},
                {CHECK_INVARIANCE, "[check] invariance = false"}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct check_result *c = &r.check[want[i].check];
        assert_int_equal(c->verdict, VERDICT_NOT_CHECKED);
        if (!strstr(c->detail, want[i].why))
            fail_msg("%s: %s", check_name(want[i].check), c->detail);
    }
    assert_string_equal(r.check[CHECK_FINITE].detail, "");
    result_free(&r);
    f->plan.config = before;
}

static bool lose_second_chunk(void *ctx, const char *case_id, int repeat, int chunk) {
    (void)ctx;
    (void)case_id;
    (void)repeat;
    return chunk == 1;
}

static void a_lost_chunk_fails_the_count_and_no_answer_is_made_of_it(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct bench_hooks hooks = {.before_chunk = lose_second_chunk};
    struct case_result r;
    assert_int_equal(run(f, &f->plan.cases[0], &l, &hooks, &r), STATUS_OK);
    assert_int_equal(r.check[CHECK_COUNT].verdict, VERDICT_FAILED);
    assert_int_equal(r.check[CHECK_TOKENS].verdict, VERDICT_NOT_CHECKED);
    assert_int_equal(r.n_output, 0);
    result_free(&r);
}

static void a_sampled_case_estimates_and_checks_no_answer(void **state) {
    struct fixture *f = *state;
    struct listener l = {0};
    struct case_result r;
    struct case_plan sampled = f->plan.cases[0];
    sampled.coverage = COVER_SAMPLED;
    sampled.sampled = 2;
    assert_int_equal(run(f, &sampled, &l, NULL, &r), STATUS_OK);
    assert_int_equal(r.n_chunks, 2);
    assert_int_equal(r.chunks[1].chunk, CHUNKS - 1);
    assert_true(r.ttft_estimated);
    assert_true(r.ttft_ns[0] > r.chunks[0].latency_ns + r.chunks[1].latency_ns);
    assert_int_equal(r.n_output, 0);
    assert_int_equal(r.check[CHECK_TOKENS].verdict, VERDICT_NOT_CHECKED);
    assert_non_null(strstr(r.check[CHECK_TOKENS].detail, "sampled"));
    assert_int_equal(r.check[CHECK_SPOT].verdict, VERDICT_OK);
    result_free(&r);
}

int main(void) {
    if (!enough_memory(1536)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_measured_chunk_has_its_clocks),
        cmocka_unit_test(every_repeat_has_its_rows_and_warm_up_none),
        cmocka_unit_test(all_checks_of_a_needle_pass_and_no_step_allocates),
        cmocka_unit_test(a_failed_case_leaves_the_engine_good_for_the_next),
        cmocka_unit_test(a_wish_to_stop_ends_the_case_after_its_chunk),
        cmocka_unit_test(time_that_is_up_ends_the_case_after_its_chunk),
        cmocka_unit_test(repeats_that_have_no_time_do_not_begin),
        cmocka_unit_test(a_repeat_that_the_time_cuts_costs_no_more_than_itself),
        cmocka_unit_test(a_stop_in_the_pass_that_records_spans_keeps_what_was_measured),
        cmocka_unit_test(spans_of_a_warm_up_pass_leave_no_trace_in_the_repeats),
        cmocka_unit_test(few_chunks_are_traced_and_only_where_that_is_cheap),
        cmocka_unit_test(a_check_that_did_not_run_says_why),
        cmocka_unit_test(a_lost_chunk_fails_the_count_and_no_answer_is_made_of_it),
        cmocka_unit_test(a_sampled_case_estimates_and_checks_no_answer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
