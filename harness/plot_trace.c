/* Pictures of one case's spans, the only case of the plot: time of ops stacked over depth, and ops
 * against the measured ceilings. The most expensive ops have colours, the same in both pictures.
 * time_by_op.dat: middle of the chunk and half its bar's width (tokens), from, to, latency (s),
 * series. roofline.dat: FLOP a byte, FLOP a second, share of the time, series, chunk (0: all
 * together). labels.dat: FLOP a byte, FLOP a second where the name stands, name. */
#include "harness/plot.h"
#include "harness/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Series are the first ops by time, then all others together, then the time of no op. */
enum { NAMED = 6, OTHER = NAMED, NO_OP, SERIES };

/* What the series are: several kernels of one op in one role are one of them. */
struct series {
    int of_op[OPS * ROLES]; /* OTHER: has none of its own */
    int n;
    int key[NAMED]; /* op * ROLES + role */
    double ns[SERIES];
};

static int key_of(int op, int role) {
    return op * ROLES + role;
}

static void choose_series(const struct trace *t, struct series *s) {
    double ns[OPS * ROLES] = {0};
    *s = (struct series){.n = 0};
    for (int i = 0; i < OPS * ROLES; i++) s->of_op[i] = OTHER;
    for (int i = 0; i < t->n_ops; i++) ns[key_of(t->ops[i].op, t->ops[i].role)] += t->ops[i].sum.ns;
    for (; s->n < NAMED; s->n++) {
        int best = -1;
        for (int i = 0; i < OPS * ROLES; i++)
            if (s->of_op[i] == OTHER && ns[i] > 0 && (best < 0 || ns[i] > ns[best])) best = i;
        if (best < 0) break;
        s->of_op[best] = s->n;
        s->key[s->n] = best;
        s->ns[s->n] = ns[best];
    }
    for (int i = 0; i < OPS * ROLES; i++)
        if (s->of_op[i] == OTHER) s->ns[OTHER] += ns[i];
    s->ns[NO_OP] = t->latency_ns - t->all.ns + t->at_once_ns;
}

static void put_series(struct plot_files *f, const struct series *s) {
    char key[40], text[TRACE_TEXT], no_op[60];
    double all_ns = 0;
    for (int i = 0; i < SERIES; i++) all_ns += s->ns[i];
    snprintf(no_op, sizeof no_op, "no op: %.2g %%", 100 * s->ns[NO_OP] / all_ns);
    for (int i = 0; i < SERIES; i++) {
        const char *name = "";
        if (i < s->n) name = trace_op_text(text, s->key[i] / ROLES, s->key[i] % ROLES);
        if (i == OTHER && s->ns[OTHER] > 0) name = "other ops";
        if (i == NO_OP && s->ns[NO_OP] > 0) name = no_op;
        snprintf(key, sizeof key, "SERIES_%d", i);
        plot_set_text(f, key, name);
    }
}

/* Which case it is, and what of it was traced. */
static void put_note(struct plot_files *f, const struct trace *t) {
    char when[TRACE_TEXT], text[TRACE_TEXT + 200];
    snprintf(text, sizeof text, "%s: %s%s", t->r->id, trace_when(when, t),
             t->r->dropped_spans > 0 ? "; SPANS ARE MISSING" : "");
    plot_set_text(f, "NOTE", text);
}

/* The trace of the plot's case; false: there is none to draw. */
static bool open_trace(const struct plot *p, struct plot_files *f, struct trace *t,
                       struct series *s) {
    if (p->n == 0) {
        snprintf(f->why, sizeof f->why, "the case has no result to show");
        return false;
    }
    f->status = trace_open(t, p->cases[0].r, -1, f->err);
    if (f->status != STATUS_OK) return false;
    choose_series(t, s);
    put_series(f, s);
    put_note(f, t);
    return true;
}

/* ---- time by op ---- */

static int32_t start_of(const struct trace *t, const struct trace_chunk *c) {
    const int64_t start = c->row ? c->row->start_token : (int64_t)c->chunk * t->r->chunk_tokens;
    return start >= 0 && start <= INT32_MAX ? (int32_t)start : 0;
}

static int32_t tokens_of(const struct trace *t, const struct trace_chunk *c) {
    return c->row && c->row->n_tokens > 0 ? c->row->n_tokens : t->r->chunk_tokens;
}

