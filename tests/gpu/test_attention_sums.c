/* Long sums of attention. A matrix unit rounds each product's addition towards zero: what is summed
 * that way over a million keys comes out too small, the more so the longer the sum. Weighted means
 * of positive values show it, for roundings of probabilities and results to bf16 cancel out over
 * many elements. --small leaves out what is slow under a sanitizer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu_array.h"
#include "kernels/cuda/cuda_device.h"

enum { ROWS = 130, LOOKED_AT = 8 }; /* of the rows */
static bool small;

/* One head; its last ROWS rows have queries. */
struct mean {
    int32_t D, keys;
    bf16 *q, *k, *v;
};

static struct mean mean_open(int32_t D, int32_t keys) {
    const size_t n = (size_t)keys * (size_t)D;
    struct mean m = {D, keys, make(ROWS * (size_t)D, DTYPE_BF16), make(n, DTYPE_BF16),
                     make(n, DTYPE_BF16)};
    fill_normal(m.q, ROWS * (size_t)D, DTYPE_BF16, 1);
    fill_normal(m.k, n, DTYPE_BF16, 2);
    fill_normal(m.v, n, DTYPE_BF16, 3);
    for (size_t i = 0; i < n; i++) { /* means of 2 to 4, else all would be rounded alike */
        const float column = 1 + (float)(i % (size_t)D) / (float)D, x = bf16_to_f32(m.v[i]);
        m.v[i] = f32_to_bf16(column * (2 + fmaxf(-1, fminf(x, 1)) / 2));
    }
    return m;
}

static void mean_close(struct mean *m) {
    free(m->q);
    free(m->k);
    free(m->v);
}

/* In float64, of row r: out [D]. */
static void oracle(const struct mean *m, int32_t r, double *out) {
    const bf16 *q = m->q + (size_t)r * (size_t)m->D;
    const double scale = 1 / sqrt((double)m->D);
    double sum = 0;
    for (int32_t d = 0; d < m->D; d++) out[d] = 0;
    for (int32_t j = 0; j <= m->keys - ROWS + r; j++) {
        const bf16 *k = m->k + (size_t)j * (size_t)m->D, *v = m->v + (size_t)j * (size_t)m->D;
        double score = 0;
        for (int32_t d = 0; d < m->D; d++)
            score += (double)bf16_to_f32(q[d]) * (double)bf16_to_f32(k[d]);
        const double p = exp(score * scale);
        sum += p;
        for (int32_t d = 0; d < m->D; d++) out[d] += p * (double)bf16_to_f32(v[d]);
    }
    for (int32_t d = 0; d < m->D; d++) out[d] /= sum;
}

/* [ROWS][D] of what a variant makes of it; the caller frees it. */
static bf16 *attend(struct gpu_test *t, const struct mean *m, const struct variant *variant) {
    const size_t n = (size_t)m->keys * (size_t)m->D, out = ROWS * (size_t)m->D;
    const int32_t capacity = (m->keys + KV_TILE - 1) / KV_TILE * KV_TILE;
    const size_t bytes = (size_t)capacity * (size_t)m->D * sizeof(bf16);
    gpu_test_reset(t, 2 * bytes + (16 << 20));
    const struct step_params step = {.q_start = m->keys - ROWS,
                                     .n_tokens = ROWS,
                                     .kv_len = m->keys,
                                     .prompt_tokens = m->keys,
                                     .key_factor = 1,
                                     .query_factor = 1};
    struct attention_args a = {.ldq = m->D,
                               .kv = {variant->kv_layout, gpu_new(t, bytes), gpu_new(t, bytes),
                                      capacity, 1, m->D, DTYPE_BF16},
                               .ldo = m->D,
                               .rows = ROWS,
                               .H = 1,
                               .D = m->D,
                               .scale = (float)(1 / sqrt((double)m->D)),
                               .dtype = DTYPE_BF16};
    device_write(t->gpu, a.kv.k, m->k, n * sizeof(bf16));
    device_write(t->gpu, a.kv.v, m->v, n * sizeof(bf16));
    a.q[0] = gpu_put(t, m->q, out * sizeof(bf16));
    a.step = gpu_put(t, &step, sizeof step);
    a.out = gpu_new(t, out * sizeof(bf16));
    gpu_run(t, variant, &a);
    bf16 *got = make(out, DTYPE_BF16);
    gpu_get(t, got, a.out, out * sizeof(bf16));
    return got;
}

/* Relative, on the average over rows and elements; a result alone is rounded by up to 2^-9. */
static double bias_of(const struct mean *m, const bf16 *got, const double *want) {
    double sum = 0;
    for (int32_t i = 0; i < LOOKED_AT; i++)
        for (int32_t d = 0; d < m->D; d++) {
            const int32_t r = i * (ROWS - 1) / (LOOKED_AT - 1);
            const double x = (double)bf16_to_f32(got[r * m->D + d]);
            sum += x / want[i * m->D + d] - 1;
        }
    return sum / (LOOKED_AT * m->D);
}

/* Every variant at every length, so that one run shows how the bias grows. */
static void means_are_not_biased(void **state) {
    (void)state;
    static const char *const names[] = {"cuda", "simt", "sm90"};
    static const int32_t lengths[] = {4096, 32768, 65536, 262144, 1 << 20};
    double worst = 0;
    for (int32_t D = 64; D <= 128; D += 64) {
        struct gpu_test t;
        gpu_test_open(&t, DTYPE_BF16, D, "auto", 16 << 20);
        for (size_t l = 0; l < (small ? 1 : COUNT(lengths)); l++) {
            struct mean m = mean_open(D, lengths[l]);
            double *want = malloc(LOOKED_AT * (size_t)D * sizeof *want);
            assert_non_null(want);
            for (int32_t i = 0; i < LOOKED_AT; i++)
                oracle(&m, i * (ROWS - 1) / (LOOKED_AT - 1), want + i * D);
            for (size_t v = 0; v < COUNT(names); v++) {
                const struct variant *variant = variant_named(DEVICE_CUDA, OP_ATTENTION, names[v]);
                if (variant->isa > cuda_device(t.gpu)->capability) continue;
                bf16 *got = attend(&t, &m, variant);
                const double bias = bias_of(&m, got, want);
                print_message("D %3d, %7d keys, %s: bias %+.2e\n", D, lengths[l], names[v], bias);
                worst = fmax(worst, fabs(bias));
                free(got);
            }
            free(want);
            mean_close(&m);
        }
        gpu_test_close(&t);
    }
    if (worst > 0x1p-11) fail_msg("a bias of %g, more than %g", worst, 0x1p-11);
}

int main(int argc, char **argv) {
    small = wants_small(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(means_are_not_biased)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
