/* One sequence on an engine: its memory, its position, its steps. A step writes what changes
 * (tokens, position, DCA's factors) into device memory, then runs a walk of forward.c or replays
 * the recorded one; it allocates nothing. Before it: the harness; after it: forward.c. */
#include "engine/engine_core.h"
#include "kernels/bf16.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct session {
    struct engine *e; /* borrowed */
    struct session_opts opts;
    struct forward forward;
    struct buffers buffers; /* owned */
    struct op_sink device_sink;
    struct device_graph *body_graph, *decode_graph; /* owned; NULL in eager mode */
    uint32_t *seen;                                 /* bit set of [V]: the prompt so far; owned */
    int32_t position, generated;
    bool prune;
    bool synthetic;                                 /* the cache holds values that no token gave */
    bool failed;                                    /* only good for closing */
    int32_t tap_wanted[TAP_ROWS], tapped[TAP_ROWS]; /* positions, or -1 */
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- options and sizes */

struct session_opts session_opts_defaults(void) {
    return (struct session_opts){
        .prompt_tokens = 1024,
        .max_tokens = 32,
        .chunk_tokens = 8192,
        .sampling = {.temperature = 0.7f, .top_p = 0.8f, .repetition_penalty = 1.05f, .top_k = 20}};
}

static enum status check_session_opts(const struct session_opts *so, struct error *err) {
    if (so->prompt_tokens < 1 || so->max_tokens < 0 || so->chunk_tokens < 1 ||
        so->logits_at_count < 0)
        return error_set(err, STATUS_USAGE,
                         "a session of %d prompt tokens, %d new ones, chunks of %d: expected at "
                         "least 1, 0 and 1",
                         so->prompt_tokens, so->max_tokens, so->chunk_tokens);
    if ((int64_t)so->prompt_tokens + so->max_tokens > INT32_MAX - KV_TILE)
        return error_set(err, STATUS_USAGE, "%d prompt tokens and %d new ones: positions end at %d",
                         so->prompt_tokens, so->max_tokens, INT32_MAX - KV_TILE);
    for (int32_t i = 0; i < so->logits_at_count; i++)
        if (so->logits_at && (so->logits_at[i] < 0 || so->logits_at[i] >= so->prompt_tokens))
            return error_set(err, STATUS_USAGE, "logits wanted at position %d of %d",
                             so->logits_at[i], so->prompt_tokens);
    if (so->sampling.temperature < 0 || so->sampling.repetition_penalty <= 0)
        return error_set(err, STATUS_USAGE,
                         "temperature %g, repetition penalty %g: expected at least 0, more than 0",
                         (double)so->sampling.temperature, (double)so->sampling.repetition_penalty);
    return STATUS_OK;
}

enum status session_sizes(const struct model_config *m, const struct engine_opts *eo,
                          const struct session_opts *so, const struct kv_layout *kv_layout,
                          struct buffer_sizes *out, struct error *err) {
    struct attention_pattern pattern;
    enum status s = check_session_opts(so, err);
    if (s == STATUS_OK) s = engine_pattern(m, eo, &pattern, err);
    if (s != STATUS_OK) return s;
    const int32_t tokens = so->prompt_tokens + so->max_tokens;
    const int32_t rows =
        so->chunk_tokens < so->prompt_tokens ? so->chunk_tokens : so->prompt_tokens;
    *out = (struct buffer_sizes){.m = m,
                                 .ranks = {eo->tensor_parallel_size, 0, eo->tensor_parallel_size},
                                 .dtype = eo->dtype,
                                 .copies = pattern.chunk > 0 ? Q_COPIES : 1,
                                 .rows = rows,
                                 .block_rows = eo->block_rows < rows ? eo->block_rows : rows,
                                 .capacity = (tokens + KV_TILE - 1) / KV_TILE * KV_TILE,
                                 .logits_at_count = so->logits_at_count,
                                 .taps = so->taps,
                                 .kv_layout = kv_layout};
    return STATUS_OK;
}

/* ---- opening */

static enum status run_call(void *ctx, const struct op_call *call,
                            const struct weight_shape *linear, struct error *err) {
    (void)linear;
    return device_run(ctx, call, err);
}

