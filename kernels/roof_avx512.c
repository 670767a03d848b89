/* Roof of AVX-512: f32 fused multiply-add, 24 chains to cover its latency on two ports. */
#include "kernels/roof.h"
#include "kernels/vector.h"

double roof_avx512(int64_t turns) {
    enum { CHAINS = 24 };
    vf sum[CHAINS];
    volatile float half = 0.5f, one = 1.0f;
    const vf a = vf_set(half), b = vf_set(one);
    UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_set((float)i);
    for (int64_t t = 0; t < turns; t++) {
        UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = vf_fma(sum[i], a, b);
    }
    volatile float sink = 0;
    UNROLL for (int i = 0; i < CHAINS; i++) sink = sink + vf_sum(sum[i]);
    return 2.0 * VF_LANES * CHAINS * (double)turns;
}
