/* Runs gnuplot, a program of its own (Debian's package gnuplot-nox). */
#ifndef HARNESS_GNUPLOT_H
#define HARNESS_GNUPLOT_H

#include "engine/engine.h"

/* STATUS_RUN_FAILED, and what to install, when it is not on PATH. */
enum status gnuplot_find(struct error *err);

/* Runs the scripts one after the other in folder `work`, without the user's own settings.
 * STATUS_IO: cannot start; STATUS_RUN_FAILED: it ended with an error, whose text is in the message,
 * or did not end in two minutes. */
enum status gnuplot_draw(const char *work, const char *const *scripts, int n, struct error *err);

#endif
