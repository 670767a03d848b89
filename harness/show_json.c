/* A result as one JSON object, versioned: for scripts that do not want to read HDF5.
 * Times in ns, memory in bytes; null: not measured or not known. */
#include "harness/jsondoc.h"
#include "harness/show.h"

#include <math.h>
#include <stdlib.h>

static void put_known(struct jsondoc *d, const char *key, int64_t value, bool known) {
    if (known)
        jsondoc_put_int(d, key, value);
    else
        jsondoc_put_real(d, key, (double)NAN);
}

static void put_ttft(struct jsondoc *d, const struct case_result *r, const struct case_summary *s) {
    struct jsondoc *t = jsondoc_put_object(d, "ttft");
    bool known = r->n_ttft > 0;
    put_known(t, "median_ns", s->ttft_median_ns, known);
    put_known(t, "min_ns", s->ttft_min_ns, known);
    put_known(t, "max_ns", s->ttft_max_ns, known);
    jsondoc_put_bool(t, "estimated", r->ttft_estimated);
    jsondoc_put_real(t, "relative_error", r->ttft_estimated ? r->ttft_error : (double)NAN);
    struct jsondoc *samples = jsondoc_put_array(t, "samples_ns");
    for (int i = 0; i < r->n_ttft; i++) jsondoc_add_int(samples, r->ttft_ns[i]);
}

static void put_memory(struct jsondoc *d, const struct case_result *r,
                       const struct case_summary *s) {
    struct jsondoc *m = jsondoc_put_object(d, "memory");
    bool known = r->n_memory > 0;
    put_known(m, "peak_rank_bytes", s->peak_bytes_rank, known);
    put_known(m, "peak_device_bytes", s->peak_bytes_device, known);
    put_known(m, "peak_driver_bytes", s->peak_driver_bytes, known);
    put_known(m, "unaccounted_bytes", s->unaccounted_bytes, known);
    put_known(m, "step_allocations", r->step_allocations, known);
}

/* null on the CPU. */
static void put_clocks(struct jsondoc *d, const struct case_result *r,
                       const struct case_summary *s) {
    struct jsondoc *c = jsondoc_put_object(d, "clocks");
    char reasons[200];
    bool known = r->n_clocks > 0;
    jsondoc_put_real(c, "energy_j", s->energy_j);
    jsondoc_put_real(c, "energy_j_per_token", s->energy_j_per_token);
    jsondoc_put_real(c, "power_w", s->power_w);
    jsondoc_put_real(c, "power_mean_w", s->power_mean_w);
    jsondoc_put_real(c, "sm_clock_mean_mhz", s->sm_clock_mean_mhz);
    put_known(c, "sm_clock_min_mhz", s->sm_clock_min_mhz, s->sm_clock_min_mhz >= 0);
    put_known(c, "throttle_reasons", s->throttle_reasons, s->throttle_reasons >= 0);
    jsondoc_put_text(c, "throttle_reasons_text",
                     known ? nvml_reasons_text(s->throttle_reasons, reasons, sizeof reasons)
                           : NULL);
}

static void put_clock_rows(struct jsondoc *d, const struct case_result *r) {
    struct jsondoc *rows = jsondoc_put_array(d, "clock_rows");
    for (int64_t i = 0; i < r->n_clocks; i++) {
        const struct clock_row *c = &r->clocks[i];
        struct jsondoc *row = jsondoc_add_object(rows);
        jsondoc_put_int(row, "repeat", c->repeat);
        jsondoc_put_int(row, "chunk", c->chunk);
        jsondoc_put_int(row, "device", c->device);
        put_known(row, "energy_mj", c->energy_mj, c->energy_mj >= 0);
        jsondoc_put_real(row, "power_mean_w", c->power_mean_w);
        jsondoc_put_real(row, "sm_clock_mean_mhz", c->sm_clock_mean_mhz);
        put_known(row, "sm_clock_min_mhz", c->sm_clock_min_mhz, c->sm_clock_min_mhz >= 0);
        put_known(row, "memory_clock_mhz", c->memory_clock_mhz, c->memory_clock_mhz >= 0);
        put_known(row, "temperature_c", c->temperature_c, c->temperature_c >= 0);
        put_known(row, "throttle_reasons", c->throttle_reasons_seen, c->throttle_reasons_seen >= 0);
    }
}

static void put_predicted(struct jsondoc *d, const struct case_result *r,
                          const struct case_summary *s) {
    struct jsondoc *p = jsondoc_put_object(d, "predicted");
    jsondoc_put_real(p, "prefill_s", r->predicted_prefill_s);
    jsondoc_put_int(p, "memory_bytes", r->predicted_memory.total_bytes);
    jsondoc_put_real(p, "time_ratio", show_time_ratio(r, s));
    jsondoc_put_real(p, "memory_ratio", show_memory_ratio(r, s));
}

