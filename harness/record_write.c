/* Writes result files: a fragment per case, the merge of all, the verdicts that are known last.
 * Before it: worker.c and launch.c (fragments), cmd_run.c (merge). After it: record_read.c, h5py.
 */
#include "harness/record_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define WRITE_TABLE(h, at, name, columns, rows, n)                                                 \
    h5_write_table(h, at, name, columns, COLUMNS(columns), rows, sizeof *(rows), n)

void record_library(char *out, size_t size) {
    char version[32];
    h5_version(version, sizeof version);
    snprintf(out, size, "HDF5 %s", version);
}

/* ---- writing: a case ---- */

static void case_row_fill(struct case_row *row, const struct case_result *r) {
    struct case_summary s;
    result_summary(r, &s);
    memset(row, 0, sizeof *row);
#define COPY(field) record_copy_text(row->field, sizeof row->field, r->field)
    COPY(id), COPY(prompt), COPY(prompt_sha256), COPY(device), COPY(dtype);
    COPY(attention), COPY(linear), COPY(exchange), COPY(attention_note), COPY(reason);
#undef COPY
    record_copy_text(row->mode, sizeof row->mode, r->graph ? "graph" : "eager");
    record_copy_text(row->coverage, sizeof row->coverage, coverage_names[r->coverage]);
    record_copy_text(row->status, sizeof row->status, case_status_text(r->status));
    record_copy_text(row->output_check, sizeof row->output_check, verdict_text(s.output));
    record_copy_text(row->invariance_check, sizeof row->invariance_check,
                     verdict_text(s.invariance));
    snprintf(row->name, sizeof row->name, "%.80s, chunk %lld, %s, TP %d, %s", r->prompt,
             (long long)r->max_num_batched_tokens, row->mode, r->tp, r->dtype);
    row->prompt_tokens = r->prompt_tokens, row->chunk_tokens = r->chunk_tokens;
    row->max_num_batched_tokens = r->max_num_batched_tokens;
    row->tp = r->tp, row->devices = r->devices, row->memories = r->memories,
    row->repeats = r->repeats;
    row->ttft_estimated = r->ttft_estimated;
    row->prune_last_layer = r->prune_last_layer, row->dual_chunk = r->dual_chunk;
    row->exchange_overlap = r->exchange_overlap;
    row->ttft_median_ns = s.ttft_median_ns;
    row->ttft_min_ns = s.ttft_min_ns, row->ttft_max_ns = s.ttft_max_ns;
    row->ttft_error = r->ttft_error;
    row->prefill_tok_s = s.prefill_tok_s, row->decode_tok_s = s.decode_tok_s;
    row->peak_rank_bytes = s.peak_bytes_rank, row->peak_device_bytes = s.peak_bytes_device;
    row->peak_driver_bytes = s.peak_driver_bytes, row->unaccounted_bytes = s.unaccounted_bytes;
    row->predicted_prefill_s = r->predicted_prefill_s;
    row->predicted_total_bytes = r->predicted_memory.total_bytes;
    row->energy_j = s.energy_j, row->energy_j_per_token = s.energy_j_per_token;
    row->sm_clock_mean_mhz = s.sm_clock_mean_mhz, row->power_mean_w = s.power_mean_w;
}

static void write_chunks(struct h5 *h, h5_id at, const struct case_result *r) {
    h5_id g = WRITE_TABLE(h, at, "chunks", chunk_columns, r->chunks, r->n_chunks);
    size_t width = r->devices > 0 && r->devices <= MAX_RANKS ? (size_t)r->devices : 1;
    size_t row = width * sizeof(int64_t);
    char *packed = calloc((size_t)r->n_chunks + 1, row);
    if (h5_check_memory(h, packed, "device latencies")) {
        for (int64_t i = 0; i < r->n_chunks; i++)
            memcpy(packed + (size_t)i * row, r->chunks[i].device_latency_ns, row);
        h5_write_matrix(h, g, device_columns, packed, r->n_chunks, (int)width);
    }
    free(packed);
    h5_close_group(g);
}

