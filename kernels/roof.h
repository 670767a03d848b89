/* The fastest multiply-add of an instruction set with all operands in registers: the ceiling that a
 * linear or an attention kernel is held against. One file per set, for its compiler flags. */
#ifndef KERNELS_ROOF_H
#define KERNELS_ROOF_H

#include "kernels/cpu_features.h"
#include "kernels/types.h"

/* Runs that many turns of a loop on the calling thread; returns the floating-point operations. */
typedef double roof_function(int64_t turns);
roof_function roof_none, roof_avx2, roof_avx512, roof_avx512_bf16, roof_amx_bf16;

/* The best one for products of a dtype: bf16 sets multiply no f32. */
roof_function *roof_of(enum cpu_isa isa, enum dtype dtype);

#endif
