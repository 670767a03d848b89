/* exchange between GPUs that reach each other's memory (NVLink, or PCIe within a host): each puts
 * what it sends where the receiver wants it, with plain stores. One kernel does an exchange:
 *
 *   1. tells its peers where they may put their parts: what was there has been read, since this
 *      kernel runs after its readers
 *   2. waits for a peer's addresses, puts the parts there, tells that they are there
 *   3. waits until all peers have told the same
 *
 * A device waits only for kernels that run on other devices, so its own multiprocessors are never
 * needed by what it waits for. Waiting ends when the group ends, on a word in host memory. Scheme:
 * the two-sided handshake of custom all-reduces (vLLM, FlashInfer), with addresses in the
 * mailbox, so that a captured kernel serves any step. */
#include "kernels/exchange/exchange_peer.h"

enum { THREADS = 512, UNROLL = 4 };
/* Aside: 16 blocks have 512 KiB of loads under way, which at a microsecond each is more than
 * NVLink takes; the other multiprocessors stay with the ops beside. */
enum { BLOCKS_ASIDE = 16 };

static __device__ uint32_t load_acquire(const uint32_t *at) {
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

static __device__ void store_release(uint32_t *at, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

/* False when the group ended; that word is far away, so it is looked at now and then. Counters may
 * wrap. */
static __device__ bool wait_for(const uint32_t *counter, uint32_t value,
                                const volatile uint32_t *stop) {
    enum { LOOKS = 256 };
    for (uint32_t n = 1; (int32_t)(load_acquire(counter) - value) < 0; n++)
        if (n % LOOKS == 0 && *stop) return false;
    return true;
}

static __device__ void tell_addresses(const peer_exchange &e, uint32_t turn) {
    const int peer = (int)threadIdx.x;
    if (peer >= e.members || peer == e.self) return;
    peer_mailbox *there = e.mailbox[peer];
    int k = 0;
    for (int i = 0; i < e.args.receives; i++)
        if (e.args.receive[i].peer == peer)
            there->address[e.self][k++] = (uint64_t)e.args.receive[i].at;
    store_release(&there->ready[e.self], turn);
}

/* Share `part` of `parts` of the bytes. */
static __device__ void put(void *to, const void *from, int64_t bytes, int part, int parts) {
    const int64_t stride = (int64_t)parts * THREADS, first = (int64_t)part * THREADS + threadIdx.x;
    if (((uint64_t)to | (uint64_t)from | (uint64_t)bytes) % 16 != 0) {
        for (int64_t i = first; i < bytes; i += stride) ((char *)to)[i] = ((const char *)from)[i];
        return;
    }
    const int4 *in = (const int4 *)from;
    int4 *out = (int4 *)to;
    const int64_t n = bytes / 16;
    int64_t i = first;
    for (; i + (UNROLL - 1) * stride < n; i += UNROLL * stride) {
        int4 v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) v[u] = __ldcs(in + i + u * stride);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) out[i + u * stride] = v[u];
    }
    for (; i < n; i += stride) out[i] = __ldcs(in + i);
}

static __device__ void put_all(const peer_exchange &e, int peer, int part, int parts) {
    const uint64_t *address = e.mailbox[e.self]->address[peer];
    for (int i = 0, k = 0; i < e.args.sends; i++) {
        if (e.args.send[i].peer != peer) continue;
        const uint64_t to = *(const volatile uint64_t *)&address[k++];
        put((void *)to, e.args.send[i].at, e.args.send[i].bytes, part, parts);
    }
}

/* blockIdx.y counts the peers from this device's next on, so that not all put into one at once. */
static __global__ void __launch_bounds__(THREADS)
    exchange_kernel(const __grid_constant__ peer_exchange e) {
    peer_mailbox *mine = e.mailbox[e.self];
    const uint32_t turn = *(const volatile uint32_t *)&mine->count + 1;
    const int peer = (e.self + 1 + (int)blockIdx.y) % e.members;
    if (blockIdx.x == 0 && blockIdx.y == 0) tell_addresses(e, turn);
    __shared__ bool goes_on;
    if (threadIdx.x == 0) goes_on = wait_for(&mine->ready[peer], turn, e.stop);
    __syncthreads();
    if (goes_on) put_all(e, peer, (int)blockIdx.x, (int)gridDim.x);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x != 0) return;
    if (atomicAdd(&mine->put[peer], 1) != gridDim.x - 1) return;
    /* the last block of this peer */
    mine->put[peer] = 0;
    __threadfence_system();
    store_release(&e.mailbox[peer]->done[e.self], turn);
    wait_for(&mine->done[peer], turn, e.stop);
    if (atomicAdd(&mine->put[e.self], 1) != gridDim.y - 1) return;
    mine->put[e.self] = 0;
    __threadfence();
    *(volatile uint32_t *)&mine->count = turn;
}

void exchange_peer_launch(struct device *dev, const struct peer_exchange *e) {
    const struct cuda_device *gpu = cuda_device(dev);
    const unsigned peers = (unsigned)(e->members - 1);
    int64_t bytes = 0;
    for (int i = 0; i < e->args.sends; i++) bytes += e->args.send[i].bytes;
    /* as many blocks as multiprocessors where there is work for them, and nothing beside */
    const int64_t useful = bytes / (peers * THREADS * 16) + 1;
    const int64_t most = (gpu->aside ? BLOCKS_ASIDE : gpu->sm_count) / (int)peers;
    const dim3 grid((unsigned)(useful < most ? useful : most), peers);
    exchange_kernel<<<grid, THREADS, 0, gpu->stream>>>(*e);
    cuda_check(dev, cudaGetLastError(), "exchange_peer");
}
