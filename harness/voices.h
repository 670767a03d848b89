/* The connections by which a supervisor hears the processes of a worker: one that was inherited, or
 * one for each process that a launcher has started, which come to a socket with a name that no file
 * system sees. Messages are struct event. */
#ifndef HARNESS_VOICES_H
#define HARNESS_VOICES_H

#include "harness/launch.h"

#include <poll.h>
#include <sys/types.h>

enum { VOICES_MOST = 64, VOICES_NAME_BYTES = 64 };

struct voice {
    int fd;      /* -1: closed */
    int process; /* its number, once it has said it */
    pid_t pid;   /* of the worker; 0: not known yet */
    pid_t guard; /* of the process that has connected; 0: none, or not of this name space */
    bool ended;
    int wait_status; /* how */
    int64_t ended_ns, resident_bytes;
    struct event error; /* last words (kind EVENT_ERROR), or zeros */
    char still[200];    /* what it is at while nothing moves; "" */
};
struct voices {
    int listener;                 /* -1: nobody else will come */
    char name[VOICES_NAME_BYTES]; /* of the listener */
    int processes;                /* that there will be, once one has said it; 0 before */
    int n;
    struct voice v[VOICES_MOST];
};

void voices_open(struct voices *v);
enum status voices_listen(struct voices *v, struct error *err);
void voices_add(struct voices *v, int fd, pid_t pid);
/* Lets in who waits at the door; closes it when all are there. */
void voices_accept(struct voices *v);
void voices_stop_listening(struct voices *v);
void voices_close(struct voices *v);
/* Whether there is something to hear, or may yet be. */
bool voices_live(const struct voices *v);
/* Fills fds [VOICES_MOST + 1]; returns how many. */
int voices_poll(const struct voices *v, struct pollfd *fds);
/* NULL: it has not come. */
struct voice *voices_of(struct voices *v, int process);
/* Who is to blame for an end: the first that a signal killed, else the first that did not end in
 * order; NULL: nobody. */
struct voice *voices_blamed(struct voices *v);
/* To all that are there. */
void voices_kill(const struct voices *v, int signal_number);
/* SIGKILL to the guards that are there, and nothing more is heard of their workers, whose end is
 * nobody's fault then. */
void voices_end(struct voices *v);

/* For those that speak: connects to a supervisor of the same user; -1: there is none. */
int voices_connect(const char *name);

#endif
