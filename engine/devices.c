/* Opens and joins. See devices.h. */
#include "engine/devices.h"

#include "engine/engine_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status check_processes(const struct engine_opts *o, struct error *err) {
    const int processes = o->processes.processes;
    if (o->devices == 0 || o->devices == processes) return STATUS_OK;
    return error_set(err, STATUS_USAGE,
                     "devices = %d, but %d processes were started: each holds one device",
                     o->devices, processes);
}

enum status engine_devices(const struct engine_opts *o, int *n, struct error *err) {
    const int there = device_count(o->device), tp = o->tensor_parallel_size;
    const int processes = o->processes.processes;
    *n = o->devices;
    if (processes > 1) {
        *n = processes;
        if (tp % processes == 0) return check_processes(o, err);
        return error_set(err, STATUS_USAGE,
                         "%d processes: expected a divisor of tensor_parallel_size = %d, since "
                         "each holds equally many ranks",
                         processes, tp);
    }
    if (o->devices == 0) {
        const int most = o->device == DEVICE_CPU || there < 1 ? 1 : there < tp ? there : tp;
        for (*n = most; tp % *n != 0;) --*n;
        return STATUS_OK;
    }
    if (tp % o->devices != 0)
        return error_set(err, STATUS_USAGE,
                         "devices = %d: expected a divisor of tensor_parallel_size = %d, since "
                         "each device holds equally many ranks",
                         o->devices, tp);
    if (o->devices > 1 && o->devices > there)
        return error_set(err, STATUS_UNSUPPORTED, "devices = %d: %d GPU%s can be used here",
                         o->devices, there, there == 1 ? "" : "s");
    return STATUS_OK;
}

struct opening {
    struct devices *d;
    const struct engine_opts *opts;
    const struct model_config *m;
};

static enum status open_one(void *ctx, int i, struct error *err) {
    const struct opening *o = ctx;
    return engine_device_open(&o->d->dev[i], o->opts, o->m, o->d->first + i, o->d->total, err);
}

static enum status join_one(void *ctx, int i, struct error *err) {
    struct devices *d = ((const struct opening *)ctx)->d;
    return device_join(d->dev[i], d->group, d->first + i, err);
}

static enum status check_apart(const struct device_info *info, int n, struct error *err) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if (info[i].bus_id[0] && strcmp(info[i].bus_id, info[j].bus_id) == 0)
                return error_set(err, STATUS_UNSUPPORTED,
                                 "devices %d and %d are the same GPU, %s at %s: start as many "
                                 "processes on a host as it has GPUs",
                                 j, i, info[i].name, info[i].bus_id);
    return STATUS_OK;
}

enum status devices_alike(const struct device_info *info, int n, struct error *err) {
    const enum status s = check_apart(info, n, err);
    if (s != STATUS_OK) return s;
    for (int i = 1; i < n; i++)
        for (int op = 0; op < OPS; op++) {
            const char *first = info[0].variant[op], *other = info[i].variant[op];
            if (first == other || (first && other && strcmp(first, other) == 0)) continue;
            return error_set(err, STATUS_UNSUPPORTED,
                             "device 0 (%s) would run %s = %s, device %d (%s) %s, whose bits are "
                             "others: name a kernel that both have",
                             info[0].name, op_name((enum op)op), first ? first : "none", i,
                             info[i].name, other ? other : "none");
        }
    return STATUS_OK;
}

/* What a process tells of its device: names of kernels are not where another has them. */
struct told_info {
    struct device_info info;
    char variant[OPS][32];
};

/* This process's own text of the name of a kernel, or NULL. */
static const char *own_text(enum op op, const char *name) {
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++)
        if (v.op == op && strcmp(v.name, name) == 0) return v.name;
    return NULL;
}

static enum status gather_info(struct devices *d, struct error *err) {
    struct told_info mine = {.info = d->info[d->first]}, *all;
    for (int op = 0; op < OPS; op++)
        if (mine.info.variant[op])
            snprintf(mine.variant[op], sizeof mine.variant[op], "%s", mine.info.variant[op]);
    all = calloc((size_t)d->total, sizeof *all);
    if (!all) return error_set(err, STATUS_NO_MEMORY, "no memory to compare devices");
    const enum status s = rendezvous_gather(team_rendezvous(d->team), &mine, sizeof mine, all, err);
    for (int i = 0; i < d->total && s == STATUS_OK; i++) {
        d->info[i] = all[i].info;
        for (int op = 0; op < OPS; op++)
            d->info[i].variant[op] = own_text((enum op)op, all[i].variant[op]);
    }
    free(all);
    return s;
}

static enum status learn_info(struct devices *d, struct error *err) {
    for (int i = 0; i < d->n; i++) device_info(d->dev[i], &d->info[d->first + i]);
    return d->team ? gather_info(d, err) : STATUS_OK;
}

static void stop_all(void *ctx) {
    struct devices *d = ctx;
    __atomic_store_n(&d->failed, 1, __ATOMIC_RELAXED);
    if (d->group) device_group_abort(d->group);
}

