/* A barrier that can end. See meeting.h. */
#include "kernels/exchange/meeting.h"

void meeting_open(struct meeting *m, int members) {
    *m = (struct meeting){.members = members};
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->all_there, NULL);
}

void meeting_close(struct meeting *m) {
    pthread_cond_destroy(&m->all_there);
    pthread_mutex_destroy(&m->lock);
}

/* After the end nobody comes any more: those who had waited are gone, and so is what they showed.
 */
bool meeting_wait(struct meeting *m) {
    pthread_mutex_lock(&m->lock);
    const uint64_t turn = m->turn;
    if (!m->ended && ++m->there == m->members) {
        m->there = 0;
        m->turn++;
        pthread_cond_broadcast(&m->all_there);
    }
    while (m->turn == turn && !m->ended) pthread_cond_wait(&m->all_there, &m->lock);
    const bool came = m->turn != turn;
    pthread_mutex_unlock(&m->lock);
    return came;
}

void meeting_end(struct meeting *m) {
    pthread_mutex_lock(&m->lock);
    m->ended = true;
    pthread_cond_broadcast(&m->all_there);
    pthread_mutex_unlock(&m->lock);
}
