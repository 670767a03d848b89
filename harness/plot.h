/* Pictures of a run: `bench plot`. Each picture has a function that writes its numbers as data
 * files, and a script plots/NAME.gp that draws them in the one style of plots/style.gp.
 *
 *     plot_open (cases to be trusted, sorted, named) -> picture's write -> gnuplot_draw
 *
 * Before it: record_read.c. After it: gnuplot.c. */
#ifndef HARNESS_PLOT_H
#define HARNESS_PLOT_H

#include "harness/record.h"

#include <stdio.h>

/* name, also of its script and of the function that writes its data; title. */
#define PICTURE_TABLE(X)                                                                           \
    X(latency, "Chunk latency against depth by chunk size and mode, with the affine fit")          \
    X(speed, "Tokens per second by prompt length, chunk size and mode")                            \
    X(memory, "Peak memory by category, and what the system counts")                               \
    X(prediction, "Time and memory, predicted and measured")
/* Of a case's spans: the plot has this case alone, read with them. */
#define TRACE_PICTURE_TABLE(X)                                                                     \
    X(time_by_op, "Where the time of a chunk goes, by op and depth")                               \
    X(roofline, "Ops against what the machine can do")                                             \
    X(memory_in_use, "Memory in use, by category, depth and op")                                   \
    X(memory_of_layer, "Which buffers the ops of a layer need")

struct plot_case {
    const struct case_result *r; /* borrowed */
    struct case_summary s;
    bool first; /* of its prompt */
    double y;   /* its row, where a picture has a row per case; the row above a first one is free */
};

struct plot {
    const struct record_run *run; /* borrowed */
    int n;
    struct plot_case *cases; /* by prompt length, chunk size, mode */
    int left_out;            /* cases without a time, or with a wrong output */
    double rows;             /* that all cases take */
    bool vary_tp, vary_dtype, vary_attention;
    int n_colors;
    int64_t *color_of; /* chunk sizes, ascending: each has its colour */
};

/* Cases that have a time and no failed check. STATUS_NO_MEMORY. */
enum status plot_open(struct plot *p, const struct record_run *run, struct error *err);
void plot_close(struct plot *p); /* a zeroed struct is legal */

enum { PLOT_NAME_BYTES = 96 };
/* "8k eager", "128k (all) eager" of a shorter prompt, and what else differs between the cases:
 * "8k eager TP 4". */
char *plot_series(const struct plot *p, const struct case_result *r, int64_t chunk_tokens,
                  char out[PLOT_NAME_BYTES]);
/* Number of a chunk size's colour in the style's palette. */
int plot_color(const struct plot *p, int64_t chunk_tokens);
/* "64k", "1M"; else digits with separators. */
char *plot_tokens(char out[PLOT_NAME_BYTES], int64_t tokens);

/* Where a picture's files go. The first failure stays; what follows it does nothing. */
struct plot_files {
    const char *folder;
    FILE *settings; /* gnuplot variables; NULL after a failure */
    enum status status;
    struct error *err;
    char why[160]; /* there is nothing to draw, because */
};
/* folder/settings.gp, with TITLE, SUBTITLE and NOTE already in it. */
void plot_files_open(struct plot_files *f, const struct plot *p, const char *folder,
                     const char *title, struct error *err);
enum status plot_files_close(struct plot_files *f);
/* A data file in the folder; NULL after a failure. */
FILE *plot_data_open(struct plot_files *f, const char *name);
void plot_data_close(struct plot_files *f, FILE *data, const char *name);
void plot_set_number(struct plot_files *f, const char *name, double value);
void plot_set_text(struct plot_files *f, const char *name, const char *text);
void plot_set_path(struct plot_files *f, const char *name, const char *path); /* as it is */
/* Text that comes from a file: what could mean something to gnuplot becomes '?'. */
void plot_put_text(FILE *out, const char *text);
/* A row per case: rows.dat (y, label) and headers.dat (y, prompt), and ROWS. */
void plot_put_rows(struct plot_files *f, const struct plot *p);

/* Write the data of a picture; where there is nothing to draw, f->why says so. */
#define X(name, text) void plot_##name(const struct plot *p, struct plot_files *f);
PICTURE_TABLE(X)
TRACE_PICTURE_TABLE(X)
#undef X

#endif
