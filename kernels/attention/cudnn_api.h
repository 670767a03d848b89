/* The part of cuDNN that attention_cudnn.c uses: the backend interface of version 9, found by
 * dlopen. Declared here, so that a program with this kernel is built without cuDNN's headers and
 * starts without its library; where the headers are, a test compares the numbers with theirs. */
#ifndef KERNELS_ATTENTION_CUDNN_API_H
#define KERNELS_ATTENTION_CUDNN_API_H

#include <stddef.h>
#include <stdint.h>

/* ---- names and numbers of the manual */

#define CUDNN_NUMBER_TABLE(X)                                                                      \
    /* types of elements */                                                                        \
    X(CUDNN_DATA_FLOAT, 0)                                                                         \
    X(CUDNN_DATA_INT32, 4)                                                                         \
    X(CUDNN_DATA_BFLOAT16, 9)                                                                      \
    X(CUDNN_DATA_BOOLEAN, 11)                                                                      \
    /* types of attributes */                                                                      \
    X(CUDNN_TYPE_HANDLE, 0)                                                                        \
    X(CUDNN_TYPE_DATA_TYPE, 1)                                                                     \
    X(CUDNN_TYPE_BOOLEAN, 2)                                                                       \
    X(CUDNN_TYPE_INT64, 3)                                                                         \
    X(CUDNN_TYPE_VOID_PTR, 6)                                                                      \
    X(CUDNN_TYPE_HEUR_MODE, 8)                                                                     \
    X(CUDNN_TYPE_POINTWISE_MODE, 14)                                                               \
    X(CUDNN_TYPE_BACKEND_DESCRIPTOR, 15)                                                           \
    X(CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 18)                                                      \
    X(CUDNN_TYPE_CHAR, 24)                                                                         \
    /* kinds of descriptors */                                                                     \
    X(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, 0)                                                       \
    X(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, 3)                                                       \
    X(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, 4)                                                      \
    X(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, 5)                                                  \
    X(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, 13)                                            \
    X(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, 15)                                                 \
    X(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, 16)                                                   \
    X(CUDNN_BACKEND_TENSOR_DESCRIPTOR, 17)                                                         \
    X(CUDNN_BACKEND_MATMUL_DESCRIPTOR, 18)                                                         \
    X(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 19)                                               \
    X(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, 21)                                                      \
    X(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, 22)                                            \
    X(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, 38)                                                     \
    /* attributes */                                                                               \
    X(CUDNN_ATTR_POINTWISE_MODE, 0)                                                                \
    X(CUDNN_ATTR_POINTWISE_MATH_PREC, 1)                                                           \
    X(CUDNN_ATTR_POINTWISE_AXIS, 9)                                                                \
    X(CUDNN_ATTR_ENGINEHEUR_MODE, 200)                                                             \
    X(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, 201)                                                  \
    X(CUDNN_ATTR_ENGINEHEUR_RESULTS, 202)                                                          \
    X(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, 204)                                                       \
    X(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, 400)                                                       \
    X(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 401)                                                \
    X(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 402)                                               \
    X(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 750)                                           \
    X(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, 751)                                                   \
    X(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 752)                                                   \
    X(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 753)                                                   \
    X(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, 758)                                                   \
    X(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, 800)                                                       \
    X(CUDNN_ATTR_OPERATIONGRAPH_OPS, 801)                                                          \
    X(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 900)                                                       \
    X(CUDNN_ATTR_TENSOR_DATA_TYPE, 901)                                                            \
    X(CUDNN_ATTR_TENSOR_DIMENSIONS, 902)                                                           \
    X(CUDNN_ATTR_TENSOR_STRIDES, 903)                                                              \
    X(CUDNN_ATTR_TENSOR_UNIQUE_ID, 906)                                                            \
    X(CUDNN_ATTR_TENSOR_IS_VIRTUAL, 907)                                                           \
    X(CUDNN_ATTR_TENSOR_IS_BY_VALUE, 908)                                                          \
    X(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, 1000)                                                    \
    X(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, 1001)                                                 \
    X(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, 1003)                                                     \
    X(CUDNN_ATTR_MATMUL_COMP_TYPE, 1500)                                                           \
    X(CUDNN_ATTR_OPERATION_MATMUL_ADESC, 1520)                                                     \
    X(CUDNN_ATTR_OPERATION_MATMUL_BDESC, 1521)                                                     \
    X(CUDNN_ATTR_OPERATION_MATMUL_CDESC, 1522)                                                     \
    X(CUDNN_ATTR_OPERATION_MATMUL_DESC, 1523)                                                      \
    X(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, 1525)                                      \
    X(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, 1526)                                      \
    X(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, 1527)                                      \
    X(CUDNN_ATTR_REDUCTION_OPERATOR, 1600)                                                         \
    X(CUDNN_ATTR_REDUCTION_COMP_TYPE, 1601)                                                        \
    X(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, 1610)                                                  \
    X(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, 1611)                                                  \
    X(CUDNN_ATTR_OPERATION_REDUCTION_DESC, 1612)                                                   \
    X(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, 2702)                                             \
    /* values of attributes */                                                                     \
    X(CUDNN_POINTWISE_ADD, 0)                                                                      \
    X(CUDNN_POINTWISE_MUL, 1)                                                                      \
    X(CUDNN_POINTWISE_DIV, 6)                                                                      \
    X(CUDNN_POINTWISE_SUB, 9)                                                                      \
    X(CUDNN_POINTWISE_EXP, 13)                                                                     \
    X(CUDNN_POINTWISE_LOG, 15)                                                                     \
    X(CUDNN_POINTWISE_CMP_GE, 303)                                                                 \
    X(CUDNN_POINTWISE_CMP_LT, 304)                                                                 \
    X(CUDNN_POINTWISE_LOGICAL_AND, 400)                                                            \
    X(CUDNN_POINTWISE_GEN_INDEX, 501)                                                              \
    X(CUDNN_POINTWISE_BINARY_SELECT, 601)                                                          \
    X(CUDNN_REDUCE_TENSOR_ADD, 0)                                                                  \
    X(CUDNN_REDUCE_TENSOR_MAX, 3)                                                                  \
    X(CUDNN_HEUR_MODE_A, 3)
