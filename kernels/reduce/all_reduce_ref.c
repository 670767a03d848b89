/* all_reduce, the specification: the ranks' partial sums of this device, added in f32 in rank order
 * and rounded once. After the embedding and the o and down linears. */
#include "kernels/device.h"
#include "kernels/element.h"

void all_reduce_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct all_reduce_args *a = args;
    for (size_t i = 0; i < (size_t)a->rows * (size_t)a->C; i++) {
        float sum = element_load(a->partial[0], i, a->dtype);
        for (int r = 1; r < a->ranks; r++) sum += element_load(a->partial[r], i, a->dtype);
        element_store(a->out, i, a->dtype, sum);
    }
}
