/* A thread for each device of an engine: CUDA's current device belongs to a thread, and a device
 * that waits for another in a collective must not keep the other's thread from issuing its part. */
#ifndef ENGINE_CREW_H
#define ENGINE_CREW_H

#include "kernels/error.h"

enum { CREW_MOST = 8 };

struct crew;
/* member in [0, members). */
typedef enum status crew_fn(void *ctx, int member, struct error *err);

/* One member needs no thread: the caller does its work. */
enum status crew_open(struct crew **out, int members, struct error *err);
void crew_close(struct crew *c); /* NULL is legal */
/* fn of every member at the same time; returns when all have. The failure that came first in time
 * is the one that is told: what fails after it may only be its consequence. */
enum status crew_run(struct crew *c, crew_fn *fn, void *ctx, struct error *err);
/* For jobs whose members wait for each other: the first failure calls on_failure(ctx) at once, in
 * the thread of the member that failed. */
enum status crew_run_joined(struct crew *c, crew_fn *fn, void *ctx, void (*on_failure)(void *ctx),
                            struct error *err);

#endif
