/* logits on AVX-512: the body is logits_vector.h. */
#include "kernels/logits/logits_vector.h"

void logits_avx512(struct device *dev, const void *args) {
    logits_vector(dev, args);
}
