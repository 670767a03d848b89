/* See overhead.h. */
#include "harness/overhead.h"

#include "harness/record.h"
#include "harness/stats.h"
#include "harness/suggest.h"
#include "kernels/nvtx.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the cases ---- */

static enum status no_case(const struct plan *p, const char *id, struct error *err) {
    const char **ids = calloc((size_t)p->n + 1, sizeof *ids);
    if (!ids) return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", p->n);
    for (int i = 0; i < p->n; i++) ids[i] = p->cases[i].id;
    const int nearest = suggest_nearest(id, ids, p->n);
    error_set(err, STATUS_USAGE, "no case '%s'%s%s; `bench plan` lists them", id,
              nearest >= 0 ? "; did you mean " : "", nearest >= 0 ? ids[nearest] : "");
    free(ids);
    return STATUS_USAGE;
}

/* Whether two cases differ in nothing but eager or graph. */
static bool same_but_mode(const struct case_plan *a, const struct case_plan *b) {
    return a->session.graph != b->session.graph && strcmp(a->prompt, b->prompt) == 0 &&
           a->session.prompt_tokens == b->session.prompt_tokens &&
           a->max_num_batched_tokens == b->max_num_batched_tokens && a->launch == b->launch;
}

static void find_cases(struct overhead *o, const struct case_plan *c) {
    o->mode[c->session.graph] = c;
    for (int i = 0; i < o->plan->n; i++)
        if (same_but_mode(c, &o->plan->cases[i])) o->mode[!c->session.graph] = &o->plan->cases[i];
}

static int chunk_of(const struct plan *p, const struct case_plan *c) {
    const char *wanted = p->config.cupti;
    const bool number = wanted[0] >= '0' && wanted[0] <= '9';
    return number && atoi(wanted) < c->chunks ? atoi(wanted) : c->chunks - 1;
}

static const struct {
    enum probe probe;
    bool graph;
} arms[OVERHEAD_ARMS] = {{PROBE_NONE, false},  {PROBE_SPANS, false}, {PROBE_NVTX, false},
                         {PROBE_CUPTI, false}, {PROBE_NONE, true},   {PROBE_CUPTI, true}};

static enum status open_arm(struct overhead *o, int i, struct error *err) {
    struct overhead_arm *a = &o->arm[i];
    const char *listener = getenv("NVTX_INJECTION64_PATH");
    a->probe = arms[i].probe, a->graph = arms[i].graph;
    a->latency_ns =
        calloc((size_t)o->rounds * (size_t)o->plan->config.repeats, sizeof *a->latency_ns);
    if (!a->latency_ns) return error_set(err, STATUS_NO_MEMORY, "no memory for the latencies");
    if (!o->mode[a->graph])
        snprintf(a->left_out, sizeof a->left_out, "the configuration has no such mode");
    else if (a->probe == PROBE_NVTX && !nvtx_built())
        snprintf(a->left_out, sizeof a->left_out, "built without NVTX's headers");
    else if (a->probe == PROBE_NVTX)
        a->note = listener && *listener ? "a tool listens" : "no tool listens";
    return STATUS_OK;
}

enum status overhead_open(struct overhead *o, const struct plan *p, const char *id, int rounds,
                          struct error *err) {
    const struct case_plan *c = plan_find(p, id);
    *o = (struct overhead){.plan = p, .rounds = rounds};
    if (!c) return no_case(p, id, err);
    if (c->coverage == COVER_SKIPPED)
        return error_set(err, STATUS_RUN_FAILED, "%s: %s", c->id, c->reason);
    find_cases(o, c);
    o->chunk = chunk_of(p, c);
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < OVERHEAD_ARMS; i++) s = open_arm(o, i, err);
    if (s != STATUS_OK) overhead_close(o);
    return s;
}

void overhead_close(struct overhead *o) {
    for (int i = 0; i < OVERHEAD_ARMS; i++) free(o->arm[i].latency_ns);
    memset(o, 0, sizeof *o);
}

