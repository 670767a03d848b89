/* attention on any GPU from sm_80 on: bf16, head dims 32, 64, 96 and 128, on mma.sync. After
 * rope_cache, before the o linear. The way of FlashAttention-2 (Dao, 2023): a block holds a tile of
 * queries in shared memory and the output in registers, and walks the keys once, with an online
 * softmax.
 *
 * A block is BM queries at an absolute multiple of BM, and one head. Four warps own 32 rows each;
 * they share tiles of BN keys at absolute multiples of BN, ascending, which arrive by asynchronous
 * copies two items ahead in a ring of three: K0 V0 K1 V1 ... While the scores of a tile are
 * computed, its values are on their way; while the values are used, the next keys are.
 *
 * Row invariance: which keys a row meets, in which tiles and order, depends on its position alone;
 * a warp leaves out tiles that none of its rows sees and factors that are exactly 1, which changes
 * no bit. Tiles of queries and keys divide KV_TILE, so that none straddles a border of dual chunk
 * attention: the rows of a block have the same segments, and each segment begins where the one
 * before it ended; only the copy of the query changes there. */
#include "kernels/attention/attention_decode.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/mma.cuh"

enum {
    BM = 128,
    BN = 64,
    WARPS = 4,
    THREADS = 32 * WARPS,
    BLOCKS = BM / WARPS / 16, /* of 16 rows: a warp's */
    STAGES = 3
};

/* Shared memory: BM rows of queries, then STAGES tiles of BN rows of keys or values. A row's
 * sixteen byte pieces are permuted among eight (or four) neighbours by the row's number, so that
 * eight rows of a column of pieces lie in different banks. */
template <int D> struct shape {
    enum {
        ROW = 2 * D, /* bytes */
        PIECES = D / 8,
        LANES = D % 64 == 0 ? 8 : 4, /* threads that copy a row, and the reach of the permutation */
        ROWS_AT_ONCE = THREADS / LANES,
        STAGE = BN * ROW,
        QUERIES = BM * ROW,
        BYTES = QUERIES + STAGES * STAGE,
        RESIDENT = D <= 32 ? 3 : 2 /* blocks on an SM: what registers allow */
    };
};

template <int D> static __device__ __forceinline__ uint32_t place(int row, int piece) {
    const int flip = shape<D>::LANES == 8 ? row % 8 : row / 2 % 4;
    return (uint32_t)(row * shape<D>::ROW + (piece ^ flip) * 16);
}

/* place(row, piece + 2 * k) from at = place(row, piece), piece < 2, in a tile at a multiple of 256:
 * the permutation is an exclusive or, and so is this. */
template <int D> static __device__ __forceinline__ uint32_t along(uint32_t at, int k) {
    if (D == 96) return (at ^ (uint32_t)(k % 2 * 32)) + (uint32_t)(k / 2 * 64);
    return at ^ (uint32_t)(k * 32);
}

/* What a block does. Taken anew where it is needed: kept over the loop it would cost registers. */
struct work {
    int first; /* position of the tile's first row, which may lie before the chunk */
    int row;   /* the same in the chunk's rows: may be negative */
    int rows;  /* of the chunk: n_tokens */
    int end;   /* keys that some real row of the tile sees */
    int head, kv_head;
};

/* Heads of one kv group run side by side on the same keys, groups one after another; within a group
 * the longest tiles first. false: the tile lies outside the chunk. */
static __device__ __forceinline__ bool take_work(const struct attention_args &a, struct work *w) {
    const int group = a.H / a.kv.heads, tiles = (int)gridDim.x / a.H;
    const int of_group = (int)blockIdx.x % (tiles * group), tile = tiles - 1 - of_group / group;
    const int q_start = a.step->q_start, n_tokens = a.step->n_tokens;
    w->kv_head = (int)blockIdx.x / (tiles * group);
    w->head = w->kv_head * group + of_group % group;
    w->first = (q_start / BM + tile) * BM;
    w->row = w->first - q_start;
    w->rows = n_tokens;
    w->end = min(w->first + BM, q_start + n_tokens);
    return w->first < q_start + n_tokens;
}

/* ---- copies to shared memory: LANES threads side by side on a row */

/* Queries of one rotated copy, whose rows begin at multiples of sixteen bytes; rows outside the
 * chunk are zeros. Does not end the group: without copy_group_end() nobody waits for them. */
