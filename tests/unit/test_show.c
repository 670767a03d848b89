/* table.c, show.c, show_case.c, show_json.c: what people and scripts get to read. */
#include "harness/jsondoc.h"
#include "harness/show.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a run of three cases: measured twice, estimated, crashed ---- */

enum { CASES = 3, CHUNKS = 40 };

static void add_chunks(struct case_result *r, int repeats) {
    for (int32_t repeat = 0; repeat < repeats; repeat++)
        for (int32_t i = 0; i < CHUNKS; i++) {
            struct chunk_row c = {.repeat = repeat, .chunk = i, .start_token = 100 * i};
            c.n_tokens = 100, c.latency_ns = 1000000 * (i + 1 + repeat), c.flops = 2000000000;
            assert_int_equal(result_add_chunk(r, &c, NULL), STATUS_OK);
        }
}

static void make_measured(struct case_result *r) {
    static const int64_t ttft[] = {2000000000, 4000000000};
    strcpy(r->id, "measured"), strcpy(r->prompt, "needle:4000"), strcpy(r->device, "cpu");
    r->status = CASE_OK, r->coverage = COVER_FULL, r->tp = 2, r->devices = 1, r->repeats = 2;
    r->prompt_tokens = 4000, r->max_num_batched_tokens = r->chunk_tokens = 100;
    strcpy(r->attention, "avx2"), strcpy(r->linear, "ref");
    r->predicted_prefill_s = 1.5, r->predicted_memory.total_bytes = 4 << 20;
    r->ttft_ns = malloc(sizeof ttft), r->n_ttft = 2;
    assert_non_null(r->ttft_ns);
    memcpy(r->ttft_ns, ttft, sizeof ttft);
    add_chunks(r, 2);
    struct memory_row m = {.rank = 0, .driver_after = 9 << 20, .driver_high_water = 9 << 20};
    m.use.high_water[MEMORY_KV] = 2 << 20, m.unaccounted = 5 << 20;
    assert_int_equal(result_add_memory(r, &m, NULL), STATUS_OK);
    struct span_row s = {.repeat = 2,
                         .span = {.begin_ns = 0, .end_ns = 3000000, .flops = 6000000000}};
    s.span.op = OP_LINEAR, s.span.role = ROLE_DOWN;
    assert_int_equal(result_add_spans(r, &s, 1, NULL), STATUS_OK);
    s.span = (struct span){.begin_ns = 0, .end_ns = 1000000, .op = OP_ATTENTION};
    assert_int_equal(result_add_spans(r, &s, 1, NULL), STATUS_OK);
    r->check[CHECK_TOKENS].verdict = r->check[CHECK_INVARIANCE].verdict = VERDICT_OK;
    r->output_text = strdup("Z\xc3\xbcrich\x1b[2J\xff\xc2\x9b");
    r->output = calloc(1, sizeof *r->output), r->n_output = 1;
}

/* 2 J in each chunk of the first repeat, 4 J in the second; the last depths are held back. */
static void add_clocks(struct case_result *r) {
    for (int32_t repeat = 0; repeat < 2; repeat++)
        for (int32_t i = 0; i < CHUNKS; i++) {
            struct clock_row c = {.repeat = repeat, .chunk = i, .samples = 2};
            c.energy_mj = 2000 + 2000 * repeat, c.power_mean_w = 650, c.temperature_c = 50 + i;
            c.sm_clock_mean_mhz = 1700, c.sm_clock_min_mhz = 1600 - i, c.memory_clock_mhz = 3201;
            c.throttle_reasons_seen = i > 37 ? 4 : 0;
            assert_int_equal(result_add_clocks(r, &c, NULL), STATUS_OK);
        }
}

static void make_estimated(struct case_result *r) {
    strcpy(r->id, "estimated-one"), strcpy(r->prompt, "needle:1m");
    r->status = CASE_OK, r->coverage = COVER_SAMPLED, r->tp = 2, r->devices = 1;
    r->prompt_tokens = 1048320, r->max_num_batched_tokens = r->chunk_tokens = 8192;
    r->graph = true;
    r->ttft_ns = calloc(1, sizeof *r->ttft_ns), r->n_ttft = 1;
    assert_non_null(r->ttft_ns);
    r->ttft_ns[0] = 100000000000, r->ttft_estimated = true, r->ttft_error = 0.02;
    r->check[CHECK_SPOT].verdict = VERDICT_OK;
}