/* Bars are as wide as their chunks, but never too thin to see. */
static double half_width(const struct trace *t, const struct trace_chunk *c) {
    enum { THINNEST = 60 }; /* part of the prompt */
    const double own = 0.94 * tokens_of(t, c), least = (double)t->r->prompt_tokens / THINNEST;
    return (own < least && t->n_chunks < THINNEST / 2 ? least : own) / 2;
}

static void put_bar(FILE *out, const struct trace *t, const struct trace_chunk *c,
                    const struct series *s) {
    const double latency_ns = (double)(c->end_ns - c->begin_ns);
    double ns[SERIES] = {0}, from = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const struct span *span = &c->spans[i]->span;
        ns[s->of_op[key_of(span->op, span->role)]] += (double)(span->end_ns - span->begin_ns);
    }
    ns[NO_OP] = latency_ns - c->ops_ns + c->at_once_ns;
    for (int i = 0; i < SERIES; i++) {
        if (ns[i] <= 0) continue;
        fprintf(out, "%.1f %.9g %.17g %.17g %.17g %d\n", start_of(t, c) + tokens_of(t, c) / 2.0,
                half_width(t, c), from / 1e9, (from + ns[i]) / 1e9, latency_ns / 1e9, i);
        from += ns[i];
    }
}

void plot_time_by_op(const struct plot *p, struct plot_files *f) {
    struct trace t = {0};
    struct series s;
    if (open_trace(p, f, &t, &s)) {
        double most = 0;
        FILE *out = plot_data_open(f, "time_by_op.dat");
        for (int i = 0; out && i < t.n_chunks; i++) {
            put_bar(out, &t, &t.chunks[i], &s);
            most = fmax(most, (double)(t.chunks[i].end_ns - t.chunks[i].begin_ns) / 1e9);
        }
        plot_data_close(f, out, "time_by_op.dat");
        plot_set_number(f, "MOST", most);
        plot_set_number(f, "TOKENS", t.r->prompt_tokens);
        if (!(most > 0)) snprintf(f->why, sizeof f->why, "the traced chunks took no time");
    }
    trace_close(&t);
}

/* ---- roofline ---- */

struct point {
    double ns, flops, bytes;
};
struct mark {
    double x, y;
    int key;
    bool colored; /* and named by the legend */
};
struct roofline {
    FILE *out;
    const struct trace *t;
    const struct series *s;
    struct point points[OPS * ROLES];
    double least_x, most_x, least_y, most_y;
    int n, hidden;
    struct mark marks[OPS * ROLES]; /* of all chunks together */
    int n_marks;
};

static void add_spans(struct roofline *r, const struct trace_chunk *c) {
    for (int64_t i = 0; i < c->n; i++) {
        const struct span *s = &c->spans[i]->span;
        struct point *p = &r->points[key_of(s->op, s->role)];
        p->ns += (double)(s->end_ns - s->begin_ns);
        p->flops += (double)s->flops, p->bytes += (double)s->bytes;
    }
}

/* The points of a chunk, or of all chunks together (0). An op that computes nothing, or of which
 * no traffic is counted, has no place. */
static void put_points(struct roofline *r, int chunk) {
    for (int i = 0; i < OPS * ROLES; i++) {
        const struct point *p = &r->points[i];
        if (p->ns <= 0) continue;
        if (p->flops <= 0 || p->bytes <= 0) {
            r->hidden += chunk == 0;
            continue;
        }
        const double x = p->flops / p->bytes, y = p->flops * 1e9 / p->ns;
        fprintf(r->out, "%.9g %.9g %.9g %d %d\n", x, y, p->ns / r->t->latency_ns, r->s->of_op[i],
                chunk);
        if (chunk == 0) r->marks[r->n_marks++] = (struct mark){x, y, i, r->s->of_op[i] != OTHER};
        r->least_x = r->n ? fmin(r->least_x, x) : x, r->most_x = fmax(r->most_x, x);
        r->least_y = r->n ? fmin(r->least_y, y) : y, r->most_y = fmax(r->most_y, y);
        r->n++;
    }
    memset(r->points, 0, sizeof r->points);
}

static int highest_first(const void *a, const void *b) {
    const double x = ((const struct mark *)a)->y, y = ((const struct mark *)b)->y;
    return (x < y) - (x > y);
}

