/* What a person sees while a run goes on. Owns the live line of the terminal.
 * Before it: launch.c, whose events it hears; after it: the final table of cmd_run.c. */
#include "harness/progress.h"

#include "harness/format.h"
#include "harness/predict.h"
#include "harness/stats.h"
#include "harness/terminal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t redraw_ns = 100000000, log_ns = 10000000000;
enum { LINE_BYTES = 512, FALLBACK_WIDTH = 80 };

struct progress {
    const struct plan *plan;
    struct progress_opts opts;
    int cases, number; /* to run; the one at work, from 1 */
    const struct case_plan *c;
    struct event last; /* chunk or token */
    int64_t resident_bytes;
    bool loading, drawn, wrong; /* wrong: a check of the case at work failed */
    int64_t drawn_ns, logged_ns, case_begin_ns;
    /* what the ETA is made of, in predicted and in real seconds */
    double predicted_all_s, predicted_done_s, real_done_s; /* of finished cases */
    double predicted_case_s;                               /* done of the case at work */
    int64_t heard_ns;
};

/* ---- the ETA ---- */

static double chunk_s(const struct progress *s, const struct case_plan *c, const struct event *e) {
    int64_t start = e->tokens_done - e->n_tokens;
    struct chunk_cost cost = engine_chunk_cost(&s->plan->model, &c->engine, start, e->n_tokens,
                                               e->tokens_done >= c->session.prompt_tokens);
    return predict_chunk_s(&cost, c->engine.device, &c->rates);
}

double progress_eta_s(const struct progress *s, int64_t now_ns, bool *measured) {
    double predicted = s->predicted_done_s + s->predicted_case_s, real = s->real_done_s, beside = 0;
    if (s->c && s->predicted_case_s > 0) {
        real += (double)(s->heard_ns - s->case_begin_ns) / 1e9;
        /* The real time holds opening and checks, too, the chunks' prediction does not. Their
         * predicted time on both sides keeps the first chunks from seeming slow for it. */
        beside = s->c->predicted_fixed_s;
    }
    *measured = predicted > 0 && real > 0;
    double left = s->predicted_all_s - predicted;
    if (left < 0) left = 0;
    left *= *measured ? (real + beside) / (predicted + beside) : 1;
    if (s->c) left -= (double)(now_ns - s->heard_ns) / 1e9;
    return left > 0 ? left : 0;
}

/* ---- the line ---- */

/* How much a line says; each level drops what the one after it says more. */
enum detail { PLACE, PLACE_AND_ETA, WITH_PASS, WITH_RATE, EVERYTHING };

static void eta_text(const struct progress *s, int64_t now_ns, bool brief, char *out, size_t size) {
    char seconds[FORMAT_BYTES];
    bool measured;
    double eta = progress_eta_s(s, now_ns, &measured);
    format_seconds(seconds, (double)(int64_t)(eta + 0.5));
    snprintf(out, size, "ETA %s%s%s", measured || eta < 1 ? "" : "about ",
             eta < 1 ? "under 1 s" : seconds, measured || brief ? "" : " (predicted)");
}

/* Where it is: "chunk 5/8". */
static void place_text(const struct progress *s, bool brief, char *out, size_t size) {
    const struct event *e = &s->last;
    if (s->loading)
        snprintf(out, size, "%s", brief ? "loading" : "loading the model");
    else if (e->kind == EVENT_CHUNK || e->kind == EVENT_DECODE)
        snprintf(out, size, "%s %d/%d", e->kind == EVENT_CHUNK ? "chunk" : "token", e->chunk,
                 e->chunks);
    else
        snprintf(out, size, "starting");
}

/* "chunk 5/8, repeat 1/3, 812 tok/s, 1.50 GiB, ETA 12 s", or the fields of it that `detail` names.
 */
