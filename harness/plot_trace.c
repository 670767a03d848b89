/* Pictures of one case's spans, the only case of the plot: time of ops stacked over depth, and ops
 * against the measured ceilings. Where a case has kernels and no spans, the time is that of the
 * kernels of each op; what they computed is not recorded, so that there is no roofline. The usual
 * and the most expensive ops have colours, the same in all pictures. time_by_op.dat: middle of the
 * chunk and half its bar's width (tokens), from, to, latency (s), series. roofline.dat: FLOP a
 * byte, FLOP a second, share of the time, series, chunk (0: all together). labels.dat: FLOP a byte,
 * FLOP a second where the name stands, whether it begins there, name. leaders.dat: lines to names
 * that stand apart from their points. */
#include "harness/kernel_view.h"
#include "harness/plot.h"
#include "harness/plot_labels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Series are the first ops by time, then all others together, then the time of no op. Those that
 * every model spends most in have the same colour, and place in a bar, in all pictures. */
enum { NAMED = 6, OTHER = NAMED, NO_OP, SERIES };
static const struct {
    enum op op;
    enum role role;
} usual[] = {{OP_ATTENTION, ROLE_NONE},
             {OP_LINEAR, ROLE_QKV},
             {OP_LINEAR, ROLE_O},
             {OP_LINEAR, ROLE_GATE_UP},
             {OP_LINEAR, ROLE_DOWN}};

/* What the series are: several kernels of one op in one role are one of them. */
struct series {
    int of_op[OPS * ROLES]; /* OTHER: has none of its own */
    int key[NAMED];         /* op * ROLES + role; -1: no op has this colour */
    double ns[SERIES];
};

static int key_of(int op, int role) {
    return op * ROLES + role;
}

static void give_series(struct series *s, int key, int i, double ns) {
    s->of_op[key] = i;
    s->key[i] = key;
    s->ns[i] = ns;
}

/* The most expensive op that has no series yet; -1: none has taken time. */
static int most_expensive(const struct series *s, const double ns[OPS * ROLES]) {
    int best = -1;
    for (int i = 0; i < OPS * ROLES; i++)
        if (s->of_op[i] == OTHER && ns[i] > 0 && (best < 0 || ns[i] > ns[best])) best = i;
    return best;
}

/* From the time of each op and role, and that of none. */
static void choose_series(struct series *s, const double ns[OPS * ROLES], double no_op_ns) {
    *s = (struct series){.key = {-1, -1, -1, -1, -1, -1}};
    for (int i = 0; i < OPS * ROLES; i++) s->of_op[i] = OTHER;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        const int key = key_of(usual[i].op, usual[i].role);
        if (ns[key] > 0) give_series(s, key, (int)i, ns[key]);
    }
    for (int i = 0, key; i < NAMED; i++)
        if (s->key[i] < 0 && (key = most_expensive(s, ns)) >= 0) give_series(s, key, i, ns[key]);
    for (int i = 0; i < OPS * ROLES; i++)
        if (s->of_op[i] == OTHER) s->ns[OTHER] += ns[i];
    s->ns[NO_OP] = no_op_ns;
}

/* none: what the time of no op is called. */
static void put_series(struct plot_files *f, const struct series *s, const char *none) {
    char key[40], text[TRACE_TEXT], no_op[60];
    double all_ns = 0;
    for (int i = 0; i < SERIES; i++) all_ns += s->ns[i];
    snprintf(no_op, sizeof no_op, "%s: %.2g %%", none, 100 * s->ns[NO_OP] / all_ns);
    for (int i = 0; i < SERIES; i++) {
        const char *name = "";
        if (i < NAMED && s->key[i] >= 0)
            name = trace_op_text(text, s->key[i] / ROLES, s->key[i] % ROLES);
        if (i == OTHER && s->ns[OTHER] > 0) name = "other ops";
        if (i == NO_OP && s->ns[NO_OP] > 0) name = no_op;
        snprintf(key, sizeof key, "SERIES_%d", i);
        plot_set_text(f, key, name);
    }
}

