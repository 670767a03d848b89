/* Attention as a graph of cuDNN's operations: two tables, of tensors and of operations between
 * them, in the library's order. Before it: cudnn_api.c; after it: attention_cudnn.c, which asks for
 * a plan. */
#include "kernels/attention/cudnn_graph.h"

#include <stdbool.h>

/* ---- the tables */

/* Values inside the kernel, after the operands. */
enum virtual_tensor {
    PRODUCTS = CUDNN_OPERANDS + 1, /* q k^T */
    SCORES,                        /* times scale */
    KEY_OF,                        /* every score's key, and row */
    ROW_OF,
    KEY_IS_REAL,
    ROW_IS_REAL,
    IS_REAL,
    REAL_SCORES,
    KEY_OF_REAL,
    ROW_OF_REAL,
    ROW_PLUS_KEYS,
    LAST_KEY, /* that the row sees */
    IS_VISIBLE,
    VISIBLE_SCORES,
    MAX,
    BELOW_MAX,
    WEIGHTS, /* exp of it */
    SUM,
    LOG_SUM,
    STATISTIC, /* LOG_SUM + MAX */
    PROBABILITIES,
    TENSORS
};

enum extent { QUERIES, KEYS_ACROSS, VALUES, RESULTS, ONE, MATRIX, COLUMN };
struct tensor_row {
    enum cudnn_number type;
    enum extent extent;
};
static const struct tensor_row tensors[TENSORS] = {
    [CUDNN_Q] = {CUDNN_DATA_BFLOAT16, QUERIES},
    [CUDNN_K] = {CUDNN_DATA_BFLOAT16, KEYS_ACROSS},
    [CUDNN_V] = {CUDNN_DATA_BFLOAT16, VALUES},
    [CUDNN_OUT] = {CUDNN_DATA_BFLOAT16, RESULTS},
    [CUDNN_ROWS] = {CUDNN_DATA_INT32, ONE},
    [CUDNN_KEYS] = {CUDNN_DATA_INT32, ONE},
    [CUDNN_SCALE] = {CUDNN_DATA_FLOAT, ONE},
    [CUDNN_INVISIBLE] = {CUDNN_DATA_FLOAT, ONE},
    [PRODUCTS] = {CUDNN_DATA_FLOAT, MATRIX},
    [SCORES] = {CUDNN_DATA_FLOAT, MATRIX},
    [KEY_OF] = {CUDNN_DATA_INT32, MATRIX},
    [ROW_OF] = {CUDNN_DATA_INT32, MATRIX},
    [KEY_IS_REAL] = {CUDNN_DATA_BOOLEAN, MATRIX},
    [ROW_IS_REAL] = {CUDNN_DATA_BOOLEAN, MATRIX},
    [IS_REAL] = {CUDNN_DATA_BOOLEAN, MATRIX},
    [REAL_SCORES] = {CUDNN_DATA_FLOAT, MATRIX},
    [KEY_OF_REAL] = {CUDNN_DATA_INT32, MATRIX},
    [ROW_OF_REAL] = {CUDNN_DATA_INT32, MATRIX},
    [ROW_PLUS_KEYS] = {CUDNN_DATA_INT32, MATRIX},
    [LAST_KEY] = {CUDNN_DATA_INT32, MATRIX},
    [IS_VISIBLE] = {CUDNN_DATA_BOOLEAN, MATRIX},
    [VISIBLE_SCORES] = {CUDNN_DATA_FLOAT, MATRIX},
    [MAX] = {CUDNN_DATA_FLOAT, COLUMN},
    [BELOW_MAX] = {CUDNN_DATA_FLOAT, MATRIX},
    [WEIGHTS] = {CUDNN_DATA_FLOAT, MATRIX},
    [SUM] = {CUDNN_DATA_FLOAT, COLUMN},
    [LOG_SUM] = {CUDNN_DATA_FLOAT, COLUMN},
    [STATISTIC] = {CUDNN_DATA_FLOAT, COLUMN},
    [PROBABILITIES] = {CUDNN_DATA_BFLOAT16, MATRIX},
};

