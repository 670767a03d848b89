/* exchange between GPUs of one process by their copy engines: what a device sends is copied into
 * the receiver's memory, and no multiprocessor is kept from the ops beside it. Owns words of host
 * memory by which the devices' streams signal to each other, and a thread.
 *
 *   1. tells its peers that they may put their parts: what was there has been read
 *   2. waits for a peer to say so, copies the parts there, tells that they are there
 *   3. waits until all peers have told the same
 *
 * A signal is a word that the sender's stream sets and the waiting stream clears, so that nothing
 * in a captured exchange changes from replay to replay. Where the parts go is told among the
 * threads, when a call is issued or captured. When the group ends, the thread keeps all signals
 * set: whatever waits, or will, goes on. Stream memory operations: CUDA driver API, section of that
 * name. */
#include "kernels/cuda/cuda_core.h"
#include "kernels/exchange/exchange_peer.h"
#include "kernels/exchange/meeting.h"
#include "kernels/group.h"

#include <cudaTypedefs.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Of the driver, found without linking against it. */
struct stream_words {
    PFN_cuStreamWaitValue32_v11070 wait;
    PFN_cuStreamWriteValue32_v11070 write;
};

/* Where a member wants its parts: what it showed for exchange t stays while others look at it,
 * until all have come for t + 1. */
struct shown_receives {
    struct exchange_part receive[MAX_RANKS];
    int32_t receives;
};

/* [member that waits][member that signals] */
struct signals {
    uint32_t ready[MAX_RANKS][MAX_RANKS]; /* its parts may be put */
    uint32_t done[MAX_RANKS][MAX_RANKS];  /* they are there */
};

struct copy_group {
    struct stream_words words;
    struct signals *signals; /* pinned, seen by all GPUs */
    struct meeting meeting;
    struct shown_receives shown[2][MAX_RANKS];
    unsigned turn[MAX_RANKS]; /* exchanges that a member has issued or captured */
    pthread_mutex_t lock;     /* of what follows */
    pthread_cond_t changed;
    bool ended, closing, has_thread;
    pthread_t thread;
};

/* ---- the group */

static void *driver_function(const char *name) {
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) !=
        cudaSuccess)
        return NULL;
    return result == cudaDriverEntryPointSuccess ? found : NULL;
}

static struct stream_words find_words(void) {
    struct stream_words words;
    *(void **)&words.wait = driver_function("cuStreamWaitValue32");
    *(void **)&words.write = driver_function("cuStreamWriteValue32");
    return words;
}

static const char *why_not(const struct group_opts *o) {
    const struct stream_words words = find_words();
    if (!words.wait || !words.write) return "the driver has no stream memory operations";
    return peers_why_not(o);
}

