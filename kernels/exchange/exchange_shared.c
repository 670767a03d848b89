/* exchange between devices that need not be of one process: through memory that all see, a slot for
 * each pair. What a member sends to a peer is one stream of bytes; it passes through the slot piece
 * by piece, all pairs in step. Owns the memory where the members are threads, and its own view of
 * it where they are processes. */
#include "kernels/device_core.h"
#include "kernels/exchange/meeting.h"
#include "kernels/group.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_BYTES = 128 << 10 };

/* Zeroed when it is new. */
struct area {
    struct meeting meeting;
    int64_t pieces[MAX_RANKS]; /* [member]: that its longest stream takes */
    _Alignas(64) char slots[]; /* [from][to][SLOT_BYTES] */
};

static size_t area_bytes(int members) {
    return sizeof(struct area) + (size_t)members * (size_t)members * SLOT_BYTES;
}

static char *slot(struct area *a, int members, int from, int to) {
    return a->slots + (size_t)(from * members + to) * SLOT_BYTES;
}

/* ---- the op */

/* Bytes [begin, begin + SLOT_BYTES) of a peer's stream, from its parts into the slot or back. */
static void move(const struct exchange_part *part, int parts, int peer, int64_t begin, char *slot,
                 bool into_slot) {
    const int64_t end = begin + SLOT_BYTES;
    for (int64_t i = 0, first = 0; i < parts && first < end; i++) {
        if (part[i].peer != peer) continue;
        const int64_t last = first + part[i].bytes;
        const int64_t from = first > begin ? first : begin, to = last < end ? last : end;
        char *inside = (char *)part[i].at + (from - first), *there = slot + (from - begin);
        if (from < to) memcpy(into_slot ? there : inside, into_slot ? inside : there, to - from);
        first = last;
    }
}

static int64_t pieces_of(const struct exchange_args *a) {
    int64_t bytes[MAX_RANKS] = {0}, most = 0;
    for (int i = 0; i < a->sends; i++) bytes[a->send[i].peer] += a->send[i].bytes;
    for (int i = 0; i < MAX_RANKS; i++)
        if (bytes[i] > most) most = bytes[i];
    return (most + SLOT_BYTES - 1) / SLOT_BYTES;
}

void exchange_shared(struct device *dev, const void *args) {
    const struct exchange_args *a = args;
    const struct device_group *g = device_group_of(dev);
    const int self = device_member(dev), n = g->members;
    struct area *area = g->state;
    area->pieces[self] = pieces_of(a);
    for (int64_t piece = 0, most = 1; piece < most; piece++) {
        for (int peer = 0; peer < n; peer++)
            move(a->send, a->sends, peer, piece * SLOT_BYTES, slot(area, n, self, peer), true);
        if (!meeting_wait(&area->meeting)) return;
        for (int i = 0; i < n; i++)
            if (area->pieces[i] > most) most = area->pieces[i];
        for (int peer = 0; peer < n; peer++)
            move(a->receive, a->receives, peer, piece * SLOT_BYTES, slot(area, n, peer, self),
                 false);
        if (!meeting_wait(&area->meeting)) return;
    }
}

/* ---- the group */

static const char *why_not(const struct group_opts *o) {
    (void)o;
    return NULL;
}

static enum status open_group(struct device_group *g, struct error *err) {
    const size_t bytes = area_bytes(g->members);
    void *area = NULL;
    enum status s = STATUS_OK;
    if (g->processes)
        s = rendezvous_memory(g->processes, bytes, &area, err);
    else if ((area = aligned_alloc(64, (bytes + 63) / 64 * 64)) == NULL)
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    if (s != STATUS_OK) return s;
    if (!g->processes) memset(area, 0, bytes);
    if (!g->processes || rendezvous_process(g->processes) == 0)
        meeting_open(&((struct area *)area)->meeting, g->members);
    g->state = area;
    /* nobody comes to the meeting before it is open */
    char all[MAX_RANKS];
    return g->processes ? rendezvous_gather(g->processes, "", 1, all, err) : s;
}

static void close_group(struct device_group *g) {
    if (g->processes)
        rendezvous_memory_close(g->state, area_bytes(g->members));
    else
        free(g->state);
}

static void abort_group(struct device_group *g) {
    meeting_end(&((struct area *)g->state)->meeting);
}

/* What a member is charged: the slots that it writes to. */
static enum status join(struct device *dev, struct error *err) {
    const struct device_group *g = device_group_of(dev);
    if (!meeting_wait(&((struct area *)g->state)->meeting))
        return error_set(err, STATUS_RUN_FAILED, "the group of devices ended");
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_COMM, (int64_t)g->members * SLOT_BYTES);
    return STATUS_OK;
}

static void leave(struct device *dev) {
    (void)dev;
}

const struct group_backend group_backend_shared = {why_not, open_group, close_group, abort_group,
                                                   join,    leave,      false};
