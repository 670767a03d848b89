/* A process that follows: takes the orders of process 0 and does what they say with the same
 * functions that process 0's caller uses, on the one device that is its own. Before it: the worker
 * of the harness; after it: engine.c, session.c. */
#include "engine/engine_core.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct follower {
    struct engine *e;        /* borrowed */
    struct session *session; /* owned; NULL: none is open */
    struct reply reply;
    int32_t *logits_at; /* of the session; owned */
    void *payload;      /* of the answer; owned, or NULL */
    size_t payload_bytes;
    const void *out; /* what follows the answer: payload, or memory of others */
};

/* Room for an answer. */
static enum status make_room(struct follower *f, size_t bytes, struct error *err) {
    if (bytes > f->payload_bytes) {
        free(f->payload);
        f->payload = malloc(bytes);
        f->payload_bytes = f->payload ? bytes : 0;
    }
    f->out = f->payload, f->reply.bytes = bytes;
    return bytes <= f->payload_bytes
               ? STATUS_OK
               : error_set(err, STATUS_NO_MEMORY, "no memory for %zu bytes", bytes);
}

/* For what is wanted of two runs of rows. */
static enum status take_rows(struct follower *f, int64_t wanted, int64_t floats, float **a,
                             float **b, struct error *err) {
    const int64_t runs = (wanted & WANT_FIRST ? 1 : 0) + (wanted & WANT_SECOND ? 1 : 0);
    const enum status s = make_room(f, (size_t)(runs * floats) * sizeof **a, err);
    if (s != STATUS_OK) return s;
    if (wanted & WANT_FIRST) *a = f->payload;
    if (wanted & WANT_SECOND) *b = (float *)f->payload + (*a ? floats : 0);
    return STATUS_OK;
}

static enum status read_rows(struct follower *f, const struct order *o, struct error *err) {
    const int64_t D = f->e->info.model.D;
    float *a = NULL, *b = NULL;
    enum status s = take_rows(f, o->wide, o->kind == ORDER_KV_READ ? o->n * D : D, &a, &b, err);
    if (s != STATUS_OK) return s;
    if (o->kind == ORDER_TAP_READ)
        return session_tap_read(f->session, o->layer, o->head, o->at, a, b, err);
    if (o->kind == ORDER_TAP_READ_KV)
        return session_tap_read_kv(f->session, o->layer, o->rank, o->head, o->at, a, b, err);
    return session_kv_read(f->session, o->layer, o->rank, o->head, o->at, o->n, a, b, err);
}

/* The positions are borrowed as long as the session lives. */
static enum status open_session(struct follower *f, const struct order *o, const void *payload,
                                struct error *err) {
    struct session_opts so = o->session;
    session_close(f->session); /* which process 0 could not open */
    f->session = NULL;
    free(f->logits_at);
    f->logits_at = malloc(o->bytes + 1);
    if (!f->logits_at) {
        error_set(err, STATUS_NO_MEMORY, "no memory for %zu bytes", o->bytes);
        return team_fail(f->e->devices.team, STATUS_NO_MEMORY, err);
    }
    if (o->bytes > 0) memcpy(f->logits_at, payload, o->bytes);
    so.logits_at = f->logits_at;
    return session_open(&f->session, f->e, &so, err);
}

static enum status close_session(struct follower *f) {
    session_close(f->session);
    f->session = NULL;
    return STATUS_OK;
}

static enum status read_spans(struct follower *f) {
    int64_t n;
    f->out = session_spans(f->session, f->e->devices.first, &n, &f->reply.facts.dropped_spans);
    f->reply.bytes = (size_t)n * sizeof(struct span);
    return STATUS_OK;
}

static enum status read_counts(struct follower *f) {
    int64_t n, dropped;
    f->out = session_span_counts(f->session, f->e->devices.first);
    session_spans(f->session, f->e->devices.first, &n, &dropped);
    f->reply.bytes = f->out ? (size_t)n * sizeof(struct span_counts) : 0;
    return STATUS_OK;
}

static enum status read_timeline(struct follower *f, struct error *err) {
    struct memory_timeline t;
    enum status s = session_memory_timeline(f->session, f->e->devices.first, &t, err);
    if (s != STATUS_OK) return s;
    const struct timeline_sizes n = {t.n_buffers, t.n_uses, t.n_ops};
    const size_t buffers = (size_t)t.n_buffers * sizeof *t.buffers;
    const size_t uses = (size_t)t.n_uses * sizeof *t.uses;
    s = make_room(f, sizeof n + buffers + uses, err);
    if (s == STATUS_OK) {
        char *at = f->payload;
        memcpy(at, &n, sizeof n);
        if (buffers > 0) memcpy(at + sizeof n, t.buffers, buffers);
        if (uses > 0) memcpy(at + sizeof n + buffers, t.uses, uses);
    }
    memory_timeline_free(&t);
    return s;
}

