/* Attention of one new token over the whole cache, at the speed at which the cache can be read.
 * See attention_decode.h. After rope_cache of a decode step, before its o linear.
 *
 * A block takes SPLIT keys of one kv head and up to GROUP of the query heads that share it, so that
 * keys and values are read once. First scores, kept in shared memory: 16 bytes of a key a lane.
 * Then the weighted sum of values: a warp takes every WARPS-th key, a lane some of the elements.
 * What a block leaves is a maximum, a sum and an unscaled output a head; a second kernel merges the
 * blocks of a head in ascending order. */
#include "kernels/attention/attention_decode.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { SPLIT = 512, GROUP = 8, WARPS = 8, THREADS = WARPS * 32, MERGERS = 1024 };

/* What the blocks leave, in the workspace: [splits][H] of each. */
struct parts {
    float *max, *sum, *out; /* out: [splits][H][D] */
};

/* The heads of a block. */
struct group {
    int kv_head, head0, heads;
};

static __device__ struct group group_of(const struct attention_args &a, int block) {
    const int per_kv = a.H / a.kv.heads, groups = (per_kv + GROUP - 1) / GROUP;
    struct group g;
    g.kv_head = block / groups;
    g.head0 = g.kv_head * per_kv + block % groups * GROUP;
    g.heads = min((int)GROUP, per_kv - block % groups * GROUP);
    return g;
}

/* Scores of keys [begin, end), all of one segment, times scale. Lanes of a key: D / N. */
template <typename T, int D>
static __device__ void score_keys(const struct attention_args &a, struct group g, const void *q,
                                  int begin, int end, int split0, float scale,
                                  float score[GROUP][SPLIT]) {
    constexpr int N = lanes<T>::N, PER_KEY = D / N, AT_ONCE = THREADS / PER_KEY;
    const int lane = (int)threadIdx.x % PER_KEY, first = (int)threadIdx.x / PER_KEY;
    const T *keys = (const T *)a.kv.k + (int64_t)g.kv_head * a.kv.capacity * D + lane * N;
    float query[GROUP][N];
#pragma unroll
    for (int h = 0; h < GROUP; h++)
        if (h < g.heads)
            load_lanes<T, true>((const T *)q + (g.head0 + h) * D + lane * N, N, query[h]);
    const int turns = (end - begin + AT_ONCE - 1) / AT_ONCE; /* the same for all lanes of a warp */
    for (int turn = 0; turn < turns; turn++) {
        const int key = begin + turn * AT_ONCE + first;
        float value[N] = {};
        if (key < end) load_lanes<T, true>(keys + (int64_t)key * D, N, value);
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
            if (h >= g.heads) break;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < N; i++) sum = fmaf(query[h][i], value[i], sum);
#pragma unroll
            for (int offset = PER_KEY / 2; offset > 0; offset /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            if (lane == 0 && key < end) score[h][key - split0] = sum * scale;
        }
    }
}

/* A warp a head: scores become exp(score - max); maximum and sum go to the parts. */
static __device__ void weigh(struct group g, int n, int64_t part0, struct parts parts,
                             float score[GROUP][SPLIT]) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    if (warp >= g.heads) return;
    float max = -INFINITY, sum = 0;
    for (int j = lane; j < n; j += 32) max = fmaxf(max, score[warp][j]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
    const float base = max == -INFINITY ? 0.0f : max;
    for (int j = lane; j < n; j += 32) {
        const float p = expf(score[warp][j] - base);
        score[warp][j] = p;
        sum += p;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) parts.max[part0 + warp] = max, parts.sum[part0 + warp] = sum;
}

/* Elements of a value that a lane owns: E neighbours. */
template <typename T, int E>
static __device__ __forceinline__ void load_elements(const T *p, float out[E]) {
#pragma unroll
    for (int i = 0; i < E; i++) out[i] = widen(p[i]);
}

/* The warps' shares meet in shared memory, where the scores were. */
template <typename T, int D>
static __device__ void sum_values(const struct attention_args &a, struct group g, int split0, int n,
                                  int64_t part0, struct parts parts, float score[GROUP][SPLIT],
                                  float meeting[WARPS][D]) {
    constexpr int E = D / 32;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const T *values =
        (const T *)a.kv.v + ((int64_t)g.kv_head * a.kv.capacity + split0) * D + lane * E;
    float out[GROUP][E] = {};
#pragma unroll 4
    for (int j = warp; j < n; j += WARPS) {
        float value[E];
        load_elements<T, E>(values + (int64_t)j * D, value);
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
            if (h >= g.heads) break;
#pragma unroll
            for (int i = 0; i < E; i++) out[h][i] = fmaf(score[h][j], value[i], out[h][i]);
        }
    }
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
        if (h >= g.heads) break;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < E; i++) meeting[warp][lane * E + i] = out[h][i];
        __syncthreads();
        for (int d = (int)threadIdx.x; d < D; d += THREADS) {
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += meeting[w][d];
            parts.out[(part0 + h) * D + d] = sum;
        }
    }
}

