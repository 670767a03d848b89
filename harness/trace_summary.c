/* A trace for people: where the time of the traced chunks went by op, depth, layer, rank and
 * device, and what no op accounts for. What tells devices apart stands there only if there are
 * several. And for programs, a line per span. Before it: trace.c. */
#include "harness/format.h"
#include "harness/show.h"
#include "harness/trace.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { HANG = 11 };                                  /* of lines that go on */
enum { TOP = 12, LAYER_ROWS = 12, CHUNK_ROWS = 12 }; /* without --verbose */

double trace_share(double part, double whole) {
    return whole > 0 ? 100 * part / whole : (double)NAN;
}

void trace_add_percent(struct table *t, double percent) {
    if (isfinite(percent))
        table_add(t, TONE_PLAIN, "%.1f", percent);
    else
        table_add(t, TONE_PLAIN, "-");
}

/* "  no room for: block, mean (us)" of columns that were not hidden before. */
static void name_hidden(FILE *out, const struct table_column *columns, const int *least, int n,
                        const bool *were_hidden, const struct show_style *style) {
    char names[400] = "";
    size_t used = 0;
    for (int i = 0; i < n && used < sizeof names; i++) {
        const struct table_column *c = &columns[least[i]];
        if (were_hidden[i]) continue;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s%s%s%s", used ? ", " : "",
                                 c->head, c->unit[0] ? " (" : "", c->unit, c->unit[0] ? ")" : "");
    }
    if (used) trace_say(out, style, 4, "  no room for: %s; a wider screen has them", names);
}

void trace_print_table(FILE *out, struct table *t, struct table_column *columns, const int *least,
                       const struct show_style *style) {
    enum { MOST = 16 };
    static const char indent[] = "  ";
    bool were_hidden[MOST];
    int n = 0, hidden = 0;
    for (; n < MOST && least[n] >= 0; n++) were_hidden[n] = columns[least[n]].hidden;
    if (style->width > 0)
        hidden = table_fit(t, columns, least, n, style->width - (int)strlen(indent));
    table_print(out, t, indent, style->width, style->color);
    table_close(t);
    name_hidden(out, columns, least, hidden, were_hidden, style);
}

void trace_say(FILE *out, const struct show_style *style, int hang, const char *format, ...) {
    char text[2000], word[TRACE_TEXT];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    int column = (int)strspn(text, " ");
    const char *at = text + column;
    for (bool first = true; *at; first = false) {
        int n = (int)strcspn(at, " ");
        if (n >= TRACE_TEXT) n = TRACE_TEXT - 1;
        const int blanks = first ? column : 1;
        if (first) column = 0;
        if (!first && style->width > 0 && column + 1 + n > style->width) {
            fprintf(out, "\n%*s", hang, "");
            column = hang;
        } else {
            fprintf(out, "%*s", blanks, "");
            column += blanks;
        }
        snprintf(word, sizeof word, "%.*s", n, at);
        show_text(out, word, SIZE_MAX);
        column += n;
        at += n;
        at += *at == ' ';
    }
    fputc('\n', out);
}

/* ---- what was traced ---- */

static void print_head(FILE *out, const struct trace *t, const struct show_style *style) {
    char when[TRACE_TEXT], ns[FORMAT_BYTES], count[FORMAT_BYTES], devices[40] = "";
    const double cost = trace_cost(t);
    if (t->n_devices > 1) snprintf(devices, sizeof devices, " on %d devices", t->n_devices);
    show_text(out, t->r->id, SIZE_MAX);
    fputc('\n', out);
    trace_say(out, style, HANG, "  traced   %s: %s%s, %s ops", trace_when(when, t),
              format_seconds(ns, t->elapsed_ns / 1e9), devices, format_count(count, t->n));
    if (isfinite(cost))
        trace_say(out, style, HANG,
                  "  beside   the same chunks took %s in the measured repeats (median), the traced "
                  "ones %.3f times that",
                  format_seconds(ns, t->elapsed_ns / cost / 1e9), cost);
    if (t->r->dropped_spans > 0)
        fprintf(out, "  %sDROPPED  %s spans of this case found no room: sums are too low%s\n",
                tone_begin(TONE_BAD, style->color), format_count(count, t->r->dropped_spans),
                tone_end(TONE_BAD, style->color));
    if (t->r->counters_note[0])
        trace_say(out, style, HANG, "  counters absent: %s", t->r->counters_note);
    if (!t->whole)
        trace_say(
            out, style, 2,
            "  The file is of before chunks were recorded beside their spans: a chunk reaches "
            "from its first op to its last.");
}

