/* The spans of a device: a buffer allocated when spans are switched on, filled by the backend, read
 * and reset by the engine between steps. */
#include "kernels/cost.h"
#include "kernels/counters.h"
#include "kernels/device_core.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void release(struct device *dev) {
    struct span_buffer *b = &dev->spans;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER,
                  -b->capacity * (int64_t)sizeof *b->spans);
    if (b->capacity > 0 && dev->backend->spans_open) dev->backend->spans_open(dev, 0, NULL);
    if (b->counts) {
        ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER,
                      -b->capacity * (int64_t)sizeof *b->counts);
        dev->backend->spans_count(dev, NULL, NULL);
    }
    free(b->counts);
    free(b->spans);
    *b = (struct span_buffer){0};
}

enum status device_spans_enable(struct device *dev, int64_t capacity, struct error *err) {
    release(dev);
    if (capacity <= 0) return STATUS_OK;
    struct span_buffer *b = &dev->spans;
    if ((uint64_t)capacity > SIZE_MAX / sizeof *b->spans ||
        !(b->spans = malloc((size_t)capacity * sizeof *b->spans)))
        return error_set(err, STATUS_NO_MEMORY, "no memory for %lld spans of %zu bytes",
                         (long long)capacity, sizeof *b->spans);
    /* Touched now, so that no page fault falls into a step. */
    memset(b->spans, 0, (size_t)capacity * sizeof *b->spans);
    b->capacity = capacity;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, capacity * (int64_t)sizeof *b->spans);
    if (!dev->backend->spans_open) return STATUS_OK;
    enum status s = dev->backend->spans_open(dev, capacity, err);
    if (s != STATUS_OK) release(dev);
    return s;
}

void span_add(struct device *dev, const struct op_call *call, const struct step_params *step,
              int64_t begin_ns, int64_t end_ns) {
    struct span_buffer *b = &dev->spans;
    if (b->n == b->capacity) {
        b->dropped++;
        return;
    }
    struct cost cost = op_cost(call, step);
    b->spans[b->n++] = (struct span){.begin_ns = begin_ns,
                                     .end_ns = end_ns,
                                     .flops = cost.flops,
                                     .bytes = cost.bytes,
                                     .rank = call->rank,
                                     .layer = call->layer,
                                     .op = (uint8_t)call->op,
                                     .role = (uint8_t)call->role,
                                     .variant = dev->chosen_index[call->op],
                                     .device = (uint8_t)dev->member};
}

enum status device_spans_count(struct device *dev, const struct counter_source *source,
                               struct error *err) {
    struct span_buffer *b = &dev->spans;
    if (b->capacity == 0) return error_set(err, STATUS_USAGE, "no spans are kept to count");
    if (!dev->backend->spans_count)
        return error_set(err, STATUS_UNSUPPORTED,
                         "they count what processors do; a GPU's are read by Nsight Compute");
    if (b->counts) return STATUS_OK;
    struct span_counts *counts = malloc((size_t)b->capacity * sizeof *counts);
    if (!counts)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the counts of %lld spans",
                         (long long)b->capacity);
    memset(counts, 0, (size_t)b->capacity * sizeof *counts);
    const enum status s =
        dev->backend->spans_count(dev, source ? source : &counter_source_perf, err);
    if (s != STATUS_OK) {
        free(counts);
        return s;
    }
    b->counts = counts;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, b->capacity * (int64_t)sizeof *counts);
    return STATUS_OK;
}

const struct span_counts *device_span_counts(struct device *dev) {
    return dev->spans.counts;
}

const struct span *device_spans(struct device *dev, int64_t *n, int64_t *dropped) {
    *n = dev->spans.n;
    if (dropped) *dropped = dev->spans.dropped;
    return dev->spans.spans;
}

void device_spans_reset(struct device *dev) {
    dev->spans.n = dev->spans.dropped = 0;
    if (dev->backend->spans_begin && dev->spans.capacity > 0) dev->backend->spans_begin(dev);
}
