/* The CPU as a device: a pool of threads, memory from mmap, kernels called directly. Owns the pool,
 * the workers' scratch and the pages of arenas. Below device.c, above the kernels. */
#include "kernels/cost.h"
#include "kernels/counters.h"
#include "kernels/device_core.h"
#include "kernels/host_memory.h"
#include "kernels/random.h"
#include "kernels/roof.h"

#include "kernels/element.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef HAVE_ONEDNN
/* Of libgomp, which oneDNN uses; not every compiler that builds this brings an omp.h. */
void omp_set_num_threads(int n);
#else
#define omp_set_num_threads(n) ((void)(n))
#endif

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

struct cpu {
    struct thread_pool *pool;
    char *scratch;
    size_t scratch_bytes;
    struct host_self self;
    bool peak_resets;      /* the kernel lets us reset VmHWM */
    int64_t sampled_bytes; /* otherwise: most that was seen since the reset */
    int64_t mark_ns[DEVICE_MARKS];
    struct counters *counters; /* read around ops where spans are counted, else NULL */
};

static const size_t huge_page = 2 << 20;
static const int64_t kept_free_bytes = 64 << 20; /* for the program beside its arenas */

/* ---- for kernels */

void device_parallel(struct device *dev, int64_t items, thread_pool_fn *fn, void *ctx) {
    thread_pool_run(((struct cpu *)dev->state)->pool, items, fn, ctx);
}

void *device_scratch(struct device *dev, int worker) {
    return ((struct cpu *)dev->state)->scratch + (size_t)worker * DEVICE_SCRATCH_BYTES;
}

int device_threads(const struct device *dev) {
    return thread_pool_threads(((const struct cpu *)dev->state)->pool);
}

/* ---- memory */

/* Most that an arena may have. */
static int64_t room_of(const struct host_memory *m) {
    return m->available_bytes > kept_free_bytes ? m->available_bytes - kept_free_bytes : 0;
}

/* Said before anything is touched: a process that goes over its limit is killed, not told. */
static enum status check_room(size_t bytes, struct error *err) {
    struct host_memory m = host_memory_read("");
    int64_t room = room_of(&m);
    if (bytes <= (uint64_t)room) return STATUS_OK;
    const double mib = 1024.0 * 1024;
    return error_set(err, STATUS_NO_MEMORY,
                     "%.1f MiB wanted, %.1f MiB left: %.1f MiB available %s, less %.0f MiB that "
                     "stay free",
                     (double)bytes / mib, (double)room / mib, (double)m.available_bytes / mib,
                     m.group_decides ? "in this control group" : "on this host",
                     (double)kept_free_bytes / mib);
}

static enum status mapping_failed(size_t bytes, struct error *err) {
    int e = errno;
    struct rlimit limit;
    char note[80] = "";
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        snprintf(note, sizeof note, "; the address space is limited to %.1f MiB (ulimit -v)",
                 (double)limit.rlim_cur / (1024.0 * 1024));
    return error_set(err, STATUS_NO_MEMORY, "cannot map %.1f MiB: %s%s",
                     (double)bytes / (1024.0 * 1024), strerror(e), note);
}

static size_t pages(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

/* Huge pages need addresses at multiples of their size: maps one more and returns the ends. */
static char *map_aligned(size_t bytes) {
    size_t slack = bytes >= huge_page ? huge_page : 0;
    char *at =
        mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || slack == 0) return at;
    size_t before = (huge_page - (uintptr_t)at % huge_page) % huge_page;
    if (before > 0) munmap(at, before);
    if (slack > before) munmap(at + before + bytes, slack - before);
    return at + before;
}

struct touching {
    char *base;
    size_t bytes;
    _Atomic int error;
};
enum { TOUCH_BYTES = 32 << 20 };

static void touch_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    struct touching *t = ctx;
    size_t begin = (size_t)item * TOUCH_BYTES, n = t->bytes - begin;
    if (n > TOUCH_BYTES) n = TOUCH_BYTES;
    if (madvise(t->base + begin, n, MADV_POPULATE_WRITE) == 0) return;
    if (errno != EINVAL) {
        atomic_store(&t->error, errno);
        return;
    }
    /* An older kernel. */
    volatile char *at = t->base + begin;
    for (size_t i = 0; i < n; i += 4096) at[i] = 0;
}

static void cpu_memory_close(struct device *dev, void *base, size_t bytes) {
    (void)dev;
    if (base) munmap(base, pages(bytes));
}

