/* Attention as a graph of cuDNN's operations, in the form in which the library knows it for one
 * kernel: softmax(scale * q k^T) v, where row i of n rows sees the keys up to i + keys - n. Both
 * numbers are read from device memory, so one graph serves all chunks of a size. */
#ifndef KERNELS_ATTENTION_CUDNN_GRAPH_H
#define KERNELS_ATTENTION_CUDNN_GRAPH_H

#include "kernels/attention/cudnn_api.h"
#include "kernels/error.h"

/* What is passed with a call: unique ids. */
enum cudnn_operand {
    CUDNN_Q = 1,    /* [rows][H][D], row stride ldq, at 16 bytes */
    CUDNN_K,        /* [K][capacity][D], at 16 bytes */
    CUDNN_V,        /* the same */
    CUDNN_OUT,      /* [rows][H][D], row stride ldo, at 16 bytes */
    CUDNN_ROWS,     /* int32 in device memory: real rows */
    CUDNN_KEYS,     /* int32 in device memory: keys that the last real row sees */
    CUDNN_SCALE,    /* float in host memory */
    CUDNN_INVISIBLE /* float in host memory: minus infinity */
};
enum { CUDNN_OPERANDS = CUDNN_INVISIBLE };

struct cudnn_shape {
    int64_t rows, capacity, H, K, D, ldq, ldo;
};

/* Descriptors in the order in which they were made; they live as long as what was made of them. */
enum { CUDNN_DESCRIPTORS = 128 };
struct cudnn_graph {
    const struct cudnn *lib;
    cudnn_descriptor graph; /* one of them */
    int n;
    cudnn_descriptor made[CUDNN_DESCRIPTORS];
};

/* handle NULL: a graph to ask about, for a device that is described beside it. On an error
 * (STATUS_RUN_FAILED, in the library's words) close what there is. */
enum status cudnn_graph_open(struct cudnn_graph *g, const struct cudnn *lib, cudnn_handle handle,
                             const struct cudnn_shape *shape, struct error *err);
void cudnn_graph_close(struct cudnn_graph *g); /* zeroed struct is legal */

/* A descriptor that lives as long as the graph; NULL when it fails. */
cudnn_descriptor cudnn_graph_make(struct cudnn_graph *g, enum cudnn_number kind);

/* STATUS_RUN_FAILED with the library's own words about its newest failure. */
enum status cudnn_failed(const struct cudnn *lib, cudnn_status e, const char *what,
                         struct error *err);

#endif
