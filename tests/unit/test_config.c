/* The configuration: every finding with file, line, what was found and what was expected; values
 * survive the way to text and back; no file crashes the parser. */
#include "harness/config.h"
#include "harness/suggest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* One of each is enough: they are large, and every test fills them anew. */
struct fixture {
    struct config config, other;
    struct config_errors errors;
    char path[64];
};

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    strcpy(f->path, "/tmp/test_config_XXXXXX");
    close(mkstemp(f->path));
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    unlink(f->path);
    free(f);
    return 0;
}

static void write_bytes(struct fixture *f, const char *text, size_t n) {
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
}

static enum status load_with(struct fixture *f, const char *text, const char *const *sets, int n) {
    write_bytes(f, text, strlen(text));
    memset(&f->errors, 0, sizeof f->errors);
    return config_load(&f->config, f->path, sets, n, &f->errors);
}

static enum status load(struct fixture *f, const char *text) {
    return load_with(f, text, NULL, 0);
}

static void assert_ok(struct fixture *f, const char *text) {
    const enum status s = load(f, text);
    if (s != STATUS_OK) fail_msg("%s: %s", text, f->errors.n ? f->errors.e[0].text : "no message");
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("expected \"%s\" in \"%s\"", part, text);
}

/* The only finding is in `line` and contains both texts. */
static void assert_finding(struct fixture *f, const char *text, int line, const char *found,
                           const char *expected) {
    char where[100];
    assert_int_equal(load(f, text), STATUS_USAGE);
    assert_int_equal(f->errors.n, 1);
    snprintf(where, sizeof where, "%s:%d: ", f->path, line);
    assert_has(f->errors.e[0].text, where);
    assert_has(f->errors.e[0].text, found);
    assert_has(f->errors.e[0].text, expected);
}

static void an_empty_file_gives_the_defaults(void **state) {
    struct fixture *f = *state;
    assert_ok(f, "");
    const struct config *c = &f->config;
    assert_string_equal(c->model_path, "auto");
    assert_int_equal(c->tensor_parallel_size.n, 1);
    assert_int_equal(c->tensor_parallel_size.v[0], 1);
    assert_int_equal(c->max_num_batched_tokens.v[0], 8192);
    assert_true(c->enable_chunked_prefill && c->prune_last_layer && c->invariance);
    assert_int_equal(c->time_budget_s, 1800);
    assert_int_equal(c->coverage, COVERAGE_AUTO);
    assert_int_equal(c->sample_chunks, 5);
    assert_string_equal(c->output, "");
}

static void every_default_is_a_legal_value(void **state) {
    struct fixture *f = *state;
    struct option_info o;
    char text[2000];
    int n = 0;
    for (; config_option(n, &o); n++) {
        snprintf(text, sizeof text, "[%s]\n%s = %s\n", o.section, o.key, o.fallback);
        assert_ok(f, text);
        assert_true(*o.help && *o.type);
    }
    assert_true(n >= 30 && n <= OPTIONS_MAX);
    assert_false(config_option(-1, &o));
}

static void axes_take_lists_and_ranges(void **state) {
    struct fixture *f = *state;
    assert_ok(f,
              "[engine]\ntensor_parallel_size = 1..8*2\nmax_num_batched_tokens = 8192, 32k,128k\n"
              "enforce_eager = true, false\n[model]\ndtype=float32 , bfloat16\n"
              "[prompt]\nsource = needle:64k@10%+50%, file:/a b/c.txt\n");
    const struct config *c = &f->config;
    assert_int_equal(c->tensor_parallel_size.n, 4);
    assert_int_equal(c->tensor_parallel_size.v[3], 8);
    assert_int_equal(c->max_num_batched_tokens.n, 3);
    assert_int_equal(c->max_num_batched_tokens.v[2], 131072);
    assert_int_equal(c->enforce_eager.v[0], 1);
    assert_int_equal(c->enforce_eager.v[1], 0);
    assert_string_equal(c->dtype.v[0], "float32");
    assert_string_equal(c->prompt.v[0], "needle:64k@10%+50%");
    assert_string_equal(c->prompt.v[1], "file:/a b/c.txt");

    assert_ok(f, "[engine]\nmax_num_batched_tokens = 1k..4k+1k, 10, 5..6+4\n");
    const int64_t expected[] = {1024, 2048, 3072, 4096, 10, 5};
    assert_int_equal(c->max_num_batched_tokens.n, 6);
    assert_memory_equal(c->max_num_batched_tokens.v, expected, sizeof expected);
}