/* ---- by op ---- */

/* Of a case whose ops were counted: cycles a second of all threads, and what a cycle and a miss
 * did. */
static void add_counts(struct table *table, const struct trace *t, const struct trace_sum *s) {
    const bool counted = t->r->counted && s->cycles > 0;
    table_add_number(table, counted && s->ns > 0 ? s->cycles / s->ns : (double)NAN);
    table_add_number(table, counted ? s->instructions / s->cycles : (double)NAN);
    table_add_number(table, counted && s->llc_misses > 0 ? s->bytes / s->llc_misses : (double)NAN);
}

static void add_rates(struct table *table, const struct trace_sum *s,
                      const struct device_rates *rates) {
    table_add_number(table, s->ns > 0 && s->flops > 0 ? s->flops / s->ns : (double)NAN);
    table_add_number(table, s->ns > 0 && s->bytes > 0 ? s->bytes / s->ns : (double)NAN);
    trace_add_percent(table, 100 * trace_of_ceiling(s, rates));
}

static void add_op(struct table *table, const struct trace *t, const struct trace_op *o,
                   const struct device_rates *rates) {
    char text[TRACE_TEXT], count[FORMAT_BYTES];
    table_add(table, TONE_PLAIN, "%s", trace_op_text(text, o->op, o->role));
    table_add(table, TONE_PLAIN, "%s", result_kernel_name(t->r, o->op, o->variant));
    table_add(table, TONE_PLAIN, "%s", format_count(count, o->sum.calls));
    table_add_number(table, o->sum.ns / 1e6);
    trace_add_percent(table, trace_share(o->sum.ns, t->latency_ns));
    add_rates(table, &o->sum, rates);
    add_counts(table, t, &o->sum);
}

/* A row without a kernel. */
static void add_rest(struct table *table, const struct trace *t, const char *name, double ns) {
    if (ns == 0) return;
    table_add(table, TONE_FAINT, "%s", name);
    table_add(table, TONE_PLAIN, "%s", "");
    table_add(table, TONE_PLAIN, "%s", "");
    table_add_number(table, ns / 1e6);
    trace_add_percent(table, trace_share(ns, t->latency_ns));
    for (int i = 0; i < 6; i++) table_add(table, TONE_PLAIN, "%s", "");
}

/* The ops after the first TOP, together. */
static void add_others(struct table *table, const struct trace *t) {
    char name[40];
    double ns = 0;
    for (int i = TOP; i < t->n_ops; i++) ns += t->ops[i].sum.ns;
    snprintf(name, sizeof name, "(%d more: --verbose)", t->n_ops - TOP);
    add_rest(table, t, name, ns);
}

