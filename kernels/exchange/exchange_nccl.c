/* exchange between GPUs by NCCL: a communicator for each member of a group that lives in this
 * process, used by the thread that drives its GPU. Sends and receives are kernels on the device's
 * stream, so they are captured into graphs like all others. Owns the communicators.
 *
 * A member that cannot go on leaves the others' kernels waiting on their GPUs, and the library's
 * own calls waiting for it: so communicators do not block, what they are about is asked for again
 * and again, and abort ends them. The lock of a member keeps its communicator alive while it is
 * used. Abort itself waits until no graph that was captured with a communicator is left, so it has
 * a thread of its own, and whoever leaves waits for that: graphs are gone by then. */
#include "kernels/cuda/cuda_core.h"
#include "kernels/exchange/nccl_api.h"
#include "kernels/group.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct member {
    struct nccl_comm *comm; /* NULL before joining and after the end */
    pthread_mutex_t lock;
};
/* How far a member is with joining. */
enum stage { AWAY, CAME, CONNECTED, MET };
struct nccl_group {
    struct nccl_id id;
    _Atomic int *stage; /* [member]: enum stage; owned. All processes see it. */
    struct member member[MAX_RANKS];
    pthread_mutex_t lock; /* guards what follows */
    pthread_t aborts;     /* the thread that aborts all communicators, where it runs */
    bool aborting;
};

/* Members come within seconds of each other; less than the watchdog's usual time. */
enum { JOIN_PATIENCE_S = 90 };
static const size_t stages_bytes = MAX_RANKS * sizeof(_Atomic int);

static struct member *member_of(const struct device *dev) {
    struct nccl_group *n = device_group_of(dev)->state;
    return &n->member[device_member(dev)];
}

static enum status failed(int result, const char *what, struct error *err) {
    const struct nccl *lib = nccl_library(NULL);
    const char *more = lib->last_error(NULL);
    return error_set(err, STATUS_RUN_FAILED, "%s: %s%s%.500s", what, lib->error_text(result),
                     more && more[0] ? "; " : "", more ? more : "");
}

enum { TOO_LATE = -1 };
static const int64_t no_end = INT64_MAX;

/* Between two looks at what is waited for since begin_ns: none at first, for most is done already;
 * after a second so long that waiting takes no processor time by which a process seems alive. */
static void pause_between_looks(int64_t begin_ns) {
    enum { SPIN_NS = 2000000, SOON_NS = 1000000000, SHORT_NS = 100000, LONG_NS = 10000000 };
    const int64_t waited = monotonic_ns() - begin_ns;
    if (waited < SPIN_NS)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = waited < SOON_NS ? SHORT_NS : LONG_NS}, NULL);
}

/* What the newest call on a communicator came to; NCCL_SUCCESS where it was aborted meanwhile,
 * TOO_LATE where that was not known in time. */
static int settled(struct member *m, int64_t until_ns) {
    const struct nccl *lib = nccl_library(NULL);
    const int64_t begin_ns = monotonic_ns();
    for (;;) {
        int state = NCCL_SUCCESS, r = NCCL_SUCCESS;
        pthread_mutex_lock(&m->lock);
        if (m->comm) r = lib->async_error(m->comm, &state);
        pthread_mutex_unlock(&m->lock);
        if (r != NCCL_SUCCESS || state != NCCL_IN_PROGRESS) return r != NCCL_SUCCESS ? r : state;
        if (monotonic_ns() >= until_ns) return TOO_LATE;
        pause_between_looks(begin_ns);
    }
}

static bool went_well(int result) {
    return result == NCCL_SUCCESS || result == NCCL_IN_PROGRESS;
}

/* ---- the op */

/* By its ring or tree, as it chooses. */
static int issue_sum(const struct nccl *lib, const struct exchange_sum *a, struct nccl_comm *comm,
                     cudaStream_t stream) {
    return lib->all_reduce(a->in, a->out, (size_t)a->elements,
                           a->dtype == DTYPE_BF16 ? NCCL_BF16 : NCCL_F32, NCCL_SUM, comm, stream);
}