static void write_predicted(struct h5 *h, h5_id at, const struct case_result *r) {
    const struct memory_prediction *m = &r->predicted_memory;
    struct predicted_row rows[MAX_RANKS + 1];
    int ranks = m->ranks > 0 && m->ranks <= MAX_RANKS ? m->ranks : 0;
    for (int i = 0; i < ranks; i++) {
        rows[i].rank = i;
        memcpy(rows[i].bytes, m->rank_bytes[i], sizeof rows[i].bytes);
    }
    rows[ranks].rank = SHARED_RANK;
    memcpy(rows[ranks].bytes, m->shared_bytes, sizeof rows[ranks].bytes);
    h5_id g = WRITE_TABLE(h, at, "predicted_memory", predicted_columns, rows, ranks + 1);
    h5_write_attributes(h, g, predicted_facts, COLUMNS(predicted_facts), r);
    h5_close_group(g);
}

static void write_ttft(struct h5 *h, h5_id at, const struct case_result *r) {
    size_t n = r->n_ttft > 0 ? (size_t)r->n_ttft : 0;
    struct ttft_row *rows = calloc(n + 1, sizeof *rows);
    if (!h5_check_memory(h, rows, "times to the first token")) return;
    for (size_t i = 0; i < n; i++) rows[i] = (struct ttft_row){(int32_t)i, r->ttft_ns[i]};
    h5_close_group(WRITE_TABLE(h, at, "ttft", ttft_columns, rows, (int64_t)n));
    free(rows);
}

static void check_rows(const struct case_result *r, struct check_row rows[CHECKS]) {
    memset(rows, 0, CHECKS * sizeof *rows);
    for (int i = 0; i < CHECKS; i++) {
        const struct check_result *c = &r->check[i];
        record_copy_text(rows[i].name, sizeof rows[i].name, check_name((enum check)i));
        record_copy_text(rows[i].verdict, sizeof rows[i].verdict, verdict_text(c->verdict));
        record_copy_text(rows[i].detail, sizeof rows[i].detail, c->detail);
        rows[i].worst = c->worst;
        rows[i].limit = c->limit;
    }
}

static void write_outputs(struct h5 *h, h5_id at, const struct case_result *r) {
    h5_id g = h5_create_group(h, at, "outputs");
    h5_write_attributes(h, g, output_facts, COLUMNS(output_facts), r);
    h5_write_column(h, g, token_columns, r->output, sizeof *r->output, r->n_output);
    h5_write_column(h, g, expected_columns, r->expected, sizeof *r->expected, r->n_expected);
    h5_write_text(h, g, "text", r->output_text);
    h5_close_group(WRITE_TABLE(h, g, "top", top_columns, r->top, r->n_top));
    struct check_row rows[CHECKS];
    check_rows(r, rows);
    h5_close_group(WRITE_TABLE(h, g, "checks", check_columns, rows, CHECKS));
    h5_close_group(g);
}

int record_op_number(struct h5 *h, struct op_numbers *ops, const struct case_result *r,
                     const struct span *s) {
    if (s->op >= OPS || s->role >= ROLES) {
        h5_fail(h, "write", "spans", "an op that does not exist");
        return 0;
    }
    int16_t *id = &ops->id[s->op][s->role][s->variant];
    if (*id) return *id - 1;
    if (ops->n == (int)(sizeof ops->row / sizeof *ops->row)) {
        h5_fail(h, "write", "spans", "too many different kernels");
        return 0;
    }
    struct op_row *row = &ops->row[ops->n];
    row->op_id = ops->n;
    record_copy_text(row->op, sizeof row->op, op_names[s->op]);
    record_copy_text(row->role, sizeof row->role, role_names[s->role]);
    record_copy_text(row->variant, sizeof row->variant, result_kernel_name(r, s->op, s->variant));
    *id = (int16_t)++ops->n;
    return row->op_id;
}

