/* Addresses of shared memory as PTX wants them: 32 bits. Under ptx.cuh and mma.cuh. */
#ifndef KERNELS_CUDA_SHARED_ADDRESS_CUH
#define KERNELS_CUDA_SHARED_ADDRESS_CUH

#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

#endif
