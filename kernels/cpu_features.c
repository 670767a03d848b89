/* Instruction sets by cpuid, operating system support by xgetbv. Asks the kernel for AMX's tile
 * state, which Linux gives to a process on request only. */
#include "kernels/cpu_features.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char *const names[CPU_ISAS] = {
#define X(name, text) text,
    CPU_ISA_TABLE(X)
#undef X
};

const char *cpu_isa_name(enum cpu_isa isa) {
    return names[isa];
}

bool cpu_isa_parse(const char *text, enum cpu_isa *out) {
    if (strcmp(text, "auto") == 0) {
        *out = cpu_isa_best();
        return true;
    }
    for (int i = 0; i < CPU_ISAS; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = (enum cpu_isa)i;
        return true;
    }
    return false;
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

struct registers {
    unsigned eax, ebx, ecx, edx;
};

/* All zero where the processor does not know the leaf. */
static struct registers cpuid(unsigned leaf, unsigned subleaf) {
    struct registers r = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx))
        r = (struct registers){0, 0, 0, 0};
    return r;
}

static uint64_t saved_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool all(uint64_t value, uint64_t bits) {
    return (value & bits) == bits;
}

#define BIT(n) (UINT64_C(1) << (n))

static bool has_avx2(struct registers one, struct registers seven, uint64_t states) {
    const uint64_t fma_avx_f16c = BIT(12) | BIT(28) | BIT(29), avx2_bmi2 = BIT(5) | BIT(8);
    return all(one.ecx, fma_avx_f16c) && all(seven.ebx, avx2_bmi2) && all(states, BIT(1) | BIT(2));
}

static bool has_avx512(struct registers seven, uint64_t states) {
    const uint64_t f_dq_bw_vl = BIT(16) | BIT(17) | BIT(30) | BIT(31);
    return all(seven.ebx, f_dq_bw_vl) && all(states, BIT(5) | BIT(6) | BIT(7));
}

/* Linux 5.16 and up: Documentation/arch/x86/xstate.rst. Once given, the permission holds for all
 * threads of the process. */
static bool may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx_bf16(struct registers seven, uint64_t states) {
    const uint64_t bf16_tile = BIT(22) | BIT(24);
    return all(seven.edx, bf16_tile) && all(states, BIT(17) | BIT(18)) && may_use_tiles();
}

enum cpu_isa cpu_isa_best(void) {
    struct registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
    if (!all(one.ecx, BIT(27))) return ISA_NONE; /* xgetbv itself */
    uint64_t states = saved_states();
    if (!has_avx2(one, seven, states)) return ISA_NONE;
    if (!has_avx512(seven, states)) return ISA_AVX2;
    if (!all(seven_one.eax, BIT(5))) return ISA_AVX512;
    return has_amx_bf16(seven, states) ? ISA_AMX_BF16 : ISA_AVX512_BF16;
}

static void brand_string(char brand[49]) {
    memset(brand, 0, 49);
    if ((unsigned)__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++) {
        struct registers r = cpuid(0x80000002u + i, 0);
        memcpy(brand + 16 * i, &r, sizeof r);
    }
}

#else

enum cpu_isa cpu_isa_best(void) {
    return ISA_NONE;
}

static void brand_string(char brand[49]) {
    memset(brand, 0, 49);
}

#endif

void cpu_model_name(char *out, int size) {
    char brand[49];
    brand_string(brand);
    const char *begin = brand + strspn(brand, " ");
    size_t n = strlen(begin);
    while (n > 0 && begin[n - 1] == ' ') n--;
    if (n == 0) begin = "unknown processor", n = strlen(begin);
    snprintf(out, (size_t)size, "%.*s", (int)n, begin);
}
