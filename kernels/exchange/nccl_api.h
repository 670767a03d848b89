/* The part of NCCL that we use, found by dlopen. Declared here, so that a program with it is built
 * without NCCL's headers and starts without its library. Source: NCCL's user guide, "Collective
 * Communication Functions", "Point To Point", "Communicator Creation"; the layout of what passes
 * between us and the library is its binary interface since 2.14; a test compares it with the
 * library's header where there is one. */
#ifndef KERNELS_EXCHANGE_NCCL_API_H
#define KERNELS_EXCHANGE_NCCL_API_H

#include <stddef.h>
#include <stdint.h>

struct nccl_id {
    char bytes[128]; /* ncclUniqueId */
};
/* The first members of ncclConfig_t. The library goes by the size and the version that it finds: of
 * 2.14 is all up to `blocking`; what a later one may read stays undefined. */
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cluster_size;
};
#define NCCL_CONFIG_MAGIC 0xcafebeefu
enum { NCCL_CONFIG_VERSION = 21400, NCCL_UNDEFINED = INT32_MIN };
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };      /* ncclResult_t */
enum { NCCL_UINT8 = 1, NCCL_F32 = 7, NCCL_BF16 = 9 }; /* ncclDataType_t */
enum { NCCL_SUM = 0 };                                /* ncclRedOp_t */

/* CUstream_st, by its tag: the library's own parameter type. */
struct CUstream_st;
struct nccl_comm;

/* name here, name there, parameters; all return ncclResult_t */
#define NCCL_FUNCTION_TABLE(X)                                                                     \
    X(get_version, "ncclGetVersion", (int *version))                                               \
    X(get_id, "ncclGetUniqueId", (struct nccl_id * id))                                            \
    X(init_rank, "ncclCommInitRankConfig",                                                         \
      (struct nccl_comm * *comm, int n, struct nccl_id id, int rank, struct nccl_config *config))  \
    X(destroy, "ncclCommDestroy", (struct nccl_comm * comm))                                       \
    X(abort, "ncclCommAbort", (struct nccl_comm * comm))                                           \
    X(async_error, "ncclCommGetAsyncError", (struct nccl_comm * comm, int *error))                 \
    X(group_start, "ncclGroupStart", (void))                                                       \
    X(group_end, "ncclGroupEnd", (void))                                                           \
    X(send, "ncclSend",                                                                            \
      (const void *at, size_t n, int type, int peer, struct nccl_comm *comm,                       \
       struct CUstream_st *stream))                                                                \
    X(receive, "ncclRecv",                                                                         \
      (void *at, size_t n, int type, int peer, struct nccl_comm *comm,                             \
       struct CUstream_st *stream))                                                                \
    X(all_reduce, "ncclAllReduce",                                                                 \
      (const void *in, void *out, size_t n, int type, int op, struct nccl_comm *comm,              \
       struct CUstream_st *stream))

struct nccl {
#define X(name, function, parameters) int(*name) parameters;
    NCCL_FUNCTION_TABLE(X)
#undef X
    const char *(*error_text)(int result);               /* ncclGetErrorString */
    const char *(*last_error)(struct nccl_comm *unused); /* ncclGetLastError */
    int64_t version;                                     /* 22803 for 2.28.3 */
};

/* NULL where it does not serve; *why, a text that stays: the reason. Any thread. */
const struct nccl *nccl_library(const char **why);

#endif
