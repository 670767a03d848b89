/* Memory of a case's traced chunks, for people: what was in use at the peak of each, who held it,
 * and what the system says beside it; for programs, a line per change. Before it: timeline.c. */
#include "harness/format.h"
#include "harness/show.h"
#include "harness/timeline.h"
#include "harness/trace.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const category_names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
    MEMORY_CATEGORY_TABLE(X)
#undef X
};

static double mib(int64_t bytes) {
    return (double)bytes / (1 << 20);
}

/* Ranks that lie on a device, of those that have buffers of their own. */
static bool has_rank(const struct case_result *r, int device, int rank) {
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (r->buffers[i].device == device && r->buffers[i].buffer.rank == rank) return true;
    return false;
}

static int ranks_of(const struct case_result *r, int device) {
    int n = 0;
    for (int rank = 0; rank < MAX_RANKS; rank++) n += has_rank(r, device, rank);
    return n;
}

/* The rank of a part that holds most at its peak; of equal ones the first. */
static int fullest_rank(struct timeline *t, const struct timeline_part *p,
                        struct timeline_peak *peak) {
    int best = TIMELINE_DEVICE;
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        if (!has_rank(t->r, p->device, rank)) continue;
        const struct timeline_peak of = timeline_find_peak(t, p, rank);
        if (best != TIMELINE_DEVICE && of.bytes <= peak->bytes) continue;
        best = rank, *peak = of;
    }
    return best;
}

static int32_t start_of(const struct case_result *r, const struct timeline_part *p) {
    for (int64_t i = 0; i < r->n_traced; i++)
        if (r->traced[i].repeat == p->repeat && r->traced[i].chunk == p->chunk)
            return r->traced[i].start_token;
    return -1;
}

/* ---- the peak of each chunk ---- */

static void add_peak(struct table *table, struct timeline *t, const struct timeline_part *p,
                     int rank, const struct timeline_peak *peak) {
    char text[TRACE_TEXT];
    const int32_t start = start_of(t->r, p);
    int64_t of[MEMORY_CATEGORIES] = {0};
    timeline_find_peak(t, p, rank); /* for what is in use there */
    for (int64_t i = 0; i < t->r->n_buffers; i++)
        if (timeline_counts(&t->r->buffers[i], p->device, rank))
            of[t->r->buffers[i].buffer.category] += t->bytes[i];
    table_add(table, TONE_PLAIN, "%d", p->chunk + 1);
    table_add(table, TONE_PLAIN, "%s", start >= 0 ? format_count(text, start) : "-");
    table_add(table, TONE_PLAIN, "%d", p->device);
    if (rank == TIMELINE_DEVICE)
        table_add(table, TONE_PLAIN, "all");
    else
        table_add(table, TONE_PLAIN, "%d", rank);
    table_add_number(table, mib(peak->bytes));
    table_add_number(table, mib(peak->reserved));
    for (int c = 0; c < MEMORY_CATEGORIES; c++) table_add_number(table, mib(of[c]));
    table_add(table, TONE_FAINT, "%s", trace_span_text(text, &peak->op->span));
}

static bool seen_category(const struct case_result *r, int category) {
    for (int64_t i = 0; i < r->n_buffers; i++)
        if ((int)r->buffers[i].buffer.category == category) return true;
    return false;
}

