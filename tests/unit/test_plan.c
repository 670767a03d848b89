/* The plan: cases and their ids, findings that need the model or the prompts, and the decisions
 * that a worker reads back. Its time: test_plan_time.c. */
#include "plan_fixture.h"

#include "harness/jsondoc.h"
#include "harness/predict.h"
#include "harness/rates.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <sys/stat.h>

/* ---- cases */

static void cases_are_the_cross_product_in_the_documented_order(void **state) {
    struct fixture *f = *state;
    make_ok(f, SETS("engine.max_num_batched_tokens=512,128", "engine.enforce_eager=true,false",
                    "engine.tensor_parallel_size=1,2", "prompt.source=needle:2k,random:1k"));
    static const char *const ids[] = {
        "needle-2k_c512_eager_tp1_bf16", "needle-2k_c512_graph_tp1_bf16",
        "needle-2k_c128_eager_tp1_bf16", "needle-2k_c128_graph_tp1_bf16",
        "random-1k_c512_eager_tp1_bf16", "random-1k_c512_graph_tp1_bf16",
        "random-1k_c128_eager_tp1_bf16", "random-1k_c128_graph_tp1_bf16",
        "needle-2k_c512_eager_tp2_bf16", "needle-2k_c512_graph_tp2_bf16"};
    assert_int_equal(f->plan.n, 16);
    assert_int_equal(f->plan.launches, 2);
    for (int i = 0; i < 10; i++) {
        assert_string_equal(f->plan.cases[i].id, ids[i]);
        assert_int_equal(f->plan.cases[i].launch, i / 8);
        assert_int_equal(f->plan.cases[i].coverage, COVER_FULL);
    }
    const struct case_plan *c = plan_find(&f->plan, "random-1k_c128_graph_tp2_bf16");
    assert_non_null(c);
    assert_int_equal(c->session.prompt_tokens, 1024);
    assert_int_equal(c->session.chunk_tokens, 128);
    assert_int_equal(c->chunks, 8);
    assert_true(c->session.graph);
    assert_int_equal(c->engine.tensor_parallel_size, 2);
    assert_null(plan_find(&f->plan, "none"));
    plan_free(&f->plan);
}

static void dual_chunk_attention_is_used_where_the_model_has_it(void **state) {
    struct fixture *f = *state;
    make_ok(f, SETS("model.path=random:2x64x4x2x16x64x128", "prompt.source=random:1k"));
    assert_false(f->plan.cases[0].engine.dual_chunk_attention);
    plan_free(&f->plan);
    make_ok(
        f, SETS("model.path=random:2x64x4x2x16x64x128/dual:256:64:512", "prompt.source=random:1k"));
    assert_true(f->plan.cases[0].engine.dual_chunk_attention);
    plan_free(&f->plan);
    make_ok(f, SETS("engine.dual_chunk_attention=false"));
    assert_false(f->plan.cases[0].engine.dual_chunk_attention);
    plan_free(&f->plan);
}

static void chunk_sizes_that_clamp_to_the_same_stay_distinct_cases(void **state) {
    struct fixture *f = *state;
    make_ok(f, SETS("engine.max_num_batched_tokens=32k,128k,1000"));
    assert_int_equal(f->plan.n, 3);
    assert_string_equal(f->plan.cases[0].id, "needle-2k_c32768_graph_tp1_bf16");
    assert_string_equal(f->plan.cases[1].id, "needle-2k_c131072_graph_tp1_bf16");
    assert_int_equal(f->plan.cases[0].session.chunk_tokens, 2048);
    assert_int_equal(f->plan.cases[1].session.chunk_tokens, 2048);
    assert_int_equal(f->plan.cases[0].max_num_batched_tokens, 32768);
    assert_int_equal(f->plan.cases[1].max_num_batched_tokens, 131072);
    assert_int_equal(f->plan.cases[1].chunks, 1);
    assert_int_equal(f->plan.cases[2].chunks, 3); /* 1000 + 1000 + 48 */
    bool noted = false;
    for (int i = 0; i < f->plan.n_notes; i++)
        noted |= strstr(f->plan.notes[i], "2 chunk sizes are larger than the prompt") != NULL;
    assert_true(noted);
    make_ok(f, SETS("engine.enable_chunked_prefill=false"));
    assert_string_equal(f->plan.cases[0].id, "needle-2k_c2048_graph_tp1_bf16");
    assert_int_equal(f->plan.cases[0].chunks, 1);
    plan_free(&f->plan);
}

