/* linear through oneDNN's matmul: what reaches the matrix units (AMX) of processors that have them.
 *
 * oneDNN is called single-threaded from each of the device's workers, on a fixed block of rows, so
 * no second thread pool spins. A weight is cut into slices of columns; each slice has a matmul for
 * 256 rows and one for 16. Rows that fill no block of 256 go through the small one, the last of
 * them padded to 16 in the worker's scratch. When a weight is packed both are run on the same
 * numbers: should they ever differ in a bit, the large one is left out, so that a row's result
 * cannot depend on how many rows came with it. (That the place of a row in its block does not
 * matter is for the tests to show.) Results go through scratch: written in place, with a row stride
 * wider than the slice, oneDNN 2.6 loses a third of its speed.
 *
 * Owns: oneDNN's objects, in weight->library. The packed weight lies in weight->data. */
#include "kernels/device.h"
#include "kernels/element.h"
#include "kernels/random.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdlib.h>
#include <string.h>

enum { SLICE_COLUMNS = 512, LARGE_ROWS = 256, SMALL_ROWS = 16, CACHE_LINE = 64 };

/* Of libgomp, whose header clang lacks. For the calling thread alone: oneDNN asks it. */
void omp_set_num_threads(int threads);

/* Memory objects without memory: pointers are set before each execution, hence one set a worker. */
struct handles {
    dnnl_memory_t x, w, bias, y, scratchpad;
};

/* `rows` rows [rows][K] times a slice of columns. */
struct matmul {
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t x, w, bias, y, scratchpad;
    struct handles *handles; /* [threads] */
    int32_t rows;
};

/* Slices of equal width share their matmuls: kind 0 serves all but the last, kind 1 the last. */
struct kind {
    int32_t columns;
    size_t slice_bytes; /* of a packed slice, whole cache lines */
    struct matmul large, small;
    bool agree; /* large and small give the same bits */
};

struct onednn_weight {
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [threads] */
    int threads;
    int32_t slices;
    struct kind kinds[2];
};

