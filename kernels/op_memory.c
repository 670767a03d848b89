/* Memory of one op call, from its pointers and shape. See op_memory.h. Before it: a walk through a
 * step; after it: the accounting of what is live in an arena. */
#include "kernels/op_memory.h"

#include <assert.h>

struct regions {
    struct op_region *v;
    int n;
};

static void add_matrix(struct regions *r, const void *at, int64_t rows, int64_t row_bytes,
                       int64_t stride, bool written) {
    if (!at || rows <= 0 || row_bytes <= 0) return;
    assert(r->n < OP_REGIONS_MAX);
    r->v[r->n++] = (struct op_region){at, rows, row_bytes, stride, written};
}

static void add_run(struct regions *r, const void *at, int64_t bytes, bool written) {
    add_matrix(r, at, 1, bytes, bytes, written);
}

static void embed_memory(struct regions *r, const struct embed_args *a) {
    add_run(r, a->ids, (int64_t)a->rows * (int64_t)sizeof *a->ids, false);
    add_run(r, a->out, (int64_t)a->rows * a->C * (int64_t)dtype_bytes(a->dtype), true);
}

static void add_rmsnorm_memory(struct regions *r, const struct add_rmsnorm_args *a) {
    const int64_t bytes = (int64_t)a->rows * a->C * (int64_t)dtype_bytes(a->dtype);
    add_run(r, a->h, bytes, false);
    add_run(r, a->x, bytes, false);
    if (a->x) add_run(r, a->h, bytes, true);
    add_run(r, a->y, bytes, true);
}

static void linear_memory(struct regions *r, const struct linear_args *a, struct weight_shape w) {
    const int64_t size = (int64_t)dtype_bytes(w.dtype);
    add_matrix(r, a->x, a->rows, w.K * size, a->ldx * size, false);
    add_matrix(r, a->y, a->rows, w.N * size, a->ldy * size, true);
}

static void rope_table_memory(struct regions *r, const struct rope_table_args *a) {
    const int64_t bytes = (int64_t)a->copies * a->rows * (a->D / 2) * (int64_t)sizeof *a->cos;
    add_run(r, a->inv_freq, a->D / 2 * (int64_t)sizeof *a->inv_freq, false);
    add_run(r, a->cos, bytes, true);
    add_run(r, a->sin, bytes, true);
}

/* Without queries their columns and rotations are not read. */
static void rope_cache_memory(struct regions *r, const struct rope_cache_args *a) {
    const int64_t size = (int64_t)dtype_bytes(a->dtype), stride = a->ldqkv * size;
    const int64_t query = (int64_t)a->H * a->D * size, kv = 2 * (int64_t)a->kv.heads * a->D * size;
    const int64_t table = (int64_t)a->rows * (a->D / 2) * (int64_t)sizeof *a->cos;
    const bool queries = a->q[0] != NULL;
    add_matrix(r, (const void *)((uintptr_t)a->qkv + (uintptr_t)(queries ? 0 : query)), a->rows,
               queries ? query + kv : kv, stride, false);
    add_run(r, a->cos, table * (queries ? a->copies : 1), false);
    add_run(r, a->sin, table * (queries ? a->copies : 1), false);
    for (int i = 0; i < Q_COPIES; i++) add_run(r, a->q[i], a->rows * query, true);
}

static void attention_memory(struct regions *r, const struct attention_args *a) {
    const int64_t size = (int64_t)dtype_bytes(a->dtype), row = (int64_t)a->H * a->D * size;
    for (int i = 0; i < Q_COPIES; i++) add_matrix(r, a->q[i], a->rows, row, a->ldq * size, false);
    add_matrix(r, a->out, a->rows, row, a->ldo * size, true);
}

static void swiglu_memory(struct regions *r, const struct swiglu_args *a) {
    const int64_t bytes = (int64_t)a->rows * a->F * (int64_t)dtype_bytes(a->dtype);
    add_run(r, a->in, 2 * bytes, false);
    add_run(r, a->out, bytes, true);
}

