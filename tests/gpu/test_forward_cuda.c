/* The whole forward pass on a GPU: against the CPU backend, and against itself bit for bit over
 * chunk sizes, modes and pruning. `--probe` only says whether a GPU opens, `--small` runs little,
 * for sanitizers; `--7b` compares two layers of the 7B model's shape at 4,096 tokens: the GPU's
 * bf16 error beside the CPU's own, both against the CPU in float32. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "gpu_test.h"
#include "kernels/group.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DECODED = 4 };

struct forwarding {
    const char *model;
    enum device_kind device;
    enum dtype dtype;
    const char *attention;
    int tp, devices;      /* devices: 0 as 1 */
    const char *exchange; /* NULL: auto */
    bool overlap;         /* exchanges run beside the linears of other blocks */
    int32_t tokens, chunk;
    bool graph, whole, dual; /* whole: the last layer is not pruned */
    bool traced;             /* a pass with spans comes before */
};

/* Logits of the first DECODED tokens, greedy, and their ids. */
struct answer {
    int32_t V;
    float *logits; /* [DECODED][V], owned */
    int32_t ids[DECODED];
};

static void must(enum status s, const struct error *err) {
    if (s != STATUS_OK) fail_msg("%s", err->text);
}

static struct engine *open_engine(const struct forwarding *f) {
    struct engine_opts eo = engine_opts_defaults();
    struct engine *e = NULL;
    struct error err = {""};
    eo.model = f->model;
    eo.device = f->device;
    eo.dtype = f->dtype;
    eo.seed = 7;
    eo.tensor_parallel_size = f->tp;
    eo.devices = f->devices > 0 ? f->devices : 1;
    eo.dual_chunk_attention = f->dual;
    eo.prune_last_layer = !f->whole;
    eo.block_rows = f->overlap ? 100 : 640;
    eo.exchange_overlap = f->overlap ? OVERLAP_ON : OVERLAP_OFF;
    if (f->exchange) eo.exchange_backend = f->exchange;
    if (f->device == DEVICE_CUDA && f->attention) eo.attention_backend = f->attention;
    must(engine_open(&e, &eo, &err), &err);
    return e;
}

static struct session *open_session(struct engine *e, const struct forwarding *f) {
    struct session_opts so = session_opts_defaults();
    struct session *s = NULL;
    struct error err = {""};
    so.prompt_tokens = f->tokens;
    so.chunk_tokens = f->chunk;
    so.graph = f->graph;
    so.max_tokens = DECODED;
    so.sampling = (struct sampling_opts){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    must(session_open(&s, e, &so, &err), &err);
    return s;
}

static void prefill(struct engine *e, struct session *s, const struct forwarding *f) {
    struct error err = {""};
    const int32_t V = engine_info(e)->model.V;
    int32_t *ids = malloc((size_t)f->tokens * sizeof *ids);
    assert_non_null(ids);
    engine_random_tokens(3, V, f->tokens, ids);
    const int64_t allocations = engine_allocations(e);
    for (int32_t at = 0; at < f->tokens;) {
        struct chunk_result r;
        const int32_t n = f->tokens - at < f->chunk ? f->tokens - at : f->chunk;
        must(session_prefill(s, ids + at, n, &r, &err), &err);
        assert_true(r.replayed == (f->graph && n == f->chunk));
        assert_true(r.device_latency_ns[0] > 0);
        at += n;
    }
    assert_int_equal(engine_allocations(e), allocations);
    free(ids);
}

/* A pass with spans, as a warm-up has them; the session is then as if there had been none. */
static void trace(struct engine *e, struct session *s, const struct forwarding *f) {
    struct error err = {""};
    int64_t n, dropped;
    must(session_spans_enable(s, 10000, &err), &err);
    prefill(e, s, f);
    const struct span *spans = session_spans(s, 0, &n, &dropped);
    assert_true(n > 0 && dropped == 0);
    for (int64_t i = 0; i < n; i++) {
        assert_true(spans[i].begin_ns > 0 && spans[i].end_ns >= spans[i].begin_ns);
        if (i > 0 && !f->overlap) assert_true(spans[i].begin_ns >= spans[i - 1].begin_ns);
    }
    must(session_spans_enable(s, 0, &err), &err);
    must(session_reset(s, &err), &err);
}

/* A session on an engine that was opened for the same but for mode and chunk size. */
static void run_on(struct engine *e, const struct forwarding *f, struct answer *out) {
    struct error err = {""};
    struct session *s = open_session(e, f);
    out->V = engine_info(e)->model.V;
    out->logits = malloc((size_t)DECODED * (size_t)out->V * sizeof *out->logits);
    assert_non_null(out->logits);
    if (f->traced) trace(e, s, f);
    prefill(e, s, f);
    for (int i = 0; i < DECODED; i++) {
        struct token_result t;
        must(session_generate(s, &t, &err), &err);
        must(session_logits(s, out->logits + (size_t)i * (size_t)out->V, &err), &err);
        out->ids[i] = t.id;
    }
    session_close(s);
}

static void run(const struct forwarding *f, struct answer *out) {
    struct engine *e = open_engine(f);
    run_on(e, f, out);
    engine_close(e);
}

/* Root mean square of the difference over that of the right ones, of the first `rows` rows. */
static double relative_error(const struct answer *a, const struct answer *right, int rows) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < (int64_t)rows * right->V; i++) {
        const double d = (double)a->logits[i] - (double)right->logits[i];
        difference += d * d;
        size += (double)right->logits[i] * (double)right->logits[i];
    }
    return sqrt(difference / size);
}

