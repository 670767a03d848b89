/* What the plan said against what was measured. time.dat: seconds; space.dat: bytes; both with
 * predicted, measured, least, most, colour, mode, estimated. */
#include "harness/plot.h"

#include <math.h>

struct extent {
    double least, most, worst; /* worst: the largest factor between the two, either way */
    int n;
};

static void put_point(FILE *out, struct extent *e, double predicted, double measured, double least,
                      double most, const struct plot *p, const struct case_result *r) {
    if (!(predicted > 0) || !isfinite(predicted) || !(least > 0)) return;
    fprintf(out, "%.17g %.17g %.17g %.17g %d %d %d\n", predicted, measured, least, most,
            plot_color(p, r->max_num_batched_tokens), r->graph, r->ttft_estimated);
    e->least = e->n ? fmin(e->least, fmin(predicted, least)) : fmin(predicted, least);
    e->most = fmax(e->most, fmax(predicted, most));
    e->worst = fmax(e->worst, fmax(predicted / measured, measured / predicted));
    e->n++;
}

static void put_colors(struct plot_files *f, const struct plot *p) {
    char key[40], text[PLOT_NAME_BYTES];
    int n = 0;
    for (int i = 0; i < p->n_colors; i++) {
        bool used = false;
        for (int k = 0; k < p->n; k++)
            used = used || p->cases[k].r->max_num_batched_tokens == p->color_of[i];
        if (!used) continue;
        n++;
        snprintf(key, sizeof key, "SERIES_%d", n);
        plot_set_text(f, key, plot_tokens(text, p->color_of[i]));
        snprintf(key, sizeof key, "COLOR_%d", n);
        plot_set_number(f, key, i);
    }
    plot_set_number(f, "SERIES", n);
}

void plot_prediction(const struct plot *p, struct plot_files *f) {
    struct extent time = {0}, space = {0};
    bool estimated = false, graph = false, eager = false;
    FILE *seconds = plot_data_open(f, "time.dat"), *bytes = plot_data_open(f, "space.dat");
    for (int i = 0; seconds && bytes && i < p->n; i++) {
        const struct case_result *r = p->cases[i].r;
        const struct case_summary *s = &p->cases[i].s;
        put_point(seconds, &time, r->predicted_prefill_s, (double)s->ttft_median_ns / 1e9,
                  (double)s->ttft_min_ns / 1e9, (double)s->ttft_max_ns / 1e9, p, r);
        const double peak = (double)s->peak_bytes_device;
        put_point(bytes, &space, (double)r->predicted_memory.total_bytes / result_memories(r), peak,
                  peak, peak, p, r);
        estimated = estimated || r->ttft_estimated;
        graph = graph || r->graph, eager = eager || !r->graph;
    }
    plot_data_close(f, seconds, "time.dat");
    plot_data_close(f, bytes, "space.dat");
    put_colors(f, p);
    plot_set_number(f, "LEAST_S", time.least), plot_set_number(f, "MOST_S", time.most);
    plot_set_number(f, "WORST_S", time.worst);
    plot_set_number(f, "LEAST_BYTES", space.least), plot_set_number(f, "MOST_BYTES", space.most);
    plot_set_number(f, "WORST_BYTES", space.worst);
    plot_set_number(f, "ESTIMATED", estimated);
    plot_set_number(f, "GRAPH", graph), plot_set_number(f, "EAGER", eager);
    if (time.n == 0 || space.n == 0)
        snprintf(f->why, sizeof f->why, "no case has a prediction of time and memory to compare");
}
