/* Instruction sets: names, and agreement with what the kernel says of this processor. */
#include "kernels/cpu_features.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static void names_and_levels_are_each_others_inverse(void **state) {
    (void)state;
    for (int i = 0; i < CPU_ISAS; i++) {
        enum cpu_isa isa = CPU_ISAS;
        assert_true(cpu_isa_parse(cpu_isa_name((enum cpu_isa)i), &isa));
        assert_int_equal(isa, i);
    }
}

static void unknown_names_are_refused_and_leave_the_result_alone(void **state) {
    (void)state;
    const char *const wrong[] = {"", "avx", "avx5120", "AVX2", " avx2", "avx2 ", "autos"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        enum cpu_isa isa = ISA_AVX512;
        assert_false(cpu_isa_parse(wrong[i], &isa));
        assert_int_equal(isa, ISA_AVX512);
    }
}

static void auto_is_the_best(void **state) {
    (void)state;
    enum cpu_isa isa = CPU_ISAS;
    assert_true(cpu_isa_parse("auto", &isa));
    assert_int_equal(isa, cpu_isa_best());
    assert_true(isa < CPU_ISAS);
}

/* " flag " in the flags line of /proc/cpuinfo. */
static bool kernel_says(const char *flags, const char *flag) {
    char word[40];
    snprintf(word, sizeof word, " %s ", flag);
    return strstr(flags, word) != NULL;
}

static void level_agrees_with_proc_cpuinfo(void **state) {
    (void)state;
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) skip();
    char line[8192] = "";
    while (fgets(line, sizeof line, f) && strncmp(line, "flags", 5) != 0) line[0] = 0;
    fclose(f);
    if (line[0] == 0) skip();
    line[strcspn(line, "\n")] = ' ';
    bool avx2 = kernel_says(line, "avx2") && kernel_says(line, "fma") &&
                kernel_says(line, "f16c") && kernel_says(line, "bmi2");
    bool avx512 = avx2 && kernel_says(line, "avx512f") && kernel_says(line, "avx512bw") &&
                  kernel_says(line, "avx512dq") && kernel_says(line, "avx512vl");
    bool bf16 = avx512 && kernel_says(line, "avx512_bf16");
    bool amx = bf16 && kernel_says(line, "amx_tile") && kernel_says(line, "amx_bf16");
    enum cpu_isa best = cpu_isa_best();
    assert_int_equal(best >= ISA_AVX2, avx2);
    assert_int_equal(best >= ISA_AVX512, avx512);
    assert_int_equal(best >= ISA_AVX512_BF16, bf16);
    if (!amx) assert_true(best < ISA_AMX_BF16); /* a kernel may refuse the tiles */
}

static void model_name_is_there_trimmed_and_within_its_size(void **state) {
    (void)state;
    char name[49], small[8] = "xxxxxxx";
    cpu_model_name(name, sizeof name);
    assert_true(strlen(name) > 0);
    assert_true(name[0] != ' ' && name[strlen(name) - 1] != ' ');
    cpu_model_name(small, 4);
    assert_int_equal(strlen(small), strlen(name) < 3 ? strlen(name) : 3);
    assert_memory_equal(small, name, strlen(small));
    assert_int_equal(small[4], 'x');
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_levels_are_each_others_inverse),
        cmocka_unit_test(unknown_names_are_refused_and_leave_the_result_alone),
        cmocka_unit_test(auto_is_the_best),
        cmocka_unit_test(level_agrees_with_proc_cpuinfo),
        cmocka_unit_test(model_name_is_there_trimmed_and_within_its_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
