/* Everything about one case, for people: latency over depth, memory by category and rank, decode,
 * output, checks, and where the time went. Before it: record_read.c. */
#include "harness/format.h"
#include "harness/kernel_view.h"
#include "harness/show.h"
#include "harness/stats.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void heading(FILE *out, const char *text) {
    fprintf(out, "\n%s\n", text);
}

/* ---- what it was ---- */

enum { NAME_WIDTH = 11, TEXT_AT = 2 + NAME_WIDTH, LINE_BYTES = 1200 };

/* "  name       text", broken between words where the screen ends. */
static void line(FILE *out, const struct show_style *style, const char *name, const char *text) {
    const int width = style->width > TEXT_AT + 20 ? style->width : INT_MAX;
    int column = TEXT_AT;
    fprintf(out, "  %-*s", NAME_WIDTH, name);
    for (bool first = true; *text; first = false) {
        char word[LINE_BYTES];
        const int n = (int)strcspn(text, " ");
        if (!first && column + 1 + n > width) {
            fprintf(out, "\n%*s", TEXT_AT, "");
            column = TEXT_AT;
        } else if (!first) {
            fputc(' ', out);
            column++;
        }
        snprintf(word, sizeof word, "%.*s", n, text);
        show_text(out, word, SIZE_MAX);
        column += n;
        text += n + (text[n] == ' ');
    }
    fputc('\n', out);
}

/* A crashed worker may not have said which kernels "auto" came to. */
static const char *kernel_name(const char *kernel) {
    return show_is_known(kernel) ? kernel : "auto";
}

static void print_prompt(FILE *out, const struct case_result *r, const struct show_style *style) {
    char text[LINE_BYTES], tokens[FORMAT_BYTES];
    const int used = snprintf(text, sizeof text, "%s, %s tokens", r->prompt,
                              format_count(tokens, r->prompt_tokens));
    if (r->prompt_sha256[0] && used > 0 && (size_t)used < sizeof text)
        snprintf(text + used, sizeof text - (size_t)used, ", sha256 %.16s", r->prompt_sha256);
    line(out, style, "prompt", text);
    snprintf(text, sizeof text, "%s, sha256 of the file %.16s", r->prompt_url,
             r->prompt_file_sha256);
    if (r->prompt_url[0]) line(out, style, "from", text);
}

static void print_graphs(FILE *out, const struct case_result *r, const struct show_style *style) {
    const struct graph_info *g = &r->graph_info;
    char text[LINE_BYTES], bytes[FORMAT_BYTES], a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    char chunk[40] = ""; /* older files do not say */
    if (g->graphs == 0) return;
    if (g->chunk_nodes > 0)
        snprintf(chunk, sizeof chunk, " (%lld of a chunk)", (long long)g->chunk_nodes);
    const int used =
        snprintf(text, sizeof text, "%d, %lld nodes%s, %s, captured in %s, instantiated in %s",
                 g->graphs, (long long)g->nodes, chunk, format_bytes(bytes, g->bytes),
                 format_ns(a, g->capture_ns), format_ns(b, g->instantiate_ns));
    if (g->upload_ns > 0)
        snprintf(text + used, sizeof text - (size_t)used, ", uploaded in %s",
                 format_ns(c, g->upload_ns));
    line(out, style, "graphs", text);
}

static void print_identity(FILE *out, const struct case_result *r, const struct show_style *style) {
    char text[LINE_BYTES], a[FORMAT_BYTES], b[FORMAT_BYTES];
    enum tone tone = show_status_tone(r->status);
    show_text(out, r->id, SIZE_MAX);
    fprintf(out, ": %s%s%s\n", tone_begin(tone, style->color), case_status_text(r->status),
            tone_end(tone, style->color));
    if (r->reason[0]) line(out, style, "reason", r->reason);
    if (r->exit_signal) {
        snprintf(text, sizeof text, "%d (%s)", r->exit_signal, strsignal(r->exit_signal));
        line(out, style, "signal", text);
    }
    print_prompt(out, r, style);
    snprintf(text, sizeof text, "%d chunk%s of %s tokens, %s, TP %d on %d device%s, %s, %s",
             trace_chunks_of(r), trace_chunks_of(r) == 1 ? "" : "s",
             format_count(a, r->chunk_tokens), r->graph ? "graph" : "eager", r->tp, r->devices,
             r->devices == 1 ? "" : "s", r->device, r->dtype);
    line(out, style, "execution", text);
    snprintf(text, sizeof text, "attention %s, linear %s%s%s%s%s%s", kernel_name(r->attention),
             kernel_name(r->linear), r->exchange[0] ? ", exchange " : "", r->exchange,
             r->exchange_overlap ? " beside other ops" : "",
             r->dual_chunk ? ", dual chunk attention" : "",
             r->prune_last_layer ? ", last layer pruned" : "");
    line(out, style, "kernels", text);
    if (r->attention_note[0]) line(out, style, "", r->attention_note);
    snprintf(text, sizeof text, "model %s, session %s", format_ns(a, r->load_ns),
             format_ns(b, r->session_ns));
    if (r->load_ns > 0 || r->session_ns > 0) line(out, style, "opening", text);
    print_graphs(out, r, style);
}

