/* NVML by dlopen. See nvml.h. Before it: gpu_list.c (which GPUs there are), clocks.c of the harness
 * (what they do during a chunk). */
#include "kernels/nvml.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the library's side: names and layouts of the manual */

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
};
enum {
    NVML_CLOCK_SM = 1,
    NVML_CLOCK_MEM = 2,
    NVML_TEMPERATURE_GPU = 0,
    NVML_NVLINK_MAX_LINKS = 18
};

typedef int result_t;
typedef struct nvml_device *device_t;
struct pci_info { /* nvmlPciInfo_t */
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
struct memory_info { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

/* Every function used. Those of OPTIONAL may be missing from an older driver. */
#define REQUIRED(X)                                                                                \
    X(init, "nvmlInit_v2", (void))                                                                 \
    X(shutdown, "nvmlShutdown", (void))                                                            \
    X(count, "nvmlDeviceGetCount_v2", (unsigned *))                                                \
    X(handle, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_t *))
#define OPTIONAL(X)                                                                                \
    X(driver_version, "nvmlSystemGetDriverVersion", (char *, unsigned))                            \
    X(cuda_version, "nvmlSystemGetCudaDriverVersion_v2", (int *))                                  \
    X(name, "nvmlDeviceGetName", (device_t, char *, unsigned))                                     \
    X(uuid, "nvmlDeviceGetUUID", (device_t, char *, unsigned))                                     \
    X(pci, "nvmlDeviceGetPciInfo_v3", (device_t, struct pci_info *))                               \
    X(capability, "nvmlDeviceGetCudaComputeCapability", (device_t, int *, int *))                  \
    X(memory, "nvmlDeviceGetMemoryInfo", (device_t, struct memory_info *))                         \
    X(power_limit, "nvmlDeviceGetEnforcedPowerLimit", (device_t, unsigned *))                      \
    X(clock, "nvmlDeviceGetClockInfo", (device_t, int, unsigned *))                                \
    X(max_clock, "nvmlDeviceGetMaxClockInfo", (device_t, int, unsigned *))                         \
    X(power, "nvmlDeviceGetPowerUsage", (device_t, unsigned *))                                    \
    X(temperature, "nvmlDeviceGetTemperature", (device_t, int, unsigned *))                        \
    X(reasons, "nvmlDeviceGetCurrentClocksEventReasons", (device_t, unsigned long long *))         \
    X(reasons_before_535, "nvmlDeviceGetCurrentClocksThrottleReasons",                             \
      (device_t, unsigned long long *))                                                            \
    X(energy, "nvmlDeviceGetTotalEnergyConsumption", (device_t, unsigned long long *))             \
    X(persistence, "nvmlDeviceGetPersistenceMode", (device_t, int *))                              \
    X(mig, "nvmlDeviceGetMigMode", (device_t, unsigned *, unsigned *))                             \
    X(ecc, "nvmlDeviceGetEccMode", (device_t, int *, int *))                                       \
    X(nvlink, "nvmlDeviceGetNvLinkState", (device_t, unsigned, int *))                             \
    X(pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration", (device_t, unsigned *))               \
    X(pcie_width, "nvmlDeviceGetMaxPcieLinkWidth", (device_t, unsigned *))

struct nvml {
    void *library;
    int n;
    device_t *device;                  /* [n], owned; NULL: does not answer */
    char (*bus_id)[NVML_BUS_ID_BYTES]; /* [n], owned */
#define X(field, name, arguments) result_t(*field) arguments;
    REQUIRED(X)
    OPTIONAL(X)
#undef X
        const char *(*error_string)(result_t);
};

static const struct symbol {
    const char *name;
    size_t offset;
    bool required;
} symbols[] = {
#define X(field, name, arguments) {name, offsetof(struct nvml, field), true},
    REQUIRED(X)
#undef X
#define X(field, name, arguments) {name, offsetof(struct nvml, field), false},
        OPTIONAL(X)
#undef X
            {"nvmlErrorString", offsetof(struct nvml, error_string), false}};

/* ---- opening */

static const char driver_library[] = "libnvidia-ml.so.1";

/* A pointer to data is no pointer to a function in C; POSIX says that its bytes are. */
static enum status resolve(struct nvml *n, const char *library, struct error *err) {
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *at = dlsym(n->library, symbols[i].name);
        if (!at && symbols[i].required)
            return error_set(err, STATUS_UNSUPPORTED,
                             "the NVIDIA driver is too old: %s has no function %s", library,
                             symbols[i].name);
        memcpy((char *)n + symbols[i].offset, &at, sizeof at);
    }
    return STATUS_OK;
}

static enum status why_not_open(const struct nvml *n, result_t r, struct error *err) {
    if (r == NVML_ERROR_DRIVER_NOT_LOADED)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the NVIDIA driver is installed, but not loaded (no GPU is reachable)");
    if (r == NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the NVIDIA driver's library and its kernel module are of different "
                         "versions");
    return error_set(err, STATUS_UNSUPPORTED, "the NVIDIA driver does not answer: %s (NVML %d)",
                     n->error_string ? n->error_string(r) : "error", r);
}

static enum status list_devices(struct nvml *n, struct error *err) {
    unsigned count = 0;
    const result_t r = n->count(&count);
    if (r != NVML_SUCCESS) return why_not_open(n, r, err);
    n->device = calloc((size_t)count + 1, sizeof *n->device);
    n->bus_id = calloc((size_t)count + 1, sizeof *n->bus_id);
    if (!n->device || !n->bus_id)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u GPUs", count);
    n->n = (int)count;
    for (unsigned i = 0; i < count; i++) {
        struct pci_info pci = {.bus_id = ""};
        if (n->handle(i, &n->device[i]) != NVML_SUCCESS) n->device[i] = NULL;
        if (n->device[i] && n->pci && n->pci(n->device[i], &pci) == NVML_SUCCESS)
            snprintf(n->bus_id[i], sizeof n->bus_id[i], "%.*s", NVML_BUS_ID_BYTES - 1, pci.bus_id);
    }
    return STATUS_OK;
}

static void free_nvml(struct nvml *n) {
    if (n->library) dlclose(n->library);
    free(n->device);
    free(n->bus_id);
    free(n);
}

enum status nvml_open(struct nvml **out, const char *library, struct error *err) {
    const char *name = library ? library : driver_library;
    *out = NULL;
    struct nvml *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, STATUS_NO_MEMORY, "no memory for NVML");
    n->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    enum status s = n->library
                        ? resolve(n, name, err)
                        : error_set(err, STATUS_UNSUPPORTED,
                                    "no NVIDIA driver on this machine (%s is not there)", name);
    if (s == STATUS_OK) {
        const result_t r = n->init();
        if (r != NVML_SUCCESS) s = why_not_open(n, r, err);
        if (s == STATUS_OK && (s = list_devices(n, err)) != STATUS_OK) n->shutdown();
    }
    if (s == STATUS_OK)
        *out = n;
    else
        free_nvml(n);
    return s;
}

