/* The program: bench_main with nothing in its way. */
#include "harness/bench.h"

int main(int argc, char **argv) {
    return bench_main(argc, argv, NULL);
}
