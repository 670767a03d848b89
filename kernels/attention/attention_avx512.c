/* attention on AVX-512 without bf16 instructions, for both element types: two vectors of 16
 * queries. */
#include "kernels/attention/attention_fma.h"

void attention_avx512(struct device *dev, const void *args) {
    static const struct attention_kernel kernel = {
        .lanes = LANES, .tile = 128, .pairs = false, .block = attend_block, .store = store_query};
    attention_tiles_run(dev, args, &kernel);
}
