/* Counts the signals that ask the program to stop. A handler has no argument to find its state by,
 * so the counter is static, and beside it what a broken pipe did before: the one piece of mutable
 * state in the harness that is. */
#include "harness/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile int count;
static struct sigaction pipe_before;
static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
enum { CAUGHT = sizeof caught / sizeof caught[0] };

static void on_signal(int signal_number) {
    (void)signal_number;
    __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
}

const volatile int *interrupt_catch(void) {
    /* SA_RESTART: file I/O goes on undisturbed; poll() returns to look all the same. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < CAUGHT; i++) {
        sigaction(caught[i], &action, &before);
        /* What nohup or a shell's background job ignores stays ignored. */
        if (before.sa_handler == SIG_IGN && caught[i] != SIGTERM)
            sigaction(caught[i], &before, NULL);
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, &pipe_before);
    return &count;
}

void interrupt_release(void) {
    struct sigaction usual = {.sa_handler = SIG_DFL}, now;
    sigemptyset(&usual.sa_mask);
    for (int i = 0; i < CAUGHT; i++)
        if (sigaction(caught[i], NULL, &now) == 0 && now.sa_handler == on_signal)
            sigaction(caught[i], &usual, NULL);
    sigaction(SIGPIPE, &pipe_before, NULL);
}
