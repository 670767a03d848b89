/* Counter-based random numbers: the value at an index depends on (seed, stream, index) alone, so
 * any slice can be generated anywhere, on any device, in any order, and is the same numbers.
 *
 * Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
 * 2011. */
#ifndef KERNELS_RANDOM_H
#define KERNELS_RANDOM_H

#include <stdint.h>

#ifdef __CUDACC__
#define RANDOM_FUNCTION static inline __host__ __device__
#else
#define RANDOM_FUNCTION static inline
#endif

RANDOM_FUNCTION void philox4x32(uint64_t key, const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Four almost normal values (mean 0, variance 1) of a stream: values 4*index4 .. 4*index4+3. Each
 * is the sum of the four bytes of a Philox word, shifted and scaled: 1,021 levels within +-3.45,
 * exact in integers up to one multiplication, hence the same bits on every device. */
RANDOM_FUNCTION void random_normal4(uint64_t seed, uint64_t stream, uint64_t index4, float out[4]) {
    uint32_t c[4] = {(uint32_t)index4, (uint32_t)(index4 >> 32), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    uint32_t w[4];
    philox4x32(seed, c, w);
    for (int i = 0; i < 4; i++) {
        int32_t sum =
            (int32_t)((w[i] & 255u) + (w[i] >> 8 & 255u) + (w[i] >> 16 & 255u) + (w[i] >> 24));
        out[i] = (float)(sum - 510) * 0.0067658083f; /* 1 / sqrt(4 * (256^2 - 1) / 12) */
    }
}

#endif