static void ids_are_file_names_and_tell_prompts_apart(void **state) {
    struct fixture *f = *state;
    char a[200], b[200], set[1000], folder[150];
    snprintf(folder, sizeof folder, "%s/x y", f->folder);
    mkdir(folder, 0755);
    snprintf(a, sizeof a, "%s/x y/long prompt; with a very long name indeed, \xc3\xa9.txt",
             f->folder);
    for (char *c = a; *c; c++)
        if (*c == ',' || *c == ';') *c = '+';
    snprintf(b, sizeof b, "%s/p.txt", f->folder);
    write_file(a, "some text", 9);
    write_file(b, "other text", 10);
    snprintf(set, sizeof set, "prompt.source=file:%s, file:%s, needle:2k@10%%+50%%, needle:2k", a,
             b);
    make_ok(f, SETS(set));
    assert_int_equal(f->plan.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_true(strlen(f->plan.cases[i].id) < 90);
        for (const char *c = f->plan.cases[i].id; *c; c++)
            assert_true(isalnum((unsigned char)*c) || strchr("@._+-", *c));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(f->plan.cases[i].id, f->plan.cases[j].id);
    }
    assert_has(f->plan.cases[1].id, "file-p.txt-");
    assert_has(f->plan.cases[2].id, "needle-2k@10p+50p_c8192");
    plan_free(&f->plan);
}

/* ---- findings */

static void assert_finding(struct fixture *f, const char *const *sets, int n, enum status status,
                           const char *where, const char *text) {
    assert_int_equal(make(f, sets, n), status);
    assert_true(f->errors.n >= 1);
    assert_has(f->errors.e[0].text, where);
    assert_has(f->errors.e[0].text, text);
    assert_int_equal(f->plan.n, 0);
}

static void what_needs_the_model_is_found_before_anything_runs(void **state) {
    struct fixture *f = *state;
    char set[300], line[300];
    assert_finding(f, SETS("model.path=nedle"), STATUS_USAGE, "--set model.path=", "nedle");
    assert_finding(f, SETS("engine.tensor_parallel_size=1,3"), STATUS_USAGE,
                   "--set engine.tensor_parallel_size=", "3");
    assert_finding(f, SETS("engine.attention_backend=nothing"), STATUS_USAGE,
                   "--set engine.attention_backend=", "found \"nothing\", expected one of auto, ");
    assert_finding(f, SETS("engine.linear_backend=nothing"), STATUS_USAGE,
                   "--set engine.linear_backend=", "expected one of auto, ");
    assert_finding(f, SETS("prompt.source=needle:0"), STATUS_USAGE, "--set prompt.source=", "0");
    assert_finding(f, SETS("prompt.source=needle:10"), STATUS_USAGE, "--set prompt.source=", "10");
    assert_finding(f, SETS("prompt.source=file:/no/such"), STATUS_IO,
                   "--set prompt.source=", "/no/such");
    snprintf(set, sizeof set, "prompt.source=file:%s", f->file);
    write_file(f->file, "", 0);
    assert_finding(f, SETS(set), STATUS_USAGE, "--set prompt.source=", f->file);
    write_file(f->file, "ok \xff", 4);
    assert_finding(f, SETS(set), STATUS_USAGE, "--set prompt.source=", "UTF-8");

    /* all at once, with the line of the file */
    write_file(f->ini,
               "[model]\npath = needle\n[engine]\ndevice = cpu\ntensor_parallel_size = 3\n"
               "linear_backend = x\n\n[prompt]\nsource = needle:1, file:/no/such\n",
               strlen("[model]\npath = needle\n[engine]\ndevice = cpu\ntensor_parallel_size = 3\n"
                      "linear_backend = x\n\n[prompt]\nsource = needle:1, file:/no/such\n"));
    memset(&f->errors, 0, sizeof f->errors);
    assert_int_equal(config_load(&f->config, f->ini, NULL, 0, &f->errors), STATUS_OK);
    assert_int_equal(plan_make(&f->plan, &f->config, &f->errors), STATUS_USAGE);
    assert_int_equal(f->errors.n, 4);
    static const int lines[] = {5, 6, 9, 9};
    for (int i = 0; i < 4; i++) {
        snprintf(line, sizeof line, "%s:%d: ", f->ini, lines[i]);
        assert_has(f->errors.e[i].text, line);
    }
}

