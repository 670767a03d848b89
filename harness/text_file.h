/* Text files, whole, in memory: how a prompt is read, whether it was named or fetched. */
#ifndef HARNESS_TEXT_FILE_H
#define HARNESS_TEXT_FILE_H

#include "engine/engine.h"

struct text {
    char *data; /* owned; no NUL at the end */
    size_t n;
};

/* All bytes, or `most` and one more of a file that is longer. STATUS_USAGE
 * (no regular file: nothing is opened), STATUS_IO, STATUS_NO_MEMORY. */
enum status text_read(const char *path, int64_t most, struct text *out, struct error *err);
/* STATUS_USAGE if it is empty or not UTF-8: names the first bad byte. `name`: for messages. */
enum status text_check(const struct text *t, const char *name, struct error *err);
void text_free(struct text *t); /* zeroed struct is legal */

#endif
