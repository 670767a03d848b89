/* A device: which kernels it chooses, and that a step does the same eager, recorded, replayed,
 * interposed and observed. */
#include "kernels/device.h"

#include "kernels/bf16.h"
#include "kernels/cost.h"
#include "tests/enough_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct device *open_with(const struct device_opts *opts) {
    struct device *dev;
    struct error err = {""};
    if (device_open(&dev, opts, &err) != STATUS_OK) fail_msg("%s", err.text);
    return dev;
}

static struct device_opts two_threads(void) {
    struct device_opts opts = device_opts_defaults();
    opts.threads = 2;
    return opts;
}

/* ---- choice of kernels */

/* ops.inc once more, as text. */
static const char *const rows[][2] = {
#define VARIANT(op, name, device, isa, dtypes) {#op, #name},
#define VARIANT_KV(op, name, device, isa, dtypes, layout) {#op, #name},
#define VARIANT_W(op, name, device, isa, dtypes, layout) {#op, #name},
#define VARIANT_GROUP(op, name, device, isa, dtypes, group) {#op, #name},
#define VARIANT_GROUP_LIB(op, name, device, isa, dtypes, group, library) {#op, #name},
#define VARIANT_KV_LIB(op, name, device, isa, dtypes, layout, library) {#op, #name},
#include "kernels/ops.inc"
#undef VARIANT
#undef VARIANT_KV
#undef VARIANT_W
#undef VARIANT_GROUP
#undef VARIANT_GROUP_LIB
#undef VARIANT_KV_LIB
};

static void rows_of_the_list_are_the_rows_of_the_table(void **state) {
    (void)state;
    int n;
    const struct variant *v = variant_table(&n);
    assert_int_equal(n, sizeof rows / sizeof *rows);
    for (int i = 0; i < n; i++) {
        struct variant_info info;
        assert_true(variant_info(i, &info));
        assert_string_equal(op_name(v[i].op), rows[i][0]);
        assert_string_equal(info.name, rows[i][1]);
        assert_int_equal(info.op, v[i].op);
        assert_non_null(v[i].run);
        assert_int_equal(v[i].kv_layout != NULL, v[i].op == OP_ATTENTION);
        assert_int_equal(v[i].weight_layout != NULL, v[i].op == OP_LINEAR);
        assert_int_equal(info.usable, info.why_not == NULL);
    }
    struct variant_info info;
    assert_false(variant_info(n, &info));
    assert_false(variant_info(-1, &info));
}

static void every_op_has_a_reference_that_serves_everything(void **state) {
    (void)state;
    int n;
    const struct variant *v = variant_table(&n);
    for (int op = 0; op < OPS; op++) {
        bool found = false;
        for (int i = 0; i < n; i++)
            found = found || (v[i].op == (enum op)op && strcmp(v[i].name, "ref") == 0 &&
                              v[i].isa == ISA_NONE && v[i].dtypes == SERVES_BOTH);
        if (!found) fail_msg("no ref of %s", op_name((enum op)op));
    }
}

static const char *first_row(enum op op, enum cpu_isa isa, enum dtype dtype) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int i = 0; i < n; i++)
        if (v[i].op == op && v[i].device == DEVICE_CPU && v[i].isa <= (int)isa &&
            (v[i].dtypes & (1 << dtype)))
            return v[i].name;
    return NULL;
}

static void the_first_usable_row_wins_at_every_isa_and_dtype(void **state) {
    (void)state;
    for (int isa = ISA_NONE; isa <= (int)cpu_isa_best(); isa++) {
        for (int dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
            struct device_opts opts = two_threads();
            opts.isa = cpu_isa_name((enum cpu_isa)isa);
            opts.dtype = (enum dtype)dtype;
            struct device *dev = open_with(&opts);
            struct device_info info;
            device_info(dev, &info);
            assert_string_equal(info.isa, opts.isa);
            for (int op = 0; op < OP_EXCHANGE; op++) /* the last, which no group was joined for */
                assert_string_equal(info.variant[op],
                                    first_row((enum op)op, (enum cpu_isa)isa, (enum dtype)dtype));
            device_close(dev);
        }
    }
}

static bool always(const struct variant *v, const char **why) {
    (void)v;
    if (why) *why = NULL;
    return true;
}

static bool all_but_our_own_for_hopper(const struct variant *v, const char **why) {
    if (why) *why = NULL;
    return v->isa != ISA_SM90A || v->device != DEVICE_CUDA;
}

