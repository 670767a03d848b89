/* Costs by walking: the same forward as a run's, into a sink that adds up what cost.h says of each
 * call. Before it: predictions of the harness, and session.c for the work of a chunk. */
#include "engine/engine_core.h"
#include "kernels/cost.h"

static enum status add_cost(void *ctx, const struct op_call *call,
                            const struct weight_shape *linear, struct error *err) {
    struct cost_sum *sum = ctx;
    const struct cost c =
        linear ? linear_cost(call->linear.rows, linear->N, linear->K, linear->bias, linear->dtype)
               : op_cost(call, sum->step);
    (void)err; /* adding cannot fail */
    sum->cost.ops++;
    sum->flops += c.flops;
    sum->bytes += c.bytes;
    if (call->op == OP_LINEAR) {
        sum->cost.linear_flops += c.flops;
    } else if (call->op == OP_EXCHANGE) {
        sum->cost.exchange_bytes += c.bytes;
    } else if (call->op == OP_ATTENTION) {
        sum->cost.attention_flops += c.flops;
    } else {
        sum->cost.other_flops += c.flops;
        sum->cost.bytes += c.bytes;
    }
    return STATUS_OK;
}

struct op_sink cost_sink(struct cost_sum *sum) {
    return (struct op_sink){add_cost, sum};
}

/* A forward without weights or memory. */
static struct forward imagine(const struct model_config *m, const struct engine_opts *eo,
                              struct ranks ranks, int32_t rows, struct buffers *b) {
    const struct attention_pattern pattern =
        eo->dual_chunk_attention ? m->dual_chunk : (struct attention_pattern){0, 0};
    const struct buffer_sizes sizes = {.m = m,
                                       .ranks = ranks,
                                       .dtype = eo->dtype,
                                       .copies = pattern.chunk > 0 ? Q_COPIES : 1,
                                       .rows = rows,
                                       .block_rows = eo->block_rows < rows ? eo->block_rows : rows,
                                       .blocks = 1, /* in turn or aside: the same calls */
                                       .taps = true};
    buffers_imagine(b, &sizes);
    return (struct forward){.m = m,
                            .ranks = ranks,
                            .dtype = eo->dtype,
                            .pattern = pattern,
                            .buffers = b,
                            .comm = comm_of(ranks, eo->exchange_backend)};
}

static struct step_params params_at(int64_t start, int64_t n) {
    struct step_params p = {.q_start = (int32_t)start,
                            .n_tokens = (int32_t)n,
                            .kv_len = (int32_t)(start + n),
                            .prompt_tokens = (int32_t)(start + n),
                            .key_factor = 1,
                            .query_factor = 1};
    for (int i = 0; i < TAP_ROWS; i++) p.tap_row[i] = -1;
    return p;
}

static void add_chunk(struct cost_sum *sum, const struct model_config *m,
                      const struct engine_opts *eo, struct ranks ranks, int64_t start, int64_t n,
                      bool last) {
    struct buffers b;
    const struct forward f = imagine(m, eo, ranks, (int32_t)n, &b);
    const struct step_params chunk = params_at(start, n), row = params_at(start + n - 1, 1);
    const struct op_sink sink = cost_sink(sum);
    sum->step = &chunk;
    struct step step = {.params = b.params[STEP_BODY],
                        .ids = b.ids,
                        .h = b.h,
                        .y = b.y,
                        .rows = (int32_t)n,
                        .prune = eo->prune_last_layer};
    forward_body(&f, &step, &sink, NULL);
    if (last) {
        sum->step = &row;
        step.rows = 1;
        forward_finish(&f, &step, &sink, NULL);
    }
}

struct chunk_cost engine_chunk_cost(const struct model_config *m, const struct engine_opts *eo,
                                    int64_t start, int64_t n, bool last) {
    struct cost_sum sum = {.step = NULL};
    int devices;
    if (engine_devices(eo, &devices, NULL) != STATUS_OK) devices = 1;
    const int counted = eo->device == DEVICE_CPU ? devices : 1;
    for (int i = 0; i < counted; i++)
        add_chunk(&sum, m, eo, ranks_of(eo->tensor_parallel_size, devices, i), start, n, last);
    return sum.cost;
}

void session_graph_calls(const struct model_config *m, const struct engine_opts *eo,
                         const struct session_opts *so, struct ranks ranks, int64_t *body,
                         int64_t *decode) {
    struct buffers b;
    const int32_t rows =
        so->chunk_tokens < so->prompt_tokens ? so->chunk_tokens : so->prompt_tokens;
    const struct forward f = imagine(m, eo, ranks, rows, &b);
    const struct step_params params = params_at(0, rows), row = params_at(0, 1);
    struct cost_sum of_body = {.step = &params}, of_decode = {.step = &row};
    const struct op_sink body_sink = cost_sink(&of_body), decode_sink = cost_sink(&of_decode);
    struct step step = {.params = b.params[STEP_BODY],
                        .ids = b.ids,
                        .h = b.h,
                        .y = b.y,
                        .rows = rows,
                        .prune = session_prunes(eo, so),
                        .taps = so->taps};
    forward_body(&f, &step, &body_sink, NULL);
    step.rows = 1;
    step.prune = step.taps = false;
    forward_decode(&f, &step, &decode_sink, NULL);
    *body = of_body.cost.ops;
    *decode = of_decode.cost.ops;
}
