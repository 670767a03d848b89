/* Philox against the known answers of its authors (Random123, kat_vectors), and the normal values
 * made of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/random.h"

#include <math.h>

static void philox_gives_the_published_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t out[4];
    } known[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        philox4x32(known[i].key, known[i].counter, out);
        for (int j = 0; j < 4; j++) assert_int_equal(out[j], known[i].out[j]);
    }
}

/* Of a sum of four uniform bytes: mean 0, variance 1, kurtosis 3 - 6/5/4 = 2.7. The tolerances are
 * five standard errors. */
static void normal_values_have_their_moments(void **state) {
    (void)state;
    enum { N = 400000 };
    double sum = 0, squares = 0, fourths = 0, most = 0;
    for (uint64_t i = 0; i < N / 4; i++) {
        float value[4];
        random_normal4(7, 3, i, value);
        for (int j = 0; j < 4; j++) {
            double v = (double)value[j];
            sum += v;
            squares += v * v;
            fourths += v * v * v * v;
            if (fabs(v) > most) most = fabs(v);
        }
    }
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(squares / N - 1) < 5 * sqrt(1.7 / N));
    assert_true(fabs(fourths / N - 2.7) < 5 * sqrt(40.0 / N));
    assert_true(most <= 3.4506);
}

static void streams_and_seeds_differ(void **state) {
    (void)state;
    float a[4], b[4], c[4], d[4];
    random_normal4(1, 0, 5, a);
    random_normal4(2, 0, 5, b);
    random_normal4(1, 1, 5, c);
    random_normal4(1, 0, 5 + (1ULL << 32), d);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_memory_not_equal(a, d, sizeof a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(normal_values_have_their_moments),
        cmocka_unit_test(streams_and_seeds_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