static size_t whole_lines(size_t bytes) {
    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static dnnl_data_type_t type_of(enum dtype dtype) {
    return dtype == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* ---- a worker's scratch: padded rows of x, their results, what oneDNN wants */

struct scratch {
    char *x, *y, *library;
};

static size_t scratch_x_bytes(struct weight_shape s) {
    return whole_lines(SMALL_ROWS * (size_t)s.K * dtype_bytes(s.dtype));
}

static size_t scratch_y_bytes(struct weight_shape s) {
    return whole_lines(LARGE_ROWS * (size_t)SLICE_COLUMNS * dtype_bytes(s.dtype));
}

static struct scratch scratch_of(struct device *dev, int worker, struct weight_shape s) {
    char *base = device_scratch(dev, worker);
    char *y = base + scratch_x_bytes(s);
    return (struct scratch){base, y, y + scratch_y_bytes(s)};
}

static size_t scratch_bytes(const struct onednn_weight *o, struct weight_shape s) {
    size_t library = 0;
    for (int i = 0; i < 2; i++) {
        size_t large = dnnl_memory_desc_get_size(&o->kinds[i].large.scratchpad);
        size_t small = dnnl_memory_desc_get_size(&o->kinds[i].small.scratchpad);
        if (large > library) library = large;
        if (small > library) library = small;
    }
    return scratch_x_bytes(s) + scratch_y_bytes(s) + library;
}

/* ---- describing a matmul */

static dnnl_status_t describe_operands(struct matmul *m, struct weight_shape s, int32_t columns) {
    dnnl_data_type_t type = type_of(s.dtype);
    dnnl_status_t st =
        dnnl_memory_desc_init_by_tag(&m->x, 2, (dnnl_dims_t){m->rows, s.K}, type, dnnl_ab);
    if (!st)
        st = dnnl_memory_desc_init_by_tag(&m->y, 2, (dnnl_dims_t){m->rows, columns}, type, dnnl_ab);
    if (!st && s.bias)
        st = dnnl_memory_desc_init_by_tag(&m->bias, 2, (dnnl_dims_t){1, columns}, type, dnnl_ab);
    return st;
}

/* `w`: layout of the packed weight, or "any" for oneDNN to choose. On success *pd is the caller's.
 */
static dnnl_status_t describe(struct matmul *m, dnnl_primitive_desc_t *pd, dnnl_engine_t engine,
                              struct weight_shape s, int32_t rows, int32_t columns,
                              const dnnl_memory_desc_t *w) {
    m->rows = rows;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t st = describe_operands(m, s, columns);
    if (!st) st = dnnl_matmul_desc_init(&matmul, &m->x, w, s.bias ? &m->bias : NULL, &m->y);
    if (!st) st = dnnl_primitive_attr_create(&attr);
    if (!st) st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!st) st = dnnl_primitive_desc_create(pd, &matmul, attr, engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    if (st) return st;
    m->w = *dnnl_primitive_desc_query_md(*pd, dnnl_query_weights_md, 0);
    m->scratchpad = *dnnl_primitive_desc_query_md(*pd, dnnl_query_scratchpad_md, 0);
    return dnnl_success;
}

static dnnl_status_t describe_large(struct matmul *m, dnnl_primitive_desc_t *pd,
                                    dnnl_engine_t engine, struct weight_shape s, int32_t columns) {
    dnnl_memory_desc_t any;
    dnnl_status_t st = dnnl_memory_desc_init_by_tag(&any, 2, (dnnl_dims_t){s.K, columns},
                                                    type_of(s.dtype), dnnl_format_tag_any);
    return st ? st : describe(m, pd, engine, s, LARGE_ROWS, columns, &any);
}

/* ---- slices */

static int32_t slices_of(struct weight_shape s) {
    return (s.N + SLICE_COLUMNS - 1) / SLICE_COLUMNS;
}

static int32_t columns_of_kind(struct weight_shape s, int kind) {
    int32_t last = s.N - (slices_of(s) - 1) * SLICE_COLUMNS;
    return kind == 0 && slices_of(s) > 1 ? SLICE_COLUMNS : last;
}

static dnnl_status_t slice_bytes(size_t *bytes, dnnl_engine_t engine, struct weight_shape s,
                                 int32_t columns) {
    struct matmul m = {0};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = describe_large(&m, &pd, engine, s, columns);
    if (!st) *bytes = whole_lines(dnnl_memory_desc_get_size(&m.w));
    dnnl_primitive_desc_destroy(pd);
    return st;
}

/* What oneDNN cannot describe counts as plain rows here; packing it fails with the reason. */
static size_t onednn_bytes(struct weight_shape s) {
    size_t most = 0, last = 0;
    dnnl_engine_t engine = NULL;
    omp_set_num_threads(1);
    dnnl_status_t st = dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (!st) st = slice_bytes(&most, engine, s, columns_of_kind(s, 0));
    if (!st) st = slice_bytes(&last, engine, s, columns_of_kind(s, 1));
    dnnl_engine_destroy(engine);
    if (st) return (size_t)s.N * (size_t)s.K * dtype_bytes(s.dtype);
    return most * (size_t)(slices_of(s) - 1) + last;
}

/* ---- execution */

static dnnl_status_t execute(const struct onednn_weight *o, const struct matmul *m, int worker,
                             const void *x, const void *w, const void *bias, void *y,
                             void *scratchpad) {
    const struct handles *h = &m->handles[worker];
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, h->x},
                              {DNNL_ARG_WEIGHTS, h->w},
                              {DNNL_ARG_DST, h->y},
                              {DNNL_ARG_SCRATCHPAD, h->scratchpad},
                              {DNNL_ARG_BIAS, h->bias}};
    void *pointers[] = {(void *)x, (void *)w, y, scratchpad, (void *)bias};
    const int n = bias ? 5 : 4;
    dnnl_status_t st = dnnl_success;
    omp_set_num_threads(1);
    for (int i = 0; i < n && !st; i++)
        st = dnnl_memory_set_data_handle(args[i].memory, pointers[i]);
    return st ? st : dnnl_primitive_execute(m->primitive, o->streams[worker], n, args);
}

/* ---- packing */