/* ---- running ---- */

static void keep(struct overhead *o, struct overhead_arm *a, int round,
                 const struct case_result *r) {
    const int first = a->n, most = o->rounds * (int)o->plan->config.repeats;
    for (int64_t i = 0; i < r->n_chunks && a->n < most; i++)
        a->latency_ns[a->n++] = r->chunks[i].latency_ns;
    if (a->n > first) a->round_ns[round] = stats_median(a->latency_ns + first, a->n - first);
    if (r->kernel_trace.n_chunks > 0)
        a->kernels = r->kernel_trace.log.n_kernels / r->kernel_trace.n_chunks;
    a->dropped += r->kernel_trace.log.dropped;
}

/* What the worker left; its fragment makes place for the next one's. */
static enum status take(struct overhead *o, struct overhead_arm *a, int round, const char *dir,
                        struct error *err) {
    const char *id = o->mode[a->graph]->id;
    char path[2 * PATH_MAX_BYTES];
    struct case_result r;
    snprintf(path, sizeof path, "%s/case-%s.h5", dir, id);
    const enum status s = record_read_case(path, id, true, &r, err);
    unlink(path);
    if (s != STATUS_OK) return s;
    if (r.status == CASE_OK)
        keep(o, a, round, &r);
    else
        snprintf(a->left_out, sizeof a->left_out, "%.399s", r.reason);
    result_free(&r);
    return STATUS_OK;
}

static enum status run_arm(struct overhead *o, struct overhead_arm *a, int round,
                           struct launch_opts opts, struct error *err) {
    const struct case_plan *c = o->mode[a->graph];
    bool *pending = calloc((size_t)o->plan->n, sizeof *pending);
    if (!pending) return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", o->plan->n);
    pending[c - o->plan->cases] = true;
    opts.probe = a->probe;
    enum status s = launch_run(o->plan, c->launch, pending, &opts, NULL, err);
    if (s == STATUS_OK) s = take(o, a, round, opts.dir, err);
    free(pending);
    return s;
}

/* Each round begins with another arm: what drifts meets all of them. */
enum status overhead_run(struct overhead *o, const struct launch_opts *opts,
                         overhead_observer *observer, void *ctx, struct error *err) {
    enum status s = STATUS_OK;
    for (int round = 0; round < o->rounds; round++)
        for (int i = 0; i < OVERHEAD_ARMS; i++) {
            struct overhead_arm *a = &o->arm[(round + i) % OVERHEAD_ARMS];
            if (a->left_out[0]) continue;
            if (observer) observer(ctx, round, a);
            s = run_arm(o, a, round, *opts, err);
            if (s != STATUS_OK) return s;
            if (a->left_out[0] && a->probe == PROBE_NONE && !a->graph)
                return error_set(err, STATUS_RUN_FAILED, "%s: %s", o->mode[a->graph]->id,
                                 a->left_out);
        }
    return s;
}

/* ---- ratios ---- */

const struct overhead_arm *overhead_none(const struct overhead *o, const struct overhead_arm *a) {
    int i = 0;
    while (o->arm[i].probe != PROBE_NONE || o->arm[i].graph != a->graph) i++;
    return &o->arm[i];
}

double overhead_ratio(const struct overhead *o, const struct overhead_arm *a, double *least,
                      double *most) {
    const struct overhead_arm *none = overhead_none(o, a);
    *least = *most = (double)NAN;
    if (a->n == 0 || none->n == 0 || a->left_out[0] || none->left_out[0]) return (double)NAN;
    for (int i = 0; i < o->rounds; i++) {
        const double ratio = (double)a->round_ns[i] / (double)none->round_ns[i];
        *least = fmin(ratio, *least), *most = fmax(ratio, *most); /* fmin(x, NaN) is x */
    }
    return (double)stats_median(a->latency_ns, a->n) /
           (double)stats_median(none->latency_ns, none->n);
}
