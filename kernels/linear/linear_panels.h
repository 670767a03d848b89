/* What the plain vectorised linears share: the weight layout "panels" and the walk over rows and
 * panels. A variant brings a tile function: up to LINEAR_TILE_ROWS rows against one panel.
 *
 * Every output is one chain of multiply-adds over ascending k, whatever tile it falls into, so its
 * bits depend on its row and its column alone; rows and panels may be cut anywhere. */
#ifndef KERNELS_LINEAR_PANELS_H
#define KERNELS_LINEAR_PANELS_H

#include "kernels/device.h"

enum {
    PANEL_COLUMNS = 32,   /* columns (n) of a panel; the last one is padded with zeros */
    LINEAR_TILE_ROWS = 12 /* most rows that a tile function is given */
};

/* bf16: [N/32][ceil(K/2)][32][2], the two of a pair are k and k+1 (zero beyond K).
 * f32:  [N/32][K][32]. */
struct linear_tile {
    const void *x;     /* [rows][K], row stride ldx */
    const void *panel; /* one panel */
    const void *bias;  /* [columns], or NULL */
    void *y;           /* [rows][columns], row stride ldy */
    int64_t ldx, ldy;
    int32_t K, rows, columns; /* 1..LINEAR_TILE_ROWS, 1..PANEL_COLUMNS */
};
typedef void linear_tile_function(const struct linear_tile *t);

/* Runs the op over tiles of at most tile_rows rows on the device's threads. */
void linear_panels_run(struct device *dev, const struct linear_args *a, linear_tile_function *tile,
                       int tile_rows);

#endif
