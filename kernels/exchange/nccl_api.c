/* NCCL by dlopen. Before it: nothing; after it: exchange_nccl.c, and the facts of a run in the
 * harness. */
#include "kernels/exchange/nccl_api.h"

#include "kernels/gpu_list.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

/* The first whose sends and receives may be captured into a graph of any CUDA that we build with.
 */
enum { OLDEST = 21100 };

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct nccl loaded;
static char missing[200]; /* "" when it is there */

static void *find(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found && !missing[0])
        snprintf(missing, sizeof missing, "libnccl.so.2 of this machine has no function %s", name);
    return found;
}

static void load(void) {
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    int version = 0;
    if (!library) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "%.199s", why ? why : "libnccl.so.2 does not load");
        return;
    }
#define X(name, function, parameters) *(void **)&loaded.name = find(library, function);
    NCCL_FUNCTION_TABLE(X)
#undef X
    *(void **)&loaded.error_text = find(library, "ncclGetErrorString");
    *(void **)&loaded.last_error = find(library, "ncclGetLastError");
    if (missing[0]) return;
    loaded.get_version(&version);
    loaded.version = version;
    if (version < OLDEST)
        snprintf(missing, sizeof missing, "NCCL %d.%d is too old: %d.%d or newer is needed",
                 version / 10000, version / 100 % 100, OLDEST / 10000, OLDEST / 100 % 100);
}

const struct nccl *nccl_library(const char **why) {
    pthread_once(&load_once, load);
    if (why) *why = missing[0] ? missing : NULL;
    return missing[0] ? NULL : &loaded;
}

int64_t cuda_nccl_version(void) {
    const struct nccl *lib = nccl_library(NULL);
    return lib ? lib->version : 0;
}
