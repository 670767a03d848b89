/* One sequence on an engine: its position, what has been seen and asked for, and a part on every
 * device that takes its steps (part.c). Where devices are those of several processes, each has such
 * a session with the parts of its own; process 0 has the others do what it does (team.h). Before
 * it: the harness, or follow.c. */
#include "engine/live.h"
#include "engine/part.h"
#include "kernels/bf16.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct session {
    struct engine *e; /* borrowed */
    struct session_opts opts;
    const struct model_config *m;      /* borrowed */
    struct part part[MAX_RANKS];       /* of each device of this process, owned */
    struct span_counts *others_counts; /* the same of their counts */
    struct span *others_spans; /* of a device of another process, when they were asked for last;
                                  owned */
    uint32_t *seen;            /* bit set of [V]: the prompt so far; owned */
    int32_t position, generated;
    bool prune;
    bool synthetic;                                 /* the cache holds values that no token gave */
    bool failed;                                    /* only good for closing */
    struct chunk newest;                            /* without its tokens; n = 0: none yet */
    int32_t tap_wanted[TAP_ROWS], tapped[TAP_ROWS]; /* positions, or -1 */
};

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

/* Blocks of a chunk whose sums are under way at once. */
static int blocks_at_once(const struct engine_opts *eo, struct ranks ranks, int32_t rows) {
    const bool wanted = eo->exchange_overlap == OVERLAP_AUTO ? eo->device == DEVICE_CUDA
                                                             : eo->exchange_overlap == OVERLAP_ON;
    return wanted && ranks_devices(ranks) > 1 && rows > eo->block_rows ? ASIDES : 1;
}

enum status session_sizes(const struct model_config *m, const struct engine_opts *eo,
                          const struct session_opts *so, struct ranks ranks,
                          const struct kv_layout *kv_layout, struct buffer_sizes *out,
                          struct error *err) {
    struct attention_pattern pattern;
    enum status s = check_session_opts(so, err);
    if (s == STATUS_OK) s = engine_pattern(m, eo, &pattern, err);
    if (s != STATUS_OK) return s;
    const int32_t tokens = so->prompt_tokens + so->max_tokens;
    const int32_t rows =
        so->chunk_tokens < so->prompt_tokens ? so->chunk_tokens : so->prompt_tokens;
    *out = (struct buffer_sizes){.m = m,
                                 .ranks = ranks,
                                 .dtype = eo->dtype,
                                 .copies = pattern.chunk > 0 ? Q_COPIES : 1,
                                 .rows = rows,
                                 .block_rows = eo->block_rows < rows ? eo->block_rows : rows,
                                 .blocks = blocks_at_once(eo, ranks, rows),
                                 .capacity = (tokens + KV_TILE - 1) / KV_TILE * KV_TILE,
                                 .logits_at_count = so->logits_at_count,
                                 .taps = so->taps,
                                 .kv_layout = kv_layout};
    return STATUS_OK;
}

/* ---- other processes */

static void tell(const struct session *s, struct order o, const void *payload) {
    team_tell(s->e->devices.team, o, payload);
}

static enum status hear(const struct session *s, enum status mine, struct error *err) {
    return team_hear(s->e->devices.team, mine, err);
}

/* ---- opening */

struct session_job {
    struct session *s;
    const struct chunk *chunk;       /* of a prefill */
    const struct step_params *token; /* of a decode step, or NULL */
    int32_t begin, end;              /* of a skip */
    uint64_t seed;
};

static enum status open_part(void *ctx, int i, struct error *err) {
    struct session *s = ((struct session_job *)ctx)->s;
    return part_open(&s->part[i], s->e, i, &s->opts, err);
}

static enum status get_part_ready(void *ctx, int i, struct error *err) {
    return part_get_ready(&((struct session_job *)ctx)->s->part[i], err);
}

static enum status open_parts(struct session *s, struct error *err) {
    struct session_job job = {.s = s};
    enum status status = devices_each(&s->e->devices, open_part, &job, err);
    status = team_agree(s->e->devices.team, status, err);
    if (status == STATUS_OK) status = devices_together(&s->e->devices, get_part_ready, &job, err);
    return status;
}

