/* linear on a GPU through cuBLASLt, with one algorithm per shape of weight, whatever the number of
 * rows: a row's bits must not depend on how many others are computed beside it. The algorithm is
 * the fastest, by a timed search when the first weight of a shape is packed, among those that do
 * not split K, serve every number of rows, and are seen to give rows the same bits in products of
 * several sizes. It times them in turn, with the card at the clocks of a long run, for as many rows
 * as a block of an MLP has and, where that needs little memory, as a chunk has. Clocks disagree
 * from run to run, algorithms may in the last bit: so the choice is kept on disk for this GPU and
 * library (pinned.h), the first kept serves every process from then on, and where nothing can be
 * kept the library's order decides, not the clock.
 *
 * Row-major y = x w^T is, for a library that counts by columns, D [N][rows] = W^T [N][K] X
 * [K][rows]. Owns the library's handle and the list of choices, both in cuda_device.linears. */
#include "kernels/linear/linear_cublas.h"

#include "kernels/cuda/cuda_device.h"
#include "kernels/linear/pinned.h"

#include <cublasLt.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* WIDER: elements between rows that are further apart than they are wide. */
enum { SEARCH_ROWS = 8192, LONG_ROWS = 32768, LONG_BYTES = 1 << 30, ALIGNMENT = 16, WIDER = 64 };
/* NAMED: algorithms that the library is asked for, for each number of rows. A time is the mean of
 * up to ROUNDS rounds of REPEATS runs, no more than fit in MOST_MS, after a warm-up of WARM_MS, or
 * of WARM_ROUNDS where products are short. */
enum { NAMED = 32, REPEATS = 4, ROUNDS = 5, WARM_MS = 500, WARM_ROUNDS = 20, MOST_MS = 2500 };
static const double FAR_OFF = 1.25; /* times the fastest: timed no more */

/* The numbers of rows for which an algorithm must exist: one, primes, tiles, chunks. */
static const int32_t row_numbers[] = {1, 7, 128, 1000, 8192, 32768, 131072};

struct choice {
    struct weight_shape shape;
    cublasLtMatmulAlgo_t algo;
    double ms;
    bool remembered;
    struct choice *next;
};
struct cublas {
    cublasLtHandle_t handle;
    struct choice *choices; /* owned */
    struct pinned_file file;
};

static struct cublas *library_of(struct device *dev) {
    return cuda_device(dev)->linears;
}

/* ---- a product as the library describes it */

struct product {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};

static cublasStatus_t describe(struct product *p, struct weight_shape s, int32_t rows, int64_t ldx,
                               int64_t ldy, const void *bias) {
    const cudaDataType_t type = s.dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasStatus_t e = cublasLtMatmulDescInit(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed);
    if (e == CUBLAS_STATUS_SUCCESS && s.bias)
        e = cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue);
    if (e == CUBLAS_STATUS_SUCCESS && s.bias)
        e = cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                           sizeof bias);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = cublasLtMatrixLayoutInit(&p->w, type, (uint64_t)s.K, (uint64_t)s.N, s.K);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = cublasLtMatrixLayoutInit(&p->x, type, (uint64_t)s.K, (uint64_t)rows, ldx);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = cublasLtMatrixLayoutInit(&p->y, type, (uint64_t)s.N, (uint64_t)rows, ldy);
    return e;
}

static cublasStatus_t multiply(struct device *dev, const struct product *p,
                               const cublasLtMatmulAlgo_t *algo, const void *w, const void *x,
                               void *y) {
    const struct cuda_device *gpu = cuda_device(dev);
    const float one = 1, zero = 0;
    return cublasLtMatmul(library_of(dev)->handle, (cublasLtMatmulDesc_t)&p->operation, &one, w,
                          (cublasLtMatrixLayout_t)&p->w, x, (cublasLtMatrixLayout_t)&p->x, &zero, y,
                          (cublasLtMatrixLayout_t)&p->y, y, (cublasLtMatrixLayout_t)&p->y, algo,
                          gpu->workspace, CUDA_WORKSPACE_BYTES, gpu->stream);
}

