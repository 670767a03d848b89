/* What a case leaves behind, in memory: rows that grow by doubling, and the facts derived from them
 * (median, rates, peaks, verdicts), computed here alone so that table, JSON and file agree.
 * Owns the arrays of a case_result. Before it: worker.c fills one; after it: record.c, show.c. */
#include "harness/result.h"

#include "harness/prompt_cache.h"
#include "harness/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *case_status_text(enum case_status s) {
    switch (s) {
#define X(name, text)                                                                              \
    case name: return text;
        CASE_STATUS_TABLE(X)
#undef X
    }
    return "unknown";
}

const char *verdict_text(enum verdict v) {
    switch (v) {
    case VERDICT_NOT_CHECKED: return "not checked";
    case VERDICT_OK: return "ok";
    case VERDICT_FAILED: return "FAILED";
    case VERDICT_SPOT_OK: return "spot ok";
    }
    return "unknown";
}

const char *check_name(enum check c) {
    switch (c) {
#define X(name, text)                                                                              \
    case name: return text;
        CHECK_TABLE(X)
#undef X
    case CHECKS: break;
    }
    return "unknown";
}

enum check result_failed_check(const struct case_result *r) {
    static const enum check roots_first[] = {CHECK_COUNT,     CHECK_FINITE, CHECK_TOKENS,
                                             CHECK_LOGITS,    CHECK_SPOT,   CHECK_MEMORY,
                                             CHECK_INVARIANCE};
    _Static_assert(sizeof roots_first / sizeof *roots_first == CHECKS, "every check has its place");
    for (int i = 0; i < CHECKS; i++)
        if (r->check[roots_first[i]].verdict == VERDICT_FAILED) return roots_first[i];
    return CHECKS;
}

static void copy_text(char *out, size_t size, const char *text) {
    size_t n = text ? strnlen(text, size - 1) : 0;
    if (n) memcpy(out, text, n);
    out[n] = 0;
}

void result_init(struct case_result *r, const struct case_plan *c) {
    char url[URL_MAX_BYTES];
    memset(r, 0, sizeof *r);
    copy_text(r->id, sizeof r->id, c->id);
    copy_text(r->prompt, sizeof r->prompt, c->prompt);
    if (prompt_is_remote(c->prompt) && prompt_url(c->prompt, url, NULL) == STATUS_OK) {
        copy_text(r->prompt_url, sizeof r->prompt_url, url);
        copy_text(r->prompt_file_sha256, sizeof r->prompt_file_sha256, c->text_sha256);
    }
    r->status = c->coverage == COVER_SKIPPED ? CASE_SKIPPED : CASE_FAILED;
    copy_text(r->reason, sizeof r->reason,
              c->coverage == COVER_SKIPPED ? c->reason : "the case did not run to its end");
    r->prompt_tokens = c->session.prompt_tokens;
    r->chunk_tokens = c->session.chunk_tokens;
    r->max_num_batched_tokens = c->max_num_batched_tokens;
    r->graph = c->session.graph;
    r->tp = c->engine.tensor_parallel_size;
    r->devices = 1;
    copy_text(r->device, sizeof r->device, device_kind_name(c->engine.device));
    copy_text(r->dtype, sizeof r->dtype, dtype_name(c->engine.dtype));
    copy_text(r->attention, sizeof r->attention, c->engine.attention_backend);
    copy_text(r->linear, sizeof r->linear, c->engine.linear_backend);
    r->prune_last_layer = c->engine.prune_last_layer;
    r->dual_chunk = c->engine.dual_chunk_attention;
    r->coverage = c->coverage;
    r->ttft_estimated = c->coverage == COVER_SAMPLED;
    r->predicted_memory = c->memory;
    r->predicted_prefill_s = c->predicted_prefill_s;
    r->rates = c->rates;
    for (int i = 0; i < CHECKS; i++) {
        r->check[i].verdict = VERDICT_NOT_CHECKED;
        r->check[i].worst = r->check[i].limit = (double)NAN;
        copy_text(r->check[i].detail, sizeof r->check[i].detail,
                  c->coverage == COVER_SKIPPED ? "the case was skipped"
                                               : "the case did not run to its end");
    }
}

