/* The ops: what the transformer is made of, what each must compute, bit by bit where it matters.
 *
 * forward.c builds `struct op_call`s and hands them to a device (backend.h), which runs the variant
 * that it chose at open. An op_call is plain data: pointers into device memory and constants,
 * nothing that changes from chunk to chunk. Whatever does change (position, number of real rows,
 * DCA factor) is read by the kernel from `struct step_params` in device memory. So the same call
 * can be executed now (eager), or kept in a recorded list or a CUDA graph and replayed for the next
 * equal chunk (graph mode).
 *
 * Rules for every variant of every op:
 *  - Row invariance: the bits of a row's result depend on that row's inputs and absolute position
 * only, never on `rows`, on the row's place in the chunk, on the number of threads, or on other
 * rows.
 *  - Rows at and beyond step->n_tokens are padding: a variant may compute them or leave them; it
 * must not write them into the KV cache, and must not read beyond `rows`.
 *  - bf16 inputs are widened exactly, accumulation is f32 (or wider), a stored bf16 is rounded
 * once, to nearest even, where the text below says "round". With DTYPE_F32 "round" is the identity.
 *  - NaN and infinity pass through; nothing traps.
 *  - No allocation.
 *
 * Libraries: a variant that is made of one (VARIANT_LIB of ops.inc) may need something for a call
 * that is costly to make: a plan. It makes that when the call is prepared (device_prepare), which a
 * session does with all calls of its steps when it opens; a call that nobody prepared is prepared
 * when it runs, and counts as an allocation. Such a variant need not keep the rule of row
 * invariance; what it lacks (enum kernel_lacks) is known before anything runs.
 *
 * `_ref` variants are the specification: plain loops, one thread, f32 or f64 accumulation, never
 * optimised.
 *
 * Matrices are row-major; `ld*` are row strides in elements. Element types are `dtype` unless said.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/types.h"

/* Functions of this header that GPU code calls as well. */
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

/* name, text */
#define OP_TABLE(X)                                                                                \
    X(OP_EMBED, "embed")                                                                           \
    X(OP_ADD_RMSNORM, "add_rmsnorm")                                                               \
    X(OP_LINEAR, "linear")                                                                         \
    X(OP_ROPE_TABLE, "rope_table")                                                                 \
    X(OP_ROPE_CACHE, "rope_cache")                                                                 \
    X(OP_ATTENTION, "attention")                                                                   \
    X(OP_SWIGLU, "swiglu")                                                                         \
    X(OP_ALL_REDUCE, "all_reduce")                                                                 \
    X(OP_LOGITS, "logits")                                                                         \
    X(OP_SAMPLE, "sample")                                                                         \
    X(OP_TAP, "tap")                                                                               \
    X(OP_EXCHANGE, "exchange")
enum op {
#define X(name, text) name,
    OP_TABLE(X)
#undef X
        OPS
};
const char *op_name(enum op op);

/* What an op is for in the model, where one op serves several purposes. */
#define ROLE_TABLE(X)                                                                              \
    X(ROLE_NONE, "")                                                                               \
    X(ROLE_QKV, "qkv")                                                                             \
    X(ROLE_O, "o")                                                                                 \
    X(ROLE_GATE_UP, "gate_up")                                                                     \
    X(ROLE_DOWN, "down")                                                                           \
    X(ROLE_HEAD, "head")                                                                           \
    X(ROLE_QUERY, "query")                                                                         \
    X(ROLE_OUTPUT, "output")                                                                       \
    X(ROLE_KEY_VALUE, "key_value")                                                                 \
    X(ROLE_SCATTER, "scatter")                                                                     \
    X(ROLE_GATHER, "gather")                                                                       \
    X(ROLE_SUM, "sum")
enum role {
#define X(name, text) name,
    ROLE_TABLE(X)
#undef X
        ROLES
};
const char *role_name(enum role role);

/* The part of a step's state that changes from step to step. Lives in device memory, written by
 * device_write() before the step is run or replayed; kernels read it, they never get it by value.
 */
struct step_params {
    int32_t q_start;       /* absolute position of row 0 */
    int32_t n_tokens;      /* real rows, 1..rows */
    int32_t kv_len;        /* keys visible to the last real row: q_start + n_tokens */
    int32_t prompt_tokens; /* S: whole prompt in prefill, current length in decode */
    float key_factor;      /* DCA's f, with which new keys are multiplied; 1 for plain causal */
    float query_factor; /* DCA's f, by which the softmax scale is multiplied; 1 for plain causal */
    int32_t tap_row[TAP_ROWS]; /* row of this chunk to copy out, or -1 */
};

