/* The thread pool: one job at a time, items from one atomic counter, a short spin before sleep.
 * Owns its threads. Above it: backend_cpu.c, which runs kernels with it.
 *
 * All coordination is in `state`: the number of the job, whether it is open, and how many workers
 * are inside it. A worker enters an open job by compare-and-swap and leaves by subtraction; the
 * caller closes the job when the items are handed out and waits only for those inside. So a worker
 * that sleeps, or has lost its core to another process, is not waited for, and nobody can touch a
 * job that the caller is about to replace. */
#include "kernels/thread_pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    CACHE_LINE = 64,
    INSIDE_BITS = 16,  /* low bits of state: workers inside the job */
    SPIN_TURNS = 4000, /* some tens of microseconds: the gap between two ops of a step */
    MAX_THREADS = 4096
};
#define INSIDE_MASK ((UINT64_C(1) << INSIDE_BITS) - 1)
#define OPEN (UINT64_C(1) << INSIDE_BITS)
#define NEXT_JOB (UINT64_C(2) << INSIDE_BITS)

struct worker {
    _Alignas(CACHE_LINE) _Atomic uint64_t finished; /* items; written by this worker alone */
    struct thread_pool *pool;
    pthread_t thread;
    int index;
};

struct thread_pool {
    _Alignas(CACHE_LINE) _Atomic uint64_t state;
    _Alignas(CACHE_LINE) _Atomic int64_t next; /* item to hand out; for_each: workers done */
    /* The job: written by the caller while no worker is inside. */
    _Alignas(CACHE_LINE) int64_t items;
    thread_pool_fn *fn;
    void *ctx;
    bool one_each;

    _Alignas(CACHE_LINE) atomic_bool busy, stop, caller_sleeps;
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    int threads, started, spin_turns;
    struct worker *workers; /* [threads]; 0 is the caller */
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* ---- a job, from inside */

static void count_item(struct worker *w) {
    uint64_t n = atomic_load_explicit(&w->finished, memory_order_relaxed);
    atomic_store_explicit(&w->finished, n + 1, memory_order_relaxed);
}

static void work(struct worker *w) {
    struct thread_pool *p = w->pool;
    if (p->one_each) {
        p->fn(p->ctx, w->index, w->index);
        count_item(w);
        atomic_fetch_add(&p->next, 1);
        return;
    }
    for (;;) {
        int64_t item = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (item >= p->items) return;
        p->fn(p->ctx, item, w->index);
        count_item(w);
    }
}

/* ---- workers */

static bool is_new(uint64_t state, uint64_t last_job) {
    return (state & OPEN) && (state & ~INSIDE_MASK) != last_job;
}

static void sleep_until_new(struct thread_pool *p, uint64_t last_job) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (!atomic_load(&p->stop) && !is_new(atomic_load(&p->state), last_job))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

/* Enters the next job that this worker has not done yet; false: the pool closes. */
static bool enter(struct thread_pool *p, uint64_t *last_job) {
    int turns = 0;
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        uint64_t s = atomic_load_explicit(&p->state, memory_order_relaxed);
        if (is_new(s, *last_job)) {
            if (atomic_compare_exchange_weak(&p->state, &s, s + 1)) {
                *last_job = s & ~INSIDE_MASK;
                return true;
            }
        } else if (turns++ < p->spin_turns) {
            relax();
        } else {
            sleep_until_new(p, *last_job);
            turns = 0;
        }
    }
    return false;
}

