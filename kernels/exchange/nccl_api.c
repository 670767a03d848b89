/* NCCL by dlopen. Before it: nothing; after it: exchange_nccl.c, and the facts of a run in the
 * harness. */
#include "kernels/exchange/nccl_api.h"

#include "kernels/gpu_list.h"
#include "kernels/run_time_library.h"

#include <pthread.h>
#include <stdio.h>

/* The first with communicators that do not block. */
enum { OLDEST = NCCL_CONFIG_VERSION };

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct nccl loaded;
static struct run_time_library library = {.file = "libnccl.so.2"};

static void load(void) {
    int version = 0;
    if (!run_time_library_open(&library)) return;
#define X(name, function, parameters)                                                              \
    *(void **)&loaded.name = run_time_library_find(&library, function);
    NCCL_FUNCTION_TABLE(X)
#undef X
    *(void **)&loaded.error_text = run_time_library_find(&library, "ncclGetErrorString");
    *(void **)&loaded.last_error = run_time_library_find(&library, "ncclGetLastError");
    if (library.missing[0]) return;
    loaded.get_version(&version);
    loaded.version = version;
    if (version < OLDEST)
        snprintf(library.missing, sizeof library.missing,
                 "NCCL %d.%d is too old: %d.%d or newer is needed", version / 10000,
                 version / 100 % 100, OLDEST / 10000, OLDEST / 100 % 100);
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