template <int D>
static __device__ void load_queries(const struct attention_args &a, const struct work &w, int copy,
                                    uint32_t to) {
    using S = shape<D>;
    const int lane = (int)threadIdx.x % S::LANES;
    const __nv_bfloat16 *q = (const __nv_bfloat16 *)a.q[copy] + (int64_t)w.head * D;
#pragma unroll 1
    for (int row = (int)threadIdx.x / S::LANES; row < BM; row += S::ROWS_AT_ONCE) {
        const bool there = w.row + row >= 0 && w.row + row < w.rows;
        const __nv_bfloat16 *from = there ? q + (w.row + row) * a.ldq : q;
#pragma unroll
        for (int piece = lane; piece < S::PIECES; piece += S::LANES)
            copy_async(to + place<D>(row, piece), from + piece * 8, there);
    }
}

/* What a thread knows of the tiles that it copies its share of. */
struct share {
    int64_t from; /* bytes from the plane's begin to its first piece of tile 0 */
    uint32_t to;  /* that piece's place in a stage */
    int end;      /* keys that there are from that piece's row on */
};

template <int D>
static __device__ struct share share_of(const struct attention_args &a, const struct work &w) {
    using S = shape<D>;
    const int piece = (int)threadIdx.x % S::LANES, row = (int)threadIdx.x / S::LANES;
    struct share s;
    s.from = ((int64_t)w.kv_head * a.kv.capacity + row) * S::ROW + (int64_t)piece * 16;
    s.to = place<D>(row, piece);
    s.end = w.end - row;
    return s;
}

/* Keys or values at [key, key + BN) into a stage, as a group; those that nobody sees are zeros,
 * whatever lies in the cache: a probability of zero does not silence a NaN. */
template <int D>
static __device__ __forceinline__ void load_tile(const struct share &s, const void *plane, int key,
                                                 uint32_t stage) {
    using S = shape<D>;
    const char *from = (const char *)plane + (s.from + (int64_t)key * S::ROW);
    const int left = s.end - key;
#pragma unroll
    for (int row = 0; row < BN; row += S::ROWS_AT_ONCE)
#pragma unroll
        for (int piece = 0; piece < S::PIECES; piece += S::LANES)
            copy_async(stage + s.to + (uint32_t)(row * S::ROW + piece * 16),
                       from + row * S::ROW + piece * 16, row < left);
    copy_group_end();
}

/* ---- what a warp computes */

/* One warp's share of a tile. Row 16 b + 8 h + g of the warp has its scores in [b][.][2 h] and
 * [2 h + 1], its running maximum and sum in [b][h]. */
struct scores {
    float s[BLOCKS][BN / 8][4];
};
template <int D> struct output {
    float o[BLOCKS][D / 8][4];
    float max[BLOCKS][2], sum[BLOCKS][2]; /* sum: of this thread's keys alone */
};

/* q: the lane's row of matrices among the warp's queries; k: among the tile's keys. */
template <int D>
static __device__ __forceinline__ void multiply_keys(struct scores &t, uint32_t q, uint32_t k) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) t.s[b][n][i] = 0;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t query[BLOCKS][4];
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            load_matrices(query[b], along<D>(q, d) + (uint32_t)(b * 16 * shape<D>::ROW));
#pragma unroll
        for (int n = 0; n < BN / 8; n += 2) {
            uint32_t key[4];
            load_matrices(key, along<D>(k, d) + (uint32_t)(n * 8 * shape<D>::ROW));
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                multiply_add(t.s[b][n], query[b], key[0], key[1]);
                multiply_add(t.s[b][n + 1], query[b], key[2], key[3]);
            }
        }
    }
}

/* ahead: how far the lane's first row is past the lane's first key. */
static __device__ __forceinline__ void hide_later_keys(struct scores &t, int ahead) {
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * n + i % 2 > ahead + 16 * b + i / 2 * 8) t.s[b][n][i] = -INFINITY;
}

static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Scores of one row into probabilities relative to its new maximum; returns what is left of the old
 * ones. The product with the scale is rounded before the maximum is subtracted: a fused subtraction
 * would leave the rounding error of a huge score in the exponent. */
