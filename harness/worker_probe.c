/* Some chunks of a case once more, under a probe: for the records of CUPTI, and for what a probe
 * costs. No answer is made and none is checked: the cache before a chunk holds synthetic values, so
 * a chunk deep in a long prompt costs no more than itself. Before it: worker.c. */
#include "harness/format.h"
#include "harness/prompt.h"
#include "harness/worker.h"
#include "kernels/activity/activity.h"
#include "kernels/nvtx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct probing {
    struct engine *engine;
    const struct plan *plan;
    const struct case_plan *c;
    const struct case_env *env;
    struct case_result *out;
    struct session *session; /* owned */
    struct prompt prompt;    /* owned */
    int *chunks;             /* numbers of those that run, ascending; owned */
    int n_chunks;
    int warmup, repeats; /* times that each runs: a trace is of one, after one */
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int32_t start_of(const struct probing *k, int chunk) {
    return chunk * k->c->session.chunk_tokens;
}

static int32_t tokens_of(const struct probing *k, int chunk) {
    const int32_t left = k->prompt.length - start_of(k, chunk);
    return left < k->c->session.chunk_tokens ? left : k->c->session.chunk_tokens;
}

static enum status stop_here(const struct probing *k, struct error *err) {
    char why[100];
    if (k->env->stop && __atomic_load_n(k->env->stop, __ATOMIC_RELAXED) != 0)
        return error_set(err, STATUS_INTERRUPTED, "stopped between two chunks");
    if (!k->env->limit || !time_is_up(k->env->limit, now_ns())) return STATUS_OK;
    time_used_up(k->env->limit, why, sizeof why);
    return error_set(err, STATUS_TIMEOUT, "time: %s", why);
}

static void in_step(const struct probing *k, bool inside) {
    if (k->env->in_step) k->env->in_step(k->env->ctx, inside);
}

/* ---- a chunk */

/* The cache is synthetic up to where a chunk begins; the second time it is there already. */
static enum status go_to(struct probing *k, int chunk, struct error *err) {
    const int32_t start = start_of(k, chunk);
    if (session_position(k->session) > start) return session_rewind(k->session, start, err);
    return session_skip_to(k->session, start, (uint64_t)k->c->seed, err);
}

/* What is not the chunk's is forgotten. */
static void begin_probe(struct probing *k) {
    if (k->env->activity) activity_reset(k->env->activity);
    if (k->env->probe == PROBE_SPANS) session_spans_reset(k->session);
}

static enum status feed(struct probing *k, int pass, int chunk, struct chunk_result *r,
                        struct error *err) {
    const int32_t start = start_of(k, chunk);
    const struct nvtx_chunk range = {chunk, start, tokens_of(k, chunk)};
    const struct bench_hooks *hooks = k->env->hooks;
    nvtx_begin_chunk(k->env->nvtx, &range);
    in_step(k, true);
    if (hooks && hooks->before_probed)
        hooks->before_probed(hooks->before_chunk_ctx, k->c->id, pass, chunk);
    const enum status s =
        session_prefill(k->session, k->prompt.tokens + start, range.tokens, r, err);
    in_step(k, false);
    nvtx_end(k->env->nvtx, NVTX_CHUNK_RANGE);
    return s;
}

static void tell(const struct probing *k, int pass, int i, const struct chunk_result *r) {
    const struct event e = {.kind = EVENT_CHUNK,
                            .repeat = pass,
                            .chunk = i + 1,
                            .chunks = k->n_chunks,
                            .n_tokens = r->n_tokens,
                            .tokens_done = r->start_token + r->n_tokens,
                            .tokens_total = k->prompt.length,
                            .latency_ns = r->latency_ns};
    if (k->env->send) k->env->send(k->env->ctx, &e);
}

/* What the probe saw of the newest chunk; of CUPTI only the last time counts. */
static enum status keep(struct probing *k, int pass, int chunk, const struct chunk_result *r,
                        struct error *err) {
    const struct chunk_row row = worker_chunk_row(pass, chunk, r);
    enum status s = STATUS_OK;
    if (k->env->probe != PROBE_TRACE) s = result_add_chunk(k->out, &row, err);
    if (s != STATUS_OK || !k->env->activity || pass < k->repeats - 1) return s;
    s = result_add_kernel_chunk(k->out, &row, err);
    return s == STATUS_OK
               ? activity_take(k->env->activity, pass, chunk, &k->out->kernel_trace.log, err)
               : s;
}

/* The same where a profiler that was told to wait captures it. */
static enum status feed_captured(struct probing *k, int pass, int chunk, struct chunk_result *r,
                                 struct error *err) {
    if (k->env->probe != PROBE_ONCE) return feed(k, pass, chunk, r, err);
    engine_profile(k->engine, true);
    nvtx_begin(k->env->nvtx, NVTX_PROFILE, NULL, chunk);
    const enum status s = feed(k, pass, chunk, r, err);
    nvtx_end(k->env->nvtx, NVTX_PROFILE);
    engine_profile(k->engine, false);
    return s;
}

static enum status run_once(struct probing *k, int pass, int i, struct error *err) {
    const int chunk = k->chunks[i];
    struct chunk_result r = {0};
    char name[FORMAT_BYTES];
    enum status s = stop_here(k, err);
    if (s == STATUS_OK) s = go_to(k, chunk, err);
    if (s != STATUS_OK) return s;
    begin_probe(k);
    s = feed_captured(k, pass, chunk, &r, err);
    if (s != STATUS_OK)
        return error_prefix(err, s, "chunk %d of %d, %s", chunk + 1, k->c->chunks,
                            format_pass(name, pass, k->warmup));
    tell(k, pass, i, &r);
    return pass >= 0 ? keep(k, pass, chunk, &r, err) : STATUS_OK;
}

