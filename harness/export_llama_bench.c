/* llama-bench's JSON. Its names: n_batch and n_ubatch are our chunk size, n_depth is what the cache
 * holds before the measured part, *_ts are tokens a second. What it has no name for (mode, kernel)
 * stands in model_type, so that readers who join on these fields do not mix cases.
 * Before it: cmd_export.c. */
#include "harness/export.h"
#include "harness/jsondoc.h"
#include "harness/show.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What all entries share. */
struct source {
    const struct record_run *run;
    char model_path[PATH_MAX_BYTES], model_name[96], gpus[512];
    int64_t parameters;
};

/* Nanoseconds of a measurement, a sample per repeat. */
struct timing {
    int64_t tokens;
    int64_t *ns;
    int n;
};

/* ---- the model: from the configuration in the file ---- */

static void find_model(struct source *s, const char *device) {
    struct config *c = calloc(1, sizeof *c);
    struct config_errors *errors = calloc(1, sizeof *errors);
    struct model_config m;
    snprintf(s->model_path, sizeof s->model_path, "unknown");
    snprintf(s->model_name, sizeof s->model_name, "unknown");
    s->parameters = 0;
    if (c && errors &&
        config_load_text(c, s->run->facts.config_text, "configuration", errors) == STATUS_OK) {
        const bool gpu = strcmp(device, device_kind_name(DEVICE_CUDA)) == 0;
        snprintf(s->model_path, sizeof s->model_path, "%s",
                 plan_model_path(c, gpu ? DEVICE_CUDA : DEVICE_CPU));
        if (engine_model_config(s->model_path, &m, NULL) == STATUS_OK) {
            memcpy(s->model_name, m.name, sizeof s->model_name);
            s->parameters = engine_model_parameters(&m);
        }
    }
    free(errors);
    free(c);
}

static void find_gpus(struct source *s) {
    size_t used = 0;
    for (int i = 0; i < s->run->facts.n_gpus; i++) {
        const struct gpu_row *g = &s->run->facts.gpus[i];
        if (!g->used || used >= sizeof s->gpus) continue;
        used += (size_t)snprintf(s->gpus + used, sizeof s->gpus - used, "%s%s", used ? ", " : "",
                                 g->gpu.name);
    }
}

/* Bytes of all weights as they lie in memory. */
static int64_t weight_bytes(const struct case_result *r) {
    const struct memory_prediction *m = &r->predicted_memory;
    double bytes = (double)m->shared_bytes[MEMORY_WEIGHTS];
    for (int i = 0; i < MAX_RANKS; i++) bytes += (double)m->rank_bytes[i][MEMORY_WEIGHTS];
    return bytes > 0 && bytes < 9e18 ? (int64_t)bytes : 0;
}

/* ---- samples ---- */

/* Adds a row's time to its repeat; what cannot be one of `most` repeats spoils nothing. */
static void add_time(struct timing *t, int most, int32_t repeat, int64_t ns) {
    if (repeat < 0 || repeat >= most || ns < 0 || t->ns[repeat] > INT64_MAX - ns) return;
    t->ns[repeat] += ns;
    if (repeat >= t->n) t->n = repeat + 1;
}

static void time_prompt(const struct case_result *r, struct timing *t) {
    t->tokens = r->prompt_tokens;
    for (int64_t i = 0; i < r->n_chunks; i++)
        add_time(t, r->n_ttft, r->chunks[i].repeat, r->chunks[i].latency_ns);
}

/* Step 0 samples what the prompt left behind: the steps after it each cost a pass of the model. */
static void time_generation(const struct case_result *r, struct timing *t) {
    int32_t last = 0;
    for (int64_t i = 0; i < r->n_decode; i++) {
        if (r->decode[i].step <= 0) continue;
        add_time(t, r->n_ttft, r->decode[i].repeat, r->decode[i].latency_ns);
        if (r->decode[i].step > last) last = r->decode[i].step;
    }
    t->tokens = last;
}

static double mean(const double *v, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += v[i];
    return n > 0 ? sum / n : 0;
}

