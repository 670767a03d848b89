/* One GPU as a device: memory from cudaMalloc, a stream on which everything is issued in order but
 * for calls aside, which have a second one, a ring of pinned memory between it and the host. Owns
 * the streams, the ring, the workspace and the events. Ranks that share the GPU run one after
 * another on that stream. Below device.c, above the kernels; graphs, spans and rates are in the
 * other *_cuda.c files. */
#include "kernels/bf16.h"
#include "kernels/cuda/cuda_core.h"
#include "kernels/gpu_list.h"
#include "kernels/nvml.h"

#include <cuda_profiler_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t kept_free_bytes = 256 << 20; /* for what libraries and the driver still load */

/* ---- errors */

/* The runtime keeps a thread's last error until somebody asks for it: whoever looks after the next
 * launch would take this one for that kernel's. Errors that last come again. */
enum status cuda_status(cudaError_t e, const char *what, struct error *err) {
    if (e == cudaSuccess) return STATUS_OK;
    cudaGetLastError();
    return error_set(err, e == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_RUN_FAILED,
                     "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

struct cuda_device *cuda_device(struct device *dev) {
    return &cuda_of(dev)->gpu;
}

void cuda_check(struct device *dev, cudaError_t e, const char *what) {
    struct cuda *c = cuda_of(dev);
    if (e == cudaSuccess || c->error != cudaSuccess) return;
    c->error = e;
    snprintf(c->error_at, sizeof c->error_at, "%s", what);
}

enum status cuda_take_error(struct device *dev, struct error *err) {
    struct cuda *c = cuda_of(dev);
    const enum status s = cuda_status(c->error, c->error_at, err);
    c->error = cudaSuccess;
    return s;
}

/* ---- memory */

/* CUDA's current device belongs to a thread: the one that drives the device has it, others that
 * look at its memory or close it do not. */
static void use(const struct device *dev) {
    cudaSetDevice(cuda_of(dev)->gpu.ordinal);
}

/* What the driver has given out on the current GPU, to this process and to others. */
static int64_t used_bytes(int64_t *free_bytes) {
    size_t left = 0, all = 0;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess) left = all = 0;
    if (free_bytes) *free_bytes = (int64_t)left;
    return (int64_t)(all - left);
}

static int64_t room(void) {
    int64_t left;
    used_bytes(&left);
    return left > kept_free_bytes ? left - kept_free_bytes : 0;
}

static enum status memory_open(struct device *dev, size_t bytes, void **base, struct error *err) {
    const double mib = 1024.0 * 1024;
    use(dev);
    const int64_t left = room();
    *base = NULL;
    if (bytes > (uint64_t)left)
        return error_set(err, STATUS_NO_MEMORY,
                         "%.1f MiB wanted, %.1f MiB left on the GPU, of which %.0f MiB stay free",
                         (double)bytes / mib, (double)(left + kept_free_bytes) / mib,
                         (double)kept_free_bytes / mib);
    enum status s = cuda_status(cudaMalloc(base, bytes), "cudaMalloc", err);
    if (s == STATUS_OK)
        s = cuda_status(cudaMemsetAsync(*base, 0, bytes, cuda_of(dev)->gpu.stream), "cudaMemset",
                        err);
    if (s == STATUS_OK) return s;
    cudaFree(*base);
    *base = NULL;
    return s;
}

/* Nothing may still use it. */
static void memory_close(struct device *dev, void *base, size_t bytes) {
    (void)bytes;
    use(dev);
    cudaStreamSynchronize(cuda_of(dev)->gpu.stream);
    cudaFree(base);
}

static void memory_driver(struct device *dev, int64_t *bytes, int64_t *high_water) {
    struct cuda *c = cuda_of(dev);
    use(dev);
    *bytes = used_bytes(NULL) - c->others_bytes;
    if (*bytes < 0) *bytes = 0; /* the driver does not tell any more, or others gave theirs back */
    if (*bytes > c->peak_bytes) c->peak_bytes = *bytes;
    if (high_water) *high_water = c->peak_bytes;
}

static void memory_reset_high_water(struct device *dev) {
    int64_t bytes;
    cuda_of(dev)->peak_bytes = 0;
    memory_driver(dev, &bytes, NULL);
}

/* ---- copies */

static char *staging_slot(struct cuda *c, int *slot) {
    *slot = c->staging.next;
    c->staging.next = (c->staging.next + 1) % STAGING_SLOTS;
    cudaEventSynchronize(c->staging.done[*slot]);
    return c->staging.base + (size_t)*slot * STAGING_BYTES;
}

static void keep_step(struct cuda *c, const void *dst, const void *src, size_t bytes) {
    if (bytes != sizeof(struct step_params)) return;
    int i = 0;
    while (i < STEP_COPIES && c->steps[i].device != dst) i++;
    if (i == STEP_COPIES) {
        i = c->next_step;
        c->next_step = (c->next_step + 1) % STEP_COPIES;
    }
    c->steps[i].device = dst;
    memcpy(&c->steps[i].host, src, bytes);
}

static void write(struct device *dev, void *dst, const void *src, size_t bytes) {
    struct cuda *c = cuda_of(dev);
    use(dev);
    keep_step(c, dst, src, bytes);
    for (size_t done = 0; done < bytes;) {
        const size_t n = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
        int slot;
        char *stage = staging_slot(c, &slot);
        memcpy(stage, (const char *)src + done, n);
        cuda_check(
            dev,
            cudaMemcpyAsync((char *)dst + done, stage, n, cudaMemcpyHostToDevice, c->gpu.stream),
            "copy to the GPU");
        cuda_check(dev, cudaEventRecord(c->staging.done[slot], c->gpu.stream), "copy to the GPU");
        done += n;
    }
}

/* A failed copy leaves zeros and its error for the next sync. */
static void read(struct device *dev, void *dst, const void *src, size_t bytes) {
    struct cuda *c = cuda_of(dev);
    use(dev);
    for (size_t done = 0; done < bytes;) {
        const size_t n = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
        int slot;
        char *stage = staging_slot(c, &slot);
        cudaError_t e = cudaMemcpyAsync(stage, (const char *)src + done, n, cudaMemcpyDeviceToHost,
                                        c->gpu.stream);
        if (e == cudaSuccess) e = cudaStreamSynchronize(c->gpu.stream);
        if (e == cudaSuccess)
            memcpy((char *)dst + done, stage, n);
        else
            memset((char *)dst + done, 0, n);
        cuda_check(dev, e, "copy from the GPU");
        done += n;
    }
}

static void fill_normal(struct device *dev, void *dst, int64_t n, uint64_t seed) {
    cuda_fill_normal(dev, dst, n, dev->dtype, seed);
}

static enum status sync(struct device *dev, struct error *err) {
    struct cuda *c = cuda_of(dev);
    cuda_check(dev, cudaStreamSynchronize(c->gpu.stream), "work on the GPU");
    /* idle too, unless a step ended before its end */
    cuda_check(dev, cudaStreamSynchronize(c->lane.stream), "exchanges on the GPU");
    if (c->error == cudaSuccess && c->timed_n > 0) cuda_spans_collect(dev);
    return cuda_take_error(dev, err);
}

/* ---- running */

void cuda_run_call(struct device *dev, const struct op_call *call) {
    dev->chosen[call->op]->run(dev, &call->embed); /* members of a union: all at one address */
}

static void wait_for(struct device *dev, cudaStream_t waiting, cudaEvent_t event) {
    cuda_check(dev, cudaStreamWaitEvent(waiting, event, 0), "one stream waiting for the other");
}

static void record(struct device *dev, cudaEvent_t event, cudaStream_t stream) {
    cuda_check(dev, cudaEventRecord(event, stream), "one stream waiting for the other");
}

static void issue_aside(struct device *dev, const struct op_call *call, cuda_run *run) {
    struct cuda *c = cuda_of(dev);
    const struct lane *lane = &c->lane;
    const cudaStream_t in_turn = c->gpu.stream;
    record(dev, lane->begin, in_turn);
    wait_for(dev, lane->stream, lane->begin);
    c->gpu.stream = lane->stream, c->gpu.aside = true;
    run(dev, call);
    c->gpu.stream = in_turn, c->gpu.aside = false;
    record(dev, lane->done[call->aside - 1], lane->stream);
}

void cuda_issue(struct device *dev, const struct op_call *call, cuda_run *run) {
    struct cuda *c = cuda_of(dev);
    if (call->after) wait_for(dev, c->gpu.stream, c->lane.done[call->after - 1]);
    if (call->aside)
        issue_aside(dev, call, run);
    else
        run(dev, call);
}

static enum status execute(struct device *dev, const struct op_call *call, struct error *err) {
    struct cuda *c = cuda_of(dev);
    cuda_issue(dev, call, dev->spans.capacity > 0 ? cuda_spans_run : cuda_run_call);
    return c->error == cudaSuccess ? STATUS_OK : cuda_take_error(dev, err);
}

/* Without a profiler both do nothing. */
static void profile(struct device *dev, bool on) {
    cuda_check(dev, on ? cudaProfilerStart() : cudaProfilerStop(), "profiler");
}

static uint64_t progress(const struct device *dev) {
    return *cuda_of(dev)->heartbeat;
}

static void mark(struct device *dev, int number) {
    struct cuda *c = cuda_of(dev);
    cuda_check(dev, cudaEventRecord(c->mark[number], c->gpu.stream), "mark");
}

static enum status mark_wait(struct device *dev, int number, struct error *err) {
    struct cuda *c = cuda_of(dev);
    cuda_check(dev, cudaEventSynchronize(c->mark[number]), "mark");
    return c->error == cudaSuccess ? STATUS_OK : cuda_take_error(dev, err);
}

static int64_t mark_ns(struct device *dev, int from, int to) {
    struct cuda *c = cuda_of(dev);
    float ms = 0;
    cuda_check(dev, cudaEventElapsedTime(&ms, c->mark[from], c->mark[to]), "mark");
    return (int64_t)((double)ms * 1e6);
}

/* ---- key/value cache */

/* n elements of dtype at the end of `out`, widened in place. */
static void widen_tail(float *out, size_t n) {
    const char *narrow = (const char *)out + n * (sizeof(float) - sizeof(bf16));
    for (size_t i = 0; i < n; i++) {
        bf16 x;
        memcpy(&x, narrow + i * sizeof x, sizeof x);
        out[i] = bf16_to_f32(x);
    }
}

static void read_plane(struct device *dev, const struct kv_view *view, const void *plane,
                       size_t first, size_t n, float *out) {
    const size_t size = dtype_bytes(view->dtype);
    if (!out) return;
    char *narrow = (char *)out + n * (sizeof(float) - size);
    read(dev, narrow, (const char *)plane + first * size, n * size);
    if (view->dtype == DTYPE_BF16) widen_tail(out, n);
}

/* All layouts of CUDA variants are rows: [heads][capacity][D]. */
static void kv_read(struct device *dev, const struct kv_view *view, int head, int32_t begin,
                    int32_t n, float *k, float *v) {
    const size_t D = (size_t)view->head_dim, count = (size_t)n * D;
    const size_t first = ((size_t)head * (size_t)view->capacity + (size_t)begin) * D;
    read_plane(dev, view, view->k, first, count, k);
    read_plane(dev, view, view->v, first, count, v);
}

/* ---- life */

static void info(struct device *dev, struct device_info *out) {
    const struct cuda *c = cuda_of(dev);
    struct cudaDeviceProp p;
    use(dev);
    if (cudaGetDeviceProperties(&p, c->gpu.ordinal) == cudaSuccess) {
        snprintf(out->name, sizeof out->name, "%.90s", p.name);
        out->memory_bytes = (int64_t)p.totalGlobalMem;
    }
    cudaDeviceGetPCIBusId(out->bus_id, sizeof out->bus_id, c->gpu.ordinal);
    snprintf(out->isa, sizeof out->isa, "sm_%d%s", c->gpu.capability,
             c->gpu.capability == ISA_SM90A ? "a" : "");
    out->available_bytes = room();
}

/* By the driver's list, as gpu_list.h says: whoever asks may be a process that never opens one. */
static int count(void) {
    const struct gpu_list *gpus = gpu_list_machine();
    int n = 0;
    for (int i = 0; i < gpus->n; i++) n += gpus->visible[i];
    return n;
}

/* Why there is no device, for people. */
static enum status no_device(cudaError_t e, struct error *err) {
    int driver = 0, built = CUDART_VERSION;
    cudaDriverGetVersion(&driver);
    if (driver == 0 && gpu_list_machine()->driver_there)
        return error_set(err, STATUS_UNSUPPORTED,
                         "libcuda.so.1 of the NVIDIA driver is not there (a container needs "
                         "NVIDIA_DRIVER_CAPABILITIES=compute,utility)");
    if (driver == 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "no NVIDIA driver on this machine (libcuda.so.1 is not there)");
    if (e == cudaErrorInsufficientDriver)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the NVIDIA driver serves CUDA up to %d.%d, this program was built with "
                         "%d.%d: a newer driver is needed",
                         driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return error_set(err, STATUS_UNSUPPORTED, "no GPU can be used: %s (%s)%s%s",
                     cudaGetErrorString(e), cudaGetErrorName(e),
                     visible ? "; CUDA_VISIBLE_DEVICES is " : "", visible ? visible : "");
}

/* What other processes hold of a GPU, asked before this one has a context there; 0 where NVML does
 * not tell. NVML counts the driver's own reserve as used, CUDA leaves it out of the total. */
static int64_t held_by_others(int index) {
    char bus_id[NVML_BUS_ID_BYTES] = "";
    struct nvml *n;
    struct nvml_gpu gpu = {.memory_used_bytes = 0};
    struct cudaDeviceProp p;
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index) != cudaSuccess ||
        nvml_open(&n, NULL, NULL) != STATUS_OK)
        return 0;
    const int i = nvml_find(n, bus_id);
    const bool known = i >= 0 && nvml_gpu(n, i, &gpu) && gpu.memory_used_bytes > 0 &&
                       cudaGetDeviceProperties(&p, index) == cudaSuccess;
    nvml_close(n);
    if (!known) return 0;
    const int64_t reserve = gpu.memory_bytes - (int64_t)p.totalGlobalMem;
    return gpu.memory_used_bytes > reserve ? gpu.memory_used_bytes - reserve : 0;
}

