/* attention on Hopper, the host side: TMA maps of the operands, the choice of a configuration, the
 * launch. The kernel is in attention_sm90.cuh. After rope_cache, before the o linear. */
#include "kernels/attention/attention_decode.h"
#include "kernels/attention/attention_sm90.cuh"
#include "kernels/cuda/cuda_device.h"

#include <cudaTypedefs.h>

/* ---- TMA maps */

/* A function of the driver, found without linking against it. */
static PFN_cuTensorMapEncodeTiled_v12000 find_encode(void) {
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess)
        return NULL;
    return (PFN_cuTensorMapEncodeTiled_v12000)found;
}

/* Dimensions in elements, strides (of all but the first) in bytes, box in elements. What lies
 * outside reads as zero. */
struct tensor {
    const void *base;
    cuuint32_t rank;
    cuuint64_t size[4], stride[3];
    cuuint32_t box[4];
};

static cudaError_t encode_map(CUtensorMap *map, const struct tensor &t) {
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encode();
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    if (!encode) return cudaErrorNotSupported;
    const CUresult r =
        encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, t.rank, (void *)t.base, t.size, t.stride,
               t.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static struct tensor query_tensor(const struct attention_args *a, const void *q) {
    const cuuint64_t boxes = (cuuint64_t)(a->H * a->D / 64);
    return {q,
            3,
            {64, (cuuint64_t)a->rows, boxes},
            {(cuuint64_t)a->ldq * sizeof(__nv_bfloat16), 64 * sizeof(__nv_bfloat16)},
            {64, UNIT_ROWS, (cuuint32_t)a->D / 64}};
}

/* A box is what one TMA copy brings: a tile, in a cluster of two half of one (load_tile). */
template <class C> static struct tensor cache_tensor(const struct kv_view *kv, const void *base) {
    const cuuint64_t row = (cuuint64_t)C::D * sizeof(__nv_bfloat16);
    const cuuint32_t boxes = C::CLUSTER == 1 ? C::BOXES : 1;
    const cuuint32_t rows = KV_TILE * C::BOXES / C::CLUSTER / boxes;
    return {base,
            4,
            {64, (cuuint64_t)kv->capacity, C::BOXES, (cuuint64_t)kv->heads},
            {row, 64 * sizeof(__nv_bfloat16), row * (cuuint64_t)kv->capacity},
            {64, rows, boxes, 1}};
}

template <class C>
static cudaError_t encode_maps(attention_params *p, const struct attention_args *a) {
    cudaError_t e = encode_map(&p->k, cache_tensor<C>(&a->kv, a->kv.k));
    if (e == cudaSuccess) e = encode_map(&p->v, cache_tensor<C>(&a->kv, a->kv.v));
    for (int copy = 0; copy < (a->pattern.chunk ? Q_COPIES : 1) && e == cudaSuccess; copy++)
        e = encode_map(&p->q[copy], query_tensor(a, a->q[copy]));
    return e;
}

/* ---- launch */

/* Keeping in step pays where the keys and values of a head are several times the cache: measured on
 * an H200 (50 MB), nothing at two and three times, 5 to 10 % at ten. */
static int32_t step_from_tile(const struct cuda_device *gpu, int32_t D) {
    const int64_t tile_bytes = 2 * (int64_t)KV_TILE * D * (int64_t)sizeof(__nv_bfloat16);
    return (int32_t)(4 * (int64_t)gpu->l2_bytes / tile_bytes);
}

static struct attention_params params_of(const struct cuda_device *gpu,
                                         const struct attention_args *a) {
    const double log2_e = 1.4426950408889634;
    struct attention_params p = {};
    p.out = (__nv_bfloat16 *)a->out;
    p.ldo = a->ldo;
    p.step = a->step;
    p.sums = (float *)gpu->workspace;
    p.counters = gpu->counters;
    p.heartbeat = gpu->heartbeat;
    p.scale = (float)((double)a->scale * log2_e);
    p.heads = a->H;
    p.group = a->H / a->kv.heads;
    p.chunk_tiles = a->pattern.chunk / KV_TILE;
    p.step_from_tile = step_from_tile(gpu, a->D);
    p.out_is_aligned = (uintptr_t)a->out % 16 == 0 && a->ldo % 8 == 0;
    return p;
}

template <class C> static void launch(struct device *dev, const struct attention_args *a) {
    const struct cuda_device *gpu = cuda_device(dev);
    struct attention_params p = params_of(gpu, a);
    const int room = CUDA_WORKSPACE_BYTES / (int)(long_sums<C>::PER_CTA * sizeof *p.sums);
    const int ctas = (gpu->sm_count < room ? gpu->sm_count : room) / C::CLUSTER * C::CLUSTER;
    cudaError_t e = encode_maps<C>(&p, a);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)sizeof(attention_shared<C>));
    if (e == cudaSuccess) {
        cudaLaunchAttribute cluster;
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim = {C::CLUSTER, 1, 1};
        cudaLaunchConfig_t config = {};
        config.gridDim = {(unsigned int)ctas, 1, 1};
        config.blockDim = {C::THREADS, 1, 1};
        config.dynamicSmemBytes = sizeof(attention_shared<C>);
        config.stream = gpu->stream;
        config.attrs = &cluster;
        config.numAttrs = C::CLUSTER > 1 ? 1 : 0;
        e = cudaLaunchKernelEx(&config, attention_kernel<C>, p);
    }
    cuda_check(dev, e, "attention_sm90");
}

/* Sixteen-byte alignment of the queries and of their rows is TMA's demand: without it the call is
 * an error. */
void attention_sm90(struct device *dev, const void *args) {
    const struct attention_args *a = (const struct attention_args *)args;
    if (cuda_attention_decode(dev, a)) return;
    if (a->D == 128)
        launch<attention_config<128, 2, 3, 2>>(dev, a);
    else
        launch<attention_config<64, 3, 4, 1>>(dev, a);
}