static dnnl_status_t create_handles(struct matmul *m, dnnl_engine_t engine, int threads,
                                    bool bias) {
    m->handles = calloc((size_t)threads, sizeof *m->handles);
    if (!m->handles) return dnnl_out_of_memory;
    dnnl_status_t st = dnnl_success;
    for (int i = 0; i < threads && !st; i++) {
        struct handles *h = &m->handles[i];
        st = dnnl_memory_create(&h->x, &m->x, engine, DNNL_MEMORY_NONE);
        if (!st) st = dnnl_memory_create(&h->w, &m->w, engine, DNNL_MEMORY_NONE);
        if (!st) st = dnnl_memory_create(&h->y, &m->y, engine, DNNL_MEMORY_NONE);
        if (!st) st = dnnl_memory_create(&h->scratchpad, &m->scratchpad, engine, DNNL_MEMORY_NONE);
        if (!st && bias) st = dnnl_memory_create(&h->bias, &m->bias, engine, DNNL_MEMORY_NONE);
    }
    return st;
}

static dnnl_status_t create_kind(struct onednn_weight *o, struct weight_shape s, int which) {
    struct kind *k = &o->kinds[which];
    k->columns = columns_of_kind(s, which);
    dnnl_primitive_desc_t large = NULL, small = NULL;
    dnnl_status_t st = describe_large(&k->large, &large, o->engine, s, k->columns);
    if (!st) st = describe(&k->small, &small, o->engine, s, SMALL_ROWS, k->columns, &k->large.w);
    k->slice_bytes = st ? 0 : whole_lines(dnnl_memory_desc_get_size(&k->large.w));
    if (!st) st = dnnl_primitive_create(&k->large.primitive, large);
    if (!st) st = dnnl_primitive_create(&k->small.primitive, small);
    if (!st) st = create_handles(&k->large, o->engine, o->threads, s.bias);
    if (!st) st = create_handles(&k->small, o->engine, o->threads, s.bias);
    dnnl_primitive_desc_destroy(large);
    dnnl_primitive_desc_destroy(small);
    return st;
}

static dnnl_status_t create(struct onednn_weight *o, struct device *dev, struct weight_shape s) {
    o->threads = device_threads(dev);
    o->slices = slices_of(s);
    o->streams = calloc((size_t)o->threads, sizeof(dnnl_stream_t));
    if (!o->streams) return dnnl_out_of_memory;
    omp_set_num_threads(1);
    dnnl_status_t st = dnnl_engine_create(&o->engine, dnnl_cpu, 0);
    for (int i = 0; i < o->threads && !st; i++)
        st = dnnl_stream_create(&o->streams[i], o->engine, dnnl_stream_default_flags);
    for (int i = 0; i < 2 && !st; i++) st = create_kind(o, s, i);
    return st;
}

static const struct kind *kind_of(const struct onednn_weight *o, int32_t slice) {
    return &o->kinds[slice == o->slices - 1];
}

static char *slice_data(const struct weight *w, int32_t slice) {
    const struct onednn_weight *o = w->library;
    return (char *)w->data + (size_t)slice * o->kinds[0].slice_bytes;
}

/* Plain rows [columns][K] of one slice into oneDNN's layout. */
static dnnl_status_t reorder_slice(const struct weight *w, int32_t slice, const void *rows) {
    const struct onednn_weight *o = w->library;
    const struct kind *k = kind_of(o, slice);
    dnnl_memory_desc_t plain;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t st = dnnl_memory_desc_init_by_tag(
        &plain, 2, (dnnl_dims_t){w->shape.K, k->columns}, type_of(w->shape.dtype), dnnl_ba);
    if (!st) st = dnnl_memory_create(&from, &plain, o->engine, (void *)rows);
    if (!st) st = dnnl_memory_create(&to, &k->large.w, o->engine, slice_data(w, slice));
    if (!st)
        st = dnnl_reorder_primitive_desc_create(&pd, &plain, o->engine, &k->large.w, o->engine,
                                                NULL);
    if (!st) st = dnnl_primitive_create(&reorder, pd);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (!st) st = dnnl_primitive_execute(reorder, o->streams[0], 2, args);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(pd);
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    return st;
}