static enum status cpu_memory_open(struct device *dev, size_t bytes, void **base,
                                   struct error *err) {
    *base = NULL;
    enum status s = check_room(bytes, err);
    if (s != STATUS_OK) return s;
    struct touching t = {.bytes = pages(bytes)};
    t.base = map_aligned(t.bytes);
    if (t.base == MAP_FAILED) return mapping_failed(bytes, err);
    if (t.bytes >= huge_page) madvise(t.base, t.bytes, MADV_HUGEPAGE);
    device_parallel(dev, (int64_t)((t.bytes + TOUCH_BYTES - 1) / TOUCH_BYTES), touch_item, &t);
    if (t.error != 0) {
        munmap(t.base, t.bytes);
        errno = t.error;
        return mapping_failed(bytes, err);
    }
    *base = t.base;
    return STATUS_OK;
}

/* The high-water mark is the kernel's own (VmHWM, reset by writing 5 to /proc/self/clear_refs).
 * Where that is not allowed it is the most among the samples that were asked for here. */
static void cpu_memory_driver(struct device *dev, int64_t *bytes, int64_t *high_water) {
    struct cpu *c = dev->state;
    int64_t peak = 0;
    if (c->peak_resets && high_water)
        peak = host_resident_peak_bytes(&c->self, bytes);
    else
        *bytes = host_resident_bytes(&c->self);
    if (*bytes > c->sampled_bytes) c->sampled_bytes = *bytes;
    if (high_water) *high_water = peak > c->sampled_bytes ? peak : c->sampled_bytes;
}

static void cpu_memory_reset_high_water(struct device *dev) {
    struct cpu *c = dev->state;
    c->peak_resets = host_resident_peak_reset(&c->self);
    c->sampled_bytes = 0;
}

static void cpu_write(struct device *dev, void *dst, const void *src, size_t bytes) {
    (void)dev;
    memcpy(dst, src, bytes);
}

static void cpu_read(struct device *dev, void *dst, const void *src, size_t bytes) {
    (void)dev;
    memcpy(dst, src, bytes);
}

struct normal_filling {
    void *dst;
    int64_t n;
    enum dtype dtype;
    uint64_t seed;
};
enum { FILL_VALUES = 1 << 16 };

static void cpu_random_matrix(struct device *dev, const struct random_matrix *m,
                              const struct matrix_part *part, enum dtype dtype, void *out,
                              int64_t ld) {
    (void)dev; /* its memory is the host's */
    random_matrix_write(m, part, dtype, out, ld);
}

static void fill_normal_item(void *ctx, int64_t item, int worker) {
    const struct normal_filling *f = ctx;
    const int64_t begin = item * FILL_VALUES, left = f->n - begin;
    (void)worker;
    element_fill_normal(f->dst, begin, begin + (left < FILL_VALUES ? left : FILL_VALUES), f->dtype,
                        f->seed);
}

static void cpu_fill_normal(struct device *dev, void *dst, int64_t n, uint64_t seed) {
    struct normal_filling f = {dst, n, dev->dtype, seed};
    device_parallel(dev, (n + FILL_VALUES - 1) / FILL_VALUES, fill_normal_item, &f);
}

/* ---- running */

static enum status cpu_sync(struct device *dev, struct error *err) {
    (void)dev;
    (void)err;
    return STATUS_OK;
}

static enum status cpu_execute(struct device *dev, const struct op_call *call, struct error *err) {
    (void)err;
    op_function *run = dev->chosen[call->op]->run;
    const void *args = &call->embed; /* members of a union: all at one address */
    omp_set_num_threads(1);
    if (dev->spans.capacity == 0) {
        run(dev, args);
        return STATUS_OK;
    }
    struct counters *counters = ((struct cpu *)dev->state)->counters;
    struct span_counts counts = {0};
    if (counters) counters_begin(counters);
    const int64_t begin_ns = monotonic_ns();
    run(dev, args);
    const int64_t end_ns = monotonic_ns();
    if (counters) counts = counters_end(counters);
    const int64_t number = dev->spans.n;
    span_add(dev, call, op_step(call), begin_ns, end_ns);
    if (counters && dev->spans.n > number) dev->spans.counts[number] = counts;
    return STATUS_OK;
}

static enum status cpu_spans_count(struct device *dev, const struct counter_source *source,
                                   struct error *err) {
    struct cpu *c = dev->state;
    counters_close(c->counters);
    c->counters = NULL;
    return source ? counters_open(&c->counters, c->pool, source, err) : STATUS_OK;
}

/* An op has run when it was issued. */
static void cpu_mark(struct device *dev, int mark) {
    ((struct cpu *)dev->state)->mark_ns[mark] = monotonic_ns();
}

static enum status cpu_mark_wait(struct device *dev, int mark, struct error *err) {
    (void)dev, (void)mark, (void)err;
    return STATUS_OK;
}

static int64_t cpu_mark_ns(struct device *dev, int from, int to) {
    const struct cpu *c = dev->state;
    return c->mark_ns[to] - c->mark_ns[from];
}

static uint64_t cpu_progress(const struct device *dev) {
    return thread_pool_progress(((const struct cpu *)dev->state)->pool);
}

