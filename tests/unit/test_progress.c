/* The screen of a run, fed with events and a clock of the test's own. */
#include "harness/predict.h"
#include "harness/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int64_t second = 1000000000;

struct screen {
    struct plan plan;
    struct case_plan cases[3];
    bool pending[3];
    char *text;
    size_t size;
    FILE *stream;
    struct progress *progress;
};

/* Three cases of 4 chunks of 1000 tokens, 100 s each; the last is not to run. */
static void open_screen(struct screen *s, struct progress_opts opts) {
    struct error err;
    *s = (struct screen){.pending = {true, true, false}};
    s->plan.cases = s->cases;
    s->plan.n = 3;
    s->plan.config.repeats = 1;
    s->plan.model =
        (struct model_config){.layers = 2, .C = 64, .H = 4, .K = 4, .D = 16, .F = 128, .V = 300};
    for (int i = 0; i < 3; i++) {
        struct case_plan *c = &s->cases[i];
        snprintf(c->id, sizeof c->id, "case-number-%d_with_a_long_name", i);
        c->engine = engine_opts_defaults();
        c->engine.tensor_parallel_size = 1;
        c->rates = (struct device_rates){
            .linear_flops = 1e6, .attention_flops = 1e6, .copy_bytes = 1e9, .op_overhead_ns = 1000};
        c->session.prompt_tokens = 4000;
        c->session.chunk_tokens = 1000;
        c->predicted_total_s = 100;
    }
    s->stream = open_memstream(&s->text, &s->size);
    opts.stream = s->stream;
    assert_int_equal(progress_open(&s->progress, &s->plan, s->pending, &opts, &err), STATUS_OK);
}

static void close_screen(struct screen *s) {
    progress_close(s->progress);
    fclose(s->stream);
    free(s->text);
}

static const char *shown(struct screen *s) {
    fflush(s->stream);
    return s->text;
}

static int lines(const char *text) {
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

static void begin(struct screen *s, int64_t at, int i) {
    struct event e = {.kind = EVENT_CASE_BEGIN};
    progress_event(s->progress, at, &s->cases[i], &e);
}

static void chunk(struct screen *s, int64_t at, int i, int n) {
    struct event e = {.kind = EVENT_CHUNK,
                      .chunk = n,
                      .chunks = 4,
                      .n_tokens = 1000,
                      .tokens_done = 1000 * n,
                      .tokens_total = 4000,
                      .latency_ns = 2 * second,
                      .resident_bytes = 3 << 20};
    progress_event(s->progress, at, &s->cases[i], &e);
}

/* Columns of the last line drawn. */
static size_t last_width(const char *text) {
    const char *line = strrchr(text, '\r');
    line = line ? line + 1 : text;
    return strcspn(line, "\033\n");
}

/* After a predicted end that has not come, "about" would be said of a bound. */
static void less_than_a_second_is_said_once(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){.live = true, .width = 120});
    struct event e = {.kind = EVENT_LOADING};
    progress_event(s.progress, second, NULL, &e);
    begin(&s, second, 0);
    progress_tick(s.progress, 300 * second);
    assert_non_null(strstr(shown(&s), "ETA about 3 min 20 s (predicted)"));
    assert_non_null(strstr(shown(&s), "ETA under 1 s (predicted)"));
    assert_null(strstr(shown(&s), "about under"));
    close_screen(&s);
}

static void plain_lines_say_begin_and_end(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){0});
    begin(&s, 0, 0);
    progress_case_done(s.progress, 5 * second, &s.cases[0], CASE_OK, "");
    begin(&s, 5 * second, 1);
    progress_case_done(s.progress, 6 * second, &s.cases[1], CASE_CRASHED, "killed by SIGSEGV");
    assert_non_null(strstr(shown(&s), "[1/2] case-number-0_with_a_long_name: begins"));
    assert_non_null(strstr(s.text, "[1/2] case-number-0_with_a_long_name: ok in 5.00 s"));
    assert_non_null(strstr(s.text, "[2/2] case-number-1_with_a_long_name: crashed in 1.00 s: "
                                   "killed by SIGSEGV"));
    assert_int_equal(lines(s.text), 4);
    assert_null(strchr(s.text, '\033'));
    assert_null(strchr(s.text, '\r'));
    close_screen(&s);
}