void result_free(struct case_result *r) {
    free(r->stderr_tail);
    free(r->chunks);
    free(r->memory);
    free(r->clocks);
    free(r->decode);
    free(r->spans);
    free(r->traced);
    free(r->kernel_trace.chunks);
    activity_log_free(&r->kernel_trace.log);
    free(r->buffers);
    free(r->buffer_uses);
    free(r->ttft_ns);
    free(r->output);
    free(r->output_text);
    free(r->expected);
    memset(r, 0, sizeof *r);
}

/* An array of n rows has room for the next power of two; the count alone says when it is full. */
enum { FIRST_ROWS = 16 };
int64_t result_capacity(int64_t n) {
    if (n <= 0) return 0;
    int64_t capacity = FIRST_ROWS;
    while (capacity < n && capacity <= INT64_MAX / 2) capacity *= 2;
    return capacity < n ? n : capacity;
}

static enum status add_rows(void **array, int64_t *count, const void *rows, int64_t n, size_t size,
                            struct error *err) {
    if (n <= 0) return STATUS_OK;
    int64_t total;
    if (__builtin_add_overflow(*count, n, &total))
        return error_set(err, STATUS_NO_MEMORY, "a result of more than 2^63 rows");
    int64_t capacity = result_capacity(total);
    if (capacity != result_capacity(*count)) {
        size_t bytes;
        void *grown = NULL;
        if (!__builtin_mul_overflow((size_t)capacity, size, &bytes)) grown = realloc(*array, bytes);
        if (!grown)
            return error_set(err, STATUS_NO_MEMORY,
                             "no memory for %lld result rows of %zu bytes each",
                             (long long)capacity, size);
        *array = grown;
    }
    memcpy((char *)*array + (size_t)*count * size, rows, (size_t)n * size);
    *count = total;
    return STATUS_OK;
}

enum status result_add_chunk(struct case_result *r, const struct chunk_row *row,
                             struct error *err) {
    void *array = r->chunks;
    enum status s = add_rows(&array, &r->n_chunks, row, 1, sizeof *row, err);
    r->chunks = array;
    return s;
}

enum status result_add_memory(struct case_result *r, const struct memory_row *row,
                              struct error *err) {
    void *array = r->memory;
    enum status s = add_rows(&array, &r->n_memory, row, 1, sizeof *row, err);
    r->memory = array;
    return s;
}

enum status result_add_clocks(struct case_result *r, const struct clock_row *row,
                              struct error *err) {
    void *array = r->clocks;
    enum status s = add_rows(&array, &r->n_clocks, row, 1, sizeof *row, err);
    r->clocks = array;
    return s;
}

enum status result_add_decode(struct case_result *r, const struct decode_row *row,
                              struct error *err) {
    void *array = r->decode;
    enum status s = add_rows(&array, &r->n_decode, row, 1, sizeof *row, err);
    r->decode = array;
    return s;
}

void result_drop_repeat(struct case_result *r, int repeat) {
    while (r->n_chunks > 0 && r->chunks[r->n_chunks - 1].repeat == repeat) r->n_chunks--;
    while (r->n_memory > 0 && r->memory[r->n_memory - 1].repeat == repeat) r->n_memory--;
    while (r->n_clocks > 0 && r->clocks[r->n_clocks - 1].repeat == repeat) r->n_clocks--;
    while (r->n_decode > 0 && r->decode[r->n_decode - 1].repeat == repeat) r->n_decode--;
}

enum status result_add_traced(struct case_result *r, const struct chunk_row *row,
                              struct error *err) {
    void *array = r->traced;
    enum status s = add_rows(&array, &r->n_traced, row, 1, sizeof *row, err);
    r->traced = array;
    return s;
}

