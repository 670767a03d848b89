/* How long a case will take, from the engine's arithmetic (what each chunk executes) and this
 * machine's measured rates. Pure functions. */
#ifndef HARNESS_PREDICT_H
#define HARNESS_PREDICT_H

#include "engine/engine.h"

/* How long a GPU works before samples are taken: measured on an H200, whose clock has settled by
 * then. */
enum { STEADY_STATE_S = 4 };

/* Parameters of a model: what loading generates or reads. */
int64_t predict_parameters(const struct model_config *m);

/* One chunk: its work over the rates of its kinds, one after another. */
double predict_chunk_s(const struct chunk_cost *cost, enum device_kind device,
                       const struct device_rates *rates);

struct case_time {
    double full_prefill_s;    /* every chunk once */
    double sampled_prefill_s; /* the sampled chunks once, and filling the cache between them */
    double full_fixed_s;      /* around all passes: opening the session, decode, spot check */
    double sampled_fixed_s;
};
struct case_work {
    const struct model_config *model;
    const struct engine_opts *engine;
    const struct session_opts *session;
    const struct device_rates *rates;
    int64_t session_bytes; /* that session_open makes resident */
    int threads;           /* of a CPU device; 1 on a GPU */
    int passes;            /* warm-up, repeats, spans */
    int64_t spot;
    int k; /* chunks of a sampled pass */
};
void predict_case(const struct case_work *w, struct case_time *out);

/* Opening a device and loading the model once. cores: of the host, which makes or reads the values.
 */
double predict_load_s(const struct model_config *m, enum device_kind device, int cores);

#endif