/* Inverse frequencies in f64, theta^(-2i/D). */
static enum status write_constants(struct session *s, struct error *err) {
    const struct model_config *m = s->forward.m;
    const struct sampling_opts *o = &s->opts.sampling;
    const struct sample_params sampling = {o->temperature, o->top_p, o->repetition_penalty,
                                           o->top_k, o->seed};
    const size_t half = (size_t)m->D / 2;
    double *inv_freq = malloc(half * sizeof *inv_freq);
    if (!inv_freq) return error_set(err, STATUS_NO_MEMORY, "no memory for %zu frequencies", half);
    for (size_t i = 0; i < half; i++) inv_freq[i] = pow(m->rope_theta, -2.0 * (double)i / m->D);
    device_write(s->e->dev, s->buffers.inv_freq, inv_freq, half * sizeof *inv_freq);
    device_write(s->e->dev, (void *)s->buffers.sample.params, &sampling, sizeof sampling);
    free(inv_freq);
    return device_sync(s->e->dev, err);
}

static struct step body_step(const struct session *s, int32_t rows) {
    const struct buffers *b = &s->buffers;
    return (struct step){.params = b->params[STEP_BODY],
                         .ids = b->ids,
                         .h = b->h,
                         .y = b->y,
                         .rows = rows,
                         .prune = s->prune,
                         .taps = s->opts.taps};
}

/* The newest token, whose id the sampling left on the device. */
static struct step decode_step(const struct session *s) {
    const struct buffers *b = &s->buffers;
    return (struct step){.params = b->params[STEP_DECODE],
                         .ids = b->sample.id,
                         .h = b->h,
                         .y = b->y,
                         .rows = 1,
                         .decode = true};
}

/* Row of the newest chunk in h or y. */
static void *chunk_row(const struct session *s, void *base, int32_t row) {
    return (char *)base + matrix_bytes(row, s->forward.m->C, s->forward.dtype);
}

static struct step finish_step(const struct session *s, int32_t last_row) {
    struct step step = body_step(s, 1);
    step.params = s->buffers.params[STEP_FINISH];
    step.ids = NULL;
    step.h = chunk_row(s, s->buffers.h, last_row);
    step.y = chunk_row(s, s->buffers.y, last_row);
    return step;
}

typedef enum status forward_function(const struct forward *f, const struct step *step,
                                     const struct op_sink *sink, struct error *err);

static enum status capture(struct session *s, struct device_graph **out, forward_function *walk,
                           struct step step, struct error *err) {
    enum status status = device_capture_begin(s->e->dev, err);
    if (status != STATUS_OK) return status;
    status = walk(&s->forward, &step, &s->device_sink, err);
    const enum status end = device_capture_end(s->e->dev, out, status == STATUS_OK ? err : NULL);
    return status == STATUS_OK ? end : status;
}

/* Every kernel once, on one token, where the first run would be slower than the others. What it
 * leaves behind is overwritten: keys and values by the first chunk, the rest by session_reset(). */
static enum status warm_up(struct session *s, struct error *err) {
    const struct step step = decode_step(s);
    const struct step_params p = {.n_tokens = 1,
                                  .kv_len = 1,
                                  .prompt_tokens = 1,
                                  .key_factor = 1,
                                  .query_factor = 1,
                                  .tap_row = {-1, -1, -1, -1, -1, -1, -1, -1}};
    if (!device_loads_lazily(s->e->dev)) return STATUS_OK;
    device_write(s->e->dev, s->buffers.params[STEP_DECODE], &p, sizeof p);
    enum status status = forward_decode(&s->forward, &step, &s->device_sink, err);
    return status == STATUS_OK ? device_sync(s->e->dev, err) : status;
}

static enum status prepare_call(void *ctx, const struct op_call *call,
                                const struct weight_shape *linear, struct error *err) {
    (void)linear;
    return device_prepare(ctx, call, err);
}

/* Whole chunks, the ragged one at the end, and the last row of a pruned prompt: what kernels of
 * libraries need for them is made here and not in a chunk. */
static enum status prepare_steps(struct session *s, struct error *err) {
    const struct op_sink sink = {prepare_call, s->e->dev};
    const int32_t rest = s->opts.prompt_tokens % s->opts.chunk_tokens;
    const struct step whole = body_step(s, s->opts.chunk_tokens), ragged = body_step(s, rest);
    const struct step last = finish_step(s, 0);
    enum status status = forward_body(&s->forward, &whole, &sink, err);
    if (status == STATUS_OK && rest > 0) status = forward_body(&s->forward, &ragged, &sink, err);
    return status == STATUS_OK ? forward_finish(&s->forward, &last, &sink, err) : status;
}