static void bad_axes_are_findings(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *value, *found;
    } bad[] = {{"", "found nothing"},
               {"1,", "an empty place in the list"},
               {",1", "an empty place"},
               {"1, 2, 1", "found 1 twice"},
               {"1..4*2, 4", "found 4 twice"},
               {"4..1*2", "found \"4..1*2\""},
               {"1..8", "found \"1..8\""},
               {"1..8*1", "found \"1..8*1\""},
               {"1..8+0", "found \"1..8+0\""},
               {"1..16*2", "found \"1..16*2\""},
               {"1..8*2*2", "found \"1..8*2*2\""},
               {"three", "found \"three\""},
               {"9", "found \"9\""},
               {"1 2", "found \"1 2\""}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "[engine]\n\ntensor_parallel_size = %s\n", bad[i].value);
        assert_finding(f, text, 3, bad[i].found, "expected a whole number from 1 to 8");
    }
    assert_finding(f, "[engine]\nmax_num_batched_tokens = 1..100+1\n", 2, "more than 64 values",
                   "expected a whole number");
    assert_finding(f, "[engine]\nenforce_eager = true, true\n", 2, "found true twice",
                   "true or false");
    assert_finding(f, "[prompt]\nsource = a, b, a\n", 2, "\"a\" twice", "a text");
    assert_finding(f, "[model]\ndtype = bfloat16, float\n", 2, "\"float\"", "bfloat16 or float32");
}

static void bad_single_values_are_findings(void **state) {
    struct fixture *f = *state;
    assert_finding(f, "[run]\nrepeats = 0\n", 2, "\"0\"", "from 1 to 1000");
    assert_finding(f, "[run]\nrepeats = 99999999999999999999\n", 2, "\"9999", "from 1 to 1000");
    assert_finding(f, "[run]\nrepeats = 3x\n", 2, "\"3x\"", "whole number");
    assert_finding(f, "[run]\ntime_budget = 5d\n", 2, "\"5d\"", "seconds");
    assert_finding(f, "[check]\ninvariance = yes\n", 2, "\"yes\"", "true or false");
    assert_finding(f, "[engine]\ndevice = gpu\n", 2, "\"gpu\"", "auto, cpu or cuda");
    assert_finding(f, "[sampling]\ntop_p = 0\n", 2, "\"0\"", "to 1");
    assert_finding(f, "[sampling]\ntemperature = nan\n", 2, "\"nan\"", "a number");
    assert_finding(f, "[sampling]\ntemperature = 0x1\n", 2, "\"0x1\"", "a number");
    assert_finding(f, "[run]\ncoverage = sample\n", 2, "\"sample\"", "sample:K");
    assert_finding(f, "[run]\ncoverage = sample:2\n", 2, "\"sample:2\"", "from 3");
    assert_finding(f, "[run]\ncoverage = full:3\n", 2, "\"full:3\"", "full, auto");
    assert_finding(f, "[model]\npath =\n", 2, "found nothing", "a text");
}

static void times_and_coverage_are_read(void **state) {
    struct fixture *f = *state;
    assert_ok(f, "[run]\ntime_budget = 2h\nwatchdog = 90\ncoverage = sample:9\n");
    assert_int_equal(f->config.time_budget_s, 7200);
    assert_int_equal(f->config.watchdog_s, 90);
    assert_int_equal(f->config.coverage, COVERAGE_SAMPLE);
    assert_int_equal(f->config.sample_chunks, 9);
    assert_ok(f, "[run]\ncoverage = full\n");
    assert_int_equal(f->config.coverage, COVERAGE_FULL);
}