/* A row for the rank that holds most, and where a device has several one for the device. */
static void print_peaks(FILE *out, struct timeline *t, const struct show_style *style) {
    enum { FROM = 1, RESERVED = 5, CATEGORY };
    static const int least[] = {CATEGORY + MEMORY_OTHER,
                                CATEGORY + MEMORY_GRAPH,
                                CATEGORY + MEMORY_COMM,
                                FROM,
                                CATEGORY + MEMORY_WORKSPACE,
                                RESERVED,
                                -1};
    const struct case_result *r = t->r;
    struct table_column columns[7 + MEMORY_CATEGORIES] = {
        {"chunk", "", false, false},           {"from", "token", false, false},
        {"device", "", false, r->devices < 2}, {"rank", "", false, false},
        {"in use", "MiB", false, false},       {"reserved", "MiB", false, false}};
    for (int c = 0; c < MEMORY_CATEGORIES; c++)
        columns[6 + c] =
            (struct table_column){category_names[c], "MiB", false, !seen_category(r, c)};
    columns[6 + MEMORY_CATEGORIES] = (struct table_column){"while this runs", "", true, false};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < t->n_parts; i++) {
        const struct timeline_part *p = &t->parts[i];
        struct timeline_peak peak = {0};
        const int rank = fullest_rank(t, p, &peak);
        if (rank != TIMELINE_DEVICE) add_peak(table, t, p, rank, &peak);
        peak = timeline_find_peak(t, p, TIMELINE_DEVICE);
        if (ranks_of(r, p->device) != 1) add_peak(table, t, p, TIMELINE_DEVICE, &peak);
    }
    fputc('\n', out);
    trace_say(out, style, 2,
              "memory at the peak of each traced chunk (a rank's: its own and what ranks share)");
    trace_print_table(out, table, columns, least, style);
}

/* ---- who held it ---- */

struct holder {
    const struct buffer_row *buffer;
    int64_t in_use;
};

static int largest_first(const void *a, const void *b) {
    const struct holder *x = a, *y = b;
    if (x->in_use != y->in_use) return x->in_use < y->in_use ? 1 : -1;
    const int64_t p = x->buffer->buffer.bytes, q = y->buffer->buffer.bytes;
    return p != q ? (p < q ? 1 : -1) : strcmp(x->buffer->buffer.name, y->buffer->buffer.name);
}

/* A text that grows, as far as it has room. */
struct sentence {
    char text[1500];
    size_t used;
};
static void say(struct sentence *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct sentence *s, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(s->text + s->used, sizeof s->text - s->used, format, ap);
    va_end(ap);
    s->used += n > 0 ? (size_t)n : 0;
    if (s->used >= sizeof s->text) s->used = sizeof s->text - 1;
}

/* "activations 2.40 GiB (gate_up 1.90 GiB, h 224 MiB)": its buffers where it has several. */
static void say_category(struct sentence *s, const struct holder *v, int n, int category,
                         bool first) {
    enum { NAMED = 3 };
    char text[FORMAT_BYTES];
    const char *const name = category_names[category];
    int64_t sum = 0;
    int named = 0;
    bool several = false;
    for (int i = 0; i < n; i++) {
        if ((int)v[i].buffer->buffer.category != category) continue;
        sum += v[i].in_use;
        several = several || (v[i].in_use > 0 && strcmp(v[i].buffer->buffer.name, name) != 0);
    }
    if (sum == 0) return;
    several = several && category != MEMORY_KV;
    say(s, "%s%s %s", first ? "" : ", ", name, format_bytes(text, sum));
    for (int i = 0; several && i < n && named < NAMED; i++) {
        const struct buffer_info *b = &v[i].buffer->buffer;
        if ((int)b->category == category && v[i].in_use > 0)
            say(s, "%s%s %s", named++ ? ", " : " (", b->name, format_bytes(text, v[i].in_use));
    }
    if (named > 0) say(s, ")");
}

static void print_sentence(FILE *out, const struct timeline_part *p, int rank,
                           const struct timeline_peak *peak, const struct holder *v, int n,
                           const struct show_style *style) {
    struct sentence s = {.used = 0};
    char text[TRACE_TEXT], where[40];
    snprintf(where, sizeof where, rank == TIMELINE_DEVICE ? "device %d" : "rank %d",
             rank == TIMELINE_DEVICE ? p->device : rank);
    say(&s, "at the peak of chunk %d on %s (%s): ", p->chunk + 1, where,
        trace_span_text(text, &peak->op->span));
    const size_t head = s.used;
    for (int c = 0; c < MEMORY_CATEGORIES; c++) say_category(&s, v, n, c, s.used == head);
    fputc('\n', out);
    trace_say(out, style, 2, "%s", s.text);
}

