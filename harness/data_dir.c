/* Finds the program's own data by the place of the program, so that an installed tree and a source
 * tree with a build in it can be moved and copied.
 */
#include "harness/data_dir.h"

#include "harness/config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool holds(const char *folder, const char *name) {
    char path[PATH_MAX_BYTES + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, R_OK) == 0;
}

/* A folder of data has configurations in it; the source has this file, too. */
static bool has_data(const char *folder) {
    return holds(folder, "configs");
}

static bool has_source(const char *folder) {
    return has_data(folder) && holds(folder, "harness/data_dir.c");
}

/* "/a/b" -> "/a" -> "" (the root); false: that was it. */
static bool go_up(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    return slash != NULL;
}

/* The innermost wins: a build folder stands in its source at any depth, and so may a folder that
 * the program was installed into. */
static bool data_around(const char *program, char *out, size_t size) {
    char folder[PATH_MAX_BYTES];
    if ((size_t)snprintf(folder, sizeof folder, "%s", program) >= sizeof folder) return false;
    for (int up = 1; go_up(folder); up++) {
        const char *const data = up == 2 ? "/share/chunkbench" : "";
        const bool source = has_source(folder);
        if ((size_t)snprintf(out, size, "%s%s", folder, source ? "" : data) >= size) return false;
        if (source || (*data && has_data(out))) return true;
    }
    return false;
}

bool data_dir_of(const char *program, const char *source, char *out, size_t size) {
    if (data_around(program, out, size)) return true;
    const int n = snprintf(out, size, "%s", source);
    if (n > 0 && (size_t)n < size && has_data(out)) return true;
    if (size > 0) out[0] = 0;
    return false;
}

bool bench_data_dir(char *out, size_t size) {
    char program[PATH_MAX_BYTES];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    return data_dir_of(program, BENCH_SOURCE_DIR, out, size);
}
