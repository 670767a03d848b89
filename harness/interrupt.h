/* Ctrl-C and its relatives (SIGINT, SIGTERM, SIGHUP) as a number that long work looks at: the
 * supervisor counts them (one: finish the chunk and stop; two: stop at once), the worker takes the
 * first as the wish of its supervisor. */
#ifndef HARNESS_INTERRUPT_H
#define HARNESS_INTERRUPT_H

/* From now on these signals are counted instead of ending the process; a broken pipe is an error
 * of a write, not a signal. Returns the counter, which lives as long as the process. */
const volatile int *interrupt_catch(void);

/* After interrupt_catch: these signals do again what they did before it. One that came in between
 * is in the counter. */
void interrupt_release(void);

/* The counter as any thread may read it. */
static inline int interrupt_count(const volatile int *counter) {
    return counter ? __atomic_load_n(counter, __ATOMIC_RELAXED) : 0;
}

#endif
