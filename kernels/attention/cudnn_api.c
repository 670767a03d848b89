/* cuDNN by dlopen. Before it: nothing; after it: cudnn_graph.c, attention_cudnn.c, and the facts of
 * a run in the harness. */
#include "kernels/attention/cudnn_api.h"

#include "kernels/gpu_list.h"
#include "kernels/run_time_library.h"

#include <pthread.h>
#include <stdio.h>

/* The first whose attention is masked from the last key, takes lengths from device memory and
 * accepts minus infinity where nothing is seen. */
enum { OLDEST = 91000 };

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct cudnn loaded;
static struct run_time_library library = {.file = "libcudnn.so.9"};

static void load(void) {
    size_t (*version)(void);
    if (!run_time_library_open(&library)) return;
#define X(name, function, parameters)                                                              \
    *(void **)&loaded.name = run_time_library_find(&library, function);
    CUDNN_FUNCTION_TABLE(X)
#undef X
    *(void **)&version = run_time_library_find(&library, "cudnnGetVersion");
    *(void **)&loaded.status_text = run_time_library_find(&library, "cudnnGetErrorString");
    *(void **)&loaded.last_error = run_time_library_find(&library, "cudnnGetLastErrorString");
    if (library.missing[0]) return;
    loaded.version = (int64_t)version();
    if (loaded.version < OLDEST)
        snprintf(library.missing, sizeof library.missing,
                 "cuDNN %d.%d is too old: %d.%d or newer is needed", (int)(loaded.version / 10000),
                 (int)(loaded.version / 100 % 100), OLDEST / 10000, OLDEST / 100 % 100);
}

const struct cudnn *cudnn_library(const char **why) {
    pthread_once(&load_once, load);
    if (why) *why = library.missing[0] ? library.missing : NULL;
    return library.missing[0] ? NULL : &loaded;
}

int64_t cuda_dnn_version(void) {
    const struct cudnn *lib = cudnn_library(NULL);
    return lib ? lib->version : 0;
}
