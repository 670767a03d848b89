/* linear for bf16 on AVX512_BF16: 12 x 32 outputs in registers, two vdpbf16ps for each pair of k
 * and row. The weight's panel stays in the second level cache while a block of rows passes. */
#include "kernels/linear/linear_panels.h"
#include "kernels/vector.h"

#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)
#define EACH_HALF UNROLL for (int half = 0; half < 2; half++)

/* In registers: every index is a constant once the loops are unrolled. */
typedef __m512 sums[LINEAR_TILE_ROWS][2];

/* Two k of a row, or the last one and a zero, in every lane. */
VECTOR_INLINE __m512bh broadcast_pair(const bf16 *x, const bool last) {
    uint32_t pair = *x;
    if (!last) memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32((int32_t)pair);
}

VECTOR_INLINE void multiply_pair(sums sum, const bf16 *x, size_t ldx, const bf16 *panel,
                                 const int rows, const bool last) {
    __m512bh w[2];
    EACH_HALF w[half] = (__m512bh)_mm512_loadu_si512(panel + PANEL_COLUMNS * half);
    EACH_ROW {
        __m512bh pair = broadcast_pair(x + (size_t)r * ldx, last);
        EACH_HALF sum[r][half] = _mm512_dpbf16_ps(sum[r][half], pair, w[half]);
    }
}

VECTOR_INLINE void store(sums sum, const struct linear_tile *t, const int rows) {
    EACH_HALF {
        const size_t n = (size_t)VF_LANES * half;
        const int64_t columns = t->columns - (int64_t)n;
        if (columns > 0) {
            vf bias = t->bias ? vf_load_first(t->bias, n, columns, DTYPE_BF16) : vf_zero();
            EACH_ROW vf_store_first(t->y, (size_t)(r * t->ldy) + n, columns, DTYPE_BF16,
                                    sum[r][half] + bias);
        }
    }
}

VECTOR_INLINE void tile_of(const struct linear_tile *t, const int rows) {
    const bf16 *x = t->x, *panel = t->panel;
    const size_t ldx = (size_t)t->ldx;
    sums sum;
    EACH_ROW EACH_HALF sum[r][half] = vf_zero();
    for (int32_t pairs = t->K / 2; pairs > 0; pairs--, x += 2, panel += 2 * PANEL_COLUMNS)
        multiply_pair(sum, x, ldx, panel, rows, false);
    if (t->K % 2) multiply_pair(sum, x, ldx, panel, rows, true);
    store(sum, t, rows);
}

static void tile(const struct linear_tile *t) {
    switch (t->rows) {
    case 1: tile_of(t, 1); break;
    case 2: tile_of(t, 2); break;
    case 3: tile_of(t, 3); break;
    case 4: tile_of(t, 4); break;
    case 5: tile_of(t, 5); break;
    case 6: tile_of(t, 6); break;
    case 7: tile_of(t, 7); break;
    case 8: tile_of(t, 8); break;
    case 9: tile_of(t, 9); break;
    case 10: tile_of(t, 10); break;
    case 11: tile_of(t, 11); break;
    default: tile_of(t, 12); break;
    }
}

void linear_avx512_bf16(struct device *dev, const void *args) {
    linear_panels_run(dev, args, tile, LINEAR_TILE_ROWS);
}
