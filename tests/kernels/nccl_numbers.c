/* The numbers of NCCL's own header, for test_nccl_api.c, in its order. */
#include <nccl.h>
#include <stddef.h>

/* The magic word is a number in the initializer alone. */
static const ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;
unsigned nccl_header_magic(void);
unsigned nccl_header_magic(void) {
    return fresh.magic;
}

extern const long long nccl_header_numbers[];
const long long nccl_header_numbers[] = {offsetof(ncclConfig_t, size),
                                         offsetof(ncclConfig_t, magic),
                                         offsetof(ncclConfig_t, version),
                                         offsetof(ncclConfig_t, blocking),
                                         offsetof(ncclConfig_t, cgaClusterSize),
                                         NCCL_CONFIG_UNDEF_INT,
                                         sizeof(ncclUniqueId),
                                         ncclSuccess,
                                         ncclInProgress,
                                         ncclUint8,
                                         ncclFloat32,
                                         ncclBfloat16,
                                         ncclSum};
