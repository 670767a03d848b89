/* See kernel_name.h. Before it: activity.c. */
#include "kernels/activity/kernel_name.h"

#include "kernels/run_time_library.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef char *demangle_function(const char *mangled, char *out, size_t *size, int *status);

char *kernel_demangle(const char *mangled) {
    struct run_time_library library = {.file = "libstdc++.so.6"};
    demangle_function *demangle = NULL;
    int status = 0;
    if (strncmp(mangled, "_Z", 2) == 0 && run_time_library_open(&library))
        *(void **)&demangle = run_time_library_find(&library, "__cxa_demangle");
    char *text = demangle ? demangle(mangled, NULL, NULL, &status) : NULL;
    return text ? text : strdup(mangled);
}

static bool of_name(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '$';
}

/* The first name that is followed by parameters, or the last; what stands in brackets is passed
 * over, so "(anonymous namespace)::f<g<h> >(x)" is f. */
char *kernel_short_name(const char *demangled, char *out, size_t size) {
    const char *begin = demangled, *end = demangled; /* of the best so far */
    int depth = 0;
    for (const char *c = demangled; *c; c++) {
        const bool opens = *c == '<' || *c == '(', closes = *c == '>' || *c == ')';
        if (*c == '(' && depth == 0 && end > begin) break;
        if (depth == 0 && of_name(*c)) {
            if (c == demangled || !of_name(c[-1])) begin = c;
            end = c + 1;
        } else if (depth == 0 && (*c == ' ' || *c == ':')) {
            begin = end = c; /* a result or a namespace */
        }
        depth += opens ? 1 : closes && depth > 0 ? -1 : 0;
    }
    size_t n = (size_t)(end - begin);
    if (n == 0) begin = demangled, n = strlen(demangled);
    if (n > size - 1) n = size - 1;
    memcpy(out, begin, n);
    out[n] = 0;
    return out;
}