enum operation_kind { MATMUL, POINTWISE, REDUCTION };
enum { BY_ROW = 2, BY_KEY = 3 }; /* axes of the matrix of scores */
struct operation_row {
    enum operation_kind kind;
    enum cudnn_number mode, precision;
    int x, b, t, y; /* tensors; 0: none. t: where a choice takes x, else b */
    int axis;       /* of an index */
    int m, n, k;    /* of a matmul: tensors with its real sizes */
};
static const struct operation_row operations[] = {
    {MATMUL, 0, CUDNN_DATA_FLOAT, CUDNN_Q, CUDNN_K, 0, PRODUCTS, 0, CUDNN_ROWS, CUDNN_KEYS, 0},
    {POINTWISE, CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, PRODUCTS, CUDNN_SCALE, 0, SCORES, 0, 0, 0,
     0},
    /* what there is: rows and keys up to the real numbers of them */
    {POINTWISE, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, SCORES, 0, 0, ROW_OF, BY_ROW, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, SCORES, 0, 0, KEY_OF, BY_KEY, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_CMP_LT, CUDNN_DATA_BOOLEAN, ROW_OF, CUDNN_ROWS, 0, ROW_IS_REAL, 0,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_CMP_LT, CUDNN_DATA_BOOLEAN, KEY_OF, CUDNN_KEYS, 0, KEY_IS_REAL, 0,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_LOGICAL_AND, CUDNN_DATA_BOOLEAN, ROW_IS_REAL, KEY_IS_REAL, 0,
     IS_REAL, 0, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, SCORES, CUDNN_INVISIBLE, IS_REAL,
     REAL_SCORES, 0, 0, 0, 0},
    /* what a row sees: row + keys - rows >= key */
    {POINTWISE, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, REAL_SCORES, 0, 0, ROW_OF_REAL, BY_ROW,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, REAL_SCORES, 0, 0, KEY_OF_REAL, BY_KEY,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_ADD, CUDNN_DATA_INT32, ROW_OF_REAL, CUDNN_KEYS, 0, ROW_PLUS_KEYS, 0,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_SUB, CUDNN_DATA_INT32, ROW_PLUS_KEYS, CUDNN_ROWS, 0, LAST_KEY, 0, 0,
     0, 0},
    {POINTWISE, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, LAST_KEY, KEY_OF_REAL, 0, IS_VISIBLE, 0,
     0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, REAL_SCORES, CUDNN_INVISIBLE,
     IS_VISIBLE, VISIBLE_SCORES, 0, 0, 0, 0},
    /* softmax */
    {REDUCTION, CUDNN_REDUCE_TENSOR_MAX, CUDNN_DATA_FLOAT, VISIBLE_SCORES, 0, 0, MAX, 0, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_SUB, CUDNN_DATA_FLOAT, VISIBLE_SCORES, MAX, 0, BELOW_MAX, 0, 0, 0,
     0},
    {POINTWISE, CUDNN_POINTWISE_EXP, CUDNN_DATA_FLOAT, BELOW_MAX, 0, 0, WEIGHTS, 0, 0, 0, 0},
    {REDUCTION, CUDNN_REDUCE_TENSOR_ADD, CUDNN_DATA_FLOAT, WEIGHTS, 0, 0, SUM, 0, 0, 0, 0},
    /* Nobody reads it, and without it the kernels that the library makes for Hopper read outside
     * their operands. */
    {POINTWISE, CUDNN_POINTWISE_LOG, CUDNN_DATA_FLOAT, SUM, 0, 0, LOG_SUM, 0, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, LOG_SUM, MAX, 0, STATISTIC, 0, 0, 0, 0},
    {POINTWISE, CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, WEIGHTS, SUM, 0, PROBABILITIES, 0, 0, 0, 0},
    {MATMUL, 0, CUDNN_DATA_FLOAT, PROBABILITIES, CUDNN_V, 0, CUDNN_OUT, 0, CUDNN_ROWS, 0,
     CUDNN_KEYS},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

/* How the library names the operands of an operation, and what the operation does. */
static const struct kind_row {
    enum cudnn_number descriptor, mode, precision, mode_type;
    enum cudnn_number operation, what, x, b, t, y;
} kinds[] = {
    [MATMUL] = {.descriptor = CUDNN_BACKEND_MATMUL_DESCRIPTOR,
                .precision = CUDNN_ATTR_MATMUL_COMP_TYPE,
                .operation = CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
                .what = CUDNN_ATTR_OPERATION_MATMUL_DESC,
                .x = CUDNN_ATTR_OPERATION_MATMUL_ADESC,
                .b = CUDNN_ATTR_OPERATION_MATMUL_BDESC,
                .y = CUDNN_ATTR_OPERATION_MATMUL_CDESC},
    [POINTWISE] = {.descriptor = CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
                   .mode = CUDNN_ATTR_POINTWISE_MODE,
                   .mode_type = CUDNN_TYPE_POINTWISE_MODE,
                   .precision = CUDNN_ATTR_POINTWISE_MATH_PREC,
                   .operation = CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
                   .what = CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
                   .x = CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                   .b = CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                   .t = CUDNN_ATTR_OPERATION_POINTWISE_TDESC,
                   .y = CUDNN_ATTR_OPERATION_POINTWISE_YDESC},
    [REDUCTION] = {.descriptor = CUDNN_BACKEND_REDUCTION_DESCRIPTOR,
                   .mode = CUDNN_ATTR_REDUCTION_OPERATOR,
                   .mode_type = CUDNN_TYPE_REDUCTION_OPERATOR_TYPE,
                   .precision = CUDNN_ATTR_REDUCTION_COMP_TYPE,
                   .operation = CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
                   .what = CUDNN_ATTR_OPERATION_REDUCTION_DESC,
                   .x = CUDNN_ATTR_OPERATION_REDUCTION_XDESC,
                   .y = CUDNN_ATTR_OPERATION_REDUCTION_YDESC},
};

/* ---- making it */

enum status cudnn_failed(const struct cudnn *lib, cudnn_status e, const char *what,
                         struct error *err) {
    char words[400] = "";
    lib->last_error(words, sizeof words);
    return error_set(err, STATUS_RUN_FAILED, "cuDNN, %s: %s%s%s", what, lib->status_text(e),
                     words[0] ? ": " : "", words);
}

/* The first failure of a row of calls; later ones are left out. */
struct building {
    struct cudnn_graph *g;
    cudnn_status status;
};

static void set(struct building *b, cudnn_descriptor d, int attribute, int type, int64_t n,
                const void *values) {
    if (b->status == 0) b->status = b->g->lib->set(d, attribute, type, n, values);
}

static void set_number(struct building *b, cudnn_descriptor d, int attribute, int type, int value) {
    set(b, d, attribute, type, 1, &value);
}

static void set_tensor(struct building *b, cudnn_descriptor d, int attribute,
                       const cudnn_descriptor *made, int tensor) {
    if (tensor) set(b, d, attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &made[tensor]);
}

static cudnn_descriptor make(struct building *b, enum cudnn_number kind) {
    struct cudnn_graph *g = b->g;
    if (b->status != 0) return NULL;
    b->status = g->lib->make((int)kind, &g->made[g->n]);
    return b->status == 0 ? g->made[g->n++] : NULL;
}

static void finalize(struct building *b, cudnn_descriptor d) {
    if (b->status == 0) b->status = b->g->lib->finalize(d);
}

cudnn_descriptor cudnn_graph_make(struct cudnn_graph *g, enum cudnn_number kind) {
    struct building b = {g, 0};
    return g->n < CUDNN_DESCRIPTORS ? make(&b, kind) : NULL;
}

/* size: {1, heads, rows, columns} and the like; elements between neighbours. */
static void measure(const struct cudnn_shape *s, enum extent extent, int64_t size[4],
                    int64_t stride[4]) {
    const int64_t plane = s->capacity * s->D, all = s->rows * s->capacity;
    const struct {
        int64_t size[4], stride[4];
    } extents[] = {
        [QUERIES] = {{1, s->H, s->rows, s->D}, {s->rows * s->ldq, s->D, s->ldq, 1}},
        [KEYS_ACROSS] = {{1, s->K, s->D, s->capacity}, {s->K * plane, plane, 1, s->D}},
        [VALUES] = {{1, s->K, s->capacity, s->D}, {s->K * plane, plane, s->D, 1}},
        [RESULTS] = {{1, s->H, s->rows, s->D}, {s->rows * s->ldo, s->D, s->ldo, 1}},
        [ONE] = {{1, 1, 1, 1}, {1, 1, 1, 1}},
        [MATRIX] = {{1, s->H, s->rows, s->capacity}, {s->H * all, all, s->capacity, 1}},
        [COLUMN] = {{1, s->H, s->rows, 1}, {s->H * s->rows, s->rows, 1, 1}},
    };
    for (int i = 0; i < 4; i++) {
        size[i] = extents[extent].size[i];
        stride[i] = extents[extent].stride[i];
    }
}

static cudnn_descriptor make_tensor(struct building *b, const struct cudnn_shape *s, int tensor) {
    const struct tensor_row *row = &tensors[tensor];
    const int64_t id = tensor, alignment = row->type == CUDNN_DATA_INT32 ? 4 : 16;
    const bool is_virtual = tensor > CUDNN_OPERANDS;
    const bool by_value = tensor == CUDNN_SCALE || tensor == CUDNN_INVISIBLE;
    int64_t size[4], stride[4];
    cudnn_descriptor d = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    measure(s, row->extent, size, stride);
    set_number(b, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, (int)row->type);
    set(b, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, size);
    set(b, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(b, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(b, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set(b, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(b, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finalize(b, d);
    return d;
}

/* What an operation does, without its operands. */
static cudnn_descriptor make_what(struct building *b, const struct operation_row *o) {
    const struct kind_row *k = &kinds[o->kind];
    const int64_t axis = o->axis;
    cudnn_descriptor d = make(b, k->descriptor);
    if (o->kind != MATMUL) set_number(b, d, (int)k->mode, (int)k->mode_type, (int)o->mode);
    set_number(b, d, (int)k->precision, CUDNN_TYPE_DATA_TYPE, (int)o->precision);
    if (axis) set(b, d, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(b, d);
    return d;
}

static cudnn_descriptor make_operation(struct building *b, const struct operation_row *o,
                                       const cudnn_descriptor *made) {
    const struct kind_row *k = &kinds[o->kind];
    const cudnn_descriptor what = make_what(b, o);
    cudnn_descriptor d = make(b, k->operation);
    set(b, d, (int)k->what, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &what);
    set_tensor(b, d, (int)k->x, made, o->x);
    set_tensor(b, d, (int)k->b, made, o->b);
    set_tensor(b, d, (int)k->t, made, o->t);
    set_tensor(b, d, (int)k->y, made, o->y);
    set_tensor(b, d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, made, o->m);
    set_tensor(b, d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, made, o->n);
    set_tensor(b, d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, made, o->k);
    finalize(b, d);
    return d;
}

enum status cudnn_graph_open(struct cudnn_graph *g, const struct cudnn *lib, cudnn_handle handle,
                             const struct cudnn_shape *shape, struct error *err) {
    _Static_assert(TENSORS + 2 * OPERATIONS + 20 <= CUDNN_DESCRIPTORS, "and a plan's");
    *g = (struct cudnn_graph){.lib = lib};
    struct building b = {g, 0};
    cudnn_descriptor made[TENSORS] = {NULL}, ops[OPERATIONS];
    for (int i = 1; i < TENSORS; i++) made[i] = make_tensor(&b, shape, i);
    for (int i = 0; i < OPERATIONS; i++) ops[i] = make_operation(&b, &operations[i], made);
    g->graph = make(&b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(&b, g->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, OPERATIONS,
        ops);
    if (handle) set(&b, g->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    finalize(&b, g->graph);
    return b.status == 0 ? STATUS_OK : cudnn_failed(lib, b.status, "a graph of attention", err);
}

void cudnn_graph_close(struct cudnn_graph *g) {
    while (g->n > 0) g->lib->drop(g->made[--g->n]);
}
