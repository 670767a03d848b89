/* Attention of a prefill chunk on Hopper (sm_90a): one kernel, a template over head dims.
 * attention_sm90.cu instantiates it; the host side is there too.
 *
 * Work. A unit is one head of 64 query rows at an absolute multiple of 64 positions; rows outside
 * the chunk are computed from zeros or padding and not stored. An item is as many neighbouring
 * units of one kv head as a CTA (or a cluster of two) has math warpgroups. All of them meet the
 * same keys: tiles of 128 at absolute multiples of 128, walked from the diagonal down to 0. Only a
 * unit's first tile needs a mask, and a dual chunk boundary, a multiple of 128, cuts no tile and no
 * unit. Hence nothing that a row sees, nor in which order, depends on the chunk.
 *
 * A CTA is a producer thread and C::WARPGROUPS math warpgroups; persistent, items in order of
 * falling length from a counter. The producer copies by TMA: keys and values into two rings, a
 * warpgroup's queries into its slot. Each warpgroup keeps scores S, probabilities P and outputs O
 * of its 64 rows in registers. Per tile: S' = Q K' and O += P V are issued together; when S' is
 * there its softmax runs beside O += P V. It looks for no maximum after a row's first tile, unless
 * probabilities grow out of hand: see raise_rows(). Now and then O is put aside: see long sums.
 *
 * The parts, in this order: shared memory, work, producer, softmax, main loop, long sums, output,
 * kernel.
 *
 * Sources of the method: J. Shah et al., FlashAttention-3, 2024 (warp specialisation, ordering of
 * warpgroups, products in flight during the softmax); the PTX ISA manual. */
#ifndef KERNELS_ATTENTION_SM90_CUH
#define KERNELS_ATTENTION_SM90_CUH

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/ops.h"

#include <cuda_bf16.h>

/* D: head dim. WARPGROUPS: of math, 2 or 3. STAGES of the rings. CLUSTER: CTAs that share copies of
 * keys and values, 1 or 2. */
template <int D_, int WARPGROUPS_, int STAGES_, int CLUSTER_> struct attention_config {
    static constexpr int D = D_, WARPGROUPS = WARPGROUPS_, STAGES = STAGES_, CLUSTER = CLUSTER_;
    static constexpr int BOXES = D / 64; /* a TMA box is 64 columns, a swizzled line of 128 bytes */
    static constexpr int THREADS = 128 * (1 + WARPGROUPS);
    /* Registers of a producer thread and of a math thread. GIVE + WARPGROUPS * TAKE must not exceed
     * what the launch got, (1 + WARPGROUPS) times 65,536 / THREADS rounded down to 8: the math
     * threads would wait for ever. */
    static constexpr int GIVE = WARPGROUPS == 2 ? 40 : 32, TAKE = WARPGROUPS == 2 ? 232 : 160;
    static_assert(GIVE + WARPGROUPS * TAKE <= (1 + WARPGROUPS) * (65536 / THREADS / 8 * 8),
                  "registers");
    static constexpr int UNITS = WARPGROUPS * CLUSTER; /* of an item */
};

enum {
    UNIT_ROWS = 64,
    UNITS_PER_TILE = KV_TILE / UNIT_ROWS,
    SUM_TILES = 128 /* of keys, that are summed in the matrix unit */
};

/* Floats that a CTA puts aside, in the workspace. */
template <class C> struct long_sums {
    static constexpr int PER_THREAD = C::D / 2 + 2, PER_WARPGROUP = PER_THREAD * 128;
    static constexpr int PER_CTA = PER_WARPGROUP * C::WARPGROUPS;
};

struct attention_params {
    CUtensorMap q[Q_COPIES]; /* {64 columns, row, box}: [H * BOXES] boxes */
    CUtensorMap k, v;        /* {64 columns, position, box, kv head} */
    __nv_bfloat16 *out;
    int64_t ldo;
    const struct step_params *step;
    float *sums;        /* [gridDim.x][long_sums::PER_CTA] */
    uint32_t *counters; /* [0] next item, [1] CTAs or clusters that are done, [2] items whose keys
                           have been fetched, where CTAs keep in step; all left zero */
    uint64_t *heartbeat;
    float scale;            /* times log2(e) */
    int32_t heads, group;   /* query heads; of one kv head */
    int32_t chunk_tiles;    /* tiles of a dual chunk, 0 without */
    int32_t step_from_tile; /* chunks that end in this tile or a later one keep in step */
    int32_t out_is_aligned; /* rows of out allow sixteen-byte stores */
};

/* ---- shared memory */