static void within_a_case_one_plain_line_in_ten_seconds(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){0});
    begin(&s, 0, 0);
    for (int t = 1; t <= 39; t++) chunk(&s, t * second, 0, t % 4 + 1);
    assert_int_equal(lines(shown(&s)), 1 + 3);
    assert_non_null(strstr(s.text, "500 tok/s"));
    assert_non_null(strstr(s.text, "3.00 MiB"));
    close_screen(&s);
}

static void quiet_shows_only_what_went_wrong(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){.quiet = true, .live = true, .width = 80});
    begin(&s, 0, 0);
    chunk(&s, 20 * second, 0, 1);
    progress_case_done(s.progress, 25 * second, &s.cases[0], CASE_OK, "");
    assert_int_equal(strlen(shown(&s)), 0);
    begin(&s, 25 * second, 1);
    progress_case_done(s.progress, 26 * second, &s.cases[1], CASE_TIMEOUT, "no progress");
    assert_non_null(strstr(shown(&s), "timeout in 1.00 s: no progress"));
    assert_int_equal(lines(s.text), 1);
    close_screen(&s);
}

static void a_live_line_is_redrawn_at_most_ten_times_a_second(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){.live = true, .width = 80});
    begin(&s, second, 0);
    for (int i = 0; i < 1000; i++) progress_tick(s.progress, second + i * second / 1000);
    int drawn = 0;
    for (const char *p = shown(&s); *p; p++) drawn += *p == '\r';
    assert_int_equal(drawn, 10);
    assert_int_equal(lines(s.text), 0);
    close_screen(&s);
}

static void a_live_line_never_reaches_the_last_column(void **state) {
    (void)state;
    for (int width = 2; width < 140; width++) {
        struct screen s;
        open_screen(&s, (struct progress_opts){.live = true, .width = width});
        begin(&s, second, 0);
        chunk(&s, 3 * second, 0, 1);
        assert_true(last_width(shown(&s)) < (size_t)width);
        if (width > 120) assert_non_null(strstr(s.text, "case-number-0_with_a_long_name  chunk"));
        if (width > 20) assert_non_null(strstr(s.text, "[1/2] "));
        close_screen(&s);
    }
}

/* The last line drawn. */
static void last_line(struct screen *s, char *out, size_t size) {
    const char *line = strrchr(shown(s), '\r');
    snprintf(out, size, "%.*s", (int)last_width(s->text), line ? line + 1 : s->text);
}

static void a_narrow_line_drops_whole_fields(void **state) {
    (void)state;
    static const struct {
        int width;
        const char *line;
    } narrow[] = {
        {80, "[1/2] cas...  chunk 1/4, repeat 1/1, 500 tok/s, 3.00 MiB, ETA "},
        {56, "[1/2] chunk 1/4, repeat 1/1, 500 tok/s, ETA "},
        {46, "[1/2] chunk 1/4, repeat 1/1, ETA "},
        {36, "[1/2] chunk 1/4, ETA "},
        {24, "[1/2] chunk 1/4"},
    };
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        struct screen s;
        char line[200];
        open_screen(&s, (struct progress_opts){.live = true, .width = narrow[i].width});
        begin(&s, second, 0);
        chunk(&s, 3 * second, 0, 1);
        last_line(&s, line, sizeof line);
        if (i == 0) { /* the id has what room is left */
            assert_non_null(strstr(line, "chunk 1/4, repeat 1/1, 500 tok/s, 3.00 MiB, ETA "));
        } else {
            assert_memory_equal(line, narrow[i].line, strlen(narrow[i].line));
        }
        const char last = line[strlen(line) - 1]; /* of "12 s" or "3 min", or of "1/4" */
        assert_true(last == 's' || last == 'n' || last == 'h' || last == '4');
        close_screen(&s);
    }
}

