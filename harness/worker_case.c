/* One case, from its prompt to its result: session, warm-up, measured repeats, checks, spans.
 *
 * A pass is one trip through the prompt (all chunks, or the sampled ones), followed in full
 * coverage by the decoding of the answer. Warm-up passes have negative numbers and leave no rows.
 * The first pass, whichever it is, carries the spot check; the first measured one the output and
 * its checks; later ones must give the same bits. The time between two chunks (memory figures, spot
 * check, events) belongs to nobody: TTFT is the sum of the chunks' latencies and the first token's.
 * Spans come from a session of their own after everything else, and feed no statistics. */
#include "harness/worker.h"

#include "harness/check.h"
#include "harness/format.h"
#include "harness/predict.h"
#include "harness/stats.h"
#include "harness/timeline.h"
#include "kernels/nvtx.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

struct case_run {
    struct engine *engine;
    const struct plan *plan;
    const struct case_plan *c;
    const struct case_env *env;
    struct case_result *out;
    struct session *session; /* owned */
    struct prompt prompt;    /* owned */
    int *chunks;             /* numbers of those that run, ascending; owned */
    int n_chunks;
    int32_t position;            /* of the session, at the end of the newest whole pass */
    int profiled;                /* number of the chunk for a profiler, or -1 */
    bool tracing;                /* the pass at work records spans */
    char no_timeline[190];       /* why a chunk with spans has no timeline of memory; or "" */
    struct check_spot *spot;     /* owned until finished; NULL: off */
    struct check_logits *answer; /* owned until finished; NULL: no known answer */
    float *logits;               /* [V], owned */
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void send_event(const struct case_run *k, const struct event *e) {
    if (k->env->send) k->env->send(k->env->ctx, e);
}

static void in_step(const struct case_run *k, bool inside) {
    if (k->env->in_step) k->env->in_step(k->env->ctx, inside);
}

/* STATUS_OK, or why to stop here, before what `format` says. */
static enum status stop_before(const struct case_run *k, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static enum status stop_before(const struct case_run *k, struct error *err, const char *format,
                               ...) {
    const bool told = k->env->stop && __atomic_load_n(k->env->stop, __ATOMIC_RELAXED) != 0;
    char what[200], why[100];
    va_list ap;
    if (!told && !(k->env->limit && time_is_up(k->env->limit, now_ns()))) return STATUS_OK;
    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    if (told) return error_set(err, STATUS_INTERRUPTED, "stopped before %s", what);
    time_used_up(k->env->limit, why, sizeof why);
    return error_set(err, STATUS_TIMEOUT, "time: %s, before %s", why, what);
}

static bool stopped(const struct case_run *k) {
    return stop_before(k, NULL, "anything") != STATUS_OK;
}

static int32_t chunk_start(const struct case_run *k, int chunk) {
    return chunk * k->c->session.chunk_tokens;
}

static int32_t chunk_tokens(const struct case_run *k, int chunk) {
    int32_t left = k->prompt.length - chunk_start(k, chunk);
    return left < k->c->session.chunk_tokens ? left : k->c->session.chunk_tokens;
}

static struct attention_pattern case_pattern(const struct case_run *k) {
    return k->c->engine.dual_chunk_attention ? k->plan->model.dual_chunk
                                             : (struct attention_pattern){0, 0};
}

/* ---- one chunk ---- */

/* The memories' own figures around a chunk. Asking takes longer than all else here: once a memory.
 */
struct driver_memory {
    int64_t before[MAX_RANKS], after[MAX_RANKS], high_water[MAX_RANKS];
};

static void look_before(struct case_run *k, struct driver_memory *m) {
    engine_memory_reset_high_water(k->engine);
    for (int i = 0; i < engine_info(k->engine)->memories; i++)
        engine_memory_driver(k->engine, i, &m->before[i], NULL);
}

static void look_after(struct case_run *k, struct driver_memory *m) {
    for (int i = 0; i < engine_info(k->engine)->memories; i++)
        engine_memory_driver(k->engine, i, &m->after[i], &m->high_water[i]);
}

/* A row's figures of the memories [begin, end). */
static void add_driver(struct case_run *k, const struct driver_memory *m, int begin, int end,
                       struct memory_row *row) {
    for (int i = begin; i < end; i++) {
        row->driver_before += m->before[i];
        row->driver_after += m->after[i];
        row->driver_high_water += m->high_water[i];
        row->unaccounted += m->after[i] - engine_memory_accounted(k->engine, i);
    }
}

/* A row for every rank, with what the driver says of its memory, and one for what ranks share, with
 * what it says of all memories. */
static enum status add_memory(struct case_run *k, int pass, int chunk,
                              const struct driver_memory *driver, struct error *err) {
    const struct engine_info *info = engine_info(k->engine);
    for (int i = 0; i <= info->ranks; i++) {
        struct memory_row row = {
            .repeat = pass, .chunk = chunk, .rank = i < info->ranks ? i : SHARED_RANK};
        engine_memory(k->engine, row.rank, &row.use);
        if (row.rank == SHARED_RANK || info->memories == 1)
            add_driver(k, driver, 0, info->memories, &row);
        else
            add_driver(k, driver, info->rank_device[i], info->rank_device[i] + 1, &row);
        enum status s = result_add_memory(k->out, &row, err);
        if (s != STATUS_OK) return s;
    }
    return STATUS_OK;
}

/* A row for every GPU. */
static enum status add_clocks(struct case_run *k, int pass, int chunk, struct error *err) {
    struct clock_row row;
    for (int i = 0; clocks_row(k->env->clocks, i, &row); i++) {
        row.repeat = pass, row.chunk = chunk;
        enum status s = result_add_clocks(k->out, &row, err);
        if (s != STATUS_OK) return s;
    }
    return STATUS_OK;
}

struct chunk_row worker_chunk_row(int pass, int chunk, const struct chunk_result *r) {
    struct chunk_row row = {.repeat = pass,
                            .chunk = chunk,
                            .start_token = r->start_token,
                            .n_tokens = r->n_tokens,
                            .begin_ns = r->begin_ns,
                            .latency_ns = r->latency_ns,
                            .host_ns = r->host_ns,
                            .flops = r->flops,
                            .bytes = r->bytes,
                            .replayed = r->replayed};
    memcpy(row.device_latency_ns, r->device_latency_ns, sizeof row.device_latency_ns);
    return row;
}

/* One step of the engine, watched. *fed is false when a hook of a test kept the chunk from it. */
static enum status feed_chunk(struct case_run *k, int pass, int chunk, struct chunk_result *r,
                              bool *fed, struct error *err) {
    const struct bench_hooks *hooks = k->env->hooks;
    int32_t start = chunk_start(k, chunk);
    const struct nvtx_chunk range = {chunk, start, chunk_tokens(k, chunk)};
    int64_t allocations = engine_allocations(k->engine);
    nvtx_begin_chunk(k->env->nvtx, &range);
    in_step(k, true);
    *fed = !hooks || !hooks->before_chunk ||
           !hooks->before_chunk(hooks->before_chunk_ctx, k->c->id, pass, chunk);
    enum status s =
        *fed ? session_prefill(k->session, k->prompt.tokens + start, chunk_tokens(k, chunk), r, err)
             : STATUS_OK;
    in_step(k, false);
    nvtx_end(k->env->nvtx, NVTX_CHUNK_RANGE);
    k->out->step_allocations += engine_allocations(k->engine) - allocations;
    return s;
}

/* The same where a profiler is to see it. */
static enum status feed_profiled(struct case_run *k, int pass, int chunk, struct chunk_result *r,
                                 bool *fed, struct error *err) {
    if (pass != 0 || chunk != k->profiled) return feed_chunk(k, pass, chunk, r, fed, err);
    engine_profile(k->engine, true);
    nvtx_begin(k->env->nvtx, NVTX_PROFILE, NULL, chunk);
    const enum status s = feed_chunk(k, pass, chunk, r, fed, err);
    nvtx_end(k->env->nvtx, NVTX_PROFILE);
    engine_profile(k->engine, false);
    return s;
}

/* ---- spans ---- */

/* Of the last warm-up pass at most TRACED chunks are kept; without one, the last chunk runs again
 * where it takes at most one part in SHORT_PART of the measured time. */
enum { TRACED = 5, SHORT_PART = 20 };

/* A pass of a CUDA graph's session with spans would not warm up the graph. */
static bool traces_warm_up(const struct case_run *k) {
    const bool graph = k->c->session.graph && k->c->engine.device == DEVICE_CUDA;
    return strcmp(k->plan->config.spans, "auto") == 0 && k->plan->config.warmup > 0 && !graph;
}

/* Counters beside them, where they are wanted. The spans stand without. */
static void count_spans(struct case_run *k) {
    struct error err = {{0}};
    if (!k->plan->config.counters) return;
    k->out->counted = session_spans_count(k->session, &err) == STATUS_OK;
    if (!k->out->counted)
        snprintf(k->out->counters_note, sizeof k->out->counters_note, "%.199s", err.text);
}

/* Room for the spans of the case's largest chunk. */
static enum status enable_spans(struct case_run *k, struct error *err) {
    int64_t ops = 0;
    for (int i = 0; i < k->n_chunks; i++) {
        int chunk = k->chunks[i];
        struct chunk_cost cost =
            engine_chunk_cost(&k->plan->model, &k->c->engine, chunk_start(k, chunk),
                              chunk_tokens(k, chunk), chunk == k->c->chunks - 1);
        if (cost.ops > ops) ops = cost.ops;
    }
    const enum status s = session_spans_enable(k->session, 2 * ops + 256, err);
    if (s == STATUS_OK) count_spans(k);
    return s;
}

/* What it had in use of a device's memory. The spans stand without that. */
static void keep_memory(struct case_run *k, int device, int64_t first_span) {
    struct error err = {{0}};
    if (timeline_keep(k->out, k->session, device, first_span, &err) != STATUS_OK)
        snprintf(k->no_timeline, sizeof k->no_timeline, "memory in use is missing: %.150s",
                 err.text);
}

/* What the newest chunk left; timeline: also of its memory. */
static enum status keep_spans(struct case_run *k, int pass, int chunk, const struct chunk_result *r,
                              bool timeline, struct error *err) {
    const struct chunk_row traced = worker_chunk_row(pass, chunk, r);
    enum status s = r->n_tokens > 0 ? result_add_traced(k->out, &traced, err) : STATUS_OK;
    for (int d = 0; s == STATUS_OK && d < engine_info(k->engine)->devices; d++) {
        int64_t n, dropped;
        const struct span *spans = session_spans(k->session, d, &n, &dropped);
        const struct span_counts *counts = session_span_counts(k->session, d);
        const int64_t first = k->out->n_spans;
        k->out->dropped_spans += dropped;
        for (int64_t j = 0; s == STATUS_OK && j < n; j++) {
            struct span_row row = {.repeat = pass, .chunk = chunk, .span = spans[j]};
            if (counts) row.counts = counts[j];
            s = result_add_spans(k->out, &row, 1, err);
        }
        if (s == STATUS_OK && n > 0 && timeline) keep_memory(k, d, first);
    }
    session_spans_reset(k->session);
    return s;
}

/* Whether the i-th chunk that runs is one of TRACED that are spread over the prompt. */
static bool is_traced(const struct case_run *k, int i) {
    int traced[TRACED];
    if (k->n_chunks <= TRACED) return true;
    const int n = plan_sampled_chunks(k->n_chunks, TRACED, traced);
    for (int t = 0; t < n; t++)
        if (traced[t] == i) return true;
    return false;
}

/* ---- a pass ---- */

/* Chunks that are not run are skipped: the cache holds synthetic values there. */
static enum status reach_chunk(struct case_run *k, int i, struct error *err) {
    const int32_t start = chunk_start(k, k->chunks[i]);
    if (k->c->coverage != COVER_SAMPLED || start <= session_position(k->session)) return STATUS_OK;
    return session_skip_to(k->session, start, (uint64_t)k->c->seed, err);
}

static enum status run_chunk(struct case_run *k, int pass, int i, bool spot, int64_t *latency_ns,
                             struct error *err) {
    int chunk = k->chunks[i];
    int32_t start = chunk_start(k, chunk), n = chunk_tokens(k, chunk);
    enum status s = reach_chunk(k, i, err);
    if (s != STATUS_OK) return s;
    if (spot) {
        int32_t rows[TAP_ROWS];
        int n_rows = check_spot_rows(k->spot, start, n, rows);
        s = session_tap(k->session, rows, n_rows, err);
        if (s != STATUS_OK) return s;
    }
    struct driver_memory driver;
    struct chunk_result r = {0};
    char name[FORMAT_BYTES];
    bool fed;
    look_before(k, &driver);
    clocks_begin(k->env->clocks);
    s = feed_profiled(k, pass, chunk, &r, &fed, err);
    clocks_end(k->env->clocks);
    look_after(k, &driver);
    if (s != STATUS_OK)
        return error_prefix(err, s, "chunk %d of %d, %s", chunk + 1, k->c->chunks,
                            format_pass(name, pass, (int)k->plan->config.warmup));
    *latency_ns = r.latency_ns;
    if (fed && pass >= 0) {
        const struct chunk_row row = worker_chunk_row(pass, chunk, &r);
        s = result_add_chunk(k->out, &row, err);
        if (s == STATUS_OK) s = add_memory(k, pass, chunk, &driver, err);
        if (s == STATUS_OK) s = add_clocks(k, pass, chunk, err);
        if (s != STATUS_OK) return s;
    }
    if (k->tracing) {
        if (is_traced(k, i)) s = keep_spans(k, pass, chunk, &r, fed, err);
        if (s != STATUS_OK) return s;
        session_spans_reset(k->session);
    }
    if (fed && spot) {
        s = check_spot_keep(k->spot, k->session, start, n, err);
        if (s != STATUS_OK) return s;
    }
    struct event e = {.kind = EVENT_CHUNK,
                      .repeat = pass,
                      .chunk = i + 1,
                      .chunks = k->n_chunks,
                      .n_tokens = n,
                      .tokens_done = start + n,
                      .tokens_total = k->prompt.length,
                      .latency_ns = r.latency_ns,
                      .resident_bytes = driver.after[0]};
    send_event(k, &e);
    return STATUS_OK;
}

/* All chunks of a pass; *prefill_ns is the sum of their latencies. */
static enum status prefill(struct case_run *k, int pass, bool spot, struct stats_point *points,
                           int64_t *prefill_ns, struct error *err) {
    enum status s = session_reset(k->session, err);
    char name[FORMAT_BYTES];
    *prefill_ns = 0;
    for (int i = 0; s == STATUS_OK && i < k->n_chunks; i++) {
        int64_t latency_ns = 0;
        s = stop_before(k, err, "chunk %d of %d of %s", i + 1, k->n_chunks,
                        format_pass(name, pass, (int)k->plan->config.warmup));
        if (s == STATUS_OK) s = run_chunk(k, pass, i, spot, &latency_ns, err);
        points[i] = (struct stats_point){chunk_start(k, k->chunks[i]),
                                         chunk_tokens(k, k->chunks[i]), latency_ns};
        *prefill_ns += latency_ns;
    }
    return s;
}

/* ---- the answer ---- */

static void keep_top(struct case_result *out, const float *logits, int32_t V) {
    double max = -INFINITY, sum = 0;
    for (int32_t i = 0; i < V; i++)
        if (logits[i] > max) max = logits[i];
    for (int32_t i = 0; i < V; i++) sum += exp((double)logits[i] - max);
    const int most = (int)(sizeof out->top / sizeof out->top[0]);
    for (int32_t i = 0; i < V; i++) {
        float logprob = (float)((double)logits[i] - max - log(sum));
        int at = out->n_top;
        while (at > 0 && out->top[at - 1].logprob < logprob) at--;
        if (at == most) continue;
        if (out->n_top < most) out->n_top++;
        memmove(&out->top[at + 1], &out->top[at],
                (size_t)(out->n_top - 1 - at) * sizeof out->top[0]);
        out->top[at] = (struct top_logprob){i, logprob};
    }
}

/* Later repeats must give what the first gave, bit for bit. */
static void compare_repeat(struct case_run *k, int pass, int step, int32_t id, uint64_t hash) {
    struct case_result *out = k->out;
    struct check_result *check = &out->check[CHECK_INVARIANCE];
    if (check->verdict == VERDICT_FAILED) return;
    if (step == 0 && hash != out->logits_hash) {
        check->verdict = VERDICT_FAILED;
        snprintf(check->detail, sizeof check->detail,
                 "repeat %d: first logits hash to %016llx, those of repeat 1 to %016llx", pass + 1,
                 (unsigned long long)hash, (unsigned long long)out->logits_hash);
    } else if (step >= out->n_output || id != out->output[step]) {
        check->verdict = VERDICT_FAILED;
        snprintf(check->detail, sizeof check->detail,
                 "repeat %d: token %d is %d, in repeat 1 it was %d", pass + 1, step, id,
                 step < out->n_output ? out->output[step] : -1);
    }
}

static enum status look_at_token(struct case_run *k, int pass, int step,
                                 const struct token_result *t, struct error *err) {
    struct case_result *out = k->out;
    int32_t V = k->plan->model.V;
    enum status s = session_logits(k->session, k->logits, err);
    if (s != STATUS_OK) return s;
    uint64_t hash = step == 0 ? XXH64(k->logits, sizeof(float) * (size_t)V, 0) : 0;
    check_finite_row(&out->check[CHECK_FINITE], k->logits, V, step);
    if (pass > 0) {
        compare_repeat(k, pass, step, t->id, hash);
        return STATUS_OK;
    }
    if (step == 0) {
        out->logits_hash = hash;
        keep_top(out, k->logits, V);
    }
    out->output[out->n_output++] = t->id;
    if (k->answer) check_logits_row(k->answer, step, k->logits);
    return STATUS_OK;
}

/* Decodes until the model stops or max_tokens. *first_ns: what the first token cost. */
static enum status generate(struct case_run *k, int pass, int64_t *first_ns, struct error *err) {
    int most = k->c->session.max_tokens;
    for (int step = 0; step < most; step++) {
        struct token_result t;
        int64_t allocations = engine_allocations(k->engine);
        enum status s = stop_before(k, err, "generated token %d of %d", step + 1, most);
        if (s != STATUS_OK) return s;
        nvtx_begin(k->env->nvtx, NVTX_TOKEN, NULL, step);
        in_step(k, true);
        s = session_generate(k->session, &t, err);
        in_step(k, false);
        nvtx_end(k->env->nvtx, NVTX_TOKEN);
        k->out->step_allocations += engine_allocations(k->engine) - allocations;
        if (s != STATUS_OK) return error_prefix(err, s, "generated token %d", step);
        if (step == 0) *first_ns = t.latency_ns;
        struct decode_row row = {.repeat = pass,
                                 .step = step,
                                 .token_id = t.id,
                                 .latency_ns = t.latency_ns,
                                 .logprob = t.logprob};
        s = result_add_decode(k->out, &row, err);
        if (s == STATUS_OK) s = look_at_token(k, pass, step, &t, err);
        if (s != STATUS_OK) return s;
        struct event e = {.kind = EVENT_DECODE,
                          .repeat = pass,
                          .chunk = step + 1,
                          .chunks = most,
                          .n_tokens = 1,
                          .tokens_done = k->prompt.length,
                          .tokens_total = k->prompt.length,
                          .latency_ns = t.latency_ns};
        send_event(k, &e);
        if (t.stop) break;
    }
    return STATUS_OK;
}

/* The words that were generated, for people. */
static enum status keep_text(struct case_run *k, struct error *err) {
    struct case_result *out = k->out;
    size_t bytes = 1;
    for (int i = 0; i < out->n_output; i++)
        bytes += engine_token_text(&k->plan->model, out->output[i], NULL, 0);
    out->output_text = malloc(bytes);
    if (!out->output_text) return error_set(err, STATUS_NO_MEMORY, "no memory for the output");
    size_t at = 0;
    out->output_text[0] = 0;
    for (int i = 0; i < out->n_output; i++)
        at += engine_token_text(&k->plan->model, out->output[i], out->output_text + at, bytes - at);
    return STATUS_OK;
}

/* ---- passes ---- */

/* What a measured pass says about the time to the first token. */
static void add_ttft(struct case_run *k, const struct stats_point *points, int64_t ttft_ns) {
    struct case_result *out = k->out;
    int n = k->n_chunks;
    if (k->c->coverage == COVER_SAMPLED) {
        struct stats_fit fit;
        struct stats_ttft ttft;
        stats_fit(points, n, &fit);
        stats_estimate_ttft(&fit, points, n, k->prompt.length, k->c->session.chunk_tokens, &ttft);
        ttft_ns = llround(ttft.ns);
        out->ttft_estimated = true;
        double c = k->c->session.chunk_tokens; /* of a whole chunk, in terms of its start */
        out->fit =
            (struct affine_fit){.base_ns = c * (fit.ns_per_token + fit.ns_per_token_depth * c / 2),
                                .slope_ns_per_token = c * fit.ns_per_token_depth,
                                .rms_relative = fit.rms_relative,
                                .n = fit.n};
        out->ttft_error = ttft.relative_error;
    }
    out->ttft_ns[out->n_ttft++] = ttft_ns;
}

/* A card at its power cap is slower than it was in its first seconds: samples of a long run are
 * taken in the state in which it would spend that run. */
static enum status reach_steady_state(struct case_run *k, struct error *err) {
    const int64_t begin = now_ns();
    enum status s = STATUS_OK;
    if (k->c->coverage != COVER_SAMPLED || k->c->engine.device != DEVICE_CUDA) return s;
    while (s == STATUS_OK && !stopped(k) &&
           now_ns() < begin + (int64_t)STEADY_STATE_S * 1000000000) {
        struct chunk_result r;
        s = session_reset(k->session, err);
        in_step(k, true);
        if (s == STATUS_OK)
            s = session_prefill(k->session, k->prompt.tokens, chunk_tokens(k, 0), &r, err);
        in_step(k, false);
    }
    return s == STATUS_OK ? s : error_prefix(err, s, "before the first sample");
}

/* The spot check of what the pass has kept. What there is no time for stays unchecked: the pass is
 * measured. */
static enum status check_rows(struct case_run *k, struct error *err) {
    const int n = check_spot_points(k->spot);
    for (int i = 0; i < n; i++) {
        enum status s = stop_before(k, err, "row %d of %d of the spot check", i + 1, n);
        if (s == STATUS_TIMEOUT) {
            err->text[0] = 0;
            break;
        }
        if (s == STATUS_OK) s = check_spot_run(k->spot, k->session, i, err);
        if (s != STATUS_OK) return s;
    }
    return STATUS_OK;
}

/* One pass, from its first chunk to its last generated token. */
static enum status run_pass(struct case_run *k, int pass, struct stats_point *points,
                            struct error *err) {
    int64_t prefill_ns, first_ns = 0;
    k->tracing = pass == -1 && traces_warm_up(k) && enable_spans(k, NULL) == STATUS_OK;
    const bool spot = k->spot && pass == -(int)k->plan->config.warmup;
    enum status s = prefill(k, pass, spot, points, &prefill_ns, err);
    if (k->tracing) session_spans_enable(k->session, 0, NULL);
    k->tracing = false;
    const bool whole = session_position(k->session) == k->prompt.length;
    if (s == STATUS_OK && pass >= 0) {
        if (k->c->coverage == COVER_FULL && whole) s = generate(k, pass, &first_ns, err);
        if (s == STATUS_OK) add_ttft(k, points, prefill_ns + first_ns);
    }
    return s == STATUS_OK && spot ? check_rows(k, err) : s;
}

/* Whether a pass as long as the last one would end after the time is up. */
static bool lacks_time(const struct case_run *k, int64_t last_pass_ns) {
    return k->env->limit && time_is_up(k->env->limit, now_ns() + last_pass_ns);
}

/* No repeats from this one on, which the time cut or kept from beginning. What was measured until
 * then stands. */
static enum status end_repeats(struct case_run *k, int pass, struct error *err) {
    result_drop_repeat(k->out, pass);
    k->out->repeats = pass;
    err->text[0] = 0;
    return STATUS_OK;
}

/* Warm-up and measured passes: at least one of these, then as many as there is time for. */
static enum status run_passes(struct case_run *k, struct error *err) {
    struct case_result *out = k->out;
    const struct config *config = &k->plan->config;
    const int warmup = (int)config->warmup, repeats = (int)config->repeats;
    struct stats_point *points = calloc((size_t)k->n_chunks, sizeof *points);
    out->ttft_ns = calloc((size_t)repeats, sizeof *out->ttft_ns);
    out->output = calloc((size_t)k->c->session.max_tokens + 1, sizeof *out->output);
    enum status s = STATUS_OK;
    if (!points || !out->ttft_ns || !out->output)
        s = error_set(err, STATUS_NO_MEMORY, "no memory for the rows of a case");
    if (s == STATUS_OK) s = reach_steady_state(k, err);
    int64_t pass_ns = 0;
    for (int pass = -warmup; s == STATUS_OK && pass < repeats; pass++) {
        const int64_t begin_ns = now_ns();
        if (pass > 0 && lacks_time(k, pass_ns)) {
            s = end_repeats(k, pass, err);
            break;
        }
        nvtx_begin(k->env->nvtx, NVTX_PASS, pass < 0 ? "warm-up" : "repeat", pass);
        s = run_pass(k, pass, points, err);
        nvtx_end(k->env->nvtx, NVTX_PASS);
        if (pass > 0 && s == STATUS_TIMEOUT) {
            s = end_repeats(k, pass, err);
            break;
        }
        k->position = session_position(k->session);
        pass_ns = now_ns() - begin_ns;
    }
    free(points);
    return s;
}

/* All chunks once more, for their spans. Their latencies are nobody's. */
static enum status trace_all(struct case_run *k, struct error *err) {
    enum status s = session_reset(k->session, err);
    for (int i = 0; s == STATUS_OK && i < k->n_chunks; i++) {
        struct chunk_result r = {0};
        bool fed;
        s = stop_before(k, err, "chunk %d of %d", i + 1, k->n_chunks);
        if (s == STATUS_OK) s = reach_chunk(k, i, err);
        if (s == STATUS_OK) s = feed_chunk(k, k->out->repeats, k->chunks[i], &r, &fed, err);
        if (s == STATUS_OK)
            s = keep_spans(k, k->out->repeats, k->chunks[i], &r, fed && is_traced(k, i), err);
    }
    return s;
}

/* The last chunk once more, on the cache that it found. */
static enum status trace_last(struct case_run *k, struct error *err) {
    const int chunk = k->chunks[k->n_chunks - 1];
    struct chunk_result r = {0};
    bool fed;
    enum status s = session_rewind(k->session, chunk_start(k, chunk), err);
    if (s == STATUS_OK) s = feed_chunk(k, k->out->repeats, chunk, &r, &fed, err);
    return s == STATUS_OK ? keep_spans(k, k->out->repeats, chunk, &r, fed, err) : s;
}

/* Whether the last chunk takes so small a part of the measured time that it may run once more. */
static bool last_is_short(const struct case_run *k) {
    int64_t all_ns = 0, last_ns = INT64_MAX; /* of the fastest repeat */
    for (int64_t i = 0; i < k->out->n_chunks; i++) {
        const struct chunk_row *row = &k->out->chunks[i];
        all_ns += row->latency_ns;
        if (row->chunk == k->c->chunks - 1 && row->latency_ns < last_ns) last_ns = row->latency_ns;
    }
    return last_ns <= all_ns / SHORT_PART;
}

/* Spans after the repeats. The case stands without them, and gets a reason: some of them are none.
 * STATUS_INTERRUPTED: all were asked for, and are still to come. */
static enum status add_spans(struct case_run *k, char *reason, size_t size, struct error *err) {
    const bool all = strcmp(k->plan->config.spans, "all") == 0;
    const bool last =
        strcmp(k->plan->config.spans, "auto") == 0 && !traces_warm_up(k) && last_is_short(k);
    if (!all && !last) return STATUS_OK;
    nvtx_begin(k->env->nvtx, NVTX_PASS, "spans", k->out->repeats);
    enum status s = all ? STATUS_OK : stop_before(k, err, "the last chunk's spans");
    if (s == STATUS_OK) s = enable_spans(k, err);
    if (s == STATUS_OK) s = all ? trace_all(k, err) : trace_last(k, err);
    session_spans_enable(k->session, 0, NULL);
    nvtx_end(k->env->nvtx, NVTX_PASS);
    if (s == STATUS_OK) return s;
    k->out->n_spans = k->out->dropped_spans = k->out->n_traced = 0;
    k->out->n_buffers = k->out->n_buffer_uses = 0;
    k->out->counted = false;
    if (all && s == STATUS_INTERRUPTED) return error_prefix(err, s, "spans");
    snprintf(reason, size, "spans are missing: %.160s", err->text);
    err->text[0] = 0;
    return STATUS_OK;
}

/* ---- opening and closing ---- */

/* The chunk that [trace] profile_chunk means: where the wanted one does not run, the next. */
static int profiled_chunk(const struct case_run *k) {
    const char *wanted = k->plan->config.profile_chunk;
    if (strcmp(wanted, "none") == 0) return -1;
    int i = k->n_chunks - 1;
    if (strcmp(wanted, "last") != 0)
        while (i > 0 && k->chunks[i - 1] >= atoi(wanted)) i--;
    return k->chunks[i];
}

static enum status choose_chunks(struct case_run *k, struct error *err) {
    k->chunks = calloc((size_t)k->c->chunks, sizeof *k->chunks);
    if (!k->chunks)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d chunks", k->c->chunks);
    if (k->c->coverage == COVER_SAMPLED) {
        k->n_chunks = plan_sampled_chunks(k->c->chunks, k->c->sampled, k->chunks);
    } else {
        k->n_chunks = k->c->chunks;
        for (int i = 0; i < k->n_chunks; i++) k->chunks[i] = i;
    }
    k->profiled = profiled_chunk(k);
    return STATUS_OK;
}

static enum status open_prompt(struct case_run *k, struct error *err) {
    enum status s =
        prompt_make(&k->prompt, k->c->prompt, &k->plan->model, k->c->session.prompt_tokens,
                    case_pattern(k), (uint64_t)k->plan->config.prompt_seed, err);
    if (s != STATUS_OK) return s;
    if (strcmp(k->prompt.file_sha256, k->c->text_sha256) != 0)
        return error_set(err, STATUS_IO,
                         "%s has changed since the run was planned: its sha256 was %s, is %s",
                         k->c->prompt, k->c->text_sha256, k->prompt.file_sha256);
    memcpy(k->out->prompt_sha256, k->prompt.sha256, sizeof k->out->prompt_sha256);
    if (!k->prompt.has_answer) return STATUS_OK;
    size_t n = (size_t)k->prompt.needle.answer_length;
    k->out->expected = malloc(n * sizeof *k->out->expected);
    if (!k->out->expected) return error_set(err, STATUS_NO_MEMORY, "no memory for the answer");
    memcpy(k->out->expected, k->prompt.needle.answer, n * sizeof *k->out->expected);
    k->out->n_expected = (int)n;
    return STATUS_OK;
}

static enum status open_checks(struct case_run *k, struct error *err) {
    const struct config *config = &k->plan->config;
    enum status s = STATUS_OK;
    k->logits = malloc(sizeof(float) * (size_t)k->plan->model.V);
    if (!k->logits) return error_set(err, STATUS_NO_MEMORY, "no memory for a row of logits");
    if (config->spot > 0)
        s = check_spot_open(&k->spot, engine_info(k->engine), k->c, k->chunks, k->n_chunks,
                            config->spot, (uint64_t)config->prompt_seed, err);
    if (s == STATUS_OK && config->truth && k->prompt.has_answer && k->c->coverage == COVER_FULL)
        s = check_logits_open(&k->answer, &k->plan->model, &k->prompt, case_pattern(k), err);
    return s;
}

static enum status open_case(struct case_run *k, struct error *err) {
    enum status s = choose_chunks(k, err);
    if (s == STATUS_OK) s = open_prompt(k, err);
    if (s == STATUS_OK) s = open_checks(k, err);
    if (s != STATUS_OK) return s;
    struct session_opts opts = k->c->session;
    opts.taps = k->spot != NULL;
    int64_t begin = now_ns();
    in_step(k, true);
    s = session_open(&k->session, k->engine, &opts, err);
    in_step(k, false);
    k->out->session_ns = now_ns() - begin;
    if (s != STATUS_OK) return s;
    session_graph_info(k->session, &k->out->graph_info);
    k->out->exchange_overlap = session_overlaps(k->session);
    return STATUS_OK;
}

/* Why a check did not run, where it has not said so itself. */
static void not_checked(struct case_result *out, enum check check, const char *why) {
    struct check_result *c = &out->check[check];
    if (c->verdict == VERDICT_NOT_CHECKED && !c->detail[0])
        snprintf(c->detail, sizeof c->detail, "%s", why);
}

/* Verdicts of a case that ran to its end: what result_init() said about it is over. */
static void judge(struct case_run *k) {
    struct case_result *out = k->out;
    const struct config *config = &k->plan->config;
    for (int i = 0; i < CHECKS; i++)
        if (out->check[i].verdict != VERDICT_FAILED) out->check[i].detail[0] = 0;
    check_count(out, k->position);
    if (out->n_output > 0 && config->truth && k->prompt.has_answer)
        check_tokens(&out->check[CHECK_TOKENS], &k->plan->model, &k->prompt, out->output,
                     out->n_output, k->c->session.max_tokens);
    if (k->answer) check_logits_finish(k->answer, &out->check[CHECK_LOGITS]);
    k->answer = NULL;
    check_spot_finish(k->spot, &out->check[CHECK_SPOT]);
    k->spot = NULL;
    not_checked(out, CHECK_INVARIANCE,
                config->invariance ? "the run ended before it compared its cases"
                                   : "switched off: [check] invariance = false");
    static const enum check of_output[] = {CHECK_TOKENS, CHECK_LOGITS, CHECK_FINITE};
    for (size_t i = 0; i < sizeof of_output / sizeof of_output[0]; i++) {
        const char *why = k->c->coverage == COVER_SAMPLED ? "sampled coverage produces no answer"
                          : out->n_output == 0            ? "nothing was generated"
                          : !k->prompt.has_answer         ? "the answer to this prompt is not known"
                                                          : "switched off: [check] truth = false";
        not_checked(out, of_output[i], why);
    }
}

static void close_case(struct case_run *k) {
    struct check_result unused;
    if (k->answer) check_logits_finish(k->answer, &unused);
    if (k->spot) check_spot_finish(k->spot, &unused);
    session_close(k->session);
    prompt_free(&k->prompt);
    free(k->chunks);
    free(k->logits);
}

void worker_keep_facts(const struct engine *e, struct case_result *out) {
    const struct engine_info *info = engine_info(e);
    const char *attention = info->device[0].variant[OP_ATTENTION];
    const char *linear = info->device[0].variant[OP_LINEAR];
    const char *exchange = info->device[0].variant[OP_EXCHANGE];
    out->devices = info->devices, out->memories = info->memories;
    out->load_ns = info->load_ns;
    if (attention) snprintf(out->attention, sizeof out->attention, "%s", attention);
    if (linear) snprintf(out->linear, sizeof out->linear, "%s", linear);
    snprintf(out->attention_note, sizeof out->attention_note, "%s", info->device[0].attention_note);
    if (exchange) snprintf(out->exchange, sizeof out->exchange, "%s", exchange);
}

static void add_reason(struct case_result *out, const char *reason) {
    const size_t used = strlen(out->reason);
    if (reason[0])
        snprintf(out->reason + used, sizeof out->reason - used, "%s%.399s", used ? "; " : "",
                 reason);
}

/* What a case that ran to its end lacks. */
static void explain_case(const struct case_run *k, const char *no_spans) {
    struct case_result *out = k->out;
    const int planned = (int)k->plan->config.repeats;
    char fewer[100] = "";
    if (out->repeats < planned)
        snprintf(fewer, sizeof fewer, "time: %d of %d repeats, for time_budget allowed no more",
                 out->repeats, planned);
    out->reason[0] = 0;
    add_reason(out, fewer);
    add_reason(out, no_spans);
    add_reason(out, k->no_timeline);
    add_reason(out, k->c->reason);
}

enum status worker_run_case(struct engine *e, const struct plan *p, const struct case_plan *c,
                            const struct case_env *env, struct case_result *out,
                            struct error *err) {
    struct error local;
    if (!err) err = &local;
    err->text[0] = 0;
    result_init(out, c);
    struct case_run k = {.engine = e, .plan = p, .c = c, .env = env, .out = out};
    out->repeats = (int)p->config.repeats;
    worker_keep_facts(e, out);
    enum status s = open_case(&k, err);
    if (s == STATUS_OK) s = run_passes(&k, err);
    if (s == STATUS_OK) s = keep_text(&k, err);
    if (s == STATUS_OK) judge(&k);
    char no_spans[190] = "";
    if (s == STATUS_OK) s = add_spans(&k, no_spans, sizeof no_spans, err);
    if (s == STATUS_OK) check_memory(out);
    close_case(&k);
    out->status = s == STATUS_OK            ? CASE_OK
                  : s == STATUS_INTERRUPTED ? CASE_INTERRUPTED
                  : s == STATUS_TIMEOUT     ? CASE_SKIPPED
                                            : CASE_FAILED;
    if (s == STATUS_OK)
        explain_case(&k, no_spans);
    else
        snprintf(out->reason, sizeof out->reason, "%.599s", err->text);
    return s;
}
