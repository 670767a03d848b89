/* add_rmsnorm, the specification: adds a layer part's output to the residual stream and normalises
 * the sum for the next part. Before qkv and gate_up linears and the head. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <math.h>

static void add_row(const struct add_rmsnorm_args *a, size_t row) {
    for (size_t i = row; i < row + (size_t)a->C; i++)
        element_store(a->h, i, a->dtype,
                      element_load(a->h, i, a->dtype) + element_load(a->x, i, a->dtype));
}

static void normalise_row(const struct add_rmsnorm_args *a, size_t row) {
    double squares = 0;
    for (size_t c = 0; c < (size_t)a->C; c++) {
        double h = (double)element_load(a->h, row + c, a->dtype);
        squares += h * h;
    }
    float mean = (float)(squares / a->C);
    float r = 1.0f / sqrtf(mean + a->eps);
    for (size_t c = 0; c < (size_t)a->C; c++) {
        float y = element_round(element_load(a->h, row + c, a->dtype) * r, a->dtype);
        element_store(a->y, row + c, a->dtype, y * element_load(a->gain, c, a->dtype));
    }
}

void add_rmsnorm_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct add_rmsnorm_args *a = args;
    for (size_t t = 0; t < (size_t)a->rows; t++) {
        size_t row = t * (size_t)a->C;
        if (a->x) add_row(a, row);
        if (a->y) normalise_row(a, row);
    }
}