static void token_counts_take_k_and_m(void **state) {
    (void)state;
    int64_t n;
    assert_true(parse_tokens("64k", &n) && n == 65536);
    assert_true(parse_tokens("1m", &n) && n == 1048576);
    assert_true(parse_tokens("1000", &n) && n == 1000);
    assert_true(parse_tokens("2M", &n) && n == 2097152);
    static const char *const bad[] = {"",
                                      "k",
                                      "-1",
                                      "1.5k",
                                      "1kk",
                                      "1 k",
                                      " 1",
                                      "0x10",
                                      "9223372036854775808",
                                      "9007199254740993m"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_false(parse_tokens(bad[i], &n));
}

static void unknown_names_get_a_suggestion(void **state) {
    struct fixture *f = *state;
    assert_finding(f, "[engine]\nmax_num_batch_tokens = 1\n", 2,
                   "key max_num_batch_tokens in [engine]", "expected max_num_batched_tokens");
    assert_finding(f, "[engine]\ntp = 4\n", 2, "key tp", "expected tensor_parallel_size");
    assert_finding(f, "[model]\n\ntensor_parallel_size = 4\n", 3, "key tensor_parallel_size",
                   "tensor_parallel_size belongs in [engine]");
    assert_finding(f, "[run]\ntemprature = 0\n", 2, "key temprature",
                   "temperature, which belongs in [sampling]");
    assert_finding(f, "[engin]\ntensor_parallel_size = 4\n", 2, "in [engin]", "expected [engine]");
    assert_finding(f, "[zzzzzz]\nq = 4\n", 2, "in [zzzzzz]", "one of [model], [engine], [prompt]");
    assert_finding(f, "[engine]\nqqqqqqqqqqqq = 4\n", 2, "key qqqqqqqqqqqq", "bench list options");
    assert_finding(f, "repeats = 4\n", 1, "key repeats before any section", "expected");
}

static void a_second_value_names_both_lines(void **state) {
    struct fixture *f = *state;
    assert_finding(f, "[run]\nrepeats = 1\nwarmup = 0\n[run]\nrepeats = 2\n", 5, "second value",
                   "the first is in line 2");
}

static void lines_that_are_nothing_are_findings(void **state) {
    struct fixture *f = *state;
    assert_finding(f, "[run]\nrepeats 4\n", 2, "found \"repeats 4\"", "key = value or [section]");
    assert_finding(f, "\n[run\nrepeats = 4\n", 2, "found \"[run\"", "expected [section]");
    assert_finding(f, "[run]\nrepeats = 1\nlast line", 3, "\"last line\"", "key = value");
    char text[500] = "[run]\noutput = ";
    memset(text + strlen(text), 'x', 300);
    load(f, text);
    assert_has(f->errors.e[0].text, ":2: found a line of 309 bytes, expected at most 197");
    static const char nul[] = "[run]\nrepeats = 1\0\n";
    write_bytes(f, nul, sizeof nul - 1);
    memset(&f->errors, 0, sizeof f->errors);
    assert_int_equal(config_load(&f->config, f->path, NULL, 0, &f->errors), STATUS_USAGE);
    assert_has(f->errors.e[0].text, ":2: found a NUL byte");
}

static void all_findings_come_at_once_and_in_order(void **state) {
    struct fixture *f = *state;
    assert_int_equal(
        load(f, "[engine]\ntp = 1\nthreads = x\n[modle]\nseed = 1\n[run]\nspans = 1\n"),
        STATUS_USAGE);
    assert_int_equal(f->errors.n, 4);
    assert_has(f->errors.e[0].text, ":2:");
    assert_has(f->errors.e[1].text, ":3:");
    assert_has(f->errors.e[2].text, ":5:");
    assert_has(f->errors.e[3].text, ":7:");
    char text[4000] = "[run]\n";
    for (int i = 0; i < 100; i++) strcat(text, "nonsense = 1\n");
    load(f, text);
    assert_int_equal(f->errors.n, 64);
    assert_int_equal(f->errors.more, 36);
}

static void findings_are_kept_by_line_then_defaults_then_overrides(void **state) {
    struct fixture *f = *state;
    static const int32_t from[] = {7, FROM_SET - 1, 2, FROM_DEFAULT, 7, FROM_SET, FROM_SET - 1};
    static const char *const sorted[] = {"2", "0", "4", "3", "5", "1", "6"};
    memset(&f->errors, 0, sizeof f->errors);
    for (int i = 0; i < 7; i++) config_error(&f->errors, from[i], "%d", i);
    for (int i = 0; i < 7; i++) assert_string_equal(f->errors.e[i].text, sorted[i]);

    /* full: what comes first stays, whenever it was found */
    memset(&f->errors, 0, sizeof f->errors);
    for (int line = 100; line > 0; line--) config_error(&f->errors, line, "%d", line);
    config_error(&f->errors, FROM_SET, "last");
    assert_int_equal(f->errors.n, 64);
    assert_int_equal(f->errors.more, 37);
    assert_string_equal(f->errors.e[0].text, "1");
    assert_string_equal(f->errors.e[63].text, "64");
}

static void a_refused_value_is_marked_and_so_is_the_key_that_was_meant(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *text, *section, *key;
        bool has;
    } files[] = {
        {"[run]\nrepeats = 3\nspans = x\n", "run", "repeats", true},
        {"[run]\nrepeats = 3\nspans = x\n", "run", "spans", false},
        {"[engine]\ntensor_paralel_size = 3\n", "engine", "tensor_parallel_size", false},
        {"[engine]\ntensor_paralel_size = 3\ntensor_parallel_size = 2\n", "engine",
         "tensor_parallel_size", true},
        {"[engin]\nisa = avx2\n", "engine", "isa", false},
        {"[model]\nisa = avx2\n", "engine", "isa", false},
        {"[engine]\nisa avx2\n", "engine", "isa", false},
        {"[engine]\nisa avx2\n", "engine", "threads", true},
        {"[engine]\nisa = none\nisa = avx2\n", "engine", "isa", true},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        assert_int_equal(load(f, files[i].text), STATUS_USAGE);
        assert_int_equal(config_has(&f->config, files[i].section, files[i].key), files[i].has);
    }
    const char *const good[] = {"run.spans=all"};
    load_with(f, "[run]\nspans = x\n", good, 1);
    assert_true(config_has(&f->config, "run", "spans"));
    const char *const bad[] = {"run.spans=true"};
    load_with(f, "[run]\nspans = true\n", bad, 1);
    assert_false(config_has(&f->config, "run", "spans"));
    assert_false(config_has(&f->config, "run", "nothing"));
}