/* Which keys a query sees, with which rotation. chunk = 0: plain causal, one segment. Otherwise
 * dual chunk attention (Qwen2.5-1M report, section 3.1; QWEN2 code's names): chunk = Lc = C - w
 * (phases of keys are j mod Lc), local = w; C = Lc + w. `chunk` is a multiple of KV_TILE, so that
 * no tile of keys at absolute positions straddles a boundary. */
struct attention_pattern {
    int32_t chunk; /* Lc, or 0 */
    int32_t local; /* w */
};

enum {
    KV_TILE = 128, /* absolute positions; capacities are rounded up to it */
    Q_COPIES = 3   /* rotated copies of the query: intra, successive, inter */
};

/* One run of keys for a query at absolute position p: keys [begin, end) against query copy `copy`.
 */
struct attention_segment {
    int32_t copy, begin, end;
};
/* Segments of position p in ascending key order; returns their number (1 for plain causal, at most
 * 3). The definition, for kernels on every device and for checks of kernels (checks of the
 * definition itself write their own). */
static inline HOST_DEVICE int attention_segments(struct attention_pattern a, int32_t p,
                                                 struct attention_segment s[Q_COPIES]) {
    int n = 0;
    int32_t c = a.chunk ? p / a.chunk : 0;
    if (c >= 2) {
        s[n].copy = 2, s[n].begin = 0, s[n].end = (c - 1) * a.chunk;
        n++;
    }
    if (c >= 1) {
        s[n].copy = 1, s[n].begin = (c - 1) * a.chunk, s[n].end = c * a.chunk;
        n++;
    }
    s[n].copy = 0, s[n].begin = c * a.chunk, s[n].end = p + 1;
    return n + 1;
}

/* How an attention variant keeps keys and values. One view is one layer of one rank. The layout
 * belongs to the attention variant (ops.inc names it): "rows" is [K][capacity][D] for keys and for
 * values, which is what TMA and the reference read; others interleave pairs for dot-product
 * instructions. */
struct kv_layout;
struct kv_view {
    const struct kv_layout *layout; /* host-side functions; never dereferenced by a GPU */
    void *k, *v;                    /* device memory, layout->bytes() each, zeroed once at open */
    int32_t capacity;               /* positions, a multiple of KV_TILE */
    int32_t heads, head_dim;        /* this rank's K, D */
    enum dtype dtype;
};
struct kv_layout {
    const char *name;
    /* bytes of k, and of v, for one layer of one rank; 0: holds no heads of this size or dtype */
    size_t (*bytes)(int32_t capacity, int32_t heads, int32_t head_dim, enum dtype dtype);
    /* Writes n positions from `begin` of one head; k and v are [n][D] of view->dtype with row
     * strides ld_k, ld_v; called by rope_cache from several threads, on disjoint ranges that begin
     * and end anywhere. Writers of neighbouring ranges may share a cache line, never a byte: the
     * unused half of an interleaved pair is left alone (it is zero from open, or the other
     * writer's). */
    void (*write)(const struct kv_view *view, int head, int32_t begin, int32_t n, const void *k,
                  int64_t ld_k, const void *v, int64_t ld_v);
    /* The inverse, widened to f32 [n][D]: for tests and the spot check. k or v may be NULL. */
    void (*unpack)(const struct kv_view *view, int head, int32_t begin, int32_t n, float *k,
                   float *v);
};

/* ---- one argument struct per op
 * ------------------------------------------------------------------ */

/* out[t][:] = table[ids[t] - vocab_begin][:] if vocab_begin <= ids[t] < vocab_end, else zeros
 * (another rank has it). */
struct embed_args {
    const void *table;  /* [vocab_end - vocab_begin][C] */
    const int32_t *ids; /* [rows], device memory */
    void *out;          /* [rows][C] */
    int32_t vocab_begin, vocab_end;
    int32_t rows, C;
    enum dtype dtype;
};

/* h = round(h + x) if x, then y = round(round(h * rsqrt(mean(h^2) + eps)) * gain) if y; mean over
 * the stored (rounded) h, in f32. Order of the sum is the variant's own, fixed. */
