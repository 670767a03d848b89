/* The codes of the needle model: fixed pseudo-random signs for identities, rows of a Hadamard
 * matrix for values. Owns nothing; needle_model.c and needle_oracle.c come after it. */
#include "engine/needle_codes.h"

#include <string.h>

/* splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

bool needle_shape_find(const char *name, struct needle_shape *out) {
    static const struct {
        const char *name;
        int32_t H, K, D;
    } shapes[] = {{"8x4x64", 8, 4, 64}, {"4x4x64", 4, 4, 64}, {"28x4x128", 28, 4, 128}};
    if (!name || !*name) name = shapes[0].name;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(name, shapes[i].name) != 0) continue;
        struct needle_shape s = {.H = shapes[i].H, .K = shapes[i].K, .D = shapes[i].D};
        s.G = s.H / s.K;
        s.t = s.G > 1 ? s.D / 2 : s.D / 4;
        s.v = s.t / 2;
        s.C = s.H * s.D;
        s.F = s.K * s.t;
        s.P = s.T + s.K * s.t;
        s.V = s.P + s.K * s.t;
        s.R = s.V + s.K * s.v;
        s.O = s.R + s.K * s.v;
        s.ones = s.O + s.K * s.v;
        *out = s;
        return true;
    }
    return false;
}

/* Largest signed correlation that two identities of a slice may have: what keeps the score of every
 * wrong key far below a match's. A draw above it is repeated. */
static int correlation_limit(int t) {
    return t == 16 ? 8 : t == 32 ? 12 : 20;
}

static bool correlates(const uint64_t *codes, int n, uint64_t code, int t) {
    for (int i = 0; i < n; i++)
        if (t - 2 * __builtin_popcountll(codes[i] ^ code) > correlation_limit(t)) return true;
    return false;
}

void needle_codes_make(struct needle_codes *out, const struct needle_shape *shape) {
    const int t = shape->t;
    const uint64_t bits = t == 64 ? ~(uint64_t)0 : ((uint64_t)1 << t) - 1;
    uint64_t state = 0x6E6565646C65; /* "needle" */

    *out = (struct needle_codes){.shape = *shape};
    for (int k = 0; k < shape->K; k++) {
        for (int n = 0; n < NEEDLE_VOCAB; n++) {
            uint64_t code;
            do code = splitmix64(&state) & bits;
            while (correlates(out->identity[k], n, code, t));
            out->identity[k][n] = code;
        }
        for (int n = 0; n < NEEDLE_VOCAB; n++)
            out->identity[k][n] = out->identity[k][needle_identity(n)];
    }
    state = 0x76616C7565; /* "value" */
    for (int d = 0; d < shape->K * shape->v; d++)
        if (!(splitmix64(&state) & 1)) out->column_signs[d / 64] |= (uint64_t)1 << (d % 64);
}

int32_t needle_phase(struct attention_pattern a, int32_t p, int32_t j) {
    if (a.chunk == 0) return p - j;
    const int32_t past = p / a.chunk - j / a.chunk, longest = a.chunk + a.local;
    int32_t query = p % a.chunk;
    if (past == 1) query = query + a.chunk < longest ? query + a.chunk : longest;
    if (past > 1) query = longest;
    return query - j % a.chunk;
}