static void put_checks(struct jsondoc *d, const struct case_result *r) {
    struct jsondoc *checks = jsondoc_put_object(d, "checks");
    for (int i = 0; i < CHECKS; i++) {
        struct jsondoc *c = jsondoc_put_object(checks, check_name((enum check)i));
        jsondoc_put_text(c, "verdict", verdict_text(r->check[i].verdict));
        jsondoc_put_real(c, "worst", r->check[i].worst);
        jsondoc_put_real(c, "limit", r->check[i].limit);
        jsondoc_put_text(c, "detail", r->check[i].detail);
    }
}

static void put_ceilings(struct jsondoc *d, const struct device_rates *rates) {
    struct jsondoc *c = jsondoc_put_object(d, "ceilings");
    jsondoc_put_real(c, "linear_flops", rates->linear_flops);
    jsondoc_put_real(c, "attention_flops", rates->attention_flops);
    jsondoc_put_real(c, "copy_bytes_per_s", rates->copy_bytes);
    jsondoc_put_real(c, "roof_flops", rates->roof_flops);
}

static void put_case(struct jsondoc *d, const struct record_run *run, const struct case_result *r) {
    static const char *const coverage[] = {"full", "sampled", "skipped"};
    struct case_summary s;
    result_summary(r, &s);
    jsondoc_put_text(d, "id", r->id);
    jsondoc_put_text(d, "status", case_status_text(r->status));
    jsondoc_put_text(d, "reason", r->reason);
    put_known(d, "exit_signal", r->exit_signal, r->exit_signal != 0);
    jsondoc_put_text(d, "prompt", r->prompt);
    jsondoc_put_text(d, "prompt_sha256", r->prompt_sha256[0] ? r->prompt_sha256 : NULL);
    jsondoc_put_text(d, "prompt_url", r->prompt_url[0] ? r->prompt_url : NULL);
    jsondoc_put_text(d, "prompt_file_sha256",
                     r->prompt_file_sha256[0] ? r->prompt_file_sha256 : NULL);
    jsondoc_put_int(d, "prompt_tokens", r->prompt_tokens);
    jsondoc_put_int(d, "chunk_tokens", r->chunk_tokens);
    jsondoc_put_int(d, "max_num_batched_tokens", r->max_num_batched_tokens);
    jsondoc_put_text(d, "mode", r->graph ? "graph" : "eager");
    jsondoc_put_int(d, "tp", r->tp);
    jsondoc_put_text(d, "device", r->device);
    jsondoc_put_int(d, "devices", r->devices);
    jsondoc_put_text(d, "exchange", r->exchange[0] ? r->exchange : NULL);
    jsondoc_put_bool(d, "exchange_overlap", r->exchange_overlap);
    jsondoc_put_text(d, "dtype", r->dtype);
    jsondoc_put_text(d, "attention", show_is_known(r->attention) ? r->attention : NULL);
    jsondoc_put_text(d, "attention_note", r->attention_note[0] ? r->attention_note : NULL);
    jsondoc_put_text(d, "linear", show_is_known(r->linear) ? r->linear : NULL);
    jsondoc_put_int(d, "repeats", r->repeats);
    jsondoc_put_text(d, "coverage", coverage[r->coverage]);
    put_ttft(d, r, &s);
    jsondoc_put_real(d, "prefill_tok_s", s.prefill_tok_s);
    jsondoc_put_real(d, "decode_tok_s", s.decode_tok_s);
    put_memory(d, r, &s);
    put_clocks(d, r, &s);
    put_predicted(d, r, &s);
    put_ceilings(d, record_rates(run, r));
    jsondoc_put_text(d, "output_check",
                     s.output == VERDICT_SPOT_OK ? "spot" : verdict_text(s.output));
    jsondoc_put_text(d, "invariance_check", verdict_text(s.invariance));
    put_checks(d, r);
}