/* The choice as a function of facts alone: also for devices that this machine does not have. */
static void the_choice_follows_from_facts(void **state) {
    static const struct {
        struct variant_facts facts;
        const char *attention;
    } cpu[] = {{{DEVICE_CPU, ISA_NONE, 0, DTYPE_BF16, 64}, "ref"},
               {{DEVICE_CPU, ISA_AVX2, 0, DTYPE_BF16, 64}, "avx2"},
               {{DEVICE_CPU, ISA_AVX512, 0, DTYPE_F32, 128}, "avx512"},
               {{DEVICE_CPU, ISA_AVX512_BF16, 0, DTYPE_BF16, 128}, "avx512_bf16"},
               {{DEVICE_CPU, ISA_AVX512_BF16, 0, DTYPE_F32, 128}, "avx512"},
               {{DEVICE_CPU, ISA_AMX_BF16, 0, DTYPE_BF16, 64}, "avx512_bf16"}};
    (void)state;
    for (size_t i = 0; i < sizeof cpu / sizeof *cpu; i++)
        assert_string_equal(variant_first(OP_ATTENTION, &cpu[i].facts, always)->name,
                            cpu[i].attention);
#ifdef HAVE_CUDA
    static const struct {
        struct variant_facts facts;
        const char *attention;
    } gpu[] = {{{DEVICE_CUDA, ISA_NONE, 80, DTYPE_BF16, 128}, "cuda"},
               {{DEVICE_CUDA, ISA_NONE, 89, DTYPE_BF16, 64}, "cuda"},
               {{DEVICE_CUDA, ISA_NONE, 90, DTYPE_BF16, 64}, "sm90"},
               {{DEVICE_CUDA, ISA_NONE, 90, DTYPE_BF16, 128}, "sm90"},
               {{DEVICE_CUDA, ISA_NONE, 90, DTYPE_BF16, 32}, "cuda"},
               {{DEVICE_CUDA, ISA_NONE, 90, DTYPE_F32, 128}, "simt"},
               {{DEVICE_CUDA, ISA_NONE, 100, DTYPE_BF16, 128}, "cuda"},
               {{DEVICE_CUDA, ISA_NONE, 120, DTYPE_BF16, 64}, "cuda"}};
    for (size_t i = 0; i < sizeof gpu / sizeof *gpu; i++)
        assert_string_equal(variant_first(OP_ATTENTION, &gpu[i].facts, always)->name,
                            gpu[i].attention);
    assert_string_equal(
        variant_first(OP_ATTENTION, &gpu[3].facts, all_but_our_own_for_hopper)->name, "cuda");
    const struct variant_facts old = {DEVICE_CUDA, ISA_NONE, 75, DTYPE_BF16, 128};
    assert_null(variant_first(OP_ATTENTION, &old, always));
#else
    (void)all_but_our_own_for_hopper;
#endif
}

/* Which better kernel was passed over stands beside the one that was taken. */
static void a_lesser_attention_kernel_comes_with_its_reason(void **state) {
    (void)state;
    struct device_opts opts = two_threads();
    struct device_info info;
    opts.isa = "none";
    struct device *dev = open_with(&opts);
    device_info(dev, &info);
    assert_string_equal(info.variant[OP_ATTENTION], "ref");
    assert_non_null(strstr(info.attention_note, "not avx512_bf16: "));
    device_close(dev);
    opts.attention = "ref"; /* as it was asked for: nothing to explain */
    dev = open_with(&opts);
    device_info(dev, &info);
    assert_string_equal(info.attention_note, "");
    device_close(dev);
}

static void named_variants_are_taken(void **state) {
    (void)state;
    struct device_opts opts = two_threads();
    opts.linear = opts.attention = "ref";
    struct device *dev = open_with(&opts);
    struct device_info info;
    device_info(dev, &info);
    assert_string_equal(info.variant[OP_LINEAR], "ref");
    assert_string_equal(info.variant[OP_ATTENTION], "ref");
    assert_string_equal(device_kv_layout(dev)->name, "rows");
    device_close(dev);
}

static void info_tells_what_the_host_has(void **state) {
    (void)state;
    struct device_opts opts = two_threads();
    opts.threads = 3;
    struct device *dev = open_with(&opts);
    struct device_info info;
    device_info(dev, &info);
    assert_int_equal(info.threads, 3);
    assert_int_equal(device_threads(dev), 3);
    assert_true(strlen(info.name) > 0);
    assert_true(info.memory_bytes > info.available_bytes && info.available_bytes > 0);
    device_close(dev);
    opts.threads = 0;
    dev = open_with(&opts);
    device_info(dev, &info);
    assert_true(info.threads >= 1);
    device_close(dev);
}

static void refused(struct device_opts opts, enum status expected, const char *text) {
    struct device *dev = (void *)1;
    struct error err = {""};
    assert_int_equal(device_open(&dev, &opts, &err), expected);
    assert_null(dev);
    if (!strstr(err.text, text)) fail_msg("\"%s\" is not in \"%s\"", text, err.text);
}

static void what_cannot_be_opened_is_refused_with_a_reason(void **state) {
    (void)state;
    struct device_opts opts = two_threads();
    opts.linear = "fast";
    refused(opts, STATUS_UNSUPPORTED, "linear = fast: no such variant");
    refused(opts, STATUS_UNSUPPORTED, "usable here: ");
    opts = two_threads();
    opts.attention = "fast";
    refused(opts, STATUS_UNSUPPORTED, "attention = fast: no such variant");
    opts = two_threads();
    opts.isa = "none";
    opts.linear = "avx2";
    refused(opts, STATUS_UNSUPPORTED, "linear = avx2: ");
    refused(opts, STATUS_UNSUPPORTED, "usable here: ref; not usable: ");
    opts = two_threads();
    opts.isa = "sse9";
    refused(opts, STATUS_USAGE, "isa = sse9: expected auto");
    opts = two_threads();
    opts.threads = -1;
    refused(opts, STATUS_USAGE, "-1 threads");
    device_close(NULL);
}