/* ---- key/value cache */

struct filling {
    struct device *dev;
    const struct kv_view *view;
    int32_t begin, end, blocks;
    uint64_t seed;
};
enum { FILL_POSITIONS = 64 };

/* Values of one position: a stream of its own, keys in its even blocks of four, values in its odd.
 */
static void fill_position(const struct kv_view *view, uint64_t seed, int head, int32_t position,
                          size_t at, void *k, void *v) {
    uint64_t stream = (uint64_t)head << 32 | (uint32_t)position;
    size_t D = (size_t)view->head_dim;
    for (size_t d = 0; d < D; d += 4) {
        float keys[4], values[4];
        random_normal4(seed, stream, d / 2, keys);
        random_normal4(seed, stream, d / 2 + 1, values);
        for (size_t i = 0; i < 4 && d + i < D; i++) {
            element_store(k, at * D + d + i, view->dtype, keys[i]);
            element_store(v, at * D + d + i, view->dtype, values[i]);
        }
    }
}

static void fill_item(void *ctx, int64_t item, int worker) {
    const struct filling *f = ctx;
    int head = (int)(item / f->blocks);
    int32_t begin = f->begin + (int32_t)(item % f->blocks) * FILL_POSITIONS;
    int32_t n = f->end - begin < FILL_POSITIONS ? f->end - begin : FILL_POSITIONS;
    char *k = device_scratch(f->dev, worker), *v = k + DEVICE_SCRATCH_BYTES / 2;
    for (int32_t i = 0; i < n; i++)
        fill_position(f->view, f->seed, head, begin + i, (size_t)i, k, v);
    f->view->layout->write(f->view, head, begin, n, k, f->view->head_dim, v, f->view->head_dim);
}

static void cpu_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                        uint64_t seed) {
    if (end <= begin) return;
    struct filling f = {dev, view, begin, end, (end - begin - 1) / FILL_POSITIONS + 1, seed};
    device_parallel(dev, (int64_t)view->heads * f.blocks, fill_item, &f);
}

static void cpu_kv_read(struct device *dev, const struct kv_view *view, int head, int32_t begin,
                        int32_t n, float *k, float *v) {
    (void)dev;
    view->layout->unpack(view, head, begin, n, k, v);
}

/* ---- rates */

struct copying {
    char *from, *to;
    size_t slice;
};

static void copy_slice(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct copying *c = ctx;
    memcpy(c->to + (size_t)item * c->slice, c->from + (size_t)item * c->slice, c->slice);
}

/* Of each of two buffers: twice the last cache, within reason. */
static size_t copy_bytes(void) {
    const long least = 128l << 20, most = 1l << 30;
    long twice = 2 * sysconf(_SC_LEVEL3_CACHE_SIZE);
    return (size_t)(twice < least ? least : twice > most ? most : twice);
}

/* A slice for each thread; the best of the rounds. */
static enum status cpu_measure_copy(struct device *dev, double seconds, double *bytes_per_s,
                                    struct error *err) {
    const size_t bytes = copy_bytes();
    struct thread_pool *pool = ((struct cpu *)dev->state)->pool;
    void *buffer;
    enum status s = cpu_memory_open(dev, 2 * bytes, &buffer, err);
    if (s != STATUS_OK) return s;
    struct copying c = {buffer, (char *)buffer + bytes, bytes / (size_t)thread_pool_threads(pool)};
    double moved = 2.0 * (double)c.slice * thread_pool_threads(pool);
    *bytes_per_s = 0;
    const int64_t end_ns = monotonic_ns() + (int64_t)(seconds * 1e9);
    do {
        int64_t begin_ns = monotonic_ns();
        thread_pool_run_each(pool, copy_slice, &c);
        double rate = moved / (double)(monotonic_ns() - begin_ns) * 1e9;
        if (rate > *bytes_per_s) *bytes_per_s = rate;
    } while (monotonic_ns() < end_ns);
    cpu_memory_close(dev, buffer, 2 * bytes);
    return STATUS_OK;
}

struct roofing {
    roof_function *fn;
    int64_t turns;
    struct device *dev;
};

static void roof_item(void *ctx, int64_t item, int worker) {
    (void)item;
    const struct roofing *r = ctx;
    *(double *)device_scratch(r->dev, worker) = r->fn(r->turns);
}

static double roof_round(struct device *dev, const struct roofing *r) {
    struct thread_pool *pool = ((struct cpu *)dev->state)->pool;
    int64_t begin_ns = monotonic_ns();
    thread_pool_run_each(pool, roof_item, (void *)r);
    double elapsed = (double)(monotonic_ns() - begin_ns), flops = 0;
    for (int i = 0; i < thread_pool_threads(pool); i++)
        flops += *(const double *)device_scratch(dev, i);
    return flops / elapsed * 1e9;
}

