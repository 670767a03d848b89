/* A library with the functions of CUPTI that the program uses, and records that a test makes, or
 * that ops leave: with `works` each op that a device tells of was one call and one kernel, from its
 * begin to its end, on whatever device it ran, and memory was allocated when it was opened. Records
 * are longer than those that the program knows, as those of a newer library are.
 *
 * For programs that know nothing of tests the environment speaks:
 * FAKE_CUPTI=works,stray,drop,taken.
 */
#include "fake_cupti.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MORE_BYTES = 40, DEEPEST = 8, LATE_MOST = 64 };

static struct fake_cupti state;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cupti_buffer_request *request;
static cupti_buffer_complete *complete;
static cupti_callback *callback;
static void *callback_ctx;
static uint8_t *buffer;
static size_t bytes, used;
static uint32_t correlations;
static struct cupti_external kept[LATE_MOST];
static int n_kept;

static _Thread_local struct { uint64_t id, begin; } ops[DEEPEST];
static _Thread_local int depth;

/* ---- records */

static size_t size_of(int32_t kind) {
    switch (kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: return sizeof(struct cupti_kernel) + MORE_BYTES;
    case CUPTI_ACTIVITY_KIND_MEMCPY: return sizeof(struct cupti_memcpy) + MORE_BYTES;
    case CUPTI_ACTIVITY_KIND_MEMSET: return sizeof(struct cupti_memset) + MORE_BYTES;
    case CUPTI_ACTIVITY_KIND_RUNTIME:
    case CUPTI_ACTIVITY_KIND_DRIVER: return sizeof(struct cupti_call);
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: return sizeof(struct cupti_external);
    case CUPTI_ACTIVITY_KIND_MARKER: return sizeof(struct cupti_marker);
    case CUPTI_ACTIVITY_KIND_OVERHEAD: return sizeof(struct cupti_overhead) + MORE_BYTES;
    case CUPTI_ACTIVITY_KIND_MEMORY2: return sizeof(struct cupti_memory) + MORE_BYTES;
    default: return 16;
    }
}

static size_t known_size_of(int32_t kind) {
    const size_t size = size_of(kind);
    switch (kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
    case CUPTI_ACTIVITY_KIND_MEMCPY:
    case CUPTI_ACTIVITY_KIND_MEMSET:
    case CUPTI_ACTIVITY_KIND_MEMORY2:
    case CUPTI_ACTIVITY_KIND_OVERHEAD: return size - MORE_BYTES;
    default: return size;
    }
}

static void complete_now(void) {
    if (buffer) complete(NULL, 0, buffer, bytes, used);
    buffer = NULL;
}

static void put_locked(const void *record) {
    const size_t size = size_of(*(const int32_t *)record);
    size_t most = 0;
    if (buffer && used + size > bytes) complete_now();
    if (!buffer) {
        state.requests++;
        used = 0;
        request(&buffer, &bytes, &most);
        state.refused += !buffer;
    }
    if (!buffer) {
        state.dropped++;
        return;
    }
    memset(buffer + used, 0, size);
    memcpy(buffer + used, record, known_size_of(*(const int32_t *)record));
    used += size;
}

static void put(const void *record) {
    pthread_mutex_lock(&lock);
    put_locked(record);
    pthread_mutex_unlock(&lock);
}

static void clone_node(void *node, void *original) {
    struct cupti_graph_data g = {.node = node, .original_node = original};
    struct cupti_resource r = {.descriptor = &g};
    if (state.callbacks)
        callback(callback_ctx, CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED, &r);
}

static void put_kernel(uint32_t correlation, uint64_t begin, uint64_t end, const char *name) {
    const struct cupti_kernel k = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                   .registers = 168,
                                   .start = begin,
                                   .end = end,
                                   .context = 1,
                                   .stream = 13,
                                   .grid = {132, 2, 1},
                                   .block = {384, 1, 1},
                                   .static_shared = 1024,
                                   .dynamic_shared = 180224,
                                   .correlation = correlation,
                                   .name = name,
                                   .shared_executed = 233472};
    put_locked(&k);
}

/* What an op was: a number for its kind in the third byte, as op_place.c packs it. */
static void put_op(uint64_t id, uint64_t begin, uint64_t end) {
    static const char *const names[] = {"_ZN5bench5embedIfEEvPKfPfi",
                                        "_ZN5bench11add_rmsnormILi128EEEvPf",
                                        "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_TNT",
                                        "rope_table_kernel",
                                        "rope_cache_kernel",
                                        "_ZN5bench16attention_kernelILi128ELb1EEEvPKfi",
                                        "swiglu_kernel"};
    const size_t op = id >> 24 & 0xff, n = sizeof names / sizeof *names;
    const uint32_t correlation = ++correlations;
    struct cupti_external e = {.kind = CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                               .external_kind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0,
                               .id = id,
                               .correlation = correlation};
    const struct cupti_call c = {.kind = CUPTI_ACTIVITY_KIND_RUNTIME,
                                 .function = 211,
                                 .start = begin,
                                 .end = begin + (end - begin) / 4,
                                 .process = (uint32_t)getpid(),
                                 .thread = 77,
                                 .correlation = correlation};
    if (state.late && n_kept < LATE_MOST)
        kept[n_kept++] = e;
    else
        put_locked(&e);
    put_locked(&c);
    put_kernel(correlation, begin, end, names[op < n ? op : n - 1]);
}