#ifndef CUDNN_VERSION /* a test that compares has them from the library's headers */
enum cudnn_number {
#define X(name, number) name = number,
    CUDNN_NUMBER_TABLE(X)
#undef X
};
#endif

typedef int cudnn_status; /* 0: success */
typedef struct cudnn_context *cudnn_handle;
typedef void *cudnn_descriptor;

/* ---- the library */

/* name, function, parameters */
#define CUDNN_FUNCTION_TABLE(X)                                                                    \
    X(create, "cudnnCreate", (cudnn_handle *))                                                     \
    X(destroy, "cudnnDestroy", (cudnn_handle))                                                     \
    X(set_stream, "cudnnSetStream", (cudnn_handle, void *stream))                                  \
    X(make, "cudnnBackendCreateDescriptor", (int kind, cudnn_descriptor *))                        \
    X(drop, "cudnnBackendDestroyDescriptor", (cudnn_descriptor))                                   \
    X(finalize, "cudnnBackendFinalize", (cudnn_descriptor))                                        \
    X(set, "cudnnBackendSetAttribute",                                                             \
      (cudnn_descriptor, int attribute, int type, int64_t n, const void *values))                  \
    X(get, "cudnnBackendGetAttribute",                                                             \
      (cudnn_descriptor, int attribute, int type, int64_t most, int64_t *n, void *values))         \
    X(execute, "cudnnBackendExecute",                                                              \
      (cudnn_handle, cudnn_descriptor plan, cudnn_descriptor variant_pack))

struct cudnn {
    int64_t version; /* 91400 is 9.14.0 */
#define X(name, function, parameters) cudnn_status(*name) parameters;
    CUDNN_FUNCTION_TABLE(X)
#undef X
    const char *(*status_text)(cudnn_status);
    void (*last_error)(char *text, size_t size); /* what the newest failure was about */
};

/* The library of this machine, loaded by the first call and kept; NULL: *why says what is missing
 * (why may be NULL). Any thread. */
const struct cudnn *cudnn_library(const char **why);

#endif
