/* cuDNN by dlopen. Before it: nothing; after it: cudnn_graph.c, attention_cudnn.c, and the facts of
 * a run in the harness. */
#include "kernels/attention/cudnn_api.h"

#include "kernels/gpu_list.h"
#include "kernels/run_time_library.h"

#include <pthread.h>

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct cudnn loaded;
static struct run_time_library library = {.file = "libcudnn.so.9"};

/* The version first: an old one lacks functions, too, whose names say less. */
static void load(void) {
    size_t (*version)(void);
    if (!run_time_library_open(&library)) return;
    *(void **)&version = run_time_library_find(&library, "cudnnGetVersion");
    if (!version) return;
    loaded.version = (int64_t)version();
    if (!run_time_library_recent(&library, "cuDNN", loaded.version, CUDNN_OLDEST)) return;
#define X(name, function, parameters)                                                              \
    *(void **)&loaded.name = run_time_library_find(&library, function);
    CUDNN_FUNCTION_TABLE(X)
#undef X
    *(void **)&loaded.status_text = run_time_library_find(&library, "cudnnGetErrorString");
    *(void **)&loaded.last_error = run_time_library_find(&library, "cudnnGetLastErrorString");
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