/* Which case it is, and what of it was traced. */
static void put_note(struct plot_files *f, const struct trace *t) {
    char when[TRACE_TEXT], devices[40] = "", text[TRACE_TEXT + 200];
    if (t->n_devices > 1) snprintf(devices, sizeof devices, "; mean of %d devices", t->n_devices);
    snprintf(text, sizeof text, "%s: %s%s%s", t->r->id, trace_when(when, t), devices,
             t->r->dropped_spans > 0 ? "; SPANS ARE MISSING" : "");
    plot_set_text(f, "NOTE", text);
}

static bool has_kernels_alone(const struct case_result *r) {
    return r->n_spans == 0 && r->kernel_trace.log.n_kernels > 0;
}

/* The trace of the plot's case; false: there is none to draw. */
static bool open_trace(const struct plot *p, struct plot_files *f, struct trace *t,
                       struct series *s) {
    if (p->n == 0) {
        snprintf(f->why, sizeof f->why, "the case has no result to show");
        return false;
    }
    if (has_kernels_alone(p->cases[0].r)) {
        snprintf(f->why, sizeof f->why, "the case has kernels alone, and no spans");
        return false;
    }
    f->status = trace_open(t, p->cases[0].r, -1, f->err);
    if (f->status != STATUS_OK) return false;
    double ns[OPS * ROLES] = {0};
    for (int i = 0; i < t->n_ops; i++) ns[key_of(t->ops[i].op, t->ops[i].role)] += t->ops[i].sum.ns;
    choose_series(s, ns, t->latency_ns - t->all.ns + t->at_once_ns);
    put_series(f, s, "no op");
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
static double half_width(const struct case_result *r, int n_chunks, int32_t tokens) {
    enum { THINNEST = 60 }; /* part of the prompt */
    const double own = 0.94 * tokens, least = (double)r->prompt_tokens / THINNEST;
    return (own < least && n_chunks < THINNEST / 2 ? least : own) / 2;
}

/* Bars of a case's chunks, as they are written. */
struct bars {
    FILE *out;
    const struct case_result *r;
    int n_chunks;
    double most; /* s: the longest latency so far */
};

/* As high as the chunk's latency: ns are sums over `devices`, which ran at the same time, and are
 * averaged. */
static void put_bar(struct bars *b, int32_t start, int32_t tokens, double latency_ns,
                    const double ns[SERIES], int devices) {
    double from = 0;
    for (int i = 0; i < SERIES; i++) {
        const double mean = ns[i] / devices;
        if (mean <= 0) continue;
        fprintf(b->out, "%.1f %.9g %.17g %.17g %.17g %d\n", start + tokens / 2.0,
                half_width(b->r, b->n_chunks, tokens), from / 1e9, (from + mean) / 1e9,
                latency_ns / 1e9, i);
        from += mean;
    }
    b->most = fmax(b->most, latency_ns / 1e9);
}

/* Adds what a device spent in each series. */
static void add_part(double ns[SERIES], const struct series *s, const struct trace_chunk *c,
                     const struct trace_part *p) {
    for (int64_t i = 0; i < p->n; i++) {
        const struct span *span = &p->spans[i]->span;
        ns[s->of_op[key_of(span->op, span->role)]] += (double)(span->end_ns - span->begin_ns);
    }
    ns[NO_OP] += trace_no_op_ns(c, p);
}

static void put_span_bars(struct bars *b, const struct trace *t, const struct series *s) {
    b->n_chunks = t->n_chunks;
    for (int i = 0; i < t->n_chunks; i++) {
        const struct trace_chunk *c = &t->chunks[i];
        double ns[SERIES] = {0};
        for (int k = 0; k < c->n_parts; k++) add_part(ns, s, c, &c->parts[k]);
        put_bar(b, start_of(t, c), tokens_of(t, c), (double)(c->end_ns - c->begin_ns), ns,
                c->n_parts);
    }
}

/* Kernels that are no op's count among the other ops. */
static void add_kernels(double ns[SERIES], const struct series *s, const struct kernel_view *v,
                        const struct kernel_part *p) {
    for (int64_t i = 0; i < p->n; i++) {
        const struct activity_kernel *k = v->kernels[p->first + i];
        const struct op_place *of = &k->head.place;
        ns[of->op == PLACE_UNKNOWN ? OTHER : s->of_op[key_of(of->op, of->role)]] +=
            kernel_part_ns(p, k);
    }
    ns[NO_OP] += p->before_ns + p->between_ns + p->after_ns;
}

static void put_kernel_bars(struct bars *b, const struct kernel_view *v, const struct series *s) {
    b->n_chunks = v->n_chunks;
    for (int i = 0; i < v->n_parts;) {
        const struct chunk_row *row = v->parts[i].row;
        double ns[SERIES] = {0};
        int devices = 0;
        for (; i < v->n_parts && v->parts[i].row == row; i++, devices++)
            add_kernels(ns, s, v, &v->parts[i]);
        put_bar(b, row->start_token, row->n_tokens, (double)row->latency_ns, ns, devices);
    }
}

static void choose_kernel_series(const struct kernel_view *v, struct series *s) {
    double ns[OPS * ROLES] = {0};
    for (int i = 0; i < v->n_ops; i++) {
        const struct op_place *p = &v->ops[i].one->head.place;
        if (p->op != PLACE_UNKNOWN) ns[key_of(p->op, p->role)] += v->ops[i].ns;
    }
    choose_series(s, ns, v->before_ns + v->between_ns + v->after_ns);
    s->ns[OTHER] += v->nobodys_ns;
}

static void put_kernel_note(struct plot_files *f, const struct kernel_view *v) {
    char text[TRACE_TEXT];
    snprintf(text, sizeof text, "%.150s: kernels that CUPTI recorded in %d chunk%s%s", v->r->id,
             v->n_chunks, v->n_chunks == 1 ? "" : "s",
             v->log->dropped > 0 ? "; RECORDS ARE MISSING" : "");
    plot_set_text(f, "NOTE", text);
}

static void close_bars(struct plot_files *f, struct bars *b) {
    plot_data_close(f, b->out, "time_by_op.dat");
    plot_set_number(f, "MOST", b->most);
    plot_set_number(f, "TOKENS", b->r->prompt_tokens);
    if (!(b->most > 0)) snprintf(f->why, sizeof f->why, "the traced chunks took no time");
}

static void plot_time_of_kernels(const struct case_result *r, struct plot_files *f) {
    struct kernel_view v;
    struct series s;
    f->status = kernel_view_open(&v, r, -1, f->err);
    if (f->status == STATUS_OK) {
        struct bars b = {.out = plot_data_open(f, "time_by_op.dat"), .r = r};
        choose_kernel_series(&v, &s);
        put_series(f, &s, "no kernel");
        put_kernel_note(f, &v);
        if (b.out) put_kernel_bars(&b, &v, &s);
        close_bars(f, &b);
    }
    kernel_view_close(&v);
}

void plot_time_by_op(const struct plot *p, struct plot_files *f) {
    struct trace t = {0};
    struct series s;
    if (p->n > 0 && has_kernels_alone(p->cases[0].r)) {
        plot_time_of_kernels(p->cases[0].r, f);
    } else if (open_trace(p, f, &t, &s)) {
        struct bars b = {.out = plot_data_open(f, "time_by_op.dat"), .r = t.r};
        if (b.out) put_span_bars(&b, &t, &s);
        close_bars(f, &b);
    }
    trace_close(&t);
}

/* ---- roofline ---- */

struct point {
    double ns, flops, bytes;
};
struct mark {
    double x, y, share;
    int key;
    bool colored; /* and named by the legend */
};
/* What is drawn of an op: least and most of its points. */
struct extent {
    int n;
    double least_x, most_x, least_y, most_y;
};
struct roofline {
    FILE *out;
    const struct trace *t;
    const struct series *s;
    const struct device_rates *rates;
    struct point points[OPS * ROLES];
    struct extent of_op[OPS * ROLES], all;
    int hidden;
    struct mark marks[OPS * ROLES]; /* of all chunks together */
    int n_marks;
    struct extent page; /* the axes */
    struct labels labels;
};

static void extend(struct extent *e, double x, double y) {
    const bool first = e->n++ == 0;
    e->least_x = first ? x : fmin(e->least_x, x), e->most_x = first ? x : fmax(e->most_x, x);
    e->least_y = first ? y : fmin(e->least_y, y), e->most_y = first ? y : fmax(e->most_y, y);
}

static void add_spans(struct roofline *r, const struct trace_part *part) {
    for (int64_t i = 0; i < part->n; i++) {
        const struct span *s = &part->spans[i]->span;
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
        if (chunk == 0)
            r->marks[r->n_marks++] =
                (struct mark){x, y, p->ns / r->t->latency_ns, i, r->s->of_op[i] != OTHER};
        extend(&r->of_op[i], x, y);
        extend(&r->all, x, y);
    }
    memset(r->points, 0, sizeof r->points);
}

/* The axes: all points, and where the ceilings meet. */
static void choose_page(struct roofline *r) {
    const double roof = r->rates->roof_flops, ridge = roof / r->rates->copy_bytes;
    r->page = (struct extent){.least_x = fmin(r->all.least_x, ridge) / 5,
                              .most_x = fmax(r->all.most_x, ridge) * 4,
                              .least_y = r->all.least_y / 2.5,
                              .most_y = fmax(r->all.most_y, roof) * 2.5};
}

/* The page in letters and rows of its small text, and back. */
enum { PAGE_LETTERS = 105, PAGE_ROWS = 20 };
static double letter_of(const struct roofline *r, double x) {
    return PAGE_LETTERS * log(x / r->page.least_x) / log(r->page.most_x / r->page.least_x);
}
static double row_of(const struct roofline *r, double y) {
    return PAGE_ROWS * log(y / r->page.least_y) / log(r->page.most_y / r->page.least_y);
}
static double x_of(const struct roofline *r, double letter) {
    return r->page.least_x * pow(r->page.most_x / r->page.least_x, letter / PAGE_LETTERS);
}
static double y_of(const struct roofline *r, double row) {
    return r->page.least_y * pow(r->page.most_y / r->page.least_y, row / PAGE_ROWS);
}

/* Where the slanted ceiling has its name: high up, for ops with few operations stand below. */
static double slope_of(const struct roofline *r) {
    const double ridge = r->rates->roof_flops / r->rates->copy_bytes;
    return ridge / pow(ridge / r->page.least_x, 0.3);
}

/* Of an op's point with all its time; roofline.gp draws it in this size. */
static double radius_of(double share) {
    return 0.4 + 1.7 * sqrt(share);
}

/* What no name may cover: points, ceilings, and the words of roofline.gp. */
static void take_drawn(struct roofline *r) {
    enum { PIECES = 210, NOTE_ROWS = 2, COPIED_LETTERS = 16 };
    struct labels *l = &r->labels;
    *l = (struct labels){.letters = PAGE_LETTERS, .rows = PAGE_ROWS};
    for (int i = 0; i < OPS * ROLES; i++) {
        const struct extent *e = &r->of_op[i];
        if (e->n == 0) continue;
        labels_take(
            l, (struct label_box){letter_of(r, e->least_x) - 0.4, letter_of(r, e->most_x) + 0.4,
                                  row_of(r, e->least_y) - 0.2, row_of(r, e->most_y) + 0.2, false});
    }
    for (int i = 0; i < r->n_marks; i++) {
        const struct mark *m = &r->marks[i];
        const double u = letter_of(r, m->x), v = row_of(r, m->y), d = radius_of(m->share);
        labels_take(l, (struct label_box){u - d, u + d, v - d / 2, v + d / 2, false});
    }
    for (int i = 0; i < PIECES; i++) {
        const double from = (double)i * PAGE_LETTERS / PIECES,
                     to = (i + 1.0) * PAGE_LETTERS / PIECES;
        const double low = fmin(r->rates->roof_flops, r->rates->copy_bytes * x_of(r, from));
        const double high = fmin(r->rates->roof_flops, r->rates->copy_bytes * x_of(r, to));
        labels_take(
            l, (struct label_box){from, to, row_of(r, low) - 0.1, row_of(r, high) + 0.1, false});
    }
    const double copied = letter_of(r, slope_of(r) / 1.2);
    const double row = row_of(r, 1.5 * r->rates->copy_bytes * slope_of(r));
    labels_take(l, (struct label_box){copied - COPIED_LETTERS, copied, row - 0.5, row + 0.5, true});
    labels_take(l, (struct label_box){0, PAGE_LETTERS, PAGE_ROWS - NOTE_ROWS, PAGE_ROWS, true});
    labels_take(l, (struct label_box){0.65 * PAGE_LETTERS, PAGE_LETTERS, 0, NOTE_ROWS, true});
}

/* Highest first, so that what moves aside moves down as often as up. */
static int highest_first(const void *a, const void *b) {
    const double x = ((const struct mark *)a)->y, y = ((const struct mark *)b)->y;
    return (x < y) - (x > y);
}

/* labels.dat: names of ops that have no colour. leaders.dat: from a point to a name that had to
 * move away from it. */
static void put_labels(struct roofline *r, FILE *labels, FILE *leaders) {
    take_drawn(r);
    if (r->n_marks > 1) qsort(r->marks, (size_t)r->n_marks, sizeof *r->marks, highest_first);
    for (int i = 0; i < r->n_marks; i++) {
        const struct mark *m = &r->marks[i];
        const double row = row_of(r, m->y);
        struct label_place at;
        char text[TRACE_TEXT];
        trace_op_text(text, m->key / ROLES, m->key % ROLES);
        if (m->colored || !labels_place(&r->labels, letter_of(r, m->x), row, radius_of(m->share),
                                        (int)strlen(text), &at))
            continue;
        const double x = x_of(r, at.letter), y = y_of(r, at.row);
        fprintf(labels, "%.9g %.9g %d \"%s\"\n", x, y, at.right, text);
        if (at.apart) fprintf(leaders, "%.9g %.9g\n%.9g %.9g\n\n", m->x, m->y, x, y);
    }
}

static void put_page(struct plot_files *f, const struct roofline *r) {
    char text[80];
    /* No colour is explained that stands nowhere. */
    for (int i = 0; i < NAMED; i++) {
        snprintf(text, sizeof text, "SERIES_%d", i);
        if (r->s->key[i] >= 0 && r->of_op[r->s->key[i]].n == 0) plot_set_text(f, text, "");
    }
    plot_set_number(f, "ROOF", r->rates->roof_flops);
    plot_set_number(f, "COPY", r->rates->copy_bytes);
    plot_set_number(f, "LOW_X", r->page.least_x), plot_set_number(f, "HIGH_X", r->page.most_x);
    plot_set_number(f, "LOW_Y", r->page.least_y), plot_set_number(f, "HIGH_Y", r->page.most_y);
    plot_set_number(f, "SLOPE", slope_of(r));
    snprintf(text, sizeof text, "%d that compute%s nothing: not shown", r->hidden,
             r->hidden == 1 ? "s" : "");
    plot_set_text(f, "HIDDEN", r->hidden > 0 ? text : "");
}

/* With the page and its names; or f->why says why there is none. */
static void put_roofline(struct roofline *r, struct plot_files *f) {
    for (int i = 0; i < r->t->n_chunks; i++) {
        const struct trace_chunk *c = &r->t->chunks[i];
        for (int k = 0; k < c->n_parts; k++) add_spans(r, &c->parts[k]);
        put_points(r, c->chunk + 1);
    }
    for (int i = 0; i < r->t->n_parts; i++) add_spans(r, &r->t->parts[i]);
    put_points(r, 0);
    if (r->all.n == 0)
        snprintf(f->why, sizeof f->why, "no traced op computes anything");
    else if (!(r->rates->roof_flops > 0 && r->rates->copy_bytes > 0))
        snprintf(f->why, sizeof f->why, "the file has no measured ceilings");
    if (f->why[0]) return;
    choose_page(r);
    FILE *labels = plot_data_open(f, "labels.dat"), *leaders = plot_data_open(f, "leaders.dat");
    if (labels && leaders) put_labels(r, labels, leaders);
    plot_data_close(f, labels, "labels.dat");
    plot_data_close(f, leaders, "leaders.dat");
    put_page(f, r);
}

void plot_roofline(const struct plot *p, struct plot_files *f) {
    struct trace t = {0};
    struct series s;
    struct roofline *r = calloc(1, sizeof *r);
    if (!r) f->status = error_set(f->err, STATUS_NO_MEMORY, "no memory for the roofline");
    if (r && open_trace(p, f, &t, &s)) {
        *r = (struct roofline){.out = plot_data_open(f, "roofline.dat"),
                               .t = &t,
                               .s = &s,
                               .rates = record_rates(p->run, t.r)};
        if (r->out) put_roofline(r, f);
        plot_data_close(f, r->out, "roofline.dat");
    }
    trace_close(&t);
    free(r);
}
