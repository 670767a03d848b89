/* dlopen, the version, dlclose. See library_probe.h. Before it: doctor_gpu.c. */
#include "harness/library_probe.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* -1: it does not tell. */
static long version_of(void *library, const struct library_question *q) {
    size_t (*returned)(void) = NULL;
    int (*stored)(int *) = NULL;
    int value = -1;
    void *at = dlsym(library, q->version);
    if (!at) return -1;
    if (q->call == VERSION_RETURNED) {
        memcpy(&returned, &at, sizeof at);
        return (long)returned();
    }
    memcpy(&stored, &at, sizeof at);
    return stored(&value) == 0 ? value : -1;
}

/* Where it tells no version it is believed to serve. */
static bool tell(const struct library_question *q, const char *file, long version, char *out,
                 size_t size) {
    const bool old = version > 0 && version < q->oldest;
    char least[100] = "";
    if (old)
        snprintf(least, sizeof least, " is too old: %ld.%ld or newer is needed",
                 q->oldest / q->major_unit, q->oldest % q->major_unit / q->minor_unit);
    if (version > 0)
        snprintf(out, size, "%ld.%ld (%s)%s", version / q->major_unit,
                 version % q->major_unit / q->minor_unit, file, least);
    else
        snprintf(out, size, "of unknown version (%s)", file);
    return !old;
}

bool library_probe(const struct library_question *q, char *out, size_t size) {
    char why[300] = "";
    for (int i = 0; i < 3 && q->files[i]; i++) {
        void *library = dlopen(q->files[i], RTLD_LAZY | RTLD_LOCAL);
        if (!library) {
            const char *text = dlerror();
            if (!why[0]) snprintf(why, sizeof why, "%s", text ? text : "it cannot be loaded");
            continue;
        }
        const bool serves = tell(q, q->files[i], version_of(library, q), out, size);
        dlclose(library);
        return serves;
    }
    snprintf(out, size, "%s", why);
    return false;
}
