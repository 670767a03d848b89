/* Choices of algorithms kept on disk: a text file per GPU and library version, a line per shape of
 * weight. Keeping is a convenience: where the file cannot be read or written, nothing is kept, and
 * what is damaged is as good as absent. */
#ifndef KERNELS_LINEAR_PINNED_H
#define KERNELS_LINEAR_PINNED_H

#include "kernels/backend.h"

struct pinned_file {
    char path[4096]; /* "": nowhere to keep anything */
};

/* $XDG_CACHE_HOME/chunkbench, or ~/.cache/chunkbench, which it makes. */
void pinned_open(struct pinned_file *f, const char *gpu, long long version);
/* The i-th whole line of that shape, oldest first, so that all who read agree however many have
 * written; false past the last. Lines of other than `bytes` bytes are damaged. *ms: see below. */
bool pinned_read(const struct pinned_file *f, struct weight_shape shape, int i, void *algorithm,
                 size_t bytes, double *ms);
/* Appends a line, in one write. ms: what the search measured, for people who read the file. */
void pinned_write(const struct pinned_file *f, struct weight_shape shape, const void *algorithm,
                  size_t bytes, double ms);

#endif
