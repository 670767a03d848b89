/* The ring of spans of a device: allocated when spans are switched on, filled by the backend, read
 * and reset by the engine between steps. */
#include "kernels/cost.h"
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
    struct span_ring *r = &dev->ring;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER,
                  -r->capacity * (int64_t)sizeof *r->spans);
    free(r->spans);
    *r = (struct span_ring){0};
}

enum status device_spans_enable(struct device *dev, int64_t capacity, struct error *err) {
    release(dev);
    if (capacity <= 0) return STATUS_OK;
    struct span_ring *r = &dev->ring;
    if ((uint64_t)capacity > SIZE_MAX / sizeof *r->spans ||
        !(r->spans = malloc((size_t)capacity * sizeof *r->spans)))
        return error_set(err, STATUS_NO_MEMORY, "no memory for %lld spans of %zu bytes",
                         (long long)capacity, sizeof *r->spans);
    /* Touched now, so that no page fault falls into a step. */
    memset(r->spans, 0, (size_t)capacity * sizeof *r->spans);
    r->capacity = capacity;
    dev->allocations++;
    ledger_charge(&dev->ledger, SHARED_RANK, MEMORY_OTHER, capacity * (int64_t)sizeof *r->spans);
    return STATUS_OK;
}

void span_add(struct device *dev, const struct op_call *call, int64_t begin_ns, int64_t end_ns) {
    struct span_ring *r = &dev->ring;
    if (r->n == r->capacity) {
        r->dropped++;
        return;
    }
    struct cost cost = op_cost(call, op_step(call));
    r->spans[r->n++] = (struct span){.begin_ns = begin_ns,
                                     .end_ns = end_ns,
                                     .flops = cost.flops,
                                     .bytes = cost.bytes,
                                     .rank = call->rank,
                                     .layer = call->layer,
                                     .op = (uint8_t)call->op,
                                     .role = (uint8_t)call->role,
                                     .variant = dev->chosen_index[call->op]};
}

const struct span *device_spans(struct device *dev, int64_t *n, int64_t *dropped) {
    *n = dev->ring.n;
    if (dropped) *dropped = dev->ring.dropped;
    return dev->ring.spans;
}

void device_spans_reset(struct device *dev) {
    dev->ring.n = dev->ring.dropped = 0;
}
