/* A loaded model on its devices: checks options, opens the devices, has the weights loaded, answers
 * questions about both. Before it: the harness; after it: session.c. */
#include "engine/engine_core.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct engine_opts engine_opts_defaults(void) {
    return (struct engine_opts){.model = "needle",
                                .tensor_parallel_size = 1,
                                .dtype = DTYPE_BF16,
                                .device = DEVICE_CPU,
                                .isa = "auto",
                                .attention_backend = "auto",
                                .linear_backend = "auto",
                                .exchange_backend = "auto",
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

/* Of n devices that share the cores of the process; where each has its own process, a launcher may
 * have given each its own cores, too. */
static int threads_of_one(const struct engine_opts *opts, int n) {
    const bool apart = opts->processes.processes > 1;
    int threads = opts->threads;
    cpu_set_t cores;
    if (threads == 0 && sched_getaffinity(0, sizeof cores, &cores) == 0)
        threads = CPU_COUNT(&cores);
    if (apart && opts->threads == 0 && threads * n <= sysconf(_SC_NPROCESSORS_ONLN)) return threads;
    return threads > n ? threads / n : 1;
}

/* A launcher may show each process the GPU that is its own, and no other. */
static int gpu_of(const struct engine_opts *opts, int i) {
    if (opts->processes.processes <= 1) return i;
    return device_count(DEVICE_CUDA) > 1 ? opts->processes.local : 0;
}

enum status engine_device_open(struct device **out, const struct engine_opts *opts,
                               const struct model_config *m, int i, int n, struct error *err) {
    struct device_opts d = device_opts_defaults();
    d.kind = opts->device;
    d.index = opts->device == DEVICE_CPU ? 0 : gpu_of(opts, i);
    d.threads = n == 1 ? opts->threads : threads_of_one(opts, n);
    d.isa = opts->isa;
    d.attention = opts->attention_backend;
    d.linear = opts->linear_backend;
    d.dtype = opts->dtype;
    d.head_dim = m->D;
    d.interpose = opts->interpose;
    d.interpose_ctx = opts->interpose_ctx;
    /* ranges are one thread's */
    d.nvtx = i == 0 || opts->processes.processes > 1 ? opts->nvtx : NULL;
    d.activity = opts->activity;
    return device_open(out, &d, err);
}

int64_t engine_model_parameters(const struct model_config *m) {
    return model_parameters(m);
}

static void fill_info(struct engine *e, const struct model_config *m) {
    const int tp = e->opts.tensor_parallel_size, n = e->devices.total;
    const bool own_memories = e->opts.device != DEVICE_CPU || e->devices.team;
    e->info = (struct engine_info){.model = *m,
                                   .ranks = tp,
                                   .devices = e->devices.total,
                                   .memories = own_memories ? e->devices.total : 1,
                                   .kv_heads_per_rank = shard_of(m, tp, 0).K,
                                   .kv_replicas = tp > m->K ? tp / m->K : 1,
                                   .parameters = model_parameters(m)};
    for (int i = 0; i < n; i++) {
        const struct ranks r = ranks_of(tp, n, i);
        e->info.device[i] = e->devices.info[i];
        for (int rank = r.begin; rank < r.end; rank++) e->info.rank_device[rank] = i;
    }
}

/* A device's shards, from a source of its own: sources are not made for several threads. */
static enum status load_one(void *ctx, int i, struct error *err) {
    struct engine *e = ctx;
    const struct engine_opts *o = &e->opts;
    struct model_source *source;
    enum status s = model_source_open(&source, o->model, o->seed, err);
    if (s != STATUS_OK) return s;
    s = weights_load(&e->weights[i], e->devices.dev[i], source, e->devices.ranks[i], o->dtype,
                     (struct load_stops){o->stop, &e->devices.failed}, err);
    model_source_close(source);
    return s;
}

static enum status load(struct engine *e, struct error *err) {
    const struct engine_opts *o = &e->opts;
    struct model_config m;
    enum status s = engine_model_config(o->model, &m, err);
    if (s == STATUS_OK) s = check_options(o, &m, err);
    if (s == STATUS_OK) s = devices_open(&e->devices, o, &m, err);
    if (s != STATUS_OK) return s;
    const int64_t begin = now_ns();
    s = devices_together(&e->devices, load_one, e, err);
    if (s == STATUS_OK) s = team_agree(e->devices.team, s, err);
    if (s != STATUS_OK) return s;
    fill_info(e, &m);
    e->info.load_ns = now_ns() - begin;
    return STATUS_OK;
}

enum status engine_open(struct engine **out, const struct engine_opts *opts, struct error *err) {
    *out = NULL;
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return error_set(err, STATUS_NO_MEMORY, "no memory for an engine");
    e->opts = *opts;
    const enum status s = load(e, err);
    if (s == STATUS_OK)
        *out = e;
    else
        engine_close(e);
    return s;
}

void engine_close(struct engine *e) {
    if (!e) return;
    assert(!e->in_session && "sessions go before their engine");
    for (int i = 0; i < e->devices.n; i++) weights_close(e->weights[i]);
    devices_close(&e->devices);
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
    if (s == STATUS_OK) s = engine_device_open(&dev, eo, &m, 0, 1, err);
    if (s != STATUS_OK) return s;
    s = device_measure(dev, out, err);
    device_info(dev, info);
    device_close(dev);
    return s;
}

static enum status check_one(void *ctx, int i, struct error *err) {
    return device_sync(((struct engine *)ctx)->devices.dev[i], err);
}

enum status engine_check(struct engine *e, struct error *err) {
    struct devices *d = &e->devices;
    team_tell(d->team, (struct order){.kind = ORDER_CHECK}, NULL);
    return team_hear(d->team, devices_each(d, check_one, e, err), err);
}

/* ---- memory */

static void add_use(struct memory_use *sum, const struct memory_use *one) {
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        sum->bytes[c] += one->bytes[c];
        sum->high_water[c] += one->high_water[c];
    }
}

