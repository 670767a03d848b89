/* Pictures of memory in use, of the only case of the plot: what is in use at the peak of each
 * traced chunk and through the fullest one; and which buffers the ops of a layer need. Of several
 * devices the fullest. depth.dat: middle of the chunk and half its bar's width (tokens), from, to
 * (bytes), category. chunk.dat: from, to (op number), from, to (bytes), category. life.dat: from,
 * to (op number), row, share of what is reserved, category. buffers.dat: row, label. ops.dat: op
 * number, name. */
#include "harness/format.h"
#include "harness/plot.h"
#include "harness/timeline.h"
#include "harness/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const category_names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
    MEMORY_CATEGORY_TABLE(X)
#undef X
};

/* A case's timeline, and the part of it that has most in use. */
struct view {
    struct timeline t;
    const struct timeline_part *fullest;
    struct timeline_peak peak;
};

static bool open_view(const struct plot *p, struct plot_files *f, struct view *v) {
    struct error why = {""};
    *v = (struct view){.fullest = NULL};
    if (p->n == 0) {
        snprintf(f->why, sizeof f->why, "the case has no result to show");
        return false;
    }
    const enum status s = timeline_open(&v->t, p->cases[0].r, -1, &why);
    if (s == STATUS_INVALID) snprintf(f->why, sizeof f->why, "the file has no memory timeline");
    if (s != STATUS_OK && s != STATUS_INVALID) f->status = error_set(f->err, s, "%s", why.text);
    for (int i = 0; s == STATUS_OK && i < v->t.n_parts; i++) {
        const struct timeline_peak peak =
            timeline_find_peak(&v->t, &v->t.parts[i], TIMELINE_DEVICE);
        if (v->fullest && peak.bytes <= v->peak.bytes) continue;
        v->fullest = &v->t.parts[i], v->peak = peak;
    }
    return s == STATUS_OK;
}

static void put_note(struct plot_files *f, const struct view *v, const char *more) {
    const struct case_result *r = v->t.r;
    char text[400], device[32] = "";
    if (r->devices > 1) snprintf(device, sizeof device, ", device %d", v->fullest->device);
    snprintf(text, sizeof text, "%s: chunk %d of %d%s%s%s", r->id, v->fullest->chunk + 1,
             trace_chunks_of(r), device, more, r->dropped_spans > 0 ? "; SPANS ARE MISSING" : "");
    plot_set_text(f, "NOTE", text);
}

static void put_categories(struct plot_files *f, const bool seen[MEMORY_CATEGORIES]) {
    char key[40];
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        snprintf(key, sizeof key, "CATEGORY_%d", c);
        plot_set_text(f, key, seen[c] ? category_names[c] : "");
    }
    plot_set_number(f, "CATEGORIES", MEMORY_CATEGORIES);
}

/* ---- in use, by category ---- */

static void sum_categories(const struct case_result *r, int device, const int64_t *bytes,
                           double out[MEMORY_CATEGORIES]) {
    memset(out, 0, MEMORY_CATEGORIES * sizeof *out);
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (r->buffers[i].device == device) out[r->buffers[i].buffer.category] += (double)bytes[i];
}

static void put_box(FILE *out, double x, double to_x, double from, double to, int category) {
    if (to > from && to_x > x)
        fprintf(out, "%.9g %.9g %.17g %.17g %d\n", x, to_x, from, to, category);
}

static void put_stack(FILE *out, double x, double to_x, const double bytes[MEMORY_CATEGORIES]) {
    double from = 0;
    for (int c = 0; c < MEMORY_CATEGORIES; from += bytes[c++])
        put_box(out, x, to_x, from, from + bytes[c], c);
}

/* Columns of a chunk: as many ops in each that there are at most COLUMNS, drawn as the one of them
 * with most in use. */
enum { COLUMNS = 500 };
struct column_walk {
    FILE *out;
    const struct timeline_part *part;
    const struct case_result *r;
    int64_t op, ops, first;
    double most, bytes[MEMORY_CATEGORIES];
    struct box {
        double x, from, to;
    } open[MEMORY_CATEGORIES]; /* that goes on while its category stays where it is */
};

