/* Time of chunks, passes and cases. See predict.h. What is not measured in device_rates is a named
 * constant here: all of it together is a small part of any case that lasts longer than seconds. */
#include "harness/predict.h"

#include "harness/plan.h"

/* What device_rates does not hold. It only has to be of the right size.
 * CPU: of one core, measured on a Zen 4 at 3.5 GHz.
 * GPU: an H200 makes the 7.6e9 random weights of a 7B in 0.2 s, beside 16 cores that look on; those
 * of the embedded model, which the host makes, are few; memory is cleared and filled at about
 * 1 TB/s. */
struct unit_costs {
    double load_ns_per_parameter; /* generate, round, pack; divided by the host's cores */
    double open_ns_per_byte;      /* pages are cleared as they become resident */
    double fill_ns_per_value;     /* synthetic keys and values */
    double open_s;                /* the device itself, per launch */
    /* A CPU's attention kernels work on whole groups of query rows: one row costs about as much as
     * these. */
    double decode_rows;
    double exchange_bytes; /* a second, sent and received together; 0: as fast as a copy */
};
static const struct unit_costs unit_costs[] = {
    [DEVICE_CPU] = {.load_ns_per_parameter = 8,
                    .open_ns_per_byte = 1,
                    .fill_ns_per_value = 6,
                    .decode_rows = 32},
    [DEVICE_CUDA] = {.load_ns_per_parameter = 0.4,
                     .open_ns_per_byte = 0.001,
                     .fill_ns_per_value = 0.004,
                     .open_s = 2,
                     .decode_rows = 1,
                     .exchange_bytes = 500e9},
};
/* On the host, whatever the device: a plain loop in float64 over one key element. */
static const double SPOT_NS_PER_KEY_VALUE = 4;

int64_t predict_parameters(const struct model_config *m) {
    const int64_t C = m->C, q = (int64_t)m->H * m->D, kv = (int64_t)m->K * m->D;
    const int64_t layer = (q + 2 * kv) * (C + 1) + C * q + 3 * C * m->F + 2 * C;
    return layer * m->layers + C + (int64_t)m->V * C * (m->tie_word_embeddings ? 1 : 2);
}

double predict_chunk_s(const struct chunk_cost *cost, enum device_kind device,
                       const struct device_rates *rates) {
    const double exchange = unit_costs[device].exchange_bytes;
    return (double)cost->linear_flops / rates->linear_flops +
           (double)cost->attention_flops / rates->attention_flops +
           (double)cost->bytes / rates->copy_bytes +
           (double)cost->exchange_bytes / (exchange > 0 ? exchange : rates->copy_bytes) +
           (double)cost->ops * rates->op_overhead_ns * 1e-9;
}

static const struct unit_costs *costs_of(const struct case_work *w) {
    return &unit_costs[w->engine->device];
}

static double chunk_at(const struct case_work *w, int64_t start) {
    const int64_t left = w->session->prompt_tokens - start, chunk = w->session->chunk_tokens;
    const int64_t n = left < chunk ? left : chunk;
    const struct chunk_cost cost = engine_chunk_cost(w->model, w->engine, start, n, n == left);
    return predict_chunk_s(&cost, w->engine->device, w->rates);
}

/* The cost of equal chunks is affine in where they start, so their sum needs only the first and the
 * last of them; the last chunk of the prompt does more and is counted by itself. */
static double full_prefill(const struct case_work *w) {
    const int64_t chunk = w->session->chunk_tokens;
    const int64_t equal = (w->session->prompt_tokens - 1) / chunk; /* all but the last */
    double s = chunk_at(w, equal * chunk);
    if (equal) s += (double)equal * 0.5 * (chunk_at(w, 0) + chunk_at(w, (equal - 1) * chunk));
    return s;
}

static int64_t kv_values_per_token(const struct model_config *m) {
    return 2 * (int64_t)m->layers * m->K * m->D;
}

static double sampled_prefill(const struct case_work *w) {
    enum { K_MAX = 1024 };
    int chunks[K_MAX];
    const int64_t chunk = w->session->chunk_tokens, tokens = w->session->prompt_tokens;
    const int all = (int)((tokens + chunk - 1) / chunk);
    const int n = plan_sampled_chunks(all, w->k < K_MAX ? w->k : K_MAX, chunks);
    double s = 0;
    for (int i = 0; i < n; i++) s += chunk_at(w, chunks[i] * chunk);
    const int64_t filled = tokens > n * chunk ? tokens - n * chunk : 0;
    return s + (double)(filled * kv_values_per_token(w->model)) * costs_of(w)->fill_ns_per_value *
                   1e-9 / w->threads;
}

/* One generated token reads all weights and the whole cache once, which binds its linears to the
 * memory; its attention works on a nearly empty group of rows. copy_bytes counts what is read and
 * what is written. */
static double decode_token(const struct case_work *w) {
    const int64_t at = w->session->prompt_tokens;
    struct chunk_cost cost = engine_chunk_cost(w->model, w->engine, at, 1, true);
    cost.attention_flops = (int64_t)((double)cost.attention_flops * costs_of(w)->decode_rows);
    const double bytes =
        (double)(predict_parameters(w->model) + at * kv_values_per_token(w->model)) *
        (double)dtype_bytes(w->engine->dtype);
    return predict_chunk_s(&cost, w->engine->device, w->rates) + bytes / w->rates->copy_bytes;
}

static double spot_check(const struct case_work *w) {
    return (double)w->spot * 0.5 * w->session->prompt_tokens * 2 * w->model->D *
           SPOT_NS_PER_KEY_VALUE * 1e-9;
}

void predict_case(const struct case_work *w, struct case_time *out) {
    const double opening = (double)w->session_bytes * costs_of(w)->open_ns_per_byte * 1e-9;
    out->full_prefill_s = full_prefill(w);
    out->sampled_prefill_s = sampled_prefill(w);
    out->sampled_fixed_s = opening + spot_check(w);
    out->full_fixed_s =
        out->sampled_fixed_s + w->passes * (double)w->session->max_tokens * decode_token(w);
    if (w->engine->device == DEVICE_CUDA) out->sampled_fixed_s += STEADY_STATE_S;
}

double predict_load_s(const struct model_config *m, enum device_kind device, int cores) {
    const struct unit_costs *u = &unit_costs[device];
    return u->open_s + (double)predict_parameters(m) * u->load_ns_per_parameter * 1e-9 / cores;
}