static void assert_same_bits(const struct answer *a, const struct answer *b, const char *what) {
    for (int i = 0; i < DECODED; i++)
        if (memcmp(a->logits + (size_t)i * (size_t)a->V, b->logits + (size_t)i * (size_t)b->V,
                   (size_t)a->V * sizeof(float)) != 0)
            fail_msg("%s: logits of token %d have other bits", what, i);
    assert_memory_equal(a->ids, b->ids, sizeof a->ids);
}

static const char small[] = "random:3x256x8x4x32x320x512/dual:256:64:512";
static const char large_heads[] = "random:2x512x8x2x128x704x1024/dual:512:128:1024";

static void float32_is_the_cpu_s(void **state) {
    (void)state;
    for (int tp = 1; tp <= 8; tp *= 2)
        for (int dual = 0; dual < 2; dual++) {
            const struct forwarding f = {.model = small,
                                         .device = DEVICE_CUDA,
                                         .dtype = DTYPE_F32,
                                         .tp = tp,
                                         .tokens = 1000,
                                         .chunk = 300,
                                         .dual = dual};
            struct forwarding on_cpu = f;
            struct answer gpu, cpu;
            on_cpu.device = DEVICE_CPU;
            run(&f, &gpu);
            run(&on_cpu, &cpu);
            const double error = relative_error(&gpu, &cpu, DECODED);
            if (!(error < 2e-5)) fail_msg("TP %d, dual %d: relative error %.3g", tp, dual, error);
            assert_memory_equal(gpu.ids, cpu.ids, sizeof gpu.ids);
            free(gpu.logits);
            free(cpu.logits);
        }
}

/* The GPU's bf16 may be as far from float32 as the CPU's bf16, and half as far again. */
static void compare_bf16(const char *model, int tp, int32_t tokens, const char *attention) {
    struct forwarding f = {.model = model,
                           .device = DEVICE_CPU,
                           .dtype = DTYPE_F32,
                           .tp = tp,
                           .tokens = tokens,
                           .chunk = tokens};
    struct answer right, cpu, gpu;
    run(&f, &right);
    f.dtype = DTYPE_BF16;
    run(&f, &cpu);
    f.device = DEVICE_CUDA;
    f.attention = attention;
    run(&f, &gpu);
    const double of_cpu = relative_error(&cpu, &right, 1), of_gpu = relative_error(&gpu, &right, 1);
    print_message("%s TP %d, %d tokens, attention %s: bf16 error GPU %.3e, CPU %.3e, ratio %.2f\n",
                  model, tp, tokens, attention, of_gpu, of_cpu, of_gpu / of_cpu);
    assert_true(of_gpu <= 1.5 * of_cpu);
    free(right.logits);
    free(cpu.logits);
    free(gpu.logits);
}

/* The i-th attention kernel for this GPU and head dim that lacks nothing of what is named
 * (enum kernel_lacks), or NULL past the last. */
