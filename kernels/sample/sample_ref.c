/* sample: the next token from the logits of one row, in the order of the reference engine (ops.h).
 * The last op of a step; writes the id that the next step embeds. One thread: O(V), and V log V
 * only when top_p must sort what top_k left. */
#include "kernels/device.h"
#include "kernels/random.h"

#include <math.h>

struct candidate {
    float value; /* logit after penalty and temperature */
    int32_t id;
};

static bool is_seen(const uint32_t *seen, int32_t id) {
    return seen[id / 32] >> (id % 32) & 1u;
}

static float penalised(const struct sample_args *a, int32_t id) {
    float l = a->logits[id], r = a->params->repetition_penalty;
    if (!is_seen(a->seen, id)) return l;
    return l > 0 ? l / r : l * r;
}

/* exp(value - max), where equal infinities differ by nothing. */
static double weight_of(float value, float max) {
    return value == max ? 1.0 : exp((double)value - (double)max);
}

/* Highest value, lowest id at a tie; -1 when there is no number at all. */
static int32_t greedy(const struct sample_args *a) {
    int32_t best = -1;
    float best_value = 0;
    for (int32_t id = 0; id < a->V; id++) {
        float value = penalised(a, id);
        if (isnan(value) || (best >= 0 && value <= best_value)) continue;
        best = id;
        best_value = value;
    }
    return best;
}

/* All ids whose logit is a number, in order of id, divided by the temperature. */
static int32_t gather(const struct sample_args *a, struct candidate *out) {
    int32_t n = 0;
    for (int32_t id = 0; id < a->V; id++) {
        float value = penalised(a, id) / a->params->temperature;
        if (!isnan(value)) out[n++] = (struct candidate){value, id};
    }
    return n;
}

/* Restores the min-heap `heap` of n values below i. */
static void sift_down_value(float *heap, int32_t n, int32_t i) {
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[i] <= heap[child]) return;
        float t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

/* Keeps the candidates at or above the k-th largest value, in their order. heap: room for k. */
static int32_t keep_top_k(struct candidate *c, int32_t n, int32_t k, float *heap) {
    if (k <= 0 || k >= n) return n;
    for (int32_t i = 0; i < k; i++) heap[i] = c[i].value;
    for (int32_t i = k / 2; i-- > 0;) sift_down_value(heap, k, i);
    for (int32_t i = k; i < n; i++) {
        if (c[i].value <= heap[0]) continue;
        heap[0] = c[i].value;
        sift_down_value(heap, k, 0);
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (c[i].value >= heap[0]) c[kept++] = c[i];
    return kept;
}

/* Ascending order of the cumulative sum; of equal values the lowest id comes last, so that it stays
 * longest, as it wins the greedy tie. */
static bool before(struct candidate a, struct candidate b) {
    return a.value < b.value || (a.value == b.value && a.id > b.id);
}

static void sift_down(struct candidate *heap, int32_t n, int32_t i) {
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child], heap[child + 1])) child++;
        if (!before(heap[i], heap[child])) return;
        struct candidate t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
    }
}

static void sort_ascending(struct candidate *c, int32_t n) {
    for (int32_t i = n / 2; i-- > 0;) sift_down(c, n, i);
    for (int32_t end = n - 1; end > 0; end--) {
        struct candidate t = c[0];
        c[0] = c[end];
        c[end] = t;
        sift_down(c, end, 0);
    }
}

/* First of the sorted candidates that stays: those whose inclusive cumulative share is <= 1 - top_p
 * go, the last never. weights: of the candidates, filled here. */
static int32_t drop_below_top_p(const struct candidate *c, double *weights, int32_t n,
                                float top_p) {
    double total = 0, cumulative = 0;
    for (int32_t i = 0; i < n; i++) total += weights[i] = weight_of(c[i].value, c[n - 1].value);
    for (int32_t i = 0; i < n - 1; i++) {
        cumulative += weights[i];
        if (cumulative / total > 1.0 - (double)top_p) return i;
    }
    return n - 1;
}

static double exponential(uint64_t seed, int32_t id, int32_t draw) {
    uint32_t counter[4] = {(uint32_t)id, (uint32_t)draw, 0, 0}, word[4];
    philox4x32(seed, counter, word);
    return -log(((double)word[0] + 1.0) * 0x1p-32); /* of a number in (0, 1] */
}

/* argmax(p / Exp(1)) falls on candidate i with probability p_i / sum(p): exponential races. The
 * common factor of the p does not matter. */
static int32_t draw(const struct sample_args *a, const struct candidate *c, int32_t n) {
    float max = c[0].value;
    for (int32_t i = 1; i < n; i++)
        if (c[i].value > max) max = c[i].value;
    double best = -1;
    int32_t id = -1;
    for (int32_t i = 0; i < n; i++) {
        double score = weight_of(c[i].value, max) / exponential(a->params->seed, c[i].id, *a->draw);
        if (score > best || (score == best && c[i].id < id)) {
            best = score;
            id = c[i].id;
        }
    }
    return id;
}

static int32_t sampled(const struct sample_args *a) {
    struct candidate *c = a->scratch;
    double *weights = (double *)(c + a->V); /* also room for top-k's heap, before */
    int32_t n = gather(a, c);
    if (n == 0) return -1;
    n = keep_top_k(c, n, a->params->top_k, (float *)weights);
    int32_t first = 0;
    if (a->params->top_p < 1.0f) {
        sort_ascending(c, n);
        first = drop_below_top_p(c, weights, n, a->params->top_p);
    }
    return draw(a, c + first, n - first);
}

/* log softmax of the raw logits, NaN left out of the sum. */
static float log_probability(const struct sample_args *a, int32_t id) {
    float max = -INFINITY;
    for (int32_t i = 0; i < a->V; i++)
        if (a->logits[i] > max) max = a->logits[i];
    double sum = 0;
    for (int32_t i = 0; i < a->V; i++)
        if (!isnan(a->logits[i])) sum += weight_of(a->logits[i], max);
    double above = a->logits[id] == max ? 0.0 : (double)a->logits[id] - (double)max;
    return (float)(above - log(sum));
}

void sample_ref(struct device *dev, const void *args) {
    (void)dev;
    const struct sample_args *a = args;
    int32_t id = a->params->temperature < 1e-5f ? greedy(a) : sampled(a);
    if (id < 0) id = 0; /* nothing but NaN: the log-probability is NaN too */
    *a->id = id;
    *a->logprob = log_probability(a, id);
    a->seen[id / 32] |= 1u << (id % 32);
    ++*a->draw;
}
