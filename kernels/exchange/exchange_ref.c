/* exchange between devices that are threads of one process with one memory: each shows its sends,
 * and when all are there each copies what it shall receive. Nobody goes on before all have copied,
 * since what was sent may be overwritten then. */
#include "kernels/group.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all_there;
    int members, there;
    uint64_t turn;
    bool aborted;
    const struct exchange_args *shown[MAX_RANKS];
};

/* Whether all came; false when the group ended. */
static bool meet(struct meeting *m) {
    pthread_mutex_lock(&m->lock);
    const uint64_t turn = m->turn;
    if (++m->there == m->members) {
        m->there = 0;
        m->turn++;
        pthread_cond_broadcast(&m->all_there);
    }
    while (m->turn == turn && !m->aborted) pthread_cond_wait(&m->all_there, &m->lock);
    const bool came = m->turn != turn;
    pthread_mutex_unlock(&m->lock);
    return came;
}

/* The k-th send of these to that member. */
static const struct exchange_part *send_to(const struct exchange_args *a, int member, int k) {
    for (int i = 0; i < a->sends; i++)
        if (a->send[i].peer == member && k-- == 0) return &a->send[i];
    return NULL;
}

struct copying {
    const struct meeting *meeting;
    const struct exchange_args *mine;
    int member;
};

static void copy_item(void *ctx, int64_t item, int worker) {
    const struct copying *c = ctx;
    const struct exchange_part *in = &c->mine->receive[item];
    int k = 0;
    (void)worker;
    for (int64_t i = 0; i < item; i++) k += c->mine->receive[i].peer == in->peer;
    const struct exchange_part *out = send_to(c->meeting->shown[in->peer], c->member, k);
    if (in->bytes > 0 && out) memcpy(in->at, out->at, (size_t)in->bytes);
}

void exchange_ref(struct device *dev, const void *args) {
    struct meeting *m = device_group_of(dev)->state;
    struct copying c = {m, args, device_member(dev)};
    m->shown[c.member] = args;
    if (!meet(m)) return;
    device_parallel(dev, c.mine->receives, copy_item, &c);
    meet(m);
}

static enum status open_meeting(struct device_group *g, struct error *err) {
    struct meeting *m = calloc(1, sizeof *m);
    if (!m) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->all_there, NULL);
    m->members = g->members;
    g->state = m;
    return STATUS_OK;
}

static void close_meeting(struct device_group *g) {
    struct meeting *m = g->state;
    if (!m) return;
    pthread_cond_destroy(&m->all_there);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void abort_meeting(struct device_group *g) {
    struct meeting *m = g->state;
    pthread_mutex_lock(&m->lock);
    m->aborted = true;
    pthread_cond_broadcast(&m->all_there);
    pthread_mutex_unlock(&m->lock);
}

static enum status join_meeting(struct device *dev, struct error *err) {
    struct meeting *m = device_group_of(dev)->state;
    return meet(m) ? STATUS_OK : error_set(err, STATUS_RUN_FAILED, "the group of devices ended");
}

static void leave_meeting(struct device *dev) {
    (void)dev;
}

static const char *always(int members) {
    (void)members;
    return NULL;
}

const struct group_backend group_backend_ref = {always,        open_meeting, close_meeting,
                                                abort_meeting, join_meeting, leave_meeting};