static void a_variant_of_the_other_dtype_is_refused(void **state) {
    (void)state;
    if (cpu_isa_best() < ISA_AVX512_BF16) skip();
    struct device_opts opts = two_threads();
    opts.dtype = DTYPE_F32;
    opts.linear = "avx512_bf16";
    refused(opts, STATUS_UNSUPPORTED, "linear = avx512_bf16: does not serve float32");
}

static void an_isa_beyond_this_machine_is_refused(void **state) {
    (void)state;
    if (cpu_isa_best() == ISA_AMX_BF16) skip();
    struct device_opts opts = two_threads();
    opts.isa = "amx_bf16";
    refused(opts, STATUS_UNSUPPORTED, "isa = amx_bf16: this machine has ");
}

/* ---- a small step: five ops, two of which read the step's parameters */

enum { ROWS = 5, C = 16, N = 7, D = 8, CALLS = 5 };

struct step {
    struct device *dev;
    struct arena *arena;
    struct step_params *params;
    int32_t *ids;
    void *h;
    struct op_call calls[CALLS];
    /* what it computes */
    bf16 *y, *z, *tapped;
    float *cos, *sin;
};

/* Compared byte by byte: without padding. */
struct result {
    bf16 y[ROWS * C], z[ROWS * N], tapped[TAP_ROWS * N], zero;
    float cos[ROWS * D / 2], sin[ROWS * D / 2];
};
_Static_assert(sizeof(struct result) ==
                   2 * (ROWS * C + ROWS * N + TAP_ROWS * N + 1) + 4 * (ROWS * D),
               "no padding");

static void *take(struct step *s, size_t bytes) {
    void *at = arena_take(s->arena, 0, bytes);
    assert_non_null(at);
    return at;
}

static void *take_bf16(struct step *s, size_t n, int salt) {
    bf16 values[N * C + C] = {0};
    for (size_t i = 0; i < n; i++) values[i] = f32_to_bf16((float)((int)(i * 7 + salt) % 11 - 5));
    void *at = take(s, n * sizeof *values);
    device_write(s->dev, at, values, n * sizeof *values);
    return at;
}

static void write_params(struct step *s, int32_t q_start, int32_t tap) {
    struct step_params p = {.q_start = q_start,
                            .n_tokens = ROWS,
                            .kv_len = q_start + ROWS,
                            .key_factor = 1,
                            .query_factor = 1,
                            .tap_row = {tap, -1, -1, -1, -1, -1, -1, -1}};
    device_write(s->dev, s->params, &p, sizeof p);
}

static void make_calls(struct step *s, const struct weight *w, void *table, void *gain,
                       double *inv_freq) {
    const struct op_call calls[CALLS] = {
        {.op = OP_EMBED, .layer = -1, .embed = {table, s->ids, s->h, 0, N, ROWS, C, DTYPE_BF16}},
        {.op = OP_ADD_RMSNORM, .add_rmsnorm = {s->h, NULL, gain, s->y, ROWS, C, 1e-6f, DTYPE_BF16}},
        {.op = OP_ROPE_TABLE,
         .rank = SHARED_RANK,
         .layer = -1,
         .rope_table = {inv_freq, s->cos, s->sin, s->params, {0, 0}, ROWS, D, 1}},
        {.op = OP_LINEAR, .role = ROLE_O, .layer = 3, .linear = {w, s->y, s->z, C, N, ROWS}},
        {.op = OP_TAP, .tap = {s->z, s->tapped, N, s->params, N, DTYPE_BF16}}};
    memcpy(s->calls, calls, sizeof calls);
}

static struct step *step_open(struct device *dev) {
    struct step *s = calloc(1, sizeof *s);
    const struct weight_shape shape = {N, C, DTYPE_BF16, true};
    const struct weight *w;
    s->dev = dev;
    assert_int_equal(arena_open(&s->arena, dev, MEMORY_ACTIVATIONS, 1 << 20, NULL), STATUS_OK);
    s->params = take(s, sizeof *s->params);
    s->ids = take(s, ROWS * sizeof *s->ids);
    s->h = take(s, ROWS * C * sizeof(bf16));
    s->y = take(s, ROWS * C * sizeof *s->y);
    s->z = take(s, ROWS * N * sizeof *s->z);
    s->tapped = take(s, TAP_ROWS * N * sizeof *s->tapped);
    s->cos = take(s, ROWS * D / 2 * sizeof *s->cos);
    s->sin = take(s, ROWS * D / 2 * sizeof *s->sin);
    void *table = take_bf16(s, N * C, 1), *gain = take_bf16(s, C, 2), *bias = take_bf16(s, N, 4);
    void *plain = take_bf16(s, N * C, 3);
    const double inv_freq[D / 2] = {1, 0.1, 0.01, 0.001};
    double *device_inv_freq = take(s, sizeof inv_freq);
    device_write(dev, device_inv_freq, inv_freq, sizeof inv_freq);
    device_write(dev, s->ids, (int32_t[ROWS]){3, 0, 6, 2, 3}, ROWS * sizeof *s->ids);
    assert_int_equal(device_weight_pack(dev, s->arena, 0, shape, plain, bias, &w, NULL), STATUS_OK);
    write_params(s, 0, -1);
    make_calls(s, w, table, gain, device_inv_freq);
    return s;
}

