/* Everything that a session keeps on one device beside the weights, in arenas that live as long as
 * the session. Scratch that ranks use one after another exists once. */
#ifndef ENGINE_BUFFERS_H
#define ENGINE_BUFFERS_H

#include "engine/layout.h"
#include "engine/shard.h"

/* The steps of a session, each with parameters of its own. */
enum step_kind { STEP_BODY, STEP_FINISH, STEP_DECODE, STEPS };

struct buffer_sizes {
    const struct model_config *m;
    struct ranks ranks;
    enum dtype dtype;
    int copies;         /* of the query: 1, or Q_COPIES for dual chunk attention */
    int32_t rows;       /* T: most tokens of a step */
    int32_t block_rows; /* B: rows of o_proj and the MLP worked on at a time, at most T */
    int blocks;         /* of B rows whose parts of sums are there at once: 1, or ASIDES */
    int32_t capacity;   /* positions of the KV cache, a multiple of KV_TILE */
    int32_t logits_at_count;
    bool taps;
    const struct kv_layout *kv_layout;
};

/* How long what a buffer holds is needed. */
enum buffer_life {
    LIVES_BETWEEN_OPS, /* from the op that writes it to the last op of the step that reads it */
    LIVES_AFTER,       /* to the end of the step, once an op has written it: a result */
    LIVES_ALWAYS,      /* as long as the session, whether there is something in it yet or not */
    LIVES_IN_CACHE     /* as long as the sequence, position by position: keys or values */
};
struct buffer {
    char name[16];
    const void *at;
    int64_t bytes;
    int64_t pitch; /* bytes from row to row where ops use some columns alone; 0: none does */
    int rank;      /* or SHARED_RANK */
    enum memory_category category;
    enum buffer_life life;
};
enum { BUFFERS_MAX = 112 }; /* ten a rank, and those that ranks share */

struct buffers {
    int32_t block_rows;
    int blocks;
    /* activations; H, K, F are a rank's */
    void *h, *y;                      /* [T][C] */
    void *qkv;                        /* [T][(H+2K)*D] */
    void *q[Q_COPIES];                /* [T][H*D], rotated; NULL beyond `copies` */
    void *attended[MAX_RANKS];        /* [T][H*D] */
    void *partial[ASIDES][MAX_RANKS]; /* [blocks], each [B][C]: a rank's part of a sum; the sum is
                                         left in the device's first. Of another device's rank:
                                         [B / devices][C], the rows that are summed here */
    void *gate_up;                    /* [B][2F] */
    void *activated;                  /* [B][F] */
    float *logits;                    /* [V] */
    float *logits_at;                 /* [logits_at_count][V] */
    /* keys and values */
    void *k[MAX_RANKS], *v[MAX_RANKS]; /* [L] of kv_bytes; see buffers_kv() */
    size_t kv_bytes;
    struct kv_view kv; /* what all views have in common */
    /* workspace */
    struct step_params *params[STEPS];
    int32_t *ids;     /* [T] */
    double *inv_freq; /* [D/2] */
    float *cos, *sin; /* [copies][T][D/2] */
    int copies;
    struct sample_args sample;   /* its pointers are the buffers */
    void *tap_query[MAX_RANKS];  /* [L][TAP_ROWS][H*D]; NULL without taps */
    void *tap_output[MAX_RANKS]; /* the same */
    void *tap_kv[MAX_RANKS];     /* [L][TAP_ROWS][2*K*D]: keys before rotation, then values */

    struct arena *arena[MEMORY_CATEGORIES]; /* owned; NULL where nothing is kept */
    struct buffer named[BUFFERS_MAX];       /* all of the above that have bytes */
    int n_named;
};

/* Adds up what buffers_open() will take, by category. */
void buffers_layout(const struct buffer_sizes *s, struct layout by_category[MEMORY_CATEGORIES]);
/* Buffers without memory behind them, for walks that only count; s->kv_layout may be NULL. */
void buffers_imagine(struct buffers *b, const struct buffer_sizes *s);
enum status buffers_open(struct buffers *b, struct device *dev, const struct buffer_sizes *s,
                         struct error *err);
void buffers_close(struct buffers *b); /* zeroed struct is legal */

/* The keys and values of one layer of one rank. */
struct kv_view buffers_kv(const struct buffers *b, int rank, int layer);

/* Rows [begin, begin + n) of `rows` that device number i of n sums for all; the first device has
 * the most. */
struct rows_slice {
    int32_t begin, n;
};
static inline struct rows_slice rows_slice(int32_t rows, int devices, int i) {
    const int32_t most = (rows + devices - 1) / devices, begin = most * i < rows ? most * i : rows;
    return (struct rows_slice){begin, rows - begin < most ? rows - begin : most};
}

/* Bytes of a row-major matrix, widened first. */
static inline size_t matrix_bytes(int64_t rows, int64_t cols, enum dtype dtype) {
    return (size_t)rows * (size_t)cols * dtype_bytes(dtype);
}

#endif
