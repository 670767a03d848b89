/* A pool of threads that splits a range of items. One caller at a time (the thread that drives the
 * device); the caller works too, as worker 0. Items are handed out one by one from an atomic
 * counter, so which thread does an item is not fixed, and no result may depend on it. Workers spin
 * briefly between calls, then sleep. A job inside a job is a programmer error. */
#ifndef KERNELS_THREAD_POOL_H
#define KERNELS_THREAD_POOL_H

#include "kernels/error.h"

#include <stdint.h>

struct thread_pool;

/* threads >= 1; threads - 1 are started and bound to nothing. */
enum status thread_pool_open(struct thread_pool **out, int threads, struct error *err);
void thread_pool_close(struct thread_pool *p); /* NULL is legal */
int thread_pool_threads(const struct thread_pool *p);

/* fn(ctx, item, worker) for every item in [0, items), worker in [0, threads). Returns when all are
 * done; what they wrote is visible to the caller. */
typedef void thread_pool_fn(void *ctx, int64_t item, int worker);
void thread_pool_run(struct thread_pool *p, int64_t items, thread_pool_fn *fn, void *ctx);

/* fn(ctx, worker, worker) once on every thread, all at the same time: for what belongs to a thread
 * (settings, first touch of its memory) and for loads that shall keep all cores busy. */
void thread_pool_run_each(struct thread_pool *p, thread_pool_fn *fn, void *ctx);

/* Items finished since the pool was opened: moves while work goes on. Any thread may read it. */
uint64_t thread_pool_progress(const struct thread_pool *p);

#endif
