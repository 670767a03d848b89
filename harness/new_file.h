/* A file that is there whole or not at all: written under a temporary name in its own folder, then
 * renamed. What stood in its place stays until then. */
#ifndef HARNESS_NEW_FILE_H
#define HARNESS_NEW_FILE_H

#include "harness/config.h"

struct new_file {
    const char *path;               /* where it shall be; borrowed */
    char temporary[PATH_MAX_BYTES]; /* where it is written: an empty file */
};

/* STATUS_IO names the file and why it cannot be made. Only a regular file is replaced: no folder,
 * device, pipe or link. */
enum status new_file_begin(struct new_file *f, const char *path, struct error *err);
/* Puts what stands under the temporary name to disk and in its place. */
enum status new_file_end(struct new_file *f, struct error *err);
/* Instead of new_file_end, after a failure: nothing stays. */
void new_file_drop(struct new_file *f);

#endif
