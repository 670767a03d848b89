/* add_rmsnorm on AVX-512: the body is add_rmsnorm_vector.h. */
#include "kernels/rmsnorm/add_rmsnorm_vector.h"

void add_rmsnorm_avx512(struct device *dev, const void *args) {
    add_rmsnorm_vector(dev, args);
}
