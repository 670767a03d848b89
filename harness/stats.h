/* Small statistics over raw samples. Nothing here knows what the numbers mean. */
#ifndef HARNESS_STATS_H
#define HARNESS_STATS_H

#include <stdint.h>

/* Median (mean of the middle two when n is even, rounded to nearest), least and greatest. n >= 1;
 * values are left as they are. */
int64_t stats_median(const int64_t *values, int n);
int64_t stats_min(const int64_t *values, int n);
int64_t stats_max(const int64_t *values, int n);

/* Tokens a second; NaN when the time is not positive. */
double stats_tok_s(int64_t tokens, int64_t ns);

/* A chunk's latency as a function of where it starts and how long it is. Attention makes the time
 * of a token affine in its depth, so
 *
 *     latency = n_tokens * (a + b * middle),   middle = start_token + n_tokens / 2
 *
 * which for equal chunks is the affine law in start_token, and serves a ragged last chunk as well.
 * Fitted by least squares of relative residuals (each chunk weighs the same: noise is a share of
 * the latency). */
struct stats_point {
    int32_t start_token, n_tokens;
    int64_t latency_ns;
};
struct stats_fit {
    int n;
    double ns_per_token;         /* a: time of a token at depth 0 */
    double ns_per_token_depth;   /* b: growth of that time per token of depth */
    double rms_relative;         /* root mean square of residual / latency, n - 2 in the divisor */
    double var_a, var_b, cov_ab; /* of the coefficients */
};
/* Needs two different middles for a slope; with fewer, the slope is 0 and the errors are NaN (one
 * point) . n >= 1. */
void stats_fit(const struct stats_point *points, int n, struct stats_fit *out);
double stats_fit_at(const struct stats_fit *f, int32_t start_token, int32_t n_tokens);

/* TTFT of a prompt from some of its chunks: measured ones as measured, the others from the fit. */
struct stats_ttft {
    double ns;
    double relative_error; /* standard error / ns; NaN when the fit has none; 0: all measured */
};
void stats_estimate_ttft(const struct stats_fit *f, const struct stats_point *measured,
                         int n_measured, int32_t prompt_tokens, int32_t chunk_tokens,
                         struct stats_ttft *out);

#endif
