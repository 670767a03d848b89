/* linear on AVX-512: f32 multiply-adds, bf16 widened. What runs where bf16 instructions are
 * missing. */
#include "kernels/linear/linear_fma.h"

void linear_avx512(struct device *dev, const void *args) {
    linear_fma(dev, args);
}
