/* The part of `bench kernels` that measures sums over several devices, for --op exchange. */
#ifndef HARNESS_SUM_RATES_H
#define HARNESS_SUM_RATES_H

#include "harness/arguments.h"

#include "engine/engine.h"

struct sum_request {
    enum device_kind device;
    enum dtype dtype;
    int devices;                 /* 0: all GPUs, or two devices of a CPU */
    const char *kernel;          /* of OP_EXCHANGE; NULL: all that serve */
    struct argument_list shapes; /* none: 1 MiB to 1 GiB, and a block of the 7B model */
    double warmup_s, seconds;
    bool json;
};

/* Measures and prints. STATUS_USAGE, STATUS_UNSUPPORTED: nothing could be measured. */
enum status sum_rates(const struct sum_request *r, struct error *err);

#endif
