/* Ranges for profilers that read NVTX (Nsight Systems, Nsight Compute): domain "bench",
 *
 *   run > case > warm-up, repeat or spans > (profile >) chunk or token > layer > op
 *
 * each as far as a level asks for it. A range has a registered name and a payload: a number, for
 * chunks the three of struct nvtx_chunk, which a tool sees by the schema "chunk" (or, where it
 * knows no schemas, as the chunk's number alone). Without a tool there is no struct nvtx, and every
 * function returns at once: NULL is legal everywhere.
 *
 * One thread opens all ranges of a struct nvtx. Ending a range ends what was left open in it, so a
 * failure between begin and end leaves no wrong nesting. Layers open and close by themselves, as
 * the ops' own layers say. */
#ifndef KERNELS_NVTX_H
#define KERNELS_NVTX_H

#include "kernels/ops.h"

#include <stdint.h>

/* Each level has the ranges of those before it. */
enum nvtx_level {
    NVTX_OFF,
    NVTX_CASE,  /* run, case, passes, profile */
    NVTX_CHUNK, /* chunks and generated tokens */
    NVTX_OP     /* layers and ops */
};

enum nvtx_range {                /* payload */
                  NVTX_RUN,      /* cases of this process */
                  NVTX_LOAD,     /* - */
                  NVTX_ONE_CASE, /* its place among them; named by the case */
                  NVTX_PASS,     /* its number, negative for warm-up; named by the kind of pass */
                  NVTX_PROFILE,  /* number of the chunk that a profiler is to capture */
                  NVTX_CHUNK_RANGE, /* struct nvtx_chunk: see nvtx_begin_chunk() */
                  NVTX_TOKEN,       /* its place in the answer */
                  NVTX_LAYER,       /* its number */
                  NVTX_OP_RANGE,    /* rank, -1 for what ranks share; named by op and role */
                  NVTX_RANGES
};

struct nvtx_chunk {
    int32_t chunk, start, tokens;
};

struct nvtx;

/* Whether this program was built with NVTX's headers. */
bool nvtx_built(void);
/* NULL: level off, no tool attached, built without the headers, or no memory. */
struct nvtx *nvtx_open(enum nvtx_level level);
void nvtx_close(struct nvtx *n); /* ends what is open */

/* name: NULL for the range's own. */
void nvtx_begin(struct nvtx *n, enum nvtx_range range, const char *name, int64_t payload);
void nvtx_begin_chunk(struct nvtx *n, const struct nvtx_chunk *chunk);
/* Ends the innermost range of this kind and all in it; nothing where none is open. */
void nvtx_end(struct nvtx *n, enum nvtx_range range);

void nvtx_begin_op(struct nvtx *n, const struct op_call *call);
void nvtx_end_op(struct nvtx *n);

#endif
