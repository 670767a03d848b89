/* A device's share of the steps. See part.h. A step writes what changes (tokens, position, DCA's
 * factors) into device memory, then runs a walk of forward.c or replays the recorded one; it
 * allocates nothing. */
#include "engine/part.h"

#include <math.h>
#include <stdlib.h>

/* ---- the steps */

static struct step body_step(const struct part *p, int32_t rows) {
    const struct buffers *b = &p->buffers;
    return (struct step){.params = b->params[STEP_BODY],
                         .ids = b->ids,
                         .h = b->h,
                         .y = b->y,
                         .rows = rows,
                         .prune = p->prune,
                         .taps = p->opts->taps};
}

/* The newest token, whose id the sampling left on the device. */
static struct step decode_step(const struct part *p) {
    const struct buffers *b = &p->buffers;
    return (struct step){.params = b->params[STEP_DECODE],
                         .ids = b->sample.id,
                         .h = b->h,
                         .y = b->y,
                         .rows = 1,
                         .decode = true};
}

/* Row of the newest chunk in h or y. */
static void *chunk_row(const struct part *p, void *base, int32_t row) {
    return (char *)base + matrix_bytes(row, p->forward.m->C, p->forward.dtype);
}

static struct step finish_step(const struct part *p, int32_t last_row) {
    struct step step = body_step(p, 1);
    step.params = p->buffers.params[STEP_FINISH];
    step.ids = NULL;
    step.h = chunk_row(p, p->buffers.h, last_row);
    step.y = chunk_row(p, p->buffers.y, last_row);
    return step;
}

typedef enum status forward_function(const struct forward *f, const struct step *step,
                                     const struct op_sink *sink, struct error *err);

/* ---- opening */

static enum status run_call(void *ctx, const struct op_call *call,
                            const struct weight_shape *linear, struct error *err) {
    (void)linear;
    return device_run(ctx, call, err);
}

/* What the attention kernel would only be found to lack in the middle of a run. */
static enum status check_kernel(const struct part *p, struct error *err) {
    const char *name;
    const unsigned lacks = device_attention_lacks(p->dev, &name);
    if (p->opts->graph && lacks & LACKS_GRAPHS)
        return error_set(err, STATUS_UNSUPPORTED,
                         "attention = %s runs op by op alone, not in a recorded step", name);
    if (p->forward.pattern.chunk > 0 && lacks & LACKS_DUAL_CHUNK)
        return error_set(err, STATUS_UNSUPPORTED, "attention = %s has no dual chunk attention",
                         name);
    return STATUS_OK;
}

/* Inverse frequencies in f64, theta^(-2i/D). */
static enum status write_constants(struct part *p, struct error *err) {
    const struct model_config *m = p->forward.m;
    const struct sampling_opts *o = &p->opts->sampling;
    const struct sample_params sampling = {o->temperature, o->top_p, o->repetition_penalty,
                                           o->top_k, o->seed};
    const size_t half = (size_t)m->D / 2;
    double *inv_freq = malloc(half * sizeof *inv_freq);
    if (!inv_freq) return error_set(err, STATUS_NO_MEMORY, "no memory for %zu frequencies", half);
    for (size_t i = 0; i < half; i++) inv_freq[i] = pow(m->rope_theta, -2.0 * (double)i / m->D);
    device_write(p->dev, p->buffers.inv_freq, inv_freq, half * sizeof *inv_freq);
    device_write(p->dev, (void *)p->buffers.sample.params, &sampling, sizeof sampling);
    free(inv_freq);
    return device_sync(p->dev, err);
}

enum status part_open(struct part *p, const struct engine *e, int device,
                      const struct session_opts *opts, struct error *err) {
    const struct ranks ranks = e->devices.ranks[device];
    struct buffer_sizes sizes;
    p->opts = opts;
    p->dev = e->devices.dev[device];
    p->prune = session_prunes(&e->opts, opts);
    p->sink = (struct op_sink){run_call, p->dev};
    p->forward =
        (struct forward){.m = &e->info.model,
                         .ranks = ranks,
                         .dtype = e->opts.dtype,
                         .weights = e->weights[device],
                         .buffers = &p->buffers,
                         .comm = comm_of(ranks, e->devices.info[device].variant[OP_EXCHANGE])};
    enum status s = engine_pattern(&e->info.model, &e->opts, &p->forward.pattern, err);
    if (s == STATUS_OK) s = check_kernel(p, err);
    if (s == STATUS_OK)
        s = session_sizes(&e->info.model, &e->opts, opts, ranks, device_kv_layout(p->dev), &sizes,
                          err);
    if (s == STATUS_OK) s = buffers_open(&p->buffers, p->dev, &sizes, err);
    if (s == STATUS_OK) s = write_constants(p, err);
    return s;
}

