/* Spans on a GPU: an event before and after each op, turned into host time at the next
 * synchronisation by their distance from an origin whose host time is known. The events cost about
 * a microsecond an op: they are there only while spans are enabled, in chunks that nobody measures,
 * and a graph that was captured has none of them. */
#include "kernels/cost.h"
#include "kernels/cuda/cuda_core.h"

#include <stdlib.h>

static void release(struct cuda *c) {
    for (int64_t i = 0; i < c->timed_capacity; i++) {
        if (c->timed[i].begin) cudaEventDestroy(c->timed[i].begin);
        if (c->timed[i].end) cudaEventDestroy(c->timed[i].end);
    }
    free(c->timed);
    c->timed = NULL;
    c->timed_n = c->timed_capacity = 0;
}

enum status cuda_spans_open(struct device *dev, int64_t capacity, struct error *err) {
    struct cuda *c = cuda_of(dev);
    release(c);
    if (capacity <= 0) return STATUS_OK;
    c->timed = calloc((size_t)capacity, sizeof *c->timed);
    if (!c->timed)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %lld events", (long long)capacity);
    c->timed_capacity = capacity;
    cudaError_t e = cudaSuccess;
    for (int64_t i = 0; i < capacity && e == cudaSuccess; i++) {
        e = cudaEventCreate(&c->timed[i].begin);
        if (e == cudaSuccess) e = cudaEventCreate(&c->timed[i].end);
    }
    if (e != cudaSuccess) release(c);
    cuda_spans_begin(dev);
    return cuda_status(e, "events of spans", err);
}

void cuda_spans_begin(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    cuda_check(dev, cudaEventRecord(c->origin, c->gpu.stream), "origin of spans");
    cuda_check(dev, cudaEventSynchronize(c->origin), "origin of spans");
    c->origin_ns = monotonic_ns();
    c->timed_n = 0;
}

void cuda_spans_run(struct device *dev, const struct op_call *call) {
    struct cuda *c = cuda_of(dev);
    const bool room = c->timed_n < c->timed_capacity;
    struct timed_call *t = room ? &c->timed[c->timed_n++] : NULL;
    if (!room) dev->spans.dropped++;
    if (t) {
        t->call = *call;
        cuda_check(dev, cudaEventRecord(t->begin, c->gpu.stream), "event of a span");
    }
    cuda_run_call(dev, call);
    if (t) cuda_check(dev, cudaEventRecord(t->end, c->gpu.stream), "event of a span");
}

/* Host copy of the parameters that a call reads on the device. */
static const struct step_params *host_step(const struct cuda *c, const struct op_call *call) {
    const void *device = op_step(call);
    for (int i = 0; i < STEP_COPIES; i++)
        if (device && c->steps[i].device == device) return &c->steps[i].host;
    return NULL;
}

static int64_t host_ns(const struct cuda *c, cudaEvent_t event) {
    float ms = 0;
    cudaEventElapsedTime(&ms, c->origin, event);
    return c->origin_ns + (int64_t)((double)ms * 1e6);
}

void cuda_spans_collect(struct device *dev) {
    struct cuda *c = cuda_of(dev);
    for (int64_t i = 0; i < c->timed_n; i++) {
        const struct timed_call *t = &c->timed[i];
        span_add(dev, &t->call, host_step(c, &t->call), host_ns(c, t->begin), host_ns(c, t->end));
    }
    c->timed_n = 0;
}