static void forget_taps(int32_t positions[TAP_ROWS]) {
    for (int i = 0; i < TAP_ROWS; i++) positions[i] = -1;
}

static enum status reset_part(void *ctx, int i, struct error *err) {
    return part_reset(&((struct session_job *)ctx)->s->part[i], err);
}

static enum status reset_here(struct session *s, struct error *err) {
    s->position = s->generated = 0;
    s->synthetic = false;
    s->newest.n = 0;
    memset(s->seen, 0, ((size_t)s->m->V + 31) / 32 * sizeof *s->seen);
    forget_taps(s->tap_wanted);
    forget_taps(s->tapped);
    return devices_each(&s->e->devices, reset_part, &(struct session_job){.s = s}, err);
}

enum status session_reset(struct session *s, struct error *err) {
    tell(s, (struct order){.kind = ORDER_RESET}, NULL);
    return hear(s, reset_here(s, err), err);
}

static enum status open_here(struct session *s, struct engine *e, const struct session_opts *opts,
                             struct error *err) {
    e->in_session = true;
    s->e = e;
    s->m = &e->info.model;
    s->opts = *opts;
    if (s->opts.chunk_tokens > opts->prompt_tokens) s->opts.chunk_tokens = opts->prompt_tokens;
    s->prune = session_prunes(&e->opts, &s->opts);
    s->seen = calloc(((size_t)s->m->V + 31) / 32, sizeof *s->seen);
    if (!s->seen) {
        error_set(err, STATUS_NO_MEMORY, "no memory for a set of tokens");
        return team_fail(e->devices.team, STATUS_NO_MEMORY, err);
    }
    const enum status status = open_parts(s, err);
    return status == STATUS_OK ? reset_here(s, err) : status;
}

static void close_here(struct session *s);

enum status session_open(struct session **out, struct engine *e, const struct session_opts *opts,
                         struct error *err) {
    *out = NULL;
    if (e->in_session)
        return error_set(err, STATUS_USAGE, "the engine is serving a session already");
    enum status status = check_session_opts(opts, err);
    if (status != STATUS_OK) return status;
    struct session *s = calloc(1, sizeof *s);
    if (!s) return error_set(err, STATUS_NO_MEMORY, "no memory for a session");
    const struct order o = {
        .kind = ORDER_SESSION_OPEN,
        .session = *opts,
        .bytes = opts->logits_at ? (size_t)opts->logits_at_count * sizeof *opts->logits_at : 0};
    team_tell(e->devices.team, o, opts->logits_at);
    status = team_hear(e->devices.team, open_here(s, e, opts, err), err);
    if (status == STATUS_OK)
        *out = s;
    else
        close_here(s); /* so do the others, if they could open theirs */
    return status;
}

static enum status close_part(void *ctx, int i, struct error *err) {
    (void)err;
    part_close(&((struct session_job *)ctx)->s->part[i]);
    return STATUS_OK;
}

static void close_here(struct session *s) {
    devices_each(&s->e->devices, close_part, &(struct session_job){.s = s}, NULL);
    s->e->in_session = false;
    free(s->others_spans);
    free(s->others_counts);
    free(s->seen);
    free(s);
}

void session_close(struct session *s) {
    if (!s) return;
    struct team *team = s->e->devices.team;
    team_tell(team, (struct order){.kind = ORDER_SESSION_CLOSE}, NULL);
    close_here(s);
    team_hear(team, STATUS_OK, NULL);
}

/* ---- steps */