static void contradictions_are_found_beside_other_findings(void **state) {
    struct fixture *f = *state;
    load(f, "[model]\nseed = x\npath_gpu = auto\nmax_model_len = 64\n"
            "[sampling]\nmax_tokens = 64\ntop_k = y\n");
    assert_int_equal(f->errors.n, 4);
    static const char *const where[] = {":2: ", ":3: ", ":6: ", ":7: "};
    for (int i = 0; i < 4; i++) assert_has(f->errors.e[i].text, where[i]);
    load(f, "[model]\nmax_model_len = x\n[sampling]\nmax_tokens = 64\n");
    assert_int_equal(f->errors.n, 1);
}

static void comments_and_long_values(void **state) {
    struct fixture *f = *state;
    assert_ok(f, "\xef\xbb\xbf; why\n  # this\n[run] ; a section\nrepeats = 2 # two\n\n"
                 "output = a;b#c ; not this\n[prompt]\nsource = needle:64k, ; short\n"
                 "    needle:200k,\n\n\t# between\n    file:/tmp/x=y.txt\n"
                 "  seed = 7\n[model]\npath = /very/\\\n    long/\\\n\tpath=1\n"
                 "path_gpu = two\n  words\r\n");
    assert_int_equal(f->config.repeats, 2);
    assert_string_equal(f->config.output, "a;b#c");
    assert_int_equal(f->config.prompt.n, 3);
    assert_string_equal(f->config.prompt.v[1], "needle:200k");
    assert_string_equal(f->config.prompt.v[2], "file:/tmp/x=y.txt");
    assert_int_equal(f->config.prompt_seed, 7);
    assert_string_equal(f->config.model_path, "/very/long/path=1");
    assert_string_equal(f->config.model_gpu, "two words");
}

