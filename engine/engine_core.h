/* The inside of struct engine, for the files that it is cut into. */
#ifndef ENGINE_ENGINE_CORE_H
#define ENGINE_ENGINE_CORE_H

#include "engine/comm.h"
#include "engine/devices.h"
#include "engine/forward.h"

#include <stdatomic.h>
#include <time.h>

struct engine {
    struct engine_opts opts; /* its texts are the caller's, unused after opening */
    struct engine_info info;
    struct devices devices;
    struct weights *weights[MAX_RANKS]; /* of each device, owned */
    bool in_session;
    _Atomic bool stepping; /* see engine_stepping() */
};

/* Opens number i of n devices that the options ask for. */
enum status engine_device_open(struct device **out, const struct engine_opts *opts,
                               const struct model_config *m, int i, int n, struct error *err);

/* Which keys a query sees under these options; STATUS_USAGE when the model has no such pattern. */
enum status engine_pattern(const struct model_config *m, const struct engine_opts *opts,
                           struct attention_pattern *out, struct error *err);

/* Sizes of a session's buffers on the device that holds these ranks; checks session_opts against
 * the model. */
enum status session_sizes(const struct model_config *m, const struct engine_opts *eo,
                          const struct session_opts *so, struct ranks ranks,
                          const struct kv_layout *kv_layout, struct buffer_sizes *out,
                          struct error *err);

/* Whether the last layer may be pruned: the engine's option, unless logits of other rows are
 * wanted. */
static inline bool session_prunes(const struct engine_opts *eo, const struct session_opts *so) {
    return eo->prune_last_layer && so->logits_at_count == 0;
}

/* Op calls of a body (chunk_tokens rows) and of a decode step on the device that holds these ranks:
 * the nodes of its two graphs. */
void session_graph_calls(const struct model_config *m, const struct engine_opts *eo,
                         const struct session_opts *so, struct ranks ranks, int64_t *body,
                         int64_t *decode);

/* Adds up what calls cost; ctx of its sink. step: host copy of what the calls will read. */
struct cost_sum {
    const struct step_params *step;
    struct chunk_cost cost;
    int64_t flops, bytes; /* of everything */
};
struct op_sink cost_sink(struct cost_sum *sum);

/* CLOCK_MONOTONIC */
static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
