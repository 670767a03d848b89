/* Whether a shared library can be loaded, and its version. Loads it: call it where that may be. */
#ifndef HARNESS_LIBRARY_PROBE_H
#define HARNESS_LIBRARY_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* How a library tells its version, and how the number is put together. */
enum version_call { VERSION_RETURNED, VERSION_STORED }; /* size_t f(void); status f(int *) */
struct library_question {
    const char *name;     /* "cuBLASLt" */
    const char *files[3]; /* names for dlopen, first choice first; NULL ends */
    const char *version;  /* function */
    enum version_call call;
    int major_unit, minor_unit; /* 10000 and 100: 91400 is 9.14 */
    long oldest;                /* that serves; 0: any */
    const char *used_for;       /* what is lost without it */
    const char *fix;
};
/* True: "9.14 (libcudnn.so.9)"; false: why, in the loader's words, or that it is too old. */
bool library_probe(const struct library_question *q, char *out, size_t size);

#endif