static enum status failed(cublasStatus_t e, struct weight_shape s, struct error *err) {
    return error_set(err, STATUS_RUN_FAILED, "cuBLASLt: %s, for a weight of %d x %d",
                     cublasLtGetStatusString(e), (int)s.N, (int)s.K);
}

/* ---- which algorithms are eligible */

static int32_t config_of(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t a) {
    int32_t value = 0;
    size_t written = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, a, &value, sizeof value, &written) !=
        CUBLAS_STATUS_SUCCESS)
        return -1;
    return value;
}

/* Or does not say that it does not. */
static bool splits_sums(const cublasLtMatmulAlgo_t *algo) {
    const int32_t parts = config_of(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    return parts < 0 || parts > 1 || config_of(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) != 0;
}

/* A product to ask the library about: its bias is at some address, since without one the library
 * may answer for another epilogue. */
static cublasStatus_t describe_any(struct device *dev, struct product *p, struct weight_shape s,
                                   int32_t rows, int32_t wider) {
    return describe(p, s, rows, s.K + wider, s.N + wider, cuda_device(dev)->workspace);
}

static bool serves(struct device *dev, struct weight_shape s, const cublasLtMatmulAlgo_t *algo,
                   int32_t rows, int32_t wider) {
    struct product p;
    cublasLtMatmulHeuristicResult_t result;
    return describe_any(dev, &p, s, rows, wider) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoCheck(library_of(dev)->handle, &p.operation, &p.w, &p.x, &p.y, &p.y,
                                   algo, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= CUDA_WORKSPACE_BYTES;
}

/* Does not split sums, and exists for every number of rows, side by side or not. */
static bool eligible(struct device *dev, struct weight_shape s, const cublasLtMatmulAlgo_t *algo) {
    if (splits_sums(algo)) return false;
    for (size_t i = 0; i < sizeof row_numbers / sizeof *row_numbers; i++)
        if (!serves(dev, s, algo, row_numbers[i], 0) ||
            !serves(dev, s, algo, row_numbers[i], WIDER))
            return false;
    return true;
}

static cublasStatus_t ask(struct device *dev, struct weight_shape s, int32_t rows,
                          cublasLtMatmulHeuristicResult_t results[NAMED], int *n) {
    const size_t workspace = CUDA_WORKSPACE_BYTES;
    const uint32_t alignment = ALIGNMENT, whole_sums = CUBLASLT_REDUCTION_SCHEME_NONE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole_sums, sizeof whole_sums},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment},
    };
    cublasLtMatmulPreferenceOpaque_t preference;
    struct product p;
    cublasStatus_t e = describe_any(dev, &p, s, rows, 0);
    if (e == CUBLAS_STATUS_SUCCESS) e = cublasLtMatmulPreferenceInit(&preference);
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes && e == CUBLAS_STATUS_SUCCESS; i++)
        e = cublasLtMatmulPreferenceSetAttribute(&preference, wishes[i].name, wishes[i].value,
                                                 wishes[i].bytes);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = cublasLtMatmulAlgoGetHeuristic(library_of(dev)->handle, &p.operation, &p.w, &p.x, &p.y,
                                           &p.y, &preference, NAMED, results, n);
    return e;
}

/* ---- the search */

/* Operands of its own, on the device while it lasts. */
struct search {
    struct device *dev;
    struct weight_shape shape;
    int32_t rows[2]; /* what is timed, the most last */
    int sizes;
    struct arena *arena;
    void *w, *x, *y, *again, *bias;
};

static size_t matrix(struct weight_shape s, int32_t rows, int32_t cols) {
    return (size_t)rows * (size_t)cols * dtype_bytes(s.dtype);
}

/* Whether a chunk's operands take much memory: such products are made in blocks of rows. */
static bool wide(struct weight_shape s) {
    return matrix(s, LONG_ROWS, s.K) + matrix(s, LONG_ROWS, s.N) >= LONG_BYTES;
}

