/* Status codes and the error text that travels with them: the one vocabulary that all layers share.
 *
 * A function that can fail returns `enum status` and takes a `struct error *` last. On failure it
 * fills the error once, where the cause is known; callers only pass it on. `err` may be NULL. */
#ifndef KERNELS_ERROR_H
#define KERNELS_ERROR_H

#include <stdarg.h>
#include <stddef.h>

/* name, exit code of the program, text for people. Several statuses share an exit code on purpose:
 * the exit code tells a script what class of thing happened, the text tells a person what. */
#define STATUS_TABLE(X)                                                                            \
    X(STATUS_OK, 0, "ok")                                                                          \
    X(STATUS_REGRESSED, 1, "regression")                                                           \
    X(STATUS_USAGE, 2, "usage or configuration error")                                             \
    X(STATUS_UNSUPPORTED, 2, "not supported here")                                                 \
    X(STATUS_MISMATCH, 3, "output mismatch")                                                       \
    X(STATUS_INVALID, 4, "invalid or inconclusive")                                                \
    X(STATUS_RUN_FAILED, 5, "run failed")                                                          \
    X(STATUS_NO_MEMORY, 5, "out of memory")                                                        \
    X(STATUS_DEVICE, 5, "device error")                                                            \
    X(STATUS_LOST, 5, "a process is gone")                                                         \
    X(STATUS_IO, 6, "I/O or storage error")                                                        \
    X(STATUS_TIMEOUT, 124, "timeout")                                                              \
    X(STATUS_INTERRUPTED, 130, "interrupted")

enum status {
#define X(name, exit_code, text) name,
    STATUS_TABLE(X)
#undef X
};

struct error {
    char text[1000]; /* one or more lines, no trailing newline; empty = no error */
};

/* Exit code of the program for a status (GATE.md's list: 0 1 2 3 4 5 6 124 130). */
int status_exit_code(enum status s);
/* Short lower-case text for a status; never NULL. */
const char *status_text(enum status s);

/* Fills err (if not NULL) and returns s, so that a failing path is one statement:
 *     return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno)); */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
enum status
error_set(struct error *err, enum status s, const char *format, ...);

/* Puts "context: " in front of an existing text; returns s. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
enum status
error_prefix(struct error *err, enum status s, const char *format, ...);

#endif