static void state_text(const struct progress *s, int64_t now_ns, enum detail detail, char *out,
                       size_t size) {
    const struct event *e = &s->last;
    bool brief = detail <= PLACE_AND_ETA;
    bool fed = !s->loading && (e->kind == EVENT_CHUNK || e->kind == EVENT_DECODE);
    char place[60], eta[80], pass[40] = "", rate[FORMAT_BYTES + 10] = "",
                             memory[FORMAT_BYTES + 4] = "", number[FORMAT_BYTES];
    place_text(s, brief, place, sizeof place);
    eta_text(s, now_ns, brief, eta, sizeof eta);
    if (fed && detail >= WITH_PASS && e->repeat < 0)
        snprintf(pass, sizeof pass, ", warm-up");
    else if (fed && detail >= WITH_PASS)
        snprintf(pass, sizeof pass, ", repeat %d/%d", e->repeat + 1, (int)s->plan->config.repeats);
    if (fed && detail >= WITH_RATE)
        snprintf(rate, sizeof rate, ", %s tok/s",
                 format_tok_s(number, stats_tok_s(e->n_tokens, e->latency_ns)));
    if ((fed || s->loading) && detail >= EVERYTHING && s->resident_bytes > 0)
        snprintf(memory, sizeof memory, ", %s", format_bytes(number, s->resident_bytes));
    snprintf(out, size, "%s%s%s%s%s%s", place, pass, rate, memory, detail > PLACE ? ", " : "",
             detail > PLACE ? eta : "");
}

static int line_width(const struct progress *s) {
    return s->opts.width > 0 ? s->opts.width : terminal_width(s->opts.stream, FALLBACK_WIDTH);
}

/* "[2/6] CASE  STATE" in at most width - 1 columns: the id gives way first, then field by field. */
static void live_text(const struct progress *s, int64_t now_ns, int width, char out[LINE_BYTES]) {
    char head[40], state[300];
    int number = s->c || s->number == s->cases ? s->number : s->number + 1; /* the next one loads */
    snprintf(head, sizeof head, "[%d/%d] ", number, s->cases);
    for (int detail = EVERYTHING; detail >= PLACE; detail--) {
        state_text(s, now_ns, (enum detail)detail, state, sizeof state);
        if ((int)(strlen(head) + strlen(state)) < width) break;
    }
    const char *id = s->c ? s->c->id : "";
    int room = width - 1 - (int)strlen(head) - (int)strlen(state) - 2, n = (int)strlen(id);
    if (n > 0 && room >= n)
        snprintf(out, LINE_BYTES, "%s%s  %s", head, id, state);
    else if (n > 0 && room >= 12)
        snprintf(out, LINE_BYTES, "%s%.*s...  %s", head, room - 3, id, state);
    else
        snprintf(out, LINE_BYTES, "%s%s", head, state);
    if (width < LINE_BYTES && (int)strlen(out) > width - 1) out[width > 1 ? width - 1 : 0] = 0;
}

static void clear_line(struct progress *s) {
    if (s->drawn) fputs("\r\033[K", s->opts.stream);
    s->drawn = false;
}

static void draw(struct progress *s, int64_t now_ns) {
    if (!s->opts.live || s->opts.quiet || now_ns - s->drawn_ns < redraw_ns) return;
    char line[LINE_BYTES];
    live_text(s, now_ns, line_width(s), line);
    fprintf(s->opts.stream, "\r%s\033[K", line);
    fflush(s->opts.stream);
    s->drawn = true;
    s->drawn_ns = now_ns;
}

/* ---- plain lines ---- */

static void log_line(struct progress *s, int64_t now_ns, const char *text) {
    clear_line(s);
    fprintf(s->opts.stream, "[%d/%d] %s%s%s\n", s->number, s->cases, s->c ? s->c->id : "",
            s->c ? ": " : "", text);
    fflush(s->opts.stream);
    s->logged_ns = now_ns;
}

static void log_begin(struct progress *s, int64_t now_ns) {
    char predicted[FORMAT_BYTES], text[200];
    if (s->opts.live || s->opts.quiet) return;
    snprintf(text, sizeof text, "begins%s, predicted %s",
             s->c->coverage == COVER_SAMPLED ? " (sampled)" : "",
             format_seconds(predicted, s->c->predicted_total_s));
    log_line(s, now_ns, text);
}

static void log_state(struct progress *s, int64_t now_ns) {
    char text[300];
    if (s->opts.live || s->opts.quiet || now_ns - s->logged_ns < log_ns) return;
    state_text(s, now_ns, EVERYTHING, text, sizeof text);
    log_line(s, now_ns, text);
}

static const char *colour(const struct progress *s, enum case_status status) {
    if (!s->opts.color) return "";
    if (s->wrong) return "\033[31m";
    return status == CASE_OK ? "\033[32m" : status == CASE_SKIPPED ? "\033[33m" : "\033[31m";
}

