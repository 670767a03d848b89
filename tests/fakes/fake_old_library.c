/* Stands for a cuDNN and an NCCL that are older than what the program needs, and lack its functions:
 * they tell their versions alone. */
#include <stddef.h>

size_t cudnnGetVersion(void);
size_t cudnnGetVersion(void) {
    return 90100;
}

int ncclGetVersion(int *version);
int ncclGetVersion(int *version) {
    *version = 21003;
    return 0;
}