template <class C> struct attention_shared {
    __nv_bfloat16 q[C::WARPGROUPS][C::BOXES][UNIT_ROWS][64];
    __nv_bfloat16 k[C::STAGES][C::BOXES][KV_TILE][64];
    __nv_bfloat16 v[C::STAGES][C::BOXES][KV_TILE][64];
    uint64_t q_full[C::WARPGROUPS], q_empty[C::WARPGROUPS];
    uint64_t k_full[C::STAGES], k_empty[C::STAGES];
    uint64_t v_full[C::STAGES], v_empty[C::STAGES];
    uint64_t mail_full, mail_empty; /* the other CTA's copy of the next item */
    int mail;
    int item[C::WARPGROUPS]; /* comes with the first queries of an item; -1: no more */
};

/* A place in a ring and the parity of its barriers there. */
struct ring {
    uint32_t stage, parity;
};
template <int STAGES> static __device__ __forceinline__ void ring_advance(struct ring &r) {
    r.stage++;
    if (r.stage == STAGES) {
        r.stage = 0;
        r.parity ^= 1;
    }
}

template <class C> static __device__ __forceinline__ void init_barriers(attention_shared<C> &s) {
#pragma unroll
    for (int w = 0; w < C::WARPGROUPS; w++) {
        mbarrier_init(shared_address(&s.q_full[w]), 1);
        mbarrier_init(shared_address(&s.q_empty[w]), 128);
    }
    for (int i = 0; i < C::STAGES; i++) {
        mbarrier_init(shared_address(&s.k_full[i]), 1);
        mbarrier_init(shared_address(&s.v_full[i]), 1);
        mbarrier_init(shared_address(&s.k_empty[i]), C::UNITS);
        mbarrier_init(shared_address(&s.v_empty[i]), C::UNITS);
    }
    mbarrier_init(shared_address(&s.mail_full), 1);
    mbarrier_init(shared_address(&s.mail_empty), 1);
    mbarrier_init_fence();
}

/* ---- work */

/* The chunk as items. */
struct schedule {
    int32_t q_start, n_tokens, last_tile; /* of query rows, in tiles of 128 */
    int32_t units_per_kv, items_per_kv, items;
};

struct unit {
    int32_t head, kv_head;
    int32_t tile;  /* of its rows: the first key tile that it meets; -1: nothing to do */
    int32_t lower; /* its first row in the tile: 0 or 64 */
    int32_t row;   /* and in the chunk; may be negative */
    int32_t chunk; /* first tile of its dual chunk; 0 without */
};

template <class C>
static __device__ __forceinline__ struct schedule schedule_of(const attention_params &p) {
    struct schedule s;
    s.q_start = p.step->q_start;
    s.n_tokens = p.step->n_tokens;
    s.last_tile = (s.q_start + s.n_tokens - 1) / KV_TILE;
    const int32_t tiles = s.last_tile - s.q_start / KV_TILE + 1;
    s.units_per_kv = tiles * p.group * UNITS_PER_TILE;
    s.items_per_kv = (s.units_per_kv + C::UNITS - 1) / C::UNITS;
    s.items = s.items_per_kv * (p.heads / p.group);
    return s;
}

/* Longest first; heads of a group side by side, so that CTAs walk the same keys at the same time.
 * index: of the unit in its item. */
template <class C>
static __device__ __forceinline__ struct unit
unit_of(const attention_params &p, const struct schedule &s, int32_t item, int32_t index) {
    struct unit u;
    u.kv_head = item / s.items_per_kv;
    const int32_t i = (item - u.kv_head * s.items_per_kv) * C::UNITS + index;
    const int32_t pair = i / UNITS_PER_TILE, below = pair / p.group;
    u.head = u.kv_head * p.group + pair - below * p.group;
    u.tile = i < s.units_per_kv ? s.last_tile - below : -1;
    u.lower = i % UNITS_PER_TILE * UNIT_ROWS;
    u.row = (s.last_tile - below) * KV_TILE + u.lower - s.q_start;
    u.chunk = p.chunk_tiles ? u.tile / p.chunk_tiles * p.chunk_tiles : 0;
    return u;
}

/* The run of key tiles down to `low` that meet the same copy of a unit's queries as tile j does. */
struct segment {
    int32_t copy, low;
};
static __device__ __forceinline__ struct segment segment_at(const attention_params &p,
                                                            const struct unit &u, int32_t j) {
    if (j >= u.chunk) return {0, u.chunk};
    const int32_t before = u.chunk - p.chunk_tiles;
    if (j >= before) return {1, before};
    return {2, 0};
}

/* ---- producer: one thread */

/* Few things, for it has few registers: a unit is worked out anew where it is wanted. */
template <class C> struct producer {
    struct ring k, v;
    uint32_t q_parity; /* bit w: of warpgroup w */
    uint32_t mail_parity;
    int32_t first_unit;         /* of the item, that is this CTA's */
    int32_t low[C::WARPGROUPS]; /* last tile that the loaded queries of a warpgroup meet */
};

