/* See buffer_pool.h. A buffer's state alone says whose it is; every change of it is one atomic
 * step. Before it: activity.c. */
#include "kernels/activity/buffer_pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum state { FREE, OUT, FULL };

struct pooled {
    _Atomic int state;
    _Atomic uint64_t order; /* of coming back */
    _Atomic size_t valid;
};

struct buffer_pool {
    uint8_t *memory;
    size_t bytes;
    int n;
    struct pooled *buffers;
    _Atomic uint64_t came_back;
    _Atomic int64_t refusals;
};

enum status buffer_pool_open(struct buffer_pool **out, int buffers, size_t bytes,
                             struct error *err) {
    enum { ALIGNMENT = 4096 };
    struct buffer_pool *p = calloc(1, sizeof *p);
    *out = NULL;
    if (p) {
        p->n = buffers;
        p->bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        p->buffers = calloc((size_t)buffers, sizeof *p->buffers);
        p->memory = aligned_alloc(ALIGNMENT, (size_t)buffers * p->bytes);
    }
    if (!p || !p->buffers || !p->memory) {
        buffer_pool_close(p);
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d buffers of %zu bytes", buffers,
                         bytes);
    }
    memset(p->memory, 0, (size_t)buffers * p->bytes);
    *out = p;
    return STATUS_OK;
}

void buffer_pool_close(struct buffer_pool *p) {
    if (!p) return;
    free(p->buffers);
    free(p->memory);
    free(p);
}

uint8_t *buffer_pool_take(struct buffer_pool *p) {
    for (int i = 0; i < p->n; i++) {
        int was = FREE;
        if (atomic_compare_exchange_strong(&p->buffers[i].state, &was, OUT))
            return p->memory + (size_t)i * p->bytes;
    }
    atomic_fetch_add(&p->refusals, 1);
    return NULL;
}

bool buffer_pool_give(struct buffer_pool *p, uint8_t *buffer, size_t valid) {
    const size_t at = (size_t)(buffer - p->memory);
    if (buffer < p->memory || at % p->bytes != 0 || at / p->bytes >= (size_t)p->n) return false;
    struct pooled *b = &p->buffers[at / p->bytes];
    int was = OUT;
    b->valid = valid < p->bytes ? valid : p->bytes;
    b->order = atomic_fetch_add(&p->came_back, 1);
    return atomic_compare_exchange_strong(&b->state, &was, valid > 0 ? FULL : FREE);
}

static struct pooled *oldest(struct buffer_pool *p) {
    struct pooled *found = NULL;
    for (int i = 0; i < p->n; i++)
        if (p->buffers[i].state == FULL && (!found || p->buffers[i].order < found->order))
            found = &p->buffers[i];
    return found;
}

void buffer_pool_empty(struct buffer_pool *p, buffer_pool_fn *fn, void *ctx) {
    for (struct pooled *b; (b = oldest(p)) != NULL;) {
        fn(ctx, p->memory + (size_t)(b - p->buffers) * p->bytes, b->valid);
        b->state = FREE;
    }
}

int buffer_pool_out(const struct buffer_pool *p) {
    int n = 0;
    for (int i = 0; i < p->n; i++) n += p->buffers[i].state == OUT;
    return n;
}

int64_t buffer_pool_refusals(const struct buffer_pool *p) {
    return p->refusals;
}

size_t buffer_pool_bytes(const struct buffer_pool *p) {
    return p->bytes;
}
