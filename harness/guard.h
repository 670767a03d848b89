/* Between a launcher and a worker that it has started stands a small process of ours: it connects
 * to the supervisor, has the worker as its child, tells how that ended (a launcher keeps that to
 * itself), and ends it when the supervisor is gone. Whatever happens to its worker, it leaves in
 * order, so that a launcher does not stop the others before they have said what they know. */
#ifndef HARNESS_GUARD_H
#define HARNESS_GUARD_H

#include "harness/launcher.h"

/* Connects to the supervisor that listens at `name` (voices.h) and forks. In the child, the worker
 * to be: true; *fd is its voice. In the guard, when its worker has ended, and where there is no
 * supervisor: false; *code is its exit code. Before any thread is started. */
bool guard_stand(const char *name, const struct launcher_place *place, int *fd, int *code);

#endif