/* Beside what was measured, or alone where nothing was. */
static void print_predicted(FILE *out, const struct case_result *r, const struct case_summary *s,
                            const struct show_style *style) {
    char text[300], seconds[FORMAT_BYTES], bytes[FORMAT_BYTES], of_time[40] = "", of_bytes[40] = "";
    const double time = show_time_ratio(r, s), memory = show_memory_ratio(r, s);
    if (r->predicted_prefill_s <= 0 || r->predicted_memory.total_bytes <= 0) return;
    if (isfinite(time)) snprintf(of_time, sizeof of_time, " (measured: %.2f of it)", time);
    if (isfinite(memory)) snprintf(of_bytes, sizeof of_bytes, " (measured: %.2f of it)", memory);
    snprintf(text, sizeof text, "prefill %s%s, memory %s%s",
             format_seconds(seconds, r->predicted_prefill_s), of_time,
             format_bytes(bytes, r->predicted_memory.total_bytes), of_bytes);
    line(out, style, "predicted", text);
}

static void print_ttft(FILE *out, const struct case_result *r, const struct case_summary *s,
                       const struct show_style *style) {
    char text[300], a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES], d[FORMAT_BYTES];
    if (r->n_ttft == 0) {
        line(out, style, "TTFT", "not measured");
        return;
    }
    const char *about = r->ttft_estimated ? "~" : "";
    char repeats[120] = "1 repeat";
    if (r->n_ttft > 1)
        snprintf(repeats, sizeof repeats, "%d repeats, %s to %s", r->n_ttft,
                 format_ns(b, s->ttft_min_ns), format_ns(c, s->ttft_max_ns));
    int used =
        snprintf(text, sizeof text, "%s%s (%s), %s%s tok/s", about, format_ns(a, s->ttft_median_ns),
                 repeats, about, format_tok_s(d, s->prefill_tok_s));
    if (r->ttft_estimated)
        snprintf(text + used, sizeof text - (size_t)used,
                 ", estimated: standard error %.2g %%, fit residual %.2g %% of %d chunks",
                 100 * r->ttft_error, 100 * r->fit.rms_relative, r->fit.n);
    line(out, style, "TTFT", text);
}

/* ---- latency over depth ---- */

enum { BINS_MOST = 16, BAR_MOST = 24 };

struct bin {
    int first, last; /* chunk numbers */
    int32_t start_token, n_tokens;
    int64_t median_ns, min_ns, max_ns;
    double tok_s, flops;
};

static int by_depth(const void *a, const void *b) {
    const struct chunk_row *x = *(const struct chunk_row *const *)a,
                           *y = *(const struct chunk_row *const *)b;
    if (x->chunk != y->chunk) return x->chunk < y->chunk ? -1 : 1;
    return (x->repeat > y->repeat) - (x->repeat < y->repeat);
}

static void fill_bin(struct bin *b, const struct chunk_row *const *rows, int n, int64_t *scratch) {
    double ns = 0, tokens = 0, flops = 0;
    for (int i = 0; i < n; i++) {
        scratch[i] = rows[i]->latency_ns;
        ns += (double)rows[i]->latency_ns;
        tokens += rows[i]->n_tokens;
        flops += (double)rows[i]->flops;
    }
    b->first = rows[0]->chunk, b->last = rows[n - 1]->chunk;
    b->start_token = rows[0]->start_token, b->n_tokens = rows[0]->n_tokens;
    b->median_ns = stats_median(scratch, n);
    b->min_ns = stats_min(scratch, n), b->max_ns = stats_max(scratch, n);
    b->tok_s = ns > 0 ? tokens * 1e9 / ns : (double)NAN;
    b->flops = ns > 0 ? flops * 1e9 / ns : (double)NAN;
}