void nvml_close(struct nvml *n) {
    if (!n) return;
    n->shutdown();
    free_nvml(n);
}

/* ---- facts */

void nvml_driver(const struct nvml *n, struct nvml_driver *out) {
    int cuda = -1;
    *out = (struct nvml_driver){.version = ""};
    if (!n->driver_version || n->driver_version(out->version, sizeof out->version) != NVML_SUCCESS)
        out->version[0] = 0;
    if (!n->cuda_version || n->cuda_version(&cuda) != NVML_SUCCESS) cuda = -1;
    out->cuda_version = cuda;
}

int nvml_count(const struct nvml *n) {
    return n->n;
}

typedef result_t get_number(device_t, unsigned *);
typedef result_t get_clock(device_t, int, unsigned *);
typedef result_t get_text(device_t, char *, unsigned);

static int32_t number(get_number *get, device_t d) {
    unsigned value;
    return get && get(d, &value) == NVML_SUCCESS && value <= INT32_MAX ? (int32_t)value : -1;
}

static int32_t clock_of(get_clock *get, device_t d, int which) {
    unsigned value;
    return get && get(d, which, &value) == NVML_SUCCESS && value <= INT32_MAX ? (int32_t)value : -1;
}

static double watts(get_number *get, device_t d) {
    const int32_t milliwatts = number(get, d);
    return milliwatts >= 0 ? milliwatts / 1000.0 : (double)NAN;
}

static void text(get_text *get, device_t d, char *out, unsigned size) {
    if (!get || get(d, out, size) != NVML_SUCCESS) out[0] = 0;
    out[size - 1] = 0;
}

static int32_t capability_of(const struct nvml *n, device_t d) {
    int major, minor;
    if (!n->capability || n->capability(d, &major, &minor) != NVML_SUCCESS) return -1;
    return 10 * major + minor;
}

static int32_t mode(result_t (*get)(device_t, int *), device_t d) {
    int value;
    return get && get(d, &value) == NVML_SUCCESS ? value != 0 : -1;
}

static int32_t mig_of(const struct nvml *n, device_t d) {
    unsigned now, later;
    return n->mig && n->mig(d, &now, &later) == NVML_SUCCESS ? now != 0 : -1;
}

static int32_t ecc_of(const struct nvml *n, device_t d) {
    int now, later;
    return n->ecc && n->ecc(d, &now, &later) == NVML_SUCCESS ? now != 0 : -1;
}

