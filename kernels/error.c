/* Status texts, exit codes and error formatting. */
#include "kernels/error.h"

#include <stdio.h>
#include <string.h>

int status_exit_code(enum status s) {
    switch (s) {
#define X(name, exit_code, text)                                                                   \
    case name: return exit_code;
        STATUS_TABLE(X)
#undef X
    }
    return 5;
}

const char *status_text(enum status s) {
    switch (s) {
#define X(name, exit_code, text)                                                                   \
    case name: return text;
        STATUS_TABLE(X)
#undef X
    }
    return "unknown status";
}

enum status error_set(struct error *err, enum status s, const char *format, ...) {
    if (err) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(err->text, sizeof err->text, format, ap);
        va_end(ap);
    }
    return s;
}

enum status error_prefix(struct error *err, enum status s, const char *format, ...) {
    if (err) {
        char context[300], rest[sizeof err->text];
        va_list ap;
        va_start(ap, format);
        vsnprintf(context, sizeof context, format, ap);
        va_end(ap);
        memcpy(rest, err->text, sizeof rest);
        rest[sizeof rest - 1] = 0;
        size_t used = (size_t)snprintf(err->text, sizeof err->text, "%s: ", context);
        if (used < sizeof err->text) {
            size_t n = strlen(rest), room = sizeof err->text - 1 - used;
            if (n > room) n = room;
            memcpy(err->text + used, rest, n);
            err->text[used + n] = 0;
        }
    }
    return s;
}
