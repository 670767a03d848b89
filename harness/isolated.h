/* Work in a process of its own that may crash or hang without taking this one along: whatever opens
 * a GPU. The child is forked, so a process that has opened a GPU itself cannot use this (CUDA does
 * not survive a fork); the supervisor never does. What the child finds comes back as JSON. */
#ifndef HARNESS_ISOLATED_H
#define HARNESS_ISOLATED_H

#include "harness/jsondoc.h"

/* Runs in the child and fills `answer`, a JSON object. */
typedef void isolated_work(void *ctx, struct jsondoc *answer);

/* *answer: the child's, owned by the caller. `what` names the work in messages ("planning on the
 * GPU"). Errors: STATUS_DEVICE (crashed, or no answer within limit_s: it is killed then; with its
 * last line of stderr), STATUS_INTERRUPTED (by a signal that asks to stop), STATUS_RUN_FAILED (no
 * child). */
enum status isolated_run(struct jsondoc **answer, const char *what, int limit_s,
                         isolated_work *work, void *ctx, struct error *err);

#endif