/* How far a name reaches to the right of its point, as a factor. */
static double reach(const struct roofline *r, const struct mark *m) {
    enum { LETTERS_MOST = 110 }; /* beside each other */
    char text[TRACE_TEXT];
    const double decades = log10(r->most_x / r->least_x * 8);
    trace_op_text(text, m->key / ROLES, m->key % ROLES);
    return pow(10, decades * (double)(strlen(text) + 2) / LETTERS_MOST);
}

/* Whether a name at height y would run into a mark at height m_y: into its point, or, if it has one
 * beside it, into its name. `row` is the height of a name, as a factor. */
static bool meets(const struct roofline *r, const struct mark *name, double y, const struct mark *m,
                  double m_y, double row) {
    const double rows = fabs(log10(y / m_y)) / log10(row);
    if (rows >= (m->colored ? 0.6 : 0.99)) return false;
    if (m->x > name->x) return m->x < name->x * reach(r, name);
    return !m->colored && name->x < m->x * reach(r, m);
}

/* Names of the marks that have no colour stand at their points, or below what is there already. */
static void put_labels(struct roofline *r, FILE *out) {
    const double row = pow(10, 0.055 * log10(r->most_y / r->least_y * 6));
    double place[OPS * ROLES];
    if (r->n_marks > 1) qsort(r->marks, (size_t)r->n_marks, sizeof *r->marks, highest_first);
    for (int i = 0; i < r->n_marks; i++) {
        const struct mark *m = &r->marks[i];
        char text[TRACE_TEXT];
        place[i] = m->y;
        for (int k = 0; !m->colored && k < r->n_marks; k++) {
            const bool placed = k < i || r->marks[k].colored;
            const double there = k < i ? place[k] : r->marks[k].y;
            if (k == i || !placed || !meets(r, m, place[i], &r->marks[k], there, row)) continue;
            place[i] = fmin(place[i], there) / row;
            k = -1; /* what was clear above may be in the way now; names only go down: this ends */
        }
        if (!m->colored)
            fprintf(out, "%.9g %.9g \"%s\"\n", m->x, place[i],
                    trace_op_text(text, m->key / ROLES, m->key % ROLES));
    }
}

static void put_extent(struct plot_files *f, const struct device_rates *rates,
                       const struct roofline *r) {
    char text[80];
    plot_set_number(f, "ROOF", rates->roof_flops);
    plot_set_number(f, "COPY", rates->copy_bytes);
    plot_set_number(f, "LEAST_X", r->least_x), plot_set_number(f, "MOST_X", r->most_x);
    plot_set_number(f, "LEAST_Y", r->least_y), plot_set_number(f, "MOST_Y", r->most_y);
    snprintf(text, sizeof text, "%d that compute%s nothing: not shown", r->hidden,
             r->hidden == 1 ? "s" : "");
    plot_set_text(f, "HIDDEN", r->hidden > 0 ? text : "");
}

void plot_roofline(const struct plot *p, struct plot_files *f) {
    struct trace t = {0};
    struct series s;
    struct roofline *r = calloc(1, sizeof *r);
    if (!r) f->status = error_set(f->err, STATUS_NO_MEMORY, "no memory for the roofline");
    if (r && open_trace(p, f, &t, &s)) {
        *r = (struct roofline){.out = plot_data_open(f, "roofline.dat"), .t = &t, .s = &s};
        for (int i = 0; r->out && i < t.n_chunks; i++) {
            add_spans(r, &t.chunks[i]);
            put_points(r, t.chunks[i].chunk + 1);
        }
        for (int i = 0; i < t.n_chunks; i++) add_spans(r, &t.chunks[i]);
        if (r->out) put_points(r, 0);
        plot_data_close(f, r->out, "roofline.dat");
        FILE *labels = plot_data_open(f, "labels.dat");
        if (labels) put_labels(r, labels);
        plot_data_close(f, labels, "labels.dat");
        const struct device_rates *rates = record_rates(p->run, t.r);
        put_extent(f, rates, r);
        if (r->n == 0)
            snprintf(f->why, sizeof f->why, "no traced op computes anything");
        else if (!(rates->roof_flops > 0 && rates->copy_bytes > 0))
            snprintf(f->why, sizeof f->why, "the file has no measured ceilings");
    }
    trace_close(&t);
    free(r);
}