static enum status open_sized(struct search *f, struct device *dev, struct weight_shape s,
                              int sizes, struct error *err) {
    *f = (struct search){.dev = dev, .shape = s, .rows = {SEARCH_ROWS, LONG_ROWS}, .sizes = sizes};
    const int32_t most = f->rows[f->sizes - 1];
    const size_t bytes = arena_bytes(matrix(s, s.N, s.K)) + arena_bytes(matrix(s, most, s.K)) +
                         arena_bytes(matrix(s, most, s.N)) +
                         arena_bytes(matrix(s, SEARCH_ROWS, s.N)) + arena_bytes(matrix(s, 1, s.N));
    const enum status status = arena_open(&f->arena, dev, MEMORY_OTHER, bytes, err);
    if (status != STATUS_OK) return error_prefix(err, status, "search for an algorithm");
    f->w = arena_take(f->arena, SHARED_RANK, matrix(s, s.N, s.K));
    f->x = arena_take(f->arena, SHARED_RANK, matrix(s, most, s.K));
    f->y = arena_take(f->arena, SHARED_RANK, matrix(s, most, s.N));
    f->again = arena_take(f->arena, SHARED_RANK, matrix(s, SEARCH_ROWS, s.N));
    f->bias = arena_take(f->arena, SHARED_RANK, matrix(s, 1, s.N));
    cuda_fill_normal(dev, f->w, (int64_t)s.N * s.K, s.dtype, 1);
    cuda_fill_normal(dev, f->x, (int64_t)most * s.K, s.dtype, 2);
    cuda_fill_normal(dev, f->bias, s.N, s.dtype, 3);
    return STATUS_OK;
}

/* For a chunk's rows only where there is memory for them. */
static enum status open_search(struct search *f, struct device *dev, struct weight_shape s,
                               struct error *err) {
    if (!wide(s) && open_sized(f, dev, s, 2, NULL) == STATUS_OK) return STATUS_OK;
    return open_sized(f, dev, s, 1, err);
}

/* Rows [begin, begin + rows) of x into y. */
static cublasStatus_t some_rows(const struct search *f, const cublasLtMatmulAlgo_t *algo,
                                int32_t begin, int32_t rows, void *y) {
    const struct weight_shape s = f->shape;
    struct product p;
    const cublasStatus_t e = describe(&p, s, rows, s.K, s.N, f->bias);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    return multiply(f->dev, &p, algo, f->w, (const char *)f->x + matrix(s, begin, s.K),
                    (char *)y + matrix(s, begin, s.N));
}

/* Milliseconds of one product, the mean of so many; negative when it fails. */
static float time_of(const struct search *f, const cublasLtMatmulAlgo_t *algo, int32_t rows,
                     int repeats) {
    cudaStream_t stream = cuda_device(f->dev)->stream;
    cudaEvent_t begin = NULL, end = NULL;
    float ms = -1;
    bool ok = cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess &&
              some_rows(f, algo, 0, rows, f->y) == CUBLAS_STATUS_SUCCESS &&
              cudaEventRecord(begin, stream) == cudaSuccess;
    for (int i = 0; i < repeats && ok; i++)
        ok = some_rows(f, algo, 0, rows, f->y) == CUBLAS_STATUS_SUCCESS;
    if (!ok || cudaEventRecord(end, stream) != cudaSuccess ||
        cudaEventSynchronize(end) != cudaSuccess ||
        cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
        ms = -1;
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    return ms < 0 ? ms : ms / (float)repeats;
}

/* Whether rows have the same bits in products of other sizes as in the one of all rows. */
static bool keeps_bits(const struct search *f, const cublasLtMatmulAlgo_t *algo) {
    static const struct {
        int32_t begin, rows;
    } parts[] = {{0, 1}, {1, 7}, {8, 120}, {128, 1000}, {1128, 64}, {1192, 5000}, {6192, 2000}};
    const size_t bytes = matrix(f->shape, SEARCH_ROWS, f->shape.N);
    char *whole = malloc(bytes), *cut = malloc(bytes);
    bool same = whole && cut && some_rows(f, algo, 0, SEARCH_ROWS, f->y) == CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && same; i++)
        same = some_rows(f, algo, parts[i].begin, parts[i].rows, f->again) == CUBLAS_STATUS_SUCCESS;
    if (same) {
        device_read(f->dev, whole, f->y, bytes);
        device_read(f->dev, cut, f->again, bytes);
        same = memcmp(whole, cut, bytes) == 0;
    }
    free(whole);
    free(cut);
    return same;
}

