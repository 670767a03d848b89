/* Work of one op call, by formula. Nothing here looks at data, except a step's positions. Every
 * product is widened to 64 bits first: a million tokens in one chunk stay below 2^63. */
#include "kernels/cost.h"

#include "kernels/backend.h"

const struct step_params *op_step(const struct op_call *c) {
    switch (c->op) {
    case OP_ROPE_TABLE: return c->rope_table.step;
    case OP_ROPE_CACHE: return c->rope_cache.step;
    case OP_ATTENTION: return c->attention.step;
    case OP_TAP: return c->tap.step;
    default: return NULL;
    }
}

int64_t attention_pairs(int64_t q_start, int64_t n) {
    return n * q_start + n * (n + 1) / 2; /* the sum of p + 1 over p in [q_start, q_start + n) */
}

struct cost linear_cost(int64_t rows, int64_t N, int64_t K, bool bias, enum dtype dtype) {
    int64_t size = (int64_t)dtype_bytes(dtype);
    return (struct cost){2 * rows * N * K + (bias ? rows * N : 0),
                         (rows * K + N * K + rows * N + (bias ? N : 0)) * size};
}

struct cost attention_cost(const struct attention_cost_shape *s, int64_t q_start, int64_t n) {
    int64_t size = (int64_t)dtype_bytes(s->dtype);
    int64_t keys = q_start + n, queries = s->copies * n * s->H * s->D;
    return (struct cost){4 * s->D * s->H * attention_pairs(q_start, n),
                         (queries + n * s->H * s->D + 2 * keys * s->K * s->D) * size};
}

/* A row's table entry is counted as read, whichever rank holds it. */
static struct cost embed_cost(const struct embed_args *a) {
    int64_t size = (int64_t)dtype_bytes(a->dtype);
    return (struct cost){0, (int64_t)a->rows * (2 * size * a->C + (int64_t)sizeof *a->ids)};
}

/* Add: 1. Norm: square, sum, times 1/rms, times gain: 4. Scalars of a row are not counted. */
static struct cost add_rmsnorm_cost(const struct add_rmsnorm_args *a) {
    int64_t size = (int64_t)dtype_bytes(a->dtype), elements = (int64_t)a->rows * a->C;
    int64_t passes = 1 + (a->x ? 2 : 0) + (a->y ? 1 : 0); /* h; x and h back; y */
    return (struct cost){elements * ((a->x ? 1 : 0) + (a->y ? 4 : 0)),
                         (elements * passes + (a->y ? a->C : 0)) * size};
}

/* Angle, cosine, sine: one each. */
static struct cost rope_table_cost(const struct rope_table_args *a) {
    int64_t angles = (int64_t)a->copies * a->rows * (a->D / 2);
    return (struct cost){3 * angles, angles * 2 * (int64_t)sizeof *a->cos +
                                         a->D / 2 * (int64_t)sizeof *a->inv_freq};
}

/* A rotated pair: 4 products, 2 sums; a key's pair 2 products more. Values are only moved. */
static struct cost rope_cache_cost(const struct rope_cache_args *a, int64_t n) {
    int64_t size = (int64_t)dtype_bytes(a->dtype), half = a->D / 2;
    int64_t copies = a->q[0] ? a->copies : 0, tables = a->q[0] ? a->copies : 1;
    int64_t query = n * a->H * a->D, keys = n * a->kv.heads * a->D;
    return (struct cost){3 * query * copies + 4 * keys,
                         ((copies ? query : 0) + copies * query + 4 * keys) * size +
                             tables * n * half * 2 * (int64_t)sizeof *a->cos};
}

static struct cost attention_call_cost(const struct attention_args *a,
                                       const struct step_params *step) {
    struct attention_cost_shape s = {a->H, a->kv.heads, a->D, 0, a->dtype};
    for (int i = 0; i < Q_COPIES; i++) s.copies += a->q[i] != NULL;
    return attention_cost(&s, step->q_start, step->n_tokens);
}

/* silu: minus, exp, plus, divide; and the product. */
static struct cost swiglu_cost(const struct swiglu_args *a) {
    int64_t elements = (int64_t)a->rows * a->F;
    return (struct cost){5 * elements, 3 * elements * (int64_t)dtype_bytes(a->dtype)};
}

static struct cost all_reduce_cost(const struct all_reduce_args *a) {
    int64_t elements = (int64_t)a->rows * a->C;
    return (struct cost){(a->ranks - 1) * elements,
                         (a->ranks + 1) * elements * (int64_t)dtype_bytes(a->dtype)};
}

static struct cost logits_cost(const struct logits_args *a) {
    int64_t size = (int64_t)dtype_bytes(a->dtype), outputs = (int64_t)a->rows * a->V;
    return (struct cost){2 * outputs * a->C,
                         ((int64_t)a->V * a->C + (int64_t)a->rows * a->C) * size +
                             outputs * (int64_t)sizeof *a->out};
}

/* The log-probability alone is always due: minus, exp, plus for each logit. What top-k, top-p and
 * the draw add depends on the data and is not counted. */
static struct cost sample_cost(const struct sample_args *a) {
    int64_t V = a->V;
    return (struct cost){3 * V,
                         V * (int64_t)sizeof *a->logits + (V + 31) / 32 * (int64_t)sizeof *a->seen};
}

static struct cost tap_cost(const struct tap_args *a, const struct step_params *step) {
    int64_t rows = 0;
    for (int i = 0; i < TAP_ROWS; i++) rows += step->tap_row[i] >= 0;
    return (struct cost){0, 2 * rows * a->n * (int64_t)dtype_bytes(a->dtype)};
}

/* What passes in and out. Of a sum it is what a ring passes: each device adds its share of the
 * elements up and everyone gets it. */
static struct cost exchange_cost(const struct exchange_args *a) {
    struct cost c = {0, 0};
    if (a->sum.elements > 0) {
        const int64_t added = a->sum.elements * (a->sum.devices - 1) / a->sum.devices;
        return (struct cost){added, 4 * added * (int64_t)dtype_bytes(a->sum.dtype)};
    }
    for (int i = 0; i < a->sends; i++) c.bytes += a->send[i].bytes;
    for (int i = 0; i < a->receives; i++) c.bytes += a->receive[i].bytes;
    return c;
}

struct cost op_cost(const struct op_call *c, const struct step_params *step) {
    switch (c->op) {
    case OP_EMBED: return embed_cost(&c->embed);
    case OP_ADD_RMSNORM: return add_rmsnorm_cost(&c->add_rmsnorm);
    case OP_LINEAR: {
        struct weight_shape s = weight_shape(c->linear.w);
        return linear_cost(c->linear.rows, s.N, s.K, s.bias, s.dtype);
    }
    case OP_ROPE_TABLE: return rope_table_cost(&c->rope_table);
    case OP_ROPE_CACHE: return rope_cache_cost(&c->rope_cache, step->n_tokens);
    case OP_ATTENTION: return attention_call_cost(&c->attention, step);
    case OP_SWIGLU: return swiglu_cost(&c->swiglu);
    case OP_ALL_REDUCE: return all_reduce_cost(&c->all_reduce);
    case OP_LOGITS: return logits_cost(&c->logits);
    case OP_SAMPLE: return sample_cost(&c->sample);
    case OP_TAP: return tap_cost(&c->tap, step);
    case OP_EXCHANGE: return exchange_cost(&c->exchange);
    case OPS: break;
    }
    return (struct cost){0, 0};
}