/* ---- what it hears ---- */

void progress_event(struct progress *s, int64_t now_ns, const struct case_plan *c,
                    const struct event *e) {
    if (e->resident_bytes > 0) s->resident_bytes = e->resident_bytes;
    switch (e->kind) {
    case EVENT_LOADING: s->loading = true; break;
    case EVENT_LOADED: s->loading = false; break;
    case EVENT_CASE_BEGIN:
        s->loading = false;
        if (s->c != c) s->number++;
        s->c = c;
        s->case_begin_ns = s->heard_ns = now_ns;
        s->predicted_case_s = 0;
        s->wrong = false;
        s->last = (struct event){0};
        log_begin(s, now_ns);
        break;
    case EVENT_CHUNK:
        s->predicted_case_s += chunk_s(s, c, e);
        if (s->predicted_case_s > c->predicted_total_s) s->predicted_case_s = c->predicted_total_s;
        s->heard_ns = now_ns;
        s->last = *e;
        log_state(s, now_ns);
        break;
    case EVENT_DECODE:
        s->heard_ns = now_ns;
        s->last = *e;
        log_state(s, now_ns);
        break;
    case EVENT_CASE_END: s->wrong = e->wrong; break;
    default: break;
    }
    draw(s, now_ns);
}

void progress_case_done(struct progress *s, int64_t now_ns, const struct case_plan *c,
                        enum case_status status, const char *reason) {
    if (s->c != c) { /* it never began: its worker died before */
        s->number++;
        s->c = c;
        s->case_begin_ns = now_ns;
        s->wrong = false;
    }
    bool bad = s->wrong || (status != CASE_OK && status != CASE_SKIPPED);
    if (bad || (!s->opts.live && !s->opts.quiet)) {
        char took[FORMAT_BYTES], text[1200];
        bool sampled = status == CASE_OK && c->coverage == COVER_SAMPLED;
        if (strcmp(reason, c->reason) == 0 && status == CASE_OK)
            reason = ""; /* why it was planned so: the plan's matter */
        format_ns(took, now_ns - s->case_begin_ns);
        snprintf(text, sizeof text, "%s%s%s in %s%s%s%s", colour(s, status),
                 s->wrong ? verdict_text(VERDICT_FAILED) : case_status_text(status),
                 s->opts.color ? "\033[0m" : "", took, sampled ? ", sampled" : "",
                 reason[0] ? ": " : "", reason);
        log_line(s, now_ns, text);
    }
    s->predicted_done_s += c->predicted_total_s;
    if (status == CASE_OK)
        s->real_done_s += (double)(now_ns - s->case_begin_ns) / 1e9;
    else /* its time says nothing about the others */
        s->predicted_all_s -= c->predicted_total_s, s->predicted_done_s -= c->predicted_total_s;
    s->predicted_case_s = 0;
    s->c = NULL;
    s->last = (struct event){0};
}

void progress_tick(struct progress *s, int64_t now_ns) {
    draw(s, now_ns);
}

/* ---- callbacks ---- */

static int64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void on_event(void *ctx, const struct case_plan *c, const struct event *e) {
    progress_event(ctx, clock_ns(), c, e);
}

static void on_case_done(void *ctx, const struct case_plan *c, enum case_status status,
                         const char *reason) {
    progress_case_done(ctx, clock_ns(), c, status, reason);
}

static void on_tick(void *ctx) {
    progress_tick(ctx, clock_ns());
}

struct launch_observer progress_observer(struct progress *s) {
    return (struct launch_observer){on_event, on_case_done, on_tick, s};
}

enum status progress_open(struct progress **out, const struct plan *p, const bool *pending,
                          const struct progress_opts *opts, struct error *err) {
    struct progress *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) return error_set(err, STATUS_NO_MEMORY, "no memory for the screen");
    s->plan = p;
    s->opts = *opts;
    for (int i = 0; i < p->n; i++) {
        if (!pending[i]) continue;
        s->cases++;
        s->predicted_all_s += p->cases[i].predicted_total_s;
    }
    return STATUS_OK;
}

void progress_close(struct progress *s) {
    if (!s) return;
    clear_line(s);
    fflush(s->opts.stream);
    free(s);
}
