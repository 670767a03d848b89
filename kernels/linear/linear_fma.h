/* The tile function of the linears that multiply and add in f32: bf16 is widened on the way, f32
 * taken as it is. Included by linear_avx2.c and linear_avx512.c, compiled for their vectors.
 *
 * A pass covers two vectors of columns, so AVX-512 needs one pass for a panel, AVX2 two. */
#ifndef KERNELS_LINEAR_FMA_H
#define KERNELS_LINEAR_FMA_H

#include "kernels/linear/linear_panels.h"
#include "kernels/vector.h"

/* With two vectors of sums each, what the registers hold beside the operands: 12 of 32, 6 of 16. */
enum { FMA_TILE_ROWS = VF_LANES == 16 ? 12 : 6, PASS_COLUMNS = 2 * VF_LANES };

#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)
#define EACH_HALF UNROLL for (int half = 0; half < 2; half++)

/* In registers: every index is a constant once the loops are unrolled. */
typedef vf sums[FMA_TILE_ROWS][2];

VECTOR_INLINE void multiply_f32(sums sum, const float *x, size_t ldx, const float *panel,
                                const int rows) {
    vf w[2];
    EACH_HALF w[half] = vf_load(panel, (size_t)VF_LANES * half, DTYPE_F32);
    EACH_ROW {
        vf a = vf_set(x[(size_t)r * ldx]);
        EACH_HALF sum[r][half] = vf_fma(a, w[half], sum[r][half]);
    }
}

/* Two k, or the last one alone: beyond it x may end. The panel is read once for each of them, which
 * keeps all that is live within 16 registers. */
VECTOR_INLINE void multiply_bf16(sums sum, const bf16 *x, size_t ldx, const bf16 *panel,
                                 const int rows, const bool last) {
    vf w[2], unused;
    EACH_HALF vf_load_pairs(panel, (size_t)2 * VF_LANES * half, DTYPE_BF16, w + half, &unused);
    EACH_ROW {
        vf a = vf_set(bf16_to_f32(x[(size_t)r * ldx]));
        EACH_HALF sum[r][half] = vf_fma(a, w[half], sum[r][half]);
    }
    if (last) return;
    __asm__ volatile("" : "+r"(panel));
    EACH_HALF vf_load_pairs(panel, (size_t)2 * VF_LANES * half, DTYPE_BF16, &unused, w + half);
    EACH_ROW {
        vf a = vf_set(bf16_to_f32(x[(size_t)r * ldx + 1]));
        EACH_HALF sum[r][half] = vf_fma(a, w[half], sum[r][half]);
    }
}

VECTOR_INLINE void store(sums sum, const struct linear_tile *t, size_t pass, const int rows,
                         const enum dtype dtype) {
    EACH_HALF {
        const size_t n = pass + (size_t)VF_LANES * half;
        const int64_t columns = t->columns - (int64_t)n;
        if (columns > 0) {
            vf bias = t->bias ? vf_load_first(t->bias, n, columns, dtype) : vf_zero();
            EACH_ROW vf_store_first(t->y, (size_t)(r * t->ldy) + n, columns, dtype,
                                    sum[r][half] + bias);
        }
    }
}

VECTOR_INLINE void pass_f32(const struct linear_tile *t, size_t pass, const int rows) {
    const float *x = t->x, *panel = (const float *)t->panel + pass;
    const size_t ldx = (size_t)t->ldx;
    sums sum;
    EACH_ROW EACH_HALF sum[r][half] = vf_zero();
    for (int32_t k = 0; k < t->K; k++, x++, panel += PANEL_COLUMNS)
        multiply_f32(sum, x, ldx, panel, rows);
    store(sum, t, pass, rows, DTYPE_F32);
}

VECTOR_INLINE void pass_bf16(const struct linear_tile *t, size_t pass, const int rows) {
    const bf16 *x = t->x, *panel = (const bf16 *)t->panel + 2 * pass;
    const size_t ldx = (size_t)t->ldx;
    sums sum;
    EACH_ROW EACH_HALF sum[r][half] = vf_zero();
    for (int32_t pairs = t->K / 2; pairs > 0; pairs--, x += 2, panel += 2 * PANEL_COLUMNS)
        multiply_bf16(sum, x, ldx, panel, rows, false);
    if (t->K % 2) multiply_bf16(sum, x, ldx, panel, rows, true);
    store(sum, t, pass, rows, DTYPE_BF16);
}

VECTOR_INLINE void tile_of(const struct linear_tile *t, const int rows, const enum dtype dtype) {
    for (size_t pass = 0; pass < (size_t)t->columns; pass += PASS_COLUMNS) {
        if (dtype == DTYPE_BF16)
            pass_bf16(t, pass, rows);
        else
            pass_f32(t, pass, rows);
    }
}

VECTOR_INLINE void tile(const struct linear_tile *t, const enum dtype dtype) {
    switch (t->rows) {
    case 1: tile_of(t, 1, dtype); break;
    case 2: tile_of(t, 2, dtype); break;
    case 3: tile_of(t, 3, dtype); break;
    case 4: tile_of(t, 4, dtype); break;
    case 5: tile_of(t, 5, dtype); break;
#if defined(__AVX512F__)
    case 6: tile_of(t, 6, dtype); break;
    case 7: tile_of(t, 7, dtype); break;
    case 8: tile_of(t, 8, dtype); break;
    case 9: tile_of(t, 9, dtype); break;
    case 10: tile_of(t, 10, dtype); break;
    case 11: tile_of(t, 11, dtype); break;
#endif
    default: tile_of(t, FMA_TILE_ROWS, dtype); break;
    }
}

static void tile_bf16(const struct linear_tile *t) {
    tile(t, DTYPE_BF16);
}

static void tile_f32(const struct linear_tile *t) {
    tile(t, DTYPE_F32);
}

static inline void linear_fma(struct device *dev, const struct linear_args *a) {
    linear_panels_run(dev, a, a->w->shape.dtype == DTYPE_BF16 ? tile_bf16 : tile_f32,
                      FMA_TILE_ROWS);
}

#endif