static enum status choose(struct cuda *c, int index, struct error *err) {
    int n = 0, major = 0, minor = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0) return no_device(e == cudaSuccess ? cudaErrorNoDevice : e, err);
    if (index < 0 || index >= n)
        return error_set(err, STATUS_UNSUPPORTED, "GPU %d of %d: expected 0 to %d", index, n,
                         n - 1);
    c->gpu.ordinal = index;
    c->others_bytes = held_by_others(index);
    if ((e = cudaSetDevice(index)) != cudaSuccess) return no_device(e, err);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
    cudaDeviceGetAttribute(&c->gpu.sm_count, cudaDevAttrMultiProcessorCount, index);
    cudaDeviceGetAttribute(&c->gpu.l2_bytes, cudaDevAttrL2CacheSize, index);
    cudaDeviceGetAttribute(&c->gpu.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    c->gpu.capability = 10 * major + minor;
    if (c->gpu.capability < ISA_SM80)
        return error_set(err, STATUS_UNSUPPORTED,
                         "GPU %d has compute capability %d.%d: expected 8.0 or more", index, major,
                         minor);
    return STATUS_OK;
}

static cudaError_t open_lane(struct lane *lane) {
    int least, greatest;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithPriority(&lane->stream, cudaStreamNonBlocking, greatest);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&lane->begin, cudaEventDisableTiming);
    for (int i = 0; i < ASIDES && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&lane->done[i], cudaEventDisableTiming);
    return e;
}