static void make_crashed(struct case_result *r) {
    strcpy(r->id, "crashed-one"), strcpy(r->prompt, "needle:4000");
    strcpy(r->reason, "killed by signal 9\x1b[31m");
    r->status = CASE_CRASHED, r->tp = 2, r->exit_signal = 9, r->prompt_tokens = 4000;
    r->chunk_tokens = 4000, r->max_num_batched_tokens = 131072;
    strcpy(r->attention, "auto"), strcpy(r->linear, "auto");
    r->stderr_tail = strdup("last words\n");
}

static int make_run(void **state) {
    struct record_run *run = calloc(1, sizeof *run);
    if (!run) return -1;
    run->cases = calloc(CASES, sizeof *run->cases);
    run->n = run->cases ? CASES : 0;
    run->facts.argv = "bench run x.ini", run->facts.config_text = "[model]\n";
    strcpy(run->facts.cpu_model, "A CPU");
    run->facts.cores = 2, run->facts.rates.roof_flops = 4e12, run->complete = true;
    make_measured(&run->cases[0]);
    make_estimated(&run->cases[1]);
    make_crashed(&run->cases[2]);
    *state = run;
    return 0;
}

static int free_run(void **state) {
    record_run_free(*state);
    free(*state);
    return 0;
}

static const struct show_style plain = {.color = false};

/* ---- what was printed ---- */

struct printed {
    char *text;
    size_t size;
    FILE *file;
};
static FILE *begin(struct printed *p) {
    p->file = open_memstream(&p->text, &p->size);
    assert_non_null(p->file);
    return p->file;
}

/* The line that begins with `start`, after blanks; NUL-terminated copy. */
static char *line_of(const struct printed *p, const char *start) {
    for (const char *l = p->text; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL) {
        const char *text = l + strspn(l, " ");
        if (strncmp(text, start, strlen(start)) == 0) return strndup(text, strcspn(text, "\n"));
    }
    print_error("no line \"%s...\" in\n%s\n", start, p->text);
    fail();
    return NULL;
}

static void assert_line(const struct printed *p, const char *start, const char *part) {
    char *line = line_of(p, start);
    if (!strstr(line, part)) print_error("expected \"%s\" in \"%s\"\n", part, line);
    assert_non_null(strstr(line, part));
    free(line);
}

static void assert_no_escape(const struct printed *p) {
    assert_null(strchr(p->text, '\x1b'));
}

static void the_table_tells_spread_ratio_and_verdicts(void **state) {
    struct printed p;
    show_table(begin(&p), *state, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "crashed-one", " 131,072 (all) ");
    assert_line(&p, "measured", " 100 ");
    assert_line(&p, "measured", "3.000");     /* median of 2 and 4 s */
    assert_line(&p, "measured", "33.3");      /* % of it: 1 s on either side */
    assert_line(&p, "measured", "1,333");     /* 4000 tokens in 3 s */
    assert_line(&p, "measured", "2.00/0.50"); /* 3 s over the predicted 1.5, 2 MiB over 4 */
    assert_line(&p, "all cases: ", "TP 2");
    assert_no_escape(&p);
    free(p.text);
}

static void estimates_are_marked_and_never_ok(void **state) {
    struct printed p;
    show_table(begin(&p), *state, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "estimated-one", "~100.0");
    assert_line(&p, "estimated-one", "estimated");
    assert_line(&p, "estimated-one", "~10,483");
    assert_line(&p, "estimated-one", "not checked");
    assert_line(&p, "~ estimated", "2 %");
    free(p.text);
}

static void what_did_not_run_says_why_and_claims_nothing(void **state) {
    struct printed p;
    show_table(begin(&p), *state, "run.h5", &plain);
    fclose(p.file);
    char *line = line_of(&p, "crashed-one");
    assert_non_null(strstr(line, "  crashed      -"));
    assert_null(strstr(line, "ok"));
    assert_null(strstr(line, "not checked"));
    assert_line(&p, "crashed-one: crashed", "killed by signal 9\\x1b[31m");
    free(line);
    free(p.text);
}