/* Runs both matmuls of a kind over the same 256 rows of noise. large and small: their results. */
static dnnl_status_t compare_sizes(struct device *dev, const struct weight *w, int which, char *x,
                                   char *large, char *small) {
    struct onednn_weight *o = w->library;
    struct kind *k = &o->kinds[which];
    const struct weight_shape s = w->shape;
    const int32_t slice = which == 0 ? 0 : o->slices - 1;
    const size_t e = dtype_bytes(s.dtype), row_bytes = (size_t)k->columns * e;
    char *pad = scratch_of(dev, 0, s).library;
    const char *data = slice_data(w, slice);
    const void *bias = w->bias ? element_at(w->bias, (size_t)slice * SLICE_COLUMNS, s.dtype) : NULL;
    dnnl_status_t st = execute(o, &k->large, 0, x, data, bias, large, pad);
    k->agree = true;
    for (size_t t = 0; t < LARGE_ROWS && !st; t++) {
        if (t % SMALL_ROWS == 0)
            st = execute(o, &k->small, 0, x + t * (size_t)s.K * e, data, bias, small, pad);
        k->agree = k->agree && memcmp(large + t * row_bytes, small + t % SMALL_ROWS * row_bytes,
                                      row_bytes) == 0;
    }
    return st;
}

static dnnl_status_t decide_sizes(struct device *dev, const struct weight *w) {
    const struct weight_shape s = w->shape;
    const size_t e = dtype_bytes(s.dtype), elements = LARGE_ROWS * (size_t)s.K;
    char *x = malloc((elements + 3) * e);
    char *large = malloc(LARGE_ROWS * (size_t)SLICE_COLUMNS * e);
    char *small = malloc(SMALL_ROWS * (size_t)SLICE_COLUMNS * e);
    dnnl_status_t st = x && large && small ? dnnl_success : dnnl_out_of_memory;
    for (size_t i = 0; i < elements && !st; i += 4) {
        float noise[4];
        random_normal4(1, 0, i / 4, noise);
        for (size_t j = 0; j < 4; j++) element_store(x, i + j, s.dtype, noise[j]);
    }
    for (int i = 0; i < 2 && !st; i++) st = compare_sizes(dev, w, i, x, large, small);
    free(x);
    free(large);
    free(small);
    return st;
}

static void destroy_matmul(struct matmul *m, int threads) {
    for (int i = 0; m->handles && i < threads; i++) {
        dnnl_memory_destroy(m->handles[i].x);
        dnnl_memory_destroy(m->handles[i].w);
        dnnl_memory_destroy(m->handles[i].y);
        dnnl_memory_destroy(m->handles[i].scratchpad);
        dnnl_memory_destroy(m->handles[i].bias);
    }
    free(m->handles);
    dnnl_primitive_destroy(m->primitive);
}

static void onednn_release(struct weight *w) {
    struct onednn_weight *o = w->library;
    if (!o) return;
    for (int i = 0; i < 2; i++) {
        destroy_matmul(&o->kinds[i].large, o->threads);
        destroy_matmul(&o->kinds[i].small, o->threads);
    }
    for (int i = 0; o->streams && i < o->threads; i++) dnnl_stream_destroy(o->streams[i]);
    free(o->streams);
    dnnl_engine_destroy(o->engine);
    free(o);
    w->library = NULL;
}

static enum status onednn_pack(struct device *dev, struct weight *w, const void *rows,
                               struct error *err) {
    const struct weight_shape s = w->shape;
    struct onednn_weight *o = calloc(1, sizeof *o);
    if (!o) return error_set(err, STATUS_NO_MEMORY, "oneDNN: no memory for a weight's objects");
    w->library = o;
    dnnl_status_t st = create(o, dev, s);
    const size_t scratch = st ? 0 : scratch_bytes(o, s);
    if (scratch > DEVICE_SCRATCH_BYTES) {
        onednn_release(w);
        return error_set(err, STATUS_UNSUPPORTED,
                         "linear onednn: rows of %d elements need %zu bytes of scratch, a worker "
                         "has %d; choose another linear",
                         (int)s.K, scratch, (int)DEVICE_SCRATCH_BYTES);
    }
    for (int32_t i = 0; i < o->slices && !st; i++)
        st =
            reorder_slice(w, i, element_at(rows, (size_t)i * SLICE_COLUMNS * (size_t)s.K, s.dtype));
    if (!st) st = decide_sizes(dev, w);
    if (!st) return STATUS_OK;
    onednn_release(w);
    return error_set(err, st == dnnl_out_of_memory ? STATUS_NO_MEMORY : STATUS_UNSUPPORTED,
                     "oneDNN: a %s linear of %d x %d: status %d", dtype_name(s.dtype), (int)s.N,
                     (int)s.K, (int)st);
}

const struct weight_layout weight_layout_onednn = {"onednn", false, onednn_bytes, onednn_pack,
                                                   onednn_release};

