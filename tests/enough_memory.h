/* For tests that open a device: what the host has left decides whether they can run. A device
 * refuses what would not leave 64 MiB free, which is no finding. Asked first in main(), which then
 * returns TEST_SKIPPED: a named skip. */
#ifndef TESTS_ENOUGH_MEMORY_H
#define TESTS_ENOUGH_MEMORY_H

#include "kernels/host_memory.h"

#include <stdio.h>

enum { TEST_SKIPPED = 77 }; /* SKIP_RETURN_CODE in tests/CMakeLists.txt */

/* mib: what the test takes at its most, and what stays free. */
static inline bool enough_memory(int mib) {
    const struct host_memory m = host_memory_read("");
    const int64_t have_mib = m.available_bytes >> 20;
    if (have_mib >= mib) return true;
    printf("skipped: needs %d MiB of memory, %lld MiB are available %s\n", mib, (long long)have_mib,
           m.group_decides ? "in this control group" : "on this host");
    return false;
}

#endif