static void a_spot_alone_is_not_called_ok_and_is_explained(void **state) {
    struct record_run *run = *state;
    struct printed p;
    run->cases[0].check[CHECK_TOKENS].verdict = VERDICT_NOT_CHECKED;
    run->cases[0].check[CHECK_SPOT].verdict = VERDICT_OK;
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "measured", "spot ok");
    assert_line(&p, "spot ok: attention recomputed at sampled rows", "answer itself is not known");
    free(p.text);
    show_json(begin(&p), run, "run.h5");
    fclose(p.file);
    assert_non_null(strstr(p.text, "\"output_check\": \"spot\""));
    free(p.text);
}

static void what_was_not_checked_says_why(void **state) {
    struct record_run *run = *state;
    struct printed p;
    strcpy(run->cases[1].check[CHECK_TOKENS].detail, "sampled coverage");
    run->cases[0].check[CHECK_INVARIANCE].verdict = VERDICT_NOT_CHECKED;
    strcpy(run->cases[0].check[CHECK_INVARIANCE].detail, "switched off");
    strcpy(run->cases[1].check[CHECK_INVARIANCE].detail, "switched off");
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "output not checked (1 case): ", "sampled coverage");
    assert_line(&p, "invariance not checked (2 cases): ", "switched off");
    free(p.text);
    show_case(begin(&p), run, &run->cases[1], &plain);
    fclose(p.file);
    assert_line(&p, "none: ", "sampled coverage"); /* the output */
    assert_null(strstr(p.text, "xxh64"));
    assert_line(&p, "count ", "the file does not say why");
    free(p.text);
}

static void an_incomplete_run_says_so(void **state) {
    struct record_run *run = *state;
    struct printed p;
    run->complete = false;
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "INCOMPLETE", "");
    free(p.text);
}

static void colour_is_only_there_when_asked_for(void **state) {
    struct printed p;
    show_table(begin(&p), *state, "run.h5", &(struct show_style){.color = true});
    fclose(p.file);
    assert_non_null(strstr(p.text, "\033[32mok\033[0m"));
    assert_null(strstr(p.text, "\x1b[2J"));
    free(p.text);
}

static void a_case_shows_depth_memory_checks_and_time(void **state) {
    struct record_run *run = *state;
    struct printed p;
    show_case(begin(&p), run, &run->cases[0], &plain);
    fclose(p.file);
    assert_line(&p, "1-3", "800.0");  /* 40 chunks in 16 rows: the first holds 1..3 */
    assert_line(&p, "39-40", "####"); /* and the last two are the slowest */
    assert_line(&p, "kv", "2");       /* MiB */
    assert_line(&p, "the system's own figure", "not accounted for: 5.00 MiB");
    assert_line(&p, "linear down", "75.0");
    assert_line(&p, "linear down", "2,000"); /* GFLOP/s: 6 GFLOP in 3 ms */
    assert_line(&p, "linear down", "50.0");  /* % of 4 TFLOP/s */
    assert_line(&p, "attention", "25.0");
    assert_line(&p, "spot", "not checked");
    assert_line(&p, "kernels", "attention avx2, linear ref");
    assert_line(&p, "text", "Z\xc3\xbcrich\\x1b[2J\\xff\\xc2\\x9b");
    assert_no_escape(&p);
    free(p.text);
}

static void every_chunk_has_its_row_when_asked_for(void **state) {
    struct record_run *run = *state;
    struct printed p;
    show_case(begin(&p), run, &run->cases[0], &(struct show_style){.bars = true, .verbose = true});
    fclose(p.file);
    assert_line(&p, "40 ", "40.50"); /* ms: median of 40 and 41 */
    assert_line(&p, "40 ", "40.00-41.00");
    assert_line(&p, "40 ", "\xe2\x96\x88");
    free(p.text);
}

