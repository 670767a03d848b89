/* The tensor parallel split: heads, kv heads (or replicas of them), MLP and vocabulary divide by
 * tp. Before it: a model's configuration; after it: weights.c, buffers.c, forward.c. */
#include "engine/shard.h"

struct shard shard_of(const struct model_config *m, int tp, int rank) {
    const int32_t replicas = tp > m->K ? tp / m->K : 1, H = m->H / tp, F = m->F / tp, V = m->V / tp;
    const int32_t K = m->K * replicas / tp;
    return (struct shard){.rank = rank,
                          .H = H,
                          .K = K,
                          .F = F,
                          .V = V,
                          .head_begin = rank * H,
                          .kv_begin = rank / replicas * K,
                          .ffn_begin = rank * F,
                          .vocab_begin = rank * V};
}

static enum status must_divide(const char *what, int32_t n, int tp, struct error *err) {
    if (n % tp == 0) return STATUS_OK;
    return error_set(err, STATUS_USAGE,
                     "tensor_parallel_size %d does not divide the %d %s: %d = %d x %d + %d", tp, n,
                     what, n, tp, n / tp, n % tp);
}

enum status engine_check_parallel(const struct model_config *m, int tp, struct error *err) {
    if (tp < 1 || tp > MAX_RANKS)
        return error_set(err, STATUS_USAGE, "tensor_parallel_size %d: expected 1 to %d", tp,
                         MAX_RANKS);
    enum status s = must_divide("query heads", m->H, tp, err);
    if (s == STATUS_OK && tp <= m->K) s = must_divide("key/value heads", m->K, tp, err);
    if (s == STATUS_OK && tp > m->K && tp % m->K != 0)
        s = error_set(err, STATUS_USAGE,
                      "tensor_parallel_size %d is no multiple of the %d key/value heads, so they "
                      "cannot be repeated evenly: %d = %d x %d + %d",
                      tp, m->K, tp, m->K, tp / m->K, tp % m->K);
    if (s == STATUS_OK) s = must_divide("columns of the MLP", m->F, tp, err);
    if (s == STATUS_OK) s = must_divide("tokens of the vocabulary", m->V, tp, err);
    return s;
}
