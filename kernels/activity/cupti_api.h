/* The part of CUPTI that we use, found by dlopen. Declared here, so that a program with it is built
 * without CUPTI's headers and starts without its library. Source: NVIDIA's CUPTI reference, "CUPTI
 * Activity API" and "CUPTI Callback API". What passes between us and the library is its binary
 * interface: newer versions of a record are longer and begin as the older ones do, so we read
 * beginnings alone; a test holds them against the headers where there are any. */
#ifndef KERNELS_ACTIVITY_CUPTI_API_H
#define KERNELS_ACTIVITY_CUPTI_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUPTI_NUMBER_TABLE(X)                                                                      \
    /* CUptiResult */                                                                              \
    X(CUPTI_SUCCESS, 0)                                                                            \
    X(CUPTI_ERROR_MAX_LIMIT_REACHED, 12)                                                           \
    X(CUPTI_ERROR_INSUFFICIENT_PRIVILEGES, 35)                                                     \
    X(CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED, 39)                                          \
    /* CUpti_ActivityKind */                                                                       \
    X(CUPTI_ACTIVITY_KIND_MEMCPY, 1)                                                               \
    X(CUPTI_ACTIVITY_KIND_MEMSET, 2)                                                               \
    X(CUPTI_ACTIVITY_KIND_DRIVER, 4)                                                               \
    X(CUPTI_ACTIVITY_KIND_RUNTIME, 5)                                                              \
    X(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, 10)                                                   \
    X(CUPTI_ACTIVITY_KIND_MARKER, 12)                                                              \
    X(CUPTI_ACTIVITY_KIND_OVERHEAD, 17)                                                            \
    X(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, 39)                                                \
    X(CUPTI_ACTIVITY_KIND_MEMORY2, 49)                                                             \
    /* CUpti_ActivityMemoryOperationType */                                                        \
    X(CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION, 1)                                          \
    X(CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE, 2)                                             \
    /* CUpti_ActivityFlag */                                                                       \
    X(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED, 1)                                                         \
    X(CUPTI_ACTIVITY_FLAG_MARKER_START, 2)                                                         \
    X(CUPTI_ACTIVITY_FLAG_MARKER_END, 4)                                                           \
    /* CUpti_ActivityThreadIdType */                                                               \
    X(CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM, 1)                                                     \
    /* CUpti_ExternalCorrelationKind */                                                            \
    X(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, 3)                                                  \
    /* CUpti_CallbackDomain, CUpti_CallbackIdResource */                                           \
    X(CUPTI_CB_DOMAIN_DRIVER_API, 1)                                                               \
    X(CUPTI_CB_DOMAIN_RUNTIME_API, 2)                                                              \
    X(CUPTI_CB_DOMAIN_RESOURCE, 3)                                                                 \
    X(CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED, 20)
#ifndef CUPTI_API_VERSION /* with CUPTI's own headers these names are taken */
enum {
#define X(name, number) name = number,
    CUPTI_NUMBER_TABLE(X)
#undef X
};
#endif

/* ---- records: aligned to 8, packed */

#define CUPTI_RECORD __attribute__((packed, aligned(8)))

struct cupti_kernel {
    int32_t kind;
    uint8_t cache_config, shared_memory_config;
    uint16_t registers;
    int32_t partitioned_requested, partitioned_executed;
    uint64_t start, end, completed; /* 0: not known */
    uint32_t device, context, stream;
    int32_t grid[3], block[3];
    int32_t static_shared, dynamic_shared; /* bytes a block */
    uint32_t local_per_thread, local_total;
    uint32_t correlation;
    int64_t grid_id;
    const char *name; /* mangled; lives as long as its module */
    void *reserved;
    uint64_t queued, submitted;
    uint8_t launch_type, carveout_requested, carveout, padding;
    uint32_t shared_executed;
    uint64_t graph_node; /* 0: of no graph */
    int32_t shared_limit;
    uint32_t graph;
} CUPTI_RECORD;

struct cupti_memcpy {
    int32_t kind;
    uint8_t copy_kind, source_kind, target_kind, flags;
    uint64_t bytes, start, end;
    uint32_t device, context, stream;
    uint32_t correlation, runtime_correlation, padding;
    void *reserved;
    uint64_t graph_node;
    uint32_t graph;
} CUPTI_RECORD;

struct cupti_memset {
    int32_t kind;
    uint32_t value;
    uint64_t bytes, start, end;
    uint32_t device, context, stream;
    uint32_t correlation;
    uint16_t flags, memory_kind;
    uint32_t padding;
    void *reserved;
    uint64_t graph_node;
    uint32_t graph;
} CUPTI_RECORD;