static const char *attention_kernel(int i, int head_dim, unsigned lacks) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int row = 0; row < n; row++) {
        if (v[row].op != OP_ATTENTION || v[row].device != DEVICE_CUDA) continue;
        if (v[row].library && (v[row].library->lacks & lacks)) continue;
        if (!variant_usable(v + row, NULL) || !(v[row].dtypes & SERVES_BF16) ||
            v[row].kv_layout->bytes(KV_TILE, 1, head_dim, DTYPE_BF16) == 0)
            continue;
        if (i-- == 0) return v[row].name;
    }
    return NULL;
}

static void bf16_is_as_near_to_float32_as_the_cpu_s(void **state) {
    (void)state;
    const char *kernel;
    for (int i = 0; (kernel = attention_kernel(i, 128, 0)); i++)
        compare_bf16(large_heads, 1 + i % 2, 1500, kernel);
    for (int i = 0; (kernel = attention_kernel(i, 32, 0)); i++)
        compare_bf16(small, 4, 1000, kernel);
    compare_bf16(small, 8, 1000, "auto"); /* two ranks a kv head */
}

static void bits_do_not_depend_on_chunks_modes_or_pruning(const char *model, const char *attention,
                                                          bool dual) {
    struct forwarding f = {.model = model,
                           .device = DEVICE_CUDA,
                           .dtype = DTYPE_BF16,
                           .attention = attention,
                           .tp = 2,
                           .tokens = 1500,
                           .chunk = 1500,
                           .dual = dual};
    static const int32_t chunks[] = {100, 128, 500, 1024, 2000};
    struct answer first, other;
    char what[120];
    run(&f, &first);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        for (int mode = 0; mode < 3; mode++) {
            f.chunk = chunks[i] < f.tokens ? chunks[i] : f.tokens;
            f.graph = mode == 1;
            f.whole = mode == 2;
            snprintf(what, sizeof what, "%s, chunk %d, %s", attention, f.chunk,
                     mode == 1   ? "graph"
                     : mode == 2 ? "not pruned"
                                 : "eager");
            run(&f, &other);
            assert_same_bits(&other, &first, what);
            free(other.logits);
        }
    free(first.logits);
}

static void bits_are_the_same(void **state) {
    (void)state;
    const unsigned lacks = LACKS_GRAPHS | LACKS_DUAL_CHUNK | LACKS_SAME_BITS;
    const char *kernel;
    for (int i = 0; (kernel = attention_kernel(i, 128, lacks)); i++)
        for (int dual = 0; dual < 2; dual++)
            bits_do_not_depend_on_chunks_modes_or_pruning(large_heads, kernel, dual);
    for (int i = 0; (kernel = attention_kernel(i, 32, lacks)); i++)
        bits_do_not_depend_on_chunks_modes_or_pruning(small, kernel, true);
}

/* Eager, and as a CUDA graph that was captured before the spans came and is launched after. */
static void spans_leave_no_trace(void **state) {
    (void)state;
    for (int graph = 0; graph < 2; graph++) {
        struct forwarding f = {.model = small,
                               .device = DEVICE_CUDA,
                               .dtype = DTYPE_BF16,
                               .attention = "auto",
                               .tp = 2,
                               .tokens = 600,
                               .chunk = 128,
                               .graph = graph};
        struct answer plain, traced;
        run(&f, &plain);
        f.traced = true;
        run(&f, &traced);
        assert_same_bits(&traced, &plain, graph ? "graph" : "eager");
        free(plain.logits);
        free(traced.logits);
    }
}

/* Eager, as a graph, with spans before. What is tried is said first: it might not end. */
static void compare_gpus(struct forwarding f, const struct answer *one) {
    struct answer several;
    const double began = gpu_test_seconds();
    struct engine *e = open_engine(&f);
    print_message("opened in %.2f s\n", gpu_test_seconds() - began);
    for (int mode = 0; mode < 3; mode++) {
        char what[120];
        f.graph = mode == 1, f.traced = mode == 2;
        snprintf(what, sizeof what, "TP %d on %d GPUs, exchange %s%s, %s", f.tp, f.devices,
                 f.exchange, f.overlap ? " beside other ops" : "",
                 f.graph    ? "graph"
                 : f.traced ? "after spans"
                            : "eager");
        print_message("%s\n", what);
        const double ran = gpu_test_seconds();
        run_on(e, &f, &several);
        print_message("ran for %.2f s\n", gpu_test_seconds() - ran);
        assert_same_bits(&several, one, what);
        free(several.logits);
    }
    engine_close(e);
}

