/* See op_runs.h. After it: cmd_kernels.c. */
#include "kernels/op_runs.h"

#include "kernels/device_core.h"

#include <math.h>

/* Longer than the host is ever away; as far as there are marks. */
static const double AHEAD_S = 0.02;

static int mark_of(int64_t run) {
    return (int)(run % DEVICE_MARKS);
}

/* A CPU has run an op when it is issued: nothing is ahead there. */
struct op_runs op_runs_begin(struct op_bench *b) {
    struct device *dev = op_bench_device(b);
    const bool asynchronous = dev->backend->kind == DEVICE_CUDA;
    device_mark(dev, mark_of(0));
    return (struct op_runs){
        .b = b, .ahead = asynchronous, .most_ahead = asynchronous ? DEVICE_MARKS - 2 : 0};
}

enum status op_runs_next(struct op_runs *r, double *seconds, struct error *err) {
    struct device *dev = op_bench_device(r->b);
    enum status s = STATUS_OK;
    while (s == STATUS_OK && r->issued <= r->passed + r->ahead) {
        s = op_bench_issue(r->b, err);
        device_mark(dev, mark_of(++r->issued));
    }
    if (s == STATUS_OK) s = device_mark_wait(dev, mark_of(r->passed + 1), err);
    if (s != STATUS_OK) return s;
    *seconds = (double)device_mark_ns(dev, mark_of(r->passed), mark_of(r->passed + 1)) * 1e-9;
    r->passed++;
    r->ahead = (int)fmin(fmax(AHEAD_S / fmax(*seconds, 1e-9), 1), r->most_ahead);
    return STATUS_OK;
}

enum status op_runs_end(struct op_runs *r, struct error *err) {
    return device_sync(op_bench_device(r->b), err);
}
