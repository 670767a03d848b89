/* The kernels of a case for people: chunk by chunk what they account for, by op, and one by one;
 * and for programs, a line per kernel. Before it: kernel_view.c. */
#include "harness/format.h"
#include "harness/kernel_view.h"
#include "harness/show.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_KERNELS = 12, TOP_OPS = 12, NAME_COLUMNS = 28, STRANGERS = 4, PARTS = 16 };
enum { HANG = 11 };          /* of lines that go on */
enum { OTHER_COLUMNS = 40 }; /* what must have room beside a kernel's whole name */

/* A name from a file, in at most `most` letters. */
static char *plain(char *out, size_t most, const char *name) {
    size_t n = 0;
    for (; name[n] && n < most; n++)
        out[n] = isprint((unsigned char)name[n]) && (unsigned char)name[n] < 0x7f ? name[n] : '?';
    if (name[n] && n >= 3) memcpy(out + n - 3, "...", 3);
    out[n] = 0;
    return out;
}

static const char *name_of(const struct kernel_view *v, const struct activity_kernel *k) {
    const char *brief = activity_log_text(v->log, k->short_name);
    return *brief                                   ? brief
           : *activity_log_text(v->log, k->mangled) ? activity_log_text(v->log, k->mangled)
                                                    : "(no name)";
}

/* ---- what was recorded ---- */

static void print_strangers(FILE *out, const struct kernel_view *v,
                            const struct show_style *style) {
    char count[FORMAT_BYTES], name[NAME_COLUMNS + 1];
    int told = 0;
    if (v->nobodys == 0) return;
    fprintf(out, "  %sNOBODY'S %s kernel%s, %.2f %% of the chunks' latency:%s",
            tone_begin(TONE_BAD, style->color), format_count(count, v->nobodys),
            v->nobodys == 1 ? "" : "s", trace_share(v->nobodys_ns, v->latency_ns),
            tone_end(TONE_BAD, style->color));
    for (int i = 0; i < v->n_names; i++) {
        if (v->names[i].one->head.place.op != PLACE_UNKNOWN) continue;
        if (told++ < STRANGERS || style->verbose)
            fprintf(out, "%s %s (%s)", told > 1 ? "," : "",
                    plain(name, NAME_COLUMNS, name_of(v, v->names[i].one)),
                    format_count(count, v->names[i].calls));
    }
    if (told > STRANGERS && !style->verbose)
        fprintf(out, " and %d more: --verbose", told - STRANGERS);
    fputc('\n', out);
}

/* Copies, fills and calls of the chunks. */
static void print_others(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES], d[FORMAT_BYTES], e[FORMAT_BYTES];
    int64_t copies = 0, bytes = 0, ns = 0, fills = 0, calls = 0;
    for (int64_t i = 0; i < v->log->n_copies; i++) {
        const struct activity_copy *copy = &v->log->copies[i];
        if (!kernel_view_has(v, &copy->head)) continue;
        copies += !copy->set, fills += copy->set;
        bytes += copy->bytes, ns += copy->head.end_ns - copy->head.begin_ns;
    }
    for (int64_t i = 0; i < v->log->n_calls; i++)
        calls += kernel_view_has(v, &v->log->calls[i].head);
    trace_say(out, style, HANG, "  beside   %s copies and %s fills of %s in %s, %s calls of CUDA",
              format_count(a, copies), format_count(b, fills), format_bytes(c, bytes),
              format_ns(d, ns), format_count(e, calls));
}

/* What the host was kept by, as far as CUPTI tells: by kind, the longest first. */
struct kept {
    const char *what;
    double ns;
};

static int longest_first(const void *a, const void *b) {
    const double x = ((const struct kept *)a)->ns, y = ((const struct kept *)b)->ns;
    return (x < y) - (x > y);
}