static void print_holders(FILE *out, const struct holder *v, int n,
                          const struct timeline_peak *peak, const struct show_style *style) {
    enum { SHARE = 4, IDLE = 6 };
    static const int least[] = {SHARE, IDLE, -1};
    struct table_column columns[] = {
        {"buffer", "", true, false},  {"of", "", true, false},
        {"rank", "", false, false},   {"in use", "MiB", false, false},
        {"share", "%", false, false}, {"reserved", "MiB", false, false},
        {"idle", "MiB", false, false}};
    enum { SHOWN = 14 };
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < n && (style->verbose || i < SHOWN); i++) {
        const struct buffer_info *b = &v[i].buffer->buffer;
        table_add(table, TONE_PLAIN, "%s", b->name);
        table_add(table, TONE_PLAIN, "%s", category_names[b->category]);
        if (b->rank == SHARED_RANK)
            table_add(table, TONE_PLAIN, "shared");
        else
            table_add(table, TONE_PLAIN, "%d", b->rank);
        table_add_number(table, mib(v[i].in_use));
        table_add_number(table, peak->bytes > 0 ? 100.0 * (double)v[i].in_use / (double)peak->bytes
                                                : (double)NAN);
        table_add_number(table, mib(b->bytes));
        table_add_number(table, mib(b->bytes - v[i].in_use));
    }
    trace_print_table(out, table, columns, least, style);
    if (!style->verbose && n > SHOWN) fprintf(out, "  (%d smaller ones: --verbose)\n", n - SHOWN);
}

/* Of the part and the rank with the highest peak of all. */
static void print_peak(FILE *out, struct timeline *t, const struct show_style *style) {
    const struct case_result *r = t->r;
    const struct timeline_part *p = NULL;
    struct timeline_peak peak = {0};
    int rank = TIMELINE_DEVICE, n = 0;
    char a[FORMAT_BYTES], b[FORMAT_BYTES];
    for (int i = 0; i < t->n_parts; i++) {
        struct timeline_peak of = {0};
        int of_rank = fullest_rank(t, &t->parts[i], &of);
        if (of_rank == TIMELINE_DEVICE) of = timeline_find_peak(t, &t->parts[i], of_rank);
        if (p && of.bytes <= peak.bytes) continue;
        p = &t->parts[i], peak = of, rank = of_rank;
    }
    struct holder *v = calloc((size_t)r->n_buffers + 1, sizeof *v);
    if (!v) return;
    timeline_find_peak(t, p, rank);
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (timeline_counts(&r->buffers[i], p->device, rank))
            v[n++] = (struct holder){&r->buffers[i], t->bytes[i]};
    qsort(v, (size_t)n, sizeof *v, largest_first);
    print_sentence(out, p, rank, &peak, v, n, style);
    print_holders(out, v, n, &peak, style);
    fprintf(out, "  in use %s of %s reserved: the rest is idle while this op runs\n",
            format_bytes(a, peak.bytes), format_bytes(b, peak.reserved));
    free(v);
}

/* ---- what the system says ---- */

/* Of the chunk in the measured repeats: the device's row, most over the repeats. */
static const struct memory_row *measured_row(const struct case_result *r, int32_t chunk) {
    const struct memory_row *most = NULL;
    for (int64_t i = 0; i < r->n_memory; i++) {
        const struct memory_row *m = &r->memory[i];
        if (m->chunk == chunk && m->rank == SHARED_RANK &&
            (!most || m->driver_high_water > most->driver_high_water))
            most = m;
    }
    return most;
}

/* Bytes of "other" that a traced chunk has reserved and a measured one has not. */
static int64_t room_for_spans(const struct timeline *t) {
    const struct memory_row *m = measured_row(t->r, t->parts[0].chunk);
    int64_t more = 0;
    for (int64_t i = 0; i < t->r->n_buffers; i++)
        if (t->r->buffers[i].buffer.category == MEMORY_OTHER) more += t->r->buffers[i].buffer.bytes;
    for (int64_t i = 0; m && i < t->r->n_memory; i++)
        if (t->r->memory[i].repeat == m->repeat && t->r->memory[i].chunk == m->chunk)
            more -= t->r->memory[i].use.bytes[MEMORY_OTHER];
    return more;
}

