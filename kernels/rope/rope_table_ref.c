/* rope_table, the specification: cosines and sines of every row's phase, angles in f64. Once per
 * step, before the first layer; rope_cache reads it. */
#include "kernels/device.h"
#include "kernels/rope/rope_phase.h"

#include <math.h>

void rope_table_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct rope_table_args *a = args;
    const size_t half = (size_t)a->D / 2;
    for (int copy = 0; copy < a->copies; copy++) {
        for (int32_t row = 0; row < a->rows; row++) {
            double phase = rope_phase(a->pattern, copy, a->step->q_start + row);
            size_t at = ((size_t)copy * (size_t)a->rows + (size_t)row) * half;
            for (size_t i = 0; i < half; i++) {
                a->cos[at + i] = (float)cos(phase * a->inv_freq[i]);
                a->sin[at + i] = (float)sin(phase * a->inv_freq[i]);
            }
        }
    }
}