struct add_rmsnorm_args {
    void *h;          /* [rows][C], updated in place when x is given */
    const void *x;    /* [rows][C] or NULL */
    const void *gain; /* [C]; unused when y is NULL */
    void *y;          /* [rows][C] or NULL; must not overlap h */
    int32_t rows, C;
    float eps;
    enum dtype dtype;
};

/* y[t][n] = round(sum_k x[t][k] * w[n][k] + bias[n]). f32 accumulation in an order that depends on
 * (N, K) alone: variants block rows, pad them, never split K by the number of rows. */
struct weight; /* packed by its variant: backend.h, device_weight_* */
struct linear_args {
    const struct weight *w;
    const void *x; /* [rows][K], ldx */
    void *y;       /* [rows][N], ldy */
    int64_t ldx, ldy;
    int32_t rows;
};

/* cos and sin of phase * inv_freq[i] for every row and every query copy that the pattern uses, from
 * an integer phase, angles in f64, stored as f32. With p = q_start + row (row < rows), Lc, C of the
 * pattern: copy 0 (and keys): plain p; dual chunk p mod Lc copy 1: min(p mod Lc + Lc, C);  copy 2:
 * C. Done once per step, read by every layer and rank. */
struct rope_table_args {
    const double *inv_freq; /* [D/2] */
    float *cos, *sin;       /* [copies][rows][D/2] */
    const struct step_params *step;
    struct attention_pattern pattern;
    int32_t rows, D, copies; /* copies: 1 plain, 3 dual chunk */
};

/* NeoX rotation (first half against second half) of q into q[0..copies-1], and of k with copy 0,
 * times key_factor, into the cache at q_start; v goes into the cache as it is. With a = x[i], b =
 * x[i + D/2]: a' = round(a cos - b sin), b' = round(b cos + a sin); keys: f32 rotation, times
 * factor, one round. */
struct rope_cache_args {
    const void
        *qkv; /* [rows][ldqkv]: H*D of q, K*D of k, K*D of v; bias already added, not rotated */
    int64_t ldqkv;
    void *q[Q_COPIES]; /* each [rows][H*D]; beyond `copies` NULL. NULL q[0]: keys and values only */
    const float *cos, *sin; /* from rope_table, [copies][rows][D/2] */
    struct kv_view kv;
    const struct step_params *step;
    int32_t rows, H, D, copies; /* K is kv.heads */
    enum dtype dtype;
};

/* out[t][h][:] = round(sum_j softmax_j(scale * query_factor * q_copy(t,h) . k(j, h / (H/K))) v(j)),
 * over the segments of position q_start + t, one softmax over all of them. Never materialises
 * scores: tiles of keys at absolute multiples of the variant's tile, all ascending or all
 * descending, online softmax with decisions per row only. The probabilities may be rounded to bf16
 * before they meet v; their sum is of unrounded f32. */
struct attention_args {
    const void *q[Q_COPIES]; /* [rows][H*D], row stride ldq */
    int64_t ldq;
    struct kv_view kv;
    void *out; /* [rows][H*D], row stride ldo */
    int64_t ldo;
    const struct step_params *step;
    struct attention_pattern pattern;
    int32_t rows, H, D;
    float scale; /* 1/sqrt(D) */
    bool decode; /* one row of a decode step: its sums may be taken in another fixed order than a
                    prefill row's, so that many multiprocessors can share its keys */
    enum dtype dtype;
};

/* out[t][f] = round(silu(g) * u) with g = in[t][2f], u = in[t][2f+1]: gate and up are interleaved
 * so that a linear's epilogue can fuse this. silu in f32, rounded to dtype before the product (as
 * the model's code). */
struct swiglu_args {
    const void *in; /* [rows][2F] */
    void *out;      /* [rows][F] */
    int32_t rows, F;
    enum dtype dtype;
};

/* out = round(((p[0] + p[1]) + p[2]) + ...): the ranks' partial sums of this device, f32, in rank
 * order. */
struct all_reduce_args {
    const void *partial[MAX_RANKS]; /* each [rows][C] */
    void *out;                      /* [rows][C]; may be partial[0] */
    int32_t ranks, rows, C;
    enum dtype dtype;
};

/* out[t][v] = sum_c x[t][c] * head[v][c], f32, not rounded. */
struct logits_args {
    const void *head; /* [V][C], plain rows, this rank's slice */
    const void *x;    /* [rows][C] */
    float *out;       /* [rows][ldout] */
    int64_t ldout;
    int32_t rows, V, C;
    enum dtype dtype;
};