/* Findings of both kinds, of a file and overrides: their number, and what each one begins with. */
static void assert_all_found(struct fixture *f, const char *text, const char *const *sets,
                             int n_sets, const char *const *where, int n) {
    char begin[300];
    write_file(f->ini, text, strlen(text));
    memset(&f->errors, 0, sizeof f->errors);
    assert_int_equal(config_load(&f->config, f->ini, sets, n_sets, &f->errors), STATUS_USAGE);
    plan_check(&f->config, &f->errors);
    for (int i = 0; i < n && i < f->errors.n; i++) {
        const bool line = *where[i] == ':';
        snprintf(begin, sizeof begin, "%s%s", line ? f->ini : "", where[i]);
        if (strncmp(f->errors.e[i].text, begin, strlen(begin)) != 0)
            fail_msg("expected \"%s\" at \"%s\"", begin, f->errors.e[i].text);
    }
    if (f->errors.n != n)
        fail_msg("%d findings, expected %d; last \"%s\"", f->errors.n, n,
                 f->errors.e[f->errors.n - 1].text);
}

static void good_values_are_judged_beside_refused_ones(void **state) {
    struct fixture *f = *state;
    assert_all_found(f,
                     "[model]\npath = needel\nseed = x\n[engine]\nthread = 1\n"
                     "linear_backend = none\ndevice = cpu\n[prompt]\n"
                     "source = needle:1, file:/no/such\n[run]\nrepeats = -1\n",
                     SETS("run.spans=2", "engine.attention_backend=nothing"),
                     (const char *const[]){
                         ":2: model \"needel\"", ":3: ", ":5: ", ":6: ", ":9: ", ":9: ", ":11: ",
                         "--set run.spans=2: ", "--set engine.attention_backend=nothing: "},
                     9);
    assert_all_found(f,
                     "[model]\npath = needle\n[run]\nrepeats = x\n[engine]\n"
                     "tensor_parallel_size = 2, 3\n[prompt]\nsource = needle:2m\n",
                     NULL, 0, (const char *const[]){":4: ", ":6: ", ":8: "}, 3);
    assert_all_found(f, "[run]\nrepeats = x\n[model]\npath = random:nano\nmax_model_len = 4m\n",
                     NULL, 0, (const char *const[]){":2: ", ":5: "}, 2);
}

