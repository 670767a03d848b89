/* A loaded model on its devices: checks options, opens the device, has the weights loaded, answers
 * questions about both. Today's placement is every rank on one device; comm.h is where more
 * devices would meet. Before it: the harness; after it: session.c. */
#include "engine/engine_core.h"

#include <stdlib.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct engine_opts engine_opts_defaults(void) {
    return (struct engine_opts){.model = "needle",
                                .tensor_parallel_size = 1,
                                .dtype = DTYPE_BF16,
                                .device = DEVICE_CPU,
                                .isa = "auto",
                                .attention_backend = "auto",
                                .linear_backend = "auto",
                                .prune_last_layer = true,
                                .block_rows = 8192};
}

enum status engine_pattern(const struct model_config *m, const struct engine_opts *opts,
                           struct attention_pattern *out, struct error *err) {
    *out = (struct attention_pattern){0, 0};
    if (!opts->dual_chunk_attention) return STATUS_OK;
    if (m->dual_chunk.chunk == 0)
        return error_set(err, STATUS_USAGE,
                         "dual_chunk_attention: model %s has no dual_chunk_attention_config",
                         m->name);
    *out = m->dual_chunk;
    return STATUS_OK;
}

static enum status check_options(const struct engine_opts *opts, const struct model_config *m,
                                 struct error *err) {
    struct attention_pattern pattern;
    enum status s = engine_check_parallel(m, opts->tensor_parallel_size, err);
    if (s == STATUS_OK) s = engine_pattern(m, opts, &pattern, err);
    if (s == STATUS_OK && opts->block_rows < 1)
        s = error_set(err, STATUS_USAGE, "block_rows %d: expected at least 1", opts->block_rows);
    return s;
}

enum status engine_device_open(struct device **out, const struct engine_opts *opts,
                               const struct model_config *m, struct error *err) {
    struct device_opts d = device_opts_defaults();
    d.kind = opts->device;
    d.threads = opts->threads;
    d.isa = opts->isa;
    d.attention = opts->attention_backend;
    d.linear = opts->linear_backend;
    d.dtype = opts->dtype;
    d.head_dim = m->D;
    d.interpose = opts->interpose;
    d.interpose_ctx = opts->interpose_ctx;
    d.nvtx = opts->nvtx;
    return device_open(out, &d, err);
}

int64_t engine_model_parameters(const struct model_config *m) {
    return model_parameters(m);
}

static void fill_info(struct engine *e, const struct model_config *m) {
    const int tp = e->opts.tensor_parallel_size;
    e->info = (struct engine_info){.model = *m,
                                   .ranks = tp,
                                   .devices = 1,
                                   .kv_heads_per_rank = shard_of(m, tp, 0).K,
                                   .kv_replicas = tp > m->K ? tp / m->K : 1,
                                   .parameters = model_parameters(m)};
    device_info(e->dev, &e->info.device[0]);
}

static enum status load(struct engine *e, struct model_source *source, struct error *err) {
    const struct engine_opts *o = &e->opts;
    enum status s = check_options(o, &source->config, err);
    if (s == STATUS_OK) s = engine_device_open(&e->dev, o, &source->config, err);
    if (s != STATUS_OK) return s;
    e->ranks = (struct ranks){o->tensor_parallel_size, 0, o->tensor_parallel_size};
    const int64_t begin = now_ns();
    s = weights_load(&e->weights, e->dev, source, e->ranks, o->dtype, o->stop, err);
    if (s != STATUS_OK) return s;
    fill_info(e, &source->config);
    e->info.load_ns = now_ns() - begin;
    return STATUS_OK;
}

enum status engine_open(struct engine **out, const struct engine_opts *opts, struct error *err) {
    struct model_source *source;
    *out = NULL;
    enum status s = model_source_open(&source, opts->model, opts->seed, err);
    if (s != STATUS_OK) return s;
    struct engine *e = calloc(1, sizeof *e);
    if (e) {
        e->opts = *opts;
        s = load(e, source, err);
    } else {
        s = error_set(err, STATUS_NO_MEMORY, "no memory for an engine");
    }
    model_source_close(source);
    if (s == STATUS_OK)
        *out = e;
    else
        engine_close(e);
    return s;
}

void engine_close(struct engine *e) {
    if (!e) return;
    assert(!e->in_session && "sessions go before their engine");
    weights_close(e->weights);
    device_close(e->dev);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e) {
    return &e->info;
}

enum status engine_measure(const struct engine_opts *eo, struct device_rates *out,
                           struct device_info *info, struct error *err) {
    struct model_config m;
    struct device *dev;
    enum status s = engine_model_config(eo->model, &m, err);
    if (s == STATUS_OK) s = engine_device_open(&dev, eo, &m, err);
    if (s != STATUS_OK) return s;
    s = device_measure(dev, out, err);
    device_info(dev, info);
    device_close(dev);
    return s;
}

enum status engine_check(struct engine *e, struct error *err) {
    return device_sync(e->dev, err);
}

void engine_memory(struct engine *e, int rank, struct memory_use *out) {
    device_memory(e->dev, rank, out);
}

void engine_memory_driver(struct engine *e, int device, int64_t *bytes, int64_t *high_water) {
    (void)device; /* there is one */
    device_memory_driver(e->dev, bytes, high_water);
}

void engine_memory_reset_high_water(struct engine *e) {
    device_memory_reset_high_water(e->dev);
}

int64_t engine_allocations(struct engine *e) {
    return device_allocations(e->dev);
}

void engine_profile(struct engine *e, bool on) {
    device_profile(e->dev, on);
}

uint64_t engine_progress(const struct engine *e) {
    return device_progress(e->dev);
}
