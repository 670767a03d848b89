/* Where the processes of a run meet that hold one device each: on one host, without a library for
 * it. Process 0 hears all others, these hear process 0. What passes: small messages, memory that
 * all see, and the end: one that fails, or is gone, ends the meeting for all with its reason.
 *
 * Transport: Unix sockets with names that no file system sees, and file descriptors of memory sent
 * over them. One thread at a time sends and receives; ending is any thread's. */
#ifndef KERNELS_RENDEZVOUS_H
#define KERNELS_RENDEZVOUS_H

#include "kernels/error.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rendezvous;
struct rendezvous_opts {
    const char *name; /* that all know and no other run uses; at most RENDEZVOUS_NAME_MOST bytes */
    int process, processes; /* 2 .. MAX_RANKS */
    int patience_s;         /* how long to wait for one that does not come */
};
enum { RENDEZVOUS_NAME_MOST = 80 };

/* Returns when all are there. STATUS_TIMEOUT names who did not come; STATUS_USAGE: some believe to
 * be of another run, of another number of processes or of another build of the program. */
enum status rendezvous_open(struct rendezvous **out, const struct rendezvous_opts *opts,
                            struct error *err);
/* Leaves: nobody calls it a loss. NULL is legal. Memory of rendezvous_memory() goes before. */
void rendezvous_close(struct rendezvous *r);
int rendezvous_process(const struct rendezvous *r);
int rendezvous_processes(const struct rendezvous *r);

/* n bytes to, or from, a process, one of the two being 0; receiving waits. Fails when the meeting
 * has ended, with its reason. */
enum status rendezvous_send(struct rendezvous *r, int process, const void *bytes, size_t n,
                            struct error *err);
enum status rendezvous_receive(struct rendezvous *r, int process, void *bytes, size_t n,
                               struct error *err);
/* By all at once: each gives n bytes; `all` [processes][n] is what they gave. */
enum status rendezvous_gather(struct rendezvous *r, const void *mine, size_t n, void *all,
                              struct error *err);
/* By all at once: zeroed memory that all see, at an address of each one's own. */
enum status rendezvous_memory(struct rendezvous *r, size_t bytes, void **out, struct error *err);
void rendezvous_memory_close(void *at, size_t bytes);

/* Ends it for all, with a reason; the first who does is the one that is told. Waiting
 * sends and receives of every process return. */
void rendezvous_end(struct rendezvous *r, enum status s, const struct error *why);
/* STATUS_OK while it lasts, else the status and reason of its end; STATUS_LOST: a process, which is
 * named, was gone without a word. */
enum status rendezvous_status(const struct rendezvous *r, struct error *err);
/* Called once when it ends, in a thread of its own; at once if it has. NULL: no more, and none is
 * being called when this returns. */
void rendezvous_on_end(struct rendezvous *r, void (*fn)(void *ctx), void *ctx);

#ifdef __cplusplus
}
#endif

#endif