static void print_overheads(FILE *out, const struct kernel_view *v,
                            const struct show_style *style) {
    enum { KINDS = 16 };
    struct kept kinds[KINDS];
    char ns[FORMAT_BYTES];
    int n = 0;
    for (int64_t i = 0; i < v->log->n_overheads; i++) {
        const struct activity_overhead *o = &v->log->overheads[i];
        const char *what = activity_overhead_name(o->kind);
        int k = 0;
        if (!kernel_view_has(v, &o->head)) continue;
        while (k < n && strcmp(kinds[k].what, what) != 0) k++;
        if (k == KINDS) continue;
        if (k == n) kinds[n++] = (struct kept){what, 0};
        kinds[k].ns += (double)(o->head.end_ns - o->head.begin_ns);
    }
    if (n == 0) return;
    qsort(kinds, (size_t)n, sizeof *kinds, longest_first);
    char list[400] = "";
    for (int k = 0, used = 0; k < n && used < (int)sizeof list; k++)
        used += snprintf(list + used, sizeof list - used, "%s %s %s", k ? "," : "", kinds[k].what,
                         format_seconds(ns, kinds[k].ns / 1e9));
    trace_say(out, style, HANG, "  host     kept by:%s", list);
}

static void print_head(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    char count[FORMAT_BYTES];
    const double cost = kernel_view_cost(v);
    const struct kernel_trace *t = &v->r->kernel_trace;
    fprintf(out, "kernels that CUPTI %u recorded (%d chunk%s once more, in a process of its own)\n",
            t->cupti_version, v->n_chunks, v->n_chunks == 1 ? "" : "s");
    fprintf(out, "  found    %s kernels%s\n", format_count(count, v->n),
            v->nobodys == 0 ? ", each with its op" : "");
    print_strangers(out, v, style);
    print_others(out, v, style);
    print_overheads(out, v, style);
    if (isfinite(cost))
        fprintf(out, "  cost     the chunks took %.3f times their measured latency (median)\n",
                cost);
    if (v->log->dropped > 0)
        fprintf(out, "  %sDROPPED  %s records found no room: sums are too low%s\n",
                tone_begin(TONE_BAD, style->color), format_count(count, v->log->dropped),
                tone_end(TONE_BAD, style->color));
}

/* ---- by chunk ---- */

static void add_part(struct table *table, const struct kernel_part *p) {
    char text[FORMAT_BYTES];
    const double latency = (double)p->row->latency_ns;
    table_add(table, TONE_PLAIN, "%d", p->row->chunk + 1);
    table_add(table, TONE_PLAIN, "%s", format_count(text, p->row->start_token));
    table_add(table, TONE_PLAIN, "%d", p->device);
    table_add(table, TONE_PLAIN, "%s", p->row->replayed ? "graph" : "eager");
    table_add(table, TONE_PLAIN, "%s", format_count(text, p->n));
    table_add_number(table, latency / 1e6);
    table_add_number(table, p->kernels_ns / 1e6);
    table_add_number(table, p->at_once_ns / 1e6);
    table_add_number(table, (p->before_ns + p->between_ns + p->after_ns) / 1e6);
    table_add_number(table, p->longest_gap_ns / 1e3);
    trace_add_percent(table, trace_share(p->kernels_ns - p->at_once_ns, latency));
}

