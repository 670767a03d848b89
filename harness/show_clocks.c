/* Clocks, power and energy of a case's chunks, for people. Nothing where there are no such rows: on
 * the CPU, or where the driver does not tell. Before it: record_read.c; beside it: show_case.c. */
#include "harness/format.h"
#include "harness/show.h"

#include <math.h>
#include <stdlib.h>

enum { BINS_MOST = 16 };

/* Some consecutive depths, all repeats and devices together. */
struct bin {
    int first, last; /* chunk numbers */
    double energy_mj, samples, sm_mhz, power_w, chunks, tokens;
    int32_t sm_min_mhz, memory_mhz, temperature_c; /* least, last, most */
    int64_t reasons;
};

static int by_depth(const void *a, const void *b) {
    const struct clock_row *x = a, *y = b;
    if (x->chunk != y->chunk) return x->chunk < y->chunk ? -1 : 1;
    if (x->repeat != y->repeat) return x->repeat < y->repeat ? -1 : 1;
    return (x->device > y->device) - (x->device < y->device);
}

/* Tokens of a depth; NaN: no such chunk. */
static double tokens_of(const struct case_result *r, int32_t chunk) {
    for (int64_t i = 0; i < r->n_chunks; i++)
        if (r->chunks[i].chunk == chunk) return r->chunks[i].n_tokens;
    return (double)NAN;
}

static struct bin empty_bin(int32_t first) {
    return (struct bin){
        .first = first, .sm_min_mhz = -1, .memory_mhz = -1, .temperature_c = -1, .reasons = -1};
}

static void add_row(struct bin *b, const struct clock_row *c, double tokens) {
    b->last = c->chunk;
    b->energy_mj += c->energy_mj >= 0 ? (double)c->energy_mj : (double)NAN;
    b->samples += c->samples;
    b->sm_mhz += c->samples * c->sm_clock_mean_mhz;
    b->power_w += c->samples * c->power_mean_w;
    if (c->device == 0) b->chunks++, b->tokens += tokens;
    if (c->sm_clock_min_mhz >= 0 && (b->sm_min_mhz < 0 || c->sm_clock_min_mhz < b->sm_min_mhz))
        b->sm_min_mhz = c->sm_clock_min_mhz;
    if (c->temperature_c > b->temperature_c) b->temperature_c = c->temperature_c;
    b->memory_mhz = c->memory_clock_mhz;
    if (c->throttle_reasons_seen >= 0)
        b->reasons = (b->reasons < 0 ? 0 : b->reasons) | c->throttle_reasons_seen;
}

/* At most BINS_MOST of about as many depths each; one for each depth when `all`. */
static int fill_bins(const struct case_result *r, const struct clock_row *rows, int64_t n, bool all,
                     struct bin *bins) {
    int64_t depths = 0, depth = -1;
    for (int64_t i = 0; i < n; i++) depths += i == 0 || rows[i].chunk != rows[i - 1].chunk;
    const int64_t wanted = all || depths < BINS_MOST ? depths : BINS_MOST;
    int n_bins = 0;
    double tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || rows[i].chunk != rows[i - 1].chunk) {
            depth++;
            tokens = tokens_of(r, rows[i].chunk);
            if (depth == 0 || depth * wanted / depths != (depth - 1) * wanted / depths)
                bins[n_bins++] = empty_bin(rows[i].chunk);
        }
        add_row(&bins[n_bins - 1], &rows[i], tokens);
    }
    return n_bins;
}

static void add_known(struct table *t, int32_t value) {
    if (value >= 0)
        table_add(t, TONE_PLAIN, "%d", value);
    else
        table_add(t, TONE_FAINT, "-");
}

static void print_bins(FILE *out, const struct bin *bins, int n, const struct show_style *style) {
    const struct table_column columns[] = {
        {"chunk", "", false, false},         {"energy", "J/chunk", false, false},
        {"energy", "J/token", false, false}, {"power", "W", false, false},
        {"SM clock", "MHz", false, false},   {"least", "MHz", false, false},
        {"memory", "MHz", false, false},     {"hottest", "degC", false, false},
        {"held back by", "", true, false}};
    struct table *t = table_open(columns, (int)(sizeof columns / sizeof *columns));
    for (int i = 0; i < n; i++) {
        const struct bin *b = &bins[i];
        char reasons[200];
        if (b->first == b->last)
            table_add(t, TONE_PLAIN, "%d", b->first + 1);
        else
            table_add(t, TONE_PLAIN, "%d-%d", b->first + 1, b->last + 1);
        table_add_number(t, b->energy_mj / 1e3 / b->chunks);
        table_add_number(t, b->energy_mj / 1e3 / b->tokens);
        table_add_number(t, b->power_w / b->samples);
        table_add_number(t, b->sm_mhz / b->samples);
        add_known(t, b->sm_min_mhz);
        add_known(t, b->memory_mhz);
        add_known(t, b->temperature_c);
        table_add(t, TONE_PLAIN, "%s", nvml_reasons_text(b->reasons, reasons, sizeof reasons));
    }
    table_print(out, t, "  ", style->width, style->color);
    table_close(t);
}

static void print_sums(FILE *out, const struct case_result *r, const struct case_summary *s) {
    char energy[40], token[40], power[40], clock[40], reasons[200];
    fprintf(out,
            "  %s: %s J, %s J a token, %s W, %s MHz on average (%d at least); held back "
            "by: %s\n",
            r->coverage == COVER_FULL ? "a prefill" : "the chunks that ran",
            table_number(energy, s->energy_j), table_number(token, s->energy_j_per_token),
            table_number(power, s->power_w), table_number(clock, s->sm_clock_mean_mhz),
            s->sm_clock_min_mhz, nvml_reasons_text(s->throttle_reasons, reasons, sizeof reasons));
}

void show_clocks(FILE *out, const struct case_result *r, const struct case_summary *s,
                 const struct show_style *style) {
    if (r->n_clocks <= 0) return;
    const size_t n = (size_t)r->n_clocks;
    struct clock_row *rows = calloc(n, sizeof *rows);
    struct bin *bins = calloc(n, sizeof *bins);
    if (rows && bins) {
        for (size_t i = 0; i < n; i++) rows[i] = r->clocks[i];
        qsort(rows, n, sizeof *rows, by_depth);
        fputs("\nclocks and energy (by the GPU's counter: chunks shorter than its period of about "
              "0.1 s "
              "are coarse;\n  W of a row: of samples, which lag; of the sum: energy over time)\n",
              out);
        print_bins(out, bins, fill_bins(r, rows, r->n_clocks, style->verbose, bins), style);
        print_sums(out, r, s);
    }
    free(bins);
    free(rows);
}