static void put_rows(struct jsondoc *d, const struct case_result *r) {
    struct jsondoc *chunks = jsondoc_put_array(d, "chunks");
    for (int64_t i = 0; i < r->n_chunks; i++) {
        const struct chunk_row *c = &r->chunks[i];
        struct jsondoc *row = jsondoc_add_object(chunks);
        jsondoc_put_int(row, "repeat", c->repeat);
        jsondoc_put_int(row, "chunk", c->chunk);
        jsondoc_put_int(row, "start_token", c->start_token);
        jsondoc_put_int(row, "n_tokens", c->n_tokens);
        jsondoc_put_int(row, "latency_ns", c->latency_ns);
        jsondoc_put_int(row, "flops", c->flops);
        jsondoc_put_bool(row, "replayed", c->replayed);
    }
    put_clock_rows(d, r);
    struct jsondoc *decode = jsondoc_put_array(d, "decode");
    for (int64_t i = 0; i < r->n_decode; i++) {
        struct jsondoc *row = jsondoc_add_object(decode);
        jsondoc_put_int(row, "repeat", r->decode[i].repeat);
        jsondoc_put_int(row, "step", r->decode[i].step);
        jsondoc_put_int(row, "token_id", r->decode[i].token_id);
        jsondoc_put_int(row, "latency_ns", r->decode[i].latency_ns);
        jsondoc_put_real(row, "logprob", (double)r->decode[i].logprob);
    }
    struct jsondoc *output = jsondoc_put_object(d, "output");
    jsondoc_put_text(output, "text", r->output_text);
    struct jsondoc *ids = jsondoc_put_array(output, "token_ids");
    for (int i = 0; i < r->n_output; i++) jsondoc_add_int(ids, r->output[i]);
    struct jsondoc *expected = jsondoc_put_array(output, "expected_ids");
    for (int i = 0; i < r->n_expected; i++) jsondoc_add_int(expected, r->expected[i]);
    jsondoc_put_text(d, "stderr_tail", r->stderr_tail);
}

static void put_gpus(struct jsondoc *d, const struct run_facts *f) {
    struct jsondoc *gpus = jsondoc_put_array(d, "gpus");
    for (int i = 0; i < f->n_gpus; i++) {
        const struct gpu_row *row = &f->gpus[i];
        struct jsondoc *g = jsondoc_add_object(gpus);
        jsondoc_put_text(g, "name", row->gpu.name);
        jsondoc_put_text(g, "uuid", row->gpu.uuid);
        jsondoc_put_text(g, "pci_bus_id", row->gpu.bus_id);
        jsondoc_put_bool(g, "used", row->used);
        jsondoc_put_text(g, "driver", row->driver);
        put_known(g, "cuda_version", row->cuda_version, row->cuda_version >= 0);
        put_known(g, "memory_bytes", row->gpu.memory_bytes, row->gpu.memory_bytes >= 0);
        jsondoc_put_real(g, "power_limit_w", row->gpu.power_limit_w);
        put_known(g, "sm_clock_max_mhz", row->gpu.sm_clock_max_mhz, row->gpu.sm_clock_max_mhz >= 0);
        put_known(g, "nvlinks", row->gpu.nvlinks, row->gpu.nvlinks >= 0);
    }
}

static void put_run(struct jsondoc *d, const struct run_facts *f) {
    jsondoc_put_text(d, "argv", f->argv);
    jsondoc_put_text(d, "created_utc", f->created_utc);
    jsondoc_put_text(d, "tool_version", f->tool_version);
    jsondoc_put_text(d, "git_commit", f->git_commit);
    jsondoc_put_bool(d, "git_dirty", f->git_dirty);
    jsondoc_put_text(d, "binary_sha256", f->binary_sha256);
    jsondoc_put_text(d, "config_sha256", f->config_sha256);
    jsondoc_put_text(d, "libraries", f->libraries);
    jsondoc_put_text(d, "host", f->hostname);
    jsondoc_put_text(d, "cpu_model", f->cpu_model);
    jsondoc_put_text(d, "cpu_isa", f->isa);
    jsondoc_put_int(d, "cores", f->cores);
    jsondoc_put_int(d, "numa_nodes", f->numa_nodes);
    jsondoc_put_int(d, "memory_bytes", f->memory_bytes);
    jsondoc_put_text(d, "kernel", f->kernel);
    jsondoc_put_text(d, "governor", f->governor);
    put_gpus(d, f);
    put_ceilings(d, &f->rates);
}

static struct jsondoc *begin(const struct record_run *run, const char *path) {
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "schema", "chunkbench-show");
    jsondoc_put_int(d, "schema_version", SHOW_SCHEMA_VERSION);
    jsondoc_put_text(d, "file", path);
    jsondoc_put_bool(d, "complete", run->complete);
    put_run(jsondoc_put_object(d, "run"), &run->facts);
    return d;
}

static void end(FILE *out, struct jsondoc *d) {
    char *text = jsondoc_text(d);
    if (text) fprintf(out, "%s\n", text);
    free(text);
    jsondoc_close(d);
}

void show_json(FILE *out, const struct record_run *run, const char *path) {
    struct jsondoc *d = begin(run, path), *cases = jsondoc_put_array(d, "cases");
    for (int i = 0; i < run->n; i++) put_case(jsondoc_add_object(cases), run, &run->cases[i]);
    end(out, d);
}

void show_case_json(FILE *out, const struct record_run *run, const struct case_result *r,
                    const char *path) {
    struct jsondoc *d = begin(run, path);
    struct jsondoc *c = jsondoc_add_object(jsondoc_put_array(d, "cases"));
    put_case(c, run, r);
    put_rows(c, r);
    end(out, d);
}