/* DCA's f for a sequence of S tokens. */
static float length_factor(const struct session *s, int32_t S) {
    if (s->part[0].forward.pattern.chunk == 0) return 1;
    const double f = 0.1 * log((double)S / s->m->dual_chunk_original_max) + 1;
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

static struct chunk next_chunk(const struct session *s, const int32_t *tokens, int32_t n) {
    const int32_t S = s->opts.prompt_tokens, start = s->position;
    return (struct chunk){.start = start,
                          .n = n,
                          .last = start + n == S,
                          .tokens = tokens,
                          .seen = s->seen,
                          .params = params_of(s, start, n, S),
                          .finish_params = params_of(s, start + n - 1, 1, S)};
}

static enum status check_failed(const struct session *s, struct error *err) {
    return s->failed ? error_set(err, STATUS_USAGE,
                                 "a step of this session failed; it is only good for closing")
                     : STATUS_OK;
}

static enum status check_tokens(const struct session *s, const int32_t *tokens, int32_t n,
                                struct error *err) {
    const int32_t left = s->opts.prompt_tokens - s->position, V = s->m->V;
    if (n < 1 || n > s->opts.chunk_tokens || n > left)
        return error_set(err, STATUS_USAGE,
                         "a chunk of %d tokens: expected 1 to %d, and %d are left of the prompt", n,
                         s->opts.chunk_tokens, left);
    for (int32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return error_set(err, STATUS_USAGE,
                             "token %d of the prompt is %d: expected 0 to %d, the vocabulary of %s",
                             s->position + i, tokens[i], V - 1, s->m->name);
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

static enum status prefill_part(void *ctx, int i, struct error *err) {
    const struct session_job *job = ctx;
    return part_prefill(&job->s->part[i], job->chunk, err);
}

/* What another process says of its device. */
static void add_others(struct chunk_result *out, const struct chunk_result *theirs, int device) {
    if (theirs->host_ns > out->host_ns) out->host_ns = theirs->host_ns;
    out->device_latency_ns[device] = theirs->device_latency_ns[device];
    out->flops += theirs->flops;
    out->bytes += theirs->bytes;
}

enum status session_prefill(struct session *s, const int32_t *tokens, int32_t n,
                            struct chunk_result *out, struct error *err) {
    enum status status = check_failed(s, err);
    if (status == STATUS_OK) status = check_tokens(s, tokens, n, err);
    if (status != STATUS_OK) return status;
    for (int32_t i = 0; i < n; i++) s->seen[tokens[i] / 32] |= 1u << (tokens[i] % 32);
    choose_taps(s, n);
    const struct chunk c = next_chunk(s, tokens, n);
    struct session_job job = {.s = s, .chunk = &c};
    const int64_t begin = now_ns();
    tell(s, (struct order){.kind = ORDER_PREFILL, .bytes = (size_t)n * sizeof *tokens}, tokens);
    status = hear(s, devices_together(&s->e->devices, prefill_part, &job, err), err);
    const int64_t end = now_ns();
    s->failed = status != STATUS_OK;
    if (s->failed) return status;
    s->position += n;
    s->newest = c;
    s->newest.tokens = NULL;
    *out = (struct chunk_result){.start_token = c.start,
                                 .n_tokens = n,
                                 .begin_ns = begin,
                                 .latency_ns = end - begin,
                                 .replayed = part_replays(&s->part[0], &c)};
    const struct devices *d = &s->e->devices;
    for (int i = 0; i < d->n; i++) {
        const int64_t host_ns = s->part[i].issued_ns - begin;
        if (host_ns > out->host_ns) out->host_ns = host_ns;
        out->device_latency_ns[d->first + i] =
            device_mark_ns(s->part[i].dev, MARK_CHUNK_BEGIN, MARK_CHUNK_END);
        part_count(&s->part[i], &c, &out->flops, &out->bytes);
    }
    for (int i = 0; i < d->total && !team_follows(d->team); i++)
        if (!devices_has(d, i)) add_others(out, &team_facts(d->team, i)->chunk, i);
    return STATUS_OK;
}

static enum status skip_part(void *ctx, int i, struct error *err) {
    const struct session_job *job = ctx;
    return part_skip(&job->s->part[i], job->begin, job->end, job->seed, err);
}

enum status session_skip_to(struct session *s, int32_t position, uint64_t seed, struct error *err) {
    enum status status = check_failed(s, err);
    if (status != STATUS_OK) return status;
    if (position < s->position || position >= s->opts.prompt_tokens)
        return error_set(err, STATUS_USAGE, "cannot skip from token %d to %d of %d", s->position,
                         position, s->opts.prompt_tokens);
    struct session_job job = {.s = s, .begin = s->position, .end = position, .seed = seed};
    s->synthetic = s->synthetic || position > s->position;
    s->position = position;
    tell(s, (struct order){.kind = ORDER_SKIP, .at = position, .wide = (int64_t)seed}, NULL);
    return hear(s, devices_each(&s->e->devices, skip_part, &job, err), err);
}

enum status session_rewind(struct session *s, int32_t position, struct error *err) {
    enum status status = check_failed(s, err);
    if (status != STATUS_OK) return status;
    if (position < 0 || position > s->position)
        return error_set(err, STATUS_USAGE, "cannot go back from token %d to %d", s->position,
                         position);
    s->position = position;
    s->generated = 0;
    tell(s, (struct order){.kind = ORDER_REWIND, .at = position}, NULL);
    return hear(s, STATUS_OK, err);
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

static enum status generate_part(void *ctx, int i, struct error *err) {
    const struct session_job *job = ctx;
    return part_generate(&job->s->part[i], job->token, err);
}

static bool is_eos(const struct model_config *m, int32_t id) {
    for (int32_t i = 0; i < m->eos_count; i++)
        if (m->eos[i] == id) return true;
    return false;
}

enum status session_generate(struct session *s, struct token_result *out, struct error *err) {
    enum status status = check_generate(s, err);
    if (status != STATUS_OK) return status;
    const struct step_params step = params_of(s, s->position, 1, s->position + 1);
    struct session_job job = {.s = s, .token = s->generated > 0 ? &step : NULL};
    const int64_t begin = now_ns();
    tell(s, (struct order){.kind = ORDER_GENERATE}, NULL);
    status = hear(s, devices_together(&s->e->devices, generate_part, &job, err), err);
    s->failed = status != STATUS_OK;
    if (s->failed) return status;
    /* every device sampled the same token from the same logits */
    const struct part *first = &s->part[0];
    device_read(first->dev, &out->id, first->buffers.sample.id, sizeof out->id);
    device_read(first->dev, &out->logprob, first->buffers.sample.logprob, sizeof out->logprob);
    out->latency_ns = now_ns() - begin;
    out->stop = is_eos(s->m, out->id);
    if (s->generated > 0) s->position++;
    s->generated++;
    return STATUS_OK;
}

enum status session_logits(struct session *s, float *out, struct error *err) {
    if (s->position < s->opts.prompt_tokens)
        return error_set(err, STATUS_USAGE,
                         "no logits yet: %d of %d prompt tokens have been prefilled", s->position,
                         s->opts.prompt_tokens);
    device_read(s->part[0].dev, out, s->part[0].buffers.logits,
                matrix_bytes(1, s->m->V, DTYPE_F32));
    return STATUS_OK;
}

enum status session_logits_at(struct session *s, int32_t i, float *out, struct error *err) {
    if (i < 0 || i >= s->opts.logits_at_count || s->opts.logits_at[i] >= s->position)
        return error_set(err, STATUS_USAGE,
                         "logits %d of %d that were asked for: not there at token %d", i,
                         s->opts.logits_at_count, s->position);
    const size_t bytes = matrix_bytes(1, s->m->V, DTYPE_F32);
    device_read(s->part[0].dev, out, (const char *)s->part[0].buffers.logits_at + (size_t)i * bytes,
                bytes);
    return STATUS_OK;
}

/* ---- looking inside */

static void add_graph(struct graph_info *sum, const struct device_graph *g) {
    struct device_graph_info one;
    if (!g) return;
    device_graph_info(g, &one);
    sum->graphs++;
    sum->nodes += one.nodes;
    sum->bytes += one.bytes;
    sum->capture_ns += one.capture_ns;
    sum->instantiate_ns += one.instantiate_ns;
    sum->upload_ns += one.upload_ns;
}

bool session_overlaps(const struct session *s) {
    return s->part[0].buffers.blocks > 1;
}

void session_graph_info(const struct session *s, struct graph_info *out) {
    *out = (struct graph_info){0};
    for (int i = 0; i < s->e->devices.n; i++) {
        const int64_t before = out->nodes;
        add_graph(out, s->part[i].body_graph);
        out->chunk_nodes += out->nodes - before;
        add_graph(out, s->part[i].decode_graph);
    }
    const struct devices *d = &s->e->devices;
    for (int i = 0; i < d->total && !team_follows(d->team); i++) {
        if (devices_has(d, i)) continue;
        const struct graph_info *theirs = &team_facts(d->team, i)->graphs;
        out->graphs += theirs->graphs;
        out->nodes += theirs->nodes;
        out->chunk_nodes += theirs->chunk_nodes;
        out->bytes += theirs->bytes;
        out->capture_ns += theirs->capture_ns;
        out->instantiate_ns += theirs->instantiate_ns;
        out->upload_ns += theirs->upload_ns;
    }
}

/* The part that holds a rank; NULL: another process's does. */
static const struct part *part_of(const struct session *s, int rank) {
    const struct devices *d = &s->e->devices;
    const int device = s->e->info.rank_device[rank];
    return devices_has(d, device) ? &s->part[device - d->first] : NULL;
}

/* What the process that holds a rank answers: so many floats for each of a and b that is wanted. */
static enum status ask_rows(const struct session *s, int rank, struct order o, int64_t floats,
                            float *a, float *b, struct error *err) {
    const size_t bytes = (size_t)floats * sizeof *a;
    const size_t size = (a ? bytes : 0) + (b ? bytes : 0);
    float *rows = malloc(size + 1);
    if (!rows) return error_set(err, STATUS_NO_MEMORY, "no memory for rows of another process");
    o.wide = (a ? WANT_FIRST : 0) | (b ? WANT_SECOND : 0);
    const enum status status =
        team_ask(s->e->devices.team, s->e->info.rank_device[rank], o, rows, size, err);
    if (status == STATUS_OK && a) memcpy(a, rows, bytes);
    if (status == STATUS_OK && b) memcpy(b, rows + (a ? floats : 0), bytes);
    free(rows);
    return status;
}

enum status session_tap(struct session *s, const int32_t *positions, int n, struct error *err) {
    if (!s->opts.taps || n < 0 || n > TAP_ROWS)
        return error_set(err, STATUS_USAGE,
                         "%d rows to tap: expected a session with taps and at "
                         "most %d",
                         n, TAP_ROWS);
    forget_taps(s->tap_wanted);
    for (int i = 0; i < n; i++) s->tap_wanted[i] = positions[i];
    tell(s, (struct order){.kind = ORDER_TAP, .bytes = (size_t)n * sizeof *positions}, positions);
    return hear(s, STATUS_OK, err);
}

/* D elements from device memory, widened in place: the narrow ones wait at the end of out. */
static void read_widened(const struct part *p, const void *src, int32_t n, float *out) {
    const enum dtype dtype = p->forward.dtype;
    const size_t bytes = matrix_bytes(1, n, dtype);
    char *narrow = (char *)out + (size_t)n * sizeof *out - bytes;
    device_read(p->dev, narrow, src, bytes);
    if (dtype == DTYPE_F32) return;
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
                       layer >= 0 && layer < s->m->layers;
    return there ? (int64_t)layer * TAP_ROWS + slot : -1;
}

enum status session_tap_read(struct session *s, int layer, int head, int32_t position, float *query,
                             float *output, struct error *err) {
    const struct model_config *m = s->m;
    const bool exists = layer < m->layers - 1 || !s->prune || position == s->opts.prompt_tokens - 1;
    const int64_t tapped = tap_row(s, layer, position);
    if (tapped < 0 || head < 0 || head >= m->H || !exists)
        return error_set(err, STATUS_USAGE,
                         "layer %d, head %d, token %d was not tapped in the newest chunk", layer,
                         head, position);
    const int H = m->H / s->e->info.ranks, rank = head / H;
    const struct part *p = part_of(s, rank);
    if (!p)
        return ask_rows(
            s, rank,
            (struct order){.kind = ORDER_TAP_READ, .layer = layer, .head = head, .at = position},
            m->D, query, output, err);
    const size_t at = matrix_bytes(tapped * H + head % H, m->D, p->forward.dtype);
    read_widened(p, (const char *)p->buffers.tap_query[rank] + at, m->D, query);
    read_widened(p, (const char *)p->buffers.tap_output[rank] + at, m->D, output);
    return STATUS_OK;
}

/* Place of a global kv head among those of a rank, or -1. */
static int kv_head_of(const struct session *s, int rank, int kv_head) {
    const bool is_rank = rank >= 0 && rank < s->e->info.ranks;
    const struct shard r = shard_of(s->m, s->e->info.ranks, is_rank ? rank : 0);
    return is_rank && kv_head >= r.kv_begin && kv_head < r.kv_begin + r.K ? kv_head - r.kv_begin
                                                                          : -1;
}

enum status session_tap_read_kv(struct session *s, int layer, int rank, int kv_head,
                                int32_t position, float *key, float *value, struct error *err) {
    const struct model_config *m = s->m;
    const int64_t tapped = tap_row(s, layer, position);
    const int head = kv_head_of(s, rank, kv_head);
    if (tapped < 0 || head < 0)
        return error_set(err, STATUS_USAGE,
                         "layer %d, kv head %d, token %d was not tapped on rank %d in the newest "
                         "chunk",
                         layer, kv_head, position, rank);
    const int K = shard_of(m, s->e->info.ranks, rank).K;
    const struct part *p = part_of(s, rank);
    if (!p)
        return ask_rows(s, rank,
                        (struct order){.kind = ORDER_TAP_READ_KV,
                                       .layer = layer,
                                       .rank = rank,
                                       .head = kv_head,
                                       .at = position},
                        m->D, key, value, err);
    const char *row = (const char *)p->buffers.tap_kv[rank] +
                      matrix_bytes(tapped * 2 * K, m->D, p->forward.dtype);
    read_widened(p, row + matrix_bytes(head, m->D, p->forward.dtype), m->D, key);
    read_widened(p, row + matrix_bytes(K + head, m->D, p->forward.dtype), m->D, value);
    return STATUS_OK;
}

enum status session_kv_read(struct session *s, int layer, int rank, int kv_head, int32_t begin,
                            int32_t n, float *k, float *v, struct error *err) {
    const int head = kv_head_of(s, rank, kv_head);
    if (layer < 0 || layer >= s->m->layers || head < 0 || begin < 0 || n < 0 ||
        n > s->position - begin)
        return error_set(err, STATUS_USAGE,
                         "no keys and values of layer %d, kv head %d, tokens [%d, %d) on rank %d",
                         layer, kv_head, begin, begin + n, rank);
    const struct part *p = part_of(s, rank);
    if (!p)
        return ask_rows(s, rank,
                        (struct order){.kind = ORDER_KV_READ,
                                       .layer = layer,
                                       .rank = rank,
                                       .head = kv_head,
                                       .at = begin,
                                       .n = n},
                        (int64_t)n * s->m->D, k, v, err);
    const struct kv_view view = buffers_kv(&p->buffers, rank, layer);
    device_kv_read(p->dev, &view, head, begin, n, k, v);
    return STATUS_OK;
}

struct spans_job {
    struct session *s;
    int64_t capacity;
};

static enum status enable_spans(void *ctx, int i, struct error *err) {
    const struct spans_job *job = ctx;
    return device_spans_enable(job->s->part[i].dev, job->capacity, err);
}

enum status session_spans_enable(struct session *s, int64_t capacity, struct error *err) {
    struct spans_job job = {s, capacity};
    tell(s, (struct order){.kind = ORDER_SPANS_ENABLE, .wide = capacity}, NULL);
    return hear(s, devices_each(&s->e->devices, enable_spans, &job, err), err);
}

static const struct span *ask_spans(struct session *s, int device, int64_t *n, int64_t *dropped) {
    struct team *team = s->e->devices.team;
    void *spans;
    size_t bytes;
    free(s->others_spans);
    team_ask_any(team, device, (struct order){.kind = ORDER_SPANS_READ}, &spans, &bytes, NULL);
    s->others_spans = spans;
    *n = (int64_t)(bytes / sizeof *s->others_spans);
    *dropped = team_facts(team, device)->dropped_spans;
    return s->others_spans;
}

const struct span *session_spans(struct session *s, int device, int64_t *n, int64_t *dropped) {
    const struct devices *d = &s->e->devices;
    if (!devices_has(d, device)) return ask_spans(s, device, n, dropped);
    return device_spans(s->part[device - d->first].dev, n, dropped);
}

static enum status reset_spans(void *ctx, int i, struct error *err) {
    (void)err;
    device_spans_reset(((const struct spans_job *)ctx)->s->part[i].dev);
    return STATUS_OK;
}

void session_spans_reset(struct session *s) {
    tell(s, (struct order){.kind = ORDER_SPANS_RESET}, NULL);
    devices_each(&s->e->devices, reset_spans, &(struct spans_job){.s = s}, NULL);
    hear(s, STATUS_OK, NULL);
}

static enum status count_spans(void *ctx, int i, struct error *err) {
    return device_spans_count(((const struct spans_job *)ctx)->s->part[i].dev, NULL, err);
}

enum status session_spans_count(struct session *s, struct error *err) {
    tell(s, (struct order){.kind = ORDER_SPANS_COUNT}, NULL);
    return hear(s, devices_each(&s->e->devices, count_spans, &(struct spans_job){.s = s}, err),
                err);
}

static const struct span_counts *ask_counts(struct session *s, int device) {
    const struct order o = {.kind = ORDER_COUNTS_READ};
    void *counts;
    size_t bytes;
    free(s->others_counts);
    team_ask_any(s->e->devices.team, device, o, &counts, &bytes, NULL);
    s->others_counts = counts;
    return bytes > 0 ? s->others_counts : NULL;
}

const struct span_counts *session_span_counts(struct session *s, int device) {
    const struct devices *d = &s->e->devices;
    if (!devices_has(d, device)) return ask_counts(s, device);
    return device_span_counts(s->part[device - d->first].dev);
}

static enum status ask_timeline(struct session *s, int device, struct memory_timeline *out,
                                struct error *err) {
    void *all;
    size_t bytes;
    struct timeline_sizes n;
    const struct order o = {.kind = ORDER_TIMELINE};
    const enum status status = team_ask_any(s->e->devices.team, device, o, &all, &bytes, err);
    if (status != STATUS_OK) return status;
    memcpy(&n, all, sizeof n);
    const size_t buffers = (size_t)n.n_buffers * sizeof *out->buffers;
    const size_t uses = (size_t)n.n_uses * sizeof *out->uses;
    *out = (struct memory_timeline){malloc(buffers + 1), (int)n.n_buffers, malloc(uses + 1),
                                    n.n_uses, n.n_ops};
    const bool room = out->buffers && out->uses;
    if (room) {
        memcpy(out->buffers, (const char *)all + sizeof n, buffers);
        memcpy(out->uses, (const char *)all + sizeof n + buffers, uses);
    } else {
        memory_timeline_free(out);
    }
    free(all);
    return room ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "no memory for a timeline");
}

enum status session_memory_timeline(struct session *s, int device, struct memory_timeline *out,
                                    struct error *err) {
    const struct devices *d = &s->e->devices;
    *out = (struct memory_timeline){0};
    if (s->newest.n == 0) return error_set(err, STATUS_USAGE, "no chunk has been prefilled yet");
    if (!devices_has(d, device)) return ask_timeline(s, device, out, err);
    return live_find(out, &s->part[device - d->first], &s->newest, err);
}
