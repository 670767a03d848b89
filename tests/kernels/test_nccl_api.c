/* What we declare of NCCL's binary interface is what its own header says, where there is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "kernels/exchange/nccl_api.h"

#ifdef HAVE_NCCL_HEADER

extern const long long nccl_header_numbers[]; /* nccl_numbers.c */
unsigned nccl_header_magic(void);

static void numbers_are_those_of_the_header(void **state) {
    const long long ours[] = {offsetof(struct nccl_config, size),
                              offsetof(struct nccl_config, magic),
                              offsetof(struct nccl_config, version),
                              offsetof(struct nccl_config, blocking),
                              offsetof(struct nccl_config, cluster_size),
                              NCCL_UNDEFINED,
                              sizeof(struct nccl_id),
                              NCCL_SUCCESS,
                              NCCL_IN_PROGRESS,
                              NCCL_UINT8,
                              NCCL_F32,
                              NCCL_BF16,
                              NCCL_SUM};
    (void)state;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        assert_int_equal(ours[i], nccl_header_numbers[i]);
    assert_int_equal(NCCL_CONFIG_MAGIC, nccl_header_magic());
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers_are_those_of_the_header)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("skipped: no header of NCCL to compare with");
    return 77;
}

#endif
