/* attention by cuDNN, for comparison with what the library's own vendor offers: plain causal,
 * bfloat16, heads of 64 or 128. A plan is made for each number of rows and capacity of the cache,
 * before anything is timed (kernel_library.prepare); it reads the chunk's length and position from
 * `struct step_params` in device memory, so it serves every chunk of that size. After rope_cache,
 * before the o linear.
 *
 * Owns the library's handle and the plans, both in cuda_device.attentions. */
#include "kernels/attention/attention_decode.h"
#include "kernels/attention/cudnn_graph.h"
#include "kernels/cuda/cuda_core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 8 };
_Static_assert(sizeof(int32_t) == sizeof((struct step_params *)0)->n_tokens &&
                   sizeof(int32_t) == sizeof((struct step_params *)0)->kv_len,
               "the library reads both where they are");

struct plan {
    struct cudnn_shape shape;
    struct cudnn_graph graph;
    cudnn_descriptor plan; /* one of the graph's */
    struct plan *next;
};

struct attentions {
    const struct cudnn *lib;
    cudnn_handle handle;
    struct plan *plans;
};

/* ---- the library */

static void close_library(struct cuda_device *gpu) {
    struct attentions *x = gpu->attentions;
    while (x->plans) {
        struct plan *next = x->plans->next;
        cudnn_graph_close(&x->plans->graph);
        free(x->plans);
        x->plans = next;
    }
    if (x->handle) x->lib->destroy(x->handle);
    free(x);
    gpu->attentions = NULL;
}

static enum status open_library(struct cuda_device *gpu, struct error *err) {
    const char *why;
    const struct cudnn *lib = cudnn_library(&why);
    if (!lib) return error_set(err, STATUS_UNSUPPORTED, "%s", why);
    struct attentions *x = calloc(1, sizeof *x);
    if (!x) return error_set(err, STATUS_NO_MEMORY, "no memory for cuDNN");
    x->lib = lib;
    gpu->attentions = x;
    gpu->close_attentions = close_library;
    cudnn_status e = lib->create(&x->handle);
    if (e == 0) e = lib->set_stream(x->handle, gpu->stream);
    if (e == 0) return STATUS_OK;
    cudnn_failed(lib, e, "opening it", err);
    close_library(gpu);
    return STATUS_RUN_FAILED;
}

/* ---- plans */