static void what_depends_on_a_refused_value_is_not_judged(void **state) {
    struct fixture *f = *state;
    static const char *const files[] = {
        "[model]\npaht = random:x\n[engine]\ntensor_parallel_size = 3\n",
        "[model]\npath\n[engine]\ntensor_parallel_size = 3\n",
        "[model]\npath = needle\n[engine]\ntensor_parallel_size = three\n",
        "[model]\npath = needle\nmax_model_len = x\n[prompt]\nsource = random:100m\n",
        "[model]\npath = random:nano\nallow_long_max_model_len = yes\nmax_model_len = 4m\n",
        "[sampling]\nmax_tokens = x\n[model]\nmax_model_len = 1k\n[prompt]\nsource = needle:1k\n",
        "[engine]\ndevice = gpu\nattention_backend = flash\n",
        "[engine]\nisa = sse\nattention_backend = auto\n",
        "[prompt]\nsources = file:/no/such\n",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        write_file(f->ini, files[i], strlen(files[i]));
        memset(&f->errors, 0, sizeof f->errors);
        assert_int_equal(config_load(&f->config, f->ini, NULL, 0, &f->errors), STATUS_USAGE);
        plan_check(&f->config, &f->errors);
        if (f->errors.n != 1)
            fail_msg("%s: %d findings, last %s", files[i], f->errors.n,
                     f->errors.e[f->errors.n - 1].text);
    }
}

/* Whether some kernel that needs this instruction set can run here. */
static bool has_isa(const char *isa) {
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++)
        if (!strcmp(v.needs, isa) && v.usable) return true;
    return false;
}

static void an_isa_that_is_not_here_is_named_with_what_is(void **state) {
    struct fixture *f = *state;
    if (has_isa("amx_bf16")) {
        print_message("this machine has amx_bf16\n");
        skip();
    }
    const char *const isa[] = {"engine.isa=amx_bf16"};
    assert_finding(f, isa, 1, STATUS_UNSUPPORTED,
                   "--set engine.isa=amx_bf16: ", "this machine has ");
    assert_int_equal(f->errors.n, 1);
    const char *const both[] = {"engine.isa=amx_bf16", "run.repeats=x"};
    assert_all_found(f, base, both, 2,
                     (const char *const[]){"--set engine.isa=amx_bf16: ", "--set run.repeats=x: "},
                     2);
    assert_all_found(f, "[engine]\nisa = amx_bf16\ndevice = cpu\nthreads = x\n", NULL, 0,
                     (const char *const[]){":2: isa = amx_bf16: this machine has ", ":4: "}, 2);
}

/* One of the findings, at its option. */
static void assert_among(struct fixture *f, const char *const *sets, int n, const char *where,
                         const char *text) {
    int i = 0;
    assert_int_equal(make(f, sets, n), STATUS_USAGE);
    while (i < f->errors.n && !strstr(f->errors.e[i].text, where)) i++;
    if (i == f->errors.n) fail_msg("nothing was found at %s", where);
    assert_has(f->errors.e[i].text, text);
}

/* Whether or not it could run here: nothing is opened to find it. On the CPU, where there is no
 * such kernel, that is found too. */
static void what_a_librarys_attention_lacks_is_named_at_that_option(void **state) {
    struct fixture *f = *state;
    struct variant_info v = {.name = NULL};
    const char *sets[] = {"engine.attention_backend=cudnn", "engine.enforce_eager=true",
                          "engine.dual_chunk_attention=false"};
    int i = 0;
    while (variant_info(i, &v) && strcmp(v.name, "cudnn") != 0) i++;
    if (!variant_info(i, &v)) {
        print_message("skipped: built without CUDA\n");
        skip();
    }
    assert_among(f, sets, 3, "--set engine.attention_backend=cudnn: ", "expected one of auto");
#ifdef HAVE_CUDA
    assert_among(f, sets, 3, "--set engine.attention_backend=cudnn: ",
                 "found cudnn, a kernel for cuda, while the device is cpu");
#endif
    assert_int_equal(f->errors.n, 1);
    sets[1] = "engine.enforce_eager=true,false";
    assert_among(f, sets, 3, "--set engine.enforce_eager=",
                 "expected true: attention_backend = cudnn runs op by op alone");
    assert_int_equal(f->errors.n, 2);
    sets[1] = "engine.enforce_eager=true", sets[2] = "engine.dual_chunk_attention=true";
    assert_among(f, sets, 3, "--set engine.dual_chunk_attention=true: ",
                 "expected false: attention_backend = cudnn is plain causal alone");
    assert_int_equal(f->errors.n, 2);
}

