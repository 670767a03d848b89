/* rope_cache on AVX2: the body is rope_cache_vector.h. */
#include "kernels/rope/rope_cache_vector.h"

void rope_cache_avx2(struct device *dev, const void *args) {
    rope_cache_vector(dev, args);
}