/* Ranks on several GPUs, whatever of them there are. */
static void bits_do_not_depend_on_the_number_of_gpus(void **state) {
    (void)state;
    const int gpus = device_count(DEVICE_CUDA);
    if (gpus < 2) {
        print_message("skipped: ranks on several GPUs: this machine has one\n");
        skip();
    }
    for (int tp = 2; tp <= 8; tp *= 2) {
        struct forwarding f = {.model = small,
                               .device = DEVICE_CUDA,
                               .dtype = DTYPE_BF16,
                               .attention = "auto",
                               .tp = tp,
                               .tokens = 1500,
                               .chunk = 300};
        struct answer one;
        run(&f, &one);
        for (int devices = 2; devices <= gpus && devices <= tp; devices *= 2)
            for (int i = 0; (f.exchange = exchange_kernel(i, devices, LACKS_SAME_BITS)); i++) {
                f.devices = devices;
                for (int overlap = 0; overlap < 2; overlap++) {
                    f.overlap = overlap;
                    compare_gpus(f, &one);
                }
            }
        free(one.logits);
    }
}

/* Predicted, accounted and as the driver counts it, the whole of each GPU, after a chunk ran. */
static void memory_case(bool graph) {
    enum { TOKENS = 8192 };
    const struct forwarding f = {.tokens = TOKENS, .chunk = TOKENS, .graph = graph};
    struct engine_opts eo = engine_opts_defaults();
    struct session_opts so = session_opts_defaults();
    struct memory_prediction predicted;
    struct error err = {""};
    eo.model = large_heads;
    eo.device = DEVICE_CUDA;
    eo.tensor_parallel_size = 2; /* on one GPU or two */
    so.prompt_tokens = so.chunk_tokens = TOKENS;
    so.graph = graph;
    struct engine_planner *planner = NULL;
    must(engine_planner_open(&planner, &eo, &err), &err);
    must(engine_planner_predict(planner, &so, &predicted, &err), &err);
    engine_planner_close(planner);
    struct engine *e = NULL;
    struct session *s = NULL;
    must(engine_open(&e, &eo, &err), &err);
    must(session_open(&s, e, &so, &err), &err);
    prefill(e, s, &f);
    int64_t accounted = 0, driver = 0;
    for (int m = 0; m < engine_info(e)->memories; m++) {
        int64_t bytes = 0;
        engine_memory_driver(e, m, &bytes, NULL);
        accounted += engine_memory_accounted(e, m);
        driver += bytes;
    }
    print_message("%s: predicted %lld bytes, accounted %lld, the driver's figure %lld\n",
                  graph ? "graph" : "eager", (long long)predicted.total_bytes, (long long)accounted,
                  (long long)driver);
    assert_true(llabs(accounted - predicted.total_bytes) <= predicted.total_bytes / 33);
    assert_true(llabs(driver - accounted) <= driver / 33);
    session_close(s);
    engine_close(e);
}

static void memory_is_as_predicted_and_as_the_driver_counts_it(void **state) {
    (void)state;
    memory_case(false);
    memory_case(true);
}

static void a_few_ranks_match(void **state) {
    (void)state;
    compare_bf16(small, 2, 300, "auto");
    compare_bf16("random:2x256x4x2x64x320x512", 1, 200, "auto");
}

static void two_layers_of_the_7b(void **state) {
    (void)state;
    compare_bf16("random:2x3584x28x4x128x18944x152064", 4, 4096, "auto");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_the_cpu_s),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_gpus),
        cmocka_unit_test(bf16_is_as_near_to_float32_as_the_cpu_s),
        cmocka_unit_test(bits_are_the_same),
        cmocka_unit_test(spans_leave_no_trace),
        cmocka_unit_test(memory_is_as_predicted_and_as_the_driver_counts_it),
    };
    const struct CMUnitTest on_demand[] = {cmocka_unit_test(two_layers_of_the_7b)};
    struct gpu_test probe;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what was said before a test that does not end */
    gpu_test_open(&probe, DTYPE_BF16, 128, "auto", 1 << 20); /* ends here without a GPU */
    gpu_test_close(&probe);
    if (argc > 1 && strcmp(argv[1], "--probe") == 0) return 0;
    const struct CMUnitTest little[] = {cmocka_unit_test(a_few_ranks_match)};
    if (wants_small(argc, argv)) return cmocka_run_group_tests(little, NULL, NULL);
    if (argc > 1 && strcmp(argv[1], "--7b") == 0)
        return cmocka_run_group_tests(on_demand, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