static int issue(const struct nccl *lib, const struct exchange_args *a, struct nccl_comm *comm,
                 cudaStream_t stream) {
    if (a->sum.elements > 0) return issue_sum(lib, &a->sum, comm, stream);
    int r = lib->group_start();
    for (int i = 0; i < a->sends && went_well(r); i++)
        r = lib->send(a->send[i].at, (size_t)a->send[i].bytes, NCCL_UINT8, a->send[i].peer, comm,
                      stream);
    for (int i = 0; i < a->receives && went_well(r); i++)
        r = lib->receive(a->receive[i].at, (size_t)a->receive[i].bytes, NCCL_UINT8,
                         a->receive[i].peer, comm, stream);
    const int end = lib->group_end();
    return went_well(r) ? end : r;
}

static void tell(struct device *dev, const char *which, int r) {
    const struct nccl *lib = nccl_library(NULL);
    char what[300];
    if (r == NCCL_SUCCESS) return;
    snprintf(what, sizeof what, "NCCL, %s: %.60s; %.200s", which, lib->error_text(r),
             lib->last_error(NULL));
    cuda_check(dev, cudaErrorUnknown, what);
}

static int exchange(struct device *dev, const struct exchange_args *a, int64_t until_ns) {
    struct member *m = member_of(dev);
    pthread_mutex_lock(&m->lock);
    const int r =
        m->comm ? issue(nccl_library(NULL), a, m->comm, cuda_device(dev)->stream) : NCCL_SUCCESS;
    pthread_mutex_unlock(&m->lock);
    /* nothing else may go to the stream before the kernels are there */
    return r == NCCL_IN_PROGRESS ? settled(m, until_ns) : r;
}

void exchange_nccl(struct device *dev, const void *args) {
    tell(dev, "exchange", exchange(dev, args, no_end));
}

void exchange_nccl_sum(struct device *dev, const void *args) {
    exchange_nccl(dev, args);
}

static const char *why_missing(void) {
    const char *why;
    nccl_library(&why);
    return why;
}

const struct kernel_library kernel_library_nccl = {.name = "NCCL", .why_missing = why_missing};

/* Which ring, and where in it a row's sum begins, goes by how much is summed. */
const struct kernel_library kernel_library_nccl_sum = {
    .name = "NCCL", .why_missing = why_missing, .lacks = LACKS_SAME_BITS};

/* ---- the group */

/* Of the library itself why_missing() tells. */
static const char *serves_any(const struct group_opts *o) {
    (void)o;
    return NULL;
}

/* The first of several processes makes it for all. */
static enum status make_id(const struct device_group *g, struct nccl_id *id, struct error *err) {
    struct nccl_id all[MAX_RANKS];
    enum status s = STATUS_OK;
    if (!g->processes || rendezvous_process(g->processes) == 0) {
        const int r = nccl_library(NULL)->get_id(id);
        if (r != NCCL_SUCCESS) return failed(r, "ncclGetUniqueId", err);
    }
    if (g->processes) {
        s = rendezvous_gather(g->processes, id, sizeof *id, all, err);
        if (s == STATUS_OK) *id = all[0];
    }
    return s;
}

static enum status open_stages(const struct device_group *g, struct nccl_group *n,
                               struct error *err) {
    void *stages = NULL;
    if (g->processes) {
        const enum status s = rendezvous_memory(g->processes, stages_bytes, &stages, err);
        if (s != STATUS_OK) return s;
    } else if ((stages = calloc(1, stages_bytes)) == NULL) {
        return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    }
    n->stage = stages;
    return STATUS_OK;
}

static void close_stages(const struct device_group *g, struct nccl_group *n) {
    if (g->processes)
        rendezvous_memory_close(n->stage, stages_bytes);
    else
        free(n->stage);
}

