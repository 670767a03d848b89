/* Order statistics and the affine fit, on numbers whose answer is known. */
#include "harness/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_near(double found, double expected, double relative) {
    if (!(fabs(found - expected) <= relative * fabs(expected)))
        fail_msg("found %.17g, expected %.17g", found, expected);
}

static void median_of_odd_even_equal_and_extreme_values(void **state) {
    (void)state;
    assert_int_equal(stats_median((const int64_t[]){7}, 1), 7);
    assert_int_equal(stats_median((const int64_t[]){9, 1, 5}, 3), 5);
    assert_int_equal(stats_median((const int64_t[]){4, 1, 2, 9}, 4), 3);
    assert_int_equal(stats_median((const int64_t[]){3, 4}, 2), 4); /* 3.5 rounds up */
    assert_int_equal(stats_median((const int64_t[]){2, 2, 2, 2}, 4), 2);
    assert_int_equal(stats_median((const int64_t[]){-5, -7, -6}, 3), -6);
    const int64_t extremes[] = {INT64_MIN, INT64_MAX, 0};
    assert_int_equal(stats_median(extremes, 3), 0);
    assert_int_equal(stats_min(extremes, 3), INT64_MIN);
    assert_int_equal(stats_max(extremes, 3), INT64_MAX);
}

static void median_leaves_a_permutation_of_many_in_the_middle(void **state) {
    (void)state;
    int64_t values[10007];
    for (int64_t i = 0; i < 10007; i++) values[i] = i * 4999 % 10007 * 1000;
    assert_int_equal(stats_median(values, 10007), 5003000);
}

static void speed_of_nothing_is_unknown(void **state) {
    (void)state;
    assert_near(stats_tok_s(8192, 2000000000), 4096, 1e-15);
    assert_true(isnan(stats_tok_s(8192, 0)));
}

/* latency = n (a + b (start + n / 2)) with a 2000 ns, b 0.5 ns: integers for even n */
static struct stats_point exact_point(int32_t start, int32_t n) {
    const double ns = n * (2000 + 0.5 * (start + 0.5 * n));
    return (struct stats_point){start, n, (int64_t)ns};
}

static void exact_chunks_give_the_exact_law_with_a_ragged_last_one(void **state) {
    (void)state;
    const struct stats_point points[] = {exact_point(0, 8192), exact_point(32768, 8192),
                                         exact_point(65536, 8192), exact_point(98304, 1024)};
    struct stats_fit fit;
    stats_fit(points, 4, &fit);
    assert_int_equal(fit.n, 4);
    assert_near(fit.ns_per_token, 2000, 1e-9);
    assert_near(fit.ns_per_token_depth, 0.5, 1e-9);
    assert_true(fit.rms_relative < 1e-9);

    double whole = 0;
    for (int32_t start = 0; start < 99328; start += 8192)
        whole += (double)exact_point(start, start + 8192 <= 99328 ? 8192 : 1024).latency_ns;
    struct stats_ttft ttft;
    stats_estimate_ttft(&fit, points, 4, 99328, 8192, &ttft);
    assert_near(ttft.ns, whole, 1e-9);
    assert_true(ttft.relative_error < 1e-9);
}

/* Three chunks of one token's weight at depths -1, 0, 1 around the middle: textbook regression.
 * Latencies are so near each other that relative and absolute weights agree. */