static void step_close(struct step *s) {
    arena_close(s->arena);
    free(s);
}

static void clear(struct step *s) {
    memset(s->y, 0, ROWS * C * sizeof *s->y);
    memset(s->z, 0, ROWS * N * sizeof *s->z);
    memset(s->tapped, 0, TAP_ROWS * N * sizeof *s->tapped);
    memset(s->cos, 0, ROWS * D / 2 * sizeof *s->cos);
    memset(s->sin, 0, ROWS * D / 2 * sizeof *s->sin);
}

static struct result result_of(struct step *s) {
    struct result r = {.zero = 0};
    assert_int_equal(device_sync(s->dev, NULL), STATUS_OK);
    device_read(s->dev, r.y, s->y, sizeof r.y);
    device_read(s->dev, r.z, s->z, sizeof r.z);
    device_read(s->dev, r.tapped, s->tapped, sizeof r.tapped);
    device_read(s->dev, r.cos, s->cos, sizeof r.cos);
    device_read(s->dev, r.sin, s->sin, sizeof r.sin);
    return r;
}

static void run_calls(struct step *s) {
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(device_run(s->dev, &s->calls[i], NULL), STATUS_OK);
}

static struct result eager(struct step *s) {
    clear(s);
    run_calls(s);
    return result_of(s);
}

static struct device_graph *record(struct step *s) {
    struct device_graph *g;
    assert_int_equal(device_capture_begin(s->dev, NULL), STATUS_OK);
    run_calls(s);
    assert_int_equal(device_capture_end(s->dev, &g, NULL), STATUS_OK);
    return g;
}

static struct result replay(struct step *s, struct device_graph *g) {
    clear(s);
    assert_int_equal(device_graph_launch(s->dev, g, NULL), STATUS_OK);
    return result_of(s);
}

static int open_step(void **state) {
    struct device_opts opts = two_threads();
    *state = step_open(open_with(&opts));
    return 0;
}

static int close_step(void **state) {
    struct step *s = *state;
    struct device *dev = s->dev;
    step_close(s);
    device_close(dev);
    return 0;
}

/* ---- weights */

static void a_weight_takes_what_was_planned_and_multiplies(void **state) {
    struct step *s = *state;
    const struct weight_shape shape = {N, C, DTYPE_BF16, true};
    struct arena *a;
    size_t bytes = device_weight_bytes(s->dev, shape);
    assert_int_equal(arena_open(&a, s->dev, MEMORY_WEIGHTS, bytes, NULL), STATUS_OK);
    bf16 plain[N * C], bias[N], x[2 * C], y[2 * N];
    for (int i = 0; i < N * C; i++) plain[i] = f32_to_bf16((float)(i % 5 - 2));
    for (int i = 0; i < N; i++) bias[i] = f32_to_bf16((float)i);
    for (int i = 0; i < 2 * C; i++) x[i] = f32_to_bf16((float)(i % 3));
    const struct weight *w;
    assert_int_equal(device_weight_pack(s->dev, a, 5, shape, plain, bias, &w, NULL), STATUS_OK);
    memset(plain, 0xff, sizeof plain); /* no longer needed */
    memset(bias, 0xff, sizeof bias);
    assert_null(arena_take(a, 5, 1));
    struct memory_use use;
    device_memory(s->dev, 5, &use);
    assert_int_equal(use.bytes[MEMORY_WEIGHTS], bytes);
    assert_int_equal(weight_shape(w).N, N);
    struct op_call call = {.op = OP_LINEAR, .linear = {w, x, y, C, N, 2}};
    assert_int_equal(device_run(s->dev, &call, NULL), STATUS_OK);
    for (int t = 0; t < 2; t++) {
        for (int n = 0; n < N; n++) {
            int sum = n;
            for (int k = 0; k < C; k++) sum += ((n * C + k) % 5 - 2) * ((t * C + k) % 3);
            assert_true(bf16_to_f32(y[t * N + n]) == (float)sum);
        }
    }
    arena_close(a);
}

static void a_weight_without_room_is_an_error(void **state) {
    struct step *s = *state;
    const struct weight_shape shape = {N, C, DTYPE_BF16, false};
    struct arena *a;
    struct error err = {""};
    const struct weight *w = (void *)1;
    bf16 plain[N * C] = {0};
    size_t bytes = device_weight_bytes(s->dev, shape) - 256;
    assert_int_equal(arena_open(&a, s->dev, MEMORY_WEIGHTS, bytes, NULL), STATUS_OK);
    assert_int_equal(device_weight_pack(s->dev, a, 0, shape, plain, NULL, &w, &err),
                     STATUS_NO_MEMORY);
    assert_null(w);
    assert_non_null(strstr(err.text, "7 x 16"));
    arena_close(a);
}