static void all_reduce_memory(struct regions *r, const struct all_reduce_args *a) {
    const int64_t bytes = (int64_t)a->rows * a->C * (int64_t)dtype_bytes(a->dtype);
    for (int i = 0; i < a->ranks; i++) add_run(r, a->partial[i], bytes, false);
    add_run(r, a->out, bytes, true);
}

static void logits_memory(struct regions *r, const struct logits_args *a) {
    const int64_t size = (int64_t)sizeof *a->out;
    add_run(r, a->x, (int64_t)a->rows * a->C * (int64_t)dtype_bytes(a->dtype), false);
    add_matrix(r, a->out, a->rows, a->V * size, a->ldout * size, true);
}

static void sample_memory(struct regions *r, const struct sample_args *a) {
    const int64_t seen = (a->V + 31) / 32 * (int64_t)sizeof *a->seen;
    add_run(r, a->logits, a->V * (int64_t)sizeof *a->logits, false);
    add_run(r, a->seen, seen, false);
    add_run(r, a->draw, sizeof *a->draw, false);
    add_run(r, a->seen, seen, true);
    add_run(r, a->draw, sizeof *a->draw, true);
    add_run(r, a->id, sizeof *a->id, true);
    add_run(r, a->logprob, sizeof *a->logprob, true);
    add_run(r, a->scratch, (int64_t)sample_scratch_bytes(a->V), true);
}

static void tap_memory(struct regions *r, const struct tap_args *a,
                       const struct step_params *step) {
    const int64_t size = (int64_t)dtype_bytes(a->dtype), row = a->n * size;
    for (int written = 0; written < 2; written++)
        for (int i = 0; i < TAP_ROWS; i++) {
            const int64_t from = step->tap_row[i] * a->ld * size, to = i * row;
            const uintptr_t at =
                written ? (uintptr_t)a->dst + (uintptr_t)to : (uintptr_t)a->src + (uintptr_t)from;
            if (step->tap_row[i] >= 0) add_run(r, (const void *)at, row, written);
        }
}

static void exchange_memory(struct regions *r, const struct exchange_args *a) {
    const int64_t summed = a->sum.elements * (int64_t)dtype_bytes(a->sum.dtype);
    if (summed > 0) add_run(r, a->sum.in, summed, false), add_run(r, a->sum.out, summed, true);
    for (int i = 0; i < a->sends; i++) add_run(r, a->send[i].at, a->send[i].bytes, false);
    for (int i = 0; i < a->receives; i++) add_run(r, a->receive[i].at, a->receive[i].bytes, true);
}

int op_memory(const struct op_call *call, const struct weight_shape *linear,
              const struct step_params *step, struct op_region out[OP_REGIONS_MAX]) {
    struct regions r = {out, 0};
    switch (call->op) {
    case OP_EMBED: embed_memory(&r, &call->embed); break;
    case OP_ADD_RMSNORM: add_rmsnorm_memory(&r, &call->add_rmsnorm); break;
    case OP_LINEAR: linear_memory(&r, &call->linear, *linear); break;
    case OP_ROPE_TABLE: rope_table_memory(&r, &call->rope_table); break;
    case OP_ROPE_CACHE: rope_cache_memory(&r, &call->rope_cache); break;
    case OP_ATTENTION: attention_memory(&r, &call->attention); break;
    case OP_SWIGLU: swiglu_memory(&r, &call->swiglu); break;
    case OP_ALL_REDUCE: all_reduce_memory(&r, &call->all_reduce); break;
    case OP_LOGITS: logits_memory(&r, &call->logits); break;
    case OP_SAMPLE: sample_memory(&r, &call->sample); break;
    case OP_TAP: tap_memory(&r, &call->tap, step); break;
    case OP_EXCHANGE: exchange_memory(&r, &call->exchange); break;
    case OPS: break;
    }
    return r.n;
}
