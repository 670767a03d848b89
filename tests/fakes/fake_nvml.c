/* A library with the functions of NVML that the program uses, and GPUs that a test describes. With
 * FAKE_OLD it has only what old drivers have; with FAKE_BROKEN not even a count of devices. */
#include "fake_nvml.h"

#include <stdio.h>

enum { NOT_SUPPORTED = 3, INVALID = 2 };

static struct fake_nvml state;

struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
struct memory_info {
    unsigned long long total, free, used;
};

/* Programs that know nothing of tests find two H200 too. */
struct fake_nvml *fake_nvml_reset(void) __attribute__((constructor));
struct fake_nvml *fake_nvml_reset(void) {
    static const struct fake_gpu h200 = {.name = "NVIDIA H200",
                                         .major = 9,
                                         .sm_mhz = 1980,
                                         .memory_mhz = 3201,
                                         .power_mw = 650500,
                                         .temperature = 61,
                                         .power_limit_mw = 700000,
                                         .reasons = 4,
                                         .energy_mj = 5000000000ull,
                                         .total = 150109880320ull,
                                         .used = 569180160ull,
                                         .links = 18};
    memset(&state, 0, sizeof state);
    state.n = 2;
    state.cuda_version = 13000;
    for (int i = 0; i < FAKE_GPUS; i++) state.gpu[i] = h200;
    state.gpu[0].uuid = "GPU-aaaaaaaa-0000", state.gpu[0].bus_id = "00000000:07:00.0";
    state.gpu[1].uuid = "GPU-bbbbbbbb-1111", state.gpu[1].bus_id = "00000000:0A:00.0";
    state.gpu[2].uuid = "GPU-cccccccc-2222", state.gpu[2].bus_id = "00000001:07:00.0";
    state.gpu[3].uuid = "GPU-dddddddd-3333", state.gpu[3].bus_id = "00000001:0a:00.0";
    return &state;
}

#define GPU(d) (&state.gpu[(int)(size_t)(d)-1])
#define ANSWER(type, value)                                                                        \
    if (state.gpu_result) return state.gpu_result;                                                 \
    *out = (type)(value);                                                                          \
    return 0

int nvmlInit_v2(void);
int nvmlInit_v2(void) {
    state.opened += state.init_result == 0;
    return state.init_result;
}
int nvmlShutdown(void);
int nvmlShutdown(void) {
    state.opened--;
    return 0;
}
const char *nvmlErrorString(int r);
const char *nvmlErrorString(int r) {
    return r == 15 ? "GPU is lost" : "some error";
}

/* The two ways in which libraries tell their version. */
size_t fake_version_returned(void);
size_t fake_version_returned(void) {
    return 91402;
}
int fake_version_stored(int *out);
int fake_version_stored(int *out) {
    *out = 13000;
    return state.init_result;
}

#ifndef FAKE_BROKEN
int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetCount_v2(unsigned *n) {
    *n = (unsigned)state.n;
    return state.count_result;
}
#endif
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d);
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
    if (i >= (unsigned)state.n || !state.gpu[i].name) return INVALID;
    *d = (void *)(size_t)(i + 1);
    return 0;
}
int nvmlDeviceGetName(void *d, char *out, unsigned size);
int nvmlDeviceGetName(void *d, char *out, unsigned size) {
    snprintf(out, size, "%s", GPU(d)->name);
    return state.gpu_result;
}
int nvmlDeviceGetUUID(void *d, char *out, unsigned size);
int nvmlDeviceGetUUID(void *d, char *out, unsigned size) {
    snprintf(out, size, "%s", GPU(d)->uuid);
    return state.gpu_result;
}
int nvmlDeviceGetPciInfo_v3(void *d, struct pci_info *out);
int nvmlDeviceGetPciInfo_v3(void *d, struct pci_info *out) {
    snprintf(out->bus_id, sizeof out->bus_id, "%s", GPU(d)->bus_id);
    return 0;
}
int nvmlSystemGetDriverVersion(char *out, unsigned size);
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    snprintf(out, size, "580.159.04");
    return 0;
}
int nvmlDeviceGetClockInfo(void *d, int which, unsigned *out);
int nvmlDeviceGetClockInfo(void *d, int which, unsigned *out) {
    unsigned sm = GPU(d)->sm_mhz;
    if (which == 1 && state.samples < 4) {
        const unsigned told = state.sm_mhz_of[state.samples++];
        sm = told ? told : sm;
    }
    ANSWER(unsigned, which == 1 ? sm : GPU(d)->memory_mhz);
}
int nvmlDeviceGetPowerUsage(void *d, unsigned *out);
int nvmlDeviceGetPowerUsage(void *d, unsigned *out) {
    ANSWER(unsigned, GPU(d)->power_mw);
}

#ifdef FAKE_OLD
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *out);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *out) {
    ANSWER(unsigned long long, GPU(d)->reasons);
}
#else
int nvmlSystemGetCudaDriverVersion_v2(int *out);
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = state.cuda_version;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor);
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) {
    *major = GPU(d)->major, *minor = GPU(d)->minor;
    return state.gpu_result;
}
int nvmlDeviceGetMemoryInfo(void *d, struct memory_info *out);
int nvmlDeviceGetMemoryInfo(void *d, struct memory_info *out) {
    *out = (struct memory_info){GPU(d)->total, GPU(d)->total - GPU(d)->used, GPU(d)->used};
    return state.gpu_result;
}
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *out);
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *out) {
    ANSWER(unsigned, GPU(d)->power_limit_mw);
}
int nvmlDeviceGetMaxClockInfo(void *d, int which, unsigned *out);
int nvmlDeviceGetMaxClockInfo(void *d, int which, unsigned *out) {
    (void)d;
    ANSWER(unsigned, which == 1 ? 1980 : 3201);
}
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *out);
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *out) {
    if (sensor != 0) return INVALID;
    ANSWER(unsigned, GPU(d)->temperature);
}
int nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *out);
int nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *out) {
    ANSWER(unsigned long long, GPU(d)->reasons);
}
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *out);
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *out) {
    ANSWER(unsigned long long, GPU(d)->energy_mj);
}
int nvmlDeviceGetPersistenceMode(void *d, int *out);
int nvmlDeviceGetPersistenceMode(void *d, int *out) {
    (void)d;
    ANSWER(int, 1);
}
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *later);
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *later) {
    *now = *later = (unsigned)GPU(d)->mig;
    return state.gpu_result;
}
int nvmlDeviceGetEccMode(void *d, int *now, int *later);
int nvmlDeviceGetEccMode(void *d, int *now, int *later) {
    (void)d;
    *now = *later = 1;
    return state.gpu_result;
}
int nvmlDeviceGetNvLinkState(void *d, unsigned link, int *out);
int nvmlDeviceGetNvLinkState(void *d, unsigned link, int *out) {
    if (link >= 18) return INVALID;
    ANSWER(int, (int)link < GPU(d)->links);
}
int nvmlDeviceGetMaxPcieLinkGeneration(void *d, unsigned *out);
int nvmlDeviceGetMaxPcieLinkGeneration(void *d, unsigned *out) {
    (void)d;
    ANSWER(unsigned, 5);
}
/* Not for every GPU. */
int nvmlDeviceGetMaxPcieLinkWidth(void *d, unsigned *out);
int nvmlDeviceGetMaxPcieLinkWidth(void *d, unsigned *out) {
    if ((size_t)d == 2) return NOT_SUPPORTED;
    ANSWER(unsigned, 16);
}
#endif
