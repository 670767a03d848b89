/* The cache folder, by the XDG base directory specification. Owns nothing. */
#include "harness/cache_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool make_folder(const char *path) {
    struct stat st;
    if (mkdir(path, 0755) == 0) return true;
    return errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Appends "/name" and makes that folder. */
static bool descend(char *path, size_t size, const char *name) {
    const size_t n = strlen(path);
    if ((size_t)snprintf(path + n, size - n, "/%s", name) >= size - n) return false;
    return make_folder(path);
}

bool cache_dir(const char *name, char *out, size_t size) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool by_xdg = xdg && *xdg == '/';
    out[0] = 0;
    if (!by_xdg && !(home && *home == '/')) return false;
    if ((size_t)snprintf(out, size, "%s", by_xdg ? xdg : home) >= size) return false;
    bool ok = true;
    if (by_xdg)
        make_folder(out);
    else
        ok = descend(out, size, ".cache");
    ok = descend(out, size, "chunkbench") && ok;
    return name ? descend(out, size, name) && ok : ok;
}
