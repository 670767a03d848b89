/* The state behind fake_nvml.c, for tests that hold the library open: dlopen gives everybody the
 * same copy, so what a test writes here is what the code under test is told. */
#ifndef FAKE_NVML_H
#define FAKE_NVML_H

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

enum { FAKE_GPUS = 4 };

struct fake_gpu {
    const char *name, *uuid, *bus_id;
    int major, minor;
    unsigned sm_mhz, memory_mhz, power_mw, temperature, power_limit_mw;
    unsigned long long reasons, energy_mj, total, used;
    int links; /* active ones of 18 */
    int mig;
};
struct fake_nvml {
    int init_result, count_result; /* what the functions of opening return */
    int gpu_result;                /* what every function of a GPU returns */
    int cuda_version, n;
    int opened;            /* calls: open minus close */
    int samples;           /* calls so far for an SM clock */
    unsigned sm_mhz_of[4]; /* what the first of them tell; 0: what the GPU's says */
    struct fake_gpu gpu[FAKE_GPUS];
};

/* Opens the library and resets its state: two H200. Keep *handle until the end. */
static inline struct fake_nvml *fake_nvml_open(const char *path, void **handle) {
    struct fake_nvml *(*state)(void) = NULL;
    *handle = dlopen(path, RTLD_NOW);
    void *at = *handle ? dlsym(*handle, "fake_nvml_reset") : NULL;
    memcpy(&state, &at, sizeof at);
    return state ? state() : NULL;
}

#endif