static void leave(struct thread_pool *p) {
    atomic_fetch_sub(&p->state, 1);
    if (!atomic_load(&p->caller_sleeps)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    uint64_t last_job = 0;
    while (enter(w->pool, &last_job)) {
        work(w);
        leave(w->pool);
    }
    return NULL;
}

/* ---- the caller */

static bool all_out(struct thread_pool *p) {
    return (atomic_load(&p->state) & INSIDE_MASK) == 0 &&
           (!p->one_each || atomic_load(&p->next) == p->threads);
}

static void wait_until_all_out(struct thread_pool *p) {
    for (int turns = 0; turns < p->spin_turns; turns++) {
        if (all_out(p)) return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (!all_out(p)) pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

static void open_job(struct thread_pool *p) {
    uint64_t number = atomic_load_explicit(&p->state, memory_order_relaxed) & ~(OPEN | INSIDE_MASK);
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store(&p->state, (number + NEXT_JOB) | OPEN);
    if (atomic_load(&p->sleepers) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void run_job(struct thread_pool *p, int64_t items, thread_pool_fn *fn, void *ctx,
                    bool one_each) {
    bool was_busy = atomic_exchange_explicit(&p->busy, true, memory_order_acquire);
    assert(!was_busy && "a thread pool runs one job at a time, and no job inside a job");
    (void)was_busy;
    p->items = items, p->fn = fn, p->ctx = ctx, p->one_each = one_each;
    bool shared = p->threads > 1 && items > 1;
    if (shared)
        open_job(p);
    else
        atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    work(&p->workers[0]);
    if (shared) {
        if (one_each) wait_until_all_out(p);
        atomic_fetch_and(&p->state, ~OPEN);
        wait_until_all_out(p);
    }
    atomic_store_explicit(&p->busy, false, memory_order_release);
}

void thread_pool_run(struct thread_pool *p, int64_t items, thread_pool_fn *fn, void *ctx) {
    run_job(p, items, fn, ctx, false);
}

void thread_pool_run_each(struct thread_pool *p, thread_pool_fn *fn, void *ctx) {
    run_job(p, p->threads, fn, ctx, true);
}

/* ---- life */

/* Spinning beside more threads than cores would only keep the others from their work. */
static int spin_turns_for(int threads) {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return SPIN_TURNS;
    return threads <= CPU_COUNT(&cores) ? SPIN_TURNS : 0;
}

static struct thread_pool *allocate(int threads) {
    struct thread_pool *p = aligned_alloc(CACHE_LINE, sizeof *p);
    struct worker *workers = aligned_alloc(CACHE_LINE, sizeof *workers * (size_t)threads);
    if (!p || !workers) {
        free(p);
        free(workers);
        return NULL;
    }
    memset(p, 0, sizeof *p);
    memset(workers, 0, sizeof *workers * (size_t)threads);
    p->workers = workers;
    p->threads = threads;
    p->spin_turns = spin_turns_for(threads);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    return p;
}

enum status thread_pool_open(struct thread_pool **out, int threads, struct error *err) {
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return error_set(err, STATUS_USAGE, "%d threads: expected 1 to %d", threads, MAX_THREADS);
    struct thread_pool *p = allocate(threads);
    if (!p) return error_set(err, STATUS_NO_MEMORY, "no memory for a pool of %d threads", threads);
    for (int i = 0; i < threads; i++) p->workers[i].pool = p, p->workers[i].index = i;
    for (p->started = 1; p->started < threads; p->started++) {
        struct worker *w = &p->workers[p->started];
        int e = pthread_create(&w->thread, NULL, worker_main, w);
        if (e != 0) {
            int started = p->started;
            thread_pool_close(p);
            return error_set(err, STATUS_RUN_FAILED, "cannot start thread %d of %d: %s",
                             started + 1, threads, strerror(e));
        }
    }
    *out = p;
    return STATUS_OK;
}

void thread_pool_close(struct thread_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    free(p->workers);
    free(p);
}

int thread_pool_threads(const struct thread_pool *p) {
    return p->threads;
}

uint64_t thread_pool_progress(const struct thread_pool *p) {
    uint64_t sum = 0;
    for (int i = 0; i < p->threads; i++)
        sum += atomic_load_explicit(&p->workers[i].finished, memory_order_relaxed);
    return sum;
}
