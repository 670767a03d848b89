/* CUPTI at work in this process: what the GPUs and the driver did while ops were issued, each
 * record with the op that it belongs to. Of each process one at most, opened before the first use
 * of CUDA, best in a process of its own: CUPTI leaves costs behind.
 *
 *   activity_open -> device_open (device_opts.activity) ... -> activity_reset -> a step ->
 *   activity_take -> ... -> activity_close
 *
 * How a record finds its op: a thread that issues an op one by one has told CUPTI whose calls now
 * come, and what they start carries it (external correlation). A step that is replayed is one call;
 * its records name the node of the graph, whose op was told when it was captured (node_map.h). */
#ifndef KERNELS_ACTIVITY_ACTIVITY_H
#define KERNELS_ACTIVITY_ACTIVITY_H

#include "kernels/activity/activity_log.h"

struct activity;

struct activity_opts {
    const char *library; /* NULL: CUPTI, as the loader or CUDA's folders have it */
    int buffers;         /* of the pool */
    size_t buffer_bytes;
};
struct activity_opts activity_opts_defaults(void); /* 64 of 1 MiB */

/* STATUS_UNSUPPORTED, with the reason: no library, an old one, no driver, no permission, another
 * tool that has taken CUPTI (Nsight Systems, Nsight Compute), or one is open already.
 * STATUS_NO_MEMORY. */
enum status activity_open(struct activity **out, const struct activity_opts *opts,
                          struct error *err);
void activity_close(struct activity *a); /* NULL is legal; devices that knew it are closed */
const char *activity_library(const struct activity *a); /* file that was loaded */
uint32_t activity_version(const struct activity *a);    /* of CUPTI: 130001 */

/* ---- told by devices; NULL is legal everywhere */

/* What this thread issues until activity_end_op() belongs to an op. */
void activity_begin_op(struct activity *a, struct op_place place);
void activity_end_op(struct activity *a);
/* A node (cudaGraphNode_t) of a graph that is being captured belongs to an op, unless it is known
 * to belong to one already: false. Any thread. */
bool activity_add_node(struct activity *a, void *node, struct op_place place);

/* ---- while all devices are idle */

/* Forgets what has been recorded, but for what is made once: memory and nodes of graphs. */
void activity_reset(struct activity *a);
/* Appends what has been recorded since the last reset or take, as (repeat, chunk)'s; ranges that
 * are still open come when they end. Memory and nodes come with the first take after they were
 * made; nodes, and memory from before the last reset, are of chunk -1. STATUS_NO_MEMORY,
 * STATUS_DEVICE: CUPTI does not give it out. */
enum status activity_take(struct activity *a, int32_t repeat, int32_t chunk,
                          struct activity_log *log, struct error *err);

#endif