/* ---- key/value cache */

enum { CAPACITY = 3 * KV_TILE, HEADS = 2, HEAD_DIM = 16 };

static struct kv_view open_view(struct step *s, struct arena **a) {
    struct kv_view view = {.layout = device_kv_layout(s->dev),
                           .capacity = CAPACITY,
                           .heads = HEADS,
                           .head_dim = HEAD_DIM,
                           .dtype = DTYPE_BF16};
    size_t bytes = view.layout->bytes(CAPACITY, HEADS, HEAD_DIM, DTYPE_BF16);
    assert_int_equal(arena_open(a, s->dev, MEMORY_KV, 2 * arena_bytes(bytes), NULL), STATUS_OK);
    view.k = arena_take(*a, 0, bytes);
    view.v = arena_take(*a, 0, bytes);
    return view;
}

struct head {
    float k[CAPACITY * HEAD_DIM], v[CAPACITY * HEAD_DIM];
};

static void synthetic_keys_depend_on_seed_position_and_head_alone(void **state) {
    struct step *s = *state;
    struct arena *one, *two;
    struct kv_view whole = open_view(s, &one), pieces = open_view(s, &two);
    struct head *a = calloc(3, sizeof *a), *b = a + 1, *c = a + 2;
    device_kv_fill(s->dev, &whole, 0, 300, 42);
    device_kv_fill(s->dev, &pieces, 77, 301, 42);
    device_kv_fill(s->dev, &pieces, 0, 77, 42);
    device_kv_fill(s->dev, &pieces, 5, 5, 43);
    for (int head = 0; head < HEADS; head++) {
        device_kv_read(s->dev, &whole, head, 0, CAPACITY, a->k, a->v);
        device_kv_read(s->dev, &pieces, head, 0, CAPACITY, b->k, b->v);
        assert_memory_equal(a->k, b->k, 300 * HEAD_DIM * sizeof *a->k);
        assert_memory_equal(a->v, b->v, 300 * HEAD_DIM * sizeof *a->v);
        for (int i = 300 * HEAD_DIM; i < CAPACITY * HEAD_DIM; i++)
            assert_true(a->k[i] == 0 && a->v[i] == 0);
        if (head == 0) memcpy(c, a, sizeof *c);
    }
    assert_memory_not_equal(c->k, a->k, HEAD_DIM * sizeof *a->k);            /* heads differ */
    assert_memory_not_equal(a->k, a->v, HEAD_DIM * sizeof *a->k);            /* keys and values */
    assert_memory_not_equal(a->k, a->k + HEAD_DIM, HEAD_DIM * sizeof *a->k); /* positions */
    device_kv_fill(s->dev, &pieces, 0, 300, 43);
    device_kv_read(s->dev, &pieces, 1, 0, CAPACITY, b->k, b->v);
    assert_memory_not_equal(a->k, b->k, HEAD_DIM * sizeof *a->k); /* seeds */
    free(a);
    arena_close(one);
    arena_close(two);
}

static void synthetic_keys_are_standard_normal(void **state) {
    struct step *s = *state;
    struct arena *arena;
    struct kv_view view = open_view(s, &arena);
    struct head *h = calloc(1, sizeof *h);
    device_kv_fill(s->dev, &view, 0, CAPACITY, 1);
    device_kv_read(s->dev, &view, 1, 0, CAPACITY, h->k, h->v);
    double sum = 0, squares = 0, n = 2.0 * CAPACITY * HEAD_DIM;
    for (int i = 0; i < CAPACITY * HEAD_DIM; i++) {
        sum += (double)h->k[i] + (double)h->v[i];
        squares += (double)h->k[i] * (double)h->k[i] + (double)h->v[i] * (double)h->v[i];
    }
    assert_true(fabs(sum / n) < 5 / sqrt(n));
    assert_true(fabs(squares / n - 1) < 5 * sqrt(2 / n));
    free(h);
    arena_close(arena);
}

/* ---- graphs */

static void eager_and_replay_give_the_same_bits(void **state) {
    struct step *s = *state;
    struct device_graph *g = record(s);
    for (int i = 0; i < 3; i++) {
        write_params(s, 100 * i, i);
        struct result a = eager(s), b = replay(s, g);
        assert_memory_equal(&a, &b, sizeof a);
    }
    device_graph_close(s->dev, g);
    device_graph_close(s->dev, NULL);
}

static void a_replay_sees_the_steps_new_parameters_and_inputs(void **state) {
    struct step *s = *state;
    struct device_graph *g = record(s);
    write_params(s, 0, 0);
    struct result a = replay(s, g);
    assert_true(a.cos[0] == 1.0f);
    assert_memory_equal(a.tapped, a.z, N * sizeof *a.z);
    write_params(s, 2, 4);
    device_write(s->dev, s->ids, (int32_t[ROWS]){3, 1, 6, 2, 5}, ROWS * sizeof *s->ids);
    struct result b = replay(s, g);
    assert_true(b.cos[0] == (float)cos(2.0));
    assert_memory_equal(b.tapped, b.z + 4 * N, N * sizeof *b.z);
    assert_memory_equal(a.z, b.z, N * sizeof *a.z); /* row 0 has the same token */
    assert_memory_not_equal(a.z + 4 * N, b.z + 4 * N, N * sizeof *a.z);
    device_graph_close(s->dev, g);
}

