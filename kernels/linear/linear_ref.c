/* linear, the specification: one dot product after the other, in f64. Weight layout "rows": the
 * plain rows [N][K], copied. Between rmsnorm, attention or swiglu and whatever reads the product.
 */
#include "kernels/device.h"
#include "kernels/element.h"

#include <string.h>

static size_t rows_bytes(struct weight_shape s) {
    return (size_t)s.N * (size_t)s.K * dtype_bytes(s.dtype);
}

static enum status rows_pack(struct device *dev, struct weight *w, const void *rows,
                             struct error *err) {
    (void)dev;
    (void)err;
    if (rows) memcpy(w->data, rows, rows_bytes(w->shape));
    return STATUS_OK;
}

const struct weight_layout weight_layout_rows = {"rows", true, rows_bytes, rows_pack, NULL};

void linear_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct linear_args *a = args;
    const struct weight_shape s = a->w->shape;
    for (size_t t = 0; t < (size_t)a->rows; t++) {
        for (size_t n = 0; n < (size_t)s.N; n++) {
            double sum = 0;
            for (size_t k = 0; k < (size_t)s.K; k++)
                sum += (double)element_load(a->x, t * (size_t)a->ldx + k, s.dtype) *
                       (double)element_load(a->w->data, n * (size_t)s.K + k, s.dtype);
            if (a->w->bias) sum += (double)element_load(a->w->bias, n, s.dtype);
            element_store(a->y, t * (size_t)a->ldy + n, s.dtype, (float)sum);
        }
    }
}
