/* Sums over devices alone, as every layer takes two of them: each device has a part [T][C], each
 * gets the sum. For micro-benchmarks; no model, no session. */
#ifndef ENGINE_SUM_BENCH_H
#define ENGINE_SUM_BENCH_H

#include "engine/engine.h"

struct sum_time { /* of one sum, on the device that took longest */
    double median_s, min_s, max_s;
    int64_t runs;
    int64_t wrong; /* of the sums that were looked at, some of each device's; -1: none was, since
                      the library's order is not known */
};

struct sum_bench;
/* Opens opts->devices (two or more) of opts->device and joins them by opts->exchange_backend; the
 * other options that matter are dtype and threads. Errors: those of opening an engine. */
enum status sum_bench_open(struct sum_bench **out, const struct engine_opts *opts,
                           struct error *err);
void sum_bench_close(struct sum_bench *b);               /* NULL is legal */
const char *sum_bench_device(const struct sum_bench *b); /* name of the first */
/* Whether sums are taken in rank order (comm_group.c), or in one of the library's own. */
bool sum_bench_in_rank_order(const struct sum_bench *b);
/* Sums parts [rows][cols] of normal values, one after another, as the engine does, for `warmup_s`
 * and then for `seconds`, at least once each. STATUS_NO_MEMORY. After another error the benchmark
 * is only good for closing. */
enum status sum_bench_run(struct sum_bench *b, int32_t rows, int32_t cols, double warmup_s,
                          double seconds, struct sum_time *out, struct error *err);

#endif
