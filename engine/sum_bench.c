/* Sums over devices, measured. See sum_bench.h. Before it: `bench kernels`; after it: comm_group.c,
 * whose calls run here as they do in a step. */
#include "engine/sum_bench.h"

#include "engine/engine_core.h"
#include "kernels/bf16.h"
#include "kernels/random.h"

#include <stdlib.h>
#include <string.h>

/* Sums are issued in batches of about this long, so that starting the threads does not count. */
static const double BATCH_S = 0.02;
enum { BATCH_MOST = 1000, BATCHES_MOST = 10000, LOOKED_AT = 1024 };

/* What one device has. */
struct summand {
    struct arena *arena; /* owned */
    void *partial[MAX_RANKS], *out;
    struct forward forward;
    struct op_sink sink;
    int64_t ns, wrong;
};

struct sum_bench {
    struct devices devices;
    struct device_info info;
    enum dtype dtype;
    struct model_config m; /* C of the sum at hand */
    int32_t rows;
    int batch;
    struct summand of[MAX_RANKS];
};

/* ---- life */

enum status sum_bench_open(struct sum_bench **out, const struct engine_opts *opts,
                           struct error *err) {
    *out = NULL;
    if (opts->devices < 2)
        return error_set(err, STATUS_USAGE, "sums over %d devices: expected at least 2",
                         opts->devices);
    struct sum_bench *b = calloc(1, sizeof *b);
    if (!b) return error_set(err, STATUS_NO_MEMORY, "no memory for a benchmark");
    struct engine_opts o = *opts;
    o.tensor_parallel_size = o.devices;
    b->dtype = o.dtype;
    const enum status s = devices_open(&b->devices, &o, &b->m, err);
    if (s == STATUS_OK) {
        device_info(b->devices.dev[0], &b->info);
        *out = b;
    } else {
        sum_bench_close(b);
    }
    return s;
}

static enum status give_back(void *ctx, int i, struct error *err) {
    struct sum_bench *b = ctx;
    (void)err;
    arena_close(b->of[i].arena);
    b->of[i].arena = NULL;
    return STATUS_OK;
}

void sum_bench_close(struct sum_bench *b) {
    if (!b) return;
    if (b->devices.crew) devices_each(&b->devices, give_back, b, NULL);
    devices_close(&b->devices);
    free(b);
}

const char *sum_bench_device(const struct sum_bench *b) {
    return b->info.name;
}

static const char *exchange_of(const struct sum_bench *b) {
    return b->info.variant[OP_EXCHANGE];
}

bool sum_bench_in_rank_order(const struct sum_bench *b) {
    return !exchange_takes_sums(exchange_of(b));
}

/* ---- the parts */

static enum status emit_now(void *ctx, const struct op_call *call,
                            const struct weight_shape *linear, struct error *err) {
    (void)linear;
    return device_run(ctx, call, err);
}

/* A device is a rank here. */
static enum status take(void *ctx, int i, struct error *err) {
    struct sum_bench *b = ctx;
    struct summand *s = &b->of[i];
    const size_t all = matrix_bytes(b->rows, b->m.C, b->dtype);
    const size_t slice = matrix_bytes(rows_slice(b->rows, b->devices.n, 0).n, b->m.C, b->dtype);
    struct layout l = {0};
    layout_add(&l, i, all), layout_add(&l, i, all);
    for (int k = 1; k < b->devices.n; k++) layout_add(&l, SHARED_RANK, slice);
    const enum status status =
        arena_open(&s->arena, b->devices.dev[i], MEMORY_COMM, layout_total(&l), err);
    if (status != STATUS_OK) return status;
    s->out = arena_take(s->arena, i, all);
    for (int k = 0; k < b->devices.n; k++)
        s->partial[k] = arena_take(s->arena, k == i ? i : SHARED_RANK, k == i ? all : slice);
    s->forward = (struct forward){.m = &b->m,
                                  .ranks = b->devices.ranks[i],
                                  .dtype = b->dtype,
                                  .comm = comm_of(b->devices.ranks[i], exchange_of(b))};
    s->sink = (struct op_sink){emit_now, b->devices.dev[i]};
    device_fill_normal(b->devices.dev[i], s->partial[i], (int64_t)b->rows * b->m.C,
                       (uint64_t)i + 1);
    return device_sync(b->devices.dev[i], err);
}

/* ---- summing */

static enum status sum_once(struct sum_bench *b, int i, struct error *err) {
    struct summand *s = &b->of[i];
    const struct reduction r = {
        .partial = s->partial, .out = s->out, .rows = b->rows, .role = ROLE_NONE, .layer = -1};
    return s->forward.comm->all_reduce(&s->forward, &r, &s->sink, err);
}

static enum status run_batch(void *ctx, int i, struct error *err) {
    struct sum_bench *b = ctx;
    struct device *dev = b->devices.dev[i];
    enum status s = STATUS_OK;
    device_mark(dev, 0);
    for (int k = 0; k < b->batch && s == STATUS_OK; k++) s = sum_once(b, i, err);
    device_mark(dev, 1);
    if (s == STATUS_OK) s = device_sync(dev, err);
    b->of[i].ns = s == STATUS_OK ? device_mark_ns(dev, 0, 1) : 0;
    return s;
}

