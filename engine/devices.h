/* The devices of an engine, open and, where there are several, joined: which ranks each holds, and
 * the thread that drives it; or the one device of this process, and the others' that it works
 * with. */
#ifndef ENGINE_DEVICES_H
#define ENGINE_DEVICES_H

#include "engine/crew.h"
#include "engine/shard.h"
#include "engine/team.h"

struct devices {
    int n;                         /* of this process: what is indexed [i] is device first + i */
    int first, total;              /* of all devices of the engine */
    struct device *dev[MAX_RANKS]; /* owned */
    struct ranks ranks[MAX_RANKS];
    struct device_info info[MAX_RANKS]; /* of all, as they were when they had been opened */
    struct device_group *group;         /* owned; NULL where there is one device */
    struct crew *crew;                  /* owned */
    struct team *team;                  /* owned; NULL: all devices are this process's */
    volatile int failed;                /* set when any device fails in what all do together */
};

/* Errors: those of device_open; STATUS_UNSUPPORTED when several devices are not alike or lack what
 * joins them. On failure nothing stays open. */
enum status devices_open(struct devices *d, const struct engine_opts *opts,
                         const struct model_config *m, struct error *err);
void devices_close(struct devices *d); /* a zeroed struct is legal */

/* Whether device number i of all is this process's. */
static inline bool devices_has(const struct devices *d, int i) {
    return i >= d->first && i < d->first + d->n;
}

/* STATUS_UNSUPPORTED where two are the same GPU, or where kernels of one are not those of all: a
 * rank's bits must not depend on where it lies. */
enum status devices_alike(const struct device_info *info, int n, struct error *err);

/* fn for every device, each in its thread, none waiting for another. The error names the device. */
enum status devices_each(struct devices *d, crew_fn *fn, void *ctx, struct error *err);
/* The same for work in which devices exchange memory, or that is of no use when one fails: the
 * first failure stops them all. They are idle then and only good for closing. */
enum status devices_together(struct devices *d, crew_fn *fn, void *ctx, struct error *err);

#endif