static void print_room_for_spans(FILE *out, const struct timeline *t,
                                 const struct show_style *style) {
    char bytes[FORMAT_BYTES];
    const int64_t more = room_for_spans(t);
    if (more > 0)
        trace_say(out, style, 4,
                  "  the traced ones have %s more reserved (other): room for their spans",
                  format_bytes(bytes, more));
}

static void print_system(FILE *out, const struct timeline *t, const struct show_style *style) {
    static const int least[] = {3, 5, -1}; /* its peak, of its figure */
    struct table_column columns[] = {{"chunk", "", false, false},
                                     {"accounted", "MiB", false, false},
                                     {"system's figure", "MiB", false, false},
                                     {"its peak", "MiB", false, false},
                                     {"not accounted for", "MiB", false, false},
                                     {"of its figure", "%", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    int rows = 0;
    for (int i = 0; i < t->n_parts; i++) {
        const struct memory_row *m = measured_row(t->r, t->parts[i].chunk);
        if (!m || (i > 0 && t->parts[i].chunk == t->parts[i - 1].chunk)) continue;
        rows++;
        table_add(table, TONE_PLAIN, "%d", m->chunk + 1);
        table_add_number(table, mib(m->driver_after - m->unaccounted));
        table_add_number(table, mib(m->driver_after));
        table_add_number(table, mib(m->driver_high_water));
        table_add_number(table, mib(m->unaccounted));
        table_add_number(table, m->driver_after > 0
                                    ? 100.0 * (double)m->unaccounted / (double)m->driver_after
                                    : (double)NAN);
    }
    if (rows == 0) {
        table_close(table);
        return;
    }
    fputs("\nthe same chunks in the measured repeats, all devices: accounted is reserved\n", out);
    trace_print_table(out, table, columns, least, style);
    print_room_for_spans(out, t, style);
}

/* A chunk of which a span is missing has no timeline. */
static void print_dropped(FILE *out, const struct case_result *r, const struct show_style *style) {
    char count[FORMAT_BYTES];
    if (r->dropped_spans > 0)
        fprintf(out,
                "  %sDROPPED  %s spans of this case found no room: their chunks are missing%s\n",
                tone_begin(TONE_BAD, style->color), format_count(count, r->dropped_spans),
                tone_end(TONE_BAD, style->color));
}

void trace_memory(FILE *out, struct timeline *t, const struct show_style *style) {
    show_text(out, t->r->id, SIZE_MAX);
    fputc('\n', out);
    print_dropped(out, t->r, style);
    print_peaks(out, t, style);
    print_peak(out, t, style);
    print_system(out, t, style);
}

/* ---- a line per change ---- */

void trace_memory_csv(FILE *out, const struct timeline *t) {
    fputs("repeat,chunk,device,op_number,begin_ns,op,role,layer,buffer,category,rank,bytes\n", out);
    for (int i = 0; i < t->n_parts; i++) {
        const struct timeline_part *p = &t->parts[i];
        for (int64_t k = 0; k < p->n_uses; k++) {
            const struct buffer_use_row *u = &p->uses[k];
            const struct span *s = &t->r->spans[u->span].span;
            const struct buffer_info *b = &t->r->buffers[u->buffer].buffer;
            fprintf(out, "%d,%d,%d,%lld,%lld,%s,%s,%d,", p->repeat, p->chunk, p->device,
                    (long long)(u->span - p->first_span), (long long)s->begin_ns,
                    op_name((enum op)s->op), role_name((enum role)s->role), s->layer);
            show_text(out, b->name, sizeof b->name);
            fprintf(out, ",%s,%d,%lld\n", category_names[b->category], b->rank,
                    (long long)u->bytes);
        }
    }
}
