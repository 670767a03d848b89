/* What linear_cublas.c chose for a weight: for results, benchmarks and tests. The numbers are the
 * library's own (enums of cublasLt.h); 0: it does not say. */
#ifndef KERNELS_LINEAR_CUBLAS_H
#define KERNELS_LINEAR_CUBLAS_H

#include "kernels/device.h"

struct cublas_pinned {
    int32_t algorithm, tile, stages, inner, cluster;
    double ms;       /* of a product of 8,192 rows, when it was searched */
    bool remembered; /* kept on disk by an earlier search: none was made for it here */
};

/* Of a weight that this variant packed. */
void cublas_describe(const struct weight *w, struct cublas_pinned *out);

#endif