static void recording_runs_nothing_and_is_charged(void **state) {
    struct step *s = *state;
    struct memory_use use;
    clear(s);
    struct device_graph *g = record(s);
    struct result r = result_of(s);
    for (size_t i = 0; i < sizeof r; i++) assert_int_equal(((char *)&r)[i], 0);
    struct device_graph_info info;
    device_graph_info(g, &info);
    assert_int_equal(info.nodes, CALLS);
    assert_true(info.bytes >= (int64_t)(CALLS * sizeof(struct op_call)));
    assert_true(info.capture_ns > 0 && info.instantiate_ns > 0);
    device_memory(s->dev, SHARED_RANK, &use);
    assert_int_equal(use.bytes[MEMORY_GRAPH], info.bytes);
    device_graph_close(s->dev, g);
    device_memory(s->dev, SHARED_RANK, &use);
    assert_int_equal(use.bytes[MEMORY_GRAPH], 0);
}

static void long_and_empty_recordings_are_kept_whole(void **state) {
    struct step *s = *state;
    struct device_graph *g;
    struct device_graph_info info;
    const int turns[] = {0, 52, 301};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(device_capture_begin(s->dev, NULL), STATUS_OK);
        for (int t = 0; t < turns[i]; t++) run_calls(s);
        assert_int_equal(device_capture_end(s->dev, &g, NULL), STATUS_OK);
        device_graph_info(g, &info);
        assert_int_equal(info.nodes, turns[i] * CALLS);
        struct result a = eager(s), b = replay(s, g);
        if (turns[i]) assert_memory_equal(&a, &b, sizeof a);
        device_graph_close(s->dev, g);
    }
}

static void two_graphs_keep_their_own_calls(void **state) {
    struct step *s = *state;
    struct device_graph *whole = record(s), *first;
    assert_int_equal(device_capture_begin(s->dev, NULL), STATUS_OK);
    device_run(s->dev, &s->calls[2], NULL);
    assert_int_equal(device_capture_end(s->dev, &first, NULL), STATUS_OK);
    write_params(s, 3, 1);
    struct result a = replay(s, first);
    assert_true(a.cos[0] == (float)cos(3.0) && a.z[0] == 0);
    struct result b = replay(s, whole), c = eager(s);
    assert_memory_equal(&b, &c, sizeof b);
    device_graph_close(s->dev, first);
    device_graph_close(s->dev, whole);
}

static void a_step_allocates_nothing(void **state) {
    struct step *s = *state;
    assert_int_equal(device_spans_enable(s->dev, 100, NULL), STATUS_OK);
    struct device_graph *g = record(s);
    int64_t before = device_allocations(s->dev);
    for (int i = 0; i < 10; i++) {
        eager(s);
        replay(s, g);
        device_spans_reset(s->dev);
    }
    assert_int_equal(device_allocations(s->dev), before);
    device_graph_close(s->dev, g);
}

/* ---- the interposer */

struct spy {
    int seen[OPS], calls;
    enum { WATCH, TAKE_OVER, CHANGE, FORWARD } mode;
};

static bool spy_on(void *ctx, struct device *dev, struct op_call *call) {
    struct spy *spy = ctx;
    spy->seen[call->op]++;
    spy->calls++;
    if (call->op != OP_LINEAR) return false;
    if (spy->mode == TAKE_OVER) return true;
    if (spy->mode == FORWARD) return device_execute(dev, call, NULL) == STATUS_OK;
    if (spy->mode == CHANGE) call->linear.rows = 1;
    return false;
}

static void the_interposer_sees_calls_as_they_run(void **state) {
    (void)state;
    struct spy spy = {.mode = WATCH};
    struct device_opts opts = two_threads();
    opts.interpose = spy_on, opts.interpose_ctx = &spy;
    struct step *s = step_open(open_with(&opts));
    struct result plain = eager(s);
    assert_int_equal(spy.calls, CALLS);
    assert_int_equal(spy.seen[OP_TAP], 1);
    struct device_graph *g = record(s);
    assert_int_equal(spy.calls, CALLS); /* nothing ran */
    struct result r = replay(s, g);
    assert_int_equal(spy.calls, 2 * CALLS);
    assert_memory_equal(&r, &plain, sizeof r);
    device_execute(s->dev, &s->calls[0], NULL);
    assert_int_equal(spy.calls, 2 * CALLS); /* past it */
    device_graph_close(s->dev, g);
    close_step((void **)&s);
}

