/* Roof of AMX: tdpbf16ps adds a 16 x 32 by 32 x 16 product of bf16 to a tile of f32. Six tiles of
 * sums, two of operands. */
#include "kernels/roof.h"

#include <immintrin.h>
#include <string.h>

/* Intel SDM, volume 1, "Tile configuration": palette 1, rows and bytes of a row of each tile. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

double roof_amx_bf16(int64_t turns) {
    enum { TILES = 8, CHAINS = 6, FLOPS = 16 * 16 * 32 * 2 };
    struct tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < TILES; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
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
