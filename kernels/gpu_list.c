/* Which GPUs there are and which kernels they could run. See gpu_list.h. */
#include "kernels/gpu_list.h"

#include "kernels/device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Set by the build where it has a CUDA toolkit. */
#ifndef CUDA_BUILT_VERSION
#define CUDA_BUILT_VERSION 0
#endif

char *gpu_cuda_version_text(int32_t version, char out[16]) {
    if (version < 0)
        snprintf(out, 16, "unknown");
    else
        snprintf(out, 16, "%d.%d", version / 1000, version % 1000 / 10);
    return out;
}

int32_t gpu_list_cuda_built(void) {
    return CUDA_BUILT_VERSION;
}

/* ---- CUDA_VISIBLE_DEVICES */

/* A number, or the beginning of a UUID; -1: names none. Numbers are CUDA's, which are NVML's where
 * all GPUs are alike, or where CUDA_DEVICE_ORDER = PCI_BUS_ID. A part of a GPU stands for the first
 * one that is cut into parts. */
static int named_gpu(const struct gpu_list *l, const char *entry) {
    char *end;
    const long i = strtol(entry, &end, 10);
    if (end != entry && *end == 0) return i >= 0 && i < l->n ? (int)i : -1;
    for (int k = 0; strncmp(entry, "MIG-", 4) == 0 && k < l->n; k++)
        if (l->gpu[k].mig == 1) return k;
    for (int k = 0; *entry && k < l->n; k++)
        if (strncmp(l->gpu[k].uuid, entry, strlen(entry)) == 0) return k;
    return -1;
}

static void see(struct gpu_list *l, const char *visible_devices) {
    for (int i = 0; i < l->n; i++) l->visible[i] = !visible_devices;
    if (!visible_devices) return;
    snprintf(l->visible_devices, sizeof l->visible_devices, "%s", visible_devices);
    char *text = strdup(visible_devices), *rest = text;
    for (char *entry; rest && (entry = strsep(&rest, ",")) != NULL;) {
        entry += strspn(entry, " ");
        entry[strcspn(entry, " ")] = 0;
        const int i = named_gpu(l, entry);
        if (i < 0 || l->visible[i]) break;
        l->visible[i] = true;
    }
    free(text);
}

int gpu_list_first(const struct gpu_list *l) {
    for (int i = 0; i < l->n; i++)
        if (l->visible[i]) return i;
    return -1;
}

/* ---- what can run */

/* A driver serves programs of its own CUDA major version, whatever the minor one, and older ones.
 */
static bool driver_serves(const struct gpu_list *l, int32_t cuda_needed) {
    return l->driver.cuda_version < 0 || l->driver.cuda_version / 1000 >= cuda_needed / 1000;
}

static void explain_none(struct gpu_list *l, int32_t cuda_needed) {
    char has[16], needs[16];
    if (l->n == 0)
        snprintf(l->why_none, sizeof l->why_none, "the NVIDIA driver %.60s finds no GPU",
                 l->driver.version);
    else if (gpu_list_first(l) < 0)
        snprintf(l->why_none, sizeof l->why_none,
                 "CUDA_VISIBLE_DEVICES=\"%.100s\" hides every GPU of this machine",
                 l->visible_devices);
    else if (!driver_serves(l, cuda_needed))
        snprintf(l->why_none, sizeof l->why_none,
                 "the NVIDIA driver %.60s serves CUDA %s, this program was built with CUDA %s",
                 l->driver.version, gpu_cuda_version_text(l->driver.cuda_version, has),
                 gpu_cuda_version_text(cuda_needed, needs));
}

/* An unknown capability is not held against a GPU: the kernel's first launch will tell. */
static bool serves(const struct nvml_gpu *g, int isa) {
    return g->capability < 0 || (isa == ISA_SM90A ? g->capability == isa : g->capability >= isa);
}

/* The device is the first GPU that CUDA shows, so that one decides. */
static void explain_kernels(struct gpu_list *l, int isa, char *why, size_t size) {
    const int first = gpu_list_first(l);
    if (l->why_none[0]) {
        snprintf(why, size, "%s", l->why_none);
        return;
    }
    const struct nvml_gpu *g = &l->gpu[first];
    if (!serves(g, isa))
        snprintf(why, size, "needs compute capability %s, the GPU (%.60s) has %d.%d",
                 isa == ISA_SM90A ? "9.0 exactly" : "8.0 or more", g->name, g->capability / 10,
                 g->capability % 10);
}

static void read_gpus(struct gpu_list *l, const struct nvml *n) {
    nvml_driver(n, &l->driver);
    for (int i = 0; i < nvml_count(n) && l->n < GPU_LIST_MOST; i++) {
        struct nvml_sample now;
        if (!nvml_gpu(n, i, &l->gpu[l->n])) continue;
        nvml_sample(n, i, &now);
        l->reasons[l->n] = now.reasons;
        l->sm_clock_mhz[l->n++] = now.sm_clock_mhz;
    }
}

void gpu_list_read(struct gpu_list *out, const char *library, const char *visible_devices,
                   int32_t cuda_needed) {
    struct nvml *n;
    struct error err = {""};
    memset(out, 0, sizeof *out);
    out->driver.cuda_version = -1;
    out->driver_there = nvml_open(&n, library, &err) == STATUS_OK;
    if (out->driver_there) {
        read_gpus(out, n);
        nvml_close(n);
        see(out, visible_devices);
        explain_none(out, cuda_needed);
    } else {
        snprintf(out->why_none, sizeof out->why_none, "%.299s", err.text);
    }
    explain_kernels(out, ISA_SM80, out->why_sm80, sizeof out->why_sm80);
    explain_kernels(out, ISA_SM90A, out->why_sm90a, sizeof out->why_sm90a);
}

/* ---- this machine */

static pthread_once_t read_once = PTHREAD_ONCE_INIT;
static struct gpu_list machine;

static void read_machine(void) {
    gpu_list_read(&machine, NULL, getenv("CUDA_VISIBLE_DEVICES"), CUDA_BUILT_VERSION);
}

const struct gpu_list *gpu_list_machine(void) {
    pthread_once(&read_once, read_machine);
    return &machine;
}

#ifndef HAVE_CUDA
int64_t cuda_blas_version(void) {
    return 0;
}
#endif
