/* Memory in use, op by op, of the traced chunks of a case: kept by the worker from what the engine
 * says of a chunk, read by the views (trace_memory.c, plot_timeline.c). What a device has reserved
 * is the same from the first chunk to the last; what of it is needed changes with every op. */
#ifndef HARNESS_TIMELINE_H
#define HARNESS_TIMELINE_H

#include "harness/result.h"

/* Adds what the newest chunk of the session had in use on a device. first_span: row of the result's
 * spans at which those of this chunk on this device begin. */
enum status timeline_keep(struct case_result *out, struct session *s, int device,
                          int64_t first_span, struct error *err);

/* One device in one traced chunk. */
struct timeline_part {
    int32_t repeat, chunk;
    int device;
    int64_t first_span, end_span; /* rows of the result's spans */
    const struct buffer_use_row *uses;
    int64_t n_uses;
};
struct timeline {
    const struct case_result *r; /* borrowed */
    struct timeline_part *parts; /* in order of recording: by chunk, then device; owned */
    int n_parts;
    int64_t *bytes; /* [r->n_buffers]: in use at the op at hand; owned */
};
/* Of a case, or of one of its chunks (from 0; -1: all). r must outlive it. STATUS_INVALID: it has
 * no timeline; STATUS_USAGE: not of that chunk; STATUS_NO_MEMORY. */
enum status timeline_open(struct timeline *t, const struct case_result *r, int chunk,
                          struct error *err);
void timeline_close(struct timeline *t); /* a zeroed struct is legal */

/* Sees each op of a part in order, with what each buffer has in use while it runs. */
typedef void timeline_seer(void *ctx, const struct span_row *op, const int64_t *bytes);
void timeline_walk(struct timeline *t, const struct timeline_part *p, timeline_seer *see,
                   void *ctx);

/* Of a part: the op at which most is in use, by a rank (what is its own and what is shared), or of
 * the whole device (rank = TIMELINE_DEVICE). t->bytes holds what is in use there. */
enum { TIMELINE_DEVICE = SHARED_RANK - 1 };
struct timeline_peak {
    const struct span_row *op;
    int64_t bytes, reserved;
};
struct timeline_peak timeline_find_peak(struct timeline *t, const struct timeline_part *p,
                                        int rank);
/* Whether a buffer counts for a rank of a device, or for the device. */
bool timeline_counts(const struct buffer_row *b, int device, int rank);

#endif
