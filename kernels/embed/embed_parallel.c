/* embed over threads: copies of rows, so there is nothing for vectors to do. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <string.h>

enum { EMBED_ROWS = 32 /* of an item */ };

static void embed_item(void *ctx, int64_t item, int worker) {
    (void)worker;
    const struct embed_args *a = ctx;
    const size_t row_bytes = (size_t)a->C * dtype_bytes(a->dtype);
    int64_t begin = item * EMBED_ROWS;
    int64_t end = a->rows - begin < EMBED_ROWS ? a->rows : begin + EMBED_ROWS;
    for (int64_t t = begin; t < end; t++) {
        char *out = (char *)a->out + (size_t)t * row_bytes;
        const int32_t id = a->ids[t];
        if (id >= a->vocab_begin && id < a->vocab_end)
            memcpy(out, (const char *)a->table + (size_t)(id - a->vocab_begin) * row_bytes,
                   row_bytes);
        else
            memset(out, 0, row_bytes);
    }
}

void embed_parallel(struct device *dev, const void *args) {
    const struct embed_args *a = args;
    device_parallel(dev, ((int64_t)a->rows + EMBED_ROWS - 1) / EMBED_ROWS, embed_item, (void *)a);
}
