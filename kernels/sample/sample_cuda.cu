/* sample on a GPU: the next token from the logits of one row, in the order of the reference (ops.h,
 * sample_ref.c). The last op of a step. Five kernels, none of which waits for the host; each reads
 * the parameters and leaves out what they do not ask for:
 *
 *   survey   many blocks   penalty, temperature; keys; each block's largest and its softmax's sum
 *   weigh    many blocks   exp(value - largest) of each candidate, where top_p wants it
 *   select   one block     the lowest candidate that top_k and then top_p leave
 *   race     many blocks   each block's winner among those at or above it
 *   finish   one warp      the winner, its log-probability, `seen`, the counter
 *
 * A key is a value as an integer of the same order, 0 for a NaN, which is no candidate. A place is
 * a key and, below it, the id turned round: ascending places are the reference's ascending order,
 * in which of equal values the lowest id comes last. No atomics: sums have one order. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/random.h"

#include <math.h>

enum {
    THREADS = 256,     /* of survey, weigh and race */
    MOST_BLOCKS = 128, /* of them */
    SELECT_THREADS = 1024,
    BATCH = 4, /* keys that a thread of select loads at a time */
    DIGIT_BITS = 4,
    DIGITS = 1 << DIGIT_BITS,
    KEY_BITS = 32
};

/* What a block of survey saw. */
struct survey {
    double sum;   /* of exp(logit - max), raw logits, without NaN */
    float max;    /* largest raw logit; -inf if there is none */
    uint32_t key; /* largest key, lowest id at a tie; key 0: no candidate */
    int32_t id;
    int32_t candidates;
};

/* What a block of race saw. id -1: none. */
struct winner {
    double score;
    int32_t id;
};

/* The workspace during a call. */
struct board {
    struct survey survey[MOST_BLOCKS];
    struct winner winner[MOST_BLOCKS];
    uint64_t lowest; /* place from which on candidates stay */
};

/* By value to each kernel. */
struct task {
    struct sample_args a;
    struct board *board;
    uint32_t *keys;  /* [V] */
    double *weights; /* [V] */
    int32_t blocks;  /* of survey, weigh and race */
    int32_t id_bits; /* of a place; a multiple of DIGIT_BITS */
};

/* ---- values, keys, places */

static __device__ bool is_greedy(const struct task &t) {
    return t.a.params->temperature < 1e-5f;
}