/* ---- running: one item is up to 256 rows of one slice */

struct block {
    const struct linear_args *args;
    const struct kind *kind;
    const char *data;
    const void *bias;
    size_t column; /* of the slice's first output */
    struct scratch scratch;
    int worker;
};

/* Rows [row, row + n) of x, dense, at least m->rows of them: where they are, or a padded copy. */
static const char *rows_of_x(const struct block *b, size_t row, size_t n, const struct matmul *m) {
    const struct linear_args *a = b->args;
    const struct weight_shape s = a->w->shape;
    const size_t e = dtype_bytes(s.dtype), x_bytes = (size_t)s.K * e;
    const char *x = element_at(a->x, row * (size_t)a->ldx, s.dtype);
    if (n == (size_t)m->rows && a->ldx == s.K) return x;
    for (size_t t = 0; t < n; t++)
        memcpy(b->scratch.x + t * x_bytes, x + t * (size_t)a->ldx * e, x_bytes);
    memset(b->scratch.x + n * x_bytes, 0, (SMALL_ROWS - n) * x_bytes);
    return b->scratch.x;
}

static dnnl_status_t run_rows(const struct block *b, size_t row, size_t n, const struct matmul *m) {
    const struct linear_args *a = b->args;
    const enum dtype type = a->w->shape.dtype;
    const size_t y_bytes = (size_t)b->kind->columns * dtype_bytes(type);
    dnnl_status_t st = execute(a->w->library, m, b->worker, rows_of_x(b, row, n, m), b->data,
                               b->bias, b->scratch.y, b->scratch.library);
    for (size_t t = 0; t < n && !st; t++)
        memcpy(element_at_mut(a->y, (row + t) * (size_t)a->ldy + b->column, type),
               b->scratch.y + t * y_bytes, y_bytes);
    return st;
}

/* A kernel cannot fail: rows that oneDNN could not compute (no memory) become NaN, which passes
 * through to the logits, where it is looked for. */
static void spoil(const struct block *b, size_t row, size_t n) {
    const struct linear_args *a = b->args;
    const enum dtype type = a->w->shape.dtype;
    for (size_t t = row; t < row + n; t++)
        memset(element_at_mut(a->y, t * (size_t)a->ldy + b->column, type), 0xff,
               (size_t)b->kind->columns * dtype_bytes(type));
}

struct run {
    struct device *dev;
    const struct linear_args *args;
};

static void run_item(void *ctx, int64_t item, int worker) {
    const struct run *r = ctx;
    const struct linear_args *a = r->args;
    const struct weight *w = a->w;
    const struct onednn_weight *o = w->library;
    const int32_t slice = (int32_t)(item % o->slices);
    const size_t column = (size_t)slice * SLICE_COLUMNS;
    struct block b = {.args = a,
                      .kind = kind_of(o, slice),
                      .data = slice_data(w, slice),
                      .bias = w->bias ? element_at(w->bias, column, w->shape.dtype) : NULL,
                      .column = column,
                      .scratch = scratch_of(r->dev, worker, w->shape),
                      .worker = worker};
    const size_t begin = (size_t)(item / o->slices) * LARGE_ROWS;
    const size_t rest = (size_t)a->rows - begin, rows = rest < LARGE_ROWS ? rest : LARGE_ROWS;
    const bool large = rows == LARGE_ROWS && a->ldx == w->shape.K && b.kind->agree;
    const struct matmul *m = large ? &b.kind->large : &b.kind->small;
    for (size_t t = 0; t < rows; t += (size_t)m->rows) {
        const size_t n = rows - t < (size_t)m->rows ? rows - t : (size_t)m->rows;
        if (run_rows(&b, begin + t, n, m)) spoil(&b, begin + t, n);
    }
}

void linear_onednn(struct device *dev, const void *args) {
    const struct linear_args *a = args;
    const struct onednn_weight *o = a->w->library;
    struct run r = {dev, a};
    int64_t blocks = ((int64_t)a->rows + LARGE_ROWS - 1) / LARGE_ROWS;
    device_parallel(dev, blocks * o->slices, run_item, &r);
}

/* The same, as the first choice where there are matrix units. */
void linear_onednn_amx(struct device *dev, const void *args) {
    linear_onednn(dev, args);
}