/* Seconds of one sum. */
static enum status time_batch(struct sum_bench *b, double *seconds, struct error *err) {
    const enum status s = devices_together(&b->devices, run_batch, b, err);
    int64_t most = 1;
    for (int i = 0; i < b->devices.n; i++)
        if (b->of[i].ns > most) most = b->of[i].ns;
    *seconds = (double)most * 1e-9 / b->batch;
    return s;
}

/* Batches for so long, at least one; times, if not NULL, has room for BATCHES_MOST. */
static enum status run_for(struct sum_bench *b, double seconds, double *times, int *n,
                           struct error *err) {
    const int64_t begin = now_ns();
    *n = 0;
    do {
        double t;
        const enum status s = time_batch(b, &t, err);
        if (s != STATUS_OK) return s;
        if (times) times[*n] = t;
        ++*n;
    } while ((double)(now_ns() - begin) < seconds * 1e9 && *n < BATCHES_MOST);
    return STATUS_OK;
}

/* ---- what came of it */

/* To the element type and back. */
static float rounded(const struct sum_bench *b, float x) {
    return b->dtype == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

/* Sums [begin, begin + LOOKED_AT) as one device with all parts would take them; begin is a multiple
 * of four. */
static void expect(const struct sum_bench *b, int64_t begin, float *out) {
    for (int64_t i = 0; i < LOOKED_AT; i += 4)
        for (int rank = 0; rank < b->devices.n; rank++) {
            float four[4];
            random_normal4((uint64_t)rank + 1, 0, (uint64_t)(begin + i) / 4, four);
            for (int j = 0; j < 4; j++) {
                const float part = rounded(b, four[j]);
                out[i + j] = rank == 0 ? part : out[i + j] + part;
            }
        }
}

/* Sum k of those read, widened. */
static float sum_at(const struct sum_bench *b, const float *raw, int64_t k) {
    bf16 narrow;
    if (b->dtype == DTYPE_F32) return raw[k];
    memcpy(&narrow, (const char *)raw + (size_t)k * sizeof narrow, sizeof narrow);
    return bf16_to_f32(narrow);
}

/* Of every device's slice of the rows the first sums. */
static enum status count_wrong(void *ctx, int i, struct error *err) {
    struct sum_bench *b = ctx;
    struct summand *s = &b->of[i];
    const int64_t all = (int64_t)b->rows * b->m.C;
    float expected[LOOKED_AT], raw[LOOKED_AT];
    s->wrong = 0;
    for (int d = 0; d < b->devices.n; d++) {
        const int64_t begin = (int64_t)rows_slice(b->rows, b->devices.n, d).begin * b->m.C / 4 * 4;
        const int64_t n = all - begin < LOOKED_AT ? all - begin : LOOKED_AT;
        device_read(b->devices.dev[i], raw, (const char *)s->out + matrix_bytes(1, begin, b->dtype),
                    matrix_bytes(1, n, b->dtype));
        expect(b, begin, expected);
        for (int64_t k = 0; k < n; k++) s->wrong += sum_at(b, raw, k) != rounded(b, expected[k]);
    }
    return device_sync(b->devices.dev[i], err);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarize(const struct sum_bench *b, double *times, int n, struct sum_time *out) {
    qsort(times, (size_t)n, sizeof *times, by_value);
    *out = (struct sum_time){.median_s = (times[(n - 1) / 2] + times[n / 2]) / 2,
                             .min_s = times[0],
                             .max_s = times[n - 1],
                             .runs = (int64_t)n * b->batch,
                             .wrong = sum_bench_in_rank_order(b) ? 0 : -1};
    for (int i = 0; i < b->devices.n && sum_bench_in_rank_order(b); i++)
        out->wrong += b->of[i].wrong;
}

static enum status measure(struct sum_bench *b, double warmup_s, double seconds, double *times,
                           struct sum_time *out, struct error *err) {
    double once;
    int n;
    b->batch = 1;
    enum status s = time_batch(b, &once, err); /* the first of all costs more */
    if (s == STATUS_OK) s = time_batch(b, &once, err);
    if (s != STATUS_OK) return s;
    const double fit = BATCH_S / once;
    b->batch = fit < 1 ? 1 : fit > BATCH_MOST ? BATCH_MOST : (int)fit;
    s = run_for(b, warmup_s, NULL, &n, err);
    if (s == STATUS_OK) s = run_for(b, seconds, times, &n, err);
    if (s == STATUS_OK && sum_bench_in_rank_order(b))
        s = devices_each(&b->devices, count_wrong, b, err);
    if (s == STATUS_OK) summarize(b, times, n, out);
    return s;
}

enum status sum_bench_run(struct sum_bench *b, int32_t rows, int32_t cols, double warmup_s,
                          double seconds, struct sum_time *out, struct error *err) {
    double *times = malloc(BATCHES_MOST * sizeof *times);
    if (!times) return error_set(err, STATUS_NO_MEMORY, "no memory for times");
    b->m.C = cols, b->rows = rows;
    enum status s = devices_each(&b->devices, take, b, err);
    if (s == STATUS_OK) s = measure(b, warmup_s, seconds, times, out, err);
    devices_each(&b->devices, give_back, b, NULL);
    free(times);
    return s;
}
