/* A case's spans as a trace: chunk by chunk in order of time, summed by op, layer and rank, with
 * what no op accounts for. Views of it: text and comma-separated values (trace_summary.c), Chrome's
 * trace events (trace_perfetto.c), Nsight Systems' tables (trace_sqlite.c), pictures
 * (plot_trace.c).
 *
 * Of every traced chunk holds, to the nanosecond:
 *     latency = time of all ops + before_ns + between_ns + after_ns - at_once_ns */
#ifndef HARNESS_TRACE_H
#define HARNESS_TRACE_H

#include "harness/record.h"

#include <stdio.h>

struct trace_sum {
    int64_t calls;
    double ns, flops, bytes;
};
struct trace_op { /* one kernel in one role */
    uint8_t op, role, variant;
    struct trace_sum sum;
};
struct trace_group { /* a layer or a rank */
    struct trace_sum sum;
    double op_ns[OPS];
};
struct trace_gap { /* in which no op ran */
    double ns;
    const struct span_row *after, *before; /* what ended, what began */
};

struct trace_chunk {
    int32_t repeat, chunk;
    const struct chunk_row *row;         /* NULL in older files: its ends are then its ops' */
    int64_t begin_ns, end_ns;            /* of the chunk as a whole */
    const struct span_row *const *spans; /* by their begin */
    int64_t n;
    double ops_ns;
    double before_ns, between_ns, after_ns; /* the first op, two ops, the last op */
    double at_once_ns;                      /* counted twice in ops_ns: ops that overlap */
};

enum { TRACE_GAPS = 8 };
struct trace {
    const struct case_result *r; /* borrowed */
    const struct span_row **spans;
    struct trace_chunk *chunks;
    int n_chunks;
    int64_t n;            /* spans */
    struct trace_op *ops; /* the longest first */
    int n_ops;
    struct trace_group *layers; /* [n_layers]; number 0 is what stands outside the layers */
    int n_layers;
    struct trace_group ranks[MAX_RANKS + 1]; /* number 0: done once for all ranks */
    struct trace_sum all;
    double latency_ns, before_ns, between_ns, after_ns, at_once_ns; /* sums over the chunks */
    struct trace_gap gaps[TRACE_GAPS];                              /* the longest first */
    int n_gaps;
    bool whole; /* every chunk has a row: its latency is known */
};

/* The spans of a case, or of one of its chunks (from 0; -1: all). r must outlive the trace.
 * STATUS_INVALID: it has no spans; STATUS_USAGE: not of that chunk; STATUS_IO: they are not
 * sensible. */
enum status trace_open(struct trace *t, const struct case_result *r, int chunk, struct error *err);
void trace_close(struct trace *t); /* a zeroed struct is legal */

/* Number of a span's row among the ops. */
int trace_op_number(const struct trace *t, const struct span *s);
/* Ops of one layer, one after the other, are an execution of it: sets *end to the number after the
 * last of them that begins at `first`, and returns when it ended. */
int64_t trace_layer_end(const struct trace_chunk *c, int64_t first, int64_t *end);

enum { TRACE_TEXT = 240 };
/* "linear gate_up" */
char *trace_op_text(char out[TRACE_TEXT], int op, int role);
/* "layer 3 linear gate_up" */
char *trace_span_text(char out[TRACE_TEXT], const struct span *s);
/* "chunks 1, 4, 8 of 8 in the last warm-up pass" */
char *trace_when(char out[TRACE_TEXT], const struct trace *t);
/* Chunks of the whole prompt, whether they ran or not. */
int32_t trace_chunks_of(const struct case_result *r);

/* What the machine's ceilings alone would need, over what it took; NaN: not known. */
double trace_of_ceiling(const struct trace_sum *s, const struct device_rates *rates);
/* Latency of the traced chunks over that of the same chunks in the measured repeats (medians); NaN:
 * they were not measured, or the traced ones' latency is not known. */
double trace_cost(const struct trace *t);

struct show_style;
void trace_summary(FILE *out, const struct record_run *run, const struct trace *t,
                   const struct show_style *style);
/* A line per span. */
void trace_csv(FILE *out, const struct trace *t);
/* Files for other programs; written whole or not at all. STATUS_IO. */
enum status trace_perfetto(const char *path, const struct record_run *run, const struct trace *t,
                           struct error *err);
/* STATUS_RUN_FAILED where the program was built without SQLite. */
bool trace_has_sqlite(void);
enum status trace_sqlite(const char *path, const struct record_run *run, const struct trace *t,
                         struct error *err);

#endif
