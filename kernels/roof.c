/* Choice of the roof, and the one without vectors. */
#include "kernels/roof.h"

roof_function *roof_of(enum cpu_isa isa, enum dtype dtype) {
    static roof_function *const of[CPU_ISAS] = {[ISA_NONE] = roof_none,
                                                [ISA_AVX2] = roof_avx2,
                                                [ISA_AVX512] = roof_avx512,
                                                [ISA_AVX512_BF16] = roof_avx512_bf16,
                                                [ISA_AMX_BF16] = roof_amx_bf16};
    if (dtype == DTYPE_F32 && isa > ISA_AVX512) isa = ISA_AVX512;
    return of[isa];
}

/* Sums converge to 2: neither overflow nor denormals slow them down. */
double roof_none(int64_t turns) {
    enum { SUMS = 8 };
    float sum[SUMS] = {0};
    volatile float half = 0.5f, one = 1.0f;
    const float a = half, b = one;
    for (int64_t t = 0; t < turns; t++)
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * a + b;
    volatile float sink = 0;
    for (int i = 0; i < SUMS; i++) sink = sink + sum[i];
    return 2.0 * SUMS * (double)turns;
}