static void overrides_win_and_are_checked_alike(void **state) {
    struct fixture *f = *state;
    char where[300];
    const char *const good[] = {"run.repeats=5", "engine.tensor_parallel_size=2, 4",
                                "run.repeats=6"};
    assert_int_equal(load_with(f, "[run]\nwarmup = 0\nrepeats = 1\n", good, 3), STATUS_OK);
    assert_int_equal(f->config.repeats, 6);
    assert_int_equal(f->config.tensor_parallel_size.n, 2);
    assert_string_equal(config_where(&f->config, "run", "repeats", where, sizeof where),
                        "--set run.repeats=6");
    assert_has(config_where(&f->config, "run", "warmup", where, sizeof where), ":2");
    assert_has(config_where(&f->config, "run", "spans", where, sizeof where),
               "default of [run] spans");

    const char *const bad[] = {"run.repeats=x", "run.repeat=1", "repeats=1", "run.repeats",
                               "runn.repeats=1"};
    assert_int_equal(load_with(f, "", bad, 5), STATUS_USAGE);
    assert_int_equal(f->errors.n, 5);
    assert_has(f->errors.e[0].text, "--set run.repeats=x: found \"x\", expected a whole number");
    assert_has(f->errors.e[1].text,
               "--set run.repeat=1: found key repeat in [run], expected repeats");
    assert_has(f->errors.e[2].text, "--set repeats=1: expected section.key=value");
    assert_has(f->errors.e[3].text, "--set run.repeats: expected section.key=value");
    assert_has(f->errors.e[4].text, "expected [run]");
    /* a text that no file could say */
    const char *const unspeakable[] = {"run.output=a ; b", "run.output=a\nb", "run.output=a\\"};
    assert_int_equal(load_with(f, "", unspeakable, 3), STATUS_USAGE);
    assert_int_equal(f->errors.n, 3);
}

static void values_that_contradict_each_other_are_findings(void **state) {
    struct fixture *f = *state;
    assert_finding(f, "[engine]\nmax_num_batched_tokens = 1k, 2k\nenable_chunked_prefill = false\n",
                   2, "2 chunk sizes with enable_chunked_prefill = false", "expected one");
    assert_finding(f, "[sampling]\nmax_tokens = 64\n[model]\nmax_model_len = 64\n", 2,
                   "max_tokens = 64 under max_model_len = 64", "room for a prompt");
    assert_finding(f, "[model]\npath_gpu = auto\n", 2, "path_gpu = auto", "expected the model");
    static const char *const no_chunk[] = {"first", "-1", "1.5", "3x", "1234567890"};
    for (size_t i = 0; i < sizeof no_chunk / sizeof no_chunk[0]; i++) {
        char ini[64], found[40];
        snprintf(ini, sizeof ini, "[trace]\nprofile_chunk = %s\n", no_chunk[i]);
        snprintf(found, sizeof found, "profile_chunk = %s, ", no_chunk[i]);
        assert_finding(f, ini, 2, found, "none, last or the number of a chunk");
    }
    assert_ok(f, "[trace]\nprofile_chunk = 123456789\n");
    assert_ok(f, "[trace]\nprofile_chunk = last\n");
    assert_finding(f, "[trace]\ncupti = las\n", 2, "cupti = las, ",
                   "none, last, spread, all or the number of a chunk");
    assert_finding(f, "[trace]\ncupti = last|all\n", 2, "cupti = last|all, ", "expected none");
    assert_finding(f, "[trace]\nprofile_chunk = all\n", 2, "profile_chunk = all, ",
                   "none, last or");
    static const char *const chunks[] = {"none", "last", "spread", "all", "7"};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        char ini[64];
        snprintf(ini, sizeof ini, "[trace]\ncupti = %s\n", chunks[i]);
        assert_ok(f, ini);
    }
}