/* Links that a GPU does not have are errors, not states. */
static int32_t nvlinks_of(const struct nvml *n, device_t d) {
    int32_t active = 0;
    if (!n->nvlink) return -1;
    for (unsigned link = 0; link < NVML_NVLINK_MAX_LINKS; link++) {
        int up = 0;
        active += n->nvlink(d, link, &up) == NVML_SUCCESS && up == 1;
    }
    return active;
}

bool nvml_gpu(const struct nvml *n, int i, struct nvml_gpu *out) {
    struct memory_info memory;
    *out = (struct nvml_gpu){.name = ""};
    if (i < 0 || i >= n->n || !n->device[i]) return false;
    const device_t d = n->device[i];
    text(n->name, d, out->name, sizeof out->name);
    text(n->uuid, d, out->uuid, sizeof out->uuid);
    memcpy(out->bus_id, n->bus_id[i], sizeof out->bus_id);
    out->capability = capability_of(n, d);
    const bool known = n->memory && n->memory(d, &memory) == NVML_SUCCESS;
    out->memory_bytes = known ? (int64_t)memory.total : -1;
    out->memory_used_bytes = known ? (int64_t)memory.used : -1;
    out->power_limit_w = watts(n->power_limit, d);
    out->sm_clock_max_mhz = clock_of(n->max_clock, d, NVML_CLOCK_SM);
    out->memory_clock_max_mhz = clock_of(n->max_clock, d, NVML_CLOCK_MEM);
    out->persistence = mode(n->persistence, d);
    out->mig = mig_of(n, d);
    out->ecc = ecc_of(n, d);
    out->nvlinks = nvlinks_of(n, d);
    out->pcie_generation = number(n->pcie_generation, d);
    out->pcie_width = number(n->pcie_width, d);
    return true;
}

/* ---- what moves */

static bool is_there(const struct nvml *n, int i) {
    return i >= 0 && i < n->n && n->device[i];
}

int64_t nvml_energy(const struct nvml *n, int i) {
    unsigned long long value;
    if (!is_there(n, i) || !n->energy || n->energy(n->device[i], &value) != NVML_SUCCESS) return -1;
    return (int64_t)value;
}

void nvml_sample(const struct nvml *n, int i, struct nvml_sample *out) {
    unsigned long long value;
    *out = (struct nvml_sample){-1, -1, -1, (double)NAN, -1, -1};
    if (!is_there(n, i)) return;
    const device_t d = n->device[i];
    out->sm_clock_mhz = clock_of(n->clock, d, NVML_CLOCK_SM);
    out->memory_clock_mhz = clock_of(n->clock, d, NVML_CLOCK_MEM);
    out->temperature_c = clock_of(n->temperature, d, NVML_TEMPERATURE_GPU);
    out->power_w = watts(n->power, d);
    if ((n->reasons && n->reasons(d, &value) == NVML_SUCCESS) ||
        (n->reasons_before_535 && n->reasons_before_535(d, &value) == NVML_SUCCESS))
        out->reasons = (int64_t)(value & INT64_MAX);
    out->energy_mj = nvml_energy(n, i);
}

char *nvml_reasons_text(int64_t reasons, char *out, int size) {
    static const struct {
        int64_t bit;
        const char *text;
    } table[] = {
#define X(bit, text) {bit, text},
        NVML_REASON_TABLE(X)
#undef X
    };
    const size_t room = (size_t)size;
    size_t used = (size_t)snprintf(out, room, "%s", reasons < 0 ? "unknown" : "");
    int64_t left = reasons < 0 ? 0 : reasons;
    for (size_t i = 0; i < sizeof table / sizeof *table && used < room; i++) {
        if (!(left & table[i].bit)) continue;
        left &= ~table[i].bit;
        used += (size_t)snprintf(out + used, room - used, "%s%s", used ? ", " : "", table[i].text);
    }
    if (left && used < room)
        snprintf(out + used, room - used, "%s0x%llx", used ? ", " : "", (unsigned long long)left);
    if (reasons == 0) snprintf(out, room, "none");
    return out;
}

/* ---- finding one */

static bool parse_bus_id(const char *text, unsigned out[4]) {
    int end = -1;
    sscanf(text, "%8x:%2x:%2x.%1x%n", &out[0], &out[1], &out[2], &out[3], &end);
    return end > 0 && text[end] == 0;
}

bool nvml_same_bus_id(const char *a, const char *b) {
    unsigned x[4], y[4];
    return parse_bus_id(a, x) && parse_bus_id(b, y) && memcmp(x, y, sizeof x) == 0;
}

int nvml_find(const struct nvml *n, const char *id) {
    for (int i = 0; i < n->n; i++) {
        char uuid[NVML_NAME_BYTES] = "";
        if (!n->device[i]) continue;
        text(n->uuid, n->device[i], uuid, sizeof uuid);
        if ((uuid[0] && strcmp(uuid, id) == 0) || nvml_same_bus_id(n->bus_id[i], id)) return i;
    }
    return -1;
}