/* Zeros of both signs are equal. */
static __device__ uint32_t key_of(float value) {
    if (isnan(value)) return 0;
    uint32_t bits = __float_as_uint(value == 0.0f ? 0.0f : value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ float value_of(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

static __device__ uint64_t place_of(const struct task &t, uint32_t key, int32_t id) {
    const uint64_t last = ((uint64_t)1 << t.id_bits) - 1;
    return (uint64_t)key << t.id_bits | (last - (uint64_t)id);
}

/* exp(value - max), where equal infinities differ by nothing. */
static __device__ double weight_of(float value, float max) {
    return value == max ? 1.0 : exp((double)value - (double)max);
}

static __device__ float penalised(const struct sample_args &a, int32_t id) {
    const float l = a.logits[id], r = a.params->repetition_penalty;
    if (!(a.seen[id / 32] >> (id % 32) & 1u)) return l;
    return l > 0 ? __fdiv_rn(l, r) : __fmul_rn(l, r);
}

/* The ids of this block. */
static __device__ void slice_of(const struct task &t, int32_t *begin, int32_t *end) {
    const int32_t each = (t.a.V + t.blocks - 1) / t.blocks;
    *begin = min((int32_t)blockIdx.x * each, t.a.V);
    *end = min(*begin + each, t.a.V);
}

/* ---- results of threads, put together in fixed trees */

static __device__ bool is_better(uint32_t key, int32_t id, uint32_t than_key, int32_t than_id) {
    return key > than_key || (key == than_key && id < than_id);
}

static __device__ struct survey merge(struct survey x, const struct survey &y) {
    const float max = fmaxf(x.max, y.max);
    x.sum = x.sum * weight_of(x.max, max) + y.sum * weight_of(y.max, max);
    x.max = max;
    if (is_better(y.key, y.id, x.key, x.id)) x.key = y.key, x.id = y.id;
    x.candidates += y.candidates;
    return x;
}

static __device__ struct survey merge_warp(struct survey x) {
    for (int lane = 16; lane > 0; lane /= 2) {
        struct survey y;
        y.sum = __shfl_xor_sync(0xffffffffu, x.sum, lane);
        y.max = __shfl_xor_sync(0xffffffffu, x.max, lane);
        y.key = __shfl_xor_sync(0xffffffffu, x.key, lane);
        y.id = __shfl_xor_sync(0xffffffffu, x.id, lane);
        y.candidates = __shfl_xor_sync(0xffffffffu, x.candidates, lane);
        x = merge(x, y);
    }
    return x;
}

static __device__ struct winner better(struct winner x, struct winner y) {
    bool second =
        y.id >= 0 && (x.id < 0 || y.score > x.score || (y.score == x.score && y.id < x.id));
    return second ? y : x;
}

static __device__ struct winner better_warp(struct winner x) {
    for (int lane = 16; lane > 0; lane /= 2) {
        struct winner y;
        y.score = __shfl_xor_sync(0xffffffffu, x.score, lane);
        y.id = __shfl_xor_sync(0xffffffffu, x.id, lane);
        x = better(x, y);
    }
    return x;
}

static __device__ struct survey no_survey(void) {
    return {0.0, -INFINITY, 0, INT32_MAX, 0};
}

/* Of all blocks of survey; called by whole warps, the same in every lane: all of it, or one part.
 */
static __device__ struct survey survey_of_all(const struct task &t) {
    struct survey x = no_survey();
    for (int b = (int)(threadIdx.x % 32); b < t.blocks; b += 32) x = merge(x, t.board->survey[b]);
    return merge_warp(x);
}

static __device__ float largest_value(const struct task &t) {
    uint32_t key = 0;
    for (int b = (int)(threadIdx.x % 32); b < t.blocks; b += 32)
        key = max(key, t.board->survey[b].key);
    return value_of(__reduce_max_sync(0xffffffffu, key));
}

static __device__ int32_t candidates(const struct task &t) {
    int32_t n = 0;
    for (int b = (int)(threadIdx.x % 32); b < t.blocks; b += 32) n += t.board->survey[b].candidates;
    return __reduce_add_sync(0xffffffffu, n);
}

/* ---- survey, weigh */

/* Largest raw logit of the slice: the sum of exponentials is taken against it. */
static __device__ float block_max(float x) {
    __shared__ float of_warp[THREADS / 32];
    for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) x = fmaxf(x, of_warp[w]);
    return x;
}

static __global__ void __launch_bounds__(THREADS) survey_kernel(struct task t) {
    __shared__ struct survey of_warp[THREADS / 32];
    const bool greedy = is_greedy(t);
    int32_t begin, end;
    slice_of(t, &begin, &end);
    struct survey mine = no_survey();
    for (int32_t id = begin + (int32_t)threadIdx.x; id < end; id += THREADS) {
        const float value = penalised(t.a, id);
        const uint32_t key = key_of(greedy ? value : __fdiv_rn(value, t.a.params->temperature));
        t.keys[id] = key;
        mine.candidates += key != 0;
        if (key != 0 && is_better(key, id, mine.key, mine.id)) mine.key = key, mine.id = id;
        mine.max = fmaxf(mine.max, t.a.logits[id]); /* fmaxf passes a NaN over */
    }
    mine.max = block_max(mine.max);
    for (int32_t id = begin + (int32_t)threadIdx.x; id < end; id += THREADS)
        if (!isnan(t.a.logits[id])) mine.sum += weight_of(t.a.logits[id], mine.max);
    mine = merge_warp(mine);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < THREADS / 32; w++) mine = merge(mine, of_warp[w]);
    t.board->survey[blockIdx.x] = mine;
}

static __global__ void __launch_bounds__(THREADS) weigh_kernel(struct task t) {
    if (is_greedy(t) || !(t.a.params->top_p < 1.0f)) return;
    const float max = largest_value(t);
    int32_t begin, end;
    slice_of(t, &begin, &end);
    for (int32_t id = begin + (int32_t)threadIdx.x; id < end; id += THREADS)
        t.weights[id] = t.keys[id] == 0 ? 0.0 : weight_of(value_of(t.keys[id]), max);
}

/* ---- select: one block descends through the digits of places */

/* Measures of the candidates, by the digit of their place below a prefix, of this thread. weights
 * NULL: each counts one. `live` has a bit for each of the first batches: those in which nothing lay
 * under the last prefix are not read again. */
static __device__ void measure_digits(const struct task &t, const double *weights, uint64_t lowest,
                                      uint64_t prefix, int shift, uint64_t *live,
                                      double bins[DIGITS]) {
#pragma unroll
    for (int b = 0; b < DIGITS; b++) bins[b] = 0;
    int batch = 0;
    for (int64_t first = threadIdx.x; first < t.a.V; first += BATCH * SELECT_THREADS, batch++) {
        if (batch < 64 && !(*live >> batch & 1)) continue;
        uint32_t key[BATCH];
        bool any = false;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int64_t id = first + i * SELECT_THREADS;
            key[i] = id < t.a.V ? t.keys[id] : 0;
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int32_t id = (int32_t)(first + i * SELECT_THREADS);
            if (key[i] == 0) continue;
            const uint64_t place = place_of(t, key[i], id);
            if (place < lowest || place >> shift >> DIGIT_BITS != prefix) continue;
            const double m = weights ? weights[id] : 1.0;
            any = true;
#pragma unroll
            for (int b = 0; b < DIGITS; b++)
                bins[b] += (place >> shift & (DIGITS - 1)) == b ? m : 0.0;
        }
        if (!any && batch < 64) *live &= ~((uint64_t)1 << batch);
    }
}

