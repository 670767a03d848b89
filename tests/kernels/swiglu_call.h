/* For the tests of counters: a device of the CPU and a call that keeps it busy. After cmocka.h. */
#ifndef SWIGLU_CALL_H
#define SWIGLU_CALL_H

#include "kernels/device.h"

static struct device *open_device(int threads) {
    struct device_opts o = {.kind = DEVICE_CPU, .dtype = DTYPE_F32, .threads = threads};
    struct device *dev;
    struct error err = {""};
    o.head_dim = 64;
    if (device_open(&dev, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    return dev;
}

enum { ROWS = 64, F = 1024 };

static struct op_call swiglu(struct device *dev, struct arena **arena) {
    const size_t bytes = (size_t)ROWS * F * sizeof(float);
    assert_int_equal(arena_open(arena, dev, MEMORY_OTHER, 3 * bytes, NULL), STATUS_OK);
    return (struct op_call){.op = OP_SWIGLU,
                            .rank = SHARED_RANK,
                            .layer = -1,
                            .swiglu = {.in = arena_take(*arena, SHARED_RANK, 2 * bytes),
                                       .out = arena_take(*arena, SHARED_RANK, bytes),
                                       .rows = ROWS,
                                       .F = F,
                                       .dtype = DTYPE_F32}};
}

#endif