/* Rows in order of depth, all repeats together, in at most BINS_MOST bins of about as many chunks
 * each (one for each chunk when `all`). Returns the number of bins. */
static int fill_bins(const struct chunk_row *const *rows, int n, bool all, struct bin *bins,
                     int64_t *scratch) {
    int depths = 0, n_bins = 0;
    for (int i = 0; i < n; i++) depths += i == 0 || rows[i]->chunk != rows[i - 1]->chunk;
    int64_t wanted = all || depths < BINS_MOST ? depths : BINS_MOST;
    for (int i = 0, begin = 0, depth = 0; i < n; i++) {
        bool last = i + 1 == n, deeper = last || rows[i + 1]->chunk != rows[i]->chunk;
        if (last || (deeper && (depth + 1) * wanted / depths != depth * wanted / depths)) {
            fill_bin(&bins[n_bins++], rows + begin, i + 1 - begin, scratch);
            begin = i + 1;
        }
        depth += deeper;
    }
    return n_bins;
}

static void bar(char *out, double share, bool blocks) {
    static const char *const eighths[] = {"",
                                          "\xe2\x96\x8f",
                                          "\xe2\x96\x8e",
                                          "\xe2\x96\x8d",
                                          "\xe2\x96\x8c",
                                          "\xe2\x96\x8b",
                                          "\xe2\x96\x8a",
                                          "\xe2\x96\x89"};
    int parts = (int)lround((share < 0 ? 0 : share > 1 ? 1 : share) * BAR_MOST * 8);
    *out = 0;
    for (int i = 0; i < parts / 8; i++) strcat(out, blocks ? "\xe2\x96\x88" : "#");
    if (blocks) strcat(out, eighths[parts % 8]);
}

static void print_bins(FILE *out, const struct bin *bins, int n, bool spread,
                       const struct show_style *style) {
    int64_t most = 1;
    for (int i = 0; i < n; i++)
        if (bins[i].median_ns > most) most = bins[i].median_ns;
    double unit = most >= 1000000000 ? 1e9 : 1e6;
    const char *name = most >= 1000000000 ? "s" : "ms";
    struct table_column columns[] = {
        {"chunk", "", false, false},        {"from", "token", false, false},
        {"length", "tokens", false, false}, {"latency", name, false, false},
        {"min-max", name, false, !spread},  {"rate", "tok/s", false, false},
        {"rate", "GFLOP/s", false, false},  {"", "", true, false}};
    struct table *t = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < n; i++) {
        char a[FORMAT_BYTES], b[FORMAT_BYTES], text[BAR_MOST * 3 + 4];
        const struct bin *k = &bins[i];
        if (k->first == k->last)
            table_add(t, TONE_PLAIN, "%d", k->first + 1);
        else
            table_add(t, TONE_PLAIN, "%d-%d", k->first + 1, k->last + 1);
        table_add(t, TONE_PLAIN, "%s", format_count(a, k->start_token));
        table_add(t, TONE_PLAIN, "%s", format_count(a, k->n_tokens));
        table_add_number(t, (double)k->median_ns / unit);
        table_add(t, TONE_PLAIN, "%s-%s", table_number(a, (double)k->min_ns / unit),
                  table_number(b, (double)k->max_ns / unit));
        table_add(t, TONE_PLAIN, "%s", format_tok_s(a, k->tok_s));
        table_add_number(t, k->flops / 1e9);
        bar(text, (double)k->median_ns / (double)most, style->bars);
        table_add(t, TONE_FAINT, "%s", text);
    }
    table_print(out, t, "  ", style->width, style->color);
    table_close(t);
}