/* The next item, from the counter: for this CTA and the other one of a cluster. */
template <class C>
static __device__ __forceinline__ int32_t draw_item(const attention_params &p,
                                                    attention_shared<C> &s, producer<C> &me) {
    const int32_t item = (int32_t)(gridDim.x / C::CLUSTER + atomicAdd(&p.counters[0], 1u));
    if (C::CLUSTER > 1) {
        mbarrier_wait_cluster(shared_address(&s.mail_empty), me.mail_parity ^ 1);
        store_async_at(shared_address(&s.mail), item, shared_address(&s.mail_full), 1);
        me.mail_parity ^= 1;
    }
    return item;
}

/* The item that the first CTA of the cluster has drawn. */
template <class C>
static __device__ __forceinline__ int32_t receive_item(attention_shared<C> &s, producer<C> &me) {
    mbarrier_arrive_expect(shared_address(&s.mail_full), sizeof s.mail);
    mbarrier_wait_cluster(shared_address(&s.mail_full), me.mail_parity);
    me.mail_parity ^= 1;
    const int32_t item = *(volatile int *)&s.mail;
    mbarrier_arrive_at(shared_address(&s.mail_empty), 0);
    return item;
}

/* The queries with which warpgroup w meets tile j and those below, once it has done with the ones
 * before. */
template <class C>
static __device__ __forceinline__ void load_queries(const attention_params &p,
                                                    attention_shared<C> &s, producer<C> &me, int w,
                                                    int32_t item, int32_t j) {
    const struct unit u = unit_of<C>(p, schedule_of<C>(p), item, me.first_unit + w);
    const struct segment segment = segment_at(p, u, j < u.tile ? j : u.tile);
    const uint32_t full = shared_address(&s.q_full[w]);
    mbarrier_wait(shared_address(&s.q_empty[w]), ~me.q_parity >> w & 1);
    me.q_parity ^= 1u << w;
    me.low[w] = segment.low;
    *(volatile int *)&s.item[w] = item;
    if (u.tile < 0) {
        mbarrier_arrive(full);
        return;
    }
    mbarrier_arrive_expect(full, sizeof s.q[w]);
    tma_load_3d(shared_address(s.q[w]), &p.q[segment.copy], 0, u.row, u.head * C::BOXES, full,
                CACHE_EVICT_FIRST);
}

/* Tells warpgroup w that there is no further item. */
template <class C>
static __device__ __forceinline__ void end_items(attention_shared<C> &s, producer<C> &me, int w) {
    mbarrier_wait(shared_address(&s.q_empty[w]), ~me.q_parity >> w & 1);
    *(volatile int *)&s.item[w] = -1;
    mbarrier_arrive(shared_address(&s.q_full[w]));
}

/* A tile of keys or values; in a cluster each CTA copies half of it into both: a box, or, where
 * there is one box, half of its rows. */
template <class C>
static __device__ __forceinline__ void
load_tile(const CUtensorMap *map, __nv_bfloat16 (&tile)[C::BOXES][KV_TILE][64], uint64_t *full,
          uint64_t *empty, uint32_t parity, int32_t j, int32_t kv_head) {
    mbarrier_wait(shared_address(empty), parity ^ 1);
    mbarrier_arrive_expect(shared_address(full), sizeof tile);
    if (C::CLUSTER == 1) {
        tma_load_4d(shared_address(tile), map, 0, j * KV_TILE, 0, kv_head, shared_address(full),
                    CACHE_NORMAL);
        return;
    }
    const int rank = (int)cluster_rank();
    const int box = C::BOXES == 2 ? rank : 0, row = C::BOXES == 2 ? 0 : rank * KV_TILE / 2;
    tma_multicast_4d(shared_address(&tile[box][row]), map, 0, j * KV_TILE + row, box, kv_head,
                     shared_address(full), 3, CACHE_NORMAL);
}

/* Keys run one tile ahead of values: that is the order in which they are wanted. */
template <class C>
static __device__ __forceinline__ void load_item(const attention_params &p, attention_shared<C> &s,
                                                 producer<C> &me, int32_t item) {
    const struct unit longest = unit_of<C>(p, schedule_of<C>(p), item, 0);
#pragma unroll
    for (int w = 0; w < C::WARPGROUPS; w++) load_queries(p, s, me, w, item, longest.tile);
    for (int32_t j = longest.tile; j >= -1; j--) {
        if (j >= 0) {
#pragma unroll
            for (int w = 0; w < C::WARPGROUPS; w++)
                if (j == me.low[w] - 1) load_queries(p, s, me, w, item, j);
            load_tile<C>(&p.k, s.k[me.k.stage], &s.k_full[me.k.stage], &s.k_empty[me.k.stage],
                         me.k.parity, j, longest.kv_head);
            ring_advance<C::STAGES>(me.k);
        }
        if (j < longest.tile) {
            load_tile<C>(&p.v, s.v[me.v.stage], &s.v_full[me.v.stage], &s.v_empty[me.v.stage],
                         me.v.parity, j + 1, longest.kv_head);
            ring_advance<C::STAGES>(me.v);
        }
    }
}

