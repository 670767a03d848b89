/* Latency of chunks against their depth, a series for each chunk size and mode over all prompts: a
 * chunk's cost does not depend on the prompt that it is from. latency.dat: a block per series, rows
 * of depth (tokens), latency (s), sampled (0/1). fit.dat: a block per series, the affine law. */
#include "harness/format.h"
#include "harness/plot.h"
#include "harness/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS_SHOWN = 400, CURVE_POINTS = 64 };

struct sample {
    struct stats_point point;
    bool sampled; /* measured against a synthetic cache */
};

struct series {
    const struct case_result *r; /* the first of its cases */
    struct sample *samples;      /* room for all, borrowed from the caller */
    int64_t n;
};

static double middle(const struct stats_point *p) {
    return p->start_token + p->n_tokens / 2.0;
}

/* Both modes of a series have one colour. */
static bool same_color(const struct case_result *a, const struct case_result *b) {
    return a->chunk_tokens == b->chunk_tokens && a->tp == b->tp && !strcmp(a->dtype, b->dtype) &&
           !strcmp(a->attention, b->attention);
}

static bool same_series(const struct case_result *a, const struct case_result *b) {
    return a->graph == b->graph && same_color(a, b);
}

/* A chunk size has its colour in all pictures, unless more than it and the mode sets series apart.
 */
static int color_of(const struct plot *p, const struct case_result *r) {
    if (!p->vary_tp && !p->vary_dtype && !p->vary_attention) return plot_color(p, r->chunk_tokens);
    int color = 0;
    for (int i = 0; !same_color(p->cases[i].r, r); i++) {
        int first = 0;
        while (!same_color(p->cases[first].r, p->cases[i].r)) first++;
        color += first == i;
    }
    return color;
}

static int by_depth(const void *a, const void *b) {
    const struct stats_point *x = &((const struct sample *)a)->point,
                             *y = &((const struct sample *)b)->point;
    if (x->start_token != y->start_token) return x->start_token < y->start_token ? -1 : 1;
    return (x->latency_ns > y->latency_ns) - (x->latency_ns < y->latency_ns);
}

/* A last chunk that is much shorter has another law. Where the answer takes a few tokens from a
 * round length it is as good as whole, and the deepest there is. */
static bool is_whole(const struct chunk_row *c, const struct case_result *r) {
    return c->n_tokens <= r->chunk_tokens && c->n_tokens >= r->chunk_tokens - r->chunk_tokens / 16;
}

static void gather(const struct plot *p, struct series *s) {
    s->n = 0;
    for (int i = 0; i < p->n; i++) {
        const struct case_result *r = p->cases[i].r;
        for (int64_t k = 0; same_series(r, s->r) && k < r->n_chunks; k++) {
            const struct chunk_row *c = &r->chunks[k];
            if (!is_whole(c, r) || c->latency_ns <= 0 || c->start_token < 0) continue;
            s->samples[s->n++] = (struct sample){{c->start_token, c->n_tokens, c->latency_ns},
                                                 r->coverage == COVER_SAMPLED};
        }
    }
    if (s->n > 0) qsort(s->samples, (size_t)s->n, sizeof *s->samples, by_depth);
}

static void put_points(FILE *out, const struct series *s) {
    const int64_t shown = s->n < POINTS_SHOWN ? s->n : POINTS_SHOWN;
    for (int64_t i = 0; i < shown; i++) {
        const struct sample *a = &s->samples[shown < 2 ? 0 : i * (s->n - 1) / (shown - 1)];
        fprintf(out, "%.1f %.9g %d\n", middle(&a->point), (double)a->point.latency_ns / 1e9,
                a->sampled);
    }
    fputs("\n\n", out);
}

/* The law over the depths seen, and its two numbers as text; one depth has none. */
static void put_fit(FILE *out, const struct series *s, struct stats_point *points, char *text,
                    size_t size) {
    struct stats_fit fit;
    char base[FORMAT_BYTES], slope[FORMAT_BYTES];
    const double low = middle(&s->samples[0].point), high = middle(&s->samples[s->n - 1].point);
    const int32_t tokens = s->r->chunk_tokens;
    text[0] = 0;
    if (high > low) {
        for (int64_t i = 0; i < s->n; i++) points[i] = s->samples[i].point;
        stats_fit(points, (int)s->n, &fit);
        for (int i = 0; i < CURVE_POINTS; i++) {
            const double depth = low * pow(high / low, i / (CURVE_POINTS - 1.0));
            const double ns = tokens * (fit.ns_per_token + fit.ns_per_token_depth * depth);
            if (ns > 0) fprintf(out, "%.1f %.9g\n", depth, ns / 1e9);
        }
        format_seconds(base, tokens * fit.ns_per_token / 1e9);
        format_seconds(slope, tokens * fit.ns_per_token_depth * 1024 / 1e9);
        if (fit.ns_per_token >= 0 && fit.ns_per_token_depth >= 0)
            snprintf(text, size, ": %s + %s per 1k", base, slope);
    } else {
        fprintf(out, "%.1f NaN\n", low);
    }
    fputs("\n\n", out);
}

/* Room for the points of all cases. */
static int64_t all_chunks(const struct plot *p) {
    int64_t n = 0;
    for (int i = 0; i < p->n; i++) n += p->cases[i].r->n_chunks;
    return n;
}

static bool is_first_of_series(const struct plot *p, int i) {
    for (int k = 0; k < i; k++)
        if (same_series(p->cases[i].r, p->cases[k].r)) return false;
    return true;
}

static void put_series(const struct plot *p, struct plot_files *f, struct series *s,
                       struct stats_point *points, FILE *data, FILE *fits) {
    char name[PLOT_NAME_BYTES], law[120], key[40], text[240];
    int n = 0, sampled = 0, full = 0;
    for (int i = 0; i < p->n; i++) {
        if (!is_first_of_series(p, i)) continue;
        s->r = p->cases[i].r;
        gather(p, s);
        if (s->n == 0) continue;
        put_points(data, s);
        put_fit(fits, s, points, law, sizeof law);
        for (int64_t k = 0; k < s->n; k++) s->samples[k].sampled ? sampled++ : full++;
        n++;
        snprintf(text, sizeof text, "%s%s", plot_series(p, s->r, s->r->chunk_tokens, name), law);
        snprintf(key, sizeof key, "SERIES_%d", n);
        plot_set_text(f, key, text);
        snprintf(key, sizeof key, "COLOR_%d", n);
        plot_set_number(f, key, color_of(p, s->r));
        snprintf(key, sizeof key, "GRAPH_%d", n);
        plot_set_number(f, key, s->r->graph);
    }
    plot_set_number(f, "SERIES", n);
    plot_set_number(f, "SAMPLED", sampled > 0);
    plot_set_number(f, "FULL", full > 0);
    if (n == 0) snprintf(f->why, sizeof f->why, "no case has a measured chunk");
}

void plot_latency(const struct plot *p, struct plot_files *f) {
    const size_t room = (size_t)all_chunks(p) + 1;
    struct series s = {.samples = calloc(room, sizeof *s.samples)};
    struct stats_point *points = calloc(room, sizeof *points);
    FILE *data = plot_data_open(f, "latency.dat"), *fits = plot_data_open(f, "fit.dat");
    if (!s.samples || !points)
        f->status = error_set(f->err, STATUS_NO_MEMORY, "no memory for %zu chunks", room);
    else if (data && fits)
        put_series(p, f, &s, points, data, fits);
    plot_data_close(f, data, "latency.dat");
    plot_data_close(f, fits, "fit.dat");
    free(points);
    free(s.samples);
}
