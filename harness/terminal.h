/* How wide the screen is that a stream writes to. */
#ifndef HARNESS_TERMINAL_H
#define HARNESS_TERMINAL_H

#include <stdio.h>

/* Columns of the terminal behind the stream; of a pipe or a file COLUMNS in the environment, else
 * `fallback`. */
int terminal_width(FILE *stream, int fallback);

#endif
