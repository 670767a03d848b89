/* CUPTI on a GPU: every kernel of a step, eager and replayed, finds its op; its times are those of
 * our clock; what it adds up to is what events around the ops tell. Skipped (77) where there is no
 * GPU or CUPTI does not serve. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "gpu_test.h"
#include "kernels/activity/activity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TP = 4, TOKENS = 5000, CHUNK = 2048, BOUND_NS = 10000 };

static struct activity *activity; /* for all tests: CUPTI is opened before CUDA, once */

static void must(enum status s, const struct error *err) {
    if (s != STATUS_OK) fail_msg("%s", err->text);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct engine *open_engine(const char *model) {
    struct engine_opts eo = engine_opts_defaults();
    struct engine *e = NULL;
    struct error err = {""};
    eo.model = model;
    eo.device = DEVICE_CUDA;
    eo.tensor_parallel_size = TP;
    eo.devices = 1;
    eo.activity = activity;
    must(engine_open(&e, &eo, &err), &err);
    return e;
}

static struct session *open_session(struct engine *e, int32_t tokens, int32_t chunk, bool graph) {
    struct session_opts so = session_opts_defaults();
    struct session *s = NULL;
    struct error err = {""};
    so.prompt_tokens = tokens;
    so.chunk_tokens = chunk;
    so.graph = graph;
    so.max_tokens = 2;
    must(session_open(&s, e, &so, &err), &err);
    return s;
}

static int32_t *tokens_for(struct engine *e, int32_t n) {
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(ids);
    engine_random_tokens(3, engine_info(e)->model.V, n, ids);
    return ids;
}

/* ---- attribution */

struct tally {
    int64_t kernels, nobodys, outside, graph_nodes, calls[OPS], of_rank[MAX_RANKS + 1];
};

static void count(const struct activity_log *log, const struct chunk_result *r, int chunk,
                  struct tally *t) {
    for (int64_t i = 0; i < log->n_kernels; i++) {
        const struct activity_kernel *k = &log->kernels[i];
        if (k->head.chunk != chunk) continue;
        t->kernels++;
        t->graph_nodes += k->graph_node != 0;
        if (k->head.place.op == PLACE_UNKNOWN) {
            t->nobodys++;
            print_message("nobody's: %s\n", activity_log_text(log, k->demangled));
            continue;
        }
        t->calls[k->head.place.op]++;
        t->of_rank[k->head.place.rank + 1]++;
        if (k->head.begin_ns < r->begin_ns - BOUND_NS ||
            k->head.end_ns > r->begin_ns + r->latency_ns + BOUND_NS)
            t->outside++;
        assert_true(k->grid[0] > 0 && k->block[0] > 0 && k->registers > 0);
        assert_true(*activity_log_text(log, k->short_name));
    }
}

/* Each kernel of a graph is of a node that was told of, with the same op, and the node is a copy.
 */
static void nodes_are_told(const struct activity_log *log) {
    for (int64_t i = 0; i < log->n_kernels; i++) {
        const struct activity_kernel *k = &log->kernels[i];
        const struct activity_node *of = NULL;
        for (int64_t n = 0; n < log->n_nodes && !of; n++)
            if (log->nodes[n].node == k->graph_node) of = &log->nodes[n];
        if (k->graph_node == 0) continue;
        assert_non_null(of);
        assert_true(of->original != 0 && of->head.begin_ns < k->head.begin_ns);
        assert_int_equal(of->head.place.op, k->head.place.op);
        assert_int_equal(of->head.place.layer, k->head.place.layer);
    }
}

/* Bytes of the GPU that were allocated and not given back. */
static int64_t bytes_held(const struct activity_log *log) {
    enum { OF_DEVICE = 3 };
    int64_t bytes = 0;
    for (int64_t i = 0; i < log->n_memory; i++)
        if (log->memory[i].kind == OF_DEVICE)
            bytes += log->memory[i].release ? -log->memory[i].bytes : log->memory[i].bytes;
    return bytes;
}

/* A prompt whose last chunk is a ragged one; what is found of each chunk. */
static int run(struct engine *e, bool graph, struct tally tallies[]) {
    struct session *s = open_session(e, TOKENS, CHUNK, graph);
    struct error err = {""};
    struct activity_log log = {0};
    int32_t *ids = tokens_for(e, TOKENS);
    int chunks = 0;
    for (int32_t at = 0; at < TOKENS; chunks++) {
        const int32_t n = TOKENS - at < CHUNK ? TOKENS - at : CHUNK;
        struct chunk_result r;
        activity_reset(activity);
        must(session_prefill(s, ids + at, n, &r, &err), &err);
        must(activity_take(activity, 0, chunks, &log, &err), &err);
        assert_true(r.replayed == (graph && n == CHUNK));
        tallies[chunks] = (struct tally){.kernels = 0};
        count(&log, &r, chunks, &tallies[chunks]);
        at += n;
    }
    assert_int_equal(log.dropped, 0);
    print_message("%s: %lld kernels, %lld copies, %lld calls, %lld overheads, %d names\n",
                  graph ? "graph" : "eager", (long long)log.n_kernels, (long long)log.n_copies,
                  (long long)log.n_calls, (long long)log.n_overheads, (int)log.n_strings);
    print_message("%lld nodes; %lld times memory, %lld bytes held\n", (long long)log.n_nodes,
                  (long long)log.n_memory, (long long)bytes_held(&log));
    nodes_are_told(&log);
    assert_true(graph ? log.n_nodes > 0 : bytes_held(&log) > 0);
    activity_log_free(&log);
    free(ids);
    session_close(s);
    return chunks;
}

static void every_kernel_of_a_step_finds_its_op_eager_and_replayed(void **state) {
    (void)state;
    struct tally eager[4], graph[4];
    struct engine *e = open_engine("needle");
    const int chunks = run(e, false, eager);
    assert_int_equal(chunks, 3);
    assert_int_equal(run(e, true, graph), chunks);
    for (int i = 0; i < chunks; i++) {
        assert_true(eager[i].kernels > 0);
        assert_int_equal(eager[i].nobodys, 0);
        assert_int_equal(graph[i].nobodys, 0);
        assert_int_equal(eager[i].outside, 0);
        assert_int_equal(graph[i].outside, 0);
        assert_int_equal(eager[i].graph_nodes, 0);
        if (i < 2) assert_true(graph[i].graph_nodes > 0);
        for (int r = 0; r < TP; r++) assert_true(eager[i].of_rank[r + 1] > 0);
        /* the same kernels, whichever way */
        for (int op = 0; op < OPS; op++)
            if (eager[i].calls[op] != graph[i].calls[op])
                fail_msg("chunk %d: %lld kernels of %s eager, %lld in the graph", i,
                         (long long)eager[i].calls[op], op_name((enum op)op),
                         (long long)graph[i].calls[op]);
    }
    engine_close(e);
}

/* ---- time */

/* Records of calls and kernels lie between what our clock says before and after, to BOUND_NS; and
 * of many tries the closest shows that this is no matter of slack: the clocks are one. */
static void times_are_those_of_our_clock(void **state) {
    (void)state;
    enum { TRIES = 50 };
    struct engine *e = open_engine("needle");
    struct session *s = open_session(e, 256, 256, false);
    struct error err = {""};
    int32_t *ids = tokens_for(e, 256);
    int64_t closest = INT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        struct activity_log log = {0};
        struct chunk_result r;
        must(session_reset(s, &err), &err);
        activity_reset(activity);
        const int64_t before = now_ns();
        must(session_prefill(s, ids, 256, &r, &err), &err);
        const int64_t after = now_ns();
        must(activity_take(activity, 0, 0, &log, &err), &err);
        assert_true(log.n_kernels > 0 && log.n_calls > 0);
        int64_t first = INT64_MAX, last = 0;
        for (int64_t k = 0; k < log.n_kernels; k++) {
            const struct activity_head *h = &log.kernels[k].head;
            if (h->begin_ns < first) first = h->begin_ns;
            if (h->end_ns > last) last = h->end_ns;
        }
        if (first < before - BOUND_NS || last > after + BOUND_NS)
            fail_msg("kernels from %lld ns before to %lld ns after", (long long)(before - first),
                     (long long)(last - after));
        for (int64_t k = 0; k < log.n_calls; k++) {
            const struct activity_head *h = &log.calls[k].head;
            if (h->begin_ns - before >= 0 && h->begin_ns - before < closest)
                closest = h->begin_ns - before;
            if (h->place.op != PLACE_UNKNOWN)
                assert_true(h->begin_ns >= before - BOUND_NS && h->end_ns <= after + BOUND_NS);
        }
        activity_log_free(&log);
    }
    print_message("first call %lld ns after our clock was read\n", (long long)closest);
    assert_true(closest < BOUND_NS);
    free(ids);
    session_close(s);
    engine_close(e);
}