static __device__ __forceinline__ void beat(const attention_params &p) {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    *(volatile uint64_t *)p.heartbeat = now;
}

/* CTAs that walk the same keys at different times fetch them from memory again and again, and drift
 * apart item by item. Where the keys of a head are more than the cache holds, an item waits until
 * all items of the rounds before it have been fetched (a round: as many as there are clusters).
 * Nothing depends on it but time and joules, so nobody waits for long. */
template <class C>
static __device__ __forceinline__ void keep_step(const attention_params &p, int32_t item) {
    enum { LONGEST_WAIT = 4096 }; /* of about a tenth of a microsecond */
    const uint32_t clusters = gridDim.x / C::CLUSTER;
    const uint32_t earlier = (uint32_t)item / clusters * clusters;
    for (int i = 0; i < LONGEST_WAIT && *(volatile uint32_t *)&p.counters[2] < earlier; i++)
        __nanosleep(100);
}

/* The last one leaves the counters as it found them. */
template <class C>
static __device__ __forceinline__ void leave_counters(const attention_params &p) {
    if (C::CLUSTER > 1 && cluster_rank() != 0) return;
    __threadfence();
    if (atomicAdd(&p.counters[1], 1u) != gridDim.x / C::CLUSTER - 1) return;
    __threadfence();
    p.counters[0] = 0;
    p.counters[1] = 0;
    p.counters[2] = 0;
}

template <class C>
static __device__ __forceinline__ void produce(const attention_params &p, attention_shared<C> &s) {
    const bool draws = C::CLUSTER == 1 || cluster_rank() == 0;
    const struct schedule work = schedule_of<C>(p);
    const int32_t items = work.items;
    const bool in_step = work.last_tile >= p.step_from_tile;
    producer<C> me = {};
    me.first_unit = draws ? 0 : C::WARPGROUPS;
    for (int32_t item = (int32_t)(blockIdx.x / C::CLUSTER); item < items;) {
        if (blockIdx.x == 0) beat(p);
        int32_t next = draws ? draw_item(p, s, me) : 0;
        if (draws && in_step) keep_step<C>(p, item);
        load_item(p, s, me, item);
        if (draws && in_step) atomicAdd(&p.counters[2], 1u);
        if (!draws) next = receive_item(s, me);
        item = next;
    }
#pragma unroll
    for (int w = 0; w < C::WARPGROUPS; w++) end_items(s, me, w);
    leave_counters<C>(p);
}

/* Of its warpgroup. Not kept for the whole kernel: registers are dearer. */
static __device__ __forceinline__ int thread_anew(void) {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread % 128;
}

/* ---- softmax: a thread holds 32 scores of each of two rows */

struct exponent { /* of a score: score * scale - shift */
    float scale, shift;
};
struct row_pair {
    struct exponent at[2]; /* by a maximum: that of the first tile, or a later one's (raise_rows) */
    float sum[2];          /* of this thread's columns */
};

/* Over the four threads that share a row. */
static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

/* Scores of keys after the query become -inf: only a unit's first tile has any. Keys at and beyond
 * kv_len are among them. */
static __device__ __forceinline__ void mask_future(float (&s)[64], int32_t row_in_tile) {
    const int q = thread_anew() % 4;
#pragma unroll
    for (int i = 0; i < 64; i++) {
        const int column = i / 4 * 8 + i % 2, later = i / 2 % 2 * 8;
        if (column + 2 * q > row_in_tile + later) s[i] = -INFINITY;
    }
}

/* The greatest score of row r. */
static __device__ __forceinline__ float row_max(const float (&s)[64], int r) {
    float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
    for (int i = 4; i < 64; i += 4) {
        a = fmaxf(a, s[i + 2 * r]);
        b = fmaxf(b, s[i + 2 * r + 1]);
    }
    return quad_max(fmaxf(a, b));
}

/* How a row's scores become exponents: by one fused multiplication and subtraction of the scaled,
 * rounded maximum. What that rounding is off by is a factor of all that the row sums, and leaves
 * with the division by the sum; it is less than 2^33. Where it would be more, scores that differ
 * are so far apart that only the greatest counts, by any scale: a power of two, that rounds
 * nothing. It is the next greater one, so that exponents of row_keep() are not above 0 where the
 * scale changes. */
static __device__ __forceinline__ struct exponent exponent_of(float max, float scale) {
    const float power = __uint_as_float((__float_as_uint(scale) + 0x7fffff) & 0x7f800000);
    struct exponent e;
    e.scale = fabsf(max) >= 0x1p30f / scale ? power : scale;
    e.shift = __fmul_rn(max, e.scale);
    return e;
}

