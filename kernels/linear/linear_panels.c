/* The weight layout "panels" and the walk over rows and panels of the plain vectorised linears. */
#include "kernels/linear/linear_panels.h"

#include "kernels/element.h"

static size_t panel_bytes(struct weight_shape s) {
    size_t k = s.dtype == DTYPE_BF16 ? ((size_t)s.K + 1) / 2 * 2 : (size_t)s.K;
    return k * PANEL_COLUMNS * dtype_bytes(s.dtype);
}

static int64_t panels_of(struct weight_shape s) {
    return ((int64_t)s.N + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
}

static size_t panels_bytes(struct weight_shape s) {
    return (size_t)panels_of(s) * panel_bytes(s);
}

/* ---- packing */

struct packing {
    struct weight_shape shape;
    char *panels;
    const void *rows;
};

static void pack_panel_bf16(bf16 *panel, const bf16 *rows, int columns, int32_t K) {
    for (int n = 0; n < columns; n++) {
        const bf16 *row = rows + (size_t)n * (size_t)K;
        for (size_t k = 0; k < (size_t)K; k++)
            panel[(k / 2 * PANEL_COLUMNS + (size_t)n) * 2 + k % 2] = row[k];
    }
}

static void pack_panel_f32(float *panel, const float *rows, int columns, int32_t K) {
    for (int n = 0; n < columns; n++) {
        const float *row = rows + (size_t)n * (size_t)K;
        for (size_t k = 0; k < (size_t)K; k++) panel[k * PANEL_COLUMNS + (size_t)n] = row[k];
    }
}

/* The padding is zero already: w->data comes zeroed. */
static void pack_panel(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct packing *p = ctx;
    const struct weight_shape s = p->shape;
    int32_t n = (int32_t)item * PANEL_COLUMNS;
    int columns = s.N - n < PANEL_COLUMNS ? s.N - n : PANEL_COLUMNS;
    const void *rows = element_at(p->rows, (size_t)n * (size_t)s.K, s.dtype);
    void *panel = p->panels + (size_t)item * panel_bytes(s);
    if (s.dtype == DTYPE_BF16)
        pack_panel_bf16(panel, rows, columns, s.K);
    else
        pack_panel_f32(panel, rows, columns, s.K);
}

static enum status panels_pack(struct device *dev, struct weight *w, const void *rows,
                               struct error *err) {
    (void)err;
    struct packing p = {w->shape, w->data, rows};
    device_parallel(dev, panels_of(w->shape), pack_panel, &p);
    return STATUS_OK;
}

const struct weight_layout weight_layout_panels = {"panels", false, panels_bytes, panels_pack, NULL};

/* ---- running */

struct walk {
    const struct linear_args *args;
    linear_tile_function *tile;
    int32_t tile_rows, block_rows; /* rows of a tile, of an item */
    int64_t groups;                /* items per block of rows, each a run of panels */
};

/* Rows of x that stay in the second level cache while the panels pass by. */
enum { BLOCK_BYTES = 384 << 10, BLOCK_TILES = 20, ITEMS_PER_THREAD = 8 };

static int32_t rows_of_block(struct weight_shape s, int tile_rows) {
    size_t tile_bytes = (size_t)tile_rows * (size_t)s.K * dtype_bytes(s.dtype);
    size_t tiles = BLOCK_BYTES / tile_bytes;
    return (int32_t)(tiles < 1 ? 1 : tiles > BLOCK_TILES ? BLOCK_TILES : tiles) * tile_rows;
}

static void walk_panel(const struct walk *w, int64_t panel, int32_t begin, int32_t end) {
    const struct linear_args *a = w->args;
    const struct weight_shape s = a->w->shape;
    int32_t n = (int32_t)panel * PANEL_COLUMNS;
    struct linear_tile t = {.panel = (const char *)a->w->data + (size_t)panel * panel_bytes(s),
                            .bias = a->w->bias ? element_at(a->w->bias, (size_t)n, s.dtype) : NULL,
                            .ldx = a->ldx,
                            .ldy = a->ldy,
                            .K = s.K,
                            .columns = s.N - n < PANEL_COLUMNS ? s.N - n : PANEL_COLUMNS};
    for (int32_t row = begin; row < end; row += w->tile_rows) {
        t.rows = end - row < w->tile_rows ? end - row : w->tile_rows;
        t.x = element_at(a->x, (size_t)row * (size_t)a->ldx, s.dtype);
        t.y = element_at_mut(a->y, (size_t)row * (size_t)a->ldy + (size_t)n, s.dtype);
        w->tile(&t);
    }
}

static void walk_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct walk *w = ctx;
    const int64_t panels = panels_of(w->args->w->shape), group = item % w->groups;
    int32_t begin = (int32_t)(item / w->groups) * w->block_rows, end = begin + w->block_rows;
    if (end > w->args->rows) end = w->args->rows;
    for (int64_t p = panels * group / w->groups; p < panels * (group + 1) / w->groups; p++)
        walk_panel(w, p, begin, end);
}

void linear_panels_run(struct device *dev, const struct linear_args *a, linear_tile_function *tile,
                       int tile_rows) {
    struct walk w = {a, tile, tile_rows, rows_of_block(a->w->shape, tile_rows), 1};
    int64_t blocks = ((int64_t)a->rows + w.block_rows - 1) / w.block_rows;
    int64_t wanted = (int64_t)device_threads(dev) * ITEMS_PER_THREAD;
    if (blocks < wanted && blocks > 0) w.groups = (wanted + blocks - 1) / blocks;
    if (w.groups > panels_of(a->w->shape)) w.groups = panels_of(a->w->shape);
    device_parallel(dev, blocks * w.groups, walk_item, &w);
}
