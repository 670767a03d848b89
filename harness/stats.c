/* Median, least, greatest, and the fit behind a sampled case's TTFT. See stats.h. */
#include "harness/stats.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

/* Least x such that more than `rank` values are <= x, by bisection of the value range: no copy, no
 * memory, 64 passes. */
static int64_t order_statistic(const int64_t *values, int n, int rank) {
    int64_t low = stats_min(values, n), high = stats_max(values, n);
    while (low < high) {
        const int64_t middle = low + (int64_t)(((uint64_t)high - (uint64_t)low) / 2);
        int at_most = 0;
        for (int i = 0; i < n; i++) at_most += values[i] <= middle;
        if (at_most > rank)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int64_t stats_median(const int64_t *values, int n) {
    const int64_t low = order_statistic(values, n, (n - 1) / 2);
    const int64_t high = n % 2 ? low : order_statistic(values, n, n / 2);
    return low + (int64_t)(((uint64_t)high - (uint64_t)low + 1) / 2);
}

int64_t stats_min(const int64_t *values, int n) {
    int64_t best = values[0];
    for (int i = 1; i < n; i++)
        if (values[i] < best) best = values[i];
    return best;
}

int64_t stats_max(const int64_t *values, int n) {
    int64_t best = values[0];
    for (int i = 1; i < n; i++)
        if (values[i] > best) best = values[i];
    return best;
}

double stats_tok_s(int64_t tokens, int64_t ns) {
    return ns > 0 ? (double)tokens * 1e9 / (double)ns : NAN;
}

static double middle_of(int32_t start_token, int32_t n_tokens) {
    return start_token + 0.5 * n_tokens;
}

/* Least squares of 1 = a u + b v over the points, u = n / latency, v = n (middle - centre) /
 * latency: depths are centred first, so that the two columns are not almost parallel. */
void stats_fit(const struct stats_point *points, int n, struct stats_fit *out) {
    double centre = 0, uu = 0, uv = 0, vv = 0, u1 = 0, v1 = 0;
    bool depths_differ = false;
    const double first = middle_of(points[0].start_token, points[0].n_tokens);
    for (int i = 0; i < n; i++) {
        const double m = middle_of(points[i].start_token, points[i].n_tokens);
        centre += m / n;
        if (m != first) depths_differ = true;
    }
    for (int i = 0; i < n; i++) {
        const double u = points[i].n_tokens / (double)points[i].latency_ns;
        const double v = u * (middle_of(points[i].start_token, points[i].n_tokens) - centre);
        uu += u * u, uv += u * v, vv += v * v, u1 += u, v1 += v;
    }
    *out =
        (struct stats_fit){.n = n, .rms_relative = NAN, .var_a = NAN, .var_b = NAN, .cov_ab = NAN};
    const int coefficients = depths_differ ? 2 : 1;
    const double det = depths_differ ? uu * vv - uv * uv : uu;
    double at_centre = u1 / uu; /* time of a token at the centre */
    if (depths_differ) {
        at_centre = (u1 * vv - v1 * uv) / det;
        out->ns_per_token_depth = (v1 * uu - u1 * uv) / det;
    }
    out->ns_per_token = at_centre - out->ns_per_token_depth * centre;
    if (n <= coefficients) return;

    double squares = 0;
    for (int i = 0; i < n; i++) {
        const double fitted = stats_fit_at(out, points[i].start_token, points[i].n_tokens);
        const double r = 1 - fitted / (double)points[i].latency_ns;
        squares += r * r;
    }
    const double variance = squares / (n - coefficients);
    out->rms_relative = sqrt(variance);
    if (!depths_differ) {
        out->var_a = variance / uu, out->var_b = 0, out->cov_ab = 0;
        return;
    }
    /* covariance of (value at the centre, slope), carried to depth 0 */
    const double var_c = variance * vv / det, var_b = variance * uu / det,
                 cov_cb = -variance * uv / det;
    out->var_b = var_b;
    out->var_a = var_c - 2 * centre * cov_cb + centre * centre * var_b;
    out->cov_ab = cov_cb - centre * var_b;
}

double stats_fit_at(const struct stats_fit *f, int32_t start_token, int32_t n_tokens) {
    return n_tokens * (f->ns_per_token + f->ns_per_token_depth * middle_of(start_token, n_tokens));
}

static const struct stats_point *find_chunk(const struct stats_point *measured, int n,
                                            int32_t start) {
    for (int i = 0; i < n; i++)
        if (measured[i].start_token == start) return &measured[i];
    return NULL;
}

/* Chunks that were not measured share the fit's coefficients (their error is common) and have noise
 * of their own (independent, rms_relative of each). */
void stats_estimate_ttft(const struct stats_fit *f, const struct stats_point *measured,
                         int n_measured, int32_t prompt_tokens, int32_t chunk_tokens,
                         struct stats_ttft *out) {
    double ns = 0, noise = 0, sum_n = 0, sum_depth = 0;
    for (int64_t start = 0; start < prompt_tokens; start += chunk_tokens) {
        const int64_t left = prompt_tokens - start;
        const int32_t n = (int32_t)(left < chunk_tokens ? left : chunk_tokens);
        const struct stats_point *p = find_chunk(measured, n_measured, (int32_t)start);
        if (p) {
            ns += (double)p->latency_ns;
            continue;
        }
        const double fitted = stats_fit_at(f, (int32_t)start, n);
        ns += fitted;
        noise += f->rms_relative * fitted * f->rms_relative * fitted;
        sum_n += n;
        sum_depth += n * middle_of((int32_t)start, n);
    }
    out->ns = ns;
    if (sum_n == 0) {
        out->relative_error = 0;
        return;
    }
    const double variance = noise + sum_n * sum_n * f->var_a + sum_depth * sum_depth * f->var_b +
                            2 * sum_n * sum_depth * f->cov_ab;
    out->relative_error = sqrt(variance > 0 || isnan(variance) ? variance : 0) / ns;
}
