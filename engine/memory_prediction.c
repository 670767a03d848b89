/* What a run will be charged, before it: the walks that size the arenas, on a device that is open
 * to be asked for layouts and carries nothing. Before it: the plan of the harness. */
#include "engine/engine_core.h"

#include <stdlib.h>

struct engine_planner {
    const struct engine_opts *opts; /* borrowed */
    struct model_config model;
    struct device *dev; /* owned */
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

static void add_weights(struct memory_prediction *p, struct device *dev,
                        const struct engine_opts *eo, const struct model_config *m) {
    const struct ranks ranks = {p->ranks, 0, p->ranks};
    struct layout l = {0};
    weights_layout(dev, m, ranks, eo->dtype, &l);
    add_layout(p, MEMORY_WEIGHTS, &l);
    p->shared_bytes[MEMORY_OTHER] +=
        weights_count(m, ranks) * (int64_t)device_weight_overhead_bytes(dev);
}

static void add_graphs(struct memory_prediction *p, struct device *dev,
                       const struct engine_opts *eo, const struct model_config *m,
                       const struct session_opts *so) {
    int64_t body, decode;
    if (!so->graph) return;
    session_graph_calls(m, eo, so, &body, &decode);
    p->shared_bytes[MEMORY_GRAPH] += device_graph_bytes(dev, body);
    if (so->max_tokens > 1) p->shared_bytes[MEMORY_GRAPH] += device_graph_bytes(dev, decode);
}

static enum status predict(struct memory_prediction *p, struct device *dev,
                           const struct engine_opts *eo, const struct model_config *m,
                           const struct session_opts *so, struct error *err) {
    struct layout of_session[MEMORY_CATEGORIES];
    struct buffer_sizes sizes;
    struct device_info info;
    enum status s = session_sizes(m, eo, so, device_kv_layout(dev), &sizes, err);
    if (s != STATUS_OK) return s;
    add_device(p, dev);
    add_weights(p, dev, eo, m);
    buffers_layout(&sizes, of_session);
    for (int c = 0; c < MEMORY_CATEGORIES; c++)
        add_layout(p, (enum memory_category)c, &of_session[c]);
    add_graphs(p, dev, eo, m, so);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        p->total_bytes += p->shared_bytes[c];
        for (int rank = 0; rank < p->ranks; rank++) p->total_bytes += p->rank_bytes[rank][c];
    }
    device_info(dev, &info);
    p->available_bytes = info.available_bytes;
    return STATUS_OK;
}

enum status engine_planner_predict(struct engine_planner *p, const struct session_opts *so,
                                   struct memory_prediction *out, struct error *err) {
    *out = (struct memory_prediction){.ranks = p->opts->tensor_parallel_size};
    return predict(out, p->dev, p->opts, &p->model, so, err);
}

enum status engine_planner_open(struct engine_planner **out, const struct engine_opts *opts,
                                struct error *err) {
    *out = NULL;
    struct engine_planner *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, STATUS_NO_MEMORY, "no memory for a planner");
    p->opts = opts;
    enum status s = engine_model_config(opts->model, &p->model, err);
    if (s == STATUS_OK) s = engine_check_parallel(&p->model, opts->tensor_parallel_size, err);
    if (s == STATUS_OK) s = engine_device_open(&p->dev, opts, &p->model, err);
    if (s == STATUS_OK)
        *out = p;
    else
        engine_planner_close(p);
    return s;
}

void engine_planner_close(struct engine_planner *p) {
    if (!p) return;
    device_close(p->dev);
    free(p);
}
