/* A case's spans as a trace: chunk by chunk, of each device in order of time, summed by op, layer,
 * device and rank, with what no op accounts for. Views of it: text and comma-separated values
 * (trace_summary.c), Chrome's trace events (trace_perfetto.c), Nsight Systems' tables
 * (trace_sqlite.c), pictures (plot_trace.c).
 *
 * Of every traced chunk holds on every device, to the nanosecond:
 *     latency = time of all ops + before_ns + between_ns + after_ns - at_once_ns
 * The latency is the chunk's, to the end of its slowest device. Sums are over the devices, too:
 * shares are of their time together. */
#ifndef HARNESS_TRACE_H
#define HARNESS_TRACE_H

#include "harness/record.h"

#include <stdio.h>

struct trace_sum {
    int64_t calls;
    double ns, flops, bytes;
    double cycles, instructions, llc_misses; /* where the case is counted; NaN: not known */
};
struct trace_op { /* one kernel in one role */
    uint8_t op, role, variant;
    struct trace_sum sum;
};
struct trace_group { /* a layer, a rank or a device */
    struct trace_sum sum;
    double op_ns[OPS];
};
struct trace_gap { /* in which no op ran */
    double ns;
    const struct span_row *after, *before; /* what ended, what began */
};

struct trace_part { /* of a chunk: what one device did */
    int device;
    const struct span_row *const *spans; /* by their begin */
    int64_t n;
    double ops_ns;
    double before_ns, between_ns, after_ns; /* the first op, two ops, the last op */
    double at_once_ns;                      /* counted twice in ops_ns: ops that overlap */
};
struct trace_chunk {
    int32_t repeat, chunk;
    const struct chunk_row *row; /* NULL in older files: its ends are then its ops' */
    int64_t begin_ns, end_ns;    /* of the chunk as a whole */
    const struct trace_part *parts;
    int n_parts;
};
struct trace_device {
    double latency_ns;              /* of the chunks in which it has spans */
    struct trace_group all, shared; /* shared: done once for all its ranks */
};

struct kernel_view;
enum { TRACE_GAPS = 8 };
struct trace {
    const struct case_result *r; /* borrowed */
    const struct span_row **spans;
    struct trace_chunk *chunks;
    int n_chunks;
    struct trace_part *parts; /* of all chunks */
    int n_parts;
    int64_t n;            /* spans */
    struct trace_op *ops; /* the longest first */
    int n_ops;
    struct trace_group *layers; /* [n_layers]; number 0 is what stands outside the layers */
    int n_layers;
    struct trace_group ranks[MAX_RANKS];
    int rank_device[MAX_RANKS];
    struct trace_device devices[MAX_RANKS]; /* by number; without spans: not of this run */
    int n_devices;                          /* that have spans */
    struct trace_sum all;
    double elapsed_ns; /* latency of the chunks, once for all devices */
    double latency_ns, before_ns, between_ns, after_ns, at_once_ns; /* sums over all parts */
    struct trace_gap gaps[TRACE_GAPS];                              /* the longest first */
    int n_gaps;
    bool whole;                        /* every chunk has a row: its latency is known */
    const struct kernel_view *kernels; /* beside the spans, see trace_add_kernels(); or NULL */
    int64_t origin_ns;                 /* when the first chunk began: 0 in files for others */
};

/* The spans of a case, or of one of its chunks (from 0; -1: all). r must outlive the trace.
 * STATUS_INVALID: it has no spans; STATUS_USAGE: not of that chunk; STATUS_IO: they are not
 * sensible. */
enum status trace_open(struct trace *t, const struct case_result *r, int chunk, struct error *err);
void trace_close(struct trace *t); /* a zeroed struct is legal */
/* Files for other programs have the kernels that were recorded, too (borrowed; kernel_view.h). t
 * may be zeroed: then they have these alone. */
void trace_add_kernels(struct trace *t, const struct kernel_view *kernels);

/* Number of a span's row among the ops. */
int trace_op_number(const struct trace *t, const struct span *s);
/* Ops of one layer, one after the other, are an execution of it: sets *end to the number after the
 * last of them that begins at `first`, and returns when it ended. */
int64_t trace_layer_end(const struct trace_part *p, int64_t first, int64_t *end);
/* Whether a span may have run beside others of its device: it has a track of its own. */
bool trace_is_aside(const struct trace *t, const struct span *s);
/* Time of a device in a chunk in which it ran no op. */
double trace_no_op_ns(const struct trace_chunk *c, const struct trace_part *p);

enum { TRACE_TEXT = 240 };
/* "linear gate_up" */
char *trace_op_text(char out[TRACE_TEXT], int op, int role);
/* "layer 3 linear gate_up" */
char *trace_span_text(char out[TRACE_TEXT], const struct span *s);
/* "chunks 1, 4, 8 of 8 in the last warm-up pass" */
char *trace_when(char out[TRACE_TEXT], const struct trace *t);
/* "1-3, 8", as people count, in TRACE_TEXT bytes: the numbers of n chunks, each once and in
 * ascending order. The first stands at `chunk` (from 0), each next one `stride` bytes on. */
char *trace_chunk_list(char out[], const int32_t *chunk, size_t stride, int64_t n);
/* Chunks of the whole prompt, whether they ran or not. */
int32_t trace_chunks_of(const struct case_result *r);

/* What the machine's ceilings alone would need, over what it took; NaN: not known. */
double trace_of_ceiling(const struct trace_sum *s, const struct device_rates *rates);
/* Median latency of a chunk over the measured repeats; NaN: it was not measured. */
double trace_measured_ns(const struct case_result *r, int32_t chunk);
/* Latency of the traced chunks over that of the same chunks in the measured repeats (medians); NaN:
 * they were not measured, or the traced ones' latency is not known. */
double trace_cost(const struct trace *t);

struct show_style;
struct table;
struct table_column;
/* Percent; NaN of nothing. A cell of it. */
double trace_share(double part, double whole);
void trace_add_percent(struct table *t, double percent);
/* A table as all views of traces print theirs, closed. Columns that the style's width has no room
 * for are left out, and named below it: in the order of `least`, their numbers, the least needed
 * first, to -1. columns: the table's. */
void trace_print_table(FILE *out, struct table *t, struct table_column *columns, const int *least,
                       const struct show_style *style);
/* A text of one line, broken between words where the style's width ends: the lines after the first
 * are indented by `hang`. What a terminal would obey is written as show_text() does. */
void trace_say(FILE *out, const struct show_style *style, int hang, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

void trace_summary(FILE *out, const struct record_run *run, const struct trace *t,
                   const struct show_style *style);
/* A line per span. */
void trace_csv(FILE *out, const struct trace *t);
/* Memory in use at the peaks of a timeline (timeline.h), who held it, and the system's figure. */
struct timeline;
void trace_memory(FILE *out, struct timeline *t, const struct show_style *style);
/* A line per change of a buffer's use. */
void trace_memory_csv(FILE *out, const struct timeline *t);
/* Files for other programs; written whole or not at all. STATUS_IO. */
enum status trace_perfetto(const char *path, const struct record_run *run, const struct trace *t,
                           struct error *err);
/* STATUS_RUN_FAILED where the program was built without SQLite. */
bool trace_has_sqlite(void);
enum status trace_sqlite(const char *path, const struct record_run *run, const struct trace *t,
                         struct error *err);

#endif