/* What the library proposes, best first, among the graph's descriptors; returns their number. */
static cudnn_status propose(struct plan *p, cudnn_descriptor *out, int64_t *n) {
    const struct cudnn *lib = p->graph.lib;
    const int mode = CUDNN_HEUR_MODE_A;
    cudnn_descriptor h = cudnn_graph_make(&p->graph, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    for (int i = 0; i < CANDIDATES; i++)
        out[i] = cudnn_graph_make(&p->graph, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    *n = 0;
    cudnn_status e = lib->set(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                              CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p->graph.graph);
    if (e == 0) e = lib->set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (e == 0) e = lib->finalize(h);
    if (e == 0)
        e = lib->get(h, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CANDIDATES, n,
                     out);
    if (*n > CANDIDATES) *n = CANDIDATES;
    return e;
}

/* Compiles it. *bytes: of device memory that a run needs. */
static cudnn_status compile(struct plan *p, cudnn_handle handle, cudnn_descriptor config,
                            int64_t *bytes) {
    const struct cudnn *lib = p->graph.lib;
    int64_t n;
    p->plan = cudnn_graph_make(&p->graph, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    cudnn_status e =
        lib->set(p->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    if (e == 0)
        e = lib->set(p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (e == 0) e = lib->finalize(p->plan);
    if (e == 0)
        e = lib->get(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
                     bytes);
    return e;
}

/* The library's first choice that compiles here and fits the workspace. */
static enum status choose(struct plan *p, cudnn_handle handle, struct error *err) {
    cudnn_descriptor configs[CANDIDATES];
    int64_t n;
    cudnn_status e = propose(p, configs, &n);
    if (e != 0) return cudnn_failed(p->graph.lib, e, "asking for a kernel", err);
    for (int64_t i = 0; i < n; i++) {
        int64_t bytes = 0;
        e = compile(p, handle, configs[i], &bytes);
        if (e == 0 && bytes <= CUDA_WORKSPACE_BYTES) return STATUS_OK;
    }
    if (e != 0) return cudnn_failed(p->graph.lib, e, "making a plan", err);
    return error_set(err, STATUS_UNSUPPORTED,
                     "cuDNN has no plan for %lld rows and %lld keys that needs at most %d MiB",
                     (long long)p->shape.rows, (long long)p->shape.capacity,
                     CUDA_WORKSPACE_BYTES >> 20);
}

static int64_t free_bytes(void) {
    size_t left = 0, all = 0;
    return cudaMemGetInfo(&left, &all) == cudaSuccess ? (int64_t)left : 0;
}

/* What the library and the plan's code take of the GPU is accounted where it is seen. */
static enum status make_plan(struct device *dev, const struct cudnn_shape *shape, struct plan **out,
                             struct error *err) {
    struct cuda_device *gpu = cuda_device(dev);
    const int64_t before = free_bytes();
    enum status s = gpu->attentions ? STATUS_OK : open_library(gpu, err);
    if (s != STATUS_OK) return s;
    struct attentions *x = gpu->attentions;
    struct plan *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, STATUS_NO_MEMORY, "no memory for a plan of cuDNN");
    p->shape = *shape;
    s = cudnn_graph_open(&p->graph, x->lib, x->handle, shape, err);
    if (s == STATUS_OK) s = choose(p, x->handle, err);
    if (s != STATUS_OK) {
        cudnn_graph_close(&p->graph);
        free(p);
        return s;
    }
    p->next = x->plans;
    x->plans = p;
    *out = p;
    dev->allocations++;
    const int64_t taken = before - free_bytes();
    if (taken > 0) ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, taken);
    return STATUS_OK;
}

/* ---- the op */

static bool is_aligned(const void *at, int64_t ld) {
    return (uintptr_t)at % 16 == 0 && ld % 8 == 0;
}

static enum status check(const struct attention_args *a, struct error *err) {
    if (a->pattern.chunk > 0)
        return error_set(err, STATUS_UNSUPPORTED, "cuDNN has no dual chunk attention");
    if (!is_aligned(a->q[0], a->ldq) || !is_aligned(a->out, a->ldo))
        return error_set(err, STATUS_UNSUPPORTED, "cuDNN wants rows at multiples of 16 bytes");
    return STATUS_OK;
}

/* Known, or made now. */
static enum status plan_of(struct device *dev, const struct attention_args *a, struct plan **out,
                           struct error *err) {
    const struct cudnn_shape shape = {.rows = a->rows,
                                      .capacity = a->kv.capacity,
                                      .H = a->H,
                                      .K = a->kv.heads,
                                      .D = a->D,
                                      .ldq = a->ldq,
                                      .ldo = a->ldo};
    const struct attentions *x = cuda_device(dev)->attentions;
    const enum status s = check(a, err);
    if (s != STATUS_OK) return s;
    for (*out = x ? x->plans : NULL; *out; *out = (*out)->next)
        if (memcmp(&(*out)->shape, &shape, sizeof shape) == 0) return STATUS_OK;
    return make_plan(dev, &shape, out, err);
}

/* A decode step has its own kernel. */
static enum status prepare(struct device *dev, const void *args, struct error *err) {
    const struct attention_args *a = args;
    struct plan *p;
    return a->decode ? STATUS_OK : plan_of(dev, a, &p, err);
}

static cudnn_status execute(struct cuda_device *gpu, const struct plan *p,
                            const struct attention_args *a) {
    const struct attentions *x = gpu->attentions;
    const float invisible = -INFINITY;
    const struct {
        int64_t id;
        const void *at;
    } operands[CUDNN_OPERANDS] = {{CUDNN_Q, a->q[0]},
                                  {CUDNN_K, a->kv.k},
                                  {CUDNN_V, a->kv.v},
                                  {CUDNN_OUT, a->out},
                                  {CUDNN_ROWS, &a->step->n_tokens},
                                  {CUDNN_KEYS, &a->step->kv_len},
                                  {CUDNN_SCALE, &a->scale},
                                  {CUDNN_INVISIBLE, &invisible}};
    int64_t ids[CUDNN_OPERANDS];
    const void *pointers[CUDNN_OPERANDS];
    cudnn_descriptor pack = NULL;
    for (int i = 0; i < CUDNN_OPERANDS; i++) ids[i] = operands[i].id, pointers[i] = operands[i].at;
    cudnn_status e = x->lib->make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (e != 0) return e;
    e = x->lib->set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, CUDNN_OPERANDS,
                    ids);
    if (e == 0)
        e = x->lib->set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                        CUDNN_OPERANDS, pointers);
    if (e == 0)
        e = x->lib->set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                        &gpu->workspace);
    if (e == 0) e = x->lib->finalize(pack);
    if (e == 0) e = x->lib->execute(x->handle, p->plan, pack);
    x->lib->drop(pack);
    return e;
}

/* The factor of dual chunk attention is 1 in all that this kernel serves. */
void attention_cudnn(struct device *dev, const void *args) {
    const struct attention_args *a = args;
    struct cuda_device *gpu = cuda_device(dev);
    struct error err = {""};
    struct plan *p;
    if (cuda_attention_decode(dev, a)) return;
    enum status s = plan_of(dev, a, &p, &err);
    if (s == STATUS_OK) {
        const cudnn_status e = execute(gpu, p, a);
        if (e != 0) s = cudnn_failed(p->graph.lib, e, "attention", &err);
    }
    if (s == STATUS_OK)
        cuda_beat(dev);
    else
        cuda_check(dev, cudaErrorNotSupported, err.text);
}

static const char *why_missing(void) {
    const char *why;
    cudnn_library(&why);
    return why;
}

const struct kernel_library kernel_library_cudnn = {.name = "cuDNN",
                                                    .why_missing = why_missing,
                                                    .prepare = prepare,
                                                    .lacks = LACKS_GRAPHS | LACKS_DUAL_CHUNK |
                                                             LACKS_SAME_BITS};