static void close_lane(struct lane *lane) {
    for (int i = 0; i < ASIDES; i++)
        if (lane->done[i]) cudaEventDestroy(lane->done[i]);
    if (lane->begin) cudaEventDestroy(lane->begin);
    if (lane->stream) cudaStreamDestroy(lane->stream);
}

static enum status open_streams(struct cuda *c, struct error *err) {
    cudaError_t e = cudaStreamCreateWithFlags(&c->gpu.stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = open_lane(&c->lane);
    for (int i = 0; i < DEVICE_MARKS && e == cudaSuccess; i++) e = cudaEventCreate(&c->mark[i]);
    if (e == cudaSuccess) e = cudaEventCreate(&c->origin);
    for (int i = 0; i < STAGING_SLOTS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->staging.done[i], cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaHostAlloc((void **)&c->staging.base, (size_t)STAGING_SLOTS * STAGING_BYTES, 0);
    if (e == cudaSuccess)
        e = cudaHostAlloc((void **)&c->heartbeat, sizeof *c->heartbeat, cudaHostAllocMapped);
    if (e == cudaSuccess) {
        *c->heartbeat = 0;
        e = cudaHostGetDevicePointer((void **)&c->gpu.heartbeat, (void *)c->heartbeat, 0);
    }
    return cuda_status(e, "opening the GPU", err);
}

static enum status open_workspace(struct device *dev, struct error *err) {
    struct cuda *c = cuda_of(dev);
    const size_t counters = arena_bytes(CUDA_COUNTERS * sizeof *c->gpu.counters);
    void *workspace;
    const enum status s = memory_open(dev, CUDA_WORKSPACE_BYTES + counters, &workspace, err);
    if (s != STATUS_OK) return error_prefix(err, s, "workspace of kernels");
    c->gpu.workspace = workspace;
    c->gpu.counters = (uint32_t *)((char *)workspace + CUDA_WORKSPACE_BYTES);
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_WORKSPACE,
                  (int64_t)(CUDA_WORKSPACE_BYTES + counters));
    return STATUS_OK;
}

/* What the driver takes for this process before any arena: context, code, libraries. Others' part
 * is what NVML saw before there was a context; without NVML it counts as ours. */
static void charge_context(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    const struct memory_use *shared = &dev->ledger.use[SHARED_RANK + 1];
    c->context_bytes = used_bytes(NULL) - c->others_bytes - shared->bytes[MEMORY_WORKSPACE];
    if (c->context_bytes < 0) c->context_bytes = 0;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, c->context_bytes);
}