void engine_memory(struct engine *e, int rank, struct memory_use *out) {
    *out = (struct memory_use){.bytes = {0}};
    for (int i = 0; i < e->devices.total; i++) {
        struct memory_use one;
        if (rank != SHARED_RANK && e->info.rank_device[rank] != i) continue;
        if (devices_has(&e->devices, i))
            device_memory(e->devices.dev[i - e->devices.first], rank, &one);
        else
            one = team_facts(e->devices.team, i)->use[rank + 1];
        add_use(out, &one);
    }
}

/* Of the device alone. */
static int64_t accounted_on(const struct devices *d, int i) {
    struct memory_use use, sum = {.bytes = {0}};
    int64_t bytes = 0;
    device_memory(d->dev[i], SHARED_RANK, &sum);
    for (int rank = d->ranks[i].begin; rank < d->ranks[i].end; rank++) {
        device_memory(d->dev[i], rank, &use);
        add_use(&sum, &use);
    }
    for (int c = 0; c < MEMORY_CATEGORIES; c++) bytes += sum.bytes[c];
    return bytes;
}

int64_t engine_memory_accounted(struct engine *e, int memory) {
    const struct devices *d = &e->devices;
    int64_t bytes = 0;
    if (!devices_has(d, memory)) return team_facts(d->team, memory)->accounted_bytes;
    for (int i = 0; i < d->n; i++)
        if (e->info.memories == 1 || d->first + i == memory) bytes += accounted_on(d, i);
    return bytes;
}

static void others_memory(struct engine *e, int memory, int64_t *bytes, int64_t *high_water) {
    const struct order o = {.kind = ORDER_MEMORY, .n = high_water != NULL};
    team_ask(e->devices.team, memory, o, NULL, 0, NULL);
    const struct team_facts *facts = team_facts(e->devices.team, memory);
    *bytes = facts->driver_bytes;
    if (high_water) *high_water = facts->driver_high_water;
}

void engine_memory_driver(struct engine *e, int memory, int64_t *bytes, int64_t *high_water) {
    const struct devices *d = &e->devices;
    if (devices_has(d, memory))
        device_memory_driver(d->dev[memory - d->first], bytes, high_water);
    else
        others_memory(e, memory, bytes, high_water);
}

void engine_memory_reset_high_water(struct engine *e) {
    struct devices *d = &e->devices;
    team_tell(d->team, (struct order){.kind = ORDER_RESET_HIGH_WATER}, NULL);
    for (int i = 0; i < d->n; i++) device_memory_reset_high_water(d->dev[i]);
    team_hear(d->team, STATUS_OK, NULL);
}

int64_t engine_allocations(struct engine *e) {
    const struct devices *d = &e->devices;
    int64_t n = 0;
    for (int i = 0; i < d->n; i++) n += device_allocations(d->dev[i]);
    for (int i = 0; i < d->total; i++)
        if (!devices_has(d, i)) n += team_facts(d->team, i)->allocations;
    return n;
}

/* ---- observation */

void engine_profile(struct engine *e, bool on) {
    struct devices *d = &e->devices;
    team_tell(d->team, (struct order){.kind = ORDER_PROFILE, .n = on}, NULL);
    for (int i = 0; i < d->n; i++) device_profile(d->dev[i], on);
    team_hear(d->team, STATUS_OK, NULL);
}

uint64_t engine_progress(const struct engine *e) {
    uint64_t sum = 0;
    for (int i = 0; i < e->devices.n; i++) sum += device_progress(e->devices.dev[i]);
    return sum;
}

void engine_at_work(const struct engine *e, char *out, size_t size) {
    const struct devices *d = &e->devices;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < d->n && used < size; i++) {
        char one[100];
        device_at_work(d->dev[i], one, sizeof one);
        used += (size_t)snprintf(out + used, size - used, "%sdevice %d: %s", i > 0 ? "; " : "",
                                 d->first + i, one);
    }
}

bool engine_stepping(const struct engine *e) {
    return atomic_load(&e->stepping);
}
