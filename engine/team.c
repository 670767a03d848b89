/* Orders and answers over a rendezvous. See team.h. */
#include "engine/team.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct team {
    struct rendezvous *meeting; /* owned */
    int self, n;
    enum status told; /* whether the newest order could be sent */
    struct team_facts facts[MAX_RANKS];
    void *payload; /* of the newest order; owned */
    size_t payload_bytes;
};

enum status team_open(struct team **out, const struct engine_processes *p, struct error *err) {
    const struct rendezvous_opts o = {.name = p->name,
                                      .process = p->process,
                                      .processes = p->processes,
                                      .patience_s = p->patience_s};
    struct team *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return error_set(err, STATUS_NO_MEMORY, "no memory for a team of processes");
    t->self = p->process, t->n = p->processes;
    const enum status s = rendezvous_open(&t->meeting, &o, err);
    if (s == STATUS_OK)
        *out = t;
    else
        team_close(t);
    return s;
}

void team_dismiss(struct team *t) {
    team_tell(t, (struct order){.kind = ORDER_LEAVE}, NULL);
}

void team_close(struct team *t) {
    if (!t) return;
    rendezvous_close(t->meeting);
    free(t->payload);
    free(t);
}

struct rendezvous *team_rendezvous(struct team *t) {
    return t ? t->meeting : NULL;
}

bool team_follows(const struct team *t) {
    return t && t->self > 0;
}

static bool leads(const struct team *t) {
    return t && t->self == 0;
}

/* ---- one end for all */

/* What is wrong with the call is wrong with all of them; what they have agreed on has a name. */
static enum status of_process(const struct team *t, int process, enum status s, struct error *err) {
    static const char named[] = "process ";
    const bool of_one = s == STATUS_NO_MEMORY || s == STATUS_RUN_FAILED || s == STATUS_DEVICE;
    if (!of_one || !err || strncmp(err->text, named, sizeof named - 1) == 0) return s;
    return error_prefix(err, s, "process %d of %d", process, t->n);
}

struct verdict {
    enum status status;
    struct error err;
};

enum status team_agree(struct team *t, enum status s, struct error *err) {
    struct verdict mine = {.status = s}, all[MAX_RANKS];
    if (!t) return s;
    if (s != STATUS_OK && err) mine.err = *err;
    const enum status met = rendezvous_gather(t->meeting, &mine, sizeof mine, all, err);
    if (met != STATUS_OK) return met;
    for (int i = 0; i < t->n; i++) {
        if (all[i].status == STATUS_OK) continue;
        error_set(err, all[i].status, "%s", all[i].err.text);
        return of_process(t, i, all[i].status, err);
    }
    return STATUS_OK;
}

enum status team_fail(struct team *t, enum status s, struct error *err) {
    struct error why = {"failed"};
    if (!t) return s;
    if (err) why = *err;
    of_process(t, t->self, s, &why);
    rendezvous_end(t->meeting, s, &why);
    return rendezvous_status(t->meeting, err);
}

/* ---- process 0 */

static enum status send_order(struct team *t, int process, const struct order *o,
                              const void *payload) {
    enum status s = rendezvous_send(t->meeting, process, o, sizeof *o, NULL);
    return s == STATUS_OK ? rendezvous_send(t->meeting, process, payload, o->bytes, NULL) : s;
}

/* A failure to send is one to hear. */
void team_tell(struct team *t, struct order o, const void *payload) {
    if (!leads(t)) return;
    t->told = STATUS_OK;
    for (int i = 1; i < t->n && t->told == STATUS_OK; i++) t->told = send_order(t, i, &o, payload);
}

static enum status receive_answer(struct team *t, int process, struct reply *a, struct error *err) {
    const enum status s = rendezvous_receive(t->meeting, process, a, sizeof *a, err);
    if (s == STATUS_OK) t->facts[process] = a->facts;
    return s;
}

enum status team_hear(struct team *t, enum status s, struct error *err) {
    if (!leads(t)) return s;
    if (s != STATUS_OK) of_process(t, 0, s, err);
    for (int i = 1; i < t->n; i++) {
        struct reply a;
        const enum status heard = receive_answer(t, i, &a, NULL);
        if (heard != STATUS_OK) /* it is over: whoever failed first is the one that is told */
            return rendezvous_status(t->meeting, err) == STATUS_OK
                       ? error_set(err, heard, "process %d of %d did not answer", i, t->n)
                       : rendezvous_status(t->meeting, err);
        if (a.status == STATUS_OK || s != STATUS_OK) continue;
        s = error_set(err, a.status, "%s", a.err.text);
        of_process(t, i, s, err);
    }
    return s;
}

static enum status ask(struct team *t, int process, const struct order *o, struct reply *a,
                       struct error *err) {
    if (send_order(t, process, o, NULL) != STATUS_OK) return rendezvous_status(t->meeting, err);
    const enum status s = receive_answer(t, process, a, err);
    if (s != STATUS_OK || a->status == STATUS_OK) return s;
    error_set(err, a->status, "%s", a->err.text);
    return of_process(t, process, a->status, err);
}

enum status team_ask(struct team *t, int process, struct order o, void *out, size_t size,
                     struct error *err) {
    struct reply a;
    const enum status s = ask(t, process, &o, &a, err);
    if (s != STATUS_OK) return s;
    if (a.bytes == size) return rendezvous_receive(t->meeting, process, out, size, err);
    error_set(err, STATUS_RUN_FAILED, "process %d of %d answered %zu bytes: expected %zu", process,
              t->n, a.bytes, size);
    return team_fail(t, STATUS_RUN_FAILED, err);
}

enum status team_ask_any(struct team *t, int process, struct order o, void **out, size_t *bytes,
                         struct error *err) {
    struct reply a;
    *out = NULL, *bytes = 0;
    enum status s = ask(t, process, &o, &a, err);
    if (s != STATUS_OK) return s;
    void *got = malloc(a.bytes + 1);
    if (!got) {
        error_set(err, STATUS_NO_MEMORY, "no memory for an answer of %zu bytes", a.bytes);
        return team_fail(t, STATUS_NO_MEMORY, err);
    }
    s = rendezvous_receive(t->meeting, process, got, a.bytes, err);
    if (s == STATUS_OK)
        *out = got, *bytes = a.bytes;
    else
        free(got);
    return s;
}

const struct team_facts *team_facts(const struct team *t, int process) {
    return &t->facts[process];
}

/* ---- the others */

enum status team_next(struct team *t, struct order *o, const void **payload, struct error *err) {
    const enum status s = rendezvous_receive(t->meeting, 0, o, sizeof *o, err);
    if (s != STATUS_OK) return s;
    if (o->bytes > t->payload_bytes) {
        void *more = realloc(t->payload, o->bytes);
        if (!more) {
            error_set(err, STATUS_NO_MEMORY, "no memory for an order of %zu bytes", o->bytes);
            return team_fail(t, STATUS_NO_MEMORY, err);
        }
        t->payload = more, t->payload_bytes = o->bytes;
    }
    *payload = t->payload;
    return rendezvous_receive(t->meeting, 0, t->payload, o->bytes, err);
}

enum status team_answer(struct team *t, const struct reply *a, const void *payload,
                        struct error *err) {
    const enum status s = rendezvous_send(t->meeting, 0, a, sizeof *a, err);
    return s == STATUS_OK ? rendezvous_send(t->meeting, 0, payload, a->bytes, err) : s;
}
