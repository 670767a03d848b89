/* Pictures with a row per case. Speed: speed.dat with y, tok/s (median, least, most), colour, mode,
 * estimated, label. Memory: device.dat and rank.dat with y, from, to (bytes), category, shared;
 * system.dat with y, bytes. */
#include "harness/format.h"
#include "harness/plot.h"
#include "harness/stats.h"

#include <math.h>
#include <string.h>

/* ---- speed ---- */

void plot_speed(const struct plot *p, struct plot_files *f) {
    char text[FORMAT_BYTES];
    bool estimated = false, graph = false, eager = false;
    double most = 0;
    plot_put_rows(f, p);
    FILE *out = plot_data_open(f, "speed.dat");
    for (int i = 0; out && i < p->n; i++) {
        const struct plot_case *c = &p->cases[i];
        const struct case_result *r = c->r;
        const double least = stats_tok_s(r->prompt_tokens, c->s.ttft_max_ns),
                     highest = stats_tok_s(r->prompt_tokens, c->s.ttft_min_ns);
        fprintf(out, "%g %.9g %.9g %.9g %d %d %d \"%s%s\"\n", c->y, c->s.prefill_tok_s, least,
                highest, plot_color(p, r->max_num_batched_tokens), r->graph, r->ttft_estimated,
                r->ttft_estimated ? "~" : "", format_tok_s(text, c->s.prefill_tok_s));
        most = fmax(most, fmax(highest, c->s.prefill_tok_s));
        estimated = estimated || r->ttft_estimated;
        graph = graph || r->graph, eager = eager || !r->graph;
    }
    plot_data_close(f, out, "speed.dat");
    plot_set_number(f, "MOST", most);
    plot_set_number(f, "ESTIMATED", estimated);
    plot_set_number(f, "BOTH_MODES", graph && eager);
    if (p->n == 0) snprintf(f->why, sizeof f->why, "no case has a time to the first token");
}

/* ---- memory ---- */

/* Highest high-water marks by category: the largest rank's own, all ranks' of a device, shared. */
struct peaks {
    double own[MEMORY_CATEGORIES], all[MEMORY_CATEGORIES], shared[MEMORY_CATEGORIES];
};

static void rank_peaks(const struct case_result *r, int rank, double out[MEMORY_CATEGORIES]) {
    for (int c = 0; c < MEMORY_CATEGORIES; c++) out[c] = 0;
    for (int64_t i = 0; i < r->n_memory; i++)
        for (int c = 0; r->memory[i].rank == rank && c < MEMORY_CATEGORIES; c++)
            out[c] = fmax(out[c], (double)r->memory[i].use.high_water[c]);
}

static void find_peaks(const struct case_result *r, struct peaks *out) {
    double largest = -1;
    memset(out, 0, sizeof *out);
    for (int rank = 0; rank < r->tp; rank++) {
        double own[MEMORY_CATEGORIES];
        double sum = 0;
        rank_peaks(r, rank, own);
        for (int c = 0; c < MEMORY_CATEGORIES; c++) {
            sum += own[c];
            out->all[c] += own[c] / result_memories(r);
        }
        if (sum > largest) memcpy(out->own, own, sizeof own);
        largest = fmax(largest, sum);
    }
    rank_peaks(r, SHARED_RANK, out->shared);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) out->shared[c] /= result_memories(r);
}

/* One segment after the other; returns where the last one ends. */
static double put_stack(FILE *out, double y, double from, const double bytes[MEMORY_CATEGORIES],
                        int shared, bool seen[MEMORY_CATEGORIES]) {
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        if (bytes[c] <= 0) continue;
        fprintf(out, "%g %.17g %.17g %d %d\n", y, from, from + bytes[c], c, shared);
        from += bytes[c];
        seen[c] = true;
    }
    return from;
}

static void put_categories(struct plot_files *f, const bool seen[MEMORY_CATEGORIES]) {
    static const char *const names[] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    char key[40];
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        snprintf(key, sizeof key, "CATEGORY_%d", c);
        plot_set_text(f, key, seen[c] ? names[c] : "");
    }
    plot_set_number(f, "CATEGORIES", MEMORY_CATEGORIES);
}

void plot_memory(const struct plot *p, struct plot_files *f) {
    bool seen[MEMORY_CATEGORIES] = {false};
    double most_device = 0, most_rank = 0;
    int measured = 0, devices = 1;
    plot_put_rows(f, p);
    FILE *device = plot_data_open(f, "device.dat"), *rank = plot_data_open(f, "rank.dat"),
         *system = plot_data_open(f, "system.dat");
    for (int i = 0; device && rank && system && i < p->n; i++) {
        const struct plot_case *c = &p->cases[i];
        struct peaks peaks;
        if (c->r->n_memory == 0) continue;
        measured++;
        devices = result_memories(c->r) > devices ? result_memories(c->r) : devices;
        find_peaks(c->r, &peaks);
        double end = put_stack(device, c->y, 0, peaks.all, 0, seen);
        end = put_stack(device, c->y, end, peaks.shared, 1, seen);
        most_rank = fmax(most_rank, put_stack(rank, c->y, 0, peaks.own, 0, seen));
        fprintf(system, "%g %.17g\n", c->y, (double)c->s.peak_driver_bytes);
        most_device = fmax(most_device, fmax(end, (double)c->s.peak_driver_bytes));
    }
    plot_data_close(f, device, "device.dat");
    plot_data_close(f, rank, "rank.dat");
    plot_data_close(f, system, "system.dat");
    put_categories(f, seen);
    plot_set_number(f, "MOST_DEVICE", most_device);
    plot_set_number(f, "MOST_RANK", most_rank);
    plot_set_number(f, "DEVICES", devices);
    if (measured == 0 || most_rank <= 0)
        snprintf(f->why, sizeof f->why, "no case has memory that was accounted for");
}
