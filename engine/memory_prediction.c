/* What a run will be charged, before it: the walks that size the arenas, on devices that are open
 * to be asked for layouts and carry nothing. Before it: the plan of the harness. */
#include "engine/engine_core.h"

#include <stdlib.h>

struct engine_planner {
    const struct engine_opts *opts; /* borrowed */
    struct model_config model;
    struct devices devices;
};

/* What is predicted for one of the devices. */
struct placement {
    const struct engine_planner *planner;
    struct device *dev;
    struct ranks ranks;
};

static void add_layout(struct memory_prediction *p, enum memory_category c,
                       const struct layout *l) {
    for (int rank = 0; rank < p->ranks; rank++) p->rank_bytes[rank][c] += l->rank_bytes[rank];
    p->shared_bytes[c] += l->shared_bytes;
}

/* What an open device has charged already: scratch of its threads. */
static void add_device(struct memory_prediction *p, struct device *dev) {
    struct memory_use use;
    device_memory(dev, SHARED_RANK, &use);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) p->shared_bytes[c] += use.bytes[c];
}

static void add_weights(struct memory_prediction *p, const struct placement *at) {
    const struct model_config *m = &at->planner->model;
    struct layout l = {0};
    weights_layout(at->dev, m, at->ranks, at->planner->opts->dtype, &l);
    add_layout(p, MEMORY_WEIGHTS, &l);
    p->shared_bytes[MEMORY_OTHER] +=
        weights_count(m, at->ranks) * (int64_t)device_weight_overhead_bytes(at->dev);
}

static void add_graphs(struct memory_prediction *p, const struct placement *at,
                       const struct session_opts *so) {
    int64_t body, decode;
    if (!so->graph) return;
    session_graph_calls(&at->planner->model, at->planner->opts, so, at->ranks, &body, &decode);
    p->shared_bytes[MEMORY_GRAPH] += device_graph_bytes(at->dev, body);
    if (so->max_tokens > 1) p->shared_bytes[MEMORY_GRAPH] += device_graph_bytes(at->dev, decode);
}

static enum status add_session(struct memory_prediction *p, const struct placement *at,
                               const struct session_opts *so, struct error *err) {
    struct layout by_category[MEMORY_CATEGORIES];
    struct buffer_sizes sizes;
    const enum status s = session_sizes(&at->planner->model, at->planner->opts, so, at->ranks,
                                        device_kv_layout(at->dev), &sizes, err);
    if (s != STATUS_OK) return s;
    buffers_layout(&sizes, by_category);
    for (int c = 0; c < MEMORY_CATEGORIES; c++)
        add_layout(p, (enum memory_category)c, &by_category[c]);
    return STATUS_OK;
}

/* Devices are equally large and hold equally much: the fullest decides for all. */
static int64_t available(const struct devices *d, enum device_kind kind) {
    struct device_info info;
    int64_t least = INT64_MAX;
    for (int i = 0; i < d->n; i++) {
        device_info(d->dev[i], &info);
        if (info.available_bytes < least) least = info.available_bytes;
    }
    return kind == DEVICE_CPU ? least : least * d->n;
}

enum status engine_planner_predict(struct engine_planner *p, const struct session_opts *so,
                                   struct memory_prediction *out, struct error *err) {
    *out = (struct memory_prediction){.ranks = p->opts->tensor_parallel_size};
    for (int i = 0; i < p->devices.n; i++) {
        const struct placement at = {p, p->devices.dev[i], p->devices.ranks[i]};
        const enum status s = add_session(out, &at, so, err);
        if (s != STATUS_OK) return s;
        add_device(out, at.dev);
        add_weights(out, &at);
        add_graphs(out, &at, so);
    }
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        out->total_bytes += out->shared_bytes[c];
        for (int rank = 0; rank < out->ranks; rank++) out->total_bytes += out->rank_bytes[rank][c];
    }
    out->available_bytes = available(&p->devices, p->opts->device);
    return STATUS_OK;
}

enum status engine_planner_open(struct engine_planner **out, const struct engine_opts *opts,
                                struct error *err) {
    *out = NULL;
    struct engine_planner *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, STATUS_NO_MEMORY, "no memory for a planner");
    p->opts = opts;
    enum status s = engine_model_config(opts->model, &p->model, err);
    if (s == STATUS_OK) s = engine_check_parallel(&p->model, opts->tensor_parallel_size, err);
    if (s == STATUS_OK) s = devices_open(&p->devices, opts, &p->model, err);
    if (s == STATUS_OK)
        *out = p;
    else
        engine_planner_close(p);
    return s;
}

void engine_planner_close(struct engine_planner *p) {
    if (!p) return;
    devices_close(&p->devices);
    free(p);
}
