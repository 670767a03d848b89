/* The screen of a run. On a terminal one live line, redrawn at most ten times a second; elsewhere
 * plain lines, at most one in ten seconds within a case; quiet: nothing but cases that went wrong.
 * Times come in as arguments (CLOCK_MONOTONIC), so that nothing here waits or looks at a clock. */
#ifndef HARNESS_PROGRESS_H
#define HARNESS_PROGRESS_H

#include "harness/launch.h"

#include <stdio.h>

struct progress_opts {
    FILE *stream; /* borrowed */
    bool live;    /* stream is a terminal */
    bool color;   /* and may be coloured */
    bool quiet;
    int width; /* columns of the live line; 0: ask the terminal each time */
};

struct progress;
/* `pending` flags the plan's cases that will run: they are numbered, and the ETA covers them. */
enum status progress_open(struct progress **out, const struct plan *p, const bool *pending,
                          const struct progress_opts *opts, struct error *err);
/* Clears the live line. NULL is legal. */
void progress_close(struct progress *s);

void progress_event(struct progress *s, int64_t now_ns, const struct case_plan *c,
                    const struct event *e);
void progress_case_done(struct progress *s, int64_t now_ns, const struct case_plan *c,
                        enum case_status status, const char *reason);
void progress_tick(struct progress *s, int64_t now_ns);

/* The same as callbacks that look at the clock. */
struct launch_observer progress_observer(struct progress *s);

/* Seconds until the end: what the plan predicts for the rest, times what it was wrong by so far.
 * *measured: false while nothing has finished to compare with. */
double progress_eta_s(const struct progress *s, int64_t now_ns, bool *measured);

#endif
