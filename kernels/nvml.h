/* What the NVIDIA driver tells of this machine's GPUs, through NVML (libnvidia-ml.so.1, opened with
 * dlopen: a program that runs on the CPU needs no driver, and building needs no header). Asking
 * makes no CUDA context and takes no memory of a GPU, so the supervisor may ask too.
 *
 * What a driver or a GPU does not tell is absent: -1, a NaN, or "". Never an error.
 * Source of functions, structures and numbers: the NVML API reference manual of the driver. */
#ifndef KERNELS_NVML_H
#define KERNELS_NVML_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stdint.h>

struct nvml;

enum { NVML_NAME_BYTES = 96, NVML_BUS_ID_BYTES = 32 };

/* Opens the library and the driver's connection. library: what to open, NULL for the driver's own;
 * other libraries are for tests. STATUS_UNSUPPORTED says what is missing. */
enum status nvml_open(struct nvml **out, const char *library, struct error *err);
void nvml_close(struct nvml *n); /* NULL is legal */

struct nvml_driver {
    char version[80];     /* "580.159.04" */
    int32_t cuda_version; /* newest CUDA that it serves, as 1000 * major + 10 * minor; -1 */
};
void nvml_driver(const struct nvml *n, struct nvml_driver *out);

int nvml_count(const struct nvml *n); /* GPUs that this process may ask about */

/* Facts that do not change while a program runs; and used memory, now. */
struct nvml_gpu {
    char name[NVML_NAME_BYTES];     /* "NVIDIA H200" */
    char uuid[NVML_NAME_BYTES];     /* "GPU-..." */
    char bus_id[NVML_BUS_ID_BYTES]; /* "00000000:07:00.0" */
    int32_t capability;             /* ten times the compute capability: 90 */
    int64_t memory_bytes, memory_used_bytes;
    double power_limit_w; /* enforced */
    int32_t sm_clock_max_mhz, memory_clock_max_mhz;
    int32_t persistence, mig, ecc; /* modes: 0 off, 1 on */
    int32_t nvlinks;               /* active ones; 0: none */
    int32_t pcie_generation, pcie_width;
};
/* GPU i in the order of NVML, which is that of PCI bus ids; false: it does not answer at all. */
bool nvml_gpu(const struct nvml *n, int i, struct nvml_gpu *out);

/* What moves. */
struct nvml_sample {
    int32_t sm_clock_mhz, memory_clock_mhz, temperature_c;
    double power_w;
    int64_t reasons;   /* mask of NVML_REASON_TABLE: what keeps clocks from being higher */
    int64_t energy_mj; /* used since the driver was loaded */
};
void nvml_sample(const struct nvml *n, int i, struct nvml_sample *out);
/* energy_mj alone, in one call of the driver. */
int64_t nvml_energy(const struct nvml *n, int i);

/* The GPU with this UUID or PCI bus id; -1: none. CUDA's ordinals are not NVML's. The domain of a
 * bus id may have four digits (CUDA) or eight (NVML). */
int nvml_find(const struct nvml *n, const char *id);
bool nvml_same_bus_id(const char *a, const char *b);

#define NVML_REASON_TABLE(X)                                                                       \
    X(0x001, "idle")                                                                               \
    X(0x002, "clocks set by the application")                                                      \
    X(0x004, "power cap")                                                                          \
    X(0x008, "hardware slowdown")                                                                  \
    X(0x010, "sync boost")                                                                         \
    X(0x020, "thermal slowdown by software")                                                       \
    X(0x040, "thermal slowdown by hardware")                                                       \
    X(0x080, "power brake")                                                                        \
    X(0x100, "display clocks")
/* "power cap, thermal slowdown by software"; "none" for 0, "unknown" for a negative mask; bits that
 * the table does not know as a number. Returns out. */
char *nvml_reasons_text(int64_t reasons, char *out, int size);

#endif
