/* Roof of AMX: tdpbf16ps adds a 16 x 32 by 32 x 16 product of bf16 to a tile of f32. Six tiles of
 * sums, two of operands. */
#include "kernels/roof.h"

#include <immintrin.h>

/* Intel SDM, volume 1, "Tile configuration": rows, and bytes of a row, of each tile. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* A constant, because gcc 12 believes that _tile_loadconfig reads eight bytes only, and leaves out
 * stores to the rest of a variable. */
static const struct tile_config eight_full_tiles = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

double roof_amx_bf16(int64_t turns) {
    enum { CHAINS = 6, FLOPS = 16 * 16 * 32 * 2 };
    _tile_loadconfig(&eight_full_tiles);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t t = 0; t < turns; t++) {
        _tile_dpbf16ps(0, 6, 7);
        _tile_dpbf16ps(1, 6, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7);
        _tile_dpbf16ps(4, 6, 7);
        _tile_dpbf16ps(5, 6, 7);
    }
    _tile_release();
    return (double)FLOPS * CHAINS * (double)turns;
}
