/* Where the members of a group wait for each other, until one says that it cannot come: threads of
 * one process, or of several that have it in memory they share. A member that dies there keeps
 * nothing locked. For exchange_ref.c and exchange_shared.c (every exchange) and
 * exchange_peer_cuda.c (joining). */
#ifndef KERNELS_EXCHANGE_MEETING_H
#define KERNELS_EXCHANGE_MEETING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct meeting {
    _Atomic uint32_t state; /* meeting.c: those that are there, whether it ended, turns */
    uint32_t members;       /* at most 127 */
};

/* Before anybody comes; owns nothing. */
void meeting_open(struct meeting *m, int members);
/* Waits until all members are here: true. False when the meeting has ended, before or while
 * waiting. */
bool meeting_wait(struct meeting *m);
/* For good; any thread. */
void meeting_end(struct meeting *m);

#endif