/* What the attention kernel would only be found to lack in the middle of a run. */
static enum status check_kernel(const struct session *s, struct error *err) {
    const char *name;
    const unsigned lacks = device_attention_lacks(s->e->dev, &name);
    if (s->opts.graph && lacks & LACKS_GRAPHS)
        return error_set(err, STATUS_UNSUPPORTED,
                         "attention = %s runs op by op alone, not in a recorded step", name);
    if (s->forward.pattern.chunk > 0 && lacks & LACKS_DUAL_CHUNK)
        return error_set(err, STATUS_UNSUPPORTED, "attention = %s has no dual chunk attention",
                         name);
    return STATUS_OK;
}

static enum status capture_steps(struct session *s, struct error *err) {
    if (!s->opts.graph) return STATUS_OK;
    const int32_t rows = s->opts.chunk_tokens;
    enum status status = capture(s, &s->body_graph, forward_body, body_step(s, rows), err);
    if (status == STATUS_OK && s->opts.max_tokens > 1)
        status = capture(s, &s->decode_graph, forward_decode, decode_step(s), err);
    return status;
}

static enum status allocate(struct session *s, struct error *err) {
    struct engine *e = s->e;
    struct buffer_sizes sizes;
    enum status status =
        session_sizes(&e->info.model, &e->opts, &s->opts, device_kv_layout(e->dev), &sizes, err);
    if (status != STATUS_OK) return status;
    s->opts.chunk_tokens = sizes.rows;
    s->prune = session_prunes(&e->opts, &s->opts);
    s->seen = calloc(((size_t)e->info.model.V + 31) / 32, sizeof *s->seen);
    if (!s->seen) return error_set(err, STATUS_NO_MEMORY, "no memory for a set of tokens");
    return buffers_open(&s->buffers, e->dev, &sizes, err);
}

enum status session_open(struct session **out, struct engine *e, const struct session_opts *opts,
                         struct error *err) {
    *out = NULL;
    if (e->in_session)
        return error_set(err, STATUS_USAGE, "the engine is serving a session already");
    struct session *s = calloc(1, sizeof *s);
    if (!s) return error_set(err, STATUS_NO_MEMORY, "no memory for a session");
    e->in_session = true;
    s->e = e;
    s->opts = *opts;
    s->device_sink = (struct op_sink){run_call, e->dev};
    s->forward = (struct forward){.m = &e->info.model,
                                  .ranks = e->ranks,
                                  .dtype = e->opts.dtype,
                                  .weights = e->weights,
                                  .buffers = &s->buffers,
                                  .comm = &comm_local};
    enum status status = engine_pattern(&e->info.model, &e->opts, &s->forward.pattern, err);
    if (status == STATUS_OK) status = check_kernel(s, err);
    if (status == STATUS_OK) status = allocate(s, err);
    if (status == STATUS_OK) status = write_constants(s, err);
    if (status == STATUS_OK) status = prepare_steps(s, err);
    if (status == STATUS_OK) status = warm_up(s, err);
    if (status == STATUS_OK) status = session_reset(s, err);
    if (status == STATUS_OK) status = capture_steps(s, err);
    if (status == STATUS_OK)
        *out = s;
    else
        session_close(s);
    return status;
}

void session_close(struct session *s) {
    if (!s) return;
    device_graph_close(s->e->dev, s->body_graph);
    device_graph_close(s->e->dev, s->decode_graph);
    device_spans_enable(s->e->dev, 0, NULL);
    buffers_close(&s->buffers);
    s->e->in_session = false;
    free(s->seen);
    free(s);
}

static void forget_taps(int32_t positions[TAP_ROWS]) {
    for (int i = 0; i < TAP_ROWS; i++) positions[i] = -1;
}

enum status session_reset(struct session *s, struct error *err) {
    const int32_t draw = 0;
    s->position = s->generated = 0;
    s->synthetic = false;
    memset(s->seen, 0, ((size_t)s->forward.m->V + 31) / 32 * sizeof *s->seen);
    forget_taps(s->tap_wanted);
    forget_taps(s->tapped);
    device_write(s->e->dev, s->buffers.sample.draw, &draw, sizeof draw);
    return device_sync(s->e->dev, err);
}