static __device__ __forceinline__ float weigh(float s[BN / 8][4], int h, float scale, float *max,
                                              float *sum) {
    float most = *max, added = 0;
#pragma unroll
    for (int n = 0; n < BN / 8; n++)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; i++) {
            s[n][i] = __fmul_rn(s[n][i], scale);
            most = fmaxf(most, s[n][i]);
        }
    most = quad_max(most);
    const float base = most == -INFINITY ? 0.0f : most; /* nothing has a weight yet */
    const float keep = exp2_fast(*max - base);
#pragma unroll
    for (int n = 0; n < BN / 8; n++)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; i++) {
            s[n][i] = exp2_fast(s[n][i] - base);
            added += s[n][i];
        }
    *max = most;
    *sum = *sum * keep + added;
    return keep;
}

template <int D>
static __device__ __forceinline__ void weigh_rows(struct scores &t, float scale,
                                                  struct output<D> &r) {
    float keep[BLOCKS][2];
    bool moved = false;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            keep[b][h] = weigh(t.s[b], h, scale, &r.max[b][h], &r.sum[b][h]);
            moved |= keep[b][h] != 1.0f;
        }
    if (!__any_sync(0xffffffffu, moved)) return;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) r.o[b][n][i] *= keep[b][i / 2];
}

/* v: the lane's row of matrices among the tile's values. A score's place in the accumulator is its
 * place in the left operand. The matrix unit rounds sums towards zero, which over a million keys
 * would be off by about a unit of bf16: it sums a tile alone, the tiles are summed here. */
template <int D>
static __device__ __forceinline__ void multiply_values(struct output<D> &r, const struct scores &t,
                                                       uint32_t v) {
    uint32_t p[BN / 16][BLOCKS][4];
#pragma unroll
    for (int k = 0; k < BN / 16; k++)
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[k][b][i] = narrow_pair(t.s[b][2 * k + i / 2][i % 2 * 2],
                                         t.s[b][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int d = 0; d < D / 8; d += 2) {
        float sum[BLOCKS][2][4] = {};
#pragma unroll
        for (int k = 0; k < BN / 16; k++) {
            uint32_t value[4];
            load_matrices_transposed(value,
                                     along<D>(v, d / 2) + (uint32_t)(k * 16 * shape<D>::ROW));
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                multiply_add(sum[b][0], p[k][b], value[0], value[1]);
                multiply_add(sum[b][1], p[k][b], value[2], value[3]);
            }
        }
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 8; i++) r.o[b][d + i / 4][i % 4] += sum[b][i / 4][i % 4];
    }
}

/* ---- the end */

/* Eight elements; `to` may be anywhere. */
static __device__ __forceinline__ void store_piece(__nv_bfloat16 *to, uint4 v, bool aligned) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
    if (aligned) {
        *(uint4 *)to = v;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = __ushort_as_bfloat16((unsigned short)(word[i / 2] >> (i % 2 * 16)));
}

/* Through shared memory, where the warp's own queries were, so that whole pieces of rows go out. */
template <int D>
static __device__ void store_rows(const struct attention_args &a, const struct work &w,
                                  const struct output<D> &r, uint32_t memory, int warp_row) {
    using S = shape<D>;
    const int lane = (int)threadIdx.x % 32;
    const bool aligned = ((uintptr_t)a.out | (uintptr_t)(2 * a.ldo)) % 16 == 0;
    __nv_bfloat16 *out = (__nv_bfloat16 *)a.out + (int64_t)w.head * D;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float whole = 1.0f / quad_sum(r.sum[b][h]);
            const int row = warp_row + 16 * b + 8 * h + lane / 4;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                shared_store(memory + place<D>(row, n) + (uint32_t)(lane % 4 * 4),
                             narrow_pair(r.o[b][n][2 * h] * whole, r.o[b][n][2 * h + 1] * whole));
        }
    __syncwarp();
    for (int row = warp_row + lane / S::LANES; row < warp_row + 16 * BLOCKS; row += 32 / S::LANES) {
        const int t = w.row + row;
        if (t < 0 || t >= w.rows) continue;
#pragma unroll
        for (int piece = lane % S::LANES; piece < S::PIECES; piece += S::LANES)
            store_piece(out + t * a.ldo + piece * 8, shared_load(memory + place<D>(row, piece)),
                        aligned);
    }
}