/* An algorithm that the library named, at its place in the library's order. */
struct candidate {
    cublasLtMatmulAlgo_t algo;
    double ms;    /* of SEARCH_ROWS rows */
    double score; /* milliseconds for SEARCH_ROWS rows, the mean over the numbers of rows */
    int place;
    bool far_off;
};

static int by_score(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->far_off != y->far_off) return x->far_off - y->far_off;
    return (x->score > y->score) - (x->score < y->score);
}

static int by_place(const void *a, const void *b) {
    return ((const struct candidate *)a)->place - ((const struct candidate *)b)->place;
}

static bool is_among(const struct candidate *c, int n, const cublasLtMatmulAlgo_t *algo) {
    for (int i = 0; i < n; i++)
        if (memcmp(&c[i].algo, algo, sizeof *algo) == 0) return true;
    return false;
}

/* Adds the eligible ones that the library names for so many rows and that are not there yet. */
static cublasStatus_t add_candidates(const struct search *f, int32_t rows, struct candidate *out,
                                     int *n) {
    cublasLtMatmulHeuristicResult_t results[NAMED];
    int named = 0;
    memset(results, 0, sizeof results);
    const cublasStatus_t e = ask(f->dev, f->shape, rows, results, &named);
    for (int i = 0; i < named && e == CUBLAS_STATUS_SUCCESS; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS && !is_among(out, *n, &results[i].algo) &&
            eligible(f->dev, f->shape, &results[i].algo)) {
            out[*n] = (struct candidate){.algo = results[i].algo, .place = *n};
            ++*n;
        }
    return e;
}

/* Adds to the times of one of them; false when it does not run. */
static bool time_once(const struct search *f, struct candidate *c, int sizes, int repeats,
                      double *busy_ms) {
    for (int i = 0; i < sizes; i++) {
        const double ms = (double)time_of(f, &c->algo, f->rows[i], repeats);
        if (ms < 0) return false;
        *busy_ms += ms * (repeats + 1);
        if (i == 0) c->ms += ms;
        c->score += ms * SEARCH_ROWS / f->rows[i] / sizes;
    }
    return true;
}

/* One round of those that are not far off; returns how many are left: what did not run is gone. */
static int time_all(const struct search *f, struct candidate *c, int n, int sizes, int repeats,
                    double *busy_ms) {
    for (int i = 0; i < n;) {
        if (c[i].far_off || time_once(f, &c[i], sizes, repeats, busy_ms))
            i++;
        else
            c[i] = c[--n];
    }
    return n;
}

static void forget_times(struct candidate *c, int n) {
    for (int i = 0; i < n; i++)
        if (!c[i].far_off) c[i].ms = c[i].score = 0;
}

/* Until the card's clocks are those of a long run; the last round says which are worth more. */
static int warm_up(const struct search *f, struct candidate *c, int n, double *busy_ms) {
    double best = INFINITY;
    for (int round = 0; n > 0 && round < WARM_ROUNDS && *busy_ms < WARM_MS; round++) {
        forget_times(c, n);
        n = time_all(f, c, n, 1, 1, busy_ms);
    }
    for (int i = 0; i < n; i++) best = fmin(best, c[i].score);
    for (int i = 0; i < n; i++) c[i].far_off = c[i].score > FAR_OFF * best;
    forget_times(c, n);
    return n;
}

