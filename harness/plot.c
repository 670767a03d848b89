/* What all pictures share: which cases are drawn, in which order, under which names and colours,
 * and the files that gnuplot reads. Before it: cmd_plot.c. After it: plot_latency.c, plot_bars.c,
 * plot_prediction.c. */
#include "harness/plot.h"

#include "harness/format.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MOST = 200 }; /* with more rows a picture is none */

/* ---- the cases ---- */

/* A wrong answer's speed is no speed. */
static bool is_trusted(const struct plot_case *c) {
    return c->r->status == CASE_OK && c->r->n_ttft > 0 && c->s.ttft_median_ns > 0 &&
           c->r->prompt_tokens > 0 && c->r->chunk_tokens > 0 && c->r->max_num_batched_tokens > 0 &&
           c->s.output != VERDICT_FAILED && c->s.invariance != VERDICT_FAILED;
}

static int compare_numbers(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

static int by_place(const void *a, const void *b) {
    const struct case_result *x = ((const struct plot_case *)a)->r,
                             *y = ((const struct plot_case *)b)->r;
    int order = compare_numbers(x->prompt_tokens, y->prompt_tokens);
    if (!order) order = strcmp(x->prompt, y->prompt);
    if (!order) order = compare_numbers(x->tp, y->tp);
    if (!order) order = strcmp(x->dtype, y->dtype);
    if (!order) order = strcmp(x->attention, y->attention);
    if (!order) order = compare_numbers(x->max_num_batched_tokens, y->max_num_batched_tokens);
    if (!order) order = compare_numbers(x->graph, y->graph);
    return order ? order : strcmp(x->id, y->id);
}

static void place_rows(struct plot *p) {
    double y = 0;
    for (int i = 0; i < p->n; i++) {
        struct plot_case *c = &p->cases[i];
        c->first = i == 0 || strcmp(c->r->prompt, p->cases[i - 1].r->prompt) != 0;
        y += c->first ? 2 : 1;
        c->y = y - 1;
    }
    p->rows = y;
}

static void find_axes(struct plot *p) {
    for (int i = 1; i < p->n; i++) {
        const struct case_result *a = p->cases[0].r, *b = p->cases[i].r;
        p->vary_tp = p->vary_tp || a->tp != b->tp;
        p->vary_dtype = p->vary_dtype || strcmp(a->dtype, b->dtype) != 0;
        p->vary_attention = p->vary_attention || strcmp(a->attention, b->attention) != 0;
    }
}

static int by_number(const void *a, const void *b) {
    return compare_numbers(*(const int64_t *)a, *(const int64_t *)b);
}

/* Chunk sizes as configured, and as they ran where the prompt is shorter. */
static void find_colors(struct plot *p) {
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        p->color_of[n++] = p->cases[i].r->max_num_batched_tokens;
        p->color_of[n++] = p->cases[i].r->chunk_tokens;
    }
    if (n > 0) qsort(p->color_of, (size_t)n, sizeof *p->color_of, by_number);
    for (int i = 0; i < n; i++)
        if (i == 0 || p->color_of[i] != p->color_of[i - 1])
            p->color_of[p->n_colors++] = p->color_of[i];
}

enum status plot_open(struct plot *p, const struct record_run *run, struct error *err) {
    *p = (struct plot){.run = run};
    p->cases = calloc((size_t)run->n + 1, sizeof *p->cases);
    p->color_of = calloc(2 * (size_t)run->n + 1, sizeof *p->color_of);
    if (!p->cases || !p->color_of) {
        plot_close(p);
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", run->n);
    }
    for (int i = 0; i < run->n; i++) {
        struct plot_case *c = &p->cases[p->n];
        c->r = &run->cases[i];
        result_summary(c->r, &c->s);
        if (!is_trusted(c))
            p->left_out++;
        else if (p->n < ROWS_MOST)
            p->n++;
    }
    qsort(p->cases, (size_t)p->n, sizeof *p->cases, by_place);
    place_rows(p);
    find_axes(p);
    find_colors(p);
    return STATUS_OK;
}

void plot_close(struct plot *p) {
    free(p->cases);
    free(p->color_of);
    memset(p, 0, sizeof *p);
}

/* ---- names and colours ---- */

char *plot_tokens(char out[PLOT_NAME_BYTES], int64_t tokens) {
    char text[FORMAT_BYTES];
    if (tokens % 1024 == 0)
        format_tokens(text, tokens);
    else
        format_count(text, tokens);
    for (char *c = text; *c; c++)
        if (*c == 'm') *c = 'M';
    snprintf(out, PLOT_NAME_BYTES, "%s", text);
    return out;
}

char *plot_series(const struct plot *p, const struct case_result *r, int64_t chunk_tokens,
                  char out[PLOT_NAME_BYTES]) {
    char chunk[PLOT_NAME_BYTES], tp[16] = "";
    if (p->vary_tp) snprintf(tp, sizeof tp, " TP %d", r->tp);
    snprintf(out, PLOT_NAME_BYTES, "%.24s%s %s%s%s%.16s%s%.24s", plot_tokens(chunk, chunk_tokens),
             chunk_tokens > r->prompt_tokens ? " (all)" : "", r->graph ? "graph" : "eager", tp,
             p->vary_dtype ? " " : "", p->vary_dtype ? r->dtype : "", p->vary_attention ? " " : "",
             p->vary_attention ? r->attention : "");
    return out;
}