static void clocks_show_energy_and_what_held_them_back(void **state) {
    struct record_run *run = *state;
    struct printed p;
    show_case(begin(&p), run, &run->cases[0], &plain);
    fclose(p.file);
    assert_null(strstr(p.text, "clocks and energy")); /* none on the CPU */
    free(p.text);
    add_clocks(&run->cases[0]);
    struct case_summary s;
    result_summary(&run->cases[0], &s);
    show_clocks(begin(&p), &run->cases[0], &s, &plain);
    fclose(p.file);
    assert_line(&p, "1-3", "3.000     0.03 "); /* J a chunk, J a token */
    assert_line(&p, "1-3", "none");
    assert_line(&p, "39-40", "power cap");
    assert_line(&p, "39-40", "1561");
    assert_line(&p, "39-40", "3201");
    assert_line(&p, "39-40", " 89  ");
    assert_line(&p, "a prefill: 120.0 J, 0.03 J a token, 142.9 W, 1,700 MHz", "(1561 at least)");
    free(p.text);
    run->cases[0].coverage = COVER_SAMPLED; /* then they are not a prefill's */
    show_clocks(begin(&p), &run->cases[0], &s, &plain);
    fclose(p.file);
    assert_line(&p, "the chunks that ran: 120.0 J, 0.03 J a token", "142.9 W");
    free(p.text);
    run->cases[0].coverage = COVER_FULL;
    show_clocks(begin(&p), &run->cases[0], &s, &(struct show_style){.verbose = true});
    fclose(p.file);
    assert_line(&p, "40 ", "power cap");
    assert_line(&p, "18 ", "none");
    free(p.text);
    run->cases[0].clocks[7].energy_mj = -1; /* what is not told is not added up */
    show_clocks(begin(&p), &run->cases[0], &s, &(struct show_style){.verbose = true});
    fclose(p.file);
    assert_line(&p, "8 ", " -        -  650.0");
    free(p.text);
}

static void the_gpu_of_a_run_stands_above_its_table(void **state) {
    struct record_run *run = *state;
    struct printed p;
    struct gpu_row *g = &run->facts.gpus[0];
    run->facts.n_gpus = 2;
    run->facts.gpus[1] = *g = (struct gpu_row){
        .gpu = {.name = "NVIDIA \x1bH200", .bus_id = "0000:07:00.0", .power_limit_w = 700},
        .driver = "580.1",
        .cuda_version = 13000};
    g->gpu.sm_clock_max_mhz = 1980, g->gpu.nvlinks = 18, g->used = true;
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "GPU NVIDIA \\x1bH200 at 0000:07:00.0",
                "driver 580.1 (CUDA 13.0), cap 700 W, SM at most 1980 MHz, 18 NVLinks");
    assert_no_escape(&p);
    free(p.text);
    show_facts(begin(&p), run);
    fclose(p.file);
    assert_line(&p, "GPU, used", "18 NVLinks, persistence off");
    assert_no_escape(&p);
    free(p.text);
    show_json(begin(&p), run, "run.h5");
    fclose(p.file);
    assert_line(&p, "\"power_limit_w\"", "700");
    free(p.text);
}

static void every_kernel_has_its_own_ceilings(void **state) {
    struct record_run *run = *state;
    struct printed p;
    run->facts.rates = (struct device_rates){1e9, 2e9, 3e9, 4e12, 50};
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "A CPU", "; linear 1.00 GFLOP/s, attention 2.00 GFLOP/s"); /* an older file */
    free(p.text);
    for (int i = 0; i < CASES; i++) run->cases[i].rates = run->facts.rates;
    strcpy(run->cases[1].attention, "slow"), strcpy(run->cases[1].dtype, "bf16");
    run->cases[1].rates.attention_flops = 7e9, run->cases[1].rates.roof_flops = 8e12;
    show_table(begin(&p), run, "run.h5", &plain);
    fclose(p.file);
    assert_line(&p, "bf16, attention slow: ", "linear 1.00 GFLOP/s, attention 7.00 GFLOP/s");
    assert_null(strstr(p.text, "; linear"));
    free(p.text);
    show_facts(begin(&p), run);
    fclose(p.file);
    assert_line(&p, "ceilings   bf16, attention slow: ", "registers 8.00 TFLOP/s");
    free(p.text);
    show_case_json(begin(&p), run, &run->cases[1], "run.h5");
    fclose(p.file);
    assert_non_null(strstr(p.text, "7000000000.0"));
    free(p.text);
    assert_ptr_equal(record_rates(run, &run->cases[1]), &run->cases[1].rates);
}

static void a_crashed_case_shows_signal_and_last_words(void **state) {
    struct record_run *run = *state;
    struct printed p;
    show_case(begin(&p), run, &run->cases[2], &plain);
    fclose(p.file);
    assert_line(&p, "signal", "9 (Killed)");
    assert_line(&p, "last words", "");
    assert_line(&p, "TTFT", "not measured");
    assert_line(&p, "prompt", "needle:4000, 4,000 tokens");
    assert_null(strstr(p.text, "sha256")); /* nobody knows it yet */
    assert_line(&p, "execution", "1 chunk of 4,000 tokens, eager, TP 2");
    assert_line(&p, "kernels", "attention auto, linear auto");
    free(p.text);
}