/* Times them in turn; returns how many ran. */
static int time_candidates(const struct search *f, struct candidate *c, int n) {
    double busy_ms = 0;
    int rounds = 0;
    n = warm_up(f, c, n, &busy_ms);
    while (n > 0 && rounds < ROUNDS && (rounds == 0 || busy_ms < MOST_MS)) {
        n = time_all(f, c, n, f->sizes, REPEATS, &busy_ms);
        rounds++;
    }
    for (int i = 0; i < n; i++)
        if (!c[i].far_off) c[i].ms /= rounds, c[i].score /= rounds;
    return n;
}

/* The first in that order whose rows keep their bits. */
static bool pick(const struct search *f, struct candidate *candidates, int n,
                 int (*order)(const void *, const void *), struct choice *choice) {
    qsort(candidates, (size_t)n, sizeof *candidates, order);
    for (int i = 0; i < n; i++) {
        if (!keeps_bits(f, &candidates[i].algo)) continue;
        choice->algo = candidates[i].algo;
        choice->ms = candidates[i].ms;
        return true;
    }
    return false;
}

/* The oldest choice on disk that the library still takes: the same one for every process. */
static bool recall(struct device *dev, struct choice *choice) {
    const struct pinned_file *file = &library_of(dev)->file;
    for (int i = 0;
         pinned_read(file, choice->shape, i, &choice->algo, sizeof choice->algo, &choice->ms); i++)
        if (eligible(dev, choice->shape, &choice->algo)) return true;
    return false;
}

/* Picks, keeps, and then takes what is kept: another process may have been first. */
static bool settle(const struct search *f, struct candidate *candidates, int n,
                   struct choice *choice) {
    const struct pinned_file *file = &library_of(f->dev)->file;
    if (!pick(f, candidates, n, by_score, choice)) return false;
    pinned_write(file, choice->shape, &choice->algo, sizeof choice->algo, choice->ms);
    return recall(f->dev, choice) || pick(f, candidates, n, by_place, choice);
}

static enum status search(struct device *dev, struct choice *choice, struct error *err) {
    struct candidate candidates[2 * NAMED];
    struct search f;
    int n = 0;
    const enum status s = open_search(&f, dev, choice->shape, err);
    if (s != STATUS_OK) return s;
    cublasStatus_t e = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < f.sizes && e == CUBLAS_STATUS_SUCCESS; i++)
        e = add_candidates(&f, f.rows[i], candidates, &n);
    const int run = e == CUBLAS_STATUS_SUCCESS ? time_candidates(&f, candidates, n) : 0;
    const bool found = settle(&f, candidates, run, choice);
    arena_close(f.arena);
    cudaGetLastError(); /* of candidates that did not run: no one else's */
    if (found) return STATUS_OK;
    if (e != CUBLAS_STATUS_SUCCESS) return failed(e, choice->shape, err);
    return error_set(err, STATUS_UNSUPPORTED,
                     "cuBLASLt has no algorithm for a weight of %d x %d whose rows keep their "
                     "bits: of those that it names %d do not split K and serve all numbers of "
                     "rows, and of these %d ran",
                     (int)choice->shape.N, (int)choice->shape.K, n, run);
}

/* ---- the library */

static void close_library(struct cuda_device *gpu) {
    struct cublas *c = gpu->linears;
    while (c->choices) {
        struct choice *next = c->choices->next;
        free(c->choices);
        c->choices = next;
    }
    if (c->handle) cublasLtDestroy(c->handle);
    free(c);
    gpu->linears = NULL;
}

static enum status open_library(struct cuda_device *gpu, struct error *err) {
    struct cudaDeviceProp p;
    struct cublas *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, STATUS_NO_MEMORY, "no memory for cuBLASLt");
    gpu->linears = c;
    gpu->close_linears = close_library;
    const cublasStatus_t e = cublasLtCreate(&c->handle);
    if (e != CUBLAS_STATUS_SUCCESS)
        return error_set(err, STATUS_RUN_FAILED, "cuBLASLt does not open: %s",
                         cublasLtGetStatusString(e));
    if (cudaGetDeviceProperties(&p, gpu->ordinal) == cudaSuccess)
        pinned_open(&c->file, p.name, (long long)cublasLtGetVersion());
    return STATUS_OK;
}

