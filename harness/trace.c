/* From spans as they were recorded to sums that add up. See trace.h. Before it: record_read.c. */
#include "harness/trace.h"

#include "harness/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- spans, by chunk, device and time ---- */

static int compare(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

static int by_time(const void *a, const void *b) {
    const struct span_row *x = *(const struct span_row *const *)a,
                          *y = *(const struct span_row *const *)b;
    int order = compare(x->repeat, y->repeat);
    if (!order) order = compare(x->chunk, y->chunk);
    if (!order) order = compare(x->span.device, y->span.device);
    if (!order) order = compare(x->span.begin_ns, y->span.begin_ns);
    if (!order) order = compare(x->span.end_ns, y->span.end_ns);
    return order ? order : compare(x - y, 0); /* as they were recorded */
}

static bool same_chunk(const struct span_row *a, const struct span_row *b) {
    return a->repeat == b->repeat && a->chunk == b->chunk;
}

static bool same_part(const struct span_row *a, const struct span_row *b) {
    return same_chunk(a, b) && a->span.device == b->span.device;
}

static double length_ns(const struct span_row *s) {
    return (double)(s->span.end_ns - s->span.begin_ns);
}

/* A file may say anything; sums must not overflow and numbers must be indices. */
static enum status check_spans(const struct case_result *r, struct error *err) {
    for (int64_t i = 0; i < r->n_spans; i++) {
        const struct span *s = &r->spans[i].span;
        if (s->begin_ns < 0 || s->end_ns < s->begin_ns || s->flops < 0 || s->bytes < 0)
            return error_set(err, STATUS_IO, "%s: span %lld ends before it begins", r->id,
                             (long long)i);
        if (s->op >= OPS || s->role >= ROLES || s->rank < SHARED_RANK || s->rank >= MAX_RANKS ||
            s->device >= MAX_RANKS || s->layer < -1)
            return error_set(err, STATUS_IO, "%s: span %lld is of no op, rank, device or layer",
                             r->id, (long long)i);
    }
    for (int64_t i = 0; i < r->n_traced; i++)
        if (r->traced[i].begin_ns < 0 || r->traced[i].latency_ns < 0 ||
            r->traced[i].latency_ns > INT64_MAX - r->traced[i].begin_ns)
            return error_set(err, STATUS_IO, "%s: traced chunk %lld ends before it begins", r->id,
                             (long long)i);
    return STATUS_OK;
}

static const struct chunk_row *row_of(const struct case_result *r, const struct span_row *s) {
    for (int64_t i = 0; i < r->n_traced; i++)
        if (r->traced[i].repeat == s->repeat && r->traced[i].chunk == s->chunk)
            return &r->traced[i];
    return NULL;
}

static void keep_gap(struct trace *t, double ns, const struct span_row *after,
                     const struct span_row *before) {
    int at = t->n_gaps;
    while (at > 0 && t->gaps[at - 1].ns < ns) at--;
    if (at == TRACE_GAPS) return;
    if (t->n_gaps < TRACE_GAPS) t->n_gaps++;
    memmove(&t->gaps[at + 1], &t->gaps[at], (size_t)(t->n_gaps - 1 - at) * sizeof *t->gaps);
    t->gaps[at] = (struct trace_gap){ns, after, before};
}

/* What lies before, between and after the ops of a part, and what of them lies upon another. */
static void measure_part(struct trace *t, const struct trace_chunk *c, struct trace_part *p) {
    const struct span_row *latest = p->spans[0];
    p->before_ns = (double)(latest->span.begin_ns - c->begin_ns);
    for (int64_t i = 0; i < p->n; i++) {
        const struct span_row *s = p->spans[i];
        p->ops_ns += length_ns(s);
        if (i > 0 && s->span.begin_ns > latest->span.end_ns) {
            const double gap = (double)(s->span.begin_ns - latest->span.end_ns);
            p->between_ns += gap;
            keep_gap(t, gap, latest, s);
        } else if (i > 0) {
            const int64_t end =
                s->span.end_ns < latest->span.end_ns ? s->span.end_ns : latest->span.end_ns;
            p->at_once_ns += (double)(end - s->span.begin_ns);
        }
        if (s->span.end_ns >= latest->span.end_ns) latest = s;
    }
    p->after_ns = (double)(c->end_ns - latest->span.end_ns);
}

static double latency_of(const struct trace_chunk *c) {
    return (double)(c->end_ns - c->begin_ns);
}

/* Spans from `first` to before `end` are what a device did in a chunk. */
static void add_part(struct trace *t, struct trace_chunk *c, int64_t first, int64_t end) {
    struct trace_part *p = &t->parts[t->n_parts++];
    *p = (struct trace_part){
        .device = t->spans[first]->span.device, .spans = &t->spans[first], .n = end - first};
    measure_part(t, c, p);
    c->n_parts++;
    t->devices[p->device].latency_ns += latency_of(c);
    t->latency_ns += latency_of(c);
    t->before_ns += p->before_ns;
    t->between_ns += p->between_ns;
    t->after_ns += p->after_ns;
    t->at_once_ns += p->at_once_ns;
}

/* Spans from `first` to before `end` are a chunk's. */
static void add_chunk(struct trace *t, int64_t first, int64_t end) {
    struct trace_chunk *c = &t->chunks[t->n_chunks++];
    const struct span_row *s = t->spans[first];
    *c = (struct trace_chunk){.repeat = s->repeat,
                              .chunk = s->chunk,
                              .row = row_of(t->r, s),
                              .begin_ns = s->span.begin_ns,
                              .end_ns = s->span.end_ns,
                              .parts = &t->parts[t->n_parts]};
    for (int64_t i = first; i < end; i++) {
        s = t->spans[i];
        if (s->span.begin_ns < c->begin_ns) c->begin_ns = s->span.begin_ns;
        if (s->span.end_ns > c->end_ns) c->end_ns = s->span.end_ns;
    }
    if (c->row) c->begin_ns = c->row->begin_ns, c->end_ns = c->begin_ns + c->row->latency_ns;
    for (int64_t i = first + 1; i <= end; i++) {
        if (i < end && same_part(t->spans[i], t->spans[first])) continue;
        add_part(t, c, first, i);
        first = i;
    }
    t->elapsed_ns += latency_of(c);
    t->whole = t->whole && c->row;
}

/* ---- sums ---- */

static double known(int64_t count) {
    return count >= 0 ? (double)count : (double)NAN;
}

static void add(struct trace_sum *sum, const struct span_row *s) {
    sum->calls++;
    sum->ns += length_ns(s);
    sum->flops += (double)s->span.flops;
    sum->bytes += (double)s->span.bytes;
    sum->cycles += known(s->counts.cycles);
    sum->instructions += known(s->counts.instructions);
    sum->llc_misses += known(s->counts.llc_misses);
}

static void add_to_group(struct trace_group *g, const struct span_row *s) {
    add(&g->sum, s);
    g->op_ns[s->span.op] += length_ns(s);
}

int trace_op_number(const struct trace *t, const struct span *s) {
    int i = 0;
    for (; i < t->n_ops; i++) {
        const struct trace_op *o = &t->ops[i];
        if (o->op == s->op && o->role == s->role && o->variant == s->variant) break;
    }
    return i;
}

/* Its row among the ops; a new one where there is none yet. */
static struct trace_op *op_of(struct trace *t, const struct span *s) {
    struct trace_op *o = &t->ops[trace_op_number(t, s)];
    if (o == &t->ops[t->n_ops]) {
        *o = (struct trace_op){.op = s->op, .role = s->role, .variant = s->variant};
        t->n_ops++;
    }
    return o;
}

static int longest_first(const void *a, const void *b) {
    const double x = ((const struct trace_op *)a)->sum.ns, y = ((const struct trace_op *)b)->sum.ns;
    return (x < y) - (x > y);
}

static void sum_spans(struct trace *t) {
    for (int64_t i = 0; i < t->n; i++) {
        const struct span_row *s = t->spans[i];
        add(&t->all, s);
        add(&op_of(t, &s->span)->sum, s);
        add_to_group(&t->layers[s->span.layer + 1], s);
        struct trace_device *d = &t->devices[s->span.device];
        add_to_group(&d->all, s);
        if (s->span.rank == SHARED_RANK) {
            add_to_group(&d->shared, s);
        } else {
            add_to_group(&t->ranks[s->span.rank], s);
            t->rank_device[s->span.rank] = s->span.device;
        }
    }
    for (int i = 0; i < MAX_RANKS; i++) t->n_devices += t->devices[i].all.sum.calls > 0;
    qsort(t->ops, (size_t)t->n_ops, sizeof *t->ops, longest_first);
}

/* ---- opening ---- */

static enum status no_memory(struct error *err) {
    return error_set(err, STATUS_NO_MEMORY, "no memory for the trace");
}

static enum status no_spans(const struct case_result *r, int chunk, struct error *err) {
    char list[TRACE_TEXT];
    if (r->n_spans > 0)
        return error_set(
            err, STATUS_USAGE,
            "chunk %d of %s was not traced; traced: %s; `--set run.spans=all` traces every one",
            chunk + 1, r->id,
            trace_chunk_list(list, &r->spans[0].chunk, sizeof *r->spans, r->n_spans));
    if (result_is_once(r))
        return error_set(err, STATUS_INVALID, "%s has no spans: %s", r->id, r->reason);
    return error_set(err, STATUS_INVALID,
                     "%s has no spans: it had no warm-up pass to record, and no chunk short enough "
                     "to run once more, or did not end well, or run.spans was none; "
                     "`--set run.spans=all` records a pass of its own",
                     r->id);
}

/* Room for all ops that there can be, and for chunks, their parts and layers of these spans. */
static enum status make_room(struct trace *t, struct error *err) {
    int layers = 1;
    size_t chunks = 0, parts = 0;
    for (int64_t i = 0; i < t->n; i++) {
        const struct span_row *s = t->spans[i], *last = i > 0 ? t->spans[i - 1] : NULL;
        if (s->span.layer + 2 > layers) layers = s->span.layer + 2;
        chunks += !last || !same_chunk(last, s);
        parts += !last || !same_part(last, s);
    }
    t->n_layers = layers;
    t->layers = calloc((size_t)layers, sizeof *t->layers);
    t->chunks = calloc(chunks, sizeof *t->chunks);
    t->parts = calloc(parts, sizeof *t->parts);
    t->ops = calloc((size_t)OPS * ROLES * 256, sizeof *t->ops);
    return t->layers && t->chunks && t->parts && t->ops ? STATUS_OK : no_memory(err);
}

enum status trace_open(struct trace *t, const struct case_result *r, int chunk, struct error *err) {
    *t = (struct trace){.r = r, .whole = true};
    enum status s = check_spans(r, err);
    if (s != STATUS_OK) return s;
    t->spans = calloc((size_t)r->n_spans + 1, sizeof *t->spans);
    if (!t->spans) return no_memory(err);
    for (int64_t i = 0; i < r->n_spans; i++)
        if (chunk < 0 || r->spans[i].chunk == chunk) t->spans[t->n++] = &r->spans[i];
    s = t->n > 0 ? STATUS_OK : no_spans(r, chunk, err);
    if (s == STATUS_OK) {
        qsort(t->spans, (size_t)t->n, sizeof *t->spans, by_time);
        s = make_room(t, err);
    }
    if (s != STATUS_OK) {
        trace_close(t);
        return s;
    }
    for (int64_t first = 0, i = 1; i <= t->n; i++) {
        if (i < t->n && same_chunk(t->spans[i], t->spans[first])) continue;
        add_chunk(t, first, i);
        first = i;
    }
    sum_spans(t);
    t->origin_ns = t->chunks[0].begin_ns;
    return STATUS_OK;
}

void trace_close(struct trace *t) {
    free(t->spans);
    free(t->chunks);
    free(t->parts);
    free(t->ops);
    free(t->layers);
    memset(t, 0, sizeof *t);
}

int64_t trace_layer_end(const struct trace_part *p, int64_t first, int64_t *end) {
    int64_t i = first, end_ns = p->spans[first]->span.end_ns;
    for (; i < p->n && p->spans[i]->span.layer == p->spans[first]->span.layer; i++)
        if (p->spans[i]->span.end_ns > end_ns) end_ns = p->spans[i]->span.end_ns;
    *end = i;
    return end_ns;
}

bool trace_is_aside(const struct trace *t, const struct span *s) {
    return t->r->exchange_overlap && (s->op == OP_EXCHANGE || s->op == OP_ALL_REDUCE);
}

double trace_no_op_ns(const struct trace_chunk *c, const struct trace_part *p) {
    return latency_of(c) - p->ops_ns + p->at_once_ns;
}

/* ---- words and numbers ---- */

char *trace_op_text(char out[TRACE_TEXT], int op, int role) {
    snprintf(out, TRACE_TEXT, "%s%s%s", op_name((enum op)op), role ? " " : "",
             role_name((enum role)role));
    return out;
}

char *trace_span_text(char out[TRACE_TEXT], const struct span *s) {
    char op[TRACE_TEXT], layer[24] = "", rank[24] = "";
    if (s->layer >= 0) snprintf(layer, sizeof layer, "layer %d ", s->layer + 1);
    if (s->rank >= 0) snprintf(rank, sizeof rank, ", rank %d", s->rank);
    snprintf(out, TRACE_TEXT, "%s%.150s%s", layer, trace_op_text(op, s->op, s->role), rank);
    return out;
}

/* The least number above `last`; INT32_MAX: there is none. */
static int32_t next_chunk(const int32_t *chunk, size_t stride, int64_t n, int32_t last) {
    int32_t next = INT32_MAX;
    for (int64_t i = 0; i < n; i++) {
        const int32_t at = *(const int32_t *)((const char *)chunk + (size_t)i * stride);
        if (at > last && at < next) next = at;
    }
    return next;
}

char *trace_chunk_list(char out[], const int32_t *chunk, size_t stride, int64_t n) {
    enum { REST = 40 }; /* room for the last words */
    size_t used = 0;
    int32_t at = next_chunk(chunk, stride, n, -1);
    out[0] = 0;
    while (at < INT32_MAX && used < TRACE_TEXT - REST) {
        const int32_t first = at;
        int32_t next = next_chunk(chunk, stride, n, at);
        for (; next == at + 1 && next < INT32_MAX; next = next_chunk(chunk, stride, n, at))
            at = next;
        used += (size_t)snprintf(out + used, TRACE_TEXT - used, used ? ", %d" : "%d", first + 1);
        if (at > first) used += (size_t)snprintf(out + used, TRACE_TEXT - used, "-%d", at + 1);
        at = next;
    }
    if (at < INT32_MAX) snprintf(out + used, TRACE_TEXT - used, ", ...");
    return out;
}

int32_t trace_chunks_of(const struct case_result *r) {
    return r->chunk_tokens > 0 && r->prompt_tokens > 0
               ? (r->prompt_tokens - 1) / r->chunk_tokens + 1
               : 0;
}

char *trace_when(char out[TRACE_TEXT], const struct trace *t) {
    const int32_t chunks = trace_chunks_of(t->r);
    const char *when = t->chunks[0].repeat < 0 ? "in the last warm-up pass" : "after the repeats";
    char list[120] = "";
    size_t used = 0;
    for (int i = 0; i < t->n_chunks && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", i ? ", " : "",
                                 t->chunks[i].chunk + 1);
    if (used >= sizeof list) snprintf(list, sizeof list, "%d", t->n_chunks);
    if (t->n_chunks == chunks)
        snprintf(out, TRACE_TEXT, "the whole prompt %s", when);
    else
        snprintf(out, TRACE_TEXT, "chunk%s %s of %d %s", t->n_chunks == 1 ? "" : "s", list, chunks,
                 when);
    return out;
}

double trace_of_ceiling(const struct trace_sum *s, const struct device_rates *rates) {
    const double compute = rates->roof_flops > 0 ? s->flops / rates->roof_flops : 0;
    const double memory = rates->copy_bytes > 0 ? s->bytes / rates->copy_bytes : 0;
    const double best = compute > memory ? compute : memory;
    return s->ns > 0 && best > 0 ? best * 1e9 / s->ns : (double)NAN;
}

double trace_measured_ns(const struct case_result *r, int32_t chunk) {
    int64_t *latency_ns = calloc((size_t)r->n_chunks + 1, sizeof *latency_ns);
    int n = 0;
    for (int64_t i = 0; latency_ns && i < r->n_chunks; i++)
        if (r->chunks[i].chunk == chunk) latency_ns[n++] = r->chunks[i].latency_ns;
    const double median = n > 0 ? (double)stats_median(latency_ns, n) : (double)NAN;
    free(latency_ns);
    return median;
}

double trace_cost(const struct trace *t) {
    double measured = 0;
    for (int i = 0; i < t->n_chunks; i++) measured += trace_measured_ns(t->r, t->chunks[i].chunk);
    return t->whole && measured > 0 ? t->elapsed_ns / measured : (double)NAN;
}
