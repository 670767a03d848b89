/* Where the threads of a group's members wait for each other, until one says that it cannot come.
 * For exchange_ref.c (every exchange) and exchange_peer_cuda.c (joining). */
#ifndef KERNELS_EXCHANGE_MEETING_H
#define KERNELS_EXCHANGE_MEETING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all_there;
    int members, there;
    uint64_t turn;
    bool ended;
};

void meeting_open(struct meeting *m, int members);
void meeting_close(struct meeting *m);
/* Waits until all members are here: true. False when the meeting has ended, before or while
 * waiting. */
bool meeting_wait(struct meeting *m);
/* For good; any thread. */
void meeting_end(struct meeting *m);

#endif
