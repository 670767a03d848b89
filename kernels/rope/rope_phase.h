/* The integer phase with which a position is rotated: the definition that all variants of
 * rope_table share (ops.h; QWEN2-1M report, section 3.1). */
#ifndef KERNELS_ROPE_PHASE_H
#define KERNELS_ROPE_PHASE_H

#include "kernels/ops.h"

/* Plain causal: the position itself. Dual chunk, with Lc = chunk and C = Lc + local: copy 0 (and
 * keys) p mod Lc; copy 1 min(p mod Lc + Lc, C); copy 2 C. */
static inline HOST_DEVICE int32_t rope_phase(struct attention_pattern pattern, int copy,
                                             int32_t position) {
    if (pattern.chunk == 0) return position;
    int32_t whole = pattern.chunk + pattern.local, in_chunk = position % pattern.chunk;
    if (copy == 0) return in_chunk;
    if (copy == 1) return in_chunk + pattern.chunk < whole ? in_chunk + pattern.chunk : whole;
    return whole;
}

#endif
