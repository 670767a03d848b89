/* Threads that wait for the next job. See crew.h. */
#include "engine/crew.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct crew {
    int members, started;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a new job, or one member less at work */
    uint64_t job;           /* counts up */
    int at_work;
    bool ends;
    crew_fn *fn;
    void *ctx;
    enum status status; /* the first failure */
    struct error err;
    void (*on_failure)(void *ctx); /* or NULL */
    struct seat {
        struct crew *crew;
        int member;
        pthread_t thread;
    } seat[CREW_MOST];
};

static void keep_failure(struct crew *c, enum status s, const struct error *err) {
    pthread_mutex_lock(&c->lock);
    const bool first = c->status == STATUS_OK;
    if (first) c->status = s, c->err = *err;
    pthread_mutex_unlock(&c->lock);
    if (first && c->on_failure) c->on_failure(c->ctx);
}

static void work(struct crew *c, int member) {
    struct error err = {""};
    const enum status s = c->fn(c->ctx, member, &err);
    if (s != STATUS_OK) keep_failure(c, s, &err);
    pthread_mutex_lock(&c->lock);
    if (--c->at_work == 0) pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void *live(void *arg) {
    const struct seat *seat = arg;
    struct crew *c = seat->crew;
    for (uint64_t done = 0;;) {
        pthread_mutex_lock(&c->lock);
        while (c->job == done && !c->ends) pthread_cond_wait(&c->changed, &c->lock);
        const bool ends = c->job == done;
        done = c->job;
        pthread_mutex_unlock(&c->lock);
        if (ends) return NULL;
        work(c, seat->member);
    }
}

enum status crew_open(struct crew **out, int members, struct error *err) {
    struct crew *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for threads of devices");
    c->members = members;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    for (int i = 0; members > 1 && i < members; i++) {
        c->seat[i] = (struct seat){.crew = c, .member = i};
        if (pthread_create(&c->seat[i].thread, NULL, live, &c->seat[i]) != 0) {
            crew_close(c);
            return error_set(err, STATUS_NO_MEMORY, "no thread for device %d of %d", i, members);
        }
        c->started++;
    }
    *out = c;
    return STATUS_OK;
}

void crew_close(struct crew *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->ends = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->started; i++) pthread_join(c->seat[i].thread, NULL);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

enum status crew_run_joined(struct crew *c, crew_fn *fn, void *ctx, void (*on_failure)(void *ctx),
                            struct error *err) {
    if (c->members == 1) return fn(ctx, 0, err);
    pthread_mutex_lock(&c->lock);
    c->fn = fn, c->ctx = ctx, c->on_failure = on_failure;
    c->status = STATUS_OK;
    c->at_work = c->members;
    c->job++;
    pthread_cond_broadcast(&c->changed);
    while (c->at_work > 0) pthread_cond_wait(&c->changed, &c->lock);
    const enum status s = c->status;
    pthread_mutex_unlock(&c->lock);
    return s == STATUS_OK ? s : error_set(err, s, "%s", c->err.text);
}

enum status crew_run(struct crew *c, crew_fn *fn, void *ctx, struct error *err) {
    return crew_run_joined(c, fn, ctx, NULL, err);
}
