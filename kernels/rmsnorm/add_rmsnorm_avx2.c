/* add_rmsnorm on AVX2: the body is add_rmsnorm_vector.h. */
#include "kernels/rmsnorm/add_rmsnorm_vector.h"

void add_rmsnorm_avx2(struct device *dev, const void *args) {
    add_rmsnorm_vector(dev, args);
}
