/* tap: copies a few rows of an activation out of the step for the spot check. Runs beside the op
 * whose input or output it copies. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <string.h>

void tap_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct tap_args *a = args;
    const size_t row_bytes = (size_t)a->n * dtype_bytes(a->dtype);
    for (size_t i = 0; i < TAP_ROWS; i++) {
        int32_t row = a->step->tap_row[i];
        if (row < 0) continue;
        memcpy((char *)a->dst + i * row_bytes,
               element_at(a->src, (size_t)row * (size_t)a->ld, a->dtype), row_bytes);
    }
}
