/* Counts the signals that ask the program to stop. A handler has no argument to find its state by,
 * so the counter is static: the one piece of mutable state in the harness that is. */
#include "harness/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile int count;

static void on_signal(int signal_number) {
    (void)signal_number;
    __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
}

const volatile int *interrupt_catch(void) {
    /* SA_RESTART: file I/O goes on undisturbed; poll() returns to look all the same. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    sigemptyset(&action.sa_mask);
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++) {
        sigaction(caught[i], &action, &before);
        /* What nohup or a shell's background job ignores stays ignored. */
        if (before.sa_handler == SIG_IGN && caught[i] != SIGTERM)
            sigaction(caught[i], &before, NULL);
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL);
    return &count;
}