static void json_has_a_version_and_null_for_the_unknown(void **state) {
    struct record_run *run = *state;
    struct printed p;
    struct jsondoc *d;
    char path[] = "/tmp/test_show-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    show_json(begin(&p), run, "run.h5");
    fclose(p.file);
    assert_int_equal(write(fd, p.text, p.size), p.size);
    close(fd);
    assert_int_equal(jsondoc_read(&d, path, NULL), STATUS_OK);
    unlink(path);
    assert_string_equal(jsondoc_get_text(d, "schema"), "chunkbench-show");
    int64_t n;
    bool estimated;
    assert_true(jsondoc_get_int(d, "schema_version", &n) && n == SHOW_SCHEMA_VERSION);
    const struct jsondoc *cases = jsondoc_get(d, "cases");
    assert_int_equal(jsondoc_length(cases), CASES);
    const struct jsondoc *ttft = jsondoc_get(jsondoc_at(cases, 0), "ttft");
    assert_true(jsondoc_get_int(ttft, "median_ns", &n) && n == 3000000000);
    ttft = jsondoc_get(jsondoc_at(cases, 1), "ttft");
    assert_true(jsondoc_get_bool(ttft, "estimated", &estimated) && estimated);
    ttft = jsondoc_get(jsondoc_at(cases, 2), "ttft");
    assert_false(jsondoc_get_int(ttft, "median_ns", &n));
    assert_string_equal(jsondoc_get_text(jsondoc_at(cases, 2), "output_check"), "not checked");
    assert_null(jsondoc_get_text(jsondoc_at(cases, 2), "attention"));
    assert_null(jsondoc_get_text(jsondoc_at(cases, 2), "prompt_sha256"));
    assert_true(jsondoc_get_int(jsondoc_at(cases, 2), "max_num_batched_tokens", &n) && n == 131072);
    jsondoc_close(d);
    free(p.text);
}

static void a_case_as_json_has_its_rows(void **state) {
    struct record_run *run = *state;
    struct printed p;
    show_case_json(begin(&p), run, &run->cases[0], "run.h5");
    fclose(p.file);
    int rows = 0;
    for (const char *at = p.text; (at = strstr(at, "\"start_token\"")); at++) rows++;
    assert_int_equal(rows, 2 * CHUNKS);
    free(p.text);
}

static void numbers_have_at_most_four_significant_digits(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } want[] = {{0, "0"},           {1.23456, "1.235"},  {9.99951, "10.00"},
                {12.3456, "12.35"}, {99.9951, "100.0"},  {123.456, "123.5"},
                {999.96, "1,000"},  {54321.6, "54,322"}, {0.012345, "0.0123"},
                {1e-9, "1.00e-09"}, {-3.5, "-3.500"}};
    char text[40];
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_string_equal(table_number(text, want[i].value), want[i].text);
    assert_string_equal(table_number(text, (double)NAN), "-");
    assert_string_equal(table_number(text, (double)INFINITY), "-");
}

static void columns_align_and_hide(void **state) {
    (void)state;
    struct table_column columns[] = {
        {"name", "", true, false}, {"gone", "x", false, false}, {"n", "ms", false, false}};
    struct printed p;
    struct table *t = table_open(columns, 3);
    for (int i = 0; i < 2; i++) {
        table_add(t, TONE_PLAIN, "%s", i ? "longer\n" : "a");
        table_add(t, TONE_PLAIN, "same");
        table_add(t, TONE_PLAIN, "%d", i ? 5 : 1000);
    }
    assert_true(table_same(t, 1));
    assert_false(table_same(t, 0));
    columns[1].hidden = true;
    table_print(begin(&p), t, "", 0, false);
    fclose(p.file);
    assert_string_equal(p.text, "name        n\n"
                                "           ms\n"
                                "a        1000\n"
                                "longer?     5\n");
    table_close(t);
    free(p.text);
}

/* The longest line of the table, from its heads to its last row. */
static size_t table_width(const struct printed *p) {
    size_t widest = 0;
    const char *l = strstr(p->text, "\ncase ");
    assert_non_null(l);
    for (l++; strncmp(l, "~ ", 2) != 0 && strncmp(l, "TTFT:", 5) != 0; l += strcspn(l, "\n") + 1)
        if (strcspn(l, "\n") > widest) widest = strcspn(l, "\n");
    return widest;
}

