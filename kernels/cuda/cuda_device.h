/* A GPU as the host sides of its kernels see it. C and CUDA C.
 *
 * A CUDA variant is an op_function like any other: it gets the op's arguments (pointers into device
 * memory) and issues work on the device's stream, in order. It must not wait, allocate, or read
 * device memory from the host, since the same call may be issued into a stream that is being
 * captured into a graph: whatever changes from step to step is read by the kernel from
 * `struct step_params`. Errors of launches go to cuda_check() and surface at device_sync(). */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include "kernels/device.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_WORKSPACE_BYTES = 64 << 20,
    CUDA_COUNTERS = 256 /* words */
};

struct cuda_device {
    int ordinal;
    int sm_count;
    int capability;   /* ten times it: 90 for 9.0 */
    int shared_bytes; /* most of a block, by opt-in */
    int l2_bytes;
    cudaStream_t stream; /* that the call at hand is issued to */
    bool aside;          /* the call at hand runs beside others, which want the multiprocessors */
    void *workspace;     /* CUDA_WORKSPACE_BYTES of device memory; contents do not outlive a call */
    uint32_t *counters;  /* CUDA_COUNTERS words of device memory, zero before every call: a kernel
                            that uses them leaves them zero */
    uint64_t *heartbeat; /* a word of host memory, at its device address: a kernel that may run
                            longer than a second stores a new value (%globaltimer) there, from one
                            thread, several times a second */
    /* State of linear_cublas.c: NULL until it opens it with its first weight. It sets the function
     * too, which the device calls before it closes. */
    void *linears;
    void (*close_linears)(struct cuda_device *gpu);
    /* The same for attention_cudnn.c, with its first plan. */
    void *attentions;
    void (*close_attentions)(struct cuda_device *gpu);
};

/* Of a device of kind DEVICE_CUDA. */
struct cuda_device *cuda_device(struct device *dev);

/* Keeps the first error; `what` names the kernel or call. After a launch:
 * cuda_check(dev, cudaGetLastError(), "attention_sm90"). */
void cuda_check(struct device *dev, cudaError_t e, const char *what);

/* After a kernel of a library, which may have run long: moves the heartbeat. */
void cuda_beat(struct device *dev);

/* n standard normal values: the same bits as element_fill_normal()'s. */
void cuda_fill_normal(struct device *dev, void *dst, int64_t n, enum dtype dtype, uint64_t seed);
/* See random_matrix.h. */
struct random_matrix;
struct matrix_part;
void cuda_random_matrix(struct device *dev, const struct random_matrix *m,
                        const struct matrix_part *part, enum dtype dtype, void *out, int64_t ld);
/* Synthetic keys and values at [begin, end) of all heads, layout rows: the same bits as the CPU
 * backend's. */
void cuda_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                  uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
