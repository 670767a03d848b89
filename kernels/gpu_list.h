/* The GPUs that this process could use, as NVML tells them: which kernels can run here is decided
 * from this list, so that no process makes a CUDA context (half a GiB of a GPU's memory, a second
 * of time, a driver that may crash) to find out. Before it: nvml.c; after it: variants.c, and
 * `bench doctor`, the keys of measured rates and the facts of a run in the harness. */
#ifndef KERNELS_GPU_LIST_H
#define KERNELS_GPU_LIST_H

#include "kernels/nvml.h"

enum { GPU_LIST_MOST = 16 };

struct gpu_list {
    bool driver_there; /* it was opened and it answers */
    struct nvml_driver driver;
    int n; /* of the machine, or of the container; at most GPU_LIST_MOST */
    struct nvml_gpu gpu[GPU_LIST_MOST];
    int64_t reasons[GPU_LIST_MOST];      /* see nvml_sample: now */
    int32_t sm_clock_mhz[GPU_LIST_MOST]; /* now */
    bool visible[GPU_LIST_MOST];         /* CUDA would show it to this process */
    char visible_devices[200];           /* CUDA_VISIBLE_DEVICES where it is set */
    char why_none[300];                  /* why no GPU can be used; "" when one is visible */
    char why_sm80[300], why_sm90a[300];  /* why kernels of that kind cannot run, or "" */
};

/* library: see nvml_open. visible_devices: the value of CUDA_VISIBLE_DEVICES, or NULL where it is
 * not set; as CUDA does, the list ends at the first entry that names no GPU. cuda_needed: the CUDA
 * version that the program was built with (1000 * major + 10 * minor), 0 for none: a driver serves
 * programs of its own major version and of those before it. */
void gpu_list_read(struct gpu_list *out, const char *library, const char *visible_devices,
                   int32_t cuda_needed);

/* This machine's, read once per process. The pointer stays valid. */
const struct gpu_list *gpu_list_machine(void);
/* The first GPU that CUDA would show; -1: none. */
int gpu_list_first(const struct gpu_list *l);
/* CUDA version that this program was built with, or 0. */
int32_t gpu_list_cuda_built(void);
/* cuBLASLt's own number, 130101 for 13.1.1; loads the library. 0: not built in, or not found. */
int64_t cuda_blas_version(void);
/* The oldest that serve: the first cuDNN whose attention is masked from the last key, takes lengths
 * from device memory and accepts minus infinity where nothing is seen; the first NCCL with
 * communicators that do not block. */
enum { CUDNN_OLDEST = 91000, NCCL_OLDEST = 21400 };
/* cuDNN's own number, 91400 for 9.14.0; loads the library. 0: not found, or too old to be used. */
int64_t cuda_dnn_version(void);
/* NCCL's own number, 22803 for 2.28.3; loads the library. 0: not found, or too old to be used. */
int64_t cuda_nccl_version(void);
/* "13.0" of 13000, "unknown" of a negative version. Returns out. */
char *gpu_cuda_version_text(int32_t version, char out[16]);

#endif