static void print_ops(FILE *out, const struct trace *t, const struct device_rates *rates,
                      const struct show_style *style) {
    enum { KERNEL = 1, CALLS, GFLOPS = 5, GBS, CYCLES = 8, INSTRUCTIONS, A_MISS };
    static const int least[] = {A_MISS, CYCLES, INSTRUCTIONS, GBS, CALLS, GFLOPS, KERNEL, -1};
    const bool uncounted = !t->r->counted;
    struct table_column columns[] = {{"op", "", true, false},
                                     {"kernel", "", true, false},
                                     {"calls", "", false, false},
                                     {"time", "ms", false, false},
                                     {"share", "%", false, false},
                                     {"rate", "GFLOP/s", false, false},
                                     {"rate", "GB/s", false, false},
                                     {"of ceiling", "%", false, false},
                                     {"cycles", "G/s", false, uncounted},
                                     {"instr.", "a cycle", false, uncounted},
                                     {"bytes", "a miss", false, uncounted}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const bool all = style->verbose || t->n_ops <= TOP + 1;
    for (int i = 0; i < t->n_ops && (all || i < TOP); i++) add_op(table, t, &t->ops[i], rates);
    if (!all) add_others(table, t);
    add_rest(table, t, "(before the first op)", t->before_ns);
    add_rest(table, t, "(between ops)", t->between_ns);
    add_rest(table, t, "(after the last op)", t->after_ns);
    add_rest(table, t, "(ops at once)", -t->at_once_ns);
    add_rest(table, t, "latency of the chunks", t->latency_ns);
    fprintf(out, "\ntime by op (all ranks%s; share: of the chunks' latency)\n",
            t->n_devices > 1 ? ", devices together" : "");
    trace_print_table(out, table, columns, least, style);
    if (t->r->counted)
        trace_say(
            out, style, 4,
            "  cycles, instructions: all threads, user space, waiting for each other included; "
            "bytes a miss: compulsory traffic over misses of the last cache");
    trace_say(out, style, 4,
              "  ceiling: multiply-adds on registers or a copy through memory, the longer of them; "
              "caches beat it");
}

/* ---- by depth ---- */

/* What grows with depth, with the model, with the ranks, and all else. */
enum { ATTENTION, LINEAR, COMMUNICATION, OTHER, PARTS };
static void parts_of(const double op_ns[OPS], double out[PARTS]) {
    memset(out, 0, PARTS * sizeof *out);
    for (int i = 0; i < OPS; i++) {
        const bool communicates = i == OP_ALL_REDUCE || i == OP_EXCHANGE;
        out[i == OP_ATTENTION ? ATTENTION
            : i == OP_LINEAR  ? LINEAR
            : communicates    ? COMMUNICATION
                              : OTHER] += op_ns[i];
    }
}

static void add_parts(struct table *table, const double op_ns[OPS], double whole) {
    double parts[PARTS];
    parts_of(op_ns, parts);
    for (int i = 0; i < PARTS; i++) trace_add_percent(table, trace_share(parts[i], whole));
}

#define PART_COLUMNS(t)                                                                            \
    {"attention", "%", false, false}, {"linear", "%", false, false},                               \
        {(t)->n_devices > 1 ? "communication" : "all_reduce", "%", false, false}, {                \
        "other ops", "%", false, false                                                             \
    }
#define DEVICE_COLUMN(t)                                                                           \
    { "device", "", false, (t)->n_devices < 2 }

static void add_part(struct table *table, const struct trace_chunk *c, const struct trace_part *p) {
    const double latency = (double)(c->end_ns - c->begin_ns);
    double op_ns[OPS] = {0}, gap = 0;
    int64_t last = p->spans[0]->span.end_ns;
    char text[FORMAT_BYTES];
    for (int64_t i = 0; i < p->n; i++) {
        const struct span *s = &p->spans[i]->span;
        op_ns[s->op] += (double)(s->end_ns - s->begin_ns);
        if (s->begin_ns > last) gap = fmax(gap, (double)(s->begin_ns - last));
        if (s->end_ns > last) last = s->end_ns;
    }
    table_add(table, TONE_PLAIN, "%d", c->chunk + 1);
    table_add(table, TONE_PLAIN, "%s", c->row ? format_count(text, c->row->start_token) : "-");
    table_add(table, TONE_PLAIN, "%d", p->device);
    table_add(table, TONE_PLAIN, "%s", format_count(text, p->n));
    table_add_number(table, latency / 1e6);
    add_parts(table, op_ns, latency);
    trace_add_percent(table, trace_share(trace_no_op_ns(c, p), latency));
    table_add_number(table, gap / 1e3);
}

/* All chunks, or some that are spread over the prompt, the first and the last among them. */
static void print_chunks(FILE *out, const struct trace *t, const struct show_style *style) {
    enum { FROM = 1, NUMBER = 3, OTHER_OPS = 8, GAP = 10 };
    static const int least[] = {GAP, NUMBER, FROM, OTHER_OPS, -1};
    struct table_column columns[] = {
        {"chunk", "", false, false},  {"from", "token", false, false},    DEVICE_COLUMN(t),
        {"ops", "", false, false},    {"latency", "ms", false, false},    PART_COLUMNS(t),
        {"no op", "%", false, false}, {"longest gap", "us", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const int most = t->n_devices < CHUNK_ROWS / 3 ? CHUNK_ROWS / t->n_devices : 3;
    const int shown = style->verbose || t->n_chunks < most ? t->n_chunks : most;
    for (int i = 0; i < shown; i++) {
        const int64_t at = shown < 2 ? 0 : (int64_t)i * (t->n_chunks - 1) / (shown - 1);
        const struct trace_chunk *c = &t->chunks[at];
        for (int k = 0; k < c->n_parts; k++) add_part(table, c, &c->parts[k]);
    }
    fputs("\ntime by depth\n", out);
    trace_print_table(out, table, columns, least, style);
    if (shown < t->n_chunks)
        fprintf(out, "  the other %d of %d chunks: --verbose\n", t->n_chunks - shown, t->n_chunks);
}

/* ---- by layer ---- */

static void add_layers(struct table *table, const struct trace *t, int first, int last) {
    struct trace_group sum = {.sum = {0}};
    const int n = last - first + 1;
    for (int i = first; i <= last; i++) {
        const struct trace_group *g = &t->layers[i];
        sum.sum.calls += g->sum.calls, sum.sum.ns += g->sum.ns;
        sum.sum.flops += g->sum.flops, sum.sum.bytes += g->sum.bytes;
        for (int op = 0; op < OPS; op++) sum.op_ns[op] += g->op_ns[op];
    }
    if (sum.sum.calls == 0) return;
    if (first == 0)
        table_add(table, TONE_PLAIN, "outside");
    else if (n == 1)
        table_add(table, TONE_PLAIN, "%d", first);
    else
        table_add(table, TONE_PLAIN, "%d-%d", first, last);
    table_add_number(table, sum.sum.ns / 1e6 / n);
    trace_add_percent(table, trace_share(sum.sum.ns, t->latency_ns));
    add_parts(table, sum.op_ns, sum.sum.ns);
    table_add_number(table, sum.sum.ns > 0 ? sum.sum.flops / sum.sum.ns : (double)NAN);
}

static void print_layers(FILE *out, const struct trace *t, const struct show_style *style) {
    enum { OTHER_OPS = 6, RATE };
    static const int least[] = {RATE, OTHER_OPS, -1};
    struct table_column columns[] = {{"layer", "", false, false},
                                     {"time a layer", "ms", false, false},
                                     {"share", "%", false, false},
                                     PART_COLUMNS(t),
                                     {"rate", "GFLOP/s", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const int layers = t->n_layers - 1;
    const int rows = style->verbose || layers < LAYER_ROWS ? layers : LAYER_ROWS;
    add_layers(table, t, 0, 0);
    for (int i = 0; i < rows; i++)
        add_layers(table, t, 1 + (int)((int64_t)i * layers / rows),
                   (int)((int64_t)(i + 1) * layers / rows));
    fputs("\ntime by layer (a layer's: mean over those of the row; parts: of the row)\n", out);
    trace_print_table(out, table, columns, least, style);
}

/* ---- gaps ---- */

static void print_gaps(FILE *out, const struct trace *t, const struct show_style *style) {
    static const int least[] = {-1}; /* what stands last goes on in the next line */
    struct table_column columns[] = {{"gap", "us", false, false},
                                     {"chunk", "", false, false},
                                     DEVICE_COLUMN(t),
                                     {"after", "", true, false},
                                     {"before", "", true, false}};
    if (t->n_gaps == 0) return;
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < t->n_gaps; i++) {
        const struct trace_gap *g = &t->gaps[i];
        char text[TRACE_TEXT];
        table_add_number(table, g->ns / 1e3);
        table_add(table, TONE_PLAIN, "%d", g->after->chunk + 1);
        table_add(table, TONE_PLAIN, "%d", g->after->span.device);
        table_add(table, TONE_PLAIN, "%s", trace_span_text(text, &g->after->span));
        table_add(table, TONE_PLAIN, "%s", trace_span_text(text, &g->before->span));
    }
    fputs("\nlongest gaps between ops\n", out);
    trace_print_table(out, table, columns, least, style);
}

/* ---- ranks and devices ---- */

/* A rank, or (-1) what a device did for all its ranks. */
static void add_rank(struct table *table, const struct trace *t, int rank, int device,
                     const struct trace_group *g) {
    char count[FORMAT_BYTES];
    if (g->sum.calls == 0) return;
    if (rank < 0)
        table_add(table, TONE_PLAIN, "for all");
    else
        table_add(table, TONE_PLAIN, "%d", rank);
    table_add(table, TONE_PLAIN, "%d", device);
    table_add(table, TONE_PLAIN, "%s", format_count(count, g->sum.calls));
    table_add_number(table, g->sum.ns / 1e6);
    trace_add_percent(table, trace_share(g->sum.ns, t->latency_ns));
    add_parts(table, g->op_ns, g->sum.ns);
    table_add_number(table, g->sum.ns > 0 ? g->sum.flops / g->sum.ns : (double)NAN);
}

static void print_skew(FILE *out, const struct trace *t) {
    double least = INFINITY, most = 0;
    int slowest = 0, ranks = 0;
    for (int i = 0; i < MAX_RANKS; i++) {
        const double ns = t->ranks[i].sum.ns;
        if (t->ranks[i].sum.calls == 0) continue;
        ranks++;
        if (ns < least) least = ns;
        if (ns > most) most = ns, slowest = i;
    }
    if (ranks > 1)
        fprintf(out, "  skew: rank %d, the slowest, took %.1f %% more than the fastest\n", slowest,
                trace_share(most - least, least));
    double parts[PARTS], comm = 0;
    for (int i = 0; i < MAX_RANKS; i++) {
        parts_of(t->devices[i].all.op_ns, parts);
        comm += parts[COMMUNICATION];
    }
    fprintf(out, "  communication: %.1f %% of the chunks' latency",
            trace_share(comm, t->latency_ns));
    if (t->r->exchange_overlap)
        fprintf(out, ", %.1f %% of it while other ops ran", trace_share(t->at_once_ns, comm));
    putc('\n', out);
}

static void print_ranks(FILE *out, const struct trace *t, const struct show_style *style) {
    enum { NUMBER = 2, OTHER_OPS = 8, RATE };
    static const int least[] = {RATE, NUMBER, OTHER_OPS, -1};
    struct table_column columns[] = {{"rank", "", false, false},       DEVICE_COLUMN(t),
                                     {"ops", "", false, false},        {"time", "ms", false, false},
                                     {"share", "%", false, false},     PART_COLUMNS(t),
                                     {"rate", "GFLOP/s", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < MAX_RANKS; i++) add_rank(table, t, i, t->rank_device[i], &t->ranks[i]);
    for (int i = 0; i < MAX_RANKS; i++) add_rank(table, t, SHARED_RANK, i, &t->devices[i].shared);
    fputs("\ntime by rank (ranks that share a device run one after another)\n", out);
    trace_print_table(out, table, columns, least, style);
    print_skew(out, t);
}

static double exchange_ns(const struct trace_device *d) {
    return d->all.op_ns[OP_EXCHANGE];
}

static void add_device(struct table *table, int number, const struct trace_device *d) {
    char count[FORMAT_BYTES];
    if (d->all.sum.calls == 0) return;
    table_add(table, TONE_PLAIN, "%d", number);
    table_add(table, TONE_PLAIN, "%s", format_count(count, d->all.sum.calls));
    table_add_number(table, d->all.sum.ns / 1e6);
    trace_add_percent(table, trace_share(d->all.sum.ns, d->latency_ns));
    table_add_number(table, exchange_ns(d) / 1e6);
    trace_add_percent(table, trace_share(exchange_ns(d), d->latency_ns));
}

/* All devices leave an exchange together: who is in it the shortest came last. */
static void print_waiting(FILE *out, const struct trace *t, const struct show_style *style) {
    int least = -1, most = -1;
    for (int i = 0; i < MAX_RANKS; i++) {
        const struct trace_device *d = &t->devices[i];
        if (d->all.sum.calls == 0) continue;
        if (least < 0 || exchange_ns(d) < exchange_ns(&t->devices[least])) least = i;
        if (most < 0 || exchange_ns(d) > exchange_ns(&t->devices[most])) most = i;
    }
    const double ns = exchange_ns(&t->devices[most]) - exchange_ns(&t->devices[least]);
    if (ns <= 0) return;
    trace_say(out, style, 4,
              "  skew: device %d waited for device %d: %.3g ms more in exchange, %.1f %% of the "
              "chunks' latency",
              most, least, ns / 1e6, trace_share(ns, t->devices[most].latency_ns));
}

static void print_devices(FILE *out, const struct trace *t, const struct show_style *style) {
    static const int least[] = {1, -1};
    struct table_column columns[] = {
        {"device", "", false, false},     {"ops", "", false, false},
        {"time", "ms", false, false},     {"share", "%", false, false},
        {"exchange", "ms", false, false}, {"share", "%", false, false}};
    if (t->n_devices < 2) return;
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < MAX_RANKS; i++) add_device(table, i, &t->devices[i]);
    fputs("\ntime by device (shares: of the chunks' latency)\n", out);
    trace_print_table(out, table, columns, least, style);
    print_waiting(out, t, style);
}

void trace_summary(FILE *out, const struct record_run *run, const struct trace *t,
                   const struct show_style *style) {
    print_head(out, t, style);
    print_ops(out, t, record_rates(run, t->r), style);
    print_chunks(out, t, style);
    print_layers(out, t, style);
    print_ranks(out, t, style);
    print_devices(out, t, style);
    print_gaps(out, t, style);
}

/* ---- a line per span ---- */

void trace_csv(FILE *out, const struct trace *t) {
    fprintf(
        out,
        "repeat,chunk,device,rank,layer,op,role,kernel,begin_ns,end_ns,duration_ns,flops,bytes%s\n",
        t->r->counted ? ",cycles,instructions,llc_misses" : "");
    for (int64_t i = 0; i < t->n; i++) {
        const struct span_row *row = t->spans[i];
        const struct span *s = &row->span;
        fprintf(out, "%d,%d,%d,%d,%d,%s,%s,%s,%lld,%lld,%lld,%lld,%lld", row->repeat, row->chunk,
                s->device, s->rank, s->layer, op_name((enum op)s->op),
                role_name((enum role)s->role), result_kernel_name(t->r, s->op, s->variant),
                (long long)s->begin_ns, (long long)s->end_ns, (long long)(s->end_ns - s->begin_ns),
                (long long)s->flops, (long long)s->bytes);
        if (t->r->counted)
            fprintf(out, ",%lld,%lld,%lld", (long long)row->counts.cycles,
                    (long long)row->counts.instructions, (long long)row->counts.llc_misses);
        fputc('\n', out);
    }
}