static void print_chunks(FILE *out, const struct case_result *r, const struct show_style *style) {
    if (r->n_chunks == 0) return;
    size_t n = (size_t)r->n_chunks;
    const struct chunk_row **rows = calloc(n, sizeof *rows);
    struct bin *bins = calloc(n, sizeof *bins);
    int64_t *scratch = calloc(n, sizeof *scratch);
    if (rows && bins && scratch) {
        for (size_t i = 0; i < n; i++) rows[i] = &r->chunks[i];
        qsort(rows, n, sizeof *rows, by_depth);
        int n_bins = fill_bins(rows, (int)n, style->verbose, bins, scratch);
        heading(out, n_bins < (int)n ? "chunks (latency: median over repeats and chunks of a row)"
                                     : "chunks");
        print_bins(out, bins, n_bins, n_bins < (int)n, style);
    }
    free(scratch);
    free(bins);
    free(rows);
}

/* ---- memory ---- */

/* Highest high-water marks of a rank over the rows. */
static void rank_peaks(const struct case_result *r, int rank, int64_t out[MEMORY_CATEGORIES]) {
    memset(out, 0, MEMORY_CATEGORIES * sizeof *out);
    for (int64_t i = 0; i < r->n_memory; i++)
        for (int c = 0; r->memory[i].rank == rank && c < MEMORY_CATEGORIES; c++)
            if (r->memory[i].use.high_water[c] > out[c]) out[c] = r->memory[i].use.high_water[c];
}

/* Ranks that need the same, as they mostly do, share a column. */
static void join_ranks(struct table_column *columns, int64_t peaks[][MEMORY_CATEGORIES],
                       int ranks) {
    bool same = ranks > 1;
    for (int i = 1; i < ranks; i++) same = same && memcmp(peaks[i], peaks[0], sizeof peaks[0]) == 0;
    for (int i = 1; i < ranks; i++) columns[1 + i].hidden = same;
    if (same) columns[1].head = "each rank";
}

static void print_categories(FILE *out, const struct case_result *r,
                             const struct show_style *style) {
    static const char *const names[] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    static const char heads[MAX_RANKS][8] = {"rank 0", "rank 1", "rank 2", "rank 3",
                                             "rank 4", "rank 5", "rank 6", "rank 7"};
    int64_t peaks[MAX_RANKS + 1][MEMORY_CATEGORIES], planned[MEMORY_CATEGORIES] = {0};
    int ranks = r->tp > 0 && r->tp <= MAX_RANKS ? r->tp : 1;
    struct table_column columns[MAX_RANKS + 4] = {{"peak", "", true, false}};
    for (int i = 0; i < ranks; i++) columns[1 + i] = (struct table_column){heads[i], "MiB", 0, 0};
    columns[1 + ranks] = (struct table_column){"shared", "MiB", false, false};
    columns[2 + ranks] = (struct table_column){"in all", "MiB", false, false};
    columns[3 + ranks] = (struct table_column){"planned", "MiB", false, false};
    for (int i = 0; i <= ranks; i++) rank_peaks(r, i < ranks ? i : SHARED_RANK, peaks[i]);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        planned[c] = r->predicted_memory.shared_bytes[c];
        for (int i = 0; i < MAX_RANKS; i++) planned[c] += r->predicted_memory.rank_bytes[i][c];
    }
    struct table *t = table_open(columns, ranks + 4);
    double sums[MAX_RANKS + 3] = {0};
    for (int c = 0; c <= MEMORY_CATEGORIES; c++) {
        double all = 0;
        bool total = c == MEMORY_CATEGORIES;
        table_add(t, TONE_PLAIN, "%s", total ? "sum" : names[c]);
        for (int i = 0; i <= ranks; i++) {
            double mib = total ? sums[i] : (double)peaks[i][c] / (1 << 20);
            sums[i] += total ? 0 : mib;
            all += mib;
            table_add_number(t, mib);
        }
        double plan = total ? sums[ranks + 1] : (double)planned[c] / (1 << 20);
        sums[ranks + 1] += total ? 0 : plan;
        table_add_number(t, all);
        table_add_number(t, plan);
    }
    if (!style->verbose) join_ranks(columns, peaks, ranks);
    table_print(out, t, "  ", style->width, style->color);
    table_close(t);
}