/* Sums over the block into shared memory: of[b]. */
static __device__ void add_up(double bins[DIGITS], double of_warp[][DIGITS], double of[DIGITS]) {
#pragma unroll
    for (int b = 0; b < DIGITS; b++) {
        const double sum = warp_sum(bins[b]);
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][b] = sum;
    }
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        double sum = 0;
        for (int w = 0; w < SELECT_THREADS / 32; w++) sum += of_warp[w][threadIdx.x];
        of[threadIdx.x] = sum;
    }
    __syncthreads();
}

static __device__ double total(const double of[DIGITS]) {
    double sum = 0;
    for (int b = 0; b < DIGITS; b++) sum += of[b];
    return sum;
}

/* The first place in ascending order at which the measure of all candidates up to it, itself
 * included, is more than `rest` of the whole (`relative`) or more than `rest` (otherwise); the last
 * candidate's if there is no such place. Its lowest `skip` bits are left zero. Every thread gets
 * it.
 */
static __device__ uint64_t descend(const struct task &t, const double *weights, uint64_t lowest,
                                   bool relative, double rest, int skip) {
    __shared__ double of_warp[SELECT_THREADS / 32][DIGITS], of[DIGITS];
    const int first = KEY_BITS + t.id_bits - DIGIT_BITS;
    double below = 0, whole = 1;
    uint64_t prefix = 0;
    uint64_t live = ~(uint64_t)0;
    for (int shift = first; shift >= skip; shift -= DIGIT_BITS) {
        double bins[DIGITS];
        measure_digits(t, weights, lowest, prefix, shift, &live, bins);
        add_up(bins, of_warp, of);
        if (relative && shift == first) whole = total(of);
        int digit = 0;
        double before = below, sum = below;
        for (int b = 0; b < DIGITS; b++) {
            if (!(of[b] > 0)) continue;
            digit = b, before = sum;
            sum += of[b];
            if (sum / whole > rest) break;
        }
        below = before;
        prefix = prefix << DIGIT_BITS | (uint64_t)digit;
    }
    return prefix << skip;
}

