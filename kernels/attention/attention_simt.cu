/* attention on a GPU without matrix instructions: everything in f32, any D that is a multiple of 16
 * up to 256, both dtypes. The reference mode of a GPU, and the oracle of its fast kernels; after
 * rope_cache, before the o linear.
 *
 * A block takes a tile of ROWS queries at absolute positions and one head, and walks its segments
 * in tiles of KEYS keys. A tile of queries never straddles a border of dual chunk attention, so
 * that its rows have the same segments and differ only in the last key that they see. A warp owns
 * ROWS / WARPS rows: for scores a lane owns a key, for the output it owns elements. What a row does
 * depends on that row alone. */
#include "kernels/attention/attention_decode.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

enum { ROWS = 16, KEYS = 32, WARPS = 4, OWN = ROWS / WARPS, MOST_D = 256 };

struct tile_memory {
    float *q, *k, *v; /* [ROWS][D], [KEYS][D + 1] (a lane reads along a key), [KEYS][D] */
};

static __device__ struct tile_memory cut(float *memory, int D) {
    struct tile_memory m;
    m.q = memory;
    m.k = m.q + ROWS * D;
    m.v = m.k + KEYS * (D + 1);
    return m;
}

static size_t tile_bytes(int D) {
    return (size_t)(ROWS * D + KEYS * (D + 1) + KEYS * D) * sizeof(float);
}

/* Queries of the tile; rows outside the chunk are zeros. */
template <typename T>
static __device__ void load_queries(const struct attention_args &a, const void *q, int64_t row0,
                                    int head, float *to) {
    for (int i = (int)threadIdx.x; i < ROWS * a.D; i += WARPS * 32) {
        const int64_t row = row0 + i / a.D;
        const bool there = row >= 0 && row < a.step->n_tokens;
        to[i] = there ? widen(((const T *)q)[row * a.ldq + (int64_t)head * a.D + i % a.D]) : 0.0f;
    }
}

/* Keys [begin, begin + KEYS) and their values; those at and beyond `end` are zeros, whatever lies
 * in the cache: a probability of zero does not silence a NaN. */
template <typename T>
static __device__ void load_keys(const struct attention_args &a, int kv_head, int begin, int end,
                                 struct tile_memory m) {
    const int64_t base = ((int64_t)kv_head * a.kv.capacity + begin) * a.D;
    for (int i = (int)threadIdx.x; i < KEYS * a.D; i += WARPS * 32) {
        const int key = i / a.D, d = i % a.D;
        const bool there = begin + key < end;
        m.k[key * (a.D + 1) + d] = there ? widen(((const T *)a.kv.k)[base + i]) : 0.0f;
        m.v[i] = there ? widen(((const T *)a.kv.v)[base + i]) : 0.0f;
    }
}

