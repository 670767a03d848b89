/* See terminal.h. */
#include "harness/terminal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { NARROWEST = 20, WIDEST = 1000 };

bool terminal_obeys(FILE *stream) {
    const char *term = getenv("TERM");
    return isatty(fileno(stream)) && !(term && strcmp(term, "dumb") == 0);
}

bool terminal_colored(FILE *stream, bool no_color) {
    const char *off = getenv("NO_COLOR");
    return !no_color && !(off && off[0]) && terminal_obeys(stream);
}

int terminal_width(FILE *stream, int fallback) {
    struct winsize size;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    const char *text = getenv("COLUMNS");
    const long columns = text ? strtol(text, NULL, 10) : 0;
    return columns >= NARROWEST && columns <= WIDEST ? (int)columns : fallback;
}

void print_wrapped(FILE *out, const char *text, int indent) {
    enum { MOST = 80 };
    for (int column = indent; *text;) {
        const int n = (int)strcspn(text, " ");
        if (column > indent && column + 1 + n > MOST)
            column = indent, fprintf(out, "\n%*s", indent, "");
        else if (column > indent)
            column++, putc(' ', out);
        fprintf(out, "%.*s", n, text);
        column += n;
        text += n + (text[n] == ' ');
    }
    putc('\n', out);
}