/* ---- steps */

/* DCA's f for a sequence of S tokens. */
static float length_factor(const struct session *s, int32_t S) {
    if (s->forward.pattern.chunk == 0) return 1;
    const double f = 0.1 * log((double)S / s->forward.m->dual_chunk_original_max) + 1;
    return f > 1 ? (float)f : 1;
}

static struct step_params params_of(const struct session *s, int32_t start, int32_t n, int32_t S) {
    struct step_params p = {.q_start = start,
                            .n_tokens = n,
                            .kv_len = start + n,
                            .prompt_tokens = S,
                            .key_factor = length_factor(s, S),
                            .query_factor = length_factor(s, S)};
    for (int i = 0; i < TAP_ROWS; i++) {
        const int32_t row = s->tapped[i] - start;
        p.tap_row[i] = s->tapped[i] >= start && row < n ? row : -1;
    }
    return p;
}

static void write_params(struct session *s, enum step_kind kind, const struct step_params *p) {
    device_write(s->e->dev, s->buffers.params[kind], p, sizeof *p);
}

static enum status run_step(struct session *s, struct device_graph *g, forward_function *walk,
                            const struct step *step, struct error *err) {
    return g ? device_graph_launch(s->e->dev, g, err)
             : walk(&s->forward, step, &s->device_sink, err);
}

/* Logits of the positions in [start, start + n) that were asked for. */
static enum status wanted_logits(struct session *s, int32_t start, int32_t n,
                                 const struct op_sink *sink, struct error *err) {
    enum status status = STATUS_OK;
    for (int32_t i = 0; status == STATUS_OK && i < s->opts.logits_at_count; i++) {
        const int32_t row = s->opts.logits_at[i] - start;
        if (row < 0 || row >= n) continue;
        status =
            forward_logits(&s->forward, chunk_row(s, s->buffers.y, row),
                           s->buffers.logits_at + (size_t)i * (size_t)s->forward.m->V, sink, err);
    }
    return status;
}

struct chunk {
    int32_t start, n;
    bool last;
    struct device_graph *graph; /* NULL: op by op */
    struct step_params params, finish_params;
};

static struct chunk next_chunk(const struct session *s, int32_t n) {
    const int32_t S = s->opts.prompt_tokens, start = s->position;
    return (struct chunk){.start = start,
                          .n = n,
                          .last = start + n == S,
                          .graph = n == s->opts.chunk_tokens ? s->body_graph : NULL,
                          .params = params_of(s, start, n, S),
                          .finish_params = params_of(s, start + n - 1, 1, S)};
}

static enum status issue_chunk(struct session *s, const struct chunk *c, const int32_t *tokens,
                               struct error *err) {
    const struct step body = body_step(s, c->n), finish = finish_step(s, c->n - 1);
    const size_t seen_bytes = ((size_t)s->forward.m->V + 31) / 32 * sizeof *s->seen;
    device_write(s->e->dev, s->buffers.ids, tokens, (size_t)c->n * sizeof *tokens);
    write_params(s, STEP_BODY, &c->params);
    enum status status = run_step(s, c->graph, forward_body, &body, err);
    if (status == STATUS_OK) status = wanted_logits(s, c->start, c->n, &s->device_sink, err);
    if (status != STATUS_OK || !c->last) return status;
    device_write(s->e->dev, s->buffers.sample.seen, s->seen, seen_bytes);
    write_params(s, STEP_FINISH, &c->finish_params);
    return forward_finish(&s->forward, &finish, &s->device_sink, err);
}

/* What the chunk executed, by walking it once more without running it. */
static void count_work(struct session *s, const struct chunk *c, struct chunk_result *out) {
    const struct step body = body_step(s, c->n), finish = finish_step(s, c->n - 1);
    struct cost_sum sum = {.step = &c->params};
    const struct op_sink sink = cost_sink(&sum);
    forward_body(&s->forward, &body, &sink, NULL);
    wanted_logits(s, c->start, c->n, &sink, NULL);
    sum.step = &c->finish_params;
    if (c->last) forward_finish(&s->forward, &finish, &sink, NULL);
    out->flops = sum.flops;
    out->bytes = sum.bytes;
}