static void close_column(struct column_walk *w, const double bytes[MEMORY_CATEGORIES]) {
    double from = 0;
    for (int c = 0; c < MEMORY_CATEGORIES; from += bytes[c++]) {
        struct box *b = &w->open[c];
        if (b->from == from && b->to == from + bytes[c]) continue;
        put_box(w->out, b->x, (double)w->first, b->from, b->to, c);
        *b = (struct box){(double)w->first, from, from + bytes[c]};
    }
}

static void see_column(void *ctx, const struct span_row *span, const int64_t *bytes) {
    struct column_walk *w = ctx;
    double now[MEMORY_CATEGORIES], sum = 0;
    (void)span;
    sum_categories(w->r, w->part->device, bytes, now);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) sum += now[c];
    if (w->op == w->first || sum > w->most) {
        w->most = sum;
        memcpy(w->bytes, now, sizeof now);
    }
    w->op++;
    if ((w->op * COLUMNS / w->ops == w->first * COLUMNS / w->ops) && w->op < w->ops &&
        w->ops > COLUMNS)
        return;
    close_column(w, w->bytes);
    w->first = w->op;
}

static void put_chunk(FILE *out, struct view *v) {
    const struct timeline_part *p = v->fullest;
    struct column_walk w = {.out = out, .part = p, .r = v->t.r, .ops = p->end_span - p->first_span};
    static const double nothing[MEMORY_CATEGORIES];
    timeline_walk(&v->t, p, see_column, &w);
    close_column(&w, nothing);
}

/* A bar as wide as its chunk, but never too thin to see. */
static void put_depths(FILE *out, struct view *v) {
    enum { THINNEST = 40 }; /* part of the prompt */
    const struct case_result *r = v->t.r;
    for (int i = 0; i < v->t.n_parts; i++) {
        const struct timeline_part *p = &v->t.parts[i];
        double bytes[MEMORY_CATEGORIES];
        if (p->device != v->fullest->device) continue;
        const double start = (double)p->chunk * r->chunk_tokens, left = r->prompt_tokens - start,
                     tokens = fmin(r->chunk_tokens, left > 0 ? left : r->chunk_tokens),
                     half = fmax(0.47 * tokens, r->prompt_tokens / (2.0 * THINNEST));
        timeline_find_peak(&v->t, p, TIMELINE_DEVICE);
        sum_categories(r, p->device, v->t.bytes, bytes);
        put_stack(out, start + tokens / 2 - half, start + tokens / 2 + half, bytes);
    }
}

/* Chunks that have a bar. */
static int depths_of(const struct view *v) {
    int n = 0;
    for (int i = 0; i < v->t.n_parts; i++) n += v->t.parts[i].device == v->fullest->device;
    return n;
}

/* Where layers begin: their first op; about ten of them. */
static void put_layers(FILE *out, const struct view *v) {
    enum { TICKS = 10 };
    const struct timeline_part *p = v->fullest;
    int last = -2, layers = 0;
    for (int64_t i = p->first_span; i < p->end_span; i++)
        if (v->t.r->spans[i].span.layer > layers) layers = v->t.r->spans[i].span.layer;
    const int step = layers / TICKS + 1;
    for (int64_t i = p->first_span; i < p->end_span; i++) {
        const int layer = v->t.r->spans[i].span.layer;
        if (layer > last && layer >= 0 && layer % step == 0)
            fprintf(out, "%lld %d\n", (long long)(i - p->first_span), layer + 1);
        if (layer > last) last = layer;
    }
}