static void print_memory(FILE *out, const struct case_result *r, const struct case_summary *s,
                         const struct show_style *style) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    if (r->n_memory == 0) return;
    heading(out, "memory");
    print_categories(out, r, style);
    fprintf(out, "  the system's own figure: peak %s; accounted peak %s; not accounted for: %s\n",
            format_bytes(a, s->peak_driver_bytes), format_bytes(b, s->peak_bytes_device),
            format_bytes(c, s->unaccounted_bytes));
    if (r->n_buffer_uses > 0)
        fputs("  what of it ops had in use, and who held the peak: bench trace FILE --case ID "
              "--memory\n",
              out);
    if (r->step_allocations)
        fprintf(out, "  %sallocations made inside steps: %lld%s\n",
                tone_begin(TONE_BAD, style->color), (long long)r->step_allocations,
                tone_end(TONE_BAD, style->color));
}

/* ---- decode and output ---- */

static void print_decode(FILE *out, const struct case_result *r, const struct case_summary *s) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    if (r->n_decode == 0) return;
    int64_t *ns = calloc((size_t)r->n_decode, sizeof *ns);
    int n = 0;
    for (int64_t i = 0; ns && i < r->n_decode; i++)
        if (r->decode[i].step > 0) ns[n++] = r->decode[i].latency_ns;
    heading(out, "decode");
    fprintf(out, "  %lld tokens in all repeats, %s tok/s", (long long)r->n_decode,
            format_tok_s(a, s->decode_tok_s));
    if (n > 0)
        fprintf(out, ", a step %s (%s to %s)", format_ns(a, stats_median(ns, n)),
                format_ns(b, stats_min(ns, n)), format_ns(c, stats_max(ns, n)));
    fputc('\n', out);
    free(ns);
}

static void print_ids(FILE *out, const char *name, const int32_t *ids, int n, bool all) {
    enum { SHOWN = 24 };
    if (n == 0) return;
    fprintf(out, "  %-11s", name);
    for (int i = 0; i < n && (all || i < SHOWN); i++) fprintf(out, "%s%d", i ? " " : "", ids[i]);
    if (!all && n > SHOWN) fprintf(out, " ... (%d in all)", n);
    fputc('\n', out);
}

static void print_output(FILE *out, const struct case_result *r, bool verbose) {
    if (r->n_output == 0) {
        heading(out, "output");
        fputs("  none: ", out);
        show_text(out, show_check_detail(&r->check[CHECK_TOKENS]), SIZE_MAX);
        fputc('\n', out);
        return;
    }
    heading(out, "output of the first repeat");
    print_ids(out, "tokens", r->output, r->n_output, verbose);
    print_ids(out, "expected", r->expected, r->n_expected, verbose);
    fprintf(out, "  %-11s", "text");
    show_text(out, r->output_text ? r->output_text : "", verbose ? SIZE_MAX : 400);
    fprintf(out, "\n  %-11sxxh64 %016llx\n", "logits", (unsigned long long)r->logits_hash);
    for (int i = 0; verbose && i < r->n_top; i++)
        fprintf(out, "  %-11s%d: %.4f\n", i ? "" : "top logprobs", r->top[i].id,
                (double)r->top[i].logprob);
}

static void print_checks(FILE *out, const struct case_result *r, const struct show_style *style) {
    struct table_column columns[] = {{"check", "", true, false},
                                     {"verdict", "", true, false},
                                     {"worst", "", false, false},
                                     {"limit", "", false, false},
                                     {"", "", true, false}};
    struct table *t = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < CHECKS; i++) {
        const struct check_result *c = &r->check[i];
        table_add(t, TONE_PLAIN, "%s", check_name((enum check)i));
        table_add(t, show_verdict_tone(c->verdict), "%s", verdict_text(c->verdict));
        table_add_number(t, c->worst);
        table_add_number(t, c->limit);
        table_add(t, TONE_PLAIN, "%s", show_check_detail(c));
    }
    heading(out, "checks");
    table_print(out, t, "  ", style->width, style->color);
    table_close(t);
}

/* ---- where the time went ---- */

/* Where there is no table, how to get it. */
static void print_no_spans(FILE *out, const struct case_result *r) {
    if (r->status != CASE_OK) return;
    heading(out, "where the time went");
    fputs("  not recorded: there was no warm-up pass to record, and no chunk short enough to run "
          "once more,\n  or run.spans = none; `--set run.spans=all` records a pass of its own; a "
          "chunk run "
          "with --once\n  has no spans\n",
          out);
}

