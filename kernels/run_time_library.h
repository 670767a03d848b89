/* A library that is looked for when it is needed, by dlopen: what the doors of cuDNN and NCCL have
 * in common. Not for many threads at once: each door loads once. */
#ifndef KERNELS_RUN_TIME_LIBRARY_H
#define KERNELS_RUN_TIME_LIBRARY_H

#include <stdbool.h>

struct run_time_library {
    const char *file;  /* "libnccl.so.2" */
    void *opened;      /* for as long as the process lives */
    char missing[200]; /* why it does not serve; "" while it does */
};

/* Opens l->file; false, and l->missing says why, where there is none. */
bool run_time_library_open(struct run_time_library *l);
/* Address of a function; NULL, and l->missing names the first, where the library has none. */
void *run_time_library_find(struct run_time_library *l, const char *function);

#endif
