/* How a worker died, in words that name what is known and mark what is guessed. */
#ifndef HARNESS_DEATH_H
#define HARNESS_DEATH_H

#include "harness/result.h"

#include <sys/types.h>

struct death {
    int wait_status;        /* of waitpid */
    bool stopped;           /* killed by us after a second interrupt */
    int64_t silent_s;       /* killed by us after so many seconds without a sign of life; 0: not */
    const char *states;     /* of its processes before that: "process state D"; "": not known */
    int64_t oom_kills;      /* by the kernel while the worker lived; negative: not known */
    int64_t resident_bytes; /* last seen; negative: not known */
    int64_t memory_bytes;   /* of the machine or the cgroup; 0: not known */
    const char *who;        /* "process 1 of 2"; "": there was only one */
    const char *where;      /* "after chunk 3 of 8" */
    const char *at;         /* what its devices were at when nothing moved; "": not known */
    const char *words;      /* its own last words, or the last line of its stderr; "" for none */
};

/* Writes the reason and returns what it makes of the case: crashed, timeout or interrupted. */
enum case_status death_reason(const struct death *d, char *out, size_t size);

/* OOM kills that the kernel counts for this process's cgroup (version 2 or 1), else for the whole
 * machine; -1 where it counts none. */
int64_t death_oom_kills(void);
/* Letter of a process's state and its resident bytes; 0 where /proc does not tell. */
char death_process_state(pid_t pid);
int64_t death_resident_bytes(pid_t pid);

#endif
