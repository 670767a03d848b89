/* A recorded step as a CUDA graph: its calls issued once into a capturing stream, instantiated,
 * uploaded, then launched whole. Kernels read what changes from device memory, so one graph serves
 * every equal chunk. Before it: device.c, which recorded the calls. */
#include "kernels/activity/activity.h"
#include "kernels/cuda/cuda_core.h"

#include <stdlib.h>

struct cuda_graph {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
};

static int64_t free_bytes(void) {
    size_t left = 0, all = 0;
    return cudaMemGetInfo(&left, &all) == cudaSuccess ? (int64_t)left : 0;
}

/* ---- whose nodes they are, for whoever traces */

enum { NODES_BEFORE = 8 };

/* The nodes after which the stream's next one will come. */
static cudaError_t newest_nodes(cudaStream_t stream, const cudaGraphNode_t **nodes, size_t *n) {
    enum cudaStreamCaptureStatus status;
    *n = 0;
#if CUDART_VERSION >= 13000
    return cudaStreamGetCaptureInfo(stream, &status, NULL, NULL, nodes, NULL, n);
#else
    return cudaStreamGetCaptureInfo_v2(stream, &status, NULL, NULL, nodes, n);
#endif
}

static cudaError_t nodes_before(cudaGraphNode_t node, cudaGraphNode_t *nodes, size_t *n) {
    *n = NODES_BEFORE;
#if CUDART_VERSION >= 13000
    return cudaGraphNodeGetDependencies(node, nodes, NULL, n);
#else
    return cudaGraphNodeGetDependencies(node, nodes, n);
#endif
}

/* A node and those before it, back to the nodes of calls before. */
static void tell_node(struct device *dev, cudaGraphNode_t node, struct op_place place) {
    cudaGraphNode_t before[NODES_BEFORE];
    size_t n;
    if (!activity_add_node(dev->activity, node, place) ||
        nodes_before(node, before, &n) != cudaSuccess)
        return;
    for (size_t i = 0; i < n && i < NODES_BEFORE; i++) tell_node(dev, before[i], place);
}

/* What a call has added to the graph, as its end shows it. */
static void tell_nodes(struct device *dev, const struct op_call *call) {
    const cudaGraphNode_t *newest;
    size_t n;
    if (!dev->activity || newest_nodes(cuda_of(dev)->gpu.stream, &newest, &n) != cudaSuccess)
        return;
    for (size_t i = 0; i < n; i++) tell_node(dev, newest[i], device_place(dev, call));
}

/* ---- making a graph */

static void capture_call(struct device *dev, const struct op_call *call) {
    cuda_run_call(dev, call);
    tell_nodes(dev, call);
}

/* The capture ends whatever happened in it: a stream must not stay in capture. */
static enum status capture(struct device *dev, const struct device_graph *g, cudaGraph_t *out,
                           struct error *err) {
    cudaStream_t stream = cuda_of(dev)->gpu.stream;
    enum status s = cuda_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                                "capture", err);
    if (s != STATUS_OK) return s;
    for (int64_t i = 0; i < g->n; i++) cuda_issue(dev, &g->calls[i], capture_call);
    const cudaError_t e = cudaStreamEndCapture(stream, out);
    s = cuda_take_error(dev, err);
    if (s == STATUS_OK) s = cuda_status(e, "end of capture", err);
    return s == STATUS_OK ? s : error_prefix(err, s, "recording the step as a CUDA graph");
}

static enum status instantiate(struct device *dev, struct device_graph *g, struct cuda_graph *c,
                               struct error *err) {
    const int64_t before = free_bytes(), begin_ns = monotonic_ns();
    size_t nodes = 0;
    cudaError_t e = cudaGraphInstantiate(&c->exec, c->graph, 0);
    const int64_t made_ns = monotonic_ns();
    if (e == cudaSuccess) e = cudaGraphUpload(c->exec, cuda_of(dev)->gpu.stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(cuda_of(dev)->gpu.stream);
    const int64_t end_ns = monotonic_ns(), taken = before - free_bytes();
    if (e == cudaSuccess) e = cudaGraphGetNodes(c->graph, NULL, &nodes);
    g->info.nodes = (int64_t)nodes;
    g->info.instantiate_ns = made_ns - begin_ns;
    g->info.upload_ns = end_ns - made_ns;
    if (taken > 0) g->info.bytes += taken;
    return cuda_status(e, "making a CUDA graph", err);
}

enum status cuda_graph_open(struct device *dev, struct device_graph *g, struct error *err) {
    struct cuda_graph *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for a CUDA graph");
    const int64_t begin_ns = monotonic_ns();
    g->native = c;
    enum status s = capture(dev, g, &c->graph, err);
    g->info.capture_ns += monotonic_ns() - begin_ns;
    if (s == STATUS_OK) s = instantiate(dev, g, c, err);
    if (s != STATUS_OK) cuda_graph_close(dev, g);
    return s;
}

enum status cuda_graph_launch(struct device *dev, struct device_graph *g, struct error *err) {
    const struct cuda_graph *c = g->native;
    return cuda_status(cudaGraphLaunch(c->exec, cuda_of(dev)->gpu.stream), "graph launch", err);
}

void cuda_graph_close(struct device *dev, struct device_graph *g) {
    struct cuda_graph *c = g->native;
    (void)dev;
    if (!c) return;
    if (c->exec) cudaGraphExecDestroy(c->exec);
    if (c->graph) cudaGraphDestroy(c->graph);
    free(c);
    g->native = NULL;
}
