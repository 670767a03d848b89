/* embed, the specification: a row of the table for each token id of this rank's slice of the
 * vocabulary, zeros for the others. The first op of a step; all_reduce adds the ranks' rows. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <string.h>

void embed_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct embed_args *a = args;
    const size_t row_bytes = (size_t)a->C * dtype_bytes(a->dtype);
    for (size_t t = 0; t < (size_t)a->rows; t++) {
        char *out = (char *)a->out + t * row_bytes;
        int32_t id = a->ids[t];
        if (id >= a->vocab_begin && id < a->vocab_end)
            memcpy(out, (const char *)a->table + (size_t)(id - a->vocab_begin) * row_bytes,
                   row_bytes);
        else
            memset(out, 0, row_bytes);
    }
}
