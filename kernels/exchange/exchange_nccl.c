/* exchange between GPUs by NCCL: a communicator for each member of a group, all in this process,
 * each used by the thread that drives its GPU. Sends and receives are kernels on the device's
 * stream, so they are captured into graphs like all others. Owns the communicators.
 *
 * A member that cannot go on leaves the others' kernels waiting on their GPUs: abort ends them. The
 * lock of a member keeps its communicator alive while something is issued to it. */
#include "kernels/cuda/cuda_core.h"
#include "kernels/exchange/nccl_api.h"
#include "kernels/group.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct member {
    struct nccl_comm *comm; /* NULL before joining and after the end */
    pthread_mutex_t lock;
};
struct nccl_group {
    struct nccl_id id;
    struct member member[MAX_RANKS];
};

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

/* ---- the op */

static int issue(const struct nccl *lib, const struct exchange_args *a, struct nccl_comm *comm,
                 cudaStream_t stream) {
    int r = lib->group_start();
    for (int i = 0; i < a->sends && r == NCCL_SUCCESS; i++)
        r = lib->send(a->send[i].at, (size_t)a->send[i].bytes, NCCL_UINT8, a->send[i].peer, comm,
                      stream);
    for (int i = 0; i < a->receives && r == NCCL_SUCCESS; i++)
        r = lib->receive(a->receive[i].at, (size_t)a->receive[i].bytes, NCCL_UINT8,
                         a->receive[i].peer, comm, stream);
    const int end = lib->group_end();
    return r == NCCL_SUCCESS ? end : r;
}

static void tell(struct device *dev, const char *which, int r) {
    const struct nccl *lib = nccl_library(NULL);
    char what[300];
    if (r == NCCL_SUCCESS) return;
    snprintf(what, sizeof what, "NCCL, %s: %.60s; %.200s", which, lib->error_text(r),
             lib->last_error(NULL));
    cuda_check(dev, cudaErrorUnknown, what);
}

void exchange_nccl(struct device *dev, const void *args) {
    const struct nccl *lib = nccl_library(NULL);
    struct member *m = member_of(dev);
    pthread_mutex_lock(&m->lock);
    const int r = m->comm ? issue(lib, args, m->comm, cuda_device(dev)->stream) : NCCL_SUCCESS;
    pthread_mutex_unlock(&m->lock);
    tell(dev, "exchange", r);
}

/* By its ring or tree, as it chooses. */
static void library_sum(struct device *dev, const void *in, void *out, int64_t n) {
    struct member *m = member_of(dev);
    const int type = dev->dtype == DTYPE_BF16 ? NCCL_BF16 : NCCL_F32;
    pthread_mutex_lock(&m->lock);
    const int r = m->comm ? nccl_library(NULL)->all_reduce(in, out, (size_t)n, type, NCCL_SUM,
                                                           m->comm, cuda_device(dev)->stream)
                          : NCCL_SUCCESS;
    pthread_mutex_unlock(&m->lock);
    tell(dev, "all_reduce", r);
}

static const char *why_missing(void) {
    const char *why;
    nccl_library(&why);
    return why;
}

const struct kernel_library kernel_library_nccl = {.name = "NCCL", .why_missing = why_missing};

/* ---- the group */

/* Of the library itself why_missing() tells. */
static const char *serves_any(int members) {
    (void)members;
    return NULL;
}

static enum status open_group(struct device_group *g, struct error *err) {
    const struct nccl *lib = nccl_library(NULL);
    struct nccl_group *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    for (int i = 0; i < MAX_RANKS; i++) pthread_mutex_init(&n->member[i].lock, NULL);
    g->state = n;
    const int r = lib->get_id(&n->id);
    return r == NCCL_SUCCESS ? STATUS_OK : failed(r, "ncclGetUniqueId", err);
}

static void close_group(struct device_group *g) {
    struct nccl_group *n = g->state;
    if (!n) return;
    for (int i = 0; i < MAX_RANKS; i++) pthread_mutex_destroy(&n->member[i].lock);
    free(n);
}

static void end_member(struct member *m, int (*how)(struct nccl_comm *comm)) {
    pthread_mutex_lock(&m->lock);
    if (m->comm) how(m->comm);
    m->comm = NULL;
    pthread_mutex_unlock(&m->lock);
}

static void abort_group(struct device_group *g) {
    struct nccl_group *n = g->state;
    for (int i = 0; i < g->members; i++) end_member(&n->member[i], nccl_library(NULL)->abort);
}

/* A few bytes with everyone: NCCL connects peers, and takes memory for it, when they first meet. */
static enum status meet(struct device *dev, struct error *err) {
    enum { BYTES = 256 };
    const struct device_group *g = device_group_of(dev);
    char *workspace = cuda_device(dev)->workspace;
    struct exchange_args a = {.sends = 0};
    for (int i = 0; i < g->members; i++) {
        if (i == device_member(dev)) continue;
        a.send[a.sends++] = (struct exchange_part){workspace, BYTES, i};
        a.receive[a.receives++] = (struct exchange_part){workspace + (i + 1) * BYTES, BYTES, i};
    }
    exchange_nccl(dev, &a);
    return device_sync(dev, err);
}

static enum status join(struct device *dev, struct error *err) {
    const struct device_group *g = device_group_of(dev);
    const struct nccl_group *n = g->state;
    struct nccl_comm *comm = NULL;
    int64_t before, after;
    device_memory_driver(dev, &before, NULL);
    const int r = nccl_library(NULL)->init_rank(&comm, g->members, n->id, device_member(dev));
    if (r != NCCL_SUCCESS) return failed(r, "ncclCommInitRank", err);
    member_of(dev)->comm = comm;
    const enum status s = meet(dev, err);
    device_memory_driver(dev, &after, NULL);
    if (after > before) ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_COMM, after - before);
    return s;
}

static void leave(struct device *dev) {
    const bool ended = atomic_load(&device_group_of(dev)->aborted);
    end_member(member_of(dev), ended ? nccl_library(NULL)->abort : nccl_library(NULL)->destroy);
}

const struct group_backend group_backend_nccl = {serves_any, open_group, close_group, abort_group,
                                                 join,       leave,      library_sum};