static void standard_error_is_the_textbook_one(void **state) {
    (void)state;
    const struct stats_point points[] = {
        {0, 2, 1000000000}, {2, 2, 1000000300}, {4, 2, 1000000000}};
    struct stats_fit fit;
    stats_fit(points, 3, &fit);
    /* per token: y = (5e8, 5e8 + 150, 5e8) at depths 1, 3, 5; slope 0, residuals -50, 100, -50 */
    assert_near(fit.ns_per_token, 500000050, 1e-9);
    assert_true(fabs(fit.ns_per_token_depth) < 1e-3);
    assert_near(fit.rms_relative, sqrt(15000.0) / 5e8, 1e-3);
    /* a fourth chunk at depth 7: s^2 (1 + 1/3 + 4^2 / 8), s = sqrt(15000) per token, two tokens */
    struct stats_ttft ttft;
    stats_estimate_ttft(&fit, points, 3, 8, 2, &ttft);
    const double error = 2 * sqrt(15000.0 * (1 + 1.0 / 3 + 16.0 / 8));
    assert_near(ttft.relative_error * ttft.ns, error, 1e-3);
}

static void too_few_points_have_no_error_and_say_so(void **state) {
    (void)state;
    const struct stats_point points[] = {exact_point(0, 8192), exact_point(24576, 8192)};
    struct stats_fit fit;
    struct stats_ttft ttft;
    stats_fit(points, 2, &fit);
    assert_near(fit.ns_per_token_depth, 0.5, 1e-9);
    assert_true(isnan(fit.rms_relative));
    stats_estimate_ttft(&fit, points, 2, 32768, 8192, &ttft);
    assert_true(isnan(ttft.relative_error));

    stats_fit(points, 1, &fit);
    assert_near(fit.ns_per_token, 4048, 1e-9);
    assert_true(fit.ns_per_token_depth == 0);
    assert_true(isnan(fit.rms_relative));
}

static void a_case_measured_whole_has_no_estimation_error(void **state) {
    (void)state;
    const struct stats_point points[] = {exact_point(0, 8192), exact_point(8192, 100)};
    struct stats_fit fit;
    struct stats_ttft ttft;
    stats_fit(points, 2, &fit);
    stats_estimate_ttft(&fit, points, 2, 8292, 8192, &ttft);
    assert_true(ttft.relative_error == 0);
    assert_near(ttft.ns, (double)(points[0].latency_ns + points[1].latency_ns), 1e-15);
}

static void noise_is_covered_by_the_error_it_reports(void **state) {
    (void)state;
    /* 300 sampled runs with 2 % noise: the true TTFT lies within two standard errors nearly always
     */
    double whole = 0;
    for (int32_t start = 0; start < 262144; start += 8192)
        whole += (double)exact_point(start, 8192).latency_ns;
    uint64_t seed = 1;
    int inside = 0;
    for (int run = 0; run < 300; run++) {
        struct stats_point points[7];
        for (int i = 0; i < 7; i++) {
            double noise = 0; /* sum of twelve uniforms: variance 1 */
            for (int k = 0; k < 12; k++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                noise += (double)(seed >> 40) / (1 << 24) - 0.5;
            }
            points[i] = exact_point(i * 31 / 6 * 8192, 8192);
            points[i].latency_ns = (int64_t)((double)points[i].latency_ns * (1 + 0.02 * noise));
        }
        struct stats_fit fit;
        struct stats_ttft ttft;
        stats_fit(points, 7, &fit);
        stats_estimate_ttft(&fit, points, 7, 262144, 8192, &ttft);
        assert_true(ttft.relative_error > 0 && ttft.relative_error < 0.05);
        inside += fabs(ttft.ns - whole) <= 2.6 * ttft.relative_error * ttft.ns;
    }
    assert_in_range(inside, 270, 298); /* Student's t, 5 degrees: 95 % */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(median_of_odd_even_equal_and_extreme_values),
        cmocka_unit_test(median_leaves_a_permutation_of_many_in_the_middle),
        cmocka_unit_test(speed_of_nothing_is_unknown),
        cmocka_unit_test(exact_chunks_give_the_exact_law_with_a_ragged_last_one),
        cmocka_unit_test(standard_error_is_the_textbook_one),
        cmocka_unit_test(too_few_points_have_no_error_and_say_so),
        cmocka_unit_test(a_case_measured_whole_has_no_estimation_error),
        cmocka_unit_test(noise_is_covered_by_the_error_it_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
