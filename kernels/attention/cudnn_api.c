/* cuDNN by dlopen. Before it: nothing; after it: cudnn_graph.c, attention_cudnn.c, and the facts of
 * a run in the harness. */
#include "kernels/attention/cudnn_api.h"

#include "kernels/gpu_list.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

/* The first whose attention is masked from the last key, takes lengths from device memory and
 * accepts minus infinity where nothing is seen. */
enum { OLDEST = 91000 };

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct cudnn loaded;
static char missing[200]; /* "" when it is there */

static void *find(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found && !missing[0])
        snprintf(missing, sizeof missing, "libcudnn.so.9 of this machine has no function %s", name);
    return found;
}

static void load(void) {
    size_t (*version)(void);
    void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "%.199s", why ? why : "libcudnn.so.9 does not load");
        return;
    }
#define X(name, function, parameters) *(void **)&loaded.name = find(library, function);
    CUDNN_FUNCTION_TABLE(X)
#undef X
    *(void **)&version = find(library, "cudnnGetVersion");
    *(void **)&loaded.status_text = find(library, "cudnnGetErrorString");
    *(void **)&loaded.last_error = find(library, "cudnnGetLastErrorString");
    if (missing[0]) return;
    loaded.version = (int64_t)version();
    if (loaded.version < OLDEST)
        snprintf(missing, sizeof missing, "cuDNN %d.%d is too old: %d.%d or newer is needed",
                 (int)(loaded.version / 10000), (int)(loaded.version / 100 % 100), OLDEST / 10000,
                 OLDEST / 100 % 100);
}

const struct cudnn *cudnn_library(const char **why) {
    pthread_once(&load_once, load);
    if (why) *why = missing[0] ? missing : NULL;
    return missing[0] ? NULL : &loaded;
}

int64_t cuda_dnn_version(void) {
    const struct cudnn *lib = cudnn_library(NULL);
    return lib ? lib->version : 0;
}
