/* What the host has left, before the kernel's OOM killer decides: physical memory and the limits of
 * the control groups (v1 and v2) that this process is in. */
#ifndef KERNELS_HOST_MEMORY_H
#define KERNELS_HOST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct host_memory {
    int64_t total_bytes;     /* physical, or the tightest control group's limit where lower */
    int64_t available_bytes; /* now, without swapping; file pages count as available */
    bool group_decides;      /* available_bytes comes from a control group's limit */
};
/* root: "" for this system; tests give a folder that holds proc/ and sys/. */
struct host_memory host_memory_read(const char *root);

/* Resident set of this process. */
int64_t host_resident_bytes(void);
/* Its most since the process began or since the last successful reset (VmHWM); 0: not told here. */
int64_t host_resident_peak_bytes(void);
/* False where the system does not let the process reset it. */
bool host_resident_peak_reset(void);

#endif