static void a_file_that_cannot_be_read_is_an_io_error(void **state) {
    struct fixture *f = *state;
    memset(&f->errors, 0, sizeof f->errors);
    assert_int_equal(config_load(&f->config, "/no/such.ini", NULL, 0, &f->errors), STATUS_IO);
    assert_has(f->errors.e[0].text, "/no/such.ini: No such file");
    assert_int_equal(config_load(&f->config, "/tmp", NULL, 0, &f->errors), STATUS_IO);
    assert_int_equal(config_load(&f->config, "/tmp", NULL, 0, NULL), STATUS_IO);
}

/* ---- properties */

static uint64_t next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static void random_text(uint64_t *seed, int least, int most, char *out) {
    static const char letters[] =
        "abcxyzABC0189_-./:@ =[];#\\%\xc3\xa9"; /* every special character, and two high bytes */
    const int n = least + (int)(next(seed) % (uint64_t)(most - least + 1));
    for (int i = 0; i < n; i++) out[i] = letters[next(seed) % (sizeof letters - 1)];
    out[n] = 0;
    for (int i = 0; i < n; i++)
        if ((out[i] == ';' || out[i] == '#') && (i == 0 || out[i - 1] == ' ')) out[i] = '+';
    if (n && out[0] == ' ') out[0] = 'a';
    if (n && (out[n - 1] == ' ' || out[n - 1] == '\\')) out[n - 1] = 'z';
}

/* A legal value for the option, as --set would give it. */
static void random_value(uint64_t *seed, const struct option_info *o, char *out, size_t size) {
    char text[300];
    if (!strcmp(o->key, "max_model_len"))
        snprintf(out, size, "%d", (int)(next(seed) % 2) << 24);
    else if (!strcmp(o->key, "tensor_parallel_size"))
        snprintf(out, size, "1..%d*2", 1 << next(seed) % 4);
    else if (!strcmp(o->key, "devices"))
        snprintf(out, size, "%d", (int)(next(seed) % 2)); /* a divisor of every size */
    else if (!strcmp(o->key, "max_num_batched_tokens")) {
        size_t used = 0;
        const int n = 1 + (int)(next(seed) % AXIS_MAX);
        for (int i = 0; i < n; i++)
            used += (size_t)snprintf(out + used, size - used, "%s%d", i ? ", " : "",
                                     1 + i * 16000000 + (int)(next(seed) % 15000000));
    } else if (!strcmp(o->key, "enable_chunked_prefill"))
        snprintf(out, size, "true");
    else if (!strcmp(o->key, "profile_chunk") || !strcmp(o->key, "cupti")) {
        static const char *const kinds[] = {"none", "last", "0", "12"};
        snprintf(out, size, "%s", kinds[next(seed) % 4]);
    } else if (!strcmp(o->type, "coverage")) {
        static const char *const kinds[] = {"full", "auto", "auto:%d", "sample:%d"};
        const uint64_t kind = next(seed) % 4;
        const int k = 3 + (int)(next(seed) % 1000);
        if (kind < 2)
            snprintf(out, size, "%s", kinds[kind]);
        else
            snprintf(out, size, kind == 2 ? "auto:%d" : "sample:%d", k);
    } else if (!strcmp(o->type, "choice")) {
        snprintf(out, size, "%s", o->fallback);
    } else if (!strcmp(o->type, "true or false"))
        snprintf(out, size,
                 o->axis && next(seed) % 2 ? "true, false"
                 : next(seed) % 2          ? "true"
                                           : "false");
    else if (!strcmp(o->type, "number"))
        snprintf(out, size, "%.17g", 0.01 + (double)next(seed) / (double)((uint64_t)1 << 32));
    else if (!strcmp(o->type, "text") && o->axis) {
        size_t used = 0;
        const int n = 1 + (int)(next(seed) % AXIS_MAX);
        for (int i = 0; i < n; i++) {
            random_text(seed, 1, 240, text);
            used += (size_t)snprintf(out + used, size - used, "%s%d%s", i ? ", " : "", i, text);
        }
    } else if (!strcmp(o->type, "text")) {
        random_text(seed, *o->fallback ? 1 : 0, 20, out);
        const bool name = strstr(o->key, "_backend"); /* of a kernel: 31 bytes at most */
        while (next(seed) % 4 && strlen(out) + 300 < PATH_MAX_BYTES && *out && !name) {
            random_text(seed, 1, 290, text);
            strcat(out, text);
        }
        if (name) out[31 < strlen(out) ? 31 : strlen(out)] = 0;
        const size_t n = strlen(out);
        for (size_t i = 1; i < n; i++)
            if ((out[i] == ';' || out[i] == '#') && out[i - 1] == ' ') out[i] = '+';
    } else
        snprintf(out, size, "%d", 2 + (int)(next(seed) % 90));
}