void plot_memory_in_use(const struct plot *p, struct plot_files *f) {
    struct view v;
    bool seen[MEMORY_CATEGORIES] = {false};
    if (!open_view(p, f, &v)) {
        timeline_close(&v.t);
        return;
    }
    const struct case_result *r = v.t.r;
    FILE *depth = plot_data_open(f, "depth.dat"), *chunk = plot_data_open(f, "chunk.dat"),
         *layers = plot_data_open(f, "layers.dat");
    if (depth && chunk && layers) {
        put_depths(depth, &v);
        put_chunk(chunk, &v);
        put_layers(layers, &v);
    }
    plot_data_close(f, depth, "depth.dat");
    plot_data_close(f, chunk, "chunk.dat");
    plot_data_close(f, layers, "layers.dat");
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (r->buffers[i].device == v.fullest->device) seen[r->buffers[i].buffer.category] = true;
    put_categories(f, seen);
    char of_all[64] = "";
    const int recorded = depths_of(&v);
    if (recorded < trace_chunks_of(r))
        snprintf(of_all, sizeof of_all, "; %d of them have a memory timeline", recorded);
    put_note(f, &v, of_all);
    plot_set_number(f, "RESERVED", (double)v.peak.reserved);
    plot_set_number(f, "TOKENS", r->prompt_tokens);
    plot_set_number(f, "OPS", (double)(v.fullest->end_span - v.fullest->first_span));
    plot_set_number(f, "CHUNK", v.fullest->chunk + 1);
    timeline_close(&v.t);
}

/* ---- the buffers of a layer ---- */

enum { ROWS_MOST = 22, OPS_MOST = 48, SMALLEST = 100 /* part of the largest */ };
struct life {
    FILE *out;
    const struct view *v;
    int64_t buffer[ROWS_MOST]; /* the largest first */
    int rows;
    int64_t first, end, at; /* spans of the layer that are shown; the one at hand */
    int64_t begin[ROWS_MOST], bytes[ROWS_MOST]; /* of a row's open box: op, in use */
};

/* What ops pass on to each other: not weights, keys and values, or what is never written. */
static bool is_passed_on(const struct buffer_info *b) {
    return (b->category == MEMORY_ACTIVATIONS || b->category == MEMORY_COMM ||
            b->category == MEMORY_WORKSPACE) &&
           strcmp(b->name, category_names[b->category]) != 0;
}

/* Spans of the layer in the middle, as many as have room. */
static void choose_layer(struct life *l) {
    const struct timeline_part *p = l->v->fullest;
    const struct span_row *spans = l->v->t.r->spans;
    int layers = 0;
    for (int64_t i = p->first_span; i < p->end_span; i++)
        if (spans[i].span.layer >= layers) layers = spans[i].span.layer + 1;
    const int middle = (layers - 1) / 2;
    l->first = p->first_span;
    while (l->first < p->end_span && spans[l->first].span.layer != middle) l->first++;
    l->end = l->first;
    while (l->end < p->end_span && spans[l->end].span.layer == middle) l->end++;
}

struct in_layer { /* most of each buffer in the ops that are shown */
    const struct life *l;
    int64_t at;
    int64_t *most;
};
static void see_most(void *ctx, const struct span_row *span, const int64_t *bytes) {
    struct in_layer *k = ctx;
    (void)span;
    if (k->at >= k->l->first && k->at < k->l->end)
        for (int64_t i = 0; i < k->l->v->t.r->n_buffers; i++)
            if (bytes[i] > k->most[i]) k->most[i] = bytes[i];
    k->at++;
}

/* The largest of those that an op of the layer needs. */
static void choose_rows(struct life *l, struct view *v, int64_t *most) {
    const struct case_result *r = v->t.r;
    struct in_layer k = {l, v->fullest->first_span, most};
    timeline_walk(&v->t, v->fullest, see_most, &k);
    for (int64_t i = 0; i < r->n_buffers; i++) {
        const struct buffer_row *b = &r->buffers[i];
        int at = l->rows;
        if (b->device != v->fullest->device || !is_passed_on(&b->buffer) || most[i] == 0) continue;
        while (at > 0 && r->buffers[l->buffer[at - 1]].buffer.bytes < b->buffer.bytes) at--;
        if (at == ROWS_MOST) continue;
        if (l->rows < ROWS_MOST) l->rows++;
        memmove(&l->buffer[at + 1], &l->buffer[at], (size_t)(l->rows - 1 - at) * sizeof *l->buffer);
        l->buffer[at] = i;
    }
    const int64_t smallest = l->rows ? r->buffers[l->buffer[0]].buffer.bytes / SMALLEST : 0;
    while (l->rows > 0 && r->buffers[l->buffer[l->rows - 1]].buffer.bytes < smallest) l->rows--;
}