static enum status check_failed(const struct session *s, struct error *err) {
    return s->failed ? error_set(err, STATUS_USAGE,
                                 "a step of this session failed; it is only good for closing")
                     : STATUS_OK;
}

static enum status check_tokens(const struct session *s, const int32_t *tokens, int32_t n,
                                struct error *err) {
    const int32_t left = s->opts.prompt_tokens - s->position, V = s->forward.m->V;
    if (n < 1 || n > s->opts.chunk_tokens || n > left)
        return error_set(err, STATUS_USAGE,
                         "a chunk of %d tokens: expected 1 to %d, and %d are left of the prompt", n,
                         s->opts.chunk_tokens, left);
    for (int32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return error_set(err, STATUS_USAGE,
                             "token %d of the prompt is %d: expected 0 to %d, the vocabulary of %s",
                             s->position + i, tokens[i], V - 1, s->forward.m->name);
    return STATUS_OK;
}

/* Those of the wanted rows that lie in the next n tokens. */
static void choose_taps(struct session *s, int32_t n) {
    for (int i = 0; i < TAP_ROWS; i++) {
        const int32_t wanted = s->tap_wanted[i];
        s->tapped[i] = wanted >= s->position && wanted - s->position < n ? wanted : -1;
    }
    forget_taps(s->tap_wanted);
}

enum status session_prefill(struct session *s, const int32_t *tokens, int32_t n,
                            struct chunk_result *out, struct error *err) {
    enum status status = check_failed(s, err);
    if (status == STATUS_OK) status = check_tokens(s, tokens, n, err);
    if (status != STATUS_OK) return status;
    for (int32_t i = 0; i < n; i++) s->seen[tokens[i] / 32] |= 1u << (tokens[i] % 32);
    choose_taps(s, n);
    const struct chunk c = next_chunk(s, n);

    const int64_t begin = now_ns();
    device_clock_begin(s->e->dev);
    status = issue_chunk(s, &c, tokens, err);
    device_clock_end(s->e->dev);
    const int64_t issued = now_ns();
    if (status == STATUS_OK) status = device_sync(s->e->dev, err);
    const int64_t end = now_ns();
    s->failed = status != STATUS_OK;
    if (s->failed) return status;

    s->position += n;
    *out = (struct chunk_result){.start_token = c.start,
                                 .n_tokens = n,
                                 .begin_ns = begin,
                                 .latency_ns = end - begin,
                                 .host_ns = issued - begin,
                                 .device_latency_ns = {device_clock_ns(s->e->dev)},
                                 .replayed = c.graph != NULL};
    count_work(s, &c, out);
    return STATUS_OK;
}

enum status session_skip_to(struct session *s, int32_t position, uint64_t seed, struct error *err) {
    enum status status = check_failed(s, err);
    if (status != STATUS_OK) return status;
    if (position < s->position || position >= s->opts.prompt_tokens)
        return error_set(err, STATUS_USAGE, "cannot skip from token %d to %d of %d", s->position,
                         position, s->opts.prompt_tokens);
    for (int rank = s->e->ranks.begin; rank < s->e->ranks.end; rank++) {
        const uint64_t head = (uint64_t)shard_of(s->forward.m, s->e->ranks.tp, rank).kv_begin;
        for (int layer = 0; layer < s->forward.m->layers; layer++) {
            const struct kv_view view = buffers_kv(&s->buffers, rank, layer);
            device_kv_fill(s->e->dev, &view, s->position, position,
                           seed + ((uint64_t)layer << 32) + (head << 48));
        }
    }
    s->synthetic = s->synthetic || position > s->position;
    s->position = position;
    return device_sync(s->e->dev, err);
}

enum status session_rewind(struct session *s, int32_t position, struct error *err) {
    enum status status = check_failed(s, err);
    if (status != STATUS_OK) return status;
    if (position < 0 || position > s->position)
        return error_set(err, STATUS_USAGE, "cannot go back from token %d to %d", s->position,
                         position);
    s->position = position;
    s->generated = 0;
    return STATUS_OK;
}

int32_t session_position(const struct session *s) {
    return s->position;
}

/* ---- tokens */

static enum status check_generate(const struct session *s, struct error *err) {
    if (s->synthetic)
        return error_set(err, STATUS_USAGE,
                         "parts of the prompt were skipped: there is no answer to generate");
    if (s->position < s->opts.prompt_tokens)
        return error_set(err, STATUS_USAGE, "%d of %d prompt tokens have been prefilled",
                         s->position, s->opts.prompt_tokens);
    if (s->generated >= s->opts.max_tokens)
        return error_set(err, STATUS_USAGE, "max_tokens = %d tokens have been generated",
                         s->opts.max_tokens);
    return check_failed(s, err);
}

/* The first token is sampled from the logits that the prompt left; later ones run the one before
 * through the model. */
static enum status issue_token(struct session *s, struct error *err) {
    if (s->generated == 0) return forward_sample(&s->forward, &s->device_sink, err);
    const struct step step = decode_step(s);
    const struct step_params p = params_of(s, s->position, 1, s->position + 1);
    write_params(s, STEP_DECODE, &p);
    return run_step(s, s->decode_graph, forward_decode, &step, err);
}

static bool is_eos(const struct model_config *m, int32_t id) {
    for (int32_t i = 0; i < m->eos_count; i++)
        if (m->eos[i] == id) return true;
    return false;
}

enum status session_generate(struct session *s, struct token_result *out, struct error *err) {
    enum status status = check_generate(s, err);
    if (status != STATUS_OK) return status;
    const int64_t begin = now_ns();
    status = issue_token(s, err);
    if (status == STATUS_OK) status = device_sync(s->e->dev, err);
    s->failed = status != STATUS_OK;
    if (s->failed) return status;
    device_read(s->e->dev, &out->id, s->buffers.sample.id, sizeof out->id);
    device_read(s->e->dev, &out->logprob, s->buffers.sample.logprob, sizeof out->logprob);
    out->latency_ns = now_ns() - begin;
    out->stop = is_eos(s->forward.m, out->id);
    if (s->generated > 0) s->position++;
    s->generated++;
    return STATUS_OK;
}

enum status session_logits(struct session *s, float *out, struct error *err) {
    if (s->position < s->opts.prompt_tokens)
        return error_set(err, STATUS_USAGE,
                         "no logits yet: %d of %d prompt tokens have been prefilled", s->position,
                         s->opts.prompt_tokens);
    device_read(s->e->dev, out, s->buffers.logits, matrix_bytes(1, s->forward.m->V, DTYPE_F32));
    return STATUS_OK;
}

enum status session_logits_at(struct session *s, int32_t i, float *out, struct error *err) {
    if (i < 0 || i >= s->opts.logits_at_count || s->opts.logits_at[i] >= s->position)
        return error_set(err, STATUS_USAGE,
                         "logits %d of %d that were asked for: not there at token %d", i,
                         s->opts.logits_at_count, s->position);
    const size_t bytes = matrix_bytes(1, s->forward.m->V, DTYPE_F32);
    device_read(s->e->dev, out, (const char *)s->buffers.logits_at + (size_t)i * bytes, bytes);
    return STATUS_OK;
}

/* ---- looking inside */

void session_graph_info(const struct session *s, struct graph_info *out) {
    const struct device_graph *const graphs[] = {s->body_graph, s->decode_graph};
    *out = (struct graph_info){0};
    for (int i = 0; i < 2; i++) {
        struct device_graph_info one;
        if (!graphs[i]) continue;
        device_graph_info(graphs[i], &one);
        out->graphs++;
        out->nodes += one.nodes;
        out->bytes += one.bytes;
        out->capture_ns += one.capture_ns;
        out->instantiate_ns += one.instantiate_ns;
        out->upload_ns += one.upload_ns;
    }
}

enum status session_tap(struct session *s, const int32_t *positions, int n, struct error *err) {
    if (!s->opts.taps || n < 0 || n > TAP_ROWS)
        return error_set(err, STATUS_USAGE,
                         "%d rows to tap: expected a session with taps and at "
                         "most %d",
                         n, TAP_ROWS);
    forget_taps(s->tap_wanted);
    for (int i = 0; i < n; i++) s->tap_wanted[i] = positions[i];
    return STATUS_OK;
}

/* D elements from device memory, widened in place: the narrow ones wait at the end of out. */
static void read_widened(struct session *s, const void *src, int32_t n, float *out) {
    const size_t bytes = matrix_bytes(1, n, s->forward.dtype);
    char *narrow = (char *)out + (size_t)n * sizeof *out - bytes;
    device_read(s->e->dev, narrow, src, bytes);
    if (s->forward.dtype == DTYPE_F32) return;
    for (int32_t i = 0; i < n; i++) {
        bf16 x;
        memcpy(&x, narrow + (size_t)i * sizeof x, sizeof x);
        out[i] = bf16_to_f32(x);
    }
}

/* Row of a layer's taps in [L][TAP_ROWS], or -1 where that position was not tapped. */
static int64_t tap_row(const struct session *s, int layer, int32_t position) {
    int slot = 0;
    while (slot < TAP_ROWS && s->tapped[slot] != position) slot++;
    const bool there = s->opts.taps && slot < TAP_ROWS && position >= 0 && position < s->position &&
                       layer >= 0 && layer < s->forward.m->layers;
    return there ? (int64_t)layer * TAP_ROWS + slot : -1;
}

enum status session_tap_read(struct session *s, int layer, int head, int32_t position, float *query,
                             float *output, struct error *err) {
    const struct model_config *m = s->forward.m;
    const bool exists = layer < m->layers - 1 || !s->prune || position == s->opts.prompt_tokens - 1;
    const int64_t tapped = tap_row(s, layer, position);
    if (tapped < 0 || head < 0 || head >= m->H || !exists)
        return error_set(err, STATUS_USAGE,
                         "layer %d, head %d, token %d was not tapped in the newest chunk", layer,
                         head, position);
    const int H = m->H / s->e->ranks.tp, rank = head / H;
    const size_t at = matrix_bytes(tapped * H + head % H, m->D, s->forward.dtype);
    read_widened(s, (const char *)s->buffers.tap_query[rank] + at, m->D, query);
    read_widened(s, (const char *)s->buffers.tap_output[rank] + at, m->D, output);
    return STATUS_OK;
}

/* Place of a global kv head among those of a rank, or -1. */
static int kv_head_of(const struct session *s, int rank, int kv_head) {
    const bool is_rank = rank >= 0 && rank < s->e->ranks.tp;
    const struct shard r = shard_of(s->forward.m, s->e->ranks.tp, is_rank ? rank : 0);
    return is_rank && kv_head >= r.kv_begin && kv_head < r.kv_begin + r.K ? kv_head - r.kv_begin
                                                                          : -1;
}

enum status session_tap_read_kv(struct session *s, int layer, int rank, int kv_head,
                                int32_t position, float *key, float *value, struct error *err) {
    const struct model_config *m = s->forward.m;
    const int64_t tapped = tap_row(s, layer, position);
    const int head = kv_head_of(s, rank, kv_head);
    if (tapped < 0 || head < 0)
        return error_set(err, STATUS_USAGE,
                         "layer %d, kv head %d, token %d was not tapped on rank %d in the newest "
                         "chunk",
                         layer, kv_head, position, rank);
    const int K = shard_of(m, s->e->ranks.tp, rank).K;
    const char *row = (const char *)s->buffers.tap_kv[rank] +
                      matrix_bytes(tapped * 2 * K, m->D, s->forward.dtype);
    read_widened(s, row + matrix_bytes(head, m->D, s->forward.dtype), m->D, key);
    read_widened(s, row + matrix_bytes(K + head, m->D, s->forward.dtype), m->D, value);
    return STATUS_OK;
}

enum status session_kv_read(struct session *s, int layer, int rank, int kv_head, int32_t begin,
                            int32_t n, float *k, float *v, struct error *err) {
    const int head = kv_head_of(s, rank, kv_head);
    if (layer < 0 || layer >= s->forward.m->layers || head < 0 || begin < 0 || n < 0 ||
        n > s->position - begin)
        return error_set(err, STATUS_USAGE,
                         "no keys and values of layer %d, kv head %d, tokens [%d, %d) on rank %d",
                         layer, kv_head, begin, begin + n, rank);
    const struct kv_view view = buffers_kv(&s->buffers, rank, layer);
    device_kv_read(s->e->dev, &view, head, begin, n, k, v);
    return STATUS_OK;
}

enum status session_spans_enable(struct session *s, int64_t capacity, struct error *err) {
    return device_spans_enable(s->e->dev, capacity, err);
}

const struct span *session_spans(struct session *s, int device, int64_t *n, int64_t *dropped) {
    (void)device; /* there is one */
    return device_spans(s->e->dev, n, dropped);
}

void session_spans_reset(struct session *s) {
    device_spans_reset(s->e->dev);
}
