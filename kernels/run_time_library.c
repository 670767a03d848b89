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

bool run_time_library_recent(struct run_time_library *l, const char *name, int64_t version,
                             int64_t oldest) {
    if (version >= oldest) return true;
    snprintf(l->missing, sizeof l->missing, "%s %d.%d is too old: %d.%d or newer is needed", name,
             (int)(version / 10000), (int)(version / 100 % 100), (int)(oldest / 10000),
             (int)(oldest / 100 % 100));
    return false;
}

void *run_time_library_find(struct run_time_library *l, const char *function) {
    void *found = dlsym(l->opened, function);
    if (!found && !l->missing[0])
        snprintf(l->missing, sizeof l->missing, "%s of this machine has no function %s", l->file,
                 function);
    return found;
}
