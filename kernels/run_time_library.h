/* A library that is looked for when it is needed, by dlopen: what the doors of cuDNN and NCCL have
 * in common. Not for many threads at once: each door loads once. */
#ifndef KERNELS_RUN_TIME_LIBRARY_H
#define KERNELS_RUN_TIME_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

struct run_time_library {
    const char *file;  /* "libnccl.so.2" */
    void *opened;      /* for as long as the process lives */
    char missing[200]; /* why it does not serve; "" while it does */
};

/* Opens l->file; false, and l->missing says why, where there is none. */
bool run_time_library_open(struct run_time_library *l);
/* Whether a version (91400 is 9.14) is not older than `oldest`; else l->missing says so, by `name`.
 */
bool run_time_library_recent(struct run_time_library *l, const char *name, int64_t version,
                             int64_t oldest);
/* Address of a function; NULL, and l->missing names the first, where the library has none. */
void *run_time_library_find(struct run_time_library *l, const char *function);

#endif
