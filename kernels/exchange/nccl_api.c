/* NCCL by dlopen. Before it: nothing; after it: exchange_nccl.c, and the facts of a run in the
 * harness. */
#include "kernels/exchange/nccl_api.h"

#include "kernels/gpu_list.h"
#include "kernels/run_time_library.h"

#include <pthread.h>

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct nccl loaded;
static struct run_time_library library = {.file = "libnccl.so.2"};

/* The version first: an old one lacks functions, too, whose names say less. */
static void load(void) {
    int (*get_version)(int *);
    int version = 0;
    if (!run_time_library_open(&library)) return;
    *(void **)&get_version = run_time_library_find(&library, "ncclGetVersion");
    if (!get_version) return;
    get_version(&version);
    if (!run_time_library_recent(&library, "NCCL", version, NCCL_OLDEST)) return;
#define X(name, function, parameters)                                                              \
    *(void **)&loaded.name = run_time_library_find(&library, function);
    NCCL_FUNCTION_TABLE(X)
#undef X
    *(void **)&loaded.error_text = run_time_library_find(&library, "ncclGetErrorString");
    *(void **)&loaded.last_error = run_time_library_find(&library, "ncclGetLastError");
    loaded.version = version;
}

const struct nccl *nccl_library(const char **why) {
    pthread_once(&load_once, load);
    if (why) *why = library.missing[0] ? library.missing : NULL;
    return library.missing[0] ? NULL : &loaded;
}

int64_t cuda_nccl_version(void) {
    const struct nccl *lib = nccl_library(NULL);
    return lib ? lib->version : 0;
}