static enum status backend_open(struct device *dev, const struct device_opts *opts,
                                struct error *err) {
    struct cuda *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for a device");
    dev->state = c;
    enum status s = choose(c, opts->index, err);
    if (s == STATUS_OK) s = cuda_status(cudaFree(NULL), "a context on the GPU", err);
    if (s != STATUS_OK) return s;
    c->has_context = true;
    dev->capability = c->gpu.capability;
    s = open_streams(c, err);
    if (s == STATUS_OK) s = open_workspace(dev, err);
    if (s == STATUS_OK) s = sync(dev, err);
    if (s == STATUS_OK) charge_context(dev);
    return s;
}

static void backend_close(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    if (!c) return;
    if (c->has_context) use(dev);
    if (c->gpu.stream) cudaStreamSynchronize(c->gpu.stream);
    if (c->lane.stream) cudaStreamSynchronize(c->lane.stream);
    if (c->gpu.close_linears) c->gpu.close_linears(&c->gpu);
    if (c->gpu.attentions) c->gpu.close_attentions(&c->gpu);
    cuda_spans_open(dev, 0, NULL);
    cudaFree(c->gpu.workspace);
    if (c->staging.base) cudaFreeHost(c->staging.base);
    if (c->heartbeat) cudaFreeHost((void *)c->heartbeat);
    for (int i = 0; i < STAGING_SLOTS; i++)
        if (c->staging.done[i]) cudaEventDestroy(c->staging.done[i]);
    for (int i = 0; i < DEVICE_MARKS; i++)
        if (c->mark[i]) cudaEventDestroy(c->mark[i]);
    if (c->origin) cudaEventDestroy(c->origin);
    close_lane(&c->lane);
    if (c->gpu.stream) cudaStreamDestroy(c->gpu.stream);
    /* Gives the context back, too: what the next device finds in use is others'. */
    if (c->has_context) cudaDeviceReset();
    free(c);
}

const struct backend backend_cuda = {
    .kind = DEVICE_CUDA,
    .loads_lazily = true,
    .open = backend_open,
    .close = backend_close,
    .info = info,
    .memory_open = memory_open,
    .memory_close = memory_close,
    .memory_driver = memory_driver,
    .memory_reset_high_water = memory_reset_high_water,
    .write = write,
    .read = read,
    .fill_normal = fill_normal,
    .random_matrix = cuda_random_matrix,
    .sync = sync,
    .execute = execute,
    .mark = mark,
    .mark_wait = mark_wait,
    .mark_ns = mark_ns,
    .spans_open = cuda_spans_open,
    .spans_begin = cuda_spans_begin,
    .graph_open = cuda_graph_open,
    .graph_launch = cuda_graph_launch,
    .graph_close = cuda_graph_close,
    .kv_fill = cuda_kv_fill,
    .kv_read = kv_read,
    .profile = profile,
    .progress = progress,
    .count = count,
    .measure_copy = cuda_measure_copy,
    .measure_roof = cuda_measure_roof,
};