/* What of memory they had in use, where that is known. */
static void write_timeline(struct h5 *h, h5_id spans, const struct case_result *r) {
    if (r->n_buffers == 0) return;
    struct buffer_record *rows = calloc((size_t)r->n_buffers, sizeof *rows);
    if (!h5_check_memory(h, rows, "buffers")) return;
    for (int64_t i = 0; i < r->n_buffers; i++) {
        const struct buffer_info *b = &r->buffers[i].buffer;
        rows[i] = (struct buffer_record){.buffer = (int32_t)i,
                                         .device = r->buffers[i].device,
                                         .rank = b->rank,
                                         .bytes = b->bytes};
        record_copy_text(rows[i].category, sizeof rows[i].category, category_names[b->category]);
        record_copy_text(rows[i].name, sizeof rows[i].name, b->name);
    }
    h5_close_group(WRITE_TABLE(h, spans, "buffers", buffer_columns, rows, r->n_buffers));
    h5_close_group(
        WRITE_TABLE(h, spans, "memory", buffer_use_columns, r->buffer_uses, r->n_buffer_uses));
    free(rows);
}

static void write_spans(struct h5 *h, h5_id at, const struct case_result *r) {
    struct span_record *rows = calloc((size_t)r->n_spans + 1, sizeof *rows);
    struct op_numbers *ops = calloc(1, sizeof *ops);
    if (h5_check_memory(h, rows, "spans") && h5_check_memory(h, ops, "spans")) {
        for (int64_t i = 0; i < r->n_spans; i++) {
            const struct span_row *s = &r->spans[i];
            rows[i] = (struct span_record){
                s->repeat,      s->chunk,      record_op_number(h, ops, r, &s->span),
                s->span.rank,   s->span.layer, s->span.begin_ns,
                s->span.end_ns, s->span.flops, s->span.bytes,
                s->span.device, s->counts};
        }
        h5_id g = WRITE_TABLE(h, at, "spans", span_columns, rows, r->n_spans);
        h5_write_column(h, g, &span_device_column, rows, sizeof *rows, r->n_spans);
        for (int i = 0; r->counted && i < COLUMNS(span_count_columns); i++)
            h5_write_column(h, g, &span_count_columns[i], rows, sizeof *rows, r->n_spans);
        h5_write_attributes(h, g, span_facts, COLUMNS(span_facts), r);
        h5_close_group(WRITE_TABLE(h, g, "ops", op_columns, ops->row, ops->n));
        h5_close_group(WRITE_TABLE(h, g, "chunks", chunk_columns, r->traced, r->n_traced));
        write_timeline(h, g, r);
        h5_close_group(g);
    }
    free(ops);
    free(rows);
}

static void write_status(struct h5 *h, h5_id at, const struct case_result *r) {
    h5_id g = h5_create_group(h, at, "status");
    h5_write_text_attribute(h, g, "status", case_status_text(r->status));
    h5_write_attributes(h, g, status_facts, COLUMNS(status_facts), r);
    h5_write_text(h, g, "stderr_tail", r->stderr_tail);
    h5_close_group(g);
}

/* Where a prompt from the web came from; others have no such group. */
static void write_prompt(struct h5 *h, h5_id at, const struct case_result *r) {
    if (!r->prompt_url[0]) return;
    h5_id g = h5_create_group(h, at, "prompt");
    h5_write_attributes(h, g, prompt_facts, COLUMNS(prompt_facts), r);
    h5_close_group(g);
}

static void write_case(struct h5 *h, h5_id file, const struct case_result *r) {
    struct case_row row;
    case_row_fill(&row, r);
    h5_id all = h5_create_group(h, file, "case"), g = h5_create_group(h, all, r->id);
    h5_write_attributes(h, g, case_columns, COLUMNS(case_columns), &row);
    h5_write_attributes(h, g, case_facts, COLUMNS(case_facts), r);
    write_prompt(h, g, r);
    write_chunks(h, g, r);
    h5_close_group(WRITE_TABLE(h, g, "memory", memory_columns, r->memory, r->n_memory));
    if (r->n_clocks > 0)
        h5_close_group(WRITE_TABLE(h, g, "clocks", clock_columns, r->clocks, r->n_clocks));
    h5_close_group(WRITE_TABLE(h, g, "decode", decode_columns, r->decode, r->n_decode));
    write_predicted(h, g, r);
    write_ttft(h, g, r);
    write_outputs(h, g, r);
    write_spans(h, g, r);
    record_write_trace(h, g, r);
    write_status(h, g, r);
    h5_close_group(g);
    h5_close_group(all);
}

