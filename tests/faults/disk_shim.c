/* A disk that breaks, for LD_PRELOAD: calls on files of one folder fail from a chosen one on. All
 * processes of a run count together, in a file that they map.
 *
 *   BENCH_SHIM_FAULT=full    every write from the N-th on finds no space (ENOSPC)
 *   BENCH_SHIM_FAULT=fsync   the N-th fsync fails (EIO), and no other
 *   BENCH_SHIM_FAULT=rename  the N-th rename fails (EIO), and no other
 *   BENCH_SHIM_AT=N          N counts from 1
 *   BENCH_SHIM_DIR=FOLDER    only what lies below it counts and fails
 *   BENCH_SHIM_COUNT=FILE    three 64-bit numbers: writes, fsyncs, renames so far */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum call { CALL_WRITE, CALL_FSYNC, CALL_RENAME, CALLS };
static const char *const fault_names[CALLS] = {"full", "fsync", "rename"};

static struct {
    int64_t *counts; /* [CALLS], shared; NULL: nothing fails */
    const char *folder;
    enum call fault;
    int64_t at;
} shim;

__attribute__((constructor)) static void read_environment(void) {
    const char *fault = getenv("BENCH_SHIM_FAULT"), *at = getenv("BENCH_SHIM_AT");
    const char *file = getenv("BENCH_SHIM_COUNT");
    shim.folder = getenv("BENCH_SHIM_DIR");
    if (!fault || !at || !file || !shim.folder) return;
    while (shim.fault < CALLS && strcmp(fault_names[shim.fault], fault) != 0) shim.fault++;
    shim.at = atoll(at);
    const int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, CALLS * sizeof *shim.counts) != 0) abort();
    void *map = mmap(NULL, CALLS * sizeof *shim.counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) abort();
    shim.counts = map;
    close(fd);
}

/* Counts a call on a path; true: it shall fail. */
static bool fails(enum call call, const char *path) {
    if (!shim.counts || strncmp(path, shim.folder, strlen(shim.folder)) != 0) return false;
    const int64_t n = __atomic_add_fetch(&shim.counts[call], 1, __ATOMIC_RELAXED);
    if (call != shim.fault) return false;
    return call == CALL_WRITE ? n >= shim.at : n == shim.at;
}

static bool fails_at(enum call call, int fd) {
    char link[64], path[PATH_MAX];
    struct stat st;
    if (!shim.counts || fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return fails(call, path);
}

/* The function that is hidden by the one of the same name here. */
static void *real(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function) abort();
    return function;
}

#define REAL(type, name)                                                                           \
    static type *next;                                                                             \
    if (!next) *(void **)&next = real(name)

typedef ssize_t write_function(int, const void *, size_t);
typedef ssize_t pwrite_function(int, const void *, size_t, off_t);
typedef int fsync_function(int);
typedef int rename_function(const char *, const char *);

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write_function, "write");
    if (fails_at(CALL_WRITE, fd)) return errno = ENOSPC, -1;
    return next(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite_function, "pwrite");
    if (fails_at(CALL_WRITE, fd)) return errno = ENOSPC, -1;
    return next(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite_function, "pwrite64");
    if (fails_at(CALL_WRITE, fd)) return errno = ENOSPC, -1;
    return next(fd, data, n, at);
}

int fsync(int fd) {
    REAL(fsync_function, "fsync");
    if (fails_at(CALL_FSYNC, fd)) return errno = EIO, -1;
    return next(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename_function, "rename");
    if (fails(CALL_RENAME, to)) return errno = EIO, -1;
    return next(from, to);
}
