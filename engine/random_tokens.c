/* Ids without a meaning, for prompts that only have to be long. */
#include "engine/engine.h"

#include "kernels/random.h"

void engine_random_tokens(uint64_t seed, int32_t V, int32_t n, int32_t *out) {
    for (int32_t i = 0; i < n; i += 4) {
        const uint32_t counter[4] = {(uint32_t)i / 4, 0, 0x70726f6du, 0x70747321u}; /* "prompts!" */
        uint32_t word[4];
        philox4x32(seed, counter, word);
        for (int32_t k = 0; k < 4 && i + k < n; k++)
            out[i + k] = (int32_t)((uint64_t)word[k] * (uint32_t)V >> 32);
    }
}
