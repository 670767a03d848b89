/* What a GPU and its driver did, record by record, as CUPTI told it and with the op that each
 * belongs to: plain data, filled by activity.c, kept in result files by the harness.
 *
 * Times are CLOCK_MONOTONIC. A text is a number in `strings`; 0 is none. */
#ifndef KERNELS_ACTIVITY_ACTIVITY_LOG_H
#define KERNELS_ACTIVITY_ACTIVITY_LOG_H

#include "kernels/activity/op_place.h"
#include "kernels/error.h"

/* What every record has. */
struct activity_head {
    int64_t begin_ns, end_ns;
    int32_t repeat, chunk; /* that it was taken for */
    struct op_place place;
};

struct activity_kernel {
    struct activity_head head;
    uint32_t device, context, stream; /* CUDA's numbers in its process */
    uint32_t correlation;             /* of the call that launched it */
    uint64_t graph_node;              /* 0: of no graph */
    int32_t grid[3], block[3];
    int32_t registers;                      /* a thread */
    int32_t static_shared, dynamic_shared;  /* bytes a block */
    int32_t shared_executed;                /* bytes that the multiprocessor set aside */
    int32_t local_per_thread;               /* bytes */
    int32_t launch_type;                    /* 0: regular, 1 and 2: cooperative */
    int32_t mangled, demangled, short_name; /* strings */
};

struct activity_copy { /* a copy, or (set) a fill */
    struct activity_head head;
    uint32_t device, context, stream, correlation;
    uint64_t graph_node;
    int64_t bytes;
    bool set;
    uint8_t kind, from, to; /* of a copy: CUPTI's kinds of copies and of memory */
    uint32_t value;         /* of a fill */
};

struct activity_call { /* of a function of CUDA's runtime or driver */
    struct activity_head head;
    uint32_t process, thread, correlation, result;
    bool driver;
    int32_t name; /* string */
};

struct activity_range { /* NVTX */
    struct activity_head head;
    uint32_t process, thread;
    int32_t name, domain; /* strings */
};

struct activity_overhead { /* of tracing itself, of loading, and of waiting until there is room for
                              another launch */
    struct activity_head head;
    uint32_t process, thread;
    int32_t kind; /* see activity_overhead_name() */
};

/* A node of a graph, when it was made. Of a graph that runs it is a copy of one that was captured.
 */
struct activity_node {
    struct activity_head head;
    uint32_t process, thread;
    uint64_t node, original; /* original: 0 where it was captured itself */
};

struct activity_memory { /* that was allocated, or (release) given back, at head.begin_ns */
    struct activity_head head;
    uint32_t process, device, context, stream, correlation;
    uint64_t address, pc; /* pc: of the call, as CUPTI tells it */
    int64_t bytes;
    bool release;
    uint8_t kind; /* of memory, CUPTI's number */
};

/* Zeroed is empty. Arrays are owned, and grow. */
struct activity_log {
    struct activity_kernel *kernels;
    struct activity_copy *copies;
    struct activity_call *calls;
    struct activity_range *ranges;
    struct activity_overhead *overheads;
    struct activity_node *nodes;
    struct activity_memory *memory;
    int64_t n_kernels, n_copies, n_calls, n_ranges, n_overheads, n_nodes, n_memory;
    char **strings; /* [0] is "" */
    int32_t n_strings;
    int64_t dropped; /* records that found no room: what is here is not all */
};

void activity_log_free(struct activity_log *log); /* a zeroed one is legal */

/* Each appends *row. STATUS_NO_MEMORY. */
enum status activity_log_add_kernel(struct activity_log *log, const struct activity_kernel *row,
                                    struct error *err);
enum status activity_log_add_copy(struct activity_log *log, const struct activity_copy *row,
                                  struct error *err);
enum status activity_log_add_call(struct activity_log *log, const struct activity_call *row,
                                  struct error *err);
enum status activity_log_add_range(struct activity_log *log, const struct activity_range *row,
                                   struct error *err);
enum status activity_log_add_overhead(struct activity_log *log, const struct activity_overhead *row,
                                      struct error *err);
enum status activity_log_add_node(struct activity_log *log, const struct activity_node *row,
                                  struct error *err);
enum status activity_log_add_memory(struct activity_log *log, const struct activity_memory *row,
                                    struct error *err);
/* Number of a text, the same for the same text. NULL and "": 0. *out is 0 on failure. */
enum status activity_log_string(struct activity_log *log, const char *text, int32_t *out,
                                struct error *err);
/* "" for a number that is none. */
const char *activity_log_text(const struct activity_log *log, int32_t string);

/* "lazy function loading" */
const char *activity_overhead_name(int32_t kind);
/* Whether recording costs that: not what the driver does anyway, such as loading and waiting. */
bool activity_overhead_of_recording(int32_t kind);
/* A kind of memory as NVIDIA's tools number it, from 0 (pageable) to 7 (unknown), of CUPTI's
 * number, which begins at 1. */
enum { ACTIVITY_UNKNOWN_MEMORY = 7 };
int32_t activity_memory_kind(uint8_t of_cupti);
/* What those tools call every row of nodes. */
#define ACTIVITY_NODE_NAME "Graph Node Creation"
/* "HtoD" of a copy's kind, as NVIDIA's tools write it; "?" for one that is not known. */
const char *activity_copy_name(int32_t kind);

#endif
