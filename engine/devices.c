/* Opens and joins. See devices.h. */
#include "engine/devices.h"

#include "engine/engine_core.h"

#include <string.h>

enum status engine_devices(const struct engine_opts *o, int *n, struct error *err) {
    const int there = device_count(o->device), tp = o->tensor_parallel_size;
    *n = o->devices;
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
    return engine_device_open(&o->d->dev[i], o->opts, o->m, i, o->d->n, err);
}

static enum status join_one(void *ctx, int i, struct error *err) {
    struct devices *d = ((const struct opening *)ctx)->d;
    return device_join(d->dev[i], d->group, i, err);
}

enum status devices_alike(const struct device_info *info, int n, struct error *err) {
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

static enum status check_alike(const struct devices *d, struct error *err) {
    struct device_info info[MAX_RANKS];
    for (int i = 0; i < d->n; i++) device_info(d->dev[i], &info[i]);
    return devices_alike(info, d->n, err);
}

static enum status open_group(struct devices *d, const struct engine_opts *opts,
                              struct error *err) {
    const struct group_opts o = {
        .kind = opts->device, .members = d->n, .exchange = opts->exchange_backend};
    return device_group_open(&d->group, &o, err);
}

static enum status open_all(struct devices *d, const struct engine_opts *opts,
                            const struct model_config *m, struct error *err) {
    struct opening o = {d, opts, m};
    enum status s = crew_open(&d->crew, d->n, err);
    if (s == STATUS_OK) s = devices_each(d, open_one, &o, err);
    if (s != STATUS_OK || d->n == 1) return s;
    s = check_alike(d, err);
    if (s == STATUS_OK) s = open_group(d, opts, err);
    if (s == STATUS_OK) s = devices_together(d, join_one, &o, err);
    const char *way_out = s == STATUS_UNSUPPORTED ? " (devices = 1 keeps all ranks on one)" : "";
    return s == STATUS_OK ? s : error_prefix(err, s, "joining %d devices%s", d->n, way_out);
}

enum status devices_open(struct devices *d, const struct engine_opts *opts,
                         const struct model_config *m, struct error *err) {
    *d = (struct devices){.n = 0};
    enum status s = engine_devices(opts, &d->n, err);
    if (s != STATUS_OK) return s;
    for (int i = 0; i < d->n; i++) d->ranks[i] = ranks_of(opts->tensor_parallel_size, d->n, i);
    s = open_all(d, opts, m, err);
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

void devices_close(struct devices *d) {
    if (d->crew) devices_each(d, leave_one, d, NULL);
    if (d->crew) devices_each(d, close_one, d, NULL);
    device_group_close(d->group);
    crew_close(d->crew);
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

static void stop_all(void *ctx) {
    device_group_abort(((const struct job *)ctx)->d->group);
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
        crew_run_joined(d->crew, run_one, &(struct job){d, fn, ctx}, stop_all, err);
    if (s != STATUS_OK && d->n > 1) devices_each(d, settle_one, d, NULL);
    return s;
}