template <typename T, int D>
static __global__ void __launch_bounds__(THREADS)
    split_kernel(struct attention_args a, struct parts parts) {
    __shared__ float score[GROUP][SPLIT];
    __shared__ float meeting[WARPS][D];
    const int position = a.step->q_start, split0 = (int)blockIdx.x * SPLIT;
    if (split0 > position) return;
    const struct group g = group_of(a, (int)blockIdx.y);
    const int n = min((int)SPLIT, position + 1 - split0);
    const int64_t part0 = (int64_t)blockIdx.x * a.H + g.head0;
    struct attention_segment segment[Q_COPIES];
    const int segments = attention_segments(a.pattern, position, segment);
    for (int s = 0; s < segments; s++) {
        const int begin = max(segment[s].begin, split0), end = min(segment[s].end, split0 + n);
        if (begin < end)
            score_keys<T, D>(a, g, a.q[segment[s].copy], begin, end, split0,
                             a.scale * a.step->query_factor, score);
    }
    __syncthreads();
    weigh(g, n, part0, parts, score);
    __syncthreads();
    sum_values<T, D>(a, g, split0, n, part0, parts, score, meeting);
}

/* A block a head, threadIdx.x an element, threadIdx.y a share of the parts: every SHARES-th, in
 * ascending order, and then the shares in theirs. */
template <typename T, int D>
static __global__ void __launch_bounds__(MERGERS)
    merge_kernel(struct attention_args a, struct parts parts) {
    constexpr int SHARES = MERGERS / D;
    __shared__ float maxima[SHARES], sums[SHARES], outs[SHARES][D];
    const int head = (int)blockIdx.x, d = (int)threadIdx.x, share = (int)threadIdx.y;
    const int splits = a.step->q_start / SPLIT + 1;
    float max = -INFINITY, sum = 0, out = 0;
    for (int s = share; s < splits; s += SHARES)
        max = fmaxf(max, parts.max[(int64_t)s * a.H + head]);
    if (d == 0) maxima[share] = max;
    __syncthreads();
    for (int i = 0; i < SHARES; i++) max = fmaxf(max, maxima[i]);
    const float base = max == -INFINITY ? 0.0f : max;
#pragma unroll 4
    for (int s = share; s < splits; s += SHARES) {
        const int64_t part = (int64_t)s * a.H + head;
        const float keep = expf(parts.max[part] - base);
        sum = fmaf(keep, parts.sum[part], sum);
        out = fmaf(keep, parts.out[part * D + d], out);
    }
    if (d == 0) sums[share] = sum;
    outs[share][d] = out;
    __syncthreads();
    if (share > 0) return;
    sum = out = 0;
    for (int i = 0; i < SHARES; i++) sum += sums[i], out += outs[i][d];
    ((T *)a.out)[(int64_t)head * D + d] = narrow<T>(out / sum);
}

template <typename T, int D>
static void launch(struct device *dev, const struct attention_args *a, struct parts parts,
                   int splits) {
    const struct cuda_device *gpu = cuda_device(dev);
    const unsigned int groups = blocks_of((size_t)(a->H / a->kv.heads), GROUP);
    split_kernel<T, D><<<dim3((unsigned int)splits, (unsigned int)a->kv.heads * groups), THREADS, 0,
                         gpu->stream>>>(*a, parts);
    merge_kernel<T, D><<<(unsigned int)a->H, dim3(D, MERGERS / D), 0, gpu->stream>>>(*a, parts);
    cuda_check(dev, cudaGetLastError(), "attention of a decode step");
}

template <typename T>
static bool by_head_dim(struct device *dev, const struct attention_args *a, struct parts parts,
                        int splits) {
    switch (a->D) {
    case 32: launch<T, 32>(dev, a, parts, splits); return true;
    case 64: launch<T, 64>(dev, a, parts, splits); return true;
    case 128: launch<T, 128>(dev, a, parts, splits); return true;
    default: return false;
    }
}

/* The grid is for the whole capacity: blocks beyond the position end at once. */
bool cuda_attention_decode(struct device *dev, const struct attention_args *a) {
    const int splits = (a->kv.capacity + SPLIT - 1) / SPLIT;
    const size_t heads = (size_t)splits * (size_t)a->H;
    const size_t bytes = heads * (size_t)(a->D + 2) * sizeof(float);
    if (!a->decode || a->rows != 1 || bytes > CUDA_WORKSPACE_BYTES) return false;
    struct parts parts;
    parts.out = (float *)cuda_device(dev)->workspace;
    parts.max = parts.out + heads * (size_t)a->D;
    parts.sum = parts.max + heads;
    return a->dtype == DTYPE_BF16 ? by_head_dim<__nv_bfloat16>(dev, a, parts, splits)
                                  : by_head_dim<float>(dev, a, parts, splits);
}
