/* CUPTI by dlopen. Before it: nothing; after it: activity.c. */
#include "kernels/activity/cupti_api.h"

#include "kernels/gpu_list.h"
#include "kernels/run_time_library.h"

#include <stdio.h>
#include <string.h>

/* The first whose kernel records say which node of a graph they are, and whose times may come from
 * a clock of ours: of CUDA 12.0. */
enum { OLDEST = 18 };

/* The loader's own way first, then where toolkits put it. */
static bool find(struct run_time_library *l, char path[CUPTI_PATH_BYTES]) {
    static const char *const folders[] = {"", "/usr/local/cuda/extras/CUPTI/lib64/",
                                          "/usr/local/cuda/lib64/"};
    const int built = gpu_list_cuda_built() / 1000, major = built > 0 ? built : 13;
    char why[sizeof l->missing] = "";
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, CUPTI_PATH_BYTES, "%slibcupti.so.%d", folders[i], major);
        l->missing[0] = 0;
        if (run_time_library_open(l)) return true;
        if (i == 0) memcpy(why, l->missing, sizeof why);
    }
    memcpy(l->missing, why, sizeof why); /* the first: it names no folder that nobody asked for */
    return false;
}

static bool find_functions(struct cupti *out, struct run_time_library *l) {
#define X(name, function, parameters) *(void **)&out->name = run_time_library_find(l, function);
    CUPTI_FUNCTION_TABLE(X)
#undef X
    if (l->missing[0]) return false;
    const int32_t r = out->get_version(&out->version);
    if (r == CUPTI_SUCCESS && out->version >= OLDEST) return true;
    snprintf(l->missing, sizeof l->missing, "%.100s is CUPTI %u: %d or newer is needed", l->file,
             r == CUPTI_SUCCESS ? out->version : 0, OLDEST);
    return false;
}

bool cupti_load(struct cupti *out, const char *file, char path[CUPTI_PATH_BYTES],
                char why[CUPTI_WHY_BYTES]) {
    char local[CUPTI_PATH_BYTES];
    char *found = path ? path : local;
    struct run_time_library l = {.file = found};
    memset(out, 0, sizeof *out);
    if (file) snprintf(found, CUPTI_PATH_BYTES, "%s", file);
    const bool opened = file ? run_time_library_open(&l) : find(&l, found);
    const bool serves = opened && find_functions(out, &l);
    snprintf(why, CUPTI_WHY_BYTES, "%s", serves ? "" : l.missing);
    return serves;
}

const char *cupti_error_text(const struct cupti *lib, int32_t result) {
    const char *text = NULL;
    lib->error_text(result, &text);
    return text ? text : "an error without a name";
}