static __global__ void __launch_bounds__(SELECT_THREADS) select_kernel(struct task t) {
    if (is_greedy(t)) return;
    const int32_t n = candidates(t), k = t.a.params->top_k;
    const float top_p = t.a.params->top_p;
    uint64_t lowest = 0;
    if (k > 0 && k < n) lowest = descend(t, NULL, 0, false, (double)(n - k), t.id_bits);
    if (top_p < 1.0f) lowest = descend(t, t.weights, lowest, true, 1.0 - (double)top_p, 0);
    if (threadIdx.x == 0) t.board->lowest = lowest;
}

/* ---- race, finish */

static __device__ double exponential(uint64_t seed, int32_t id, int32_t draw) {
    const uint32_t counter[4] = {(uint32_t)id, (uint32_t)draw, 0, 0};
    uint32_t word[4];
    philox4x32(seed, counter, word);
    return -log(((double)word[0] + 1.0) * 0x1p-32); /* of a number in (0, 1] */
}

static __global__ void __launch_bounds__(THREADS) race_kernel(struct task t) {
    __shared__ struct winner of_warp[THREADS / 32];
    if (is_greedy(t)) return;
    const float max = largest_value(t);
    const uint64_t lowest = t.board->lowest, seed = t.a.params->seed;
    const int32_t draw = *t.a.draw;
    int32_t begin, end;
    slice_of(t, &begin, &end);
    struct winner mine = {-1.0, -1};
    for (int32_t id = begin + (int32_t)threadIdx.x; id < end; id += THREADS) {
        const uint32_t key = t.keys[id];
        if (key == 0 || place_of(t, key, id) < lowest) continue;
        const double score = weight_of(value_of(key), max) / exponential(seed, id, draw);
        if (score > -1.0) mine = better(mine, {score, id});
    }
    mine = better_warp(mine);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < THREADS / 32; w++) mine = better(mine, of_warp[w]);
    t.board->winner[blockIdx.x] = mine;
}

static __device__ int32_t id_of(const struct task &t, const struct survey &all) {
    if (is_greedy(t)) return all.key == 0 ? -1 : all.id;
    struct winner x = {-1.0, -1};
    for (int b = (int)threadIdx.x; b < t.blocks; b += 32) x = better(x, t.board->winner[b]);
    return better_warp(x).id;
}

static __global__ void __launch_bounds__(32) finish_kernel(struct task t) {
    const struct survey all = survey_of_all(t);
    int32_t id = id_of(t, all);
    if (threadIdx.x != 0) return;
    if (id < 0) id = 0; /* nothing but NaN: the log-probability is NaN too */
    const float logit = t.a.logits[id];
    const double above = logit == all.max ? 0.0 : (double)logit - (double)all.max;
    *t.a.id = id;
    *t.a.logprob = (float)(above - log(all.sum));
    t.a.seen[id / 32] |= 1u << (id % 32);
    ++*t.a.draw;
}

/* ---- the host's side */

static int32_t id_bits_of(int32_t V) {
    int32_t bits = DIGIT_BITS;
    while ((int64_t)1 << bits < V) bits += DIGIT_BITS;
    return bits;
}

void sample_cuda(struct device *dev, const void *args) {
    const struct sample_args *a = (const struct sample_args *)args;
    struct cuda_device *gpu = cuda_device(dev);
    static_assert(sizeof(struct board) <= CUDA_WORKSPACE_BYTES, "the board is in the workspace");
    const unsigned int wanted = blocks_of((size_t)a->V, 4 * THREADS);
    const unsigned int most = MOST_BLOCKS, blocks = wanted < most ? wanted : most;
    struct task t;
    t.a = *a;
    t.board = (struct board *)gpu->workspace;
    t.weights = (double *)a->scratch;
    t.keys = (uint32_t *)(t.weights + a->V);
    t.blocks = (int32_t)blocks;
    t.id_bits = id_bits_of(a->V);
    survey_kernel<<<blocks, THREADS, 0, gpu->stream>>>(t);
    weigh_kernel<<<blocks, THREADS, 0, gpu->stream>>>(t);
    select_kernel<<<1, SELECT_THREADS, 0, gpu->stream>>>(t);
    race_kernel<<<blocks, THREADS, 0, gpu->stream>>>(t);
    finish_kernel<<<1, 32, 0, gpu->stream>>>(t);
    cuda_check(dev, cudaGetLastError(), "sample_cuda");
}