int plot_color(const struct plot *p, int64_t chunk_tokens) {
    for (int i = 0; i < p->n_colors; i++)
        if (p->color_of[i] == chunk_tokens) return i;
    return 0;
}

/* ---- files ---- */

static void fail(struct plot_files *f, const char *name) {
    if (f->status != STATUS_OK) return;
    f->status =
        error_set(f->err, STATUS_IO, "cannot write %s/%s: %s", f->folder, name, strerror(errno));
}

FILE *plot_data_open(struct plot_files *f, const char *name) {
    char path[PATH_MAX_BYTES];
    if (f->status != STATUS_OK) return NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", f->folder, name) >= sizeof path)
        errno = ENAMETOOLONG;
    else {
        FILE *data = fopen(path, "we");
        if (data) return data;
    }
    fail(f, name);
    return NULL;
}

void plot_data_close(struct plot_files *f, FILE *data, const char *name) {
    if (!data) return;
    const bool bad = ferror(data);
    if (fclose(data) != 0 || bad) fail(f, name);
}

void plot_put_text(FILE *out, const char *text) {
    static const char harmless[] = " -_+.,:;/()%=~#*<>[]";
    for (const char *c = text; *c; c++) {
        const bool word =
            (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
        putc(word || strchr(harmless, *c) ? *c : '?', out);
    }
}

void plot_set_number(struct plot_files *f, const char *name, double value) {
    if (!f->settings) return;
    if (isfinite(value))
        fprintf(f->settings, "%s = %.9g\n", name, value);
    else
        fprintf(f->settings, "%s = NaN\n", name);
}

void plot_set_text(struct plot_files *f, const char *name, const char *text) {
    if (!f->settings) return;
    fprintf(f->settings, "%s = '", name);
    plot_put_text(f->settings, text);
    fputs("'\n", f->settings);
}

/* Within single quotes nothing but they mean anything. */
void plot_set_path(struct plot_files *f, const char *name, const char *path) {
    if (!f->settings) return;
    fprintf(f->settings, "%s = '", name);
    for (const char *c = path; *c; c++) fputs(*c == '\'' ? "''" : (char[]){*c, 0}, f->settings);
    fputs("'\n", f->settings);
}

/* What the numbers were measured on. */
static void put_subtitle(struct plot_files *f, const struct plot *p) {
    const struct run_facts *facts = &p->run->facts;
    char text[600];
    const char *gpu = NULL;
    for (int i = 0; i < facts->n_gpus; i++)
        if (facts->gpus[i].used) gpu = facts->gpus[i].gpu.name;
    int n = gpu ? snprintf(text, sizeof text, "%s", gpu)
                : snprintf(text, sizeof text, "%s, %d cores, %s", facts->cpu_model, facts->cores,
                           facts->device.isa);
    if (p->n > 0 && !p->vary_tp)
        n += snprintf(text + n, sizeof text - (size_t)n, ", TP %d", p->cases[0].r->tp);
    if (p->n > 0 && !p->vary_dtype)
        snprintf(text + n, sizeof text - (size_t)n, ", %s", p->cases[0].r->dtype);
    plot_set_text(f, "SUBTITLE", text);
}

void plot_files_open(struct plot_files *f, const struct plot *p, const char *folder,
                     const char *title, struct error *err) {
    char note[160] = "";
    *f = (struct plot_files){.folder = folder, .err = err};
    f->settings = plot_data_open(f, "settings.gp");
    plot_set_text(f, "TITLE", title);
    put_subtitle(f, p);
    const int shown = p->n, cut = p->run->n - p->left_out - shown;
    if (cut > 0)
        snprintf(note, sizeof note, "the first %d of %d cases; %d have no result to show", shown,
                 p->run->n, p->left_out);
    else if (p->left_out)
        snprintf(note, sizeof note, "%d of %d cases have no result to show", p->left_out,
                 p->run->n);
    plot_set_text(f, "NOTE", note);
}

enum status plot_files_close(struct plot_files *f) {
    plot_data_close(f, f->settings, "settings.gp");
    f->settings = NULL;
    return f->status;
}

/* A path or an address in as many letters as fit: its beginning and its end, which names the file.
 */
static void put_prompt(FILE *out, const char *prompt) {
    enum { MOST = 44, BEGINNING = 16 };
    char text[MOST + 1];
    const size_t n = strlen(prompt);
    if (n <= MOST)
        snprintf(text, sizeof text, "%s", prompt);
    else
        snprintf(text, sizeof text, "%.*s...%s", BEGINNING, prompt,
                 prompt + n - (MOST - BEGINNING - 3));
    plot_put_text(out, text);
}

void plot_put_rows(struct plot_files *f, const struct plot *p) {
    char text[PLOT_NAME_BYTES];
    FILE *rows = plot_data_open(f, "rows.dat"), *headers = plot_data_open(f, "headers.dat");
    for (int i = 0; rows && headers && i < p->n; i++) {
        const struct plot_case *c = &p->cases[i];
        const struct case_result *r = c->r;
        fprintf(rows, "%g \"", c->y);
        plot_put_text(rows, plot_series(p, r, r->max_num_batched_tokens, text));
        fputs("\"\n", rows);
        if (!c->first) continue;
        fprintf(headers, "%g \"prompt of %s tokens: ", c->y - 1,
                plot_tokens(text, r->prompt_tokens));
        put_prompt(headers, r->prompt);
        fputs("\"\n", headers);
    }
    plot_data_close(f, rows, "rows.dat");
    plot_data_close(f, headers, "headers.dat");
    plot_set_number(f, "ROWS", p->rows);
}