template <int D>
static __global__ void __launch_bounds__(THREADS, shape<D>::RESIDENT)
    mma_kernel(const __grid_constant__ struct attention_args a, uint64_t *heartbeat) {
    using S = shape<D>;
    extern __shared__ __align__(1024) char memory[];
    const uint32_t queries = shared_address(memory), ring = queries + S::QUERIES;
    struct work w;
    if (!take_work(a, &w)) return;
    /* by way of a shuffle, so that the compiler knows it is the whole warp's */
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0);
    const int lane = (int)threadIdx.x % 32, warp_row = warp * 16 * BLOCKS;
    const int warp_first = w.first + warp_row; /* position of the warp's first row */
    const int row_end = min(warp_row + 16 * BLOCKS, w.rows - w.row); /* of the warp's real rows */
    const int warp_end = row_end > max(warp_row, -w.row) ? w.first + row_end : 0; /* of its keys */
    const float scale = a.scale * a.step->query_factor * 1.44269504f;             /* log2(e) */
    const uint32_t q = queries + place<D>(warp_row + lane % 16, lane / 16);
    const uint32_t k = place<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const uint32_t v = place<D>(lane % 16, lane / 16);
    const struct share s = share_of<D>(a, w);

    struct output<D> r;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
#pragma unroll
        for (int h = 0; h < 2; h++) r.max[b][h] = -INFINITY, r.sum[b][h] = 0;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) r.o[b][n][i] = 0;
    }
    struct attention_segment segment[Q_COPIES];
    const int segments = attention_segments(a.pattern, w.end - 1, segment);
    uint32_t now = ring, next = ring + S::STAGE, after = ring + 2 * S::STAGE;
    load_tile<D>(s, a.kv.k, 0, now);
    load_tile<D>(s, a.kv.v, 0, next);
#pragma unroll 1
    for (int i = 0; i < segments; i++) {
        const int end = segment[i].end;
        __syncthreads(); /* nobody needs the queries before these */
        load_queries<D>(a, w, segment[i].copy, queries);
        copy_group_end();
        copy_groups_wait<0>();
#pragma unroll 1
        for (int key = segment[i].begin; key < end; key += BN) {
            struct scores t;
            copy_groups_wait<1>(); /* own part of the keys */
            __syncthreads();       /* everybody's, and nobody needs the values before them */
            load_tile<D>(s, a.kv.k, key + BN, after);
            if (key < warp_end) {
                multiply_keys<D>(t, q, now + k);
                if (key + BN - 1 > warp_first)
                    hide_later_keys(t, warp_first + lane / 4 - key - lane % 4 * 2);
            }
            copy_groups_wait<1>(); /* own part of the values */
            __syncthreads();       /* everybody's, and nobody needs the keys */
            load_tile<D>(s, a.kv.v, key + BN, now);
            if (key < warp_end) {
                weigh_rows<D>(t, scale, r);
                multiply_values<D>(r, t, next + v);
            }
            const uint32_t free = next;
            next = now, now = after, after = free;
        }
    }
    take_work(a, &w);
    if (warp_end > 0) store_rows<D>(a, w, r, queries, warp_row);
    if (threadIdx.x == 0) *(volatile uint64_t *)heartbeat = global_time_ns();
}

template <int D> static void launch(struct device *dev, const struct attention_args *a) {
    const struct cuda_device *gpu = cuda_device(dev);
    /* A chunk that begins anywhere touches at most one tile more than it fills. */
    const unsigned int tiles = blocks_of((size_t)a->rows + BM - 1, BM);
    cuda_check(dev,
               cudaFuncSetAttribute(mma_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    shape<D>::BYTES),
               "attention_cuda: shared memory");
    mma_kernel<D>
        <<<tiles *(unsigned int)a->H, THREADS, shape<D>::BYTES, gpu->stream>>>(*a, gpu->heartbeat);
}

void attention_cuda(struct device *dev, const void *args) {
    const struct attention_args *a = (const struct attention_args *)args;
    if (cuda_attention_decode(dev, a)) return;
    if (a->D == 128)
        launch<128>(dev, a);
    else if (a->D == 96)
        launch<96>(dev, a);
    else if (a->D == 64)
        launch<64>(dev, a);
    else
        launch<32>(dev, a);
    cuda_check(dev, cudaGetLastError(), "attention_cuda");
}
