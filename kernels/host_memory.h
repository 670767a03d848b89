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

/* What the kernel says of this process, through files that stay open: asked around every chunk. */
struct host_self {
    int statm, status, clear_refs; /* -1: not there */
};
struct host_self host_self_open(void);
void host_self_close(struct host_self *self);
/* Resident set. */
int64_t host_resident_bytes(const struct host_self *self);
/* Its most since the process began or since the last successful reset (VmHWM); 0: not told here.
 * resident, or NULL: the resident set at that moment. */
int64_t host_resident_peak_bytes(const struct host_self *self, int64_t *resident);
/* False where the system does not let the process reset it. */
bool host_resident_peak_reset(const struct host_self *self);

#endif