static void the_effective_text_reads_back_to_the_same_configuration(void **state) {
    struct fixture *f = *state;
    uint64_t seed = 42;
    const size_t size = 20000;
    for (int round = 0; round < 60; round++) {
        char *values[OPTIONS_MAX];
        struct option_info o;
        int n = 0;
        for (; config_option(n, &o); n++) {
            values[n] = malloc(size);
            char *value = malloc(size);
            random_value(&seed, &o, value, size);
            snprintf(values[n], size, "%s.%s=%s", o.section, o.key, value);
            free(value);
        }
        if (load_with(f, "", (const char *const *)values, n) != STATUS_OK)
            fail_msg("%s", f->errors.e[0].text);
        memcpy(&f->other, &f->config, sizeof f->other);
        char *text = config_to_text(&f->config);
        assert_ok(f, text);
        char *again = config_to_text(&f->config);
        assert_string_equal(text, again);
        char hash[65], other_hash[65];
        config_hash(&f->config, hash);
        config_hash(&f->other, other_hash);
        assert_string_equal(hash, other_hash);
        /* everything but where the values came from */
        memcpy(f->other.file, f->config.file, sizeof f->other.file);
        memcpy(f->other.from, f->config.from, sizeof f->other.from);
        assert_memory_equal(&f->config, &f->other, sizeof f->other);
        free(text);
        free(again);
        for (int i = 0; i < n; i++) free(values[i]);
    }
}

static void a_text_reads_like_a_file(void **state) {
    struct fixture *f = *state;
    const char *const sets[] = {"model.path=random:nano", "engine.threads=3"};
    assert_int_equal(load_with(f, "", sets, 2), STATUS_OK);
    char *text = config_to_text(&f->config);
    assert_int_equal(config_load_text(&f->other, text, "x", &f->errors), STATUS_OK);
    assert_string_equal(f->other.model_path, "random:nano");
    assert_int_equal(f->other.threads, 3);
    free(text);
    assert_int_equal(config_load_text(&f->other, "[engine]\nthreads = many\n", "x", &f->errors),
                     STATUS_USAGE);
    assert_int_equal(f->errors.n, 1);
    assert_non_null(strstr(f->errors.e[0].text, "x:2"));
}

static void the_hash_sees_every_key_but_the_output(void **state) {
    struct fixture *f = *state;
    char before[65], after[65];
    assert_ok(f, "");
    config_hash(&f->config, before);
    const char *const output[] = {"run.output=elsewhere.h5"};
    assert_int_equal(load_with(f, "", output, 1), STATUS_OK);
    config_hash(&f->config, after);
    assert_string_equal(before, after);
    const char *const repeats[] = {"run.repeats=4"};
    assert_int_equal(load_with(f, "", repeats, 1), STATUS_OK);
    config_hash(&f->config, after);
    assert_string_not_equal(before, after);
}

