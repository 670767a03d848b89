/* Finds the program's own data by the place of the program, so that an installed tree can be moved.
 */
#include "harness/data_dir.h"

#include "harness/config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A folder of data has configurations in it. */
static bool has_data(const char *folder) {
    char configs[PATH_MAX_BYTES + 16];
    snprintf(configs, sizeof configs, "%s/configs", folder);
    return access(configs, R_OK | X_OK) == 0;
}

bool data_dir_of(const char *program, const char *source, char *out, size_t size) {
    const char *slash = strrchr(program, '/'); /* .../bin/bench: two levels up */
    while (slash && slash > program && slash[-1] != '/') slash--;
    const int prefix = slash ? (int)(slash - program) : 0;
    int n = snprintf(out, size, "%.*sshare/chunkbench", prefix, program);
    if (prefix > 0 && n > 0 && (size_t)n < size && has_data(out)) return true;
    n = snprintf(out, size, "%s", source);
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
