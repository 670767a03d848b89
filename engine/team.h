/* The processes of an engine that hold one device each. Process 0 leads: its caller uses engine.h
 * as ever, and what that needs of the others it orders from them (follow.c obeys). Each makes the
 * same call on its own device and answers with what it came to and with what it knows of its
 * device. Decisions are so made once, and only process 0 has something to record.
 *
 * All functions do nothing, and say that all is well, where there is no team (NULL) or, but for
 * those that say so, in a process that follows: a session is driven by the same code in both. */
#ifndef ENGINE_TEAM_H
#define ENGINE_TEAM_H

#include "engine/engine.h"
#include "kernels/rendezvous.h"

enum order_kind {
    ORDER_LEAVE,
    ORDER_SESSION_OPEN, /* session; followed by logits_at */
    ORDER_SESSION_CLOSE,
    ORDER_RESET,
    ORDER_PREFILL, /* followed by tokens */
    ORDER_SKIP,    /* at: position; wide: seed */
    ORDER_REWIND,  /* at: position */
    ORDER_GENERATE,
    ORDER_TAP,          /* followed by positions */
    ORDER_TAP_READ,     /* layer, head, at; answered with query, output */
    ORDER_TAP_READ_KV,  /* layer, rank, head, at; answered with key, value */
    ORDER_KV_READ,      /* layer, rank, head, at, n; answered with keys, values */
    ORDER_SPANS_ENABLE, /* wide: capacity */
    ORDER_SPANS_RESET,
    ORDER_SPANS_READ, /* answered with spans */
    ORDER_SPANS_COUNT,
    ORDER_COUNTS_READ, /* answered with counts of spans, or nothing: none are counted */
    ORDER_TIMELINE,    /* answered with struct timeline_sizes, buffers, uses */
    ORDER_MEMORY,      /* n: whether the high-water mark is wanted, which takes longer */
    ORDER_RESET_HIGH_WATER,
    ORDER_PROFILE, /* n: on or off */
    ORDER_CHECK
};
struct timeline_sizes {
    int64_t n_buffers, n_uses, n_ops;
};
/* Which of two kinds of rows are wanted, in `wide` of the three orders for rows. */
enum { WANT_FIRST = 1, WANT_SECOND = 2 };
struct order {
    enum order_kind kind;
    int32_t layer, rank, head, at, n;
    int64_t wide;
    struct session_opts session; /* its pointer means nothing there */
    size_t bytes;                /* that follow */
};

/* What a process tells of its device in every answer. */
struct team_facts {
    struct memory_use use[MAX_RANKS + 1]; /* [rank + 1] */
    int64_t accounted_bytes, allocations;
    int64_t driver_bytes, driver_high_water; /* of ORDER_MEMORY */
    struct graph_info graphs;
    struct chunk_result chunk; /* the newest; latency of the device itself at its place */
    int64_t dropped_spans;
};
struct reply {
    enum status status;
    struct error err;
    struct team_facts facts;
    size_t bytes; /* that follow */
};

struct team;
/* Meets the others. Errors: those of rendezvous_open(). */
enum status team_open(struct team **out, const struct engine_processes *p, struct error *err);
/* Of process 0: has the others close their engines, too, and go. */
void team_dismiss(struct team *t);
void team_close(struct team *t); /* NULL is legal */
struct rendezvous *team_rendezvous(struct team *t); /* NULL: no team */
bool team_follows(const struct team *t);

/* By all at once, also by those that follow: the first failure, in order of the processes, is
 * everyone's, and names its process. The team goes on. */
enum status team_agree(struct team *t, enum status s, struct error *err);
/* Of any process: what it failed of, which nobody else knows, ends the team. Returns how the team
 * ended: the first such failure. */
enum status team_fail(struct team *t, enum status s, struct error *err);

/* Has all others do it. `payload`: o.bytes. */
void team_tell(struct team *t, struct order o, const void *payload);
/* Waits for what they came to, after team_tell(): s, this process's own end of it, or the first
 * failure of another; the facts are kept. */
enum status team_hear(struct team *t, enum status s, struct error *err);
/* Has one other do it, and takes what follows its answer: `size` bytes into `out`. */
enum status team_ask(struct team *t, int process, struct order o, void *out, size_t size,
                     struct error *err);
/* The same for an answer of any length: *out is the caller's to free. */
enum status team_ask_any(struct team *t, int process, struct order o, void **out, size_t *bytes,
                         struct error *err);
/* What a process told last. Of this process itself: nothing. */
const struct team_facts *team_facts(const struct team *t, int process);

/* Of those that follow: the next order, and what comes with it, valid until the next call. */
enum status team_next(struct team *t, struct order *o, const void **payload, struct error *err);
enum status team_answer(struct team *t, const struct reply *a, const void *payload,
                        struct error *err);

#endif
