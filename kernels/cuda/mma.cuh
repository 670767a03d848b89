/* Matrix instructions of sm_80 and what feeds them: copies from global to shared memory that run
 * beside the computation, loads of operand fragments, the product itself. Shared memory is given by
 * its 32-bit addresses. Layouts of fragments: PTX manual, "Matrix Fragments for mma.m16n8k16" and
 * "ldmatrix". In all of them g = lane / 4 and q = lane % 4. */
#ifndef KERNELS_CUDA_MMA_CUH
#define KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/shared_address.cuh"

#include <stdint.h>

static __device__ __forceinline__ void shared_store(uint32_t to, uint32_t value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
static __device__ __forceinline__ void shared_store(uint32_t to, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
static __device__ __forceinline__ uint4 shared_load(uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
}

/* Sixteen bytes, or sixteen zeros and no access to `from`. */
static __device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
/* Ends a group of this thread's copies; it may be empty. */
static __device__ __forceinline__ void copy_group_end(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most LEFT of this thread's latest groups are under way. */
template <int LEFT> static __device__ __forceinline__ void copy_groups_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* Four 8 x 8 matrices of 16-bit elements, whose rows of sixteen bytes lie where lanes 8i..8i+7 say
 * for matrix i: register i holds elements 2q and 2q + 1 of row g of matrix i; transposed, elements
 * g of rows 2q and 2q + 1. */
static __device__ __forceinline__ void load_matrices(uint32_t m[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}
/* Two of them: lanes 0..15 say where. */
static __device__ __forceinline__ void load_two_matrices(uint32_t m[2], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(m[0]), "=r"(m[1])
                 : "r"(row)
                 : "memory");
}
static __device__ __forceinline__ void load_matrices_transposed(uint32_t m[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}

/* c += a b, bf16 in, f32 out. a [16][16]: (g, 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8), a
 * register holds two columns. b [16][8]: rows 2q, 2q + 1 and 2q + 8, 2q + 9 of column g. c [16][8]:
 * (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1). */
static __device__ __forceinline__ void multiply_add(float c[4], const uint32_t a[4], uint32_t b0,
                                                    uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2^x to two units in the last place; 2^-inf is 0. */
static __device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ uint64_t global_time_ns(void) {
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

#endif