enum status result_add_kernel_chunk(struct case_result *r, const struct chunk_row *row,
                                    struct error *err) {
    void *array = r->kernel_trace.chunks;
    enum status s = add_rows(&array, &r->kernel_trace.n_chunks, row, 1, sizeof *row, err);
    r->kernel_trace.chunks = array;
    return s;
}

enum status result_add_spans(struct case_result *r, const struct span_row *rows, int64_t n,
                             struct error *err) {
    void *array = r->spans;
    enum status s = add_rows(&array, &r->n_spans, rows, n, sizeof *rows, err);
    r->spans = array;
    return s;
}

enum status result_add_buffers(struct case_result *r, const struct buffer_row *rows, int64_t n,
                               struct error *err) {
    void *array = r->buffers;
    enum status s = add_rows(&array, &r->n_buffers, rows, n, sizeof *rows, err);
    r->buffers = array;
    return s;
}

enum status result_add_buffer_uses(struct case_result *r, const struct buffer_use_row *rows,
                                   int64_t n, struct error *err) {
    void *array = r->buffer_uses;
    enum status s = add_rows(&array, &r->n_buffer_uses, rows, n, sizeof *rows, err);
    r->buffer_uses = array;
    return s;
}

static void summarise_ttft(const struct case_result *r, struct case_summary *out) {
    out->prefill_tok_s = (double)NAN;
    if (r->n_ttft <= 0) return;
    out->ttft_median_ns = stats_median(r->ttft_ns, r->n_ttft);
    out->ttft_min_ns = stats_min(r->ttft_ns, r->n_ttft);
    out->ttft_max_ns = stats_max(r->ttft_ns, r->n_ttft);
    out->prefill_tok_s = stats_tok_s(r->prompt_tokens, out->ttft_median_ns);
}

/* Results also come from files: sums of what stands there stay in range. */
static int64_t add(int64_t a, int64_t b) {
    int64_t sum;
    if (!__builtin_add_overflow(a, b, &sum)) return sum;
    return a > 0 ? INT64_MAX : INT64_MIN;
}

/* The first token of a repeat costs sampling alone; the rate is that of the steps after it. */
static void summarise_decode(const struct case_result *r, struct case_summary *out) {
    int64_t ns = 0, steps = 0;
    for (int64_t i = 0; i < r->n_decode; i++) {
        if (r->decode[i].step == 0) continue;
        ns = add(ns, r->decode[i].latency_ns);
        steps++;
    }
    out->decode_tok_s = stats_tok_s(steps, ns);
}

