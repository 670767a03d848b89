/* A barrier that can end, in one word. See meeting.h. */
#include "kernels/exchange/meeting.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Who comes and the end change the same word: after the end nobody comes any more, since those who
 * had waited are gone, and so is what they showed. */
enum { ENDED = 1, ONE = 2, THERE = 0xfe, TURN = 0x100 };

/* Not private to a process. */
static void wake_all(struct meeting *m) {
    syscall(SYS_futex, &m->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void meeting_open(struct meeting *m, int members) {
    m->members = (uint32_t)members;
    atomic_store(&m->state, 0);
}

static uint32_t turn_of(uint32_t state) {
    return state & ~(uint32_t)(TURN - 1);
}

/* The state with one more; the last one to come begins a turn. */
static uint32_t with_one_more(const struct meeting *m, uint32_t state) {
    const uint32_t there = (state & THERE) / ONE + 1;
    return there < m->members ? state + ONE : turn_of(state) + TURN;
}

bool meeting_wait(struct meeting *m) {
    uint32_t before = atomic_load(&m->state), now;
    do {
        if (before & ENDED) return false;
        now = with_one_more(m, before);
    } while (!atomic_compare_exchange_weak(&m->state, &before, now));
    if (turn_of(now) != turn_of(before)) {
        wake_all(m);
        return true;
    }
    while (turn_of(now) == turn_of(before) && !(now & ENDED)) {
        syscall(SYS_futex, &m->state, FUTEX_WAIT, now, NULL, NULL, 0);
        now = atomic_load(&m->state);
    }
    return turn_of(now) != turn_of(before);
}

void meeting_end(struct meeting *m) {
    atomic_fetch_or(&m->state, (uint32_t)ENDED);
    wake_all(m);
}
