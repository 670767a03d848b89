/* logits on AVX2: the body is logits_vector.h. */
#include "kernels/logits/logits_vector.h"

void logits_avx2(struct device *dev, const void *args) {
    logits_vector(dev, args);
}
