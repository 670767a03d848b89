/* For the tests of CUDA kernels: a GPU beside a CPU device, arrays on the GPU, and the comparison
 * of a CUDA variant with its reference. A program without a GPU ends with 77, a named skip. */
#ifndef GPU_TEST_H
#define GPU_TEST_H

#include "kernels/device.h"

#include <string.h>

/* A part that runs every kernel once, for sanitizers, under which all is slow. */
static inline bool wants_small(int argc, char **argv) {
    return argc > 1 && strcmp(argv[1], "--small") == 0;
}

struct gpu_test {
    struct device *gpu, *cpu;
    struct arena *arena;
};

/* Opens both devices and an arena of `bytes` on the GPU; exits with 77 and the reason where there
 * is none. attention: a CUDA variant or "auto". */
void gpu_test_open(struct gpu_test *t, enum dtype dtype, int head_dim, const char *attention,
                   size_t bytes);
void gpu_test_close(struct gpu_test *t);
/* Forgets all arrays: they are taken anew, zeroed, from the same arena size. */
void gpu_test_reset(struct gpu_test *t, size_t bytes);

void *gpu_new(struct gpu_test *t, size_t bytes); /* zeroed */
void *gpu_put(struct gpu_test *t, const void *host, size_t bytes);
void gpu_get(struct gpu_test *t, void *host, const void *device, size_t bytes);

/* A row of ops.inc; the test fails where there is none. */
const struct variant *variant_named(enum device_kind kind, enum op op, const char *name);
/* The i-th exchange between so many GPUs that serves here and lacks nothing of what is named (enum
 * kernel_lacks), or NULL past the last. */
const char *exchange_kernel(int i, int gpus, unsigned lacks);
/* Runs a CUDA variant and waits; the test fails on an error. args: the op's argument struct. */
void gpu_run(struct gpu_test *t, const struct variant *v, const void *args);
double gpu_test_seconds(void); /* of CLOCK_MONOTONIC */
/* Median time of `repeats` runs after one, each between two events. */
double gpu_time_ns(struct gpu_test *t, const struct variant *v, const void *args, int repeats);

#endif
