/* The state behind fake_cupti.c, for tests that hold the library open: what a test tells it, and
 * what it learns of it. */
#ifndef FAKES_FAKE_CUPTI_H
#define FAKES_FAKE_CUPTI_H

#include "kernels/activity/cupti_api.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

struct fake_cupti {
    /* what it answers */
    int32_t subscribe_result, enable_result, flush_result;
    int32_t failing_kind; /* whose enable gives enable_result; 0: all */
    uint32_t version;
    size_t dropped; /* to be counted once */
    size_t drops;   /* to be counted each time */
    bool works;     /* an op that was told leaves a call and a kernel, from begin to end */
    bool stray;     /* each flush finds a kernel that nobody has told of */
    bool late;      /* external correlations come after all else */
    int more;       /* flushes after which a buffer is still kept back */
    /* what it saw */
    uint64_t enabled; /* mask of kinds */
    int subscribed, callbacks, requests, refused, flushes;
    cupti_timestamp *clock;
    /* what a test makes it do: write a record of any kind; copy a node of a graph */
    void (*put)(const void *record);
    void (*clone)(void *node, void *original);
};

/* Opens the library and resets its state: it does nothing by itself. Keep *handle until the end. */
static inline struct fake_cupti *fake_cupti_open(const char *path, void **handle) {
    struct fake_cupti *(*state)(void) = NULL;
    *handle = dlopen(path, RTLD_NOW);
    void *at = *handle ? dlsym(*handle, "fake_cupti_reset") : NULL;
    memcpy(&state, &at, sizeof at);
    return state ? state() : NULL;
}

#endif