static enum status open_group(struct device_group *g, struct error *err) {
    struct nccl_group *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    for (int i = 0; i < MAX_RANKS; i++) pthread_mutex_init(&n->member[i].lock, NULL);
    pthread_mutex_init(&n->lock, NULL);
    g->state = n;
    g->patience_s = JOIN_PATIENCE_S;
    const enum status s = open_stages(g, n, err);
    return s == STATUS_OK ? make_id(g, &n->id, err) : s;
}

typedef int end_function(struct nccl_comm *comm);

/* Not under the lock: an abort may wait long, and others only look whether the communicator is
 * there. */
static void end_member(struct member *m, end_function *how) {
    pthread_mutex_lock(&m->lock);
    struct nccl_comm *comm = m->comm;
    m->comm = NULL;
    pthread_mutex_unlock(&m->lock);
    if (comm) how(comm);
}

static void *abort_all(void *ctx) {
    struct nccl_group *n = ctx;
    for (int i = 0; i < MAX_RANKS; i++) end_member(&n->member[i], nccl_library(NULL)->abort);
    return NULL;
}

static void abort_group(struct device_group *g) {
    struct nccl_group *n = g->state;
    pthread_mutex_lock(&n->lock);
    n->aborting = pthread_create(&n->aborts, NULL, abort_all, n) == 0;
    const bool started = n->aborting;
    pthread_mutex_unlock(&n->lock);
    if (!started) abort_all(n);
}

/* For all who come, though one of them joins the thread. */
static void wait_for_aborts(struct nccl_group *n) {
    pthread_mutex_lock(&n->lock);
    if (n->aborting) pthread_join(n->aborts, NULL);
    n->aborting = false;
    pthread_mutex_unlock(&n->lock);
}

static void close_group(struct device_group *g) {
    struct nccl_group *n = g->state;
    if (!n) return;
    wait_for_aborts(n);
    for (int i = 0; i < MAX_RANKS; i++) pthread_mutex_destroy(&n->member[i].lock);
    pthread_mutex_destroy(&n->lock);
    close_stages(g, n);
    free(n);
}

/* ---- joining */

static void reach(struct device *dev, enum stage stage) {
    const struct nccl_group *n = device_group_of(dev)->state;
    atomic_store(&n->stage[device_member(dev)], (int)stage);
}

/* Names the one that is least far. */
static enum status too_late(const struct device *dev, struct error *err) {
    const struct device_group *g = device_group_of(dev);
    const struct nccl_group *n = g->state;
    int last = device_member(dev);
    for (int i = 0; i < g->members; i++)
        if (atomic_load(&n->stage[i]) < atomic_load(&n->stage[last])) last = i;
    if (last == device_member(dev))
        return error_set(err, STATUS_TIMEOUT, "NCCL has not joined %d devices within %d s",
                         g->members, g->patience_s);
    return error_set(err, STATUS_TIMEOUT, "device %d of %d %s within %d s", last, g->members,
                     atomic_load(&n->stage[last]) == AWAY ? "did not come to NCCL's group"
                                                          : "did not get into NCCL's group",
                     g->patience_s);
}

/* Until what was issued is done, the group has ended, or it is too late. */
static enum status wait_for_gpu(struct device *dev, int64_t until_ns, struct error *err) {
    const int64_t begin_ns = monotonic_ns();
    while (cudaStreamQuery(cuda_device(dev)->stream) == cudaErrorNotReady &&
           !atomic_load(&device_group_of(dev)->aborted)) {
        if (monotonic_ns() >= until_ns) return too_late(dev, err);
        pause_between_looks(begin_ns);
    }
    return device_sync(dev, err);
}

static enum status meet_by(struct device *dev, const struct exchange_args *a, int64_t until_ns,
                           struct error *err) {
    const int r = exchange(dev, a, until_ns);
    if (r == TOO_LATE) return too_late(dev, err);
    tell(dev, "exchange", r);
    return wait_for_gpu(dev, until_ns, err);
}

/* Sums of several sizes: the library has several ways, and connects for each. What is summed is
 * whatever the workspace holds. */
