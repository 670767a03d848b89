/* The two devices of a GPU test, arrays on the GPU, runs and times of CUDA variants. Owns what
 * gpu_test_open opened. Under every program of tests/gpu. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_test.h"

#include "kernels/cuda/cuda_device.h"
#include "kernels/gpu_list.h"
#include "kernels/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SKIPPED = 77 };

static void leave(const char *why) {
    printf("skipped: %s\n", why);
    exit(SKIPPED);
}

/* A machine without a GPU is no failure. One with a GPU on which the device does not open is,
 * unless the test asked for a kernel that this GPU cannot run. */
static struct device *open_gpu(enum dtype dtype, int head_dim, const char *attention) {
    const char *why = gpu_list_machine()->why_sm80;
    if (why[0]) leave(why);
    struct device_opts opts = device_opts_defaults();
    opts.kind = DEVICE_CUDA;
    opts.dtype = dtype;
    opts.head_dim = head_dim;
    opts.attention = attention;
    struct device *dev = NULL;
    struct error err = {""};
    enum status s = device_open(&dev, &opts, &err);
    if (s == STATUS_UNSUPPORTED && strcmp(attention, "auto") != 0) leave(err.text);
    if (s != STATUS_OK) fail_msg("%s", err.text);
    return dev;
}

static struct device *open_cpu(enum dtype dtype, int head_dim) {
    struct device_opts opts = device_opts_defaults();
    opts.dtype = dtype;
    opts.head_dim = head_dim;
    struct device *dev = NULL;
    struct error err = {""};
    if (device_open(&dev, &opts, &err) != STATUS_OK) fail_msg("%s", err.text);
    return dev;
}

static struct arena *open_arena(struct device *gpu, size_t bytes) {
    struct arena *arena = NULL;
    struct error err = {""};
    if (arena_open(&arena, gpu, MEMORY_OTHER, bytes, &err) != STATUS_OK) fail_msg("%s", err.text);
    return arena;
}

void gpu_test_open(struct gpu_test *t, enum dtype dtype, int head_dim, const char *attention,
                   size_t bytes) {
    t->gpu = open_gpu(dtype, head_dim, attention);
    t->cpu = open_cpu(dtype, head_dim);
    t->arena = open_arena(t->gpu, bytes);
}

void gpu_test_close(struct gpu_test *t) {
    arena_close(t->arena);
    device_close(t->cpu);
    device_close(t->gpu);
    *t = (struct gpu_test){.arena = NULL};
}

void gpu_test_reset(struct gpu_test *t, size_t bytes) {
    arena_close(t->arena);
    t->arena = open_arena(t->gpu, bytes);
}

void *gpu_new(struct gpu_test *t, size_t bytes) {
    void *at = arena_take(t->arena, SHARED_RANK, bytes);
    if (!at) fail_msg("the test's arena has no room for %zu bytes", bytes);
    return at;
}

void *gpu_put(struct gpu_test *t, const void *host, size_t bytes) {
    void *at = gpu_new(t, bytes);
    device_write(t->gpu, at, host, bytes);
    return at;
}

void gpu_get(struct gpu_test *t, void *host, const void *device, size_t bytes) {
    device_read(t->gpu, host, device, bytes);
}

const struct variant *variant_named(enum device_kind kind, enum op op, const char *name) {
    int n = 0;
    const struct variant *table = variant_table(&n);
    for (int i = 0; i < n; i++)
        if (table[i].device == kind && table[i].op == op && strcmp(table[i].name, name) == 0)
            return &table[i];
    fail_msg("no variant %s of %s on %s", name, op_name(op), device_kind_name(kind));
    return NULL;
}

static void wait(struct gpu_test *t, const char *what) {
    struct error err = {""};
    if (device_sync(t->gpu, &err) != STATUS_OK) fail_msg("%s: %s", what, err.text);
}

const char *exchange_kernel(int i, int gpus, unsigned lacks) {
    const struct group_opts o = {.kind = DEVICE_CUDA, .members = gpus, .exchange = "auto"};
    int n;
    const struct variant *v = variant_table(&n);
    for (int row = 0; row < n; row++) {
        if (v[row].op != OP_EXCHANGE || v[row].device != DEVICE_CUDA) continue;
        if (v[row].library && (v[row].library->lacks & lacks)) continue;
        if (!variant_usable(v + row, NULL) || v[row].group->why_not(&o)) continue;
        if (i-- == 0) return v[row].name;
    }
    return NULL;
}

void gpu_run(struct gpu_test *t, const struct variant *v, const void *args) {
    v->run(t->gpu, args);
    wait(t, v->name);
}

/* ---- time */

static void must(cudaError_t e, const char *what) {
    if (e != cudaSuccess) fail_msg("%s: %s", what, cudaGetErrorString(e));
}

static cudaEvent_t mark(cudaStream_t stream) {
    cudaEvent_t event;
    must(cudaEventCreate(&event), "cudaEventCreate");
    must(cudaEventRecord(event, stream), "cudaEventRecord");
    return event;
}

static double take_span_ns(cudaEvent_t begin, cudaEvent_t end) {
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    must(cudaEventDestroy(begin), "cudaEventDestroy");
    must(cudaEventDestroy(end), "cudaEventDestroy");
    return (double)ms * 1e6;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *value, int n) {
    qsort(value, (size_t)n, sizeof *value, by_value);
    return n % 2 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2;
}

/* All runs are issued before the first is waited for: the GPU falls behind the host, so that its
 * times hold no launch. */
double gpu_time_ns(struct gpu_test *t, const struct variant *v, const void *args, int repeats) {
    cudaStream_t stream = cuda_device(t->gpu)->stream;
    cudaEvent_t *events = calloc(2 * (size_t)repeats, sizeof(cudaEvent_t));
    double *spans_ns = calloc((size_t)repeats, sizeof *spans_ns);
    assert_true(repeats > 0 && events && spans_ns);
    gpu_run(t, v, args);
    for (int i = 0; i < repeats; i++) {
        events[2 * i] = mark(stream);
        v->run(t->gpu, args);
        events[2 * i + 1] = mark(stream);
    }
    wait(t, v->name);
    for (int i = 0; i < repeats; i++) spans_ns[i] = take_span_ns(events[2 * i], events[2 * i + 1]);
    double result = median(spans_ns, repeats);
    free(events);
    free(spans_ns);
    return result;
}

double gpu_test_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