static int64_t high_water(const struct memory_use *use) {
    int64_t sum = 0;
    for (int c = 0; c < MEMORY_CATEGORIES; c++) sum = add(sum, use->high_water[c]);
    return sum;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

const char *result_kernel_name(const struct case_result *r, int op, int variant) {
    const int foreign = UINT8_MAX - variant;
    return foreign < r->n_foreign ? r->foreign_kernel[foreign] : variant_name((enum op)op, variant);
}

bool result_is_once(const struct case_result *r) {
    return r->coverage == COVER_SAMPLED && !r->ttft_estimated;
}

int result_memories(const struct case_result *r) {
    const bool host = strcmp(r->device, device_kind_name(DEVICE_CPU)) == 0;
    if (r->memories > 0) return r->memories;
    return host || r->devices < 1 ? 1 : r->devices;
}

static void summarise_memory(const struct case_result *r, struct case_summary *out) {
    int64_t shared = 0, own[MAX_RANKS] = {0}, driver_most = -1;
    for (int64_t i = 0; i < r->n_memory; i++) {
        const struct memory_row *m = &r->memory[i];
        int64_t used = high_water(&m->use);
        if (m->rank == SHARED_RANK) shared = larger(shared, used);
        if (m->rank >= 0 && m->rank < MAX_RANKS) own[m->rank] = larger(own[m->rank], used);
        if (m->rank == SHARED_RANK) continue; /* whose figure is that of all memories */
        out->peak_driver_bytes = larger(out->peak_driver_bytes, m->driver_high_water);
        if (m->driver_after > driver_most) {
            driver_most = m->driver_after;
            out->unaccounted_bytes = m->unaccounted;
        }
    }
    const int ranks = r->tp > 0 ? r->tp : 1;
    for (int i = 0; i < MAX_RANKS; i++) {
        out->peak_bytes_rank = larger(out->peak_bytes_rank, own[i]);
        out->peak_bytes_device = add(out->peak_bytes_device, own[i]);
    }
    out->peak_bytes_device = add(out->peak_bytes_device, shared) / result_memories(r);
    out->peak_bytes_rank = add(out->peak_bytes_rank, add(shared, ranks - 1) / ranks);
}

/* The counter of joules moves about every 0.1 s: power is known of ten times that. */
static const double COUNTED_NS = 1e9;

/* Power and clock are means over samples; the energy is only known where every chunk's is. */
static void summarise_clocks(const struct case_result *r, struct case_summary *out) {
    double energy_mj = 0, samples = 0, mhz = 0, watts = 0, tokens = 0, ns = 0;
    int32_t repeats = 0;
    out->energy_j = out->energy_j_per_token = out->power_w = (double)NAN;
    out->sm_clock_mean_mhz = out->power_mean_w = (double)NAN;
    out->sm_clock_min_mhz = -1;
    out->throttle_reasons = -1;
    if (r->n_clocks <= 0) return;
    for (int64_t i = 0; i < r->n_clocks; i++) {
        const struct clock_row *c = &r->clocks[i];
        energy_mj += c->energy_mj >= 0 ? (double)c->energy_mj : (double)NAN;
        samples += c->samples;
        mhz += c->samples * c->sm_clock_mean_mhz;
        watts += c->samples * c->power_mean_w;
        if (c->sm_clock_min_mhz >= 0 &&
            (out->sm_clock_min_mhz < 0 || c->sm_clock_min_mhz < out->sm_clock_min_mhz))
            out->sm_clock_min_mhz = c->sm_clock_min_mhz;
        if (c->throttle_reasons_seen >= 0)
            out->throttle_reasons =
                (out->throttle_reasons < 0 ? 0 : out->throttle_reasons) | c->throttle_reasons_seen;
    }
    for (int64_t i = 0; i < r->n_chunks; i++) {
        tokens += r->chunks[i].n_tokens;
        ns += (double)r->chunks[i].latency_ns;
        if (r->chunks[i].repeat >= repeats && r->chunks[i].repeat < INT32_MAX)
            repeats = r->chunks[i].repeat + 1;
    }
    out->sm_clock_mean_mhz = mhz / samples;
    out->power_mean_w = watts / samples;
    out->energy_j = energy_mj / 1e3 / repeats;
    out->energy_j_per_token = energy_mj / 1e3 / tokens;
    if (ns >= COUNTED_NS) out->power_w = energy_mj * 1e6 / ns;
}

/* A sampled case has no answer, whatever its checks saw on the way: it can fail, not pass. */
static enum verdict output_verdict(const struct case_result *r) {
    static const enum check parts[] = {CHECK_TOKENS, CHECK_LOGITS, CHECK_SPOT, CHECK_FINITE,
                                       CHECK_COUNT};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (r->check[parts[i]].verdict == VERDICT_FAILED) return VERDICT_FAILED;
    if (r->coverage != COVER_FULL) return VERDICT_NOT_CHECKED;
    if (r->check[CHECK_TOKENS].verdict == VERDICT_OK) return VERDICT_OK;
    return r->check[CHECK_SPOT].verdict == VERDICT_OK ? VERDICT_SPOT_OK : VERDICT_NOT_CHECKED;
}

void result_summary(const struct case_result *r, struct case_summary *out) {
    memset(out, 0, sizeof *out);
    summarise_ttft(r, out);
    summarise_decode(r, out);
    summarise_memory(r, out);
    summarise_clocks(r, out);
    out->output = output_verdict(r);
    out->invariance = r->check[CHECK_INVARIANCE].verdict;
}
