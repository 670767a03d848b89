/* The kernels of a case that CUPTI recorded, as they are looked at: chunk by chunk, of each device
 * in order of time, summed by kernel and by op, with what no kernel accounts for and what is
 * nobody's. Views of it: text and comma-separated values (trace_kernels.c), and beside the spans in
 * files for other programs (trace_perfetto.c, trace_sqlite.c).
 *
 * Of every chunk holds on every device that ran kernels in it, to the nanosecond:
 *     latency = time of all kernels + before_ns + between_ns + after_ns - at_once_ns
 * where kernels count as far as they lie in the chunk. */
#ifndef HARNESS_KERNEL_VIEW_H
#define HARNESS_KERNEL_VIEW_H

#include "harness/trace.h"

struct kernel_part { /* of a chunk: what one device did */
    const struct chunk_row *row;
    int device;
    int64_t first, n; /* in kernels of the view */
    double kernels_ns, at_once_ns;
    double before_ns, between_ns, after_ns, longest_gap_ns;
};
struct kernel_sum {
    const struct activity_kernel *one; /* the longest of them */
    int64_t calls;
    double ns;
    bool same_grid; /* of all of them */
};
struct kernel_view {
    const struct case_result *r;    /* borrowed */
    const struct activity_log *log; /* its */
    const struct activity_kernel **kernels;
    int64_t n;
    struct kernel_part *parts; /* chunk by chunk */
    int n_parts;
    struct kernel_sum *names; /* by kernel, op and role; the longest first */
    int n_names;
    struct kernel_sum *ops; /* by op, role and variant; PLACE_UNKNOWN: nobody's */
    int n_ops;
    int n_chunks;
    int64_t nobodys;
    double nobodys_ns, latency_ns; /* latency: of the chunks, once for each device */
    double kernels_ns, at_once_ns, before_ns, between_ns, after_ns;
};

/* All chunks, or one (from 0). r must outlive the view. STATUS_INVALID: it has no kernels, and why;
 * STATUS_USAGE: not of that chunk; STATUS_NO_MEMORY. */
enum status kernel_view_open(struct kernel_view *v, const struct case_result *r, int chunk,
                             struct error *err);
void kernel_view_close(struct kernel_view *v); /* a zeroed one is legal */

/* Why a case has no kernels although they were wanted, without the words that say so; "": nothing
 * was noted. */
const char *kernel_view_why(const struct case_result *r);
/* Whether a record is of one of the chunks that are looked at. */
bool kernel_view_has(const struct kernel_view *v, const struct activity_head *head);
/* Time of a part's kernel, as far as it lies in its chunk. */
double kernel_part_ns(const struct kernel_part *p, const struct activity_kernel *k);
/* The device of the run that a kernel ran on. */
int kernel_device(const struct activity_kernel *k);
/* "linear gate_up", or "(nobody's)". */
char *kernel_op_text(char out[TRACE_TEXT], const struct op_place *p);
/* Latency of the chunks over that of the same chunks in the measured repeats (medians); NaN: they
 * were not measured. */
double kernel_view_cost(const struct kernel_view *v);

void trace_kernels(FILE *out, const struct kernel_view *v, const struct show_style *style);
/* A line per kernel. */
void trace_kernels_csv(FILE *out, const struct kernel_view *v);

#endif