static bool same_shape(struct weight_shape a, struct weight_shape b) {
    return a.N == b.N && a.K == b.K && a.dtype == b.dtype && a.bias == b.bias;
}

/* The algorithm of a shape: known, kept on disk, or searched now. */
static enum status choose(struct device *dev, struct weight_shape shape, const struct choice **out,
                          struct error *err) {
    struct cuda_device *gpu = cuda_device(dev);
    enum status s = gpu->linears ? STATUS_OK : open_library(gpu, err);
    if (s != STATUS_OK) return s;
    struct cublas *c = gpu->linears;
    for (const struct choice *i = c->choices; i; i = i->next)
        if (same_shape(i->shape, shape)) {
            *out = i;
            return STATUS_OK;
        }
    struct choice *choice = calloc(1, sizeof *choice);
    if (!choice) return error_set(err, STATUS_NO_MEMORY, "no memory for an algorithm");
    choice->shape = shape;
    choice->remembered = recall(dev, choice);
    if (!choice->remembered) s = search(dev, choice, err);
    if (s != STATUS_OK) {
        free(choice);
        return s;
    }
    choice->next = c->choices;
    c->choices = choice;
    *out = choice;
    return STATUS_OK;
}

/* ---- weights and the op */

static size_t plain_bytes(struct weight_shape s) {
    return matrix(s, s.N, s.K);
}

static enum status pack(struct device *dev, struct weight *w, const void *rows, struct error *err) {
    const struct choice *choice = NULL;
    const enum status s = choose(dev, w->shape, &choice, err);
    if (s != STATUS_OK) return s;
    w->library = (void *)choice;
    if (rows) device_write(dev, w->data, rows, plain_bytes(w->shape));
    return STATUS_OK;
}

const struct weight_layout weight_layout_cublas_rows = {"rows", true, plain_bytes, pack, NULL};

static int32_t narrow_config_of(const cublasLtMatmulAlgo_t *algo,
                                cublasLtMatmulAlgoConfigAttributes_t a) {
    uint16_t value = 0;
    size_t written = 0;
    cublasLtMatmulAlgoConfigGetAttribute(algo, a, &value, sizeof value, &written);
    return value;
}

void cublas_describe(const struct weight *w, struct cublas_pinned *out) {
    const struct choice *choice = w->library;
    const cublasLtMatmulAlgo_t *algo = &choice->algo;
    *out = (struct cublas_pinned){
        .algorithm = config_of(algo, CUBLASLT_ALGO_CONFIG_ID),
        .tile = config_of(algo, CUBLASLT_ALGO_CONFIG_TILE_ID),
        .stages = config_of(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID),
        .inner = narrow_config_of(algo, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID),
        .cluster = narrow_config_of(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID),
        .ms = choice->ms,
        .remembered = choice->remembered};
}

void linear_cublas(struct device *dev, const void *args) {
    const struct linear_args *a = args;
    const struct choice *choice = a->w->library;
    struct product p;
    cublasStatus_t e = describe(&p, a->w->shape, a->rows, a->ldx, a->ldy, a->w->bias);
    if (e == CUBLAS_STATUS_SUCCESS) e = multiply(dev, &p, &choice->algo, a->w->data, a->x, a->y);
    if (e != CUBLAS_STATUS_SUCCESS) {
        char what[96];
        snprintf(what, sizeof what, "cuBLASLt, %d x %d x %d: %.40s", (int)a->rows,
                 (int)a->w->shape.N, (int)a->w->shape.K, cublasLtGetStatusName(e));
        cuda_check(dev, cudaErrorUnknown, what);
    }
}