static void a_kernel_above_the_isa_is_named_at_its_own_key(void **state) {
    struct fixture *f = *state;
    if (!has_isa("avx2")) {
        print_message("this machine has no avx2\n");
        skip();
    }
    const char *const attention[] = {"engine.isa=none", "engine.attention_backend=avx2"};
    assert_finding(f, attention, 2, STATUS_UNSUPPORTED,
                   "--set engine.attention_backend=avx2: ", "above the isa");
    assert_int_equal(f->errors.n, 1);
    const char *const linear[] = {"engine.isa=none", "engine.linear_backend=avx2"};
    assert_finding(f, linear, 2, STATUS_UNSUPPORTED,
                   "--set engine.linear_backend=avx2: ", "above the isa");
    assert_int_equal(f->errors.n, 1);
}

static void lengths_above_the_models_need_one_of_three_switches(void **state) {
    struct fixture *f = *state;
    const char *const too_long[] = {"model.path=random:qwen2.5-7b-1m", "model.max_model_len=1m",
                                    "run.coverage=sample:3", "prompt.source=random:1k",
                                    "model.allow_long_max_model_len=true"};
    static const char *const switches[] = {"allow_long_max_model_len = true",
                                           "BENCH_ALLOW_LONG_MAX_MODEL_LEN=1",
                                           "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"};
    for (int i = 0; i < 3; i++)
        assert_finding(f, too_long, 4, STATUS_USAGE, "--set model.max_model_len=", switches[i]);
    assert_has(f->errors.e[0].text, "found max_model_len = 1,048,576, expected at most 1,010,000");
    const char *const by_prompt[] = {"model.path=random:qwen2.5-7b-1m", "prompt.source=random:1m"};
    for (int i = 0; i < 3; i++)
        assert_finding(f, by_prompt, 2, STATUS_USAGE, "--set prompt.source=", switches[i]);

    make_ok(f, too_long, 5);
    setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1", 1);
    make_ok(f, too_long, 4);
    unsetenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
    setenv("BENCH_ALLOW_LONG_MAX_MODEL_LEN", "0", 1);
    assert_finding(f, too_long, 4, STATUS_USAGE, "max_model_len", "opt-in");
    setenv("BENCH_ALLOW_LONG_MAX_MODEL_LEN", "1", 1);
    make_ok(f, too_long, 4);
    unsetenv("BENCH_ALLOW_LONG_MAX_MODEL_LEN");
    plan_free(&f->plan);
}

static void a_prompt_of_the_whole_length_leaves_room_and_says_so(void **state) {
    struct fixture *f = *state;
    make_ok(f,
            SETS("model.max_model_len=4k", "prompt.source=needle:4k", "sampling.max_tokens=256"));
    assert_int_equal(f->plan.cases[0].session.prompt_tokens, 3840);
    bool noted = false;
    for (int i = 0; i < f->plan.n_notes; i++)
        noted |= strstr(f->plan.notes[i], "needle:4k means 3,840 prompt tokens") != NULL;
    assert_true(noted);
    assert_finding(f, SETS("model.max_model_len=4k", "prompt.source=needle:5k"), STATUS_USAGE,
                   "--set prompt.source=", "5");
    plan_free(&f->plan);
}

/* ---- the decisions as a file, and the cache of rates */