/* All threads at once, in rounds that grow until they take a tenth of the time; the best round. */
static double roof_rate(struct device *dev, roof_function *fn, double seconds) {
    struct roofing r = {.fn = fn, .turns = 1000, .dev = dev};
    double best = 0;
    const int64_t span_ns = (int64_t)(seconds * 1e9), end_ns = monotonic_ns() + span_ns;
    do {
        int64_t begin_ns = monotonic_ns();
        double rate = roof_round(dev, &r);
        if (rate > best) best = rate;
        if (monotonic_ns() - begin_ns < span_ns / 10) r.turns *= 2;
    } while (monotonic_ns() < end_ns);
    return best;
}

/* The set in use or the one before it: a Xeon of model 207 does f32 multiply-adds at twice the rate
 * of vdpbf16ps. */
static double cpu_measure_roof(struct device *dev, double seconds) {
    enum cpu_isa before = dev->isa > ISA_NONE ? dev->isa - 1 : ISA_NONE;
    double a = roof_rate(dev, roof_of(before, dev->dtype), seconds / 2);
    double b = roof_rate(dev, roof_of(dev->isa, dev->dtype), seconds / 2);
    return a > b ? a : b;
}

/* ---- life */

static void cpu_info(struct device *dev, struct device_info *out) {
    struct host_memory m = host_memory_read("");
    cpu_model_name(out->name, sizeof out->name);
    snprintf(out->isa, sizeof out->isa, "%s", cpu_isa_name(dev->isa));
    out->threads = device_threads(dev);
    out->memory_bytes = m.total_bytes;
    out->available_bytes = room_of(&m);
}

static enum status take_isa(struct device *dev, const char *asked, struct error *err) {
    enum cpu_isa best = cpu_isa_best();
    if (!cpu_isa_parse(asked ? asked : "auto", &dev->isa))
        return error_set(err, STATUS_USAGE,
                         "isa = %s: expected auto, none, avx2, avx512, avx512_bf16 or amx_bf16",
                         asked);
    if (dev->isa > best)
        return error_set(err, STATUS_UNSUPPORTED, "isa = %s: this machine has %s at best", asked,
                         cpu_isa_name(best));
    return STATUS_OK;
}

static int usable_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* OpenMP's number of threads belongs to a thread. With one, a library that is called from a worker
 * stays on that worker. */
static void start_worker(void *ctx, int64_t item, int worker) {
    (void)ctx;
    (void)item;
    (void)worker;
    omp_set_num_threads(1);
}

static enum status cpu_open(struct device *dev, const struct device_opts *opts, struct error *err) {
    struct cpu *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for a device");
    dev->state = c;
    c->self = host_self_open();
    enum status s = take_isa(dev, opts->isa, err);
    if (s != STATUS_OK) return s;
    s = thread_pool_open(&c->pool, opts->threads ? opts->threads : usable_cores(), err);
    if (s != STATUS_OK) return s;
    thread_pool_run_each(c->pool, start_worker, NULL);
    cpu_memory_reset_high_water(dev);
    size_t scratch_bytes = (size_t)device_threads(dev) * DEVICE_SCRATCH_BYTES;
    void *scratch;
    s = cpu_memory_open(dev, scratch_bytes, &scratch, err);
    if (s != STATUS_OK) return error_prefix(err, s, "scratch of %d threads", device_threads(dev));
    c->scratch = scratch, c->scratch_bytes = scratch_bytes;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_WORKSPACE, (int64_t)scratch_bytes);
    return STATUS_OK;
}

/* Each takes its threads from the same cores. */
static int cpu_count(void) {
    return MAX_RANKS;
}

static void cpu_close(struct device *dev) {
    struct cpu *c = dev->state;
    if (!c) return;
    cpu_memory_close(dev, c->scratch, c->scratch_bytes);
    thread_pool_close(c->pool);
    host_self_close(&c->self);
    free(c);
}

const struct backend backend_cpu = {
    .kind = DEVICE_CPU,
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .memory_open = cpu_memory_open,
    .memory_close = cpu_memory_close,
    .memory_driver = cpu_memory_driver,
    .memory_reset_high_water = cpu_memory_reset_high_water,
    .write = cpu_write,
    .read = cpu_read,
    .fill_normal = cpu_fill_normal,
    .random_matrix = cpu_random_matrix,
    .sync = cpu_sync,
    .mark = cpu_mark,
    .mark_wait = cpu_mark_wait,
    .mark_ns = cpu_mark_ns,
    .execute = cpu_execute,
    .spans_count = cpu_spans_count,
    .kv_fill = cpu_kv_fill,
    .kv_read = cpu_kv_read,
    .progress = cpu_progress,
    .count = cpu_count,
    .measure_copy = cpu_measure_copy,
    .measure_roof = cpu_measure_roof,
};
