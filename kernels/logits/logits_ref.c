/* logits, the specification: the head's dot products, accumulated in f64, stored as f32. After the
 * final norm, before sampling; each rank computes its slice of the vocabulary. */
#include "kernels/device.h"
#include "kernels/element.h"

void logits_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct logits_args *a = args;
    const size_t C = (size_t)a->C;
    for (size_t t = 0; t < (size_t)a->rows; t++) {
        for (size_t v = 0; v < (size_t)a->V; v++) {
            double sum = 0;
            for (size_t c = 0; c < C; c++)
                sum += (double)element_load(a->x, t * C + c, a->dtype) *
                       (double)element_load(a->head, v * C + c, a->dtype);
            a->out[t * (size_t)a->ldout + v] = (float)sum;
        }
    }
}
