/* Which instruction sets this processor has and the operating system saves, by cpuid and xgetbv.
 * Kernels are compiled for their own set by file suffix (_avx2.c, _avx512.c, _avx512_bf16.c,
 * _amx_bf16.c) and chosen at run time. */
#ifndef KERNELS_CPU_FEATURES_H
#define KERNELS_CPU_FEATURES_H

#include <stdbool.h>

/* Each level contains those before it (AVX2 means AVX2, FMA, F16C and BMI2; AVX512 means F, BW, DQ,
 * VL). */
#define CPU_ISA_TABLE(X)                                                                           \
    X(ISA_NONE, "none")                                                                            \
    X(ISA_AVX2, "avx2")                                                                            \
    X(ISA_AVX512, "avx512")                                                                        \
    X(ISA_AVX512_BF16, "avx512_bf16")                                                              \
    X(ISA_AMX_BF16, "amx_bf16")
enum cpu_isa {
#define X(name, text) name,
    CPU_ISA_TABLE(X)
#undef X
        CPU_ISAS
};

const char *cpu_isa_name(enum cpu_isa isa);
/* "auto" gives the best of this machine; false: not a name. */
bool cpu_isa_parse(const char *text, enum cpu_isa *out);
/* Best level of this machine. For amx_bf16 the process has asked the kernel for the tile state. */
enum cpu_isa cpu_isa_best(void);
/* "AMD EPYC ...", from cpuid; never empty. out: at least 49 bytes. */
void cpu_model_name(char *out, int size);

#endif
