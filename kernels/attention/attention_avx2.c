/* attention on AVX2 without bf16 instructions, for both element types: two vectors of 8 queries. */
#include "kernels/attention/attention_fma.h"

void attention_avx2(struct device *dev, const void *args) {
    static const struct attention_kernel kernel = {
        .lanes = LANES, .tile = 64, .pairs = false, .block = attend_block, .store = store_query};
    attention_tiles_run(dev, args, &kernel);
}
