/* The inside of a group of devices, for variants of OP_EXCHANGE. What the members share is the
 * variant's own: a meeting point of threads on the CPU, mailboxes in each other's memory or
 * communicators of NCCL on GPUs. */
#ifndef KERNELS_GROUP_H
#define KERNELS_GROUP_H

#include "kernels/device.h"
#include "kernels/rendezvous.h"

#include <stdatomic.h>

struct device_group {
    const struct variant *variant;
    int members;
    struct rendezvous *processes; /* borrowed; NULL: the members are threads of this process */
    int patience_s; /* that join waits for the others, where its kind has such an end */
    _Atomic bool aborted;
    void *state; /* the variant's */
};

/* The group that the device has joined, or NULL; its place there. */
struct device_group *device_group_of(const struct device *dev);
int device_member(const struct device *dev);

/* One kind of group. close may be called with a state that open left unfinished. */
struct group_backend {
    /* Why devices of this machine (0 .. members - 1 where they are one process's) cannot be joined
     * so, or NULL. */
    const char *(*why_not)(const struct group_opts *o);
    /* Where members are processes: called by all of them; may wait for them. */
    enum status (*open)(struct device_group *g, struct error *err);
    void (*close)(struct device_group *g);
    void (*abort)(struct device_group *g); /* g->aborted is set already; any thread; once */
    /* Called by the threads of all members at the same time; may wait for them. */
    enum status (*join)(struct device *dev, struct error *err);
    void (*leave)(struct device *dev); /* before the device closes; waits for nobody */
    bool sums;                         /* exchange_takes_sums() */
};
#endif