static void the_interposer_may_change_take_over_and_forward(void **state) {
    (void)state;
    struct spy spy = {.mode = FORWARD};
    struct device_opts opts = two_threads();
    opts.interpose = spy_on, opts.interpose_ctx = &spy;
    struct step *s = step_open(open_with(&opts));
    const bf16 nothing[ROWS * N] = {0};
    struct result plain = eager(s);
    assert_memory_not_equal(plain.z, nothing, sizeof nothing);
    struct device_graph *g = record(s);
    spy.mode = TAKE_OVER;
    struct result a = eager(s), b = replay(s, g);
    assert_memory_equal(a.z, nothing, sizeof nothing);
    assert_memory_equal(b.z, nothing, sizeof nothing);
    spy.mode = CHANGE;
    a = eager(s), b = replay(s, g);
    assert_memory_equal(a.z, plain.z, N * sizeof *a.z);
    assert_memory_equal(a.z + N, nothing, (ROWS - 1) * N * sizeof *a.z);
    assert_memory_equal(&a, &b, sizeof a);
    spy.mode = WATCH;
    a = replay(s, g); /* the change was made to a copy */
    assert_memory_equal(&a, &plain, sizeof a);
    device_graph_close(s->dev, g);
    close_step((void **)&s);
}

/* ---- spans and progress */

static void spans_tell_what_ran_in_order(void **state) {
    struct step *s = *state;
    int64_t n, dropped;
    assert_int_equal(device_spans_enable(s->dev, 100, NULL), STATUS_OK);
    struct device_graph *g = record(s);
    device_spans(s->dev, &n, &dropped);
    assert_int_equal(n, 0);
    eager(s);
    replay(s, g);
    const struct span *spans = device_spans(s->dev, &n, &dropped);
    assert_int_equal(n, 2 * CALLS);
    assert_int_equal(dropped, 0);
    for (int i = 0; i < n; i++) {
        const struct op_call *call = &s->calls[i % CALLS];
        struct cost cost = op_cost(call, op_step(call));
        assert_int_equal(spans[i].op, call->op);
        assert_int_equal(spans[i].role, call->role);
        assert_int_equal(spans[i].rank, call->rank);
        assert_int_equal(spans[i].layer, call->layer);
        assert_int_equal(spans[i].flops, cost.flops);
        assert_int_equal(spans[i].bytes, cost.bytes);
        assert_true(spans[i].begin_ns > 0 && spans[i].end_ns >= spans[i].begin_ns);
        if (i > 0) assert_true(spans[i].begin_ns >= spans[i - 1].end_ns);
    }
    device_graph_close(s->dev, g);
}

/* The number in a span counts the variants of its op in ops.inc. */
static void spans_name_the_variant(void **state) {
    struct step *s = *state;
    int64_t n, dropped;
    struct device_info info;
    device_info(s->dev, &info);
    assert_int_equal(device_spans_enable(s->dev, 100, NULL), STATUS_OK);
    eager(s);
    const struct span *spans = device_spans(s->dev, &n, &dropped);
    for (int i = 0; i < n; i++) {
        const enum op op = (enum op)spans[i].op;
        assert_string_equal(variant_name(op, spans[i].variant), info.variant[op]);
        assert_string_equal(variant_name(op, 255), "unknown");
    }
}

static void spans_without_room_are_counted(void **state) {
    struct step *s = *state;
    int64_t n, dropped;
    assert_int_equal(device_spans_enable(s->dev, 7, NULL), STATUS_OK);
    for (int i = 0; i < 3; i++) eager(s);
    const struct span *spans = device_spans(s->dev, &n, &dropped);
    assert_int_equal(n, 7);
    assert_int_equal(dropped, 3 * CALLS - 7);
    assert_int_equal(spans[6].op, s->calls[1].op);
    device_spans_reset(s->dev);
    device_spans(s->dev, &n, &dropped);
    assert_int_equal(n + dropped, 0);
    eager(s);
    device_spans(s->dev, &n, &dropped);
    assert_int_equal(n, CALLS);
    assert_int_equal(dropped, 0);
}

static void spans_cost_memory_only_while_they_are_kept(void **state) {
    struct step *s = *state;
    struct memory_use before, with, after;
    int64_t n, dropped;
    eager(s);
    assert_null(device_spans(s->dev, &n, &dropped));
    assert_int_equal(n + dropped, 0);
    device_memory(s->dev, SHARED_RANK, &before);
    assert_int_equal(device_spans_enable(s->dev, 1000, NULL), STATUS_OK);
    device_memory(s->dev, SHARED_RANK, &with);
    assert_int_equal(with.bytes[MEMORY_OTHER] - before.bytes[MEMORY_OTHER],
                     1000 * sizeof(struct span));
    assert_int_equal(device_spans_enable(s->dev, 0, NULL), STATUS_OK);
    device_memory(s->dev, SHARED_RANK, &after);
    assert_int_equal(after.bytes[MEMORY_OTHER], before.bytes[MEMORY_OTHER]);
    struct error err = {""};
    assert_int_equal(device_spans_enable(s->dev, INT64_MAX, &err), STATUS_NO_MEMORY);
    assert_true(strlen(err.text) > 0);
}

struct watch {
    struct device *dev;
    uint64_t before;
    int wrong;
};

