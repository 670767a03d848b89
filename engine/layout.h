/* Where buffers lie in an arena. One function per arena names its buffers in order; it is walked
 * twice, first to add up their sizes, then to take them. What is predicted is therefore what is
 * allocated. */
#ifndef ENGINE_LAYOUT_H
#define ENGINE_LAYOUT_H

#include "engine/engine.h"

#include <assert.h>

struct layout {
    struct arena *arena; /* NULL: only add up */
    int64_t rank_bytes[MAX_RANKS], shared_bytes;
};

static inline void layout_add(struct layout *l, int rank, size_t bytes) {
    *(rank == SHARED_RANK ? &l->shared_bytes : &l->rank_bytes[rank]) += (int64_t)arena_bytes(bytes);
}

/* Without an arena: an address that nobody follows, since NULL means "absent" to some ops. */
static inline void *layout_take(struct layout *l, int rank, size_t bytes) {
    layout_add(l, rank, bytes);
    if (!l->arena) return (void *)(uintptr_t)256;
    void *at = arena_take(l->arena, rank, bytes);
    assert(at || bytes == 0);
    return at;
}

static inline size_t layout_total(const struct layout *l) {
    int64_t sum = l->shared_bytes;
    for (int r = 0; r < MAX_RANKS; r++) sum += l->rank_bytes[r];
    return (size_t)sum;
}

#endif
