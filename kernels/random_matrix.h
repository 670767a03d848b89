/* Matrices of seeded, almost normal numbers, for weights of models that are not read but made.
 * Value i of a matrix, rows counted one after the other, is mean + deviation * z rounded to
 * bfloat16, z the i-th value of random_normal4() for that seed and stream; float32 has the same
 * numbers, widened. So any part can be made anywhere: any shard, on any device. */
#ifndef KERNELS_RANDOM_MATRIX_H
#define KERNELS_RANDOM_MATRIX_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct random_matrix {
    uint64_t seed, stream;
    float mean, deviation;
    int64_t columns; /* of the whole matrix */
};

/* Rows [row, row + rows) x columns [col, col + cols). */
struct matrix_part {
    int64_t row, rows, col, cols;
};

/* Into host memory, row stride ld elements, with the cores of this process. */
void random_matrix_write(const struct random_matrix *m, const struct matrix_part *part,
                         enum dtype dtype, void *out, int64_t ld);
/* The same bits into memory of the device, on it. */
void device_random_matrix(struct device *dev, const struct random_matrix *m,
                          const struct matrix_part *part, enum dtype dtype, void *out, int64_t ld);

#ifdef __cplusplus
}
#endif

#endif