struct cupti_memory { /* that was allocated or released */
    int32_t kind, operation, memory_kind;
    uint32_t correlation;
    uint64_t address, bytes, timestamp, pc;
    uint32_t process, device, context, stream;
} CUPTI_RECORD;

struct cupti_call { /* of the runtime or the driver */
    int32_t kind;
    uint32_t function;
    uint64_t start, end;
    uint32_t process, thread;
    uint32_t correlation, result;
} CUPTI_RECORD;

struct cupti_external {
    int32_t kind, external_kind;
    uint64_t id;
    uint32_t correlation, reserved;
} CUPTI_RECORD;

struct cupti_marker { /* one end of a range */
    int32_t kind;
    uint32_t flags;
    uint64_t timestamp;
    uint32_t id;
    int32_t object_kind;
    uint32_t process, thread, stream; /* of a thread: the first two */
    uint32_t padding;
    const char *name, *domain; /* name: NULL at the end of a range */
} CUPTI_RECORD;

struct cupti_overhead {
    int32_t kind, overhead_kind, object_kind;
    uint32_t process, thread, stream;
    uint64_t start, end;
} CUPTI_RECORD;

/* What a callback of the domain RESOURCE is given, and what it says of a graph's node. */
struct cupti_resource {
    void *context, *handle, *descriptor;
};
struct cupti_graph_data {
    void *graph, *original_graph, *node, *original_node;
};

/* ---- functions */

typedef uint64_t cupti_timestamp(void);
typedef void cupti_buffer_request(uint8_t **buffer, size_t *bytes, size_t *most_records);
typedef void cupti_buffer_complete(void *context, uint32_t stream, uint8_t *buffer, size_t bytes,
                                   size_t valid);
typedef void cupti_callback(void *ctx, int32_t domain, uint32_t id, const void *data);

/* name here, name there, parameters; all return CUptiResult */
#define CUPTI_FUNCTION_TABLE(X)                                                                    \
    X(get_version, "cuptiGetVersion", (uint32_t * version))                                        \
    X(error_text, "cuptiGetResultString", (int32_t result, const char **text))                     \
    X(subscribe, "cuptiSubscribe", (void **subscriber, cupti_callback *f, void *ctx))              \
    X(unsubscribe, "cuptiUnsubscribe", (void *subscriber))                                         \
    X(enable_callback, "cuptiEnableCallback",                                                      \
      (uint32_t on, void *subscriber, int32_t domain, uint32_t id))                                \
    X(callback_name, "cuptiGetCallbackName", (int32_t domain, uint32_t id, const char **name))     \
    X(register_timestamp, "cuptiActivityRegisterTimestampCallback", (cupti_timestamp * f))         \
    X(register_buffers, "cuptiActivityRegisterCallbacks",                                          \
      (cupti_buffer_request * request, cupti_buffer_complete * complete))                          \
    X(set_thread_id_type, "cuptiSetThreadIdType", (int32_t type))                                  \
    X(enable, "cuptiActivityEnable", (int32_t kind))                                               \
    X(disable, "cuptiActivityDisable", (int32_t kind))                                             \
    X(flush, "cuptiActivityFlushAll", (uint32_t flag))                                             \
    X(next_record, "cuptiActivityGetNextRecord",                                                   \
      (uint8_t * buffer, size_t valid, int32_t * *record))                                         \
    X(dropped, "cuptiActivityGetNumDroppedRecords", (void *context, uint32_t stream, size_t *n))   \
    X(push_external, "cuptiActivityPushExternalCorrelationId", (int32_t kind, uint64_t id))        \
    X(pop_external, "cuptiActivityPopExternalCorrelationId", (int32_t kind, uint64_t * id))        \
    X(graph_node_id, "cuptiGetGraphNodeId", (void *node, uint64_t *id))

struct cupti {
#define X(name, function, parameters) int32_t(*name) parameters;
    CUPTI_FUNCTION_TABLE(X)
#undef X
    uint32_t version; /* 130001 of CUDA 13.0 */
};

/* Fills *out from `file`, or where that is NULL from the CUPTI of this program's CUDA version, as
 * the loader or CUDA's usual folders have it; what it was found by goes to `path` (may be NULL). It
 * stays loaded. false: it does not serve; `why` has the reason. */
enum { CUPTI_PATH_BYTES = 512, CUPTI_WHY_BYTES = 300 };
bool cupti_load(struct cupti *out, const char *file, char path[CUPTI_PATH_BYTES],
                char why[CUPTI_WHY_BYTES]);
/* "CUPTI_ERROR_..."; never NULL. */
const char *cupti_error_text(const struct cupti *lib, int32_t result);

#endif