/* ---- writing: files ---- */

static void write_root(struct h5 *h, h5_id file, bool complete) {
    h5_write_text_attribute(h, file, "schema", "chunkbench");
    h5_write_int_attribute(h, file, "schema_version", RECORD_SCHEMA_VERSION);
    h5_write_int_attribute(h, file, "complete", complete);
}

enum status record_fragment_path(char out[PATH_MAX_BYTES], const char *dir, const char *id,
                                 struct error *err) {
    if ((size_t)snprintf(out, PATH_MAX_BYTES, "%s/case-%s.h5", dir, id) >= PATH_MAX_BYTES)
        return error_set(err, STATUS_IO, "%s: path too long", dir);
    return STATUS_OK;
}

static void write_fragment_root(struct h5 *h, h5_id file) {
    struct tm tm;
    char now[32];
    time_t seconds = time(NULL);
    gmtime_r(&seconds, &tm);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &tm);
    write_root(h, file, true);
    h5_write_text_attribute(h, file, "created_utc", now);
    h5_write_text_attribute(h, file, "tool_version", BENCH_VERSION);
}

enum status record_write_case(const char *dir, const struct case_result *r, struct error *err) {
    char path[PATH_MAX_BYTES];
    enum status s = record_fragment_path(path, dir, r->id, err);
    if (s != STATUS_OK) return s;
    struct h5 h = {.path = path, .status = STATUS_OK, .err = err};
    h5_id file = h5_create(&h);
    write_fragment_root(&h, file);
    write_case(&h, file, r);
    return h5_finish(&h, file);
}

/* ---- merge and update ---- */

/* Copies /case/ID of a fragment into the file being made, as it is. */
static bool copy_case(struct h5 *h, h5_id all, const char *fragment, const char *id) {
    struct error ignored;
    struct h5 from = {.path = fragment, .status = STATUS_OK, .err = &ignored};
    h5_id file = h5_open(&from), group = h5_open_group(&from, file, "case");
    bool readable = from.status == STATUS_OK;
    if (readable) h5_copy(h, group, all, id);
    h5_close_group(group);
    h5_close(&from, file);
    return readable;
}

static void write_run(struct h5 *h, h5_id file, const struct run_facts *f) {
    h5_write_attributes(h, file, root_columns, COLUMNS(root_columns), f);
    h5_id g = h5_create_group(h, file, "run");
    h5_write_attributes(h, g, run_columns, COLUMNS(run_columns), f);
    for (int i = 0; i < OPS; i++) {
        char name[64];
        snprintf(name, sizeof name, "kernel_%s", op_names[i]);
        h5_write_text_attribute(h, g, name, f->device.variant[i] ? f->device.variant[i] : "");
    }
    if (f->n_gpus > 0) h5_close_group(WRITE_TABLE(h, g, "gpus", gpu_columns, f->gpus, f->n_gpus));
    h5_write_text(h, g, "argv", f->argv);
    h5_write_text(h, g, "config", f->config_text);
    h5_close_group(g);
}

/* Copies every readable fragment; fills a row of the table for each. Returns their number. */
static int merge_cases(struct h5 *h, h5_id all, const char *dir, const char *const *ids, int n_ids,
                       struct case_row *rows, int *damaged) {
    int n = 0;
    for (int i = 0; i < n_ids && h->status == STATUS_OK; i++) {
        char fragment[PATH_MAX_BYTES];
        struct case_result r;
        h->status = record_fragment_path(fragment, dir, ids[i], h->err);
        if (h->status != STATUS_OK) continue;
        if (record_read_case(fragment, ids[i], true, &r, NULL) != STATUS_OK ||
            !copy_case(h, all, fragment, ids[i])) {
            ++*damaged;
        } else {
            case_row_fill(&rows[n++], &r);
        }
        result_free(&r);
    }
    return n;
}

