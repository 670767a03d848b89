/* Which bytes of a session's buffers are live: the accounting behind memory_timeline. The calls of
 * a chunk are walked backwards: what an op writes is dead before it, what it reads is live before
 * it. Part of rows and of columns are told apart, so that a buffer that is worked on in blocks is
 * in use block by block. Nothing here runs inside a step. */
#ifndef ENGINE_LIVE_H
#define ENGINE_LIVE_H

#include "engine/part.h"

/* Bytes [col, col_end) of rows [row, row_end) of a buffer. */
struct live_rect {
    int64_t row, row_end, col, col_end;
};
/* Rectangles that do not overlap. A zeroed set is empty. */
struct live_set {
    struct live_rect *v; /* owned */
    int64_t n, capacity;
};
/* false: no memory, and the set is what it was or less. */
bool live_add(struct live_set *s, struct live_rect r);
bool live_remove(struct live_set *s, struct live_rect r);
int64_t live_bytes(const struct live_set *s);
void live_free(struct live_set *s);

/* Fills out for the chunk that ran last on p, whose spans its device still has. See
 * session_memory_timeline(). */
enum status live_find(struct memory_timeline *out, const struct part *p, const struct chunk *c,
                      struct error *err);

#endif
