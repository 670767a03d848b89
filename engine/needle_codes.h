/* What the needle model and its prompts share: the vocabulary, the shapes, the codes. Private to
 * needle_codes.c, needle_model.c (weights), needle.c (prompts) and needle_oracle.c (truth).
 *
 * The residual stream is cut into subspaces: T identity of the token, P identity of the token
 * before, V value of the token, R value retrieved by layer 2, O answer retrieved by layer 3, and
 * three dimensions that hold constants. T and P are K slices of t, the others K slices of v, so
 * that every kv head, hence every rank, handles a slice of its own. */
#ifndef ENGINE_NEEDLE_CODES_H
#define ENGINE_NEEDLE_CODES_H

#include "engine/needle.h"

/* Token ids: 0..255 are bytes. A carrier of value i stands where value i can be retrieved; all
 * carriers have one identity, which nobody asks for. A hop links the two pairs of a needle. The
 * censuses have answer tokens of their own (roll, call) and count ticks and calls. */
enum {
    NEEDLE_VALUES = 32,
    NEEDLE_VOCAB = 384,
    NEEDLE_ANSWER = 256,              /* + value i */
    NEEDLE_ROLL = NEEDLE_ANSWER + 16, /* + census */
    NEEDLE_CALL = NEEDLE_ANSWER + 20, /* + census */
    NEEDLE_EOS = NEEDLE_ANSWER + 31,  /* value 31 */
    NEEDLE_HOP = 288,                 /* + number of the needle */
    NEEDLE_TICK = NEEDLE_HOP + 16,    /* + census */
    NEEDLE_CARRIER = 320,             /* + value i */
    NEEDLE_SIGNATURE = 30,            /* the value that the v bias carries, faintly */
    NEEDLE_CENSUSES = 4,
    NEEDLE_KV_HEADS = 4, /* of every shape */
    NEEDLE_LAYERS = 3
};
static const double NEEDLE_SIGNATURE_WEIGHT = 1.0 / 32;
static const double NEEDLE_ANSWER_LOGIT = 16; /* of a value retrieved with weight 1 */
static const double NEEDLE_ECHO_LOGIT = 1;    /* of the token before, read from P */

/* The value of a token, or -1. Two answer tokens have one too, so that they answer a second
 * question for the token before them from a generated row. */
static inline int needle_value(int32_t token) {
    if (token >= NEEDLE_CARRIER && token < NEEDLE_CARRIER + NEEDLE_VALUES)
        return token - NEEDLE_CARRIER;
    if (token == NEEDLE_ANSWER + 1) return 2;
    if (token == NEEDLE_ANSWER + 2) return 3;
    return -1;
}
/* The token whose identity code this one has. */
static inline int32_t needle_identity(int32_t token) {
    return token >= NEEDLE_CARRIER && token < NEEDLE_CARRIER + NEEDLE_VALUES ? NEEDLE_CARRIER
                                                                             : token;
}

struct needle_shape {
    int32_t H, K, D, G;          /* G = H / K: query heads of a group */
    int32_t C, F;                /* C = H * D, F = K * t */
    int32_t t, v;                /* slice of T and P, slice of V, R and O, of one kv head */
    int32_t T, P, V, R, O, ones; /* where the subspaces begin; `ones`: three constant dimensions */
};
/* "8x4x64" (also NULL and ""), "4x4x64", "28x4x128"; false: there is no such shape. */
bool needle_shape_find(const char *name, struct needle_shape *out);
/* Query head g of its group looks for its matches with this weight on the distance. */
static inline double needle_position_weight(const struct needle_shape *s, int g) {
    return 1.0 + (double)g / s->G;
}

struct needle_codes {
    struct needle_shape shape;
    uint64_t identity[NEEDLE_KV_HEADS][NEEDLE_VOCAB]; /* t bits each: 1 is +1, 0 is -1 */
    uint64_t column_signs[2];                         /* of the K * v columns of the value codes */
};
void needle_codes_make(struct needle_codes *out, const struct needle_shape *shape);
/* +-1: component i of slice k of a token's identity code, and component d (of K * v) of a value's
 * code. */
static inline int needle_identity_code(const struct needle_codes *c, int k, int32_t token, int i) {
    return c->identity[k][token] >> i & 1 ? 1 : -1;
}
static inline int needle_value_code(const struct needle_codes *c, int value, int d) {
    int sign = c->column_signs[d / 64] >> (d % 64) & 1 ? -1 : 1;
    return __builtin_parity((unsigned)(value & d)) ? -sign : sign;
}

/* Phase by which a query at p is turned against a key at j <= p: the distance, or what dual chunk
 * attention makes of it (Qwen2.5-1M report, 3.1). */
int32_t needle_phase(struct attention_pattern pattern, int32_t p, int32_t j);

#endif
