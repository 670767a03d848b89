#include "kernels/random_matrix.h"

#include "kernels/bf16.h"
#include "kernels/device_core.h"
#include "kernels/random.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

struct job {
    const struct random_matrix *m;
    struct matrix_part part;
    enum dtype dtype;
    char *out;
    int64_t ld;
};

enum { BLOCK = 256 }; /* values made at a time, a multiple of the four of one draw */

static void make_block(const struct random_matrix *m, int64_t first, int64_t n, bf16 out[BLOCK]) {
    const float mean = m->mean, deviation = m->deviation;
    float z[BLOCK];
    for (int64_t i = 0; i < n; i += 4)
        random_normal4(m->seed, m->stream, (uint64_t)(first + i) / 4, z + i);
    for (int64_t i = 0; i < n; i++) out[i] = f32_to_bf16(mean + deviation * z[i]);
}

/* Values [first, first + cols) of the matrix, in blocks that begin at multiples of four. */
static void write_row(const struct job *j, int64_t row) {
    const int64_t first = (j->part.row + row) * j->m->columns + j->part.col;
    char *out = j->out + (size_t)(row * j->ld) * dtype_bytes(j->dtype);
    bf16 block[BLOCK];
    for (int64_t done = 0; done < j->part.cols;) {
        const int64_t skip = (first + done) % 4, left = j->part.cols - done;
        const int64_t n = left < BLOCK - skip ? left : BLOCK - skip;
        make_block(j->m, first + done - skip, skip + n, block);
        if (j->dtype == DTYPE_BF16)
            memcpy((bf16 *)(void *)out + done, block + skip, (size_t)n * sizeof *block);
        for (int64_t i = 0; j->dtype == DTYPE_F32 && i < n; i++)
            ((float *)(void *)out)[done + i] = bf16_to_f32(block[skip + i]);
        done += n;
    }
}

static void *write_rows(void *arg) {
    const struct job *j = arg;
    for (int64_t i = 0; i < j->part.rows; i++) write_row(j, i);
    return NULL;
}

/* Large parts are cut by rows; a thread that cannot be started leaves its rows to this one. */
void random_matrix_write(const struct random_matrix *m, const struct matrix_part *part,
                         enum dtype dtype, void *out, int64_t ld) {
    enum { MOST = 16, VALUES_PER_THREAD = 1 << 18 };
    cpu_set_t cores;
    pthread_t thread[MOST];
    bool started[MOST] = {false};
    struct job job[MOST];
    assert(part->row >= 0 && part->rows >= 0 && part->col >= 0 && part->cols >= 0);
    int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    if (n > MOST) n = MOST;
    while (n > 1 && (part->rows < n || part->rows * part->cols / n < VALUES_PER_THREAD)) n--;
    for (int i = n - 1; i >= 0; i--) {
        const int64_t begin = part->rows * i / n;
        job[i] = (struct job){m, *part, dtype, out, ld};
        job[i].part.row += begin;
        job[i].part.rows = part->rows * (i + 1) / n - begin;
        job[i].out += (size_t)(begin * ld) * dtype_bytes(dtype);
        started[i] = i > 0 && pthread_create(&thread[i], NULL, write_rows, &job[i]) == 0;
        if (!started[i]) write_rows(&job[i]);
    }
    for (int i = 0; i < n; i++)
        if (started[i]) pthread_join(thread[i], NULL);
}

void device_random_matrix(struct device *dev, const struct random_matrix *m,
                          const struct matrix_part *part, enum dtype dtype, void *out, int64_t ld) {
    dev->backend->random_matrix(dev, m, part, dtype, out, ld);
}