/* What a process does when it begins: memory of the GPU, and of the host, which it gives back. */
static void put_memory(void) {
    struct cupti_memory m = {.kind = CUPTI_ACTIVITY_KIND_MEMORY2,
                             .operation = CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION,
                             .memory_kind = 3,
                             .address = 0x7f0000000000,
                             .bytes = 64 << 20,
                             .timestamp = state.clock(),
                             .process = (uint32_t)getpid(),
                             .context = 1};
    put(&m);
    m.memory_kind = 2, m.address = 0x1000, m.bytes = 1 << 20;
    put(&m);
    m.operation = CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE;
    put(&m);
}

/* ---- the state */

struct fake_cupti *fake_cupti_reset(void) __attribute__((constructor));
struct fake_cupti *fake_cupti_reset(void) {
    const char *told = getenv("FAKE_CUPTI");
    buffer = NULL;
    n_kept = 0;
    correlations = 100;
    state = (struct fake_cupti){.version = 130001, .put = put, .clone = clone_node};
    if (!told) return &state;
    state.works = strstr(told, "works") != NULL;
    state.stray = strstr(told, "stray") != NULL;
    state.drops = strstr(told, "drop") ? 3 : 0;
    if (strstr(told, "taken"))
        state.subscribe_result = CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
    return &state;
}

/* ---- CUPTI's functions */

#define API(name, parameters)                                                                      \
    int32_t name parameters;                                                                       \
    int32_t name parameters

API(cuptiGetVersion, (uint32_t * version)) {
    *version = state.version;
    return 0;
}
API(cuptiGetResultString, (int32_t result, const char **text)) {
    *text = result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED
                ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"
                : "CUPTI_ERROR_OF_A_TEST";
    return 0;
}
API(cuptiSubscribe, (void **subscriber, cupti_callback *f, void *ctx)) {
    if (state.subscribe_result) return state.subscribe_result;
    *subscriber = &state;
    callback = f;
    callback_ctx = ctx;
    state.subscribed++;
    return 0;
}
API(cuptiUnsubscribe, (void *subscriber)) {
    state.subscribed -= subscriber == &state;
    return 0;
}
API(cuptiEnableCallback, (uint32_t on, void *subscriber, int32_t domain, uint32_t id)) {
    state.callbacks = on && subscriber == &state && domain == CUPTI_CB_DOMAIN_RESOURCE &&
                      id == CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED;
    return 0;
}
API(cuptiGetCallbackName, (int32_t domain, uint32_t id, const char **name)) {
    (void)id;
    *name = domain == CUPTI_CB_DOMAIN_RUNTIME_API ? "cudaLaunchKernel_v7000" : "cuLaunchKernelEx";
    return 0;
}
API(cuptiActivityRegisterTimestampCallback, (cupti_timestamp * f)) {
    state.clock = f;
    return state.enabled ? 1 : 0; /* too late */
}
API(cuptiActivityRegisterCallbacks, (cupti_buffer_request * r, cupti_buffer_complete *c)) {
    request = r;
    complete = c;
    return 0;
}
API(cuptiSetThreadIdType, (int32_t type)) {
    return type == CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM ? 0 : 1;
}
API(cuptiActivityEnable, (int32_t kind)) {
    if (state.enable_result && (!state.failing_kind || state.failing_kind == kind))
        return state.enable_result;
    state.enabled |= 1ull << kind;
    if (state.works && kind == CUPTI_ACTIVITY_KIND_MEMORY2) put_memory();
    return 0;
}
API(cuptiActivityDisable, (int32_t kind)) {
    state.enabled &= ~(1ull << kind);
    return 0;
}
API(cuptiActivityFlushAll, (uint32_t flag)) {
    pthread_mutex_lock(&lock);
    state.flushes++;
    for (int i = 0; i < n_kept; i++) put_locked(&kept[i]);
    n_kept = 0;
    if (state.stray && flag == 0 && state.clock)
        put_kernel(1, state.clock() - 2000, state.clock() - 1000, "_Z5strayv");
    if (state.more > 0 && !flag)
        state.more--;
    else
        complete_now();
    pthread_mutex_unlock(&lock);
    return state.flush_result;
}
API(cuptiActivityGetNextRecord, (uint8_t * b, size_t valid, int32_t **record)) {
    size_t at = *record ? (size_t)((uint8_t *)*record - b) + size_of(**record) : 0;
    if (at >= valid) return CUPTI_ERROR_MAX_LIMIT_REACHED;
    *record = (int32_t *)(void *)(b + at);
    return 0;
}
API(cuptiActivityGetNumDroppedRecords, (void *context, uint32_t stream, size_t *n)) {
    (void)context, (void)stream;
    *n = state.dropped + state.drops;
    state.dropped = 0;
    return 0;
}
API(cuptiActivityPushExternalCorrelationId, (int32_t kind, uint64_t id)) {
    if (kind != CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0 || depth == DEEPEST) return 1;
    ops[depth].id = id;
    ops[depth++].begin = state.clock ? state.clock() : 0;
    return 0;
}
API(cuptiActivityPopExternalCorrelationId, (int32_t kind, uint64_t *id)) {
    if (kind != CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0 || depth == 0) return 1;
    *id = ops[--depth].id;
    pthread_mutex_lock(&lock);
    if (state.works && state.enabled) put_op(*id, ops[depth].begin, state.clock());
    pthread_mutex_unlock(&lock);
    return 0;
}
API(cuptiGetGraphNodeId, (void *node, uint64_t *id)) {
    *id = (uint64_t)(uintptr_t)node;
    return node ? 0 : 1;
}
