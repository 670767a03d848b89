/* swiglu, the specification: silu(gate) * up, from interleaved pairs. Between the gate_up and the
 * down linear. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <math.h>

void swiglu_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct swiglu_args *a = args;
    for (size_t i = 0; i < (size_t)a->rows * (size_t)a->F; i++) {
        float gate = element_load(a->in, 2 * i, a->dtype);
        float up = element_load(a->in, 2 * i + 1, a->dtype);
        float silu = element_round(gate / (1.0f + expf(-gate)), a->dtype);
        element_store(a->out, i, a->dtype, silu * up);
    }
}
