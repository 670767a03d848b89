/* all_reduce on AVX-512: the body is all_reduce_vector.h. */
#include "kernels/reduce/all_reduce_vector.h"

void all_reduce_avx512(struct device *dev, const void *args) {
    all_reduce_vector(dev, args);
}
