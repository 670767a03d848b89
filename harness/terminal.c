/* See terminal.h. */
#include "harness/terminal.h"

#include <stdlib.h>
#include <sys/ioctl.h>

enum { NARROWEST = 20, WIDEST = 1000 };

int terminal_width(FILE *stream, int fallback) {
    struct winsize size;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    const char *text = getenv("COLUMNS");
    const long columns = text ? strtol(text, NULL, 10) : 0;
    return columns >= NARROWEST && columns <= WIDEST ? (int)columns : fallback;
}
