/* See run_time_library.h. Before it: nothing; after it: cudnn_api.c, nccl_api.c. */
#include "kernels/run_time_library.h"

#include <dlfcn.h>
#include <stdio.h>

bool run_time_library_open(struct run_time_library *l) {
    l->opened = dlopen(l->file, RTLD_NOW | RTLD_LOCAL);
    if (l->opened) return true;
    const char *why = dlerror();
    snprintf(l->missing, sizeof l->missing, "%.199s", why ? why : "it does not load");
    return false;
}

void *run_time_library_find(struct run_time_library *l, const char *function) {
    void *found = dlsym(l->opened, function);
    if (!found && !l->missing[0])
        snprintf(l->missing, sizeof l->missing, "%s of this machine has no function %s", l->file,
                 function);
    return found;
}