/* Scores of row r to probabilities, exp2 of their exponents. Returns their sum. */
template <class C>
static __device__ __forceinline__ float exponentials(float (&s)[64], int r, struct exponent e) {
    float a = 0, b = 0;
#pragma unroll
    for (int i = 0; i < 64; i += 4) {
        float &x = s[i + 2 * r], &y = s[i + 2 * r + 1];
        x = exp2_approx(fmaf(x, e.scale, -e.shift));
        y = exp2_approx(fmaf(y, e.scale, -e.shift));
        a += x, b += y;
    }
    return a + b;
}

/* By the maximum of these scores. Where every one of them is -inf, probabilities are 0, and the
 * next tile has a new maximum. */
template <class C>
static __device__ __forceinline__ float exponentials_of_max(float (&s)[64], int r, float max,
                                                            float scale, struct exponent &e) {
    e = exponent_of(max, scale);
    return exponentials<C>(s, r, max == -INFINITY ? exponent{scale, 0} : e);
}

/* A unit's first tile. */
template <class C>
static __device__ __forceinline__ void softmax_first(float (&s)[64], row_pair &row, float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++)
        row.sum[r] = exponentials_of_max<C>(s, r, row_max(s, r), scale, row.at[r]);
}

/* What sums by `before` are to be multiplied by. */
static __device__ __forceinline__ float row_keep(float shift_before, const struct exponent &now) {
    return exp2_approx(shift_before - now.shift);
}

/* ---- main loop: one math warpgroup */

template <class C> struct math {
    attention_shared<C> &s;
    int w;            /* of this warpgroup */
    uint64_t q, k, v; /* descriptors: its queries, stage 0 of the rings */
    struct ring k_at, v_at;
    uint32_t q_parity; /* of the queries that are awaited next */
    float scale;
};

static constexpr int WARPGROUP_BARRIER = 1; /* named barriers, one for each; 0 is the CTA's */

/* This warpgroup has done with a stage: told to every CTA that fills it, by one thread each. */
template <class C> static __device__ __forceinline__ void release(uint64_t *empty) {
    const uint32_t thread = threadIdx.x % 128;
    if (C::CLUSTER == 1) {
        if (thread == 0) mbarrier_arrive(shared_address(empty));
    } else if (thread % 32 == 0 && thread / 32 < C::CLUSTER) {
        mbarrier_arrive_relaxed_at(shared_address(empty), thread / 32);
    }
}

/* By every thread: it has read the item that came with the queries. */
template <class C> static __device__ __forceinline__ void release_queries(const math<C> &m) {
    mbarrier_arrive(shared_address(&m.s.q_empty[m.w]));
}
template <class C> static __device__ __forceinline__ void await_queries(math<C> &m) {
    mbarrier_wait(shared_address(&m.s.q_full[m.w]), m.q_parity);
    m.q_parity ^= 1;
}
template <class C> static __device__ __forceinline__ void await_keys(const math<C> &m) {
    mbarrier_wait(shared_address(&m.s.k_full[m.k_at.stage]), m.k_at.parity);
}
/* The stage before k_at. Not the one at k_at: warps whose scores are there may still read keys, in
 * raise_rows(); none of those before does once a later product is done, for which all four came. */
template <class C> static __device__ __forceinline__ void release_keys_before(const math<C> &m) {
    release<C>(&m.s.k_empty[m.k_at.stage == 0 ? C::STAGES - 1 : m.k_at.stage - 1]);
}
template <class C> static __device__ __forceinline__ void await_values(const math<C> &m) {
    mbarrier_wait(shared_address(&m.s.v_full[m.v_at.stage]), m.v_at.parity);
}

/* S = Q K of the tile at k_at. */
template <class C>
static __device__ __forceinline__ void issue_scores(const math<C> &m, float (&s)[64]) {
    const uint64_t k = m.k + m.k_at.stage * (sizeof m.s.k[0] / 16);
#pragma unroll
    for (int i = 0; i < C::D / 16; i++) {
        const int box = i / 4, column_bytes = i % 4 * 32;
        const uint64_t keys = k + (box * (KV_TILE * 128) + column_bytes) / 16;
        wgmma_ss(s, m.q + (box * (UNIT_ROWS * 128) + column_bytes) / 16, keys, i > 0);
    }
    wgmma_commit();
}

/* O += P V of the tile at `stage`. */
template <class C>
static __device__ __forceinline__ void
issue_outputs(const math<C> &m, uint32_t stage, float (&o)[C::D / 2], const uint32_t (&p)[32]) {
    const uint64_t v = m.v + stage * (sizeof m.s.v[0] / 16);
#pragma unroll
    for (int i = 0; i < KV_TILE / 16; i++) wgmma_rs(o, p + 4 * i, v + i * (16 * 128) / 16);
    wgmma_commit();
}

