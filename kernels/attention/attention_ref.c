/* attention, the specification: one query at a time over its segments, keys in ascending order, a
 * softmax in f64 that is rescaled when a tile brings a new maximum. After rope_cache, before the o
 * linear. */
#include "kernels/device.h"
#include "kernels/element.h"

#include <math.h>

struct row_state {
    double max, sum;
    double *out;  /* [D], not yet divided by sum */
    float *k, *v; /* [KV_TILE][D], scratch */
};

static void add_tile(const struct attention_args *a, struct row_state *row, size_t q_index,
                     const void *q, int head, int32_t begin, int32_t n) {
    const size_t D = (size_t)a->D;
    const double scale = (double)a->scale * (double)a->step->query_factor;
    double score[KV_TILE], max = row->max;
    a->kv.layout->unpack(&a->kv, head, begin, n, row->k, row->v);
    for (size_t j = 0; j < (size_t)n; j++) {
        score[j] = 0;
        for (size_t d = 0; d < D; d++)
            score[j] += (double)element_load(q, q_index + d, a->dtype) * (double)row->k[j * D + d];
        score[j] *= scale;
        if (score[j] > max) max = score[j];
    }
    const double keep = row->max == max ? 1 : exp(row->max - max);
    row->max = max;
    row->sum *= keep;
    for (size_t d = 0; d < D; d++) row->out[d] *= keep;
    for (size_t j = 0; j < (size_t)n; j++) {
        const double p = score[j] == -INFINITY ? 0 : exp(score[j] - max);
        row->sum += p;
        for (size_t d = 0; d < D; d++) row->out[d] += p * (double)row->v[j * D + d];
    }
}

static void attend(struct device *dev, const struct attention_args *a, int32_t t, int32_t h) {
    const size_t D = (size_t)a->D;
    char *scratch = device_scratch(dev, 0);
    struct row_state row = {.max = -INFINITY, .out = (double *)scratch};
    row.k = (float *)(scratch + D * sizeof(double));
    row.v = row.k + KV_TILE * D;
    for (size_t d = 0; d < D; d++) row.out[d] = 0;

    struct attention_segment segment[Q_COPIES];
    const int segments = attention_segments(a->pattern, a->step->q_start + t, segment);
    const size_t q_index = (size_t)(t * a->ldq) + (size_t)h * D;
    const int head = h / (a->H / a->kv.heads);
    for (int s = 0; s < segments; s++)
        for (int32_t j = segment[s].begin; j < segment[s].end; j += KV_TILE) {
            int32_t n = segment[s].end - j < KV_TILE ? segment[s].end - j : KV_TILE;
            add_tile(a, &row, q_index, a->q[segment[s].copy], head, j, n);
        }
    for (size_t d = 0; d < D; d++)
        element_store(a->out, (size_t)(t * a->ldo) + (size_t)h * D + d, a->dtype,
                      (float)(row.out[d] / row.sum));
}

void attention_ref(struct device *dev, const void *args) {
    const struct attention_args *a = args;
    for (int32_t t = 0; t < a->step->n_tokens; t++)
        for (int32_t h = 0; h < a->H; h++) attend(dev, a, t, h);
}