static void memory_is_not_told_of_before_it_is_known(void **state) {
    (void)state;
    for (int width = 40; width <= 80; width += 40) {
        struct screen s;
        char line[200];
        struct event loading = {.kind = EVENT_LOADING};
        open_screen(&s, (struct progress_opts){.live = true, .width = width});
        progress_event(s.progress, second, NULL, &loading);
        last_line(&s, line, sizeof line);
        assert_null(strstr(line, " B"));
        assert_non_null(strstr(line, width == 40 ? "[1/2] loading, ETA about "
                                                 : "[1/2] loading the model, ETA about "));
        close_screen(&s);
    }
}

static void ok_is_not_followed_by_the_reason_of_the_plan(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){0});
    s.cases[0].coverage = COVER_SAMPLED;
    snprintf(s.cases[0].reason, sizeof s.cases[0].reason, "time: all chunks take too long");
    begin(&s, 0, 0);
    progress_case_done(s.progress, 5 * second, &s.cases[0], CASE_OK, s.cases[0].reason);
    begin(&s, 5 * second, 1);
    progress_case_done(s.progress, 6 * second, &s.cases[1], CASE_OK, "spans are missing: why");
    assert_non_null(strstr(shown(&s), "ok in 5.00 s, sampled\n"));
    assert_non_null(strstr(s.text, "ok in 1.00 s: spans are missing: why\n"));
    close_screen(&s);
}

static void the_live_line_is_cleared_at_the_end(void **state) {
    (void)state;
    struct screen s;
    open_screen(&s, (struct progress_opts){.live = true, .width = 80});
    begin(&s, second, 0);
    progress_close(s.progress);
    fflush(s.stream);
    size_t n = strlen(s.text);
    assert_true(n > 4);
    assert_string_equal(s.text + n - 4, "\r\033[K");
    s.progress = NULL;
    close_screen(&s);
}

static void colour_only_when_asked(void **state) {
    (void)state;
    for (int color = 0; color < 2; color++) {
        struct screen s;
        open_screen(&s, (struct progress_opts){.color = color});
        begin(&s, 0, 0);
        progress_case_done(s.progress, second, &s.cases[0], CASE_FAILED, "why");
        assert_int_equal(strstr(shown(&s), "\033[31mfailed\033[0m") != NULL, color);
        close_screen(&s);
    }
}

static void eta_is_the_prediction_until_something_was_measured(void **state) {
    (void)state;
    struct screen s;
    bool measured;
    open_screen(&s, (struct progress_opts){0});
    assert_float_equal(progress_eta_s(s.progress, 0, &measured), 200, 1e-9);
    assert_false(measured);
    close_screen(&s);
}

static void eta_scales_with_what_the_prediction_was_wrong_by(void **state) {
    (void)state;
    struct screen s;
    bool measured;
    open_screen(&s, (struct progress_opts){0});
    begin(&s, 0, 0);
    progress_case_done(s.progress, 50 * second, &s.cases[0], CASE_OK, "");
    assert_float_equal(progress_eta_s(s.progress, 50 * second, &measured), 50, 1e-9);
    assert_true(measured);
    close_screen(&s);
}

static void a_case_that_crashed_says_nothing_about_the_others(void **state) {
    (void)state;
    struct screen s;
    bool measured;
    open_screen(&s, (struct progress_opts){0});
    begin(&s, 0, 0);
    progress_case_done(s.progress, second, &s.cases[0], CASE_CRASHED, "");
    assert_float_equal(progress_eta_s(s.progress, second, &measured), 100, 1e-9);
    assert_false(measured);
    close_screen(&s);
}

