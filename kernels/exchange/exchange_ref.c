/* exchange between devices that are threads of one process with one memory: each shows its sends,
 * and when all are there each copies what it shall receive. Nobody goes on before all have copied,
 * since what was sent may be overwritten then. */
#include "kernels/exchange/meeting.h"
#include "kernels/group.h"

#include <stdlib.h>
#include <string.h>

struct shown_sends {
    struct meeting meeting;
    const struct exchange_args *of[MAX_RANKS]; /* [member]; while all are there */
};

/* The k-th send of these to that member. */
static const struct exchange_part *send_to(const struct exchange_args *a, int member, int k) {
    for (int i = 0; i < a->sends; i++)
        if (a->send[i].peer == member && k-- == 0) return &a->send[i];
    return NULL;
}

struct copying {
    const struct shown_sends *shown;
    const struct exchange_args *mine;
    int member;
};

static void copy_item(void *ctx, int64_t item, int worker) {
    const struct copying *c = ctx;
    const struct exchange_part *in = &c->mine->receive[item];
    int k = 0;
    (void)worker;
    for (int64_t i = 0; i < item; i++) k += c->mine->receive[i].peer == in->peer;
    const struct exchange_part *out = send_to(c->shown->of[in->peer], c->member, k);
    if (in->bytes > 0 && out) memcpy(in->at, out->at, (size_t)in->bytes);
}

void exchange_ref(struct device *dev, const void *args) {
    struct shown_sends *shown = device_group_of(dev)->state;
    struct copying c = {shown, args, device_member(dev)};
    shown->of[c.member] = args;
    if (!meeting_wait(&shown->meeting)) return;
    device_parallel(dev, c.mine->receives, copy_item, &c);
    meeting_wait(&shown->meeting);
}

static enum status open_group(struct device_group *g, struct error *err) {
    struct shown_sends *shown = calloc(1, sizeof *shown);
    if (!shown) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    meeting_open(&shown->meeting, g->members);
    g->state = shown;
    return STATUS_OK;
}

static void close_group(struct device_group *g) {
    free(g->state);
}

static void abort_group(struct device_group *g) {
    meeting_end(&((struct shown_sends *)g->state)->meeting);
}

static enum status join(struct device *dev, struct error *err) {
    struct shown_sends *shown = device_group_of(dev)->state;
    return meeting_wait(&shown->meeting)
               ? STATUS_OK
               : error_set(err, STATUS_RUN_FAILED, "the group of devices ended");
}

static void leave(struct device *dev) {
    (void)dev;
}

static const char *why_not(const struct group_opts *o) {
    return o->apart ? "its devices are threads of one process" : NULL;
}

const struct group_backend group_backend_ref = {why_not, open_group, close_group, abort_group,
                                                join,    leave,      false};
