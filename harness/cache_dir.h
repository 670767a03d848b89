/* Where the program keeps what it can make again: measured rates, fetched prompts. */
#ifndef HARNESS_CACHE_DIR_H
#define HARNESS_CACHE_DIR_H

#include <stdbool.h>
#include <stddef.h>

/* $XDG_CACHE_HOME/chunkbench, or ~/.cache/chunkbench, and the folder `name` in it unless that is
 * NULL; all of it is made. False: nowhere to keep anything; `out` then holds the place that was
 * tried, or nothing when neither variable names one. */
bool cache_dir(const char *name, char *out, size_t size);

#endif
