/* Instructions of sm_90a that CUDA C has no word for, one function each: mbarriers, TMA copies,
 * warpgroup matrix products, named barriers, clusters, register budgets. Numbers in brackets are
 * sections of the PTX ISA manual, version 9.0. Under the *_sm90 kernels.
 *
 * Addresses of shared memory are 32-bit, as shared_address() gives them. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/shared_address.cuh"

#include <cuda.h>
#include <stdint.h>

/* ---- mbarriers [9.7.13.15] */

/* `count` arrivals complete a phase. One thread; then mbarrier_init_fence() and a barrier. */
static __device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/* Makes the initialised barriers visible to the cluster and to TMA. */
static __device__ __forceinline__ void mbarrier_init_fence(void) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* An arrival that also makes the phase wait for `bytes` of TMA copies. */
static __device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/* Arrives at the barrier at the same place in the shared memory of CTA `rank` of the cluster. */
static __device__ __forceinline__ void mbarrier_arrive_at(uint32_t barrier, uint32_t rank) {
    asm volatile("{.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
/* The same, telling nothing of what this thread has written. */
static __device__ __forceinline__ void mbarrier_arrive_relaxed_at(uint32_t barrier, uint32_t rank) {
    asm volatile("{.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [there];}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
/* Waits until the phase with this parity has completed. A fresh barrier passes for parity 1. */
static __device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}
/* The same for what another CTA of the cluster has written. */
static __device__ __forceinline__ void mbarrier_wait_cluster(uint32_t barrier, uint32_t parity) {
    asm volatile("{.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- clusters [9.7.13.4, 9.7.9.12] */

static __device__ __forceinline__ uint32_t cluster_rank(void) {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
/* All threads of the cluster that have not exited; those of a warp together. */
static __device__ __forceinline__ void cluster_sync(void) {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
/* A word into the shared memory of CTA `rank`, at the same place as `to` here; counts as four bytes
 * of the barrier at the same place as `barrier`. */
static __device__ __forceinline__ void store_async_at(uint32_t to, int value, uint32_t barrier,
                                                      uint32_t rank) {
    asm volatile(
        "{.reg .b32 there, bell;\n"
        "mapa.shared::cluster.u32 there, %0, %3;\n"
        "mapa.shared::cluster.u32 bell, %2, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %1, [bell];}" ::"r"(to),
        "r"(value), "r"(barrier), "r"(rank)
        : "memory");
}

/* ---- TMA [9.7.9.27.1.2]: a box of a tensor into shared memory, counted at a barrier */

/* Cache policies, as createpolicy makes them for all of an access. */
enum : uint64_t { CACHE_NORMAL = 0x1000000000000000, CACHE_EVICT_FIRST = 0x12F0000000000000 };

static __device__ __forceinline__ void tma_load_3d(uint32_t to, const CUtensorMap *map, int x,
                                                   int y, int z, uint32_t barrier,
                                                   uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
                 : "memory");
}
static __device__ __forceinline__ void tma_load_4d(uint32_t to, const CUtensorMap *map, int x,
                                                   int y, int z, int w, uint32_t barrier,
                                                   uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier), "l"(policy)
                 : "memory");
}
/* Into the same place of every CTA of the cluster in `mask`, counted at each one's own barrier. */
static __device__ __forceinline__ void tma_multicast_4d(uint32_t to, const CUtensorMap *map, int x,
                                                        int y, int z, int w, uint32_t barrier,
                                                        uint16_t mask, uint64_t policy) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7, %8;" ::"r"(to),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier), "h"(mask), "l"(policy)
        : "memory");
}
/* Orders this thread's plain stores to shared memory before later reads by TMA or wgmma, once a
 * barrier has told them [9.7.13.6]. */
static __device__ __forceinline__ void fence_proxy_async(void) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- named barriers [9.7.13.1] and register budgets [9.7.19.5] */

static __device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <int N> static __device__ __forceinline__ void registers_give(void) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void registers_take(void) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- arithmetic */

static __device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* Two values as bf16, rounded to nearest even; `low` in the lower half. */
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

/* ---- wgmma [9.7.15]: products of a warpgroup, asynchronous */

/* Descriptor of a matrix in shared memory that TMA wrote with 128-byte swizzle, in boxes of 64
 * elements by n rows, at a multiple of 1,024 bytes. Eight rows of a box are 1,024 bytes apart;
 * box_bytes, the size of a box, is used where the columns run along M or N [9.7.15.5.1.2]. In the
 * descriptor addresses count in sixteen bytes: it may be moved by adding bytes / 16. */
static __device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t box_bytes) {
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(box_bytes >> 4) << 16 |
           (uint64_t)((address & 0x3FFFF) >> 4);
}
/* Before the first product, and after other instructions have touched the products' registers. */
static __device__ __forceinline__ void wgmma_fence(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most N of the committed groups are running. */
template <int N> static __device__ __forceinline__ void wgmma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* d[64 x 2n] (+)= a * b. Of thread t of the warpgroup, with w = t / 32, g = t % 32 / 4, q = t % 4,
 * d[i] is row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 q + i % 2; a[] of wgmma_rs is a
 * 64 x 16 matrix, pairs of bf16 in the same places [9.7.15.5.1.1]. wgmma_ss: both in shared memory,
 * sixteen columns of rows (K-major); wgmma_rs: b is sixteen rows (MN-major). */
#define FLOATS_8(d, i)                                                                             \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define FLOATS_32(d) FLOATS_8(d, 0), FLOATS_8(d, 8), FLOATS_8(d, 16), FLOATS_8(d, 24)
#define FLOATS_64(d)                                                                               \
    FLOATS_32(d), FLOATS_8(d, 32), FLOATS_8(d, 40), FLOATS_8(d, 48), FLOATS_8(d, 56)

static __device__ __forceinline__ void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b,
                                                int accumulate) {
    asm volatile("{.reg .pred p;\n"
                 "setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0;}\n"
                 : FLOATS_64(d)
                 : "l"(a), "l"(b), "r"(accumulate));
}

static __device__ __forceinline__ void wgmma_rs(float (&d)[64], const uint32_t a[4], uint64_t b) {
    asm volatile("{.reg .pred p;\n"
                 "setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;}\n"
                 : FLOATS_64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

static __device__ __forceinline__ void wgmma_rs(float (&d)[32], const uint32_t a[4], uint64_t b) {
    asm volatile("{.reg .pred p;\n"
                 "setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;}\n"
                 : FLOATS_32(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

/* After a wait: keeps the compiler from reading or writing d before it. */
static __device__ __forceinline__ void wgmma_hold(float (&d)[64]) {
    asm volatile("" : FLOATS_64(d)::"memory");
}
static __device__ __forceinline__ void wgmma_hold(float (&d)[32]) {
    asm volatile("" : FLOATS_32(d)::"memory");
}

#undef FLOATS_8
#undef FLOATS_32
#undef FLOATS_64

#endif
