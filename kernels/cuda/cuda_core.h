/* The inside of a CUDA device, for the *_cuda.c files: what cuda_device.h shows to kernels, and
 * what the backend keeps beside it. */
#ifndef KERNELS_CUDA_CORE_H
#define KERNELS_CUDA_CORE_H

#include "kernels/cuda/cuda_device.h"
#include "kernels/device_core.h"

enum { STAGING_SLOTS = 8, STAGING_BYTES = 4 << 20, STEP_COPIES = 8 };

/* Pinned memory through which host data passes: a ring of slots, each free again when its copy is
 * done. */
struct staging {
    char *base; /* STAGING_SLOTS x STAGING_BYTES */
    cudaEvent_t done[STAGING_SLOTS];
    int next;
};

/* What the host last wrote to a `struct step_params` on the device: costs of spans need it. */
struct step_copy {
    const void *device;
    struct step_params host;
};

/* An op between two events, to become a span when the device is next synchronised. */
struct timed_call {
    struct op_call call;
    cudaEvent_t begin, end;
};

/* The second stream, for calls aside (ops.h). Of a higher priority: what waits there is short, and
 * other devices wait for it. */
struct lane {
    cudaStream_t stream;
    cudaEvent_t begin;        /* what a call aside waits for; used again at once */
    cudaEvent_t done[ASIDES]; /* the newest call of each number */
};

struct cuda {
    struct cuda_device gpu; /* first: cuda_device() returns its address */
    struct lane lane;
    bool has_context;
    cudaError_t error; /* the first since the last sync */
    char error_at[400];
    struct staging staging;
    struct step_copy steps[STEP_COPIES];
    int next_step;
    volatile uint64_t *heartbeat; /* the host's address of gpu.heartbeat */
    cudaEvent_t mark[DEVICE_MARKS];
    int64_t context_bytes;    /* held by the driver for this process before any arena */
    int64_t others_bytes;     /* held by other processes when the device was opened */
    int64_t peak_bytes;       /* most that the driver was seen to hold since the reset */
    struct timed_call *timed; /* [timed_capacity], owned */
    int64_t timed_n, timed_capacity;
    cudaEvent_t origin; /* of the spans' clock, and what the host's said then */
    int64_t origin_ns;
};

static inline struct cuda *cuda_of(const struct device *dev) {
    return dev->state;
}

/* STATUS_OK, or an error that names the call, the reason and the driver's name for it. */
enum status cuda_status(cudaError_t e, const char *what, struct error *err);
/* What was kept by cuda_check(), once. */
enum status cuda_take_error(struct device *dev, struct error *err);

/* Runs the call, or issues it into what is being captured, in turn or aside: `run` does it on
 * gpu.stream. */
typedef void cuda_run(struct device *dev, const struct op_call *call);
void cuda_issue(struct device *dev, const struct op_call *call, cuda_run *run);
void cuda_run_call(struct device *dev, const struct op_call *call);

/* graph_cuda.c */
enum status cuda_graph_open(struct device *dev, struct device_graph *g, struct error *err);
enum status cuda_graph_launch(struct device *dev, struct device_graph *g, struct error *err);
void cuda_graph_close(struct device *dev, struct device_graph *g);

/* spans_cuda.c */
enum status cuda_spans_open(struct device *dev, int64_t capacity, struct error *err);
void cuda_spans_begin(struct device *dev); /* the clock's origin is now */
void cuda_spans_run(struct device *dev, const struct op_call *call);
void cuda_spans_collect(struct device *dev); /* after a synchronisation */

/* rates_cuda.c */
enum status cuda_measure_copy(struct device *dev, double seconds, double *bytes_per_s,
                              struct error *err);
double cuda_measure_roof(struct device *dev, double seconds);

#endif