static void damaged_files_never_crash_the_parser(void **state) {
    struct fixture *f = *state;
    assert_ok(f, "");
    char *text = config_to_text(&f->config);
    const size_t n = strlen(text);
    static const char special[] = "[]=;#\\\n\r\t ,.:*+\"\xff";
    uint64_t seed = 7;
    char *damaged = malloc(n + 1);
    for (int round = 0; round < 1000; round++) {
        memcpy(damaged, text, n + 1);
        const uint64_t edits = 1 + next(&seed) % 40;
        for (uint64_t i = 0; i < edits; i++)
            damaged[next(&seed) % n] = special[next(&seed) % (sizeof special - 1)];
        write_bytes(f, damaged, next(&seed) % (n + 1));
        memset(&f->errors, 0, sizeof f->errors);
        const enum status s = config_load(&f->config, f->path, NULL, 0, &f->errors);
        assert_true(s == STATUS_OK || (s == STATUS_USAGE && f->errors.n > 0));
    }
    free(damaged);
    free(text);
}

static void edit_distance_counts_exchanges_once(void **state) {
    (void)state;
    assert_int_equal(edit_distance("", ""), 0);
    assert_int_equal(edit_distance("abc", ""), 3);
    assert_int_equal(edit_distance("Kitten", "sitting"), 3);
    assert_int_equal(edit_distance("repaets", "repeats"), 1);
    assert_int_equal(edit_distance("a", "a"), 0);
    const char *const names[] = {"alpha", "beta", "gamma"};
    assert_int_equal(suggest_nearest("bata", names, 3), 1);
    assert_int_equal(suggest_nearest("zzzzzzzz", names, 3), -1);
}

static void the_reference_page_in_the_repository_is_current(void **state) {
    (void)state;
    char *expected = config_reference_page();
    FILE *file = fopen(SOURCE_DIR "/docs/OPTIONS.md", "r");
    assert_non_null(file);
    char *found = calloc(1, 100000);
    fread(found, 1, 99999, file);
    fclose(file);
    if (strcmp(expected, found) != 0)
        fail_msg("docs/OPTIONS.md is not current: bench list options --markdown > docs/OPTIONS.md");
    free(found);
    free(expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_gives_the_defaults),
        cmocka_unit_test(every_default_is_a_legal_value),
        cmocka_unit_test(axes_take_lists_and_ranges),
        cmocka_unit_test(bad_axes_are_findings),
        cmocka_unit_test(bad_single_values_are_findings),
        cmocka_unit_test(times_and_coverage_are_read),
        cmocka_unit_test(token_counts_take_k_and_m),
        cmocka_unit_test(unknown_names_get_a_suggestion),
        cmocka_unit_test(a_second_value_names_both_lines),
        cmocka_unit_test(lines_that_are_nothing_are_findings),
        cmocka_unit_test(all_findings_come_at_once_and_in_order),
        cmocka_unit_test(findings_are_kept_by_line_then_defaults_then_overrides),
        cmocka_unit_test(a_refused_value_is_marked_and_so_is_the_key_that_was_meant),
        cmocka_unit_test(contradictions_are_found_beside_other_findings),
        cmocka_unit_test(comments_and_long_values),
        cmocka_unit_test(overrides_win_and_are_checked_alike),
        cmocka_unit_test(values_that_contradict_each_other_are_findings),
        cmocka_unit_test(a_file_that_cannot_be_read_is_an_io_error),
        cmocka_unit_test(the_effective_text_reads_back_to_the_same_configuration),
        cmocka_unit_test(a_text_reads_like_a_file),
        cmocka_unit_test(the_hash_sees_every_key_but_the_output),
        cmocka_unit_test(damaged_files_never_crash_the_parser),
        cmocka_unit_test(edit_distance_counts_exchanges_once),
        cmocka_unit_test(the_reference_page_in_the_repository_is_current),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