static __device__ __forceinline__ void pack_probabilities(const float (&s)[64], uint32_t (&p)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* A row's maximum is that of its first tile as long as it serves: probabilities may be above 1, for
 * bf16 has the exponents of f32, and all that is by one maximum leaves with the division by the
 * sum. Those of one thread in one tile are at most this together, or the row is given a new one.
 * What that costs is range: values above some 2^60 would overflow O where they need not. */
static constexpr float MOST_SUM = 0x1p48f;

/* Scores of keys 8i to 8i + 7 of the tile at k_at, of this warp's rows, from the same operands as
 * issue_scores() has: four as wgmma leaves them in a thread. */
template <class C>
static __device__ __forceinline__ void scores_again(const math<C> &m, int i, float c[4]) {
    const int lane = thread_anew() % 32, warp = thread_anew() / 32;
    const int row = warp * 16 + lane % 16, key = 8 * i + lane % 8;
    const uint32_t q = shared_address(m.s.q[m.w][0][row]);
    const uint32_t k = shared_address(m.s.k[m.k_at.stage][0][key]);
#pragma unroll
    for (int e = 0; e < 4; e++) c[e] = 0;
#pragma unroll 1
    for (int step = 0; step < C::D / 16; step++) {
        uint32_t a[4], b[2];
        const int box = step / 4, column = step % 4 * 2; /* in sixteen bytes; swizzled by row */
        load_matrices(a, q + box * (UNIT_ROWS * 128) + ((column + lane / 16) ^ row % 8) * 16);
        load_two_matrices(b, k + box * (KV_TILE * 128) + ((column + lane / 8 % 2) ^ key % 8) * 16);
        multiply_add(c, a, b[0], b[1]);
    }
}

/* Where a row's probabilities have grown out of hand: its scores anew, the greatest of them its
 * maximum, sums and outputs so far by that, too. Nothing of it depends on other rows. No product
 * may be under way. */
template <class C>
static __device__ __forceinline__ void raise_rows(const math<C> &m, float (&s)[64], row_pair &row,
                                                  float sum[2], float (&o)[C::D / 2]) {
    bool raise[2];
    float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t threads = __ballot_sync(0xffffffff, !(sum[r] <= MOST_SUM));
        raise[r] = threads >> thread_anew() % 32 / 4 * 4 & 15;
    }
#pragma unroll
    for (int i = 0; i < KV_TILE / 8; i++) {
        float c[4];
        scores_again(m, i, c);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            max[e / 2] = fmaxf(max[e / 2], c[e]);
            if (raise[e / 2]) s[4 * i + e] = c[e];
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        max[r] = quad_max(max[r]);
        if (!raise[r]) continue;
        const float before = row.at[r].shift;
        sum[r] = exponentials_of_max<C>(s, r, max[r], m.scale, row.at[r]);
        const float keep = max[r] == -INFINITY ? 1 : row_keep(before, row.at[r]);
        row.sum[r] *= keep;
#pragma unroll
        for (int i = 0; i < C::D / 2; i += 4) o[i + 2 * r] *= keep, o[i + 2 * r + 1] *= keep;
    }
}

/* Values from position `count` of the tile at v_at on become zeros: nobody has written them yet,
 * and 0 times what may lie there is not always 0. Other warpgroups write the same zeros. */
template <class C>
static __device__ __forceinline__ void clear_values(const math<C> &m, int32_t count) {
    constexpr int LINE = 8; /* sixteen-byte words of a row in a box */
    const int32_t words = (KV_TILE - count) * LINE;
    for (int box = 0; box < C::BOXES; box++)
        for (int32_t i = thread_anew(); i < words; i += 128)
            ((uint4 *)m.s.v[m.v_at.stage][box][count])[i] = make_uint4(0, 0, 0, 0);
    fence_proxy_async();
    named_sync(WARPGROUP_BARRIER + m.w, 128);
}

/* A tile that only others of the item need. No product keeps this warpgroup's warps together here,
 * and none may still be on its way to a stage that is given back. */
template <class C> static __device__ __forceinline__ void pass_tile(math<C> &m) {
    await_keys(m);
    await_values(m);
    named_sync(WARPGROUP_BARRIER + m.w, 128);
    release<C>(&m.s.k_empty[m.k_at.stage]);
    release<C>(&m.s.v_empty[m.v_at.stage]);
    ring_advance<C::STAGES>(m.k_at);
    ring_advance<C::STAGES>(m.v_at);
}