static enum status run_chunks(struct probing *k, struct error *err) {
    enum status s = STATUS_OK;
    nvtx_begin(k->env->nvtx, NVTX_PASS, probe_name(k->env->probe), 0);
    for (int i = 0; s == STATUS_OK && i < k->n_chunks; i++)
        for (int pass = -k->warmup; s == STATUS_OK && pass < k->repeats; pass++)
            s = run_once(k, pass, i, err);
    nvtx_end(k->env->nvtx, NVTX_PASS);
    return s;
}

/* ---- opening */

static enum status choose_chunks(struct probing *k, struct error *err) {
    enum { SPREAD = 5 };
    const struct config *config = &k->plan->config;
    const char *wanted = k->env->probe == PROBE_ONCE ? config->profile_chunk : config->cupti;
    const int n = k->c->chunks;
    k->chunks = calloc((size_t)n, sizeof *k->chunks);
    if (!k->chunks) return error_set(err, STATUS_NO_MEMORY, "no memory for %d chunks", n);
    if (strcmp(wanted, "all") == 0 || (strcmp(wanted, "spread") == 0 && n <= SPREAD)) {
        for (k->n_chunks = 0; k->n_chunks < n; k->n_chunks++) k->chunks[k->n_chunks] = k->n_chunks;
    } else if (strcmp(wanted, "spread") == 0) {
        k->n_chunks = plan_sampled_chunks(n, SPREAD, k->chunks);
    } else {
        const bool number = strcmp(wanted, "last") != 0 && strcmp(wanted, "none") != 0;
        const int chunk = number ? atoi(wanted) : n - 1;
        k->chunks[k->n_chunks++] = chunk < n ? chunk : n - 1;
    }
    return STATUS_OK;
}

static enum status open_prompt(struct probing *k, struct error *err) {
    const struct attention_pattern plain = {0, 0};
    return prompt_make(&k->prompt, k->c->prompt, &k->plan->model, k->c->session.prompt_tokens,
                       k->c->engine.dual_chunk_attention ? k->plan->model.dual_chunk : plain,
                       (uint64_t)k->plan->config.prompt_seed, err);
}

/* Room for the spans of the largest of the chunks. */
static enum status open_spans(struct probing *k, struct error *err) {
    int64_t ops = 0;
    if (k->env->probe != PROBE_SPANS) return STATUS_OK;
    for (int i = 0; i < k->n_chunks; i++) {
        const struct chunk_cost cost =
            engine_chunk_cost(&k->plan->model, &k->c->engine, start_of(k, k->chunks[i]),
                              tokens_of(k, k->chunks[i]), k->chunks[i] == k->c->chunks - 1);
        if (cost.ops > ops) ops = cost.ops;
    }
    return session_spans_enable(k->session, 2 * ops + 256, err);
}

static enum status open_session(struct probing *k, struct error *err) {
    struct session_opts opts = k->c->session;
    if (k->env->probe == PROBE_ONCE) opts.taps = false; /* no row is checked */
    in_step(k, true);
    const enum status s = session_open(&k->session, k->engine, &opts, err);
    in_step(k, false);
    return s;
}

static enum status open_all(struct probing *k, struct error *err) {
    enum status s = choose_chunks(k, err);
    if (s == STATUS_OK) s = open_prompt(k, err);
    if (s == STATUS_OK) s = open_session(k, err);
    if (s == STATUS_OK) s = session_reset(k->session, err);
    return s == STATUS_OK ? open_spans(k, err) : s;
}

static void close_all(struct probing *k) {
    session_close(k->session);
    prompt_free(&k->prompt);
    free(k->chunks);
}

/* Nothing of the case is known but how long that took. */
static void say_once(const struct probing *k, struct case_result *out) {
    char took[FORMAT_BYTES];
    out->coverage = COVER_SAMPLED;
    out->ttft_estimated = false;
    snprintf(out->reason, sizeof out->reason,
             "chunk %d of %d alone, once, cold, against a synthetic cache (--once)%s%s",
             k->chunks[0] + 1, k->c->chunks, out->n_chunks > 0 ? ": " : "",
             out->n_chunks > 0 ? format_ns(took, out->chunks[0].latency_ns) : "");
    for (int i = 0; i < CHECKS; i++)
        snprintf(out->check[i].detail, sizeof out->check[i].detail, "one chunk alone ran");
}

enum status worker_probe_case(struct engine *e, const struct plan *p, const struct case_plan *c,
                              const struct case_env *env, struct case_result *out,
                              struct error *err) {
    const bool trace = env->probe == PROBE_TRACE;
    struct probing k = {.engine = e,
                        .plan = p,
                        .c = c,
                        .env = env,
                        .out = out,
                        .warmup = trace ? 1 : (int)p->config.warmup,
                        .repeats = trace ? 1 : (int)p->config.repeats};
    result_init(out, c);
    worker_keep_facts(e, out);
    out->repeats = k.repeats;
    out->kernel_trace.wanted = env->activity != NULL;
    if (env->activity) out->kernel_trace.cupti_version = activity_version(env->activity);
    enum status s = open_all(&k, err);
    if (s == STATUS_OK) s = run_chunks(&k, err);
    const bool once = s == STATUS_OK && env->probe == PROBE_ONCE;
    if (once) say_once(&k, out);
    close_all(&k);
    out->status = s == STATUS_OK            ? CASE_OK
                  : s == STATUS_INTERRUPTED ? CASE_INTERRUPTED
                  : s == STATUS_TIMEOUT     ? CASE_SKIPPED
                                            : CASE_FAILED;
    if (!once) snprintf(out->reason, sizeof out->reason, "%.599s", s == STATUS_OK ? "" : err->text);
    return s;
}
