/* Attention of a decode step on a GPU, shared by the CUDA variants: the one row of a step whose
 * `decode` is set. Its keys are cut at absolute multiples of a fixed number and their parts merged
 * in order, so that all multiprocessors read the cache; a prefill row's bits are others. */
#ifndef KERNELS_ATTENTION_DECODE_H
#define KERNELS_ATTENTION_DECODE_H

#include "kernels/ops.h"

struct device;

#ifdef __cplusplus
extern "C" {
#endif

/* Issues it, if `a` is a decode step of a head dim and layout (rows) that it serves; false: nothing
 * was done. */
bool cuda_attention_decode(struct device *dev, const struct attention_args *a);

#ifdef __cplusplus
}
#endif

#endif
