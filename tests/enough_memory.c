/* enough_memory MIB PROGRAM ARGUMENT...: becomes the program, or skips it with the number where the
 * host has less left. For tests that are scripts, or that measure rates. */
#include "tests/enough_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const int mib = argc > 2 ? atoi(argv[1]) : 0;
    if (mib <= 0) {
        fputs("usage: enough_memory MIB PROGRAM ARGUMENT...\n", stderr);
        return 2;
    }
    if (!enough_memory(mib)) return TEST_SKIPPED;
    fflush(stdout);
    execvp(argv[2], argv + 2);
    fprintf(stderr, "enough_memory: cannot start %s: %s\n", argv[2], strerror(errno));
    return 127;
}