static void print_parts(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    bool several = false;
    for (int i = 1; i < v->n_parts; i++) several |= v->parts[i].device != v->parts[0].device;
    enum { FROM = 1, AT_ONCE = 7, LONGEST = 9 };
    static const int least[] = {FROM, LONGEST, AT_ONCE, -1};
    struct table_column columns[] = {
        {"chunk", "", false, false},     {"from", "token", false, false},
        {"device", "", false, !several}, {"as", "", true, false},
        {"kernels", "", false, false},   {"latency", "ms", false, false},
        {"kernels", "ms", false, false}, {"at once", "ms", false, false},
        {"idle", "ms", false, false},    {"longest", "us", false, false},
        {"explained", "%", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const int shown = style->verbose || v->n_parts <= PARTS ? v->n_parts : PARTS;
    for (int i = 0; i < shown; i++)
        add_part(table, &v->parts[shown < 2 ? 0 : (int64_t)i * (v->n_parts - 1) / (shown - 1)]);
    fputc('\n', out);
    trace_say(out, style, 2,
              "what kernels explain of each chunk's latency (idle: no kernel ran, and the longest "
              "such gap)");
    trace_print_table(out, table, columns, least, style);
    if (shown < v->n_parts)
        fprintf(out, "  the other %d of %d: --verbose\n", v->n_parts - shown, v->n_parts);
}

/* ---- by op ---- */

static void add_row(struct table *table, const struct kernel_view *v, const char *name,
                    const char *variant, int64_t calls, double ns) {
    char count[FORMAT_BYTES] = "";
    table_add(table, calls ? TONE_PLAIN : TONE_FAINT, "%s", name);
    table_add(table, TONE_PLAIN, "%s", variant);
    table_add(table, TONE_PLAIN, "%s", calls ? format_count(count, calls) : "");
    table_add_number(table, ns / 1e6);
    trace_add_percent(table, trace_share(ns, v->latency_ns));
}

static void add_rest(struct table *table, const struct kernel_view *v, const char *name,
                     double ns) {
    if (ns != 0) add_row(table, v, name, "", 0, ns);
}

static void print_ops(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    static const int least[] = {1, -1};
    struct table_column columns[] = {{"op", "", true, false},
                                     {"variant", "", true, false},
                                     {"kernels", "", false, false},
                                     {"time", "ms", false, false},
                                     {"share", "%", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const bool all = style->verbose || v->n_ops <= TOP_OPS + 1;
    char text[TRACE_TEXT], more[40];
    double others_ns = 0, all_ns = 0;
    for (int i = 0; i < v->n_ops; i++) {
        const struct kernel_sum *o = &v->ops[i];
        const struct op_place *p = &o->one->head.place;
        all_ns += o->ns;
        if (!all && i >= TOP_OPS)
            others_ns += o->ns;
        else
            add_row(table, v, kernel_op_text(text, p),
                    p->op == PLACE_UNKNOWN ? "" : result_kernel_name(v->r, p->op, p->variant),
                    o->calls, o->ns);
    }
    snprintf(more, sizeof more, "(%d more: --verbose)", v->n_ops - TOP_OPS);
    if (!all) add_rest(table, v, more, others_ns);
    add_rest(table, v, "(beyond their chunk)", v->kernels_ns - all_ns);
    add_rest(table, v, "(before the first kernel)", v->before_ns);
    add_rest(table, v, "(between kernels)", v->between_ns);
    add_rest(table, v, "(after the last kernel)", v->after_ns);
    add_rest(table, v, "(kernels at once)", -v->at_once_ns);
    add_rest(table, v, "latency of the chunks", v->latency_ns);
    fputs("\nkernel time by op (all ranks; share: of the chunks' latency)\n", out);
    trace_print_table(out, table, columns, least, style);
}

/* ---- one by one ---- */

/* "132x2", without the ones at its end. */
static char *shape(char out[48], const int32_t v[3]) {
    const int n = v[2] > 1 ? 3 : v[1] > 1 ? 2 : 1;
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(out + used, 48 - used, "%s%d", i ? "x" : "", v[i]);
    return out;
}

/* Letters of a name that have room: with --verbose all, as far as the screen goes. */
enum { WHOLE_NAME = 199 };
static size_t name_room(const struct show_style *style) {
    const int room = style->width - OTHER_COLUMNS;
    if (!style->verbose) return NAME_COLUMNS;
    if (style->width <= 0 || room > WHOLE_NAME) return WHOLE_NAME;
    return (size_t)(room > NAME_COLUMNS ? room : NAME_COLUMNS);
}

static void add_kernel(struct table *table, const struct kernel_view *v,
                       const struct kernel_sum *sum, size_t name_most) {
    const struct activity_kernel *k = sum->one;
    char text[TRACE_TEXT], count[FORMAT_BYTES], name[WHOLE_NAME + 1], grid[48];
    table_add(table, TONE_PLAIN, "%s", plain(name, name_most, name_of(v, k)));
    table_add(table, k->head.place.op == PLACE_UNKNOWN ? TONE_BAD : TONE_PLAIN, "%s",
              kernel_op_text(text, &k->head.place));
    table_add(table, TONE_PLAIN, "%s", format_count(count, sum->calls));
    table_add_number(table, sum->ns / 1e6);
    trace_add_percent(table, trace_share(sum->ns, v->latency_ns));
    table_add_number(table, sum->ns / 1e3 / (double)sum->calls);
    table_add(table, TONE_PLAIN, "%s%s", shape(grid, k->grid), sum->same_grid ? "" : "*");
    table_add(table, TONE_PLAIN, "%s", shape(grid, k->block));
    table_add(table, TONE_PLAIN, "%d", k->registers);
    table_add(table, TONE_PLAIN, "%.1f",
              ((double)k->static_shared + (double)k->dynamic_shared) / 1024);
}

static void print_kernels(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    enum { CALLS = 2, MEAN = 5, GRID, BLOCK, REGS, SHARED };
    static const int least[] = {MEAN, BLOCK, SHARED, REGS, GRID, CALLS, -1};
    struct table_column columns[] = {{"kernel", "", true, false},  {"op", "", true, false},
                                     {"calls", "", false, false},  {"time", "ms", false, false},
                                     {"share", "%", false, false}, {"mean", "us", false, false},
                                     {"grid", "", false, false},   {"block", "", false, false},
                                     {"regs", "", false, false},   {"shared", "KiB", false, false}};
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    const int shown = style->verbose || v->n_names <= TOP_KERNELS ? v->n_names : TOP_KERNELS;
    bool grids_differ = false;
    for (int i = 0; i < shown; i++) {
        add_kernel(table, v, &v->names[i], name_room(style));
        grids_differ |= !v->names[i].same_grid;
    }
    fputs("\nkernels, by their time\n", out);
    trace_print_table(out, table, columns, least, style);
    if (grids_differ) fputs("  *: of the longest; others have other grids\n", out);
    if (shown < v->n_names)
        fprintf(out, "  the other %d of %d: --verbose; each of them: --kernels --csv\n",
                v->n_names - shown, v->n_names);
}

void trace_kernels(FILE *out, const struct kernel_view *v, const struct show_style *style) {
    print_head(out, v, style);
    print_parts(out, v, style);
    print_ops(out, v, style);
    print_kernels(out, v, style);
}

/* ---- a line per kernel ---- */

/* Quoted: names have commas. */
static void put_quoted(FILE *out, const char *text) {
    putc('"', out);
    for (const char *c = text; *c; c++) {
        if (*c == '"') putc('"', out);
        putc(isprint((unsigned char)*c) ? *c : '?', out);
    }
    putc('"', out);
}

void trace_kernels_csv(FILE *out, const struct kernel_view *v) {
    fputs("repeat,chunk,device,rank,layer,op,role,variant,begin_ns,end_ns,duration_ns,stream,"
          "correlation,graph_node,grid_x,grid_y,grid_z,block_x,block_y,block_z,registers,"
          "static_shared_bytes,dynamic_shared_bytes,name\n",
          out);
    for (int64_t i = 0; i < v->n; i++) {
        const struct activity_kernel *k = v->kernels[i];
        const struct op_place *p = &k->head.place;
        const bool known = p->op != PLACE_UNKNOWN;
        fprintf(out, "%d,%d,%d,%d,%d,%s,%s,%s,%lld,%lld,%lld,%u,%u,%llu", k->head.repeat,
                k->head.chunk, kernel_device(k), p->rank, p->layer,
                known ? op_name((enum op)p->op) : "", known ? role_name((enum role)p->role) : "",
                known ? result_kernel_name(v->r, p->op, p->variant) : "",
                (long long)k->head.begin_ns, (long long)k->head.end_ns,
                (long long)(k->head.end_ns - k->head.begin_ns), k->stream, k->correlation,
                (unsigned long long)k->graph_node);
        fprintf(out, ",%d,%d,%d,%d,%d,%d,%d,%d,%d,", k->grid[0], k->grid[1], k->grid[2],
                k->block[0], k->block[1], k->block[2], k->registers, k->static_shared,
                k->dynamic_shared);
        put_quoted(out, activity_log_text(v->log, k->demangled));
        putc('\n', out);
    }
}
