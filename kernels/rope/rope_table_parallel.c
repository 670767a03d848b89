/* rope_table over threads. Angles are the reference's, cosine and sine of each in f64; a copy whose
 * phase is the same for all rows is computed once for each item. */
#include "kernels/device.h"
#include "kernels/rope/rope_phase.h"

#include <math.h>
#include <string.h>

enum { TABLE_ROWS = 64 /* of an item */ };

static void fill_row(const struct rope_table_args *a, int32_t phase, size_t at) {
    for (size_t i = 0; i < (size_t)a->D / 2; i++) {
        double sine, cosine;
        sincos(phase * a->inv_freq[i], &sine, &cosine);
        a->cos[at + i] = (float)cosine;
        a->sin[at + i] = (float)sine;
    }
}

static void table_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct rope_table_args *a = ctx;
    const size_t half = (size_t)a->D / 2;
    const int64_t blocks = ((int64_t)a->rows + TABLE_ROWS - 1) / TABLE_ROWS;
    const int copy = (int)(item / blocks);
    const int32_t begin = (int32_t)(item % blocks) * TABLE_ROWS;
    const int32_t end = a->rows - begin < TABLE_ROWS ? a->rows : begin + TABLE_ROWS;
    int32_t known = -1;
    for (int32_t row = begin; row < end; row++) {
        const int32_t phase = rope_phase(a->pattern, copy, a->step->q_start + row);
        const size_t at = ((size_t)copy * (size_t)a->rows + (size_t)row) * half;
        if (phase == known) {
            memcpy(a->cos + at, a->cos + at - half, half * sizeof *a->cos);
            memcpy(a->sin + at, a->sin + at - half, half * sizeof *a->sin);
        } else {
            fill_row(a, phase, at);
        }
        known = phase;
    }
}

void rope_table_parallel(struct device *dev, const void *args) {
    const struct rope_table_args *a = args;
    const int64_t blocks = ((int64_t)a->rows + TABLE_ROWS - 1) / TABLE_ROWS;
    device_parallel(dev, blocks * a->copies, table_item, (void *)a);
}