/* ---- sums */

/* What kernels of the heavy ops took, over what events around these ops say. */
static void kernels_add_up_to_their_spans(void **state) {
    (void)state;
    enum { LONG = 8192 };
    struct engine *e = open_engine("needle:28x4x128");
    struct session *s = open_session(e, 2 * LONG, LONG, false);
    struct error err = {""};
    struct activity_log log = {0};
    struct chunk_result r;
    int32_t *ids = tokens_for(e, 2 * LONG);
    double kernels[OPS] = {0}, spans[OPS] = {0};
    int64_t n, dropped;
    must(session_spans_enable(s, 100000, &err), &err);
    must(session_prefill(s, ids, LONG, &r, &err), &err);
    session_spans_reset(s);
    activity_reset(activity);
    must(session_prefill(s, ids + LONG, LONG, &r, &err), &err);
    must(activity_take(activity, 0, 1, &log, &err), &err);
    const struct span *all = session_spans(s, 0, &n, &dropped);
    assert_int_equal(dropped, 0);
    for (int64_t i = 0; i < n; i++) spans[all[i].op] += (double)(all[i].end_ns - all[i].begin_ns);
    for (int64_t i = 0; i < log.n_kernels; i++) {
        const struct activity_head *h = &log.kernels[i].head;
        assert_true(h->place.op < OPS);
        kernels[h->place.op] += (double)(h->end_ns - h->begin_ns);
    }
    for (int op = 0; op < OPS; op++)
        if (spans[op] > 0)
            print_message("%-12s spans %9.3f ms, kernels %9.3f ms\n", op_name((enum op)op),
                          spans[op] / 1e6, kernels[op] / 1e6);
    const double ratio = kernels[OP_ATTENTION] / spans[OP_ATTENTION];
    assert_true(ratio > 0.7 && ratio < 1.02);
    activity_log_free(&log);
    free(ids);
    session_close(s);
    engine_close(e);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_of_a_step_finds_its_op_eager_and_replayed),
        cmocka_unit_test(times_are_those_of_our_clock),
        cmocka_unit_test(kernels_add_up_to_their_spans),
    };
    struct activity_opts opts = activity_opts_defaults();
    struct error err = {""};
    if (device_count(DEVICE_CUDA) == 0) {
        puts("skipped: no GPU");
        return 77;
    }
    if (wants_small(argc, argv)) {
        puts("skipped: sanitizers take the interface of CUPTI themselves");
        return 77;
    }
    if (activity_open(&activity, &opts, &err) != STATUS_OK) {
        printf("skipped: %s\n", err.text);
        return 77;
    }
    printf("CUPTI %u (%s)\n", activity_version(activity), activity_library(activity));
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    activity_close(activity);
    return failed;
}