/* Until the group closes: a stream may clear a signal and wait for its next. */
static void *keep_all_set(void *state) {
    static const struct timespec pause = {.tv_nsec = 100000};
    struct copy_group *c = state;
    pthread_mutex_lock(&c->lock);
    while (!c->ended && !c->closing) pthread_cond_wait(&c->changed, &c->lock);
    while (!c->closing) {
        volatile uint32_t *words = (volatile uint32_t *)c->signals;
        for (size_t i = 0; i < sizeof *c->signals / sizeof *words; i++) words[i] = 1;
        pthread_mutex_unlock(&c->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static enum status open_group(struct device_group *g, struct error *err) {
    struct copy_group *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    meeting_open(&c->meeting, g->members);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->words = find_words();
    g->state = c;
    c->has_thread = pthread_create(&c->thread, NULL, keep_all_set, c) == 0;
    if (!c->has_thread) return error_set(err, STATUS_NO_MEMORY, "no thread for a group of devices");
    void *signals = NULL;
    const enum status s = cuda_status(
        cudaHostAlloc(&signals, sizeof *c->signals, cudaHostAllocPortable | cudaHostAllocMapped),
        "memory for a group of devices", err);
    if (s != STATUS_OK) return s;
    c->signals = signals;
    *c->signals = (struct signals){0};
    return STATUS_OK;
}

static void tell_thread(struct copy_group *c, bool *what) {
    pthread_mutex_lock(&c->lock);
    *what = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void end_thread(struct copy_group *c) {
    if (!c->has_thread) return;
    tell_thread(c, &c->closing);
    pthread_join(c->thread, NULL);
    c->has_thread = false;
}

static void close_group(struct device_group *g) {
    struct copy_group *c = g->state;
    if (!c) return;
    end_thread(c);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void abort_group(struct device_group *g) {
    struct copy_group *c = g->state;
    meeting_end(&c->meeting);
    tell_thread(c, &c->ended);
}

static enum status join(struct device *dev, struct error *err) {
    struct copy_group *c = device_group_of(dev)->state;
    const enum status s = peers_reach(dev, err);
    if (s == STATUS_OK && !meeting_wait(&c->meeting))
        return error_set(err, STATUS_RUN_FAILED, "another device did not join");
    return s;
}

/* All members are idle when the first leaves: nothing waits for a signal any more. */
static void leave(struct device *dev) {
    struct copy_group *c = device_group_of(dev)->state;
    if (device_member(dev) != 0) return;
    end_thread(c);
    if (c->signals) cudaFreeHost(c->signals);
    c->signals = NULL;
}

const struct group_backend group_backend_copy = {why_not, open_group, close_group, abort_group,
                                                 join,    leave,      false};

/* ---- the op */

struct copying {
    struct device *dev;
    struct copy_group *group;
    const struct exchange_args *args;
    const struct shown_receives *shown; /* [member] */
    int self, members;
};

static void check(const struct copying *k, CUresult r) {
    cuda_check(k->dev, r == CUDA_SUCCESS ? cudaSuccess : cudaErrorUnknown,
               "exchange_copy: a stream memory operation");
}

static void write_word(const struct copying *k, uint32_t *word, uint32_t value) {
    check(k, k->group->words.write(cuda_device(k->dev)->stream, (CUdeviceptr)word, value,
                                   CU_STREAM_WRITE_VALUE_DEFAULT));
}

static void set(const struct copying *k, uint32_t *signal) {
    write_word(k, signal, 1);
}

static void wait_and_clear(const struct copying *k, uint32_t *signal) {
    check(k, k->group->words.wait(cuda_device(k->dev)->stream, (CUdeviceptr)signal, 1,
                                  CU_STREAM_WAIT_VALUE_EQ));
    write_word(k, signal, 0);
}

/* Where the peer wants its k-th part from here. */
static void *place_of(const struct copying *k, int peer, int part) {
    const struct shown_receives *s = &k->shown[peer];
    for (int i = 0; i < s->receives; i++)
        if (s->receive[i].peer == k->self && part-- == 0) return s->receive[i].at;
    return NULL;
}

static void copy_parts(const struct copying *k, int peer) {
    const struct exchange_args *a = k->args;
    for (int i = 0, part = 0; i < a->sends; i++) {
        if (a->send[i].peer != peer) continue;
        void *to = place_of(k, peer, part++);
        cuda_check(k->dev,
                   to ? cudaMemcpyAsync(to, a->send[i].at, (size_t)a->send[i].bytes,
                                        cudaMemcpyDefault, cuda_device(k->dev)->stream)
                      : cudaErrorInvalidValue,
                   "exchange_copy");
    }
}

/* Peers from this device's next on, so that not all copy into one at once. */
static int nth_peer(const struct copying *k, int i) {
    return (k->self + i) % k->members;
}

static void issue(const struct copying *k) {
    struct signals *s = k->group->signals;
    for (int i = 1; i < k->members; i++) set(k, &s->ready[nth_peer(k, i)][k->self]);
    for (int i = 1; i < k->members; i++) {
        const int peer = nth_peer(k, i);
        wait_and_clear(k, &s->ready[k->self][peer]);
        copy_parts(k, peer);
        set(k, &s->done[peer][k->self]);
    }
    for (int i = 1; i < k->members; i++) wait_and_clear(k, &s->done[k->self][nth_peer(k, i)]);
}

void exchange_copy(struct device *dev, const void *args) {
    const struct device_group *g = device_group_of(dev);
    struct copy_group *c = g->state;
    const struct exchange_args *a = args;
    const int self = device_member(dev);
    struct shown_receives *shown = c->shown[c->turn[self]++ % 2];
    shown[self].receives = a->receives;
    for (int i = 0; i < a->receives; i++) shown[self].receive[i] = a->receive[i];
    if (!meeting_wait(&c->meeting)) return; /* the group has ended: the step fails */
    issue(&(struct copying){dev, c, a, shown, self, g->members});
}