static enum status look_at_memory(struct follower *f, bool high_water) {
    struct team_facts *facts = &f->reply.facts;
    engine_memory_driver(f->e, f->e->devices.first, &facts->driver_bytes,
                         high_water ? &facts->driver_high_water : NULL);
    return STATUS_OK;
}

static enum status obey(struct follower *f, const struct order *o, const void *payload,
                        struct error *err) {
    struct session *s = f->session;
    struct token_result token;
    switch (o->kind) {
    case ORDER_LEAVE: return STATUS_OK;
    case ORDER_SESSION_OPEN: return open_session(f, o, payload, err);
    case ORDER_MEMORY: return look_at_memory(f, o->n);
    case ORDER_RESET_HIGH_WATER: engine_memory_reset_high_water(f->e); return STATUS_OK;
    case ORDER_PROFILE: engine_profile(f->e, o->n); return STATUS_OK;
    case ORDER_CHECK: return engine_check(f->e, err);
    default: break;
    }
    if (!s) return error_set(err, STATUS_USAGE, "order %d without a session", (int)o->kind);
    switch (o->kind) {
    case ORDER_SESSION_CLOSE: return close_session(f);
    case ORDER_RESET: return session_reset(s, err);
    case ORDER_PREFILL:
        return session_prefill(s, payload, (int32_t)(o->bytes / sizeof(int32_t)),
                               &f->reply.facts.chunk, err);
    case ORDER_SKIP: return session_skip_to(s, o->at, (uint64_t)o->wide, err);
    case ORDER_REWIND: return session_rewind(s, o->at, err);
    case ORDER_GENERATE: return session_generate(s, &token, err);
    case ORDER_TAP: return session_tap(s, payload, (int)(o->bytes / sizeof(int32_t)), err);
    case ORDER_TAP_READ:
    case ORDER_TAP_READ_KV:
    case ORDER_KV_READ: return read_rows(f, o, err);
    case ORDER_SPANS_ENABLE: return session_spans_enable(s, o->wide, err);
    case ORDER_SPANS_RESET: session_spans_reset(s); return STATUS_OK;
    case ORDER_SPANS_READ: return read_spans(f);
    case ORDER_SPANS_COUNT: return session_spans_count(s, err);
    case ORDER_COUNTS_READ: return read_counts(f);
    case ORDER_TIMELINE: return read_timeline(f, err);
    default: return error_set(err, STATUS_USAGE, "order %d is unknown", (int)o->kind);
    }
}

/* What the other side asks for most, in every answer. */
static void tell_facts(struct follower *f) {
    struct team_facts *facts = &f->reply.facts;
    const struct devices *d = &f->e->devices;
    for (int rank = SHARED_RANK; rank < f->e->info.ranks; rank++) {
        const bool own = rank == SHARED_RANK || devices_has(d, f->e->info.rank_device[rank]);
        if (own) device_memory(d->dev[0], rank, &facts->use[rank + 1]);
    }
    facts->accounted_bytes = engine_memory_accounted(f->e, d->first);
    facts->allocations = device_allocations(d->dev[0]);
    facts->graphs = (struct graph_info){0};
    if (f->session) session_graph_info(f->session, &facts->graphs);
}

/* Those in which processes wait for each other, on GPUs in loops that take processor time. */
static bool is_step(enum order_kind kind) {
    return kind == ORDER_SESSION_OPEN || kind == ORDER_PREFILL || kind == ORDER_GENERATE;
}

static enum status follow(struct follower *f, struct error *err) {
    struct team *team = f->e->devices.team;
    struct reply *a = &f->reply;
    for (;;) {
        struct order o;
        const void *payload;
        enum status s = team_next(team, &o, &payload, err);
        if (s != STATUS_OK || o.kind == ORDER_LEAVE) return s;
        a->bytes = 0;
        a->err.text[0] = 0;
        atomic_store(&f->e->stepping, is_step(o.kind));
        a->status = obey(f, &o, payload, &a->err);
        atomic_store(&f->e->stepping, false);
        if (a->status != STATUS_OK) a->bytes = 0;
        tell_facts(f);
        s = team_answer(team, a, f->out, err);
        if (s != STATUS_OK) return s;
    }
}

enum status engine_follow(struct engine *e, struct error *err) {
    assert(team_follows(e->devices.team) && "process 0 leads");
    struct follower *f = calloc(1, sizeof *f);
    if (!f) {
        error_set(err, STATUS_NO_MEMORY, "no memory to follow");
        return team_fail(e->devices.team, STATUS_NO_MEMORY, err);
    }
    f->e = e;
    const enum status s = follow(f, err);
    session_close(f->session);
    free(f->logits_at);
    free(f->payload);
    free(f);
    return s;
}