/* Sampling of one token in the order of the reference engine (vLLM's V1 sampler):
 *  1. repetition penalty r over the set `seen`: l > 0 ? l / r : l * r, once per token id;
 *  2. temperature < 1e-5: argmax (lowest id wins a tie), done;
 *  3. divide by temperature;
 *  4. top-k: drop everything below the k-th largest value (ties at it stay); 0 or >= V: off;
 *  5. softmax of the survivors; sorted ascending, cumulative sum, drop where it is <= 1 - top_p;
 * the largest always stays; top_p >= 1: off;
 *  6. draw argmax(p_i / e_i), e_i ~ Exp(1) from Philox4x32-10 (random.h) keyed by seed, with
 * counter {token id, *draw}: the same text in every mode and chunk size. Writes the id, its
 * log-probability (log softmax of the raw logits, before any change), marks it in `seen` and
 * advances *draw. All pointers are device memory. A NaN logit never wins. */
struct sample_params {
    float temperature, top_p, repetition_penalty;
    int32_t top_k;
    uint64_t seed;
};
struct sample_args {
    const float *logits;                /* [V], gathered over ranks */
    uint32_t *seen;                     /* bit set of [V]: prompt and output so far */
    int32_t *draw;                      /* number of tokens drawn so far: the Philox counter */
    int32_t *id;                        /* out */
    float *logprob;                     /* out */
    void *scratch;                      /* sample_scratch_bytes(V) */
    const struct sample_params *params; /* device memory */
    int32_t V;
};
static inline size_t sample_scratch_bytes(int32_t V) {
    return (size_t)V * 16;
}

/* dst[i][:] = src[step->tap_row[i]][:] for every tap_row[i] >= 0: a few rows for the spot check. */
struct tap_args {
    const void *src; /* [rows][ld] */
    void *dst;       /* [TAP_ROWS][n] */
    int64_t ld;
    const struct step_params *step;
    int32_t n; /* elements of a row */
    enum dtype dtype;
};

/* Memory from device to device, within the group that they have joined (group.h): all sends and
 * receives of a call at once. What the k-th send of a device to a peer sends, the k-th receive of
 * the peer from that device gets; both say how much. The devices of a group issue equally many
 * exchanges, in the same order. */
struct exchange_part {
    void *at; /* device memory */
    int64_t bytes;
    int32_t peer; /* member of the group; never the device itself */
};
/* out = the sum over all devices of the group of their `in`, in an order of the library's own, by
 * which it is rounded too; out may be in. */
struct exchange_sum {
    const void *in;
    void *out;
    int64_t elements; /* 0: no sum */
    int32_t devices;
    enum dtype dtype;
};
struct exchange_args {
    struct exchange_part send[MAX_RANKS], receive[MAX_RANKS];
    int32_t sends, receives;
    struct exchange_sum sum; /* in place of parts; of kernels that exchange_takes_sums() names */
};

/* Work beside the ops that are issued after it, for ops that wait for other devices more than they
 * compute: OP_EXCHANGE and OP_ALL_REDUCE alone, whose kernels use no scratch of the device. A call
 * aside begins when all that was issued before it has ended, in turn or aside; calls aside are done
 * in the order of their issue. What reads their results, writes what they read, or is of the same
 * kind of op but in turn, comes `after` them. A number is used again, and a walk ends, only after
 * that. A device may do all calls in turn, as the CPU does: the results are the same. */
enum { ASIDES = 3 };

struct op_call {
    enum op op;
    enum role role;
    int16_t rank;  /* or SHARED_RANK */
    int16_t layer; /* or -1 */
    uint8_t aside; /* 0: in turn; 1 .. ASIDES: aside, and its number there */
    uint8_t after; /* 0, or the number of calls aside that have to end before it begins */
    union {
        struct embed_args embed;
        struct add_rmsnorm_args add_rmsnorm;
        struct linear_args linear;
        struct rope_table_args rope_table;
        struct rope_cache_args rope_cache;
        struct attention_args attention;
        struct swiglu_args swiglu;
        struct all_reduce_args all_reduce;
        struct logits_args logits;
        struct sample_args sample;
        struct tap_args tap;
        struct exchange_args exchange;
    };
};

#endif
