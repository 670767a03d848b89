/* Buffers that a library fills from threads of its own: all allocated at once, given out and taken
 * back without waiting, emptied by one thread when it likes. Who asks for a buffer while none is
 * free gets none, and that is counted: what would have stood in it is lost. */
#ifndef KERNELS_ACTIVITY_BUFFER_POOL_H
#define KERNELS_ACTIVITY_BUFFER_POOL_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer_pool;

/* `buffers` of `bytes`, each aligned to 4096 and touched. STATUS_NO_MEMORY. */
enum status buffer_pool_open(struct buffer_pool **out, int buffers, size_t bytes,
                             struct error *err);
void buffer_pool_close(struct buffer_pool *p); /* NULL is legal; none is given out any more */

/* ---- any thread, never waits */

/* A free buffer, or NULL. */
uint8_t *buffer_pool_take(struct buffer_pool *p);
/* Back with `valid` bytes in it; with none it is free again at once. false: it is not of this
 * pool, or was not given out. */
bool buffer_pool_give(struct buffer_pool *p, uint8_t *buffer, size_t valid);

/* ---- one thread */

typedef void buffer_pool_fn(void *ctx, uint8_t *buffer, size_t valid);
/* Hands over every buffer that came back with something in it, oldest first, and frees it. */
void buffer_pool_empty(struct buffer_pool *p, buffer_pool_fn *fn, void *ctx);
/* Buffers that are given out. */
int buffer_pool_out(const struct buffer_pool *p);
/* How often none was free, since it was opened. */
int64_t buffer_pool_refusals(const struct buffer_pool *p);
size_t buffer_pool_bytes(const struct buffer_pool *p); /* of a buffer */

#endif