static void add_op(struct table *table, const struct trace *t, const struct trace_op *o,
                   const struct device_rates *rates) {
    char text[TRACE_TEXT];
    const struct trace_sum *s = &o->sum;
    table_add(table, TONE_PLAIN, "%s", trace_op_text(text, o->op, o->role));
    table_add(table, TONE_PLAIN, "%s", format_count(text, s->calls));
    table_add_number(table, s->ns / 1e6);
    table_add(table, TONE_PLAIN, "%.1f", t->all.ns > 0 ? 100 * s->ns / t->all.ns : 0);
    table_add_number(table, s->ns > 0 ? s->flops / s->ns : (double)NAN);
    table_add_number(table, s->ns > 0 ? s->bytes / s->ns : (double)NAN);
    table_add(table, TONE_PLAIN, "%.1f", 100 * trace_of_ceiling(s, rates));
}

static void print_ops(FILE *out, const struct trace *t, const struct device_rates *rates,
                      const struct show_style *style) {
    enum { TOP = 10 };
    static const struct table_column columns[] = {
        {"op", "", true, false},           {"calls", "", false, false},
        {"time", "ms", false, false},      {"of op time", "%", false, false},
        {"rate", "GFLOP/s", false, false}, {"rate", "GB/s", false, false},
        {"of ceiling", "%", false, false}};
    char traced[TRACE_TEXT];
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < t->n_ops && (style->verbose || i < TOP); i++)
        add_op(table, t, &t->ops[i], rates);
    fprintf(out, "\nwhere the time went (%s; all ranks)\n", trace_when(traced, t));
    table_print(out, table, "  ", style->width, style->color);
    table_close(table);
    fputs("  ceiling: multiply-adds on registers or a copy through memory, the longer of them; "
          "caches "
          "beat it\n",
          out);
    if (t->n_ops > TOP && !style->verbose)
        fprintf(out, "  the %d ops after them: --verbose\n", t->n_ops - TOP);
    fputs("  by depth, layer and rank, and what no op accounts for: bench trace\n", out);
}

static void print_spans(FILE *out, const struct record_run *run, const struct case_result *r,
                        const struct show_style *style) {
    struct trace t;
    struct error err = {""};
    if (r->n_spans == 0) {
        print_no_spans(out, r);
    } else if (trace_open(&t, r, -1, &err) == STATUS_OK) {
        print_ops(out, &t, record_rates(run, r), style);
        trace_close(&t);
    } else {
        heading(out, "where the time went");
        line(out, style, "not shown", err.text);
    }
    if (r->dropped_spans > 0)
        fprintf(out, "  %s%lld spans found no room and are missing above%s\n",
                tone_begin(TONE_BAD, style->color), (long long)r->dropped_spans,
                tone_end(TONE_BAD, style->color));
    if (r->kernel_trace.log.dropped > 0)
        fprintf(out, "  %s%lld records of CUPTI found no room: its kernels are not all%s\n",
                tone_begin(TONE_BAD, style->color), (long long)r->kernel_trace.log.dropped,
                tone_end(TONE_BAD, style->color));
    if (r->kernel_trace.log.n_kernels > 0)
        fputs("  kernel by kernel, as CUPTI recorded them: bench trace --kernels\n", out);
    else if (r->kernel_trace.note[0])
        line(out, style, "no kernels", kernel_view_why(r));
}

void show_case(FILE *out, const struct record_run *run, const struct case_result *r,
               const struct show_style *style) {
    struct case_summary s;
    result_summary(r, &s);
    print_identity(out, r, style);
    print_ttft(out, r, &s, style);
    print_predicted(out, r, &s, style);
    print_chunks(out, r, style);
    show_clocks(out, r, &s, style);
    print_memory(out, r, &s, style);
    print_decode(out, r, &s);
    print_output(out, r, style->verbose);
    print_checks(out, r, style);
    print_spans(out, run, r, style);
    if (r->stderr_tail) {
        heading(out, "last words of the worker (stderr)");
        show_text(out, r->stderr_tail, SIZE_MAX);
        if (!r->stderr_tail[0] || r->stderr_tail[strlen(r->stderr_tail) - 1] != '\n')
            fputc('\n', out);
    }
}
