/* What GPUs of a group keep in each other's reach, for exchange_peer.cu (the kernel) and
 * exchange_peer_cuda.c (the group); and the reach itself, for exchange_copy_cuda.c too. */
#ifndef KERNELS_EXCHANGE_PEER_H
#define KERNELS_EXCHANGE_PEER_H

#include "kernels/cuda/cuda_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In the memory of a device; written by its peers, read by itself. Counters of exchanges: every
 * device counts its own, all count equally far. */
struct peer_mailbox {
    uint64_t address[MAX_RANKS]
                    [MAX_RANKS]; /* [peer][its k-th receive from here]: where to put it */
    uint32_t ready[MAX_RANKS];   /* [peer]: exchanges for which it has told addresses */
    uint32_t done[MAX_RANKS];    /* [peer]: exchanges whose parts it has put here */
    uint32_t count;              /* of finished exchanges; its own */
    uint32_t put[MAX_RANKS];     /* blocks that have put their share; its own */
};

/* One exchange as the kernel gets it. */
struct peer_exchange {
    int32_t self, members;
    struct peer_mailbox *mailbox[MAX_RANKS]; /* of every member */
    const volatile uint32_t *stop;           /* host memory: not zero ends all waiting */
    struct exchange_args args;
};
void exchange_peer_launch(struct device *dev, const struct peer_exchange *e);

/* For all who reach into peers' memory: why GPUs 0 .. members - 1 cannot, or NULL; and lets a
 * member of a group do so. */
const char *peers_why_not(const struct group_opts *o);
enum status peers_reach(struct device *dev, struct error *err);

#ifdef __cplusplus
}
#endif

#endif