static void check_progress(void *ctx, int64_t item, int worker) {
    (void)worker;
    struct watch *w = ctx;
    w->wrong += device_progress(w->dev) != w->before + (uint64_t)item;
}

static void progress_moves_inside_an_op_and_with_each_call(void **state) {
    (void)state;
    struct device_opts opts = two_threads();
    opts.threads = 1;
    struct step *s = step_open(open_with(&opts));
    struct watch w = {s->dev, device_progress(s->dev), 0};
    device_parallel(s->dev, 20, check_progress, &w);
    assert_int_equal(w.wrong, 0);
    uint64_t before = device_progress(s->dev);
    assert_int_equal(before, w.before + 20);
    eager(s);
    assert_true(device_progress(s->dev) >= before + CALLS);
    /* and before there are any: with memory, and with each call that is recorded */
    before = device_progress(s->dev);
    struct device_graph *g = record(s);
    assert_true(device_progress(s->dev) >= before + CALLS);
    device_graph_close(s->dev, g);
    before = device_progress(s->dev);
    struct arena *a;
    assert_int_equal(arena_open(&a, s->dev, MEMORY_OTHER, 4096, NULL), STATUS_OK);
    assert_true(device_progress(s->dev) > before);
    arena_close(a);
    close_step((void **)&s);
}

static void scratch_belongs_to_a_worker(void **state) {
    struct step *s = *state;
    char *one = device_scratch(s->dev, 0), *two = device_scratch(s->dev, 1);
    assert_int_equal((uintptr_t)one % 64, 0);
    assert_int_equal((uintptr_t)two % 64, 0);
    memset(one, 1, DEVICE_SCRATCH_BYTES);
    memset(two, 2, DEVICE_SCRATCH_BYTES);
    assert_int_equal(one[DEVICE_SCRATCH_BYTES - 1], 1);
    struct memory_use use;
    device_memory(s->dev, SHARED_RANK, &use);
    assert_int_equal(use.bytes[MEMORY_WORKSPACE], 2 * DEVICE_SCRATCH_BYTES);
}

/* ---- rates */

static void measuring_gives_rates_and_leaves_nothing_behind(void **state) {
    struct step *s = *state;
    struct memory_use before, after;
    struct device_rates r;
    struct error err = {""};
    device_memory(s->dev, SHARED_RANK, &before);
    if (device_measure(s->dev, &r, &err) != STATUS_OK) fail_msg("%s", err.text);
    device_memory(s->dev, SHARED_RANK, &after);
    assert_memory_equal(before.bytes, after.bytes, sizeof before.bytes);
    const double rates[] = {r.linear_flops, r.attention_flops, r.roof_flops};
    for (int i = 0; i < 3; i++) assert_true(rates[i] > 1e6 && rates[i] < 1e15);
    assert_true(r.copy_bytes > 1e6 && r.copy_bytes < 1e13);
    assert_true(r.op_overhead_ns > 0 && r.op_overhead_ns < 1e6);
}

#define ON_STEP(f) cmocka_unit_test_setup_teardown(f, open_step, close_step)

int main(void) {
    if (!enough_memory(1536)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_list_are_the_rows_of_the_table),
        cmocka_unit_test(every_op_has_a_reference_that_serves_everything),
        cmocka_unit_test(the_first_usable_row_wins_at_every_isa_and_dtype),
        cmocka_unit_test(the_choice_follows_from_facts),
        cmocka_unit_test(a_lesser_attention_kernel_comes_with_its_reason),
        cmocka_unit_test(named_variants_are_taken),
        cmocka_unit_test(info_tells_what_the_host_has),
        cmocka_unit_test(what_cannot_be_opened_is_refused_with_a_reason),
        cmocka_unit_test(a_variant_of_the_other_dtype_is_refused),
        cmocka_unit_test(an_isa_beyond_this_machine_is_refused),
        ON_STEP(a_weight_takes_what_was_planned_and_multiplies),
        ON_STEP(a_weight_without_room_is_an_error),
        ON_STEP(synthetic_keys_depend_on_seed_position_and_head_alone),
        ON_STEP(synthetic_keys_are_standard_normal),
        ON_STEP(eager_and_replay_give_the_same_bits),
        ON_STEP(a_replay_sees_the_steps_new_parameters_and_inputs),
        ON_STEP(recording_runs_nothing_and_is_charged),
        ON_STEP(long_and_empty_recordings_are_kept_whole),
        ON_STEP(two_graphs_keep_their_own_calls),
        ON_STEP(a_step_allocates_nothing),
        cmocka_unit_test(the_interposer_sees_calls_as_they_run),
        cmocka_unit_test(the_interposer_may_change_take_over_and_forward),
        ON_STEP(spans_tell_what_ran_in_order),
        ON_STEP(spans_name_the_variant),
        ON_STEP(spans_without_room_are_counted),
        ON_STEP(spans_cost_memory_only_while_they_are_kept),
        cmocka_unit_test(progress_moves_inside_an_op_and_with_each_call),
        ON_STEP(scratch_belongs_to_a_worker),
        ON_STEP(measuring_gives_rates_and_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
