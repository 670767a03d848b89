/* How wide the screen is that a stream writes to, and text that fits any. */
#ifndef HARNESS_TERMINAL_H
#define HARNESS_TERMINAL_H

#include <stdio.h>

/* Columns of the terminal behind the stream; of a pipe or a file COLUMNS in the environment, else
 * `fallback`. */
int terminal_width(FILE *stream, int fallback);

/* Prints the words of a text from column `indent` on, where the cursor is, in lines of
 * at most 80 columns; ends the last line. */
void print_wrapped(FILE *out, const char *text, int indent);

#endif