/* Of a sample: n - 1 in the divisor; one value has none. */
static double deviation(const double *v, int n) {
    const double middle = mean(v, n);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (v[i] - middle) * (v[i] - middle);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

/* ---- an entry ---- */

static void put_build_and_model(struct jsondoc *d, const struct source *s,
                                const struct case_result *r) {
    const struct run_facts *f = &s->run->facts;
    char commit[9], type[300];
    snprintf(commit, sizeof commit, "%.8s", f->git_commit);
    snprintf(type, sizeof type, "qwen2 %s %s, %s, attention %s", s->model_name, r->dtype,
             r->graph ? "graph" : "eager", show_is_known(r->attention) ? r->attention : "auto");
    jsondoc_put_text(d, "build_commit", commit);
    jsondoc_put_int(d, "build_number", 0);
    jsondoc_put_text(d, "cpu_info", f->cpu_model);
    jsondoc_put_text(d, "gpu_info", s->gpus);
    jsondoc_put_text(d, "backends", strcmp(r->device, "cuda") == 0 ? "CUDA" : "CPU");
    jsondoc_put_text(d, "model_filename", s->model_path);
    jsondoc_put_text(d, "model_type", type);
    jsondoc_put_int(d, "model_size", weight_bytes(r));
    jsondoc_put_int(d, "model_n_params", s->parameters);
}

static void put_settings(struct jsondoc *d, const struct source *s, const struct case_result *r) {
    const bool gpu = strcmp(r->device, "cuda") == 0;
    const char *type = strcmp(r->dtype, dtype_name(DTYPE_F32)) == 0 ? "f32" : "bf16";
    char split[8 * MAX_RANKS + 8] = "0.00";
    for (int i = 0; r->tp > 1 && i < r->tp && i < MAX_RANKS; i++)
        snprintf(split + strlen(split) * (i > 0), 8, "%s1.00", i ? "/" : "");
    jsondoc_put_int(d, "n_batch", r->max_num_batched_tokens);
    jsondoc_put_int(d, "n_ubatch", r->max_num_batched_tokens);
    jsondoc_put_int(d, "n_threads", s->run->facts.device.threads);
    jsondoc_put_text(d, "cpu_mask", "0x0");
    jsondoc_put_bool(d, "cpu_strict", false);
    jsondoc_put_int(d, "poll", 0);
    jsondoc_put_text(d, "type_k", type);
    jsondoc_put_text(d, "type_v", type);
    jsondoc_put_int(d, "n_gpu_layers", gpu ? -1 : 0);
    jsondoc_put_int(d, "n_cpu_moe", 0);
    jsondoc_put_text(d, "split_mode", r->tp > 1 ? "tensor" : "none");
    jsondoc_put_int(d, "main_gpu", 0);
    jsondoc_put_bool(d, "no_kv_offload", false);
    jsondoc_put_int(d, "flash_attn", 1);
    jsondoc_put_text(d, "devices", "auto");
    jsondoc_put_text(d, "tensor_split", split);
    jsondoc_put_text(d, "tensor_buft_overrides", "none");
    jsondoc_put_bool(d, "use_mmap", false);
    jsondoc_put_bool(d, "use_direct_io", false);
    jsondoc_put_bool(d, "embeddings", false);
    jsondoc_put_int(d, "no_op_offload", 0);
    jsondoc_put_bool(d, "no_host", false);
    jsondoc_put_int(d, "fit_target", 0);
    jsondoc_put_int(d, "fit_min_ctx", 0);
}

/* ts: scratch, a number per sample. */
static void put_times(struct jsondoc *d, const struct timing *t, double *ts) {
    for (int i = 0; i < t->n; i++) ts[i] = (double)t->ns[i];
    const double ns_mean = mean(ts, t->n), ns_deviation = deviation(ts, t->n);
    for (int i = 0; i < t->n; i++) ts[i] = 1e9 * (double)t->tokens / (double)t->ns[i];
    jsondoc_put_int(d, "avg_ns", llround(ns_mean));
    jsondoc_put_int(d, "stddev_ns", llround(ns_deviation));
    jsondoc_put_real(d, "avg_ts", mean(ts, t->n));
    jsondoc_put_real(d, "stddev_ts", deviation(ts, t->n));
    struct jsondoc *samples_ns = jsondoc_put_array(d, "samples_ns");
    for (int i = 0; i < t->n; i++) jsondoc_add_int(samples_ns, t->ns[i]);
    struct jsondoc *samples_ts = jsondoc_put_array(d, "samples_ts");
    for (int i = 0; i < t->n; i++) jsondoc_add_real(samples_ts, ts[i]);
}

static bool is_timed(const struct timing *t) {
    for (int i = 0; i < t->n; i++)
        if (t->ns[i] <= 0) return false;
    return t->n > 0 && t->tokens > 0;
}

/* Returns the number of entries: 0 where there is no time, or no memory. */
static int put_entry(struct jsondoc *array, const struct source *s, const struct case_result *r,
                     bool generation) {
    const size_t room = (size_t)r->n_ttft + 1; /* a case that is put has such repeats */
    struct timing t = {.ns = calloc(room, sizeof *t.ns)};
    double *scratch = calloc(room, sizeof *scratch);
    if (t.ns && scratch) (generation ? time_generation : time_prompt)(r, &t);
    const bool put = t.ns && scratch && is_timed(&t);
    if (put) {
        struct jsondoc *d = jsondoc_add_object(array);
        put_build_and_model(d, s, r);
        put_settings(d, s, r);
        jsondoc_put_int(d, "n_prompt", generation ? 0 : r->prompt_tokens);
        jsondoc_put_int(d, "n_gen", generation ? t.tokens : 0);
        jsondoc_put_int(d, "n_depth", generation ? r->prompt_tokens : 0);
        jsondoc_put_text(d, "test_time", s->run->facts.created_utc);
        put_times(d, &t, scratch);
    }
    free(scratch);
    free(t.ns);
    return put;
}

/* ---- all of them ---- */

/* NULL for a case whose numbers llama-bench could have measured itself. */
static const char *why_not(const struct case_result *r) {
    struct case_summary s;
    result_summary(r, &s);
    if (r->status != CASE_OK) return case_status_text(r->status);
    if (s.output == VERDICT_FAILED || s.invariance == VERDICT_FAILED) return "its output is wrong";
    if (r->coverage != COVER_FULL || r->ttft_estimated) return "its time is an estimate";
    if (r->n_ttft <= 0) return "it has no time";
    return NULL;
}

int export_llama_bench(FILE *out, FILE *notes, const struct record_run *run) {
    struct source s = {.run = run};
    struct jsondoc *array = jsondoc_array();
    int entries = 0;
    find_gpus(&s);
    if (run->n > 0) find_model(&s, run->cases[0].device);
    for (int i = 0; i < run->n; i++) {
        const struct case_result *r = &run->cases[i];
        const char *why = why_not(r);
        if (why) {
            show_text(notes, r->id, SIZE_MAX);
            fprintf(notes, " is left out: %s\n", why);
            continue;
        }
        entries += put_entry(array, &s, r, false);
        entries += put_entry(array, &s, r, true);
    }
    char *text = jsondoc_text(array);
    if (text) fprintf(out, "%s\n", text);
    free(text);
    jsondoc_close(array);
    return entries;
}
