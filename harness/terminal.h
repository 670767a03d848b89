/* What the screen can do that a stream writes to, how wide it is, and text that fits any. */
#ifndef HARNESS_TERMINAL_H
#define HARNESS_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

/* Whether the stream is a terminal that obeys escape sequences: one with TERM=dumb does not. */
bool terminal_obeys(FILE *stream);
/* Whether it is to be coloured: not by an option (`no_color`) or NO_COLOR in the environment. */
bool terminal_colored(FILE *stream, bool no_color);

/* Columns of the terminal behind the stream; of a pipe or a file COLUMNS in the environment, else
 * `fallback`. */
int terminal_width(FILE *stream, int fallback);

/* Prints the words of a text from column `indent` on, where the cursor is, in lines of
 * at most 80 columns; ends the last line. */
void print_wrapped(FILE *out, const char *text, int indent);

#endif