static void close_box(struct life *l, int row, int64_t bytes) {
    const struct buffer_info *b = &l->v->t.r->buffers[l->buffer[row]].buffer;
    const int64_t x = l->at - l->first;
    if (l->bytes[row] > 0)
        fprintf(l->out, "%lld %lld %d %.9g %d\n", (long long)l->begin[row], (long long)x, row,
                (double)l->bytes[row] / (double)b->bytes, b->category);
    l->begin[row] = x, l->bytes[row] = bytes;
}

static void see_life(void *ctx, const struct span_row *span, const int64_t *bytes) {
    struct life *l = ctx;
    (void)span;
    for (int row = 0; row < l->rows && l->at >= l->first && l->at < l->end; row++)
        if (bytes[l->buffer[row]] != l->bytes[row]) close_box(l, row, bytes[l->buffer[row]]);
    l->at++;
}

static void put_lives(struct life *l, struct view *v) {
    timeline_walk(&v->t, v->fullest, see_life, l);
    l->at = l->end;
    for (int row = 0; row < l->rows; row++) close_box(l, row, 0);
}

static void put_labels(FILE *out, const struct life *l) {
    char bytes[FORMAT_BYTES];
    for (int row = 0; row < l->rows; row++) {
        const struct buffer_info *b = &l->v->t.r->buffers[l->buffer[row]].buffer;
        fprintf(out, "%d \"", row);
        plot_put_text(out, b->name);
        if (b->rank != SHARED_RANK && l->v->t.r->tp > 1) fprintf(out, ", rank %d", b->rank);
        fprintf(out, "  %s\"\n", format_bytes(bytes, b->bytes));
    }
}

static void put_ops(FILE *out, const struct life *l) {
    for (int64_t i = l->first; i < l->end; i++) {
        const struct span *s = &l->v->t.r->spans[i].span;
        char text[TRACE_TEXT], rank[24] = "";
        if (s->rank != SHARED_RANK && l->v->t.r->tp > 1)
            snprintf(rank, sizeof rank, ", %d", s->rank);
        fprintf(out, "%g \"", (double)(i - l->first) + 0.5);
        plot_put_text(out, trace_op_text(text, s->op, s->role));
        fprintf(out, "%s\"\n", rank);
    }
}

void plot_memory_of_layer(const struct plot *p, struct plot_files *f) {
    struct view v;
    if (!open_view(p, f, &v)) {
        timeline_close(&v.t);
        return;
    }
    bool seen[MEMORY_CATEGORIES] = {false};
    struct life l = {.v = &v, .at = v.fullest->first_span};
    int64_t *most = calloc((size_t)v.t.r->n_buffers + 1, sizeof *most);
    char more[80] = "";
    choose_layer(&l);
    const int64_t ops = l.end - l.first;
    if (ops > OPS_MOST) {
        l.end = l.first + OPS_MOST;
        snprintf(more, sizeof more, ", the first %d of the %lld ops of a layer", OPS_MOST,
                 (long long)ops);
    }
    if (most) choose_rows(&l, &v, most);
    if (!most) f->status = error_set(f->err, STATUS_NO_MEMORY, "no memory for a picture");
    if (ops == 0 || l.rows == 0) snprintf(f->why, sizeof f->why, "no layer was traced");
    FILE *labels = plot_data_open(f, "buffers.dat"), *names = plot_data_open(f, "ops.dat");
    l.out = plot_data_open(f, "life.dat");
    if (labels && names && l.out && l.rows > 0) {
        put_lives(&l, &v);
        put_labels(labels, &l);
        put_ops(names, &l);
        for (int row = 0; row < l.rows; row++)
            seen[v.t.r->buffers[l.buffer[row]].buffer.category] = true;
    }
    plot_data_close(f, labels, "buffers.dat");
    plot_data_close(f, names, "ops.dat");
    plot_data_close(f, l.out, "life.dat");
    put_categories(f, seen);
    put_note(f, &v, more);
    plot_set_number(f, "ROWS", l.rows);
    plot_set_number(f, "OPS", (double)(l.end - l.first));
    plot_set_number(f, "LAYER", ops > 0 ? v.t.r->spans[l.first].span.layer + 1 : 0);
    plot_set_number(f, "RANKS", v.t.r->tp);
    free(most);
    timeline_close(&v.t);
}