static enum status prepare_call(void *ctx, const struct op_call *call,
                                const struct weight_shape *linear, struct error *err) {
    (void)linear;
    return device_prepare(ctx, call, err);
}

/* Whole chunks, the ragged one at the end, and the last row of a pruned prompt: what kernels of
 * libraries need for them is made here and not in a chunk. */
static enum status prepare_steps(struct part *p, struct error *err) {
    const struct op_sink sink = {prepare_call, p->dev};
    const int32_t rest = p->opts->prompt_tokens % p->opts->chunk_tokens;
    const struct step whole = body_step(p, p->opts->chunk_tokens), ragged = body_step(p, rest);
    const struct step last = finish_step(p, 0);
    enum status s = forward_body(&p->forward, &whole, &sink, err);
    if (s == STATUS_OK && rest > 0) s = forward_body(&p->forward, &ragged, &sink, err);
    return s == STATUS_OK ? forward_finish(&p->forward, &last, &sink, err) : s;
}

/* Every kernel once, on one token, where the first run would be slower than the others. What it
 * leaves behind is overwritten: keys and values by the first chunk, the rest by part_reset(). */
static enum status warm_up(struct part *p, struct error *err) {
    const struct step step = decode_step(p);
    const struct step_params params = {.n_tokens = 1,
                                       .kv_len = 1,
                                       .prompt_tokens = 1,
                                       .key_factor = 1,
                                       .query_factor = 1,
                                       .tap_row = {-1, -1, -1, -1, -1, -1, -1, -1}};
    if (!device_loads_lazily(p->dev)) return STATUS_OK;
    device_write(p->dev, p->buffers.params[STEP_DECODE], &params, sizeof params);
    enum status s = forward_decode(&p->forward, &step, &p->sink, err);
    return s == STATUS_OK ? device_sync(p->dev, err) : s;
}

static enum status capture(struct part *p, struct device_graph **out, forward_function *walk,
                           struct step step, struct error *err) {
    enum status s = device_capture_begin(p->dev, err);
    if (s != STATUS_OK) return s;
    s = walk(&p->forward, &step, &p->sink, err);
    const enum status end = device_capture_end(p->dev, out, s == STATUS_OK ? err : NULL);
    return s == STATUS_OK ? end : s;
}

static enum status capture_steps(struct part *p, struct error *err) {
    if (!p->opts->graph) return STATUS_OK;
    enum status s =
        capture(p, &p->body_graph, forward_body, body_step(p, p->opts->chunk_tokens), err);
    if (s == STATUS_OK && p->opts->max_tokens > 1)
        s = capture(p, &p->decode_graph, forward_decode, decode_step(p), err);
    return s;
}

enum status part_get_ready(struct part *p, struct error *err) {
    enum status s = prepare_steps(p, err);
    if (s == STATUS_OK) s = warm_up(p, err);
    if (s == STATUS_OK) s = part_reset(p, err);
    if (s == STATUS_OK) s = capture_steps(p, err);
    return s;
}

void part_close(struct part *p) {
    if (!p->dev) return;
    device_graph_close(p->dev, p->body_graph);
    device_graph_close(p->dev, p->decode_graph);
    device_spans_enable(p->dev, 0, NULL);
    buffers_close(&p->buffers);
}

/* ---- taking steps */

static void write_params(struct part *p, enum step_kind kind, const struct step_params *params) {
    device_write(p->dev, p->buffers.params[kind], params, sizeof *params);
}

static enum status run_step(struct part *p, struct device_graph *g, forward_function *walk,
                            const struct step *step, struct error *err) {
    return g ? device_graph_launch(p->dev, g, err) : walk(&p->forward, step, &p->sink, err);
}