static enum status open_group(struct devices *d, const struct engine_opts *opts,
                              struct error *err) {
    const struct group_opts o = {.kind = opts->device,
                                 .members = d->total,
                                 .exchange = opts->exchange_backend,
                                 .apart = opts->apart || d->team,
                                 .processes = team_rendezvous(d->team)};
    const enum status s = device_group_open(&d->group, &o, err);
    for (int i = 0; i < d->total && s == STATUS_OK; i++)
        d->info[i].variant[OP_EXCHANGE] = device_group_exchange(d->group);
    return s;
}

static enum status open_all(const struct opening *o, struct error *err) {
    struct devices *d = o->d;
    enum status s = crew_open(&d->crew, d->n, err);
    if (s == STATUS_OK) s = devices_each(d, open_one, (void *)o, err);
    return team_agree(d->team, s, err);
}

static enum status join_all(const struct opening *o, struct error *err) {
    struct devices *d = o->d;
    enum status s = learn_info(d, err);
    if (s != STATUS_OK || d->total == 1) return s;
    s = devices_alike(d->info, d->total, err);
    if (s == STATUS_OK) s = open_group(d, o->opts, err);
    if (s == STATUS_OK && d->team) rendezvous_on_end(team_rendezvous(d->team), stop_all, d);
    if (s == STATUS_OK) s = devices_together(d, join_one, (void *)o, err);
    const char *way_out = s == STATUS_UNSUPPORTED ? " (devices = 1 keeps all ranks on one)" : "";
    if (s != STATUS_OK) error_prefix(err, s, "joining %d devices%s", d->total, way_out);
    return s == STATUS_OK ? s : team_fail(d->team, s, err);
}

/* Which of the devices are this process's. */
static enum status take_place(struct devices *d, const struct engine_opts *opts,
                              struct error *err) {
    const struct engine_processes *p = &opts->processes;
    enum status s = engine_devices(opts, &d->total, err);
    if (s != STATUS_OK) return s;
    d->first = p->processes > 1 ? p->process : 0;
    d->n = p->processes > 1 ? 1 : d->total;
    for (int i = 0; i < d->n; i++)
        d->ranks[i] = ranks_of(opts->tensor_parallel_size, d->total, d->first + i);
    return STATUS_OK;
}

enum status devices_open(struct devices *d, const struct engine_opts *opts,
                         const struct model_config *m, struct error *err) {
    *d = (struct devices){.n = 0};
    enum status s = take_place(d, opts, err);
    if (s == STATUS_OK && opts->processes.processes > 1)
        s = team_open(&d->team, &opts->processes, err);
    if (s != STATUS_OK) return s;
    const struct opening o = {d, opts, m};
    s = open_all(&o, err);
    if (s == STATUS_OK) s = join_all(&o, err);
    if (s != STATUS_OK) devices_close(d);
    return s;
}

static enum status leave_one(void *ctx, int i, struct error *err) {
    struct device *dev = ((struct devices *)ctx)->dev[i];
    (void)err;
    if (dev) device_leave(dev);
    return STATUS_OK;
}

static enum status close_one(void *ctx, int i, struct error *err) {
    (void)err;
    device_close(((struct devices *)ctx)->dev[i]);
    return STATUS_OK;
}

/* Processes leave their group at about the same time, as threads do. */
void devices_close(struct devices *d) {
    if (d->team) rendezvous_on_end(team_rendezvous(d->team), NULL, NULL);
    team_dismiss(d->team);
    if (d->crew) devices_each(d, leave_one, d, NULL);
    if (d->crew) devices_each(d, close_one, d, NULL);
    device_group_close(d->group);
    crew_close(d->crew);
    team_close(d->team);
    *d = (struct devices){.n = 0};
}

struct job {
    struct devices *d;
    crew_fn *fn;
    void *ctx;
};

/* Of several devices an error names its own, but for what is wrong with all of them. */
static enum status run_one(void *ctx, int i, struct error *err) {
    const struct job *job = ctx;
    const enum status s = job->fn(job->ctx, i, err);
    const bool of_one = s == STATUS_NO_MEMORY || s == STATUS_RUN_FAILED || s == STATUS_DEVICE;
    return of_one && job->d->n > 1 ? error_prefix(err, s, "device %d", i) : s;
}

enum status devices_each(struct devices *d, crew_fn *fn, void *ctx, struct error *err) {
    return crew_run(d->crew, run_one, &(struct job){d, fn, ctx}, err);
}

static void stop_job(void *ctx) {
    stop_all(((const struct job *)ctx)->d);
}

static enum status settle_one(void *ctx, int i, struct error *err) {
    (void)err;
    device_sync(((struct devices *)ctx)->dev[i], NULL);
    return STATUS_OK;
}

/* A failure is told when all are idle: until then they may write into each other's memory, which
 * whoever closes them frees. */
enum status devices_together(struct devices *d, crew_fn *fn, void *ctx, struct error *err) {
    const enum status s =
        crew_run_joined(d->crew, run_one, &(struct job){d, fn, ctx}, stop_job, err);
    if (s == STATUS_OK) return s;
    if (d->n > 1) devices_each(d, settle_one, d, NULL);
    return team_fail(d->team, s, err);
}