static __device__ __forceinline__ uint64_t nanoseconds(void) {
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

static __device__ __forceinline__ float warp_max_of(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

static __device__ __forceinline__ float warp_sum_of(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

template <int N> struct row_state {
    float max, sum, out[N]; /* sum and out over exp(score - max) */
};

/* The tile's keys [0, visible) for one row. */
template <int N>
static __device__ void add_tile(struct row_state<N> *row, const float *q, struct tile_memory m,
                                int D, int visible, float scale) {
    const int lane = (int)threadIdx.x % 32;
    const float *key = m.k + lane * (D + 1);
    float score = 0;
    for (int d = 0; d < D; d++) score = fmaf(q[d], key[d], score);
    score = lane < visible ? score * scale : -INFINITY;
    const float max = fmaxf(row->max, warp_max_of(score));
    /* all scores so far are -inf: nothing has a weight yet */
    const float base = max == -INFINITY ? 0.0f : max;
    const float keep = expf(row->max - base), p = expf(score - base);
    row->max = max;
    row->sum = row->sum * keep + warp_sum_of(p);
#pragma unroll
    for (int i = 0; i < N; i++) row->out[i] *= keep;
    for (int j = 0; j < visible; j++) {
        const float weight = __shfl_sync(0xffffffffu, p, j);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (lane + 32 * i < D)
                row->out[i] = fmaf(weight, m.v[j * D + lane + 32 * i], row->out[i]);
    }
}

template <typename T, int N>
static __device__ void store_row(const struct attention_args &a, const struct row_state<N> &row,
                                 int64_t t, int head) {
    T *to = (T *)a.out + t * a.ldo + (int64_t)head * a.D;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int d = (int)threadIdx.x % 32 + 32 * i;
        if (d < a.D) to[d] = narrow<T>(row.out[i] / row.sum);
    }
}

/* N: elements of the output that a lane owns. */
template <typename T, int N>
static __global__ void __launch_bounds__(WARPS * 32)
    simt_kernel(struct attention_args a, uint64_t *heartbeat) {
    extern __shared__ float memory[];
    const struct tile_memory m = cut(memory, a.D);
    const struct step_params *step = a.step;
    const int tile = step->q_start / ROWS + (int)(gridDim.x - 1 - blockIdx.x); /* longest first */
    const int first = tile * ROWS, head = (int)blockIdx.y, warp = (int)threadIdx.x / 32;
    const int64_t row0 = (int64_t)first - step->q_start;
    if (row0 >= step->n_tokens) return;
    const float scale = a.scale * step->query_factor;
    const int last = min(first + ROWS, step->q_start + step->n_tokens) - 1;
    struct row_state<N> row[OWN];
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        row[r].max = -INFINITY, row[r].sum = 0;
#pragma unroll
        for (int i = 0; i < N; i++) row[r].out[i] = 0;
    }
    struct attention_segment segment[Q_COPIES];
    const int segments = attention_segments(a.pattern, last, segment);
    for (int s = 0; s < segments; s++) {
        __syncthreads();
        load_queries<T>(a, a.q[segment[s].copy], row0, head, m.q);
        for (int key = segment[s].begin; key < segment[s].end; key += KEYS) {
            __syncthreads();
            load_keys<T>(a, head / (a.H / a.kv.heads), key, segment[s].end, m);
            __syncthreads();
#pragma unroll
            for (int r = 0; r < OWN; r++) {
                const int own = warp * OWN + r;
                const int visible = min(min(segment[s].end, first + own + 1) - key, (int)KEYS);
                if (visible > 0) add_tile<N>(&row[r], m.q + own * a.D, m, a.D, visible, scale);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < OWN; r++) {
        const int64_t t = row0 + warp * OWN + r;
        if (t >= 0 && t < step->n_tokens) store_row<T, N>(a, row[r], t, head);
    }
    if (threadIdx.x == 0) *(volatile uint64_t *)heartbeat = nanoseconds();
}

template <typename T, int N>
static void launch(struct device *dev, const struct attention_args *a) {
    const struct cuda_device *gpu = cuda_device(dev);
    const int bytes = (int)tile_bytes(a->D);
    const dim3 grid(blocks_of((size_t)a->rows, ROWS) + 1, (unsigned int)a->H);
    cuda_check(
        dev,
        cudaFuncSetAttribute(simt_kernel<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "attention_simt: shared memory");
    simt_kernel<T, N><<<grid, WARPS * 32, bytes, gpu->stream>>>(*a, gpu->heartbeat);
}

template <typename T> static void by_head_dim(struct device *dev, const struct attention_args *a) {
    if (a->D <= 32)
        launch<T, 1>(dev, a);
    else if (a->D <= 64)
        launch<T, 2>(dev, a);
    else if (a->D <= 128)
        launch<T, 4>(dev, a);
    else
        launch<T, MOST_D / 32>(dev, a);
}

void attention_simt(struct device *dev, const void *args) {
    const struct attention_args *a = (const struct attention_args *)args;
    if (cuda_attention_decode(dev, a)) return;
    if (a->dtype == DTYPE_BF16)
        by_head_dim<__nv_bfloat16>(dev, a);
    else
        by_head_dim<float>(dev, a);
    cuda_check(dev, cudaGetLastError(), "attention_simt");
}
