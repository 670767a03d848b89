/* A result as another tool prints its own, so that what reads that tool's files reads ours. */
#ifndef HARNESS_EXPORT_H
#define HARNESS_EXPORT_H

#include "harness/record.h"

#include <stdio.h>

/* An array as `llama-bench -o json` prints it: per case a prompt entry (n_gen 0) and, where tokens
 * were generated, a generation entry at the prompt's depth (n_prompt 0). Sampling is not in the
 * times, as there. Only what was measured in full and has no failed check; what is left out is told
 * on `notes`, a line each. Returns the number of entries. */
int export_llama_bench(FILE *out, FILE *notes, const struct record_run *run);

#endif