static enum status meet_for_sums(struct device *dev, int64_t until_ns, struct error *err) {
    void *workspace = cuda_device(dev)->workspace;
    const int64_t all = (int64_t)(CUDA_WORKSPACE_BYTES / dtype_bytes(dev->dtype));
    enum status s = STATUS_OK;
    for (int64_t n = 128; n <= all && s == STATUS_OK; n = n < all && 16 * n > all ? all : 16 * n) {
        const struct exchange_args a = {
            .sum = {workspace, workspace, n, device_group_of(dev)->members, dev->dtype}};
        s = meet_by(dev, &a, until_ns, err);
    }
    return s;
}

/* A few bytes with everyone: NCCL connects peers, and takes memory for it, when they first meet. */
static enum status meet(struct device *dev, int64_t until_ns, struct error *err) {
    enum { BYTES = 256 };
    const struct device_group *g = device_group_of(dev);
    char *workspace = cuda_device(dev)->workspace;
    struct exchange_args a = {.sends = 0};
    for (int i = 0; i < g->members; i++) {
        if (i == device_member(dev)) continue;
        a.send[a.sends++] = (struct exchange_part){workspace, BYTES, i};
        a.receive[a.receives++] = (struct exchange_part){workspace + (i + 1) * BYTES, BYTES, i};
    }
    const enum status s = meet_by(dev, &a, until_ns, err);
    return s == STATUS_OK && g->variant->group->sums ? meet_for_sums(dev, until_ns, err) : s;
}

/* Returns when the communicator is there, or was aborted. Of a worker that is traced it blocks: one
 * that does not launches its kernels from a thread of its own, and what CUPTI is told of the op at
 * work (activity_begin_op) holds for the thread that tells it. While such a call waits, no abort
 * comes through: the watchdog ends that worker. */
static enum status open_communicator(struct device *dev, int64_t until_ns, struct error *err) {
    struct nccl_config config = {.size = sizeof config,
                                 .magic = NCCL_CONFIG_MAGIC,
                                 .version = NCCL_CONFIG_VERSION,
                                 .blocking = dev->activity != NULL,
                                 .cluster_size = NCCL_UNDEFINED};
    const struct device_group *g = device_group_of(dev);
    const struct nccl_group *n = g->state;
    struct member *m = member_of(dev);
    struct nccl_comm *comm = NULL;
    int r = nccl_library(NULL)->init_rank(&comm, g->members, n->id, device_member(dev), &config);
    pthread_mutex_lock(&m->lock);
    m->comm = comm;
    pthread_mutex_unlock(&m->lock);
    if (atomic_load(&g->aborted)) end_member(m, nccl_library(NULL)->abort);
    if (r == NCCL_IN_PROGRESS) r = settled(m, until_ns);
    if (r == TOO_LATE) return too_late(dev, err);
    return r == NCCL_SUCCESS ? STATUS_OK : failed(r, "ncclCommInitRankConfig", err);
}

static enum status join(struct device *dev, struct error *err) {
    const int64_t until_ns =
        monotonic_ns() + (int64_t)device_group_of(dev)->patience_s * 1000000000;
    int64_t before, after;
    device_memory_driver(dev, &before, NULL);
    reach(dev, CAME);
    enum status s = open_communicator(dev, until_ns, err);
    if (s == STATUS_OK) reach(dev, CONNECTED);
    if (s == STATUS_OK) s = meet(dev, until_ns, err);
    if (s == STATUS_OK) reach(dev, MET);
    device_memory_driver(dev, &after, NULL);
    if (after > before) ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_COMM, after - before);
    return s;
}

static void leave(struct device *dev) {
    const struct device_group *g = device_group_of(dev);
    const bool ended = atomic_load(&g->aborted);
    wait_for_aborts(g->state);
    end_member(member_of(dev), ended ? nccl_library(NULL)->abort : nccl_library(NULL)->destroy);
}

const struct group_backend group_backend_nccl = {serves_any, open_group, close_group, abort_group,
                                                 join,       leave,      false};
const struct group_backend group_backend_nccl_sum = {
    serves_any, open_group, close_group, abort_group, join, leave, true};