/* The first tile, the unit's own: masked. Its probabilities are left in p. */
template <class C>
static __device__ __forceinline__ void begin_unit(math<C> &m, const struct unit &u, int32_t kv_len,
                                                  bool last_of_segment, row_pair &row,
                                                  float (&s)[64], uint32_t (&p)[32]) {
    await_keys(m);
    wgmma_fence();
    issue_scores(m, s);
    wgmma_wait<0>();
    wgmma_hold(s);
    ring_advance<C::STAGES>(m.k_at);
    if (last_of_segment) release_queries(m);
    const int thread = thread_anew();
    mask_future(s, u.lower + thread / 32 * 16 + thread % 32 / 4);
    softmax_first<C>(s, row, m.scale);
    await_values(m);
    if (kv_len - u.tile * KV_TILE < KV_TILE) clear_values(m, kv_len - u.tile * KV_TILE);
    pack_probabilities(s, p);
}

/* One tile more: its scores and the outputs of the tile before, whose probabilities are in p. */
template <class C>
static __device__ __forceinline__ void next_tile(math<C> &m, bool last_of_segment, row_pair &row,
                                                 float (&s)[64], uint32_t (&p)[32],
                                                 float (&o)[C::D / 2]) {
    float sum[2];
    const uint32_t stage = m.v_at.stage;
    await_keys(m);
    wgmma_fence();
    issue_scores(m, s);
    issue_outputs(m, stage, o, p);
    wgmma_wait<1>();
    wgmma_hold(s);
    release_keys_before(m);
#pragma unroll
    for (int r = 0; r < 2; r++) sum[r] = exponentials<C>(s, r, row.at[r]);
    if (__any_sync(0xffffffff, !(sum[0] + sum[1] <= MOST_SUM))) {
        wgmma_wait<0>();
        wgmma_hold(o);
        raise_rows(m, s, row, sum, o);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) row.sum[r] += sum[r];
    if (last_of_segment) release_queries(m);
    ring_advance<C::STAGES>(m.k_at);
    /* Here for its place: across a loop the compiler does not move the wait for the outputs up,
     * before the exponentials, which would then have nothing to run beside. */
    ring_advance<C::STAGES>(m.v_at);
    await_values(m);
    wgmma_wait<0>();
    wgmma_hold(s);
    wgmma_hold(o);
    release<C>(&m.s.v_empty[stage]);
    pack_probabilities(s, p);
}

template <class C>
static __device__ __forceinline__ void end_unit(math<C> &m, uint32_t (&p)[32],
                                                float (&o)[C::D / 2]) {
    wgmma_fence();
    issue_outputs(m, m.v_at.stage, o, p);
    wgmma_wait<0>();
    wgmma_hold(o);
    release_keys_before(m);
    release<C>(&m.s.v_empty[m.v_at.stage]);
    ring_advance<C::STAGES>(m.v_at);
}

/* ---- long sums
 *
 * The matrix unit rounds sums towards zero: O over a million keys would be off by about a unit of
 * bf16. At absolute multiples of SUM_TILES tiles it goes to memory, where sums are rounded to
 * nearest, and begins anew. Each thread has its own words there, 128 apart: its part of O and, in
 * the end, the shifts that it is by. */

template <class C>
static __device__ __forceinline__ float *sums_of(const attention_params &p, const math<C> &m) {
    return p.sums + (size_t)blockIdx.x * long_sums<C>::PER_CTA + m.w * long_sums<C>::PER_WARPGROUP +
           thread_anew();
}

/* o += what was put aside. */
template <class C>
static __device__ __forceinline__ void take_back(const float *sums, const row_pair &row,
                                                 float (&o)[C::D / 2]) {
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; r++) keep[r] = row_keep(sums[(C::D / 2 + r) * 128], row.at[r]);
#pragma unroll
    for (int i = 0; i < C::D / 2; i++) o[i] = fmaf(sums[i * 128], keep[i / 2 % 2], o[i]);
}

template <class C>
static __device__ __forceinline__ void put_aside(float *sums, bool first, const row_pair &row,
                                                 float (&o)[C::D / 2]) {
    if (!first) take_back<C>(sums, row, o);
#pragma unroll
    for (int i = 0; i < C::D / 2; i++) {
        sums[i * 128] = o[i];
        o[i] = 0;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) sums[(C::D / 2 + r) * 128] = row.at[r].shift;
}

/* ---- output */

/* Four threads that hold, each, words of four groups hold whole groups afterwards: thread i the
 * i-th. */
static __device__ __forceinline__ uint4 quad_transpose(uint32_t a, uint32_t b, uint32_t c,
                                                       uint32_t d) {
    const int thread = thread_anew();
    const bool odd = thread & 1, high = thread & 2;
    const uint32_t ab = __shfl_xor_sync(0xffffffff, odd ? a : b, 1);
    const uint32_t cd = __shfl_xor_sync(0xffffffff, odd ? c : d, 1);
    a = odd ? ab : a, b = odd ? b : ab, c = odd ? cd : c, d = odd ? d : cd;
    const uint32_t ac = __shfl_xor_sync(0xffffffff, high ? a : c, 2);
    const uint32_t bd = __shfl_xor_sync(0xffffffff, high ? b : d, 2);
    return make_uint4(high ? ac : a, high ? bd : b, high ? c : ac, high ? d : bd);
}

