/* Small plain types that all layers share: element types, device kinds, memory categories, spans.
 *
 * Fixed letters everywhere: T tokens (rows of a chunk), H query heads, K key/value heads, D head
 * dim, C model dim, F feed-forward dim, L layers, R ranks, V vocabulary. H, K, F, V with an `_r`
 * suffix, or inside an op's arguments, are one rank's share. */
#ifndef KERNELS_TYPES_H
#define KERNELS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAX_RANKS = 8,      /* tensor-parallel ranks of a run */
    HEAD_DIM_MAX = 256, /* of a model: kernels and checks have no room for more */
    TAP_ROWS = 8        /* rows of a chunk that can be copied out for the spot check */
};

enum dtype { DTYPE_BF16, DTYPE_F32 };
static inline size_t dtype_bytes(enum dtype t) {
    return t == DTYPE_BF16 ? 2 : 4;
}
static inline const char *dtype_name(enum dtype t) {
    return t == DTYPE_BF16 ? "bfloat16" : "float32";
}

enum device_kind { DEVICE_CPU, DEVICE_CUDA };
static inline const char *device_kind_name(enum device_kind k) {
    return k == DEVICE_CPU ? "cpu" : "cuda";
}

/* Where a byte belongs. Every allocation of a device is charged to one category and to one rank, or
 * to SHARED_RANK when the ranks of a device use it together. */
#define MEMORY_CATEGORY_TABLE(X)                                                                   \
    X(MEMORY_WEIGHTS, "weights")                                                                   \
    X(MEMORY_KV, "kv")                                                                             \
    X(MEMORY_ACTIVATIONS, "activations")                                                           \
    X(MEMORY_WORKSPACE, "workspace")                                                               \
    X(MEMORY_COMM, "comm")                                                                         \
    X(MEMORY_GRAPH, "graph")                                                                       \
    X(MEMORY_OTHER, "other")
enum memory_category {
#define X(name, text) name,
    MEMORY_CATEGORY_TABLE(X)
#undef X
        MEMORY_CATEGORIES
};
enum { SHARED_RANK = -1 };

struct memory_use {
    int64_t bytes[MEMORY_CATEGORIES]; /* now */
    int64_t
        high_water[MEMORY_CATEGORIES]; /* most since the device was opened or the mark was reset */
};

/* One execution of one op on one device, the same on CPU and CUDA. */
struct span {
    int64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
    int64_t flops, bytes;     /* executed, from cost.c */
    int16_t rank;             /* SHARED_RANK: done once for all ranks of the device */
    int16_t layer;            /* -1: outside the layers (embedding, head, sampling) */
    uint8_t op;               /* enum op */
    uint8_t role;             /* enum role */
    uint8_t variant;          /* index into the op's variants in ops.inc */
    uint8_t device;           /* its place in its group; 0: alone */
};

/* Hardware counters of an op, summed over the threads of its device; -1: not known. */
struct span_counts {
    int64_t cycles, instructions, llc_misses;
};

#endif