static void a_worker_reads_back_what_was_decided(void **state) {
    struct fixture *f = *state;
    const char *const sets[] = {"engine.max_num_batched_tokens=128,2k",
                                "prompt.source=needle:2k,needle:64k",
                                "engine.enforce_eager=true,false", "run.coverage=sample:3",
                                "engine.attention_backend=auto"};
    struct error err = {""};
    make_ok(f, sets, 5);
    assert_int_equal(plan_write(&f->plan, f->file, &err), STATUS_OK);
    /* the worker's configuration is the effective text */
    char *text = config_to_text(&f->config);
    write_file(f->ini, text, strlen(text));
    free(text);
    assert_int_equal(config_load(&f->config, f->ini, NULL, 0, &f->errors), STATUS_OK);
    if (plan_read(&f->other, &f->config, f->file, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_int_equal(f->other.n, f->plan.n);
    assert_int_equal(f->other.launches, f->plan.launches);
    assert_memory_equal(&f->other.rates, &f->plan.rates, sizeof f->plan.rates);
    assert_int_equal(f->other.device, f->plan.device);
    assert_string_equal(f->other.device_info.variant[OP_ATTENTION],
                        f->plan.device_info.variant[OP_ATTENTION]);
    for (int i = 0; i < f->plan.n; i++) {
        const struct case_plan *a = &f->plan.cases[i], *b = &f->other.cases[i];
        assert_string_equal(a->id, b->id);
        assert_string_equal(a->reason, b->reason);
        assert_int_equal(a->coverage, b->coverage);
        assert_int_equal(a->sampled, b->sampled);
        assert_int_equal(a->session.prompt_tokens, b->session.prompt_tokens);
        assert_memory_equal(&a->memory, &b->memory, sizeof a->memory);
        assert_true(a->predicted_total_s == b->predicted_total_s);
    }
    plan_free(&f->other);

    const char *const changed[] = {"run.repeats=2"};
    load(f, changed, 1);
    assert_int_equal(plan_read(&f->other, &f->config, f->file, &err), STATUS_USAGE);
    assert_has(err.text, "another configuration");
    load(f, sets, 5);
    assert_int_equal(plan_read(&f->other, &f->config, "/no/such", &err), STATUS_IO);
    plan_free(&f->plan);
}

static void every_case_is_predicted_with_the_rates_of_its_own_kernels(void **state) {
    struct fixture *f = *state;
    struct error err = {""};
    make_ok(f, SETS("engine.attention_backend=ref"));
    const struct device_rates ref = f->plan.cases[0].rates;
    const double ref_s = f->plan.cases[0].predicted_prefill_s;
    make_ok(f, SETS("engine.attention_backend=auto,ref", "engine.tensor_parallel_size=1,2"));
    const struct case_plan *c = f->plan.cases; /* TP 1: auto, ref; TP 2: auto, ref */
    assert_int_equal(f->plan.n, 4);
    assert_memory_equal(&c[0].rates, &f->plan.rates, sizeof ref);
    assert_memory_equal(&c[1].rates, &ref, sizeof ref); /* kept from the plan before */
    assert_memory_equal(&c[2].rates, &c[0].rates, sizeof ref);
    assert_memory_equal(&c[3].rates, &c[1].rates, sizeof ref);
    assert_true(c[0].rates.attention_flops != c[1].rates.attention_flops);
    assert_true(c[1].predicted_prefill_s == ref_s);
    assert_int_equal(plan_write(&f->plan, f->file, &err), STATUS_OK);
    if (plan_read(&f->other, &f->config, f->file, &err) != STATUS_OK) fail_msg("%s", err.text);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(&f->other.cases[i].rates, &c[i].rates, sizeof ref);
    plan_free(&f->other);
}

static void damaged_plans_are_errors_and_never_crash(void **state) {
    struct fixture *f = *state;
    struct error err = {""};
    make_ok(f, SETS("engine.enforce_eager=true,false"));
    char *text = plan_to_json(&f->plan);
    const size_t n = strlen(text);
    char *damaged = malloc(n + 1);
    uint64_t seed = 3;
    for (int round = 0; round < 1500; round++) {
        memcpy(damaged, text, n + 1);
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        damaged[(seed >> 20) % n] = "0{}[]\",:-9x\0"[seed >> 50 & 7];
        write_file(f->file, damaged, round % 3 ? n : (seed >> 30) % n);
        const enum status s = plan_read(&f->other, &f->config, f->file, &err);
        if (s == STATUS_OK) {
            assert_int_equal(f->other.n, 2);
            plan_free(&f->other);
        }
    }
    static const char *const wrong[][2] = {{"\"full\"", "\"fool\""},
                                           {"\"sampled_chunks\": 0", "\"sampled_chunks\": 9"},
                                           {"_eager_", "_eagle_"},
                                           {"\"tokens\": 2048", "\"tokens\": -048"},
                                           {"\"text_sha256\"", "\"text_sha265\""},
                                           {"\"schema_version\": 1", "\"schema_version\": 2"},
                                           {"\"full\"", "\"sampled\""}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *at = strstr(text, wrong[i][0]);
        char *changed = malloc(n + 10);
        snprintf(changed, n + 10, "%.*s%s%s", (int)(at - text), text, wrong[i][1],
                 at + strlen(wrong[i][0]));
        write_file(f->file, changed, strlen(changed));
        assert_int_equal(plan_read(&f->other, &f->config, f->file, &err), STATUS_IO);
        free(changed);
    }
    free(damaged);
    free(text);
    plan_free(&f->plan);
}

/* Path of the only rates file. */
static void cache_path(const struct fixture *f, char *out, size_t size) {
    char folder[128];
    snprintf(folder, sizeof folder, "%s/chunkbench", f->folder);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        if (!strncmp(e->d_name, "rates-", 6))
            n++, snprintf(out, size, "%s/%.60s", folder, e->d_name);
    closedir(dir);
    assert_int_equal(n, 1);
}

static void rates_are_kept_and_measured_again_when_damaged(void **state) {
    struct fixture *f = *state;
    char path[256], command[300];
    snprintf(command, sizeof command, "rm -rf %s/chunkbench", f->folder);
    assert_int_equal(system(command), 0);
    make_ok(f, NULL, 0);
    assert_true(f->plan.rates_measured);
    const struct device_rates first = f->plan.rates;
    make_ok(f, NULL, 0);
    assert_false(f->plan.rates_measured);
    assert_memory_equal(&first, &f->plan.rates, sizeof first);
    assert_non_null(f->plan.device_info.variant[OP_LINEAR]);

    load(f, NULL, 0); /* on demand, and kept again */
    plan_free(&f->plan);
    assert_int_equal(plan_make_anew(&f->plan, &f->config, &f->errors), STATUS_OK);
    assert_true(f->plan.rates_measured);
    make_ok(f, NULL, 0);
    assert_false(f->plan.rates_measured);
    assert_memory_not_equal(&first, &f->plan.rates, sizeof first);

    cache_path(f, path, sizeof path);
    write_file(path, "{\"linear_flops\": ", 17);
    make_ok(f, NULL, 0);
    assert_true(f->plan.rates_measured);
    make_ok(f, NULL, 0);
    assert_false(f->plan.rates_measured);

    /* nowhere to keep them: measured, and said */
    setenv("XDG_CACHE_HOME", "/proc/none", 1);
    make_ok(f, NULL, 0);
    assert_true(f->plan.rates_measured);
    bool noted = false;
    for (int i = 0; i < f->plan.n_notes; i++) noted |= strstr(f->plan.notes[i], "not kept") != NULL;
    assert_true(noted);
    setenv("XDG_CACHE_HOME", f->folder, 1);
    plan_free(&f->plan);
}

/* ---- the configurations of the repository */

static void every_shipped_configuration_loads_and_opens_with_its_question(void **state) {
    struct fixture *f = *state;
    const char *folder = SOURCE_DIR "/configs";
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[600], first[200] = "";
        const size_t length = strlen(e->d_name);
        if (length < 5 || strcmp(e->d_name + length - 4, ".ini") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        memset(&f->errors, 0, sizeof f->errors);
        if (config_load(&f->config, path, NULL, 0, &f->errors) != STATUS_OK)
            fail_msg("%s", f->errors.e[0].text);
        FILE *file = fopen(path, "r");
        assert_non_null(fgets(first, sizeof first, file));
        fclose(file);
        assert_true(first[0] == '#' && strchr(first, '?'));
        n++;
    }
    closedir(dir);
    assert_true(n >= 4);
}

static void rates_of_a_gpu_are_kept_by_gpu_driver_and_power_cap(void **state) {
    (void)state;
    static char keys[5][RATES_KEY_BYTES];
    static struct gpu_list gpus;
    const struct model_config model = {.D = 128};
    struct engine_opts engine = engine_opts_defaults();
    engine.device = DEVICE_CUDA;
    gpus.n = 1, gpus.visible[0] = true;
    gpus.gpu[0] = (struct nvml_gpu){.name = "NVIDIA H200", .power_limit_w = 700};
    strcpy(gpus.driver.version, "580.1");
    rates_key(&engine, &model, &gpus, keys[0]);
    assert_has(keys[0], "gpu NVIDIA H200 driver 580.1 power cap 700 W");
    assert_null(strstr(keys[0], "flags"));
    gpus.gpu[0].power_limit_w = 500;
    rates_key(&engine, &model, &gpus, keys[1]);
    strcpy(gpus.driver.version, "580.2");
    rates_key(&engine, &model, &gpus, keys[2]);
    strcpy(gpus.gpu[0].name, "NVIDIA H100");
    rates_key(&engine, &model, &gpus, keys[3]);
    engine.device = DEVICE_CPU;
    rates_key(&engine, &model, &gpus, keys[4]);
    for (int i = 1; i < 5; i++) assert_string_not_equal(keys[i - 1], keys[i]);
    assert_null(strstr(keys[4], "NVIDIA"));
    assert_has(keys[4], "cores ");
}

static void the_bus_id_of_a_gpu_goes_with_its_rates(void **state) {
    (void)state;
    const struct device_rates rates = {1, 2, 3, 4, 5};
    const struct device_info info = {.name = "NVIDIA H200", .isa = "sm_90a", .bus_id = "0:7:0.0"};
    struct device_rates rates_back;
    struct device_info back;
    char names[OPS][NAME_LENGTH];
    struct jsondoc *d = jsondoc_object();
    rates_put(d, &rates, &info);
    assert_true(rates_take(d, &rates_back, &back, names));
    assert_string_equal(back.bus_id, "0:7:0.0");
    jsondoc_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_are_the_cross_product_in_the_documented_order),
        cmocka_unit_test(dual_chunk_attention_is_used_where_the_model_has_it),
        cmocka_unit_test(chunk_sizes_that_clamp_to_the_same_stay_distinct_cases),
        cmocka_unit_test(ids_are_file_names_and_tell_prompts_apart),
        cmocka_unit_test(what_needs_the_model_is_found_before_anything_runs),
        cmocka_unit_test(good_values_are_judged_beside_refused_ones),
        cmocka_unit_test(what_depends_on_a_refused_value_is_not_judged),
        cmocka_unit_test(an_isa_that_is_not_here_is_named_with_what_is),
        cmocka_unit_test(what_a_librarys_attention_lacks_is_named_at_that_option),
        cmocka_unit_test(a_kernel_above_the_isa_is_named_at_its_own_key),
        cmocka_unit_test(lengths_above_the_models_need_one_of_three_switches),
        cmocka_unit_test(a_prompt_of_the_whole_length_leaves_room_and_says_so),
        cmocka_unit_test(rates_of_a_gpu_are_kept_by_gpu_driver_and_power_cap),
        cmocka_unit_test(the_bus_id_of_a_gpu_goes_with_its_rates),
        cmocka_unit_test(a_worker_reads_back_what_was_decided),
        cmocka_unit_test(every_case_is_predicted_with_the_rates_of_its_own_kernels),
        cmocka_unit_test(damaged_plans_are_errors_and_never_crash),
        cmocka_unit_test(rates_are_kept_and_measured_again_when_damaged),
        cmocka_unit_test(every_shipped_configuration_loads_and_opens_with_its_question),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