static __device__ __forceinline__ void store_words(__nv_bfloat16 *to, uint4 words, bool aligned) {
    if (aligned) {
        *(uint4 *)to = words;
        return;
    }
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 8; i++) ((uint16_t *)to)[i] = (uint16_t)(word[i / 2] >> (16 * (i % 2)));
}

/* Rows of the chunk only. */
template <class C>
static __device__ __forceinline__ void store_unit(const attention_params &p, const struct unit &u,
                                                  int32_t n_tokens, const row_pair &row,
                                                  const float (&o)[C::D / 2]) {
    const int thread = thread_anew();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int32_t t = u.row + thread / 32 * 16 + thread % 32 / 4 + 8 * r;
        const float inverse = 1.0f / quad_sum(row.sum[r]);
        __nv_bfloat16 *to = p.out + t * p.ldo + u.head * C::D + thread % 4 * 8;
#pragma unroll
        for (int i = 0; i < C::D / 2; i += 16) {
            uint32_t word[4];
#pragma unroll
            for (int g = 0; g < 4; g++)
                word[g] =
                    pack_bf16(o[i + 4 * g + 2 * r] * inverse, o[i + 4 * g + 2 * r + 1] * inverse);
            const uint4 words = quad_transpose(word[0], word[1], word[2], word[3]);
            if (t >= 0 && t < n_tokens) store_words(to + i * 2, words, p.out_is_aligned);
        }
    }
}

/* ---- kernel */

template <class C>
static __device__ __forceinline__ void attend_unit(const attention_params &p, math<C> &m,
                                                   const struct unit &u) {
    float s[64], o[C::D / 2];
    uint32_t probabilities[32];
    row_pair row;
    struct segment segment = segment_at(p, u, u.tile);
#pragma unroll
    for (int i = 0; i < C::D / 2; i++) o[i] = 0;
    begin_unit(m, u, p.step->q_start + p.step->n_tokens, u.tile == segment.low, row, s,
               probabilities);
    for (int32_t j = u.tile - 1; j >= 0;) {
#pragma unroll 1
        for (const int32_t low = j / SUM_TILES * SUM_TILES; j >= low; j--) {
            if (j == segment.low - 1) {
                segment = segment_at(p, u, j);
                await_queries(m);
            }
            next_tile(m, j == segment.low, row, s, probabilities, o);
        }
        /* o: of the tiles from j + 2 on */
        if (j >= 0) put_aside<C>(sums_of(p, m), j + 2 + SUM_TILES > u.tile, row, o);
    }
    end_unit(m, probabilities, o);
    if (u.tile > SUM_TILES) take_back<C>(sums_of(p, m), row, o);
    store_unit<C>(p, u, p.step->n_tokens, row, o);
}

template <class C>
static __device__ __forceinline__ void attend(const attention_params &p, attention_shared<C> &s,
                                              int w) {
    const int32_t index = (C::CLUSTER > 1 ? (int32_t)cluster_rank() * C::WARPGROUPS : 0) + w;
    math<C> m = {s,
                 w,
                 matrix_descriptor(shared_address(s.q[w]), sizeof s.q[0][0]),
                 matrix_descriptor(shared_address(s.k), sizeof s.k[0][0]),
                 matrix_descriptor(shared_address(s.v), sizeof s.v[0][0]),
                 {0, 0},
                 {0, 0},
                 0,
                 p.scale * p.step->query_factor};
    for (;;) {
        await_queries(m);
        const int32_t item = *(volatile int *)&m.s.item[m.w];
        if (item < 0) break;
        const struct schedule work = schedule_of<C>(p); /* not kept: registers are dear */
        const struct unit u = unit_of<C>(p, work, item, index);
        const int32_t first = unit_of<C>(p, work, item, 0).tile;
#pragma unroll 1
        for (int32_t j = first; j > u.tile; j--) pass_tile(m);
        if (u.tile < 0)
            release_queries(m);
        else
            attend_unit(p, m, u);
    }
}

template <class C>
static __global__ void __launch_bounds__(C::THREADS, 1)
    attention_kernel(const __grid_constant__ attention_params p) {
    extern __shared__ __align__(1024) unsigned char raw[];
    attention_shared<C> &s = *(attention_shared<C> *)raw;
    const int warpgroup = __shfl_sync(0xffffffff, (int)threadIdx.x / 128, 0);
    if (threadIdx.x == 0) init_barriers(s);
    if (C::CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    if (warpgroup == 0) {
        registers_give<C::GIVE>();
        if (threadIdx.x == 0) produce(p, s);
    } else {
        registers_take<C::TAKE>();
        attend(p, s, warpgroup - 1);
    }
    /* Nobody leaves while another CTA may still write to it. */
    if (C::CLUSTER > 1) cluster_sync();
}

#endif
