/* See op_place.h. From the lowest bit: layer + 1 (16), rank + 1 (8), op, role, variant, device (8
 * each), and in the highest byte a mark that tells our numbers from others'. */
#include "kernels/activity/op_place.h"

static const uint64_t mark = 0xb5;

uint64_t op_place_pack(struct op_place p) {
    return (uint64_t)(uint16_t)(p.layer + 1) | (uint64_t)(uint8_t)(p.rank + 1) << 16 |
           (uint64_t)p.op << 24 | (uint64_t)p.role << 32 | (uint64_t)p.variant << 40 |
           (uint64_t)p.device << 48 | mark << 56;
}

struct op_place op_place_unpack(uint64_t packed) {
    const struct op_place p = {.rank = (int16_t)((int)(packed >> 16 & 0xff) - 1),
                               .layer = (int16_t)((int)(packed & 0xffff) - 1),
                               .op = (uint8_t)(packed >> 24),
                               .role = (uint8_t)(packed >> 32),
                               .variant = (uint8_t)(packed >> 40),
                               .device = (uint8_t)(packed >> 48)};
    const bool ours = packed >> 56 == mark && p.op < OPS && p.role < ROLES && p.rank < MAX_RANKS &&
                      p.device < MAX_RANKS;
    return ours ? p : op_place_unknown();
}
