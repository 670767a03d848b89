/* swiglu on AVX-512: the body is swiglu_vector.h. */
#include "kernels/swiglu/swiglu_vector.h"

void swiglu_avx512(struct device *dev, const void *args) {
    swiglu_vector(dev, args);
}
