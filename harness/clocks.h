/* What the GPUs do while a chunk runs: clocks, power, temperature, what holds the clocks back, and
 * the energy used. A figure of a GPU without its clocks cannot be judged: long runs sit at the
 * power cap. By NVML, from outside the CUDA context; a thread takes a sample every 100 ms during a
 * chunk, so that long chunks have means; a shorter one has the sample of its end. Sees, decides
 * nothing. */
#ifndef HARNESS_CLOCKS_H
#define HARNESS_CLOCKS_H

#include "harness/result.h"

enum { CLOCKS_PERIOD_MS = 100 };

struct clocks;
/* For those of n devices that are GPUs, found by their PCI bus ids. NULL where there is none of
 * them, or no NVML, or no thread: then nothing is recorded. library: see nvml_open. */
struct clocks *clocks_open(const struct device_info *devices, int n, const char *library);
void clocks_close(struct clocks *c); /* NULL is legal, here and below: nothing happens */

/* Around a chunk, outside what is timed: a call of the driver for each GPU, about a millisecond;
 * six more at the end of a chunk that was over before the first sample. */
void clocks_begin(struct clocks *c);
void clocks_end(struct clocks *c);
/* What the i-th GPU did between the two; false: there is none. Leaves repeat and chunk at 0. */
bool clocks_row(const struct clocks *c, int i, struct clock_row *out);

#endif