/* Logits of the chunk's positions that were asked for. */
static enum status wanted_logits(const struct part *p, const struct chunk *c,
                                 const struct op_sink *sink, struct error *err) {
    enum status s = STATUS_OK;
    for (int32_t i = 0; s == STATUS_OK && i < p->opts->logits_at_count; i++) {
        const int32_t row = p->opts->logits_at[i] - c->start;
        if (row < 0 || row >= c->n) continue;
        s = forward_logits(&p->forward, chunk_row(p, p->buffers.y, row),
                           p->buffers.logits_at + (size_t)i * (size_t)p->forward.m->V, sink, err);
    }
    return s;
}

bool part_replays(const struct part *p, const struct chunk *c) {
    return p->body_graph && c->n == p->opts->chunk_tokens;
}

static enum status issue_chunk(struct part *p, const struct chunk *c, struct error *err) {
    const struct step body = body_step(p, c->n), finish = finish_step(p, c->n - 1);
    const size_t seen_bytes = ((size_t)p->forward.m->V + 31) / 32 * sizeof *c->seen;
    device_write(p->dev, p->buffers.ids, c->tokens, (size_t)c->n * sizeof *c->tokens);
    write_params(p, STEP_BODY, &c->params);
    enum status s =
        run_step(p, part_replays(p, c) ? p->body_graph : NULL, forward_body, &body, err);
    if (s == STATUS_OK) s = wanted_logits(p, c, &p->sink, err);
    if (s != STATUS_OK || !c->last) return s;
    device_write(p->dev, p->buffers.sample.seen, c->seen, seen_bytes);
    write_params(p, STEP_FINISH, &c->finish_params);
    return forward_finish(&p->forward, &finish, &p->sink, err);
}

enum status part_prefill(struct part *p, const struct chunk *c, struct error *err) {
    device_mark(p->dev, MARK_CHUNK_BEGIN);
    const enum status s = issue_chunk(p, c, err);
    device_mark(p->dev, MARK_CHUNK_END);
    p->issued_ns = now_ns();
    return s == STATUS_OK ? device_sync(p->dev, err) : s;
}

enum status part_generate(struct part *p, const struct step_params *params, struct error *err) {
    const struct step step = decode_step(p);
    if (params) write_params(p, STEP_DECODE, params);
    const enum status s = params ? run_step(p, p->decode_graph, forward_decode, &step, err)
                                 : forward_sample(&p->forward, &p->sink, err);
    return s == STATUS_OK ? device_sync(p->dev, err) : s;
}

enum status part_reset(struct part *p, struct error *err) {
    const int32_t draw = 0;
    device_write(p->dev, p->buffers.sample.draw, &draw, sizeof draw);
    return device_sync(p->dev, err);
}

enum status part_skip(struct part *p, int32_t begin, int32_t end, uint64_t seed,
                      struct error *err) {
    for (int rank = p->forward.ranks.begin; rank < p->forward.ranks.end; rank++) {
        const uint64_t head = (uint64_t)shard_of(p->forward.m, p->forward.ranks.tp, rank).kv_begin;
        for (int layer = 0; layer < p->forward.m->layers; layer++) {
            const struct kv_view view = buffers_kv(&p->buffers, rank, layer);
            device_kv_fill(p->dev, &view, begin, end,
                           seed + ((uint64_t)layer << 32) + (head << 48));
        }
    }
    return device_sync(p->dev, err);
}

enum status part_walk(const struct part *p, const struct chunk *c, const struct op_sink *sink,
                      const struct step_params **step, struct error *err) {
    const struct step body = body_step(p, c->n), finish = finish_step(p, c->n - 1);
    *step = &c->params;
    enum status s = forward_body(&p->forward, &body, sink, err);
    if (s == STATUS_OK) s = wanted_logits(p, c, sink, err);
    *step = &c->finish_params;
    return s == STATUS_OK && c->last ? forward_finish(&p->forward, &finish, sink, err) : s;
}

void part_count(const struct part *p, const struct chunk *c, int64_t *flops, int64_t *bytes) {
    struct cost_sum sum = {0};
    const struct op_sink sink = cost_sink(&sum);
    part_walk(p, c, &sink, &sum.step, NULL);
    *flops += sum.flops;
    *bytes += sum.bytes;
}
