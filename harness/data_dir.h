/* Where the files are that the program brings along: configs/ and plots/. */
#ifndef HARNESS_DATA_DIR_H
#define HARNESS_DATA_DIR_H

#include <stdbool.h>
#include <stddef.h>

/* The folder that holds configs/ and plots/: the source tree that the running program stands in
 * (TREE/build/bench), wherever that was moved or copied to; else ../share/chunkbench as seen from
 * the program's folder, where it is installed or unpacked; else the source folder that it was built
 * from. False, and an empty text, when none is there. size: PATH_MAX_BYTES. */
bool bench_data_dir(char *out, size_t size);

/* The same for a program at `program`, built from the folder `source`. */
bool data_dir_of(const char *program, const char *source, char *out, size_t size);

#endif
