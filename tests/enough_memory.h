/* For tests that open a device: what the host has left decides whether they can run. A device
 * refuses what would not leave 64 MiB free, which is no finding. Asked first in main(), which then
 * returns TEST_SKIPPED: a named skip. */
#ifndef TESTS_ENOUGH_MEMORY_H
#define TESTS_ENOUGH_MEMORY_H

#include "kernels/host_memory.h"

#include <stdio.h>

enum { TEST_SKIPPED = 77 }; /* SKIP_RETURN_CODE in tests/CMakeLists.txt */

/* A sanitizer keeps books in memory of its own: this many times what the program touches, measured
 * on the tests that measure rates. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_MEMORY_TIMES 5
#elif __has_feature(address_sanitizer)
#define TEST_MEMORY_TIMES 2
#endif
#elif defined(__SANITIZE_THREAD__)
#define TEST_MEMORY_TIMES 5
#elif defined(__SANITIZE_ADDRESS__)
#define TEST_MEMORY_TIMES 2
#endif
#ifndef TEST_MEMORY_TIMES
#define TEST_MEMORY_TIMES 1
#endif

/* mib: what the test takes at its most without a sanitizer, and what stays free. */
static inline bool enough_memory(int mib) {
    const struct host_memory m = host_memory_read("");
    const int64_t have_mib = m.available_bytes >> 20;
    mib *= TEST_MEMORY_TIMES;
    if (have_mib >= mib) return true;
    printf("skipped: needs %d MiB of memory, %lld MiB are available %s\n", mib, (long long)have_mib,
           m.group_decides ? "in this control group" : "on this host");
    return false;
}

#endif