enum status record_merge(const char *dir, const char *path, const struct run_facts *facts,
                         const char *const *ids, int n_ids, bool complete, int *damaged,
                         struct error *err) {
    struct h5 h = {.path = path, .status = STATUS_OK, .err = err};
    *damaged = 0;
    struct case_row *rows = calloc((size_t)n_ids + 1, sizeof *rows);
    if (!h5_check_memory(&h, rows, "the table of cases")) return h.status;
    h5_id file = h5_create(&h), all = h5_create_group(&h, file, "case");
    int n = merge_cases(&h, all, dir, ids, n_ids, rows, damaged);
    h5_close_group(all);
    write_root(&h, file, complete && n == n_ids);
    write_run(&h, file, facts);
    h5_write_compound(&h, file, "cases", case_columns, COLUMNS(case_columns), rows, sizeof *rows, n,
                      "one row per case; names end in their unit: _ns, _s, _tok_s, _bytes, "
                      "_tokens; NaN or 0 where nothing was measured");
    enum status s = h5_finish(&h, file);
    free(rows);
    return s;
}

/* Replaces the checks' table and the verdicts among the attributes; all else is as it was. */
static void replace_checks(struct h5 *h, h5_id g, const struct case_result *r) {
    struct case_row row;
    struct check_row rows[CHECKS];
    case_row_fill(&row, r);
    check_rows(r, rows);
    for (int i = 0; i < COLUMNS(case_columns); i++) {
        const struct column *c = &case_columns[i];
        if (c->offset != offsetof(struct case_row, output_check) &&
            c->offset != offsetof(struct case_row, invariance_check))
            continue;
        h5_delete_attribute(h, g, c->name);
        h5_write_attributes(h, g, c, 1, &row);
    }
    h5_id outputs = h5_open_group(h, g, "outputs");
    h5_delete(h, outputs, "checks");
    h5_close_group(WRITE_TABLE(h, outputs, "checks", check_columns, rows, CHECKS));
    h5_close_group(outputs);
}

/* A fragment anew, with what `change` makes of its case. */
static enum status rewrite(const char *path, const struct case_result *r,
                           void (*change)(struct h5 *h, h5_id g, const struct case_result *r),
                           struct error *err) {
    struct h5 h = {.path = path, .status = STATUS_OK, .err = err};
    h5_id file = h5_create(&h), all = h5_create_group(&h, file, "case");
    write_fragment_root(&h, file);
    if (h.status == STATUS_OK && !copy_case(&h, all, path, r->id))
        h5_fail(&h, "read", r->id, "the fragment cannot be opened");
    h5_id g = h5_open_group(&h, all, r->id);
    change(&h, g, r);
    h5_close_group(g);
    h5_close_group(all);
    return h5_finish(&h, file);
}

enum status record_update_checks(const char *dir, const struct case_result *r, struct error *err) {
    char path[PATH_MAX_BYTES];
    struct case_result whole;
    enum status s = record_fragment_path(path, dir, r->id, err);
    if (s == STATUS_OK) s = record_read_case(path, r->id, false, &whole, err);
    if (s != STATUS_OK) return s;
    memcpy(whole.check, r->check, sizeof whole.check);
    s = rewrite(path, &whole, replace_checks, err);
    result_free(&whole);
    return s;
}

static void replace_trace(struct h5 *h, h5_id g, const struct case_result *r) {
    if (h5_has(h, g, TRACE_GROUP)) h5_delete(h, g, TRACE_GROUP);
    record_write_trace(h, g, r);
}

enum status record_update_trace(const char *dir, const struct case_result *r, struct error *err) {
    char path[PATH_MAX_BYTES];
    const enum status s = record_fragment_path(path, dir, r->id, err);
    return s == STATUS_OK ? rewrite(path, r, replace_trace, err) : s;
}
