/* The numbers and layouts of CUPTI's own headers, for test_cupti_api.c. */
#include <cupti.h>

#include "kernels/activity/cupti_api.h"

extern const int64_t cupti_header_numbers[];
const int64_t cupti_header_numbers[] = {
#define X(name, number) (int64_t) name,
    CUPTI_NUMBER_TABLE(X)
#undef X
};

#define SAME(ours, theirs, field, of_theirs)                                                       \
    _Static_assert(offsetof(struct ours, field) == offsetof(theirs, of_theirs), #of_theirs)

SAME(cupti_kernel, CUpti_ActivityKernel10, registers, registersPerThread);
SAME(cupti_kernel, CUpti_ActivityKernel10, start, start);
SAME(cupti_kernel, CUpti_ActivityKernel10, end, end);
SAME(cupti_kernel, CUpti_ActivityKernel10, stream, streamId);
SAME(cupti_kernel, CUpti_ActivityKernel10, grid, gridX);
SAME(cupti_kernel, CUpti_ActivityKernel10, block, blockX);
SAME(cupti_kernel, CUpti_ActivityKernel10, static_shared, staticSharedMemory);
SAME(cupti_kernel, CUpti_ActivityKernel10, dynamic_shared, dynamicSharedMemory);
SAME(cupti_kernel, CUpti_ActivityKernel10, local_per_thread, localMemoryPerThread);
SAME(cupti_kernel, CUpti_ActivityKernel10, correlation, correlationId);
SAME(cupti_kernel, CUpti_ActivityKernel10, name, name);
SAME(cupti_kernel, CUpti_ActivityKernel10, launch_type, launchType);
SAME(cupti_kernel, CUpti_ActivityKernel10, shared_executed, sharedMemoryExecuted);
SAME(cupti_kernel, CUpti_ActivityKernel10, graph_node, graphNodeId);
SAME(cupti_kernel, CUpti_ActivityKernel10, graph, graphId);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, copy_kind, copyKind);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, bytes, bytes);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, start, start);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, stream, streamId);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, correlation, correlationId);
SAME(cupti_memcpy, CUpti_ActivityMemcpy6, graph_node, graphNodeId);
SAME(cupti_memset, CUpti_ActivityMemset4, value, value);
SAME(cupti_memset, CUpti_ActivityMemset4, start, start);
SAME(cupti_memset, CUpti_ActivityMemset4, stream, streamId);
SAME(cupti_memset, CUpti_ActivityMemset4, correlation, correlationId);
SAME(cupti_memset, CUpti_ActivityMemset4, memory_kind, memoryKind);
SAME(cupti_memset, CUpti_ActivityMemset4, graph_node, graphNodeId);
SAME(cupti_memory, CUpti_ActivityMemory4, operation, memoryOperationType);
SAME(cupti_memory, CUpti_ActivityMemory4, memory_kind, memoryKind);
SAME(cupti_memory, CUpti_ActivityMemory4, correlation, correlationId);
SAME(cupti_memory, CUpti_ActivityMemory4, address, address);
SAME(cupti_memory, CUpti_ActivityMemory4, bytes, bytes);
SAME(cupti_memory, CUpti_ActivityMemory4, timestamp, timestamp);
SAME(cupti_memory, CUpti_ActivityMemory4, pc, PC);
SAME(cupti_memory, CUpti_ActivityMemory4, process, processId);
SAME(cupti_memory, CUpti_ActivityMemory4, device, deviceId);
SAME(cupti_memory, CUpti_ActivityMemory4, stream, streamId);
SAME(cupti_call, CUpti_ActivityAPI, function, cbid);
SAME(cupti_call, CUpti_ActivityAPI, start, start);
SAME(cupti_call, CUpti_ActivityAPI, thread, threadId);
SAME(cupti_call, CUpti_ActivityAPI, correlation, correlationId);
SAME(cupti_call, CUpti_ActivityAPI, result, returnValue);
SAME(cupti_external, CUpti_ActivityExternalCorrelation, external_kind, externalKind);
SAME(cupti_external, CUpti_ActivityExternalCorrelation, id, externalId);
SAME(cupti_external, CUpti_ActivityExternalCorrelation, correlation, correlationId);
SAME(cupti_marker, CUpti_ActivityMarker2, flags, flags);
SAME(cupti_marker, CUpti_ActivityMarker2, timestamp, timestamp);
SAME(cupti_marker, CUpti_ActivityMarker2, id, id);
SAME(cupti_marker, CUpti_ActivityMarker2, process, objectId);
SAME(cupti_marker, CUpti_ActivityMarker2, name, name);
SAME(cupti_marker, CUpti_ActivityMarker2, domain, domain);
SAME(cupti_overhead, CUpti_ActivityOverhead3, overhead_kind, overheadKind);
SAME(cupti_overhead, CUpti_ActivityOverhead3, process, objectId);
SAME(cupti_overhead, CUpti_ActivityOverhead3, start, start);
SAME(cupti_resource, CUpti_ResourceData, descriptor, resourceDescriptor);
SAME(cupti_graph_data, CUpti_GraphData, node, node);
SAME(cupti_graph_data, CUpti_GraphData, original_node, originalNode);