static void the_table_fits_the_screen_and_names_what_it_left_out(void **state) {
    struct record_run *run = *state;
    static const struct {
        int width;
        const char *there, *gone;
    } want[] = {{200, " of plan", "no room for"},
                {110, " of plan", " prompt "},
                {80, "no room for: of plan", " mode "},
                {60, "spread (a wider screen", " peak/rank "}};
    snprintf(run->cases[0].id, sizeof run->cases[0].id, "needle-4000_c100_eager_tp2");
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct printed p;
        show_table(begin(&p), run, "run.h5", &(struct show_style){.width = want[i].width});
        fclose(p.file);
        if (want[i].width > 60) assert_in_range(table_width(&p), 40, want[i].width);
        if (!strstr(p.text, want[i].there)) fail_msg("no \"%s\" in\n%s", want[i].there, p.text);
        if (strstr(p.text, want[i].gone)) fail_msg("\"%s\" in\n%s", want[i].gone, p.text);
        assert_null(strstr(p.text, " \n"));
        free(p.text);
    }
}

static void ranks_that_need_the_same_share_a_column(void **state) {
    struct record_run *run = *state;
    struct case_result *r = &run->cases[0];
    struct printed p;
    struct memory_row m = r->memory[0];
    m.rank = 1;
    assert_int_equal(result_add_memory(r, &m, NULL), STATUS_OK);
    show_case(begin(&p), run, r, &plain);
    fclose(p.file);
    assert_line(&p, "peak ", "  each rank  shared  in all");
    assert_line(&p, "kv ", "2.000       0   4.000");
    free(p.text);
    show_case(begin(&p), run, r, &(struct show_style){.verbose = true});
    fclose(p.file);
    assert_line(&p, "peak ", "  rank 0  rank 1  shared");
    free(p.text);
    m.use.high_water[MEMORY_KV]++;
    assert_int_equal(result_add_memory(r, &m, NULL), STATUS_OK);
    show_case(begin(&p), run, r, &plain);
    fclose(p.file);
    assert_line(&p, "peak ", "  rank 0  rank 1  shared");
    free(p.text);
}

static void long_texts_of_a_case_are_broken_at_the_screen(void **state) {
    struct record_run *run = *state;
    struct printed p;
    strcpy(run->cases[2].reason, "one two three four five six seven eight nine ten eleven twelve");
    strcpy(run->cases[2].check[CHECK_SPOT].detail, "a sentence that does not fit beside the rest");
    show_case(begin(&p), run, &run->cases[2], &(struct show_style){.width = 60});
    fclose(p.file);
    assert_line(&p, "reason", "one two three four five six seven eight nine");
    assert_line(&p, "ten eleven", "twelve");
    for (const char *l = p.text; *l; l += strcspn(l, "\n") + 1)
        if (strcspn(l, "\n") > 60) fail_msg("%.*s", (int)strcspn(l, "\n"), l);
    free(p.text);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_run, free_run)
    const struct CMUnitTest tests[] = {
        TEST(the_table_tells_spread_ratio_and_verdicts),
        TEST(estimates_are_marked_and_never_ok),
        TEST(what_did_not_run_says_why_and_claims_nothing),
        TEST(a_spot_alone_is_not_called_ok_and_is_explained),
        TEST(what_was_not_checked_says_why),
        TEST(the_table_fits_the_screen_and_names_what_it_left_out),
        TEST(ranks_that_need_the_same_share_a_column),
        TEST(long_texts_of_a_case_are_broken_at_the_screen),
        TEST(an_incomplete_run_says_so),
        TEST(colour_is_only_there_when_asked_for),
        TEST(a_case_shows_depth_memory_checks_and_time),
        TEST(every_chunk_has_its_row_when_asked_for),
        TEST(clocks_show_energy_and_what_held_them_back),
        TEST(the_gpu_of_a_run_stands_above_its_table),
        TEST(every_kernel_has_its_own_ceilings),
        TEST(a_crashed_case_shows_signal_and_last_words),
        TEST(json_has_a_version_and_null_for_the_unknown),
        TEST(a_case_as_json_has_its_rows),
        cmocka_unit_test(numbers_have_at_most_four_significant_digits),
        cmocka_unit_test(columns_align_and_hide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
