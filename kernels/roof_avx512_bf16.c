/* Roof of AVX512_BF16: vdpbf16ps adds two products of bf16 to each of 16 f32 sums. */
#include "kernels/roof.h"
#include "kernels/vector.h"

double roof_avx512_bf16(int64_t turns) {
    enum { CHAINS = 24, FLOPS = 16 * 2 * 2 };
    __m512 sum[CHAINS];
    volatile uint32_t ones = 0x3f803f80, halves = 0xbf003f00; /* (1, 1) . (0.5, -0.5) = 0 */
    const __m512bh a = (__m512bh)_mm512_set1_epi32((int32_t)ones);
    const __m512bh b = (__m512bh)_mm512_set1_epi32((int32_t)halves);
    UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int64_t t = 0; t < turns; t++) {
        UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
    }
    volatile float sink = 0;
    UNROLL for (int i = 0; i < CHAINS; i++) sink = sink + _mm512_reduce_add_ps(sum[i]);
    return (double)FLOPS * CHAINS * (double)turns;
}
