/* Groups of GPUs that reach each other's memory: a mailbox in each, whose addresses all know. Owns
 * the mailboxes and the word that ends all waiting. The kernel: exchange_peer.cu. */
#include "kernels/cuda/cuda_core.h"
#include "kernels/exchange/exchange_peer.h"
#include "kernels/exchange/meeting.h"
#include "kernels/group.h"

#include <stdlib.h>

struct peer_group {
    struct peer_mailbox *mailbox[MAX_RANKS];
    volatile uint32_t *stop;  /* pinned, seen by all GPUs */
    struct meeting mailboxes; /* until all have theirs */
};

const char *peers_why_not(const struct group_opts *o) {
    if (o->apart) return "its GPUs are those of one process";
    for (int i = 0; i < o->members; i++)
        for (int j = 0; j < o->members; j++) {
            int reaches = 0;
            if (i == j) continue;
            if (cudaDeviceCanAccessPeer(&reaches, i, j) != cudaSuccess || !reaches)
                return "not every GPU reaches the memory of every other";
        }
    return NULL;
}

static enum status open_group(struct device_group *g, struct error *err) {
    struct peer_group *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    meeting_open(&p->mailboxes, g->members);
    g->state = p;
    void *stop = NULL;
    const enum status s = cuda_status(
        cudaHostAlloc(&stop, sizeof *p->stop, cudaHostAllocPortable | cudaHostAllocMapped),
        "memory for a group of devices", err);
    p->stop = stop;
    if (s == STATUS_OK) *p->stop = 0;
    return s;
}

static void close_group(struct device_group *g) {
    free(g->state);
}

static void abort_group(struct device_group *g) {
    struct peer_group *p = g->state;
    *p->stop = 1;
    meeting_end(&p->mailboxes);
}

enum status peers_reach(struct device *dev, struct error *err) {
    const struct device_group *g = device_group_of(dev);
    enum status s = STATUS_OK;
    for (int i = 0; i < g->members && s == STATUS_OK; i++) {
        if (i == device_member(dev)) continue;
        const cudaError_t e = cudaDeviceEnablePeerAccess(i, 0);
        if (e != cudaErrorPeerAccessAlreadyEnabled) s = cuda_status(e, "access to a peer", err);
    }
    cudaGetLastError(); /* "already enabled" is no one's error */
    return s;
}

static enum status make_mailbox(struct peer_group *p, struct device *dev, struct error *err) {
    void *box = NULL;
    const size_t bytes = arena_bytes(sizeof **p->mailbox);
    enum status s = dev->backend->memory_open(dev, bytes, &box, err);
    p->mailbox[device_member(dev)] = box;
    if (s != STATUS_OK) return s;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_COMM, (int64_t)bytes);
    return device_sync(dev, err);
}

/* Nobody exchanges before all mailboxes are there. */
static enum status join(struct device *dev, struct error *err) {
    struct peer_group *p = device_group_of(dev)->state;
    enum status s = peers_reach(dev, err);
    if (s == STATUS_OK) s = make_mailbox(p, dev, err);
    if (s == STATUS_OK && !meeting_wait(&p->mailboxes))
        s = error_set(err, STATUS_RUN_FAILED, "another device did not join");
    return s;
}

/* A peer's kernel may still look into this mailbox: all are idle when the engine closes them. */
static void leave(struct device *dev) {
    struct peer_group *p = device_group_of(dev)->state;
    struct peer_mailbox *box = p->mailbox[device_member(dev)];
    if (box) dev->backend->memory_close(dev, box, arena_bytes(sizeof *box));
    if (device_member(dev) == 0 && p->stop) cudaFreeHost((void *)p->stop);
}

const struct group_backend group_backend_peer = {
    peers_why_not, open_group, close_group, abort_group, join, leave, false};

void exchange_peer(struct device *dev, const void *args) {
    const struct device_group *g = device_group_of(dev);
    const struct peer_group *p = g->state;
    struct peer_exchange e = {.self = device_member(dev),
                              .members = g->members,
                              .stop = p->stop,
                              .args = *(const struct exchange_args *)args};
    for (int i = 0; i < g->members; i++) e.mailbox[i] = p->mailbox[i];
    exchange_peer_launch(dev, &e);
}