static void eta_within_a_case_follows_its_chunks(void **state) {
    (void)state;
    struct screen s;
    bool measured;
    open_screen(&s, (struct progress_opts){0});
    struct chunk_cost cost = engine_chunk_cost(&s.plan.model, &s.cases[0].engine, 0, 1000, false);
    double first = predict_chunk_s(&cost, DEVICE_CPU, &s.cases[0].rates);
    s.cases[0].predicted_total_s = 10 * first;
    s.cases[1].predicted_total_s = 90 * first;
    progress_close(s.progress);
    struct error err;
    struct progress_opts opts = {.stream = s.stream};
    assert_int_equal(progress_open(&s.progress, &s.plan, s.pending, &opts, &err), STATUS_OK);
    begin(&s, 0, 0);
    chunk(&s, 3 * second, 0, 1); /* a hundredth of everything took 3 s */
    assert_float_equal(progress_eta_s(s.progress, 3 * second, &measured), 297, 1e-6);
    assert_float_equal(progress_eta_s(s.progress, 5 * second, &measured), 295, 1e-6);
    assert_true(measured);
    close_screen(&s);
}

/* Opening and first chunk took what was predicted; the chunks' prediction alone is a tenth of it.
 */
static void eta_does_not_take_the_opening_for_a_slow_chunk(void **state) {
    (void)state;
    struct screen s;
    bool measured;
    open_screen(&s, (struct progress_opts){0});
    struct chunk_cost cost = engine_chunk_cost(&s.plan.model, &s.cases[0].engine, 0, 1000, false);
    const double first = predict_chunk_s(&cost, DEVICE_CPU, &s.cases[0].rates), all = 200;
    s.cases[0].predicted_fixed_s = 9 * first;
    const int64_t heard = (int64_t)(10 * first * 1e9);
    begin(&s, 0, 0);
    chunk(&s, heard, 0, 1);
    const double eta = progress_eta_s(s.progress, heard, &measured);
    assert_true(measured && eta > 0.9 * all && eta < 2 * all);
    close_screen(&s);
}

static void a_failed_check_is_not_called_ok(void **state) {
    (void)state;
    for (int quiet = 0; quiet < 2; quiet++) {
        struct screen s;
        open_screen(&s, (struct progress_opts){.quiet = quiet, .live = quiet, .color = true});
        const struct event end = {.kind = EVENT_CASE_END, .wrong = true};
        begin(&s, 0, 0);
        progress_event(s.progress, 5 * second, &s.cases[0], &end);
        progress_case_done(s.progress, 5 * second, &s.cases[0], CASE_OK, "tokens check: other");
        assert_non_null(strstr(shown(&s), "\033[31mFAILED\033[0m in 5.00 s: tokens check: other"));
        begin(&s, 5 * second, 1);
        progress_case_done(s.progress, 6 * second, &s.cases[1], CASE_OK, "");
        assert_int_equal(strstr(shown(&s), "\033[32mok\033[0m in 1.00 s") != NULL, !quiet);
        close_screen(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(less_than_a_second_is_said_once),
        cmocka_unit_test(eta_does_not_take_the_opening_for_a_slow_chunk),
        cmocka_unit_test(a_failed_check_is_not_called_ok),
        cmocka_unit_test(plain_lines_say_begin_and_end),
        cmocka_unit_test(within_a_case_one_plain_line_in_ten_seconds),
        cmocka_unit_test(quiet_shows_only_what_went_wrong),
        cmocka_unit_test(a_live_line_is_redrawn_at_most_ten_times_a_second),
        cmocka_unit_test(a_live_line_never_reaches_the_last_column),
        cmocka_unit_test(a_narrow_line_drops_whole_fields),
        cmocka_unit_test(memory_is_not_told_of_before_it_is_known),
        cmocka_unit_test(ok_is_not_followed_by_the_reason_of_the_plan),
        cmocka_unit_test(the_live_line_is_cleared_at_the_end),
        cmocka_unit_test(colour_only_when_asked),
        cmocka_unit_test(eta_is_the_prediction_until_something_was_measured),
        cmocka_unit_test(eta_scales_with_what_the_prediction_was_wrong_by),
        cmocka_unit_test(a_case_that_crashed_says_nothing_about_the_others),
        cmocka_unit_test(eta_within_a_case_follows_its_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
