/* The numbers of cuDNN's own headers, for test_cudnn_graph.c. */
#include <cudnn.h>

#include "kernels/attention/cudnn_api.h"

extern const int64_t cudnn_header_numbers[];
const int64_t cudnn_header_numbers[] = {
#define X(name, number) (int64_t) name,
    CUDNN_NUMBER_TABLE(X)
#undef X
};
