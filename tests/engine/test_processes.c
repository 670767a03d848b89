/* An engine whose devices are processes: the same bits, memory and spans as with a thread for each,
 * and one end for all, with its reason. Each test forks them; process 0 is driven as any engine is
 * and looks at what it gets, the others follow. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine_core.h"

static const char SMALL[] = "random:3x128x8x4x64x160x256";
enum { S = 301, V = 256, D = 64, MORE = 4, MOST = 4, TAPPED = 200 };

#define EXPECT(what)                                                                               \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what);                                     \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static struct engine_opts options(int tp, int devices) {
    struct engine_opts o = engine_opts_defaults();
    o.model = SMALL;
    o.tensor_parallel_size = tp;
    o.devices = devices;
    o.threads = 2;
    o.block_rows = 100;
    return o;
}

/* What a run leaves. */
struct answer {
    float logits[2][V], key[2][D], cached[2][D], query[2][D];
    struct token_result token[MORE];
    int64_t flops, ops, weights[MOST];
};

static void read_inside(struct session *s, const struct engine *e, struct answer *out) {
    const int last = engine_info(e)->ranks - 1, kv_head = engine_info(e)->model.K - 1;
    float values[D];
    EXPECT(session_tap_read(s, 1, engine_info(e)->model.H - 1, TAPPED, out->query[0], out->query[1],
                            NULL) == STATUS_OK);
    EXPECT(session_tap_read_kv(s, 1, last, kv_head, TAPPED, out->key[0], out->key[1], NULL) ==
           STATUS_OK);
    EXPECT(session_kv_read(s, 1, last, kv_head, TAPPED, 1, out->cached[0], out->cached[1], NULL) ==
           STATUS_OK);
    EXPECT(session_kv_read(s, 1, last, kv_head, TAPPED, 1, NULL, values, NULL) == STATUS_OK);
    EXPECT(memcmp(values, out->cached[1], sizeof values) == 0);
}

static void count_spans(struct session *s, const struct engine *e, struct answer *out) {
    for (int device = 0; device < engine_info(e)->devices; device++) {
        int64_t n, dropped;
        const struct span *spans = session_spans(s, device, &n, &dropped);
        EXPECT(n > 0 && dropped == 0);
        for (int64_t i = 0; i < n; i++) EXPECT(spans[i].device == device);
        out->ops += n;
    }
}

static void run(struct engine *e, int32_t chunk, bool graph, struct answer *out) {
    const int32_t middle[] = {S / 2}, tapped[] = {TAPPED};
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct graph_info graphs;
    int32_t tokens[S];
    so.prompt_tokens = S, so.max_tokens = MORE, so.chunk_tokens = chunk, so.graph = graph;
    so.logits_at = middle, so.logits_at_count = 1, so.taps = true;
    engine_random_tokens(5, V, S, tokens);
    memset(out, 0, sizeof *out);
    EXPECT(session_open(&s, e, &so, NULL) == STATUS_OK);
    session_graph_info(s, &graphs);
    EXPECT(graphs.graphs == (graph ? 2 * engine_info(e)->devices : 0));
    EXPECT(session_spans_enable(s, 10000, NULL) == STATUS_OK);
    for (int32_t at = 0; at < S;) {
        struct chunk_result r;
        const int32_t n = S - at < chunk ? S - at : chunk;
        const int64_t before = engine_allocations(e);
        EXPECT(session_tap(s, tapped, 1, NULL) == STATUS_OK);
        EXPECT(session_prefill(s, tokens + at, n, &r, NULL) == STATUS_OK);
        EXPECT(engine_allocations(e) == before);
        for (int i = 0; i < engine_info(e)->devices; i++)
            EXPECT(r.device_latency_ns[i] > 0 && r.device_latency_ns[i] <= r.latency_ns);
        if (TAPPED >= at && TAPPED < at + n) read_inside(s, e, out);
        out->flops += r.flops;
        at += n;
    }
    count_spans(s, e, out);
    session_spans_reset(s);
    EXPECT(session_logits_at(s, 0, out->logits[0], NULL) == STATUS_OK);
    EXPECT(session_logits(s, out->logits[1], NULL) == STATUS_OK);
    for (int i = 0; i < MORE; i++) {
        EXPECT(session_generate(s, &out->token[i], NULL) == STATUS_OK);
        out->token[i].latency_ns = 0;
    }
    for (int rank = 0; rank < engine_info(e)->ranks && rank < MOST; rank++) {
        struct memory_use use;
        engine_memory(e, rank, &use);
        out->weights[rank] = use.bytes[MEMORY_WEIGHTS];
    }
    session_close(s);
}

/* ---- processes */

typedef void lead(struct engine *e, const void *ctx);

struct company {
    struct engine_opts opts;
    int n;
    lead *lead; /* of process 0, once its engine is open */
    const void *ctx;
    void (*odd)(void); /* what process 1 does before it opens its engine; or NULL */
    /* what becomes of all */
    int how[MOST];
};

static void die_before(void) {
    raise(SIGKILL);
}

static void live(const struct company *c, int process, const char *name) {
    struct engine_opts o = c->opts;
    struct engine *e;
    struct error err = {""};
    alarm(120);
    o.processes =
        (struct engine_processes){name, process, c->n, process, c->odd == die_before ? 1 : 20};
    if (process == 1 && c->odd) c->odd();
    const enum status s = engine_open(&e, &o, &err);
    if (s != STATUS_OK) {
        if (process == 0) fprintf(stderr, "told: %s\n", err.text);
        _exit(100 + (int)s);
    }
    enum status end = STATUS_OK;
    if (process > 0)
        end = engine_follow(e, &err);
    else
        c->lead(e, c->ctx);
    engine_close(e);
    _exit(end == STATUS_OK ? 0 : 100 + (int)end);
}

/* What process 0 says on stderr comes back. */
static void live_all(struct company *c, char *said, size_t size) {
    static int companies;
    char name[60];
    pid_t pid[MOST];
    FILE *words = tmpfile();
    snprintf(name, sizeof name, "test-processes-%d-%d", (int)getpid(), companies++);
    for (int i = 0; i < c->n; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] > 0) continue;
        if (i == 0) dup2(fileno(words), STDERR_FILENO);
        live(c, i, name);
    }
    for (int i = 0; i < c->n; i++) assert_int_equal(waitpid(pid[i], &c->how[i], 0), pid[i]);
    rewind(words);
    said[fread(said, 1, size - 1, words)] = 0;
    fclose(words);
}

static bool ended_with(int how, enum status s) {
    return WIFEXITED(how) && WEXITSTATUS(how) == (s == STATUS_OK ? 0 : 100 + (int)s);
}

static void expect_well(struct company *c) {
    char said[2000];
    live_all(c, said, sizeof said);
    for (int i = 0; i < c->n; i++)
        if (!ended_with(c->how[i], STATUS_OK))
            fail_msg("process %d of %d ended with %d: %s", i, c->n, c->how[i], said);
}

/* ---- the same answers */

static void run_all(struct engine *e, const void *ctx) {
    static struct answer got;
    for (int graph = 0; graph < 2; graph++)
        for (int32_t chunk = 64; chunk <= 512; chunk *= 8) {
            const struct answer *wanted = ctx;
            run(e, chunk, graph, &got);
            EXPECT(memcmp(got.logits, wanted->logits, sizeof got.logits) == 0);
            EXPECT(memcmp(got.token, wanted->token, sizeof got.token) == 0);
            EXPECT(memcmp(got.key, wanted->key, sizeof got.key) == 0);
            EXPECT(memcmp(got.cached, wanted->cached, sizeof got.cached) == 0);
            EXPECT(memcmp(got.query, wanted->query, sizeof got.query) == 0);
            EXPECT(memcmp(got.weights, wanted->weights, sizeof got.weights) == 0);
            if (chunk == 64) EXPECT(got.flops == wanted->flops && got.ops == wanted->ops);
        }
    EXPECT(engine_check(e, NULL) == STATUS_OK);
}

static void processes_answer_as_threads_do(void **state) {
    static const struct { int tp, n; } runs[] = {{2, 2}, {4, 2}, {4, 4}};
    static struct answer threads;
    (void)state;
    for (size_t i = 0; i < 2 * sizeof runs / sizeof *runs; i++) {
        const int tp = runs[i / 2].tp, n = runs[i / 2].n;
        struct engine_opts o = options(tp, n);
        struct company c = {.opts = options(tp, 0), .n = n, .lead = run_all};
        struct engine *e;
        if (i % 2 == 1) { /* exchanges aside */
            o.exchange_overlap = c.opts.exchange_overlap = OVERLAP_ON;
            o.block_rows = c.opts.block_rows = 30;
        }
        assert_int_equal(engine_open(&e, &o, NULL), STATUS_OK);
        run(e, 64, false, &threads);
        engine_close(e);
        c.ctx = &threads;
        expect_well(&c);
    }
}

/* Every byte of every process. */
static void compare_memory(struct engine *e, const void *ctx) {
    const struct memory_prediction *p = ctx;
    struct session_opts so = session_opts_defaults();
    struct session *s;
    int64_t bytes, high_water, accounted = 0;
    so.chunk_tokens = 500;
    EXPECT(session_open(&s, e, &so, NULL) == STATUS_OK);
    for (int rank = SHARED_RANK; rank < p->ranks; rank++) {
        struct memory_use use;
        engine_memory(e, rank, &use);
        for (int c = 0; c < MEMORY_CATEGORIES; c++)
            EXPECT(use.bytes[c] ==
                   (rank == SHARED_RANK ? p->shared_bytes[c] : p->rank_bytes[rank][c]));
    }
    EXPECT(engine_info(e)->memories == 2);
    engine_memory_reset_high_water(e);
    for (int i = 0; i < 2; i++) {
        engine_memory_driver(e, i, &bytes, &high_water);
        EXPECT(bytes > engine_memory_accounted(e, i) && high_water >= bytes);
        accounted += engine_memory_accounted(e, i);
    }
    EXPECT(accounted == p->total_bytes);
    session_close(s);
}

static void memory_is_as_predicted(void **state) {
    struct company c = {.opts = options(4, 2), .n = 2, .lead = compare_memory};
    struct session_opts so = session_opts_defaults();
    struct engine_planner *planner;
    struct memory_prediction p;
    (void)state;
    so.chunk_tokens = 500;
    c.opts.apart = true;
    assert_int_equal(engine_planner_open(&planner, &c.opts, NULL), STATUS_OK);
    assert_int_equal(engine_planner_predict(planner, &so, &p, NULL), STATUS_OK);
    engine_planner_close(planner);
    c.ctx = &p;
    expect_well(&c);
}

static void sample(struct engine *e, const void *ctx) {
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct chunk_result r;
    int32_t tokens[100];
    (void)ctx;
    so.prompt_tokens = 1000, so.chunk_tokens = 100;
    engine_random_tokens(5, V, 100, tokens);
    EXPECT(session_open(&s, e, &so, NULL) == STATUS_OK);
    EXPECT(session_skip_to(s, 500, 7, NULL) == STATUS_OK);
    EXPECT(session_prefill(s, tokens, 100, &r, NULL) == STATUS_OK);
    EXPECT(session_rewind(s, 500, NULL) == STATUS_OK);
    EXPECT(session_prefill(s, tokens, 100, &r, NULL) == STATUS_OK && r.start_token == 500);
    EXPECT(session_prefill(s, tokens, 100, &r, NULL) == STATUS_OK && r.start_token == 600);
    EXPECT(session_reset(s, NULL) == STATUS_OK && session_position(s) == 0);
    EXPECT(session_prefill(s, tokens, 101, &r, NULL) == STATUS_USAGE); /* nobody was told */
    EXPECT(session_prefill(s, tokens, 100, &r, NULL) == STATUS_OK && r.start_token == 0);
    engine_profile(e, true);
    session_close(s);
}

static void positions_move_together(void **state) {
    struct company c = {.opts = options(2, 2), .n = 2, .lead = sample};
    (void)state;
    expect_well(&c);
}

/* ---- failure */

static void little_memory(void) {
    struct rlimit room = {600 << 20, 600 << 20};
    setrlimit(RLIMIT_AS, &room);
}

/* More than process 1 may have; the engine serves another session afterwards. */
static void ask_too_much(struct engine *e, const void *ctx) {
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct error err = {""};
    (void)ctx;
    so.prompt_tokens = 600000, so.chunk_tokens = 1024;
    EXPECT(session_open(&s, e, &so, &err) == STATUS_NO_MEMORY);
    fprintf(stderr, "told: %s\n", err.text);
    EXPECT(engine_check(e, NULL) == STATUS_OK);
    so.prompt_tokens = 500, so.chunk_tokens = 100;
    EXPECT(session_open(&s, e, &so, NULL) == STATUS_OK);
    session_close(s);
}

static void a_session_that_one_has_no_room_for_opens_nowhere(void **state) {
    struct company c = {.opts = options(2, 2), .n = 2, .lead = ask_too_much, .odd = little_memory};
    char said[2000];
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* sanitizers reserve more than any limit leaves */
#endif
    live_all(&c, said, sizeof said);
    for (int i = 0; i < 2; i++) assert_true(ended_with(c.how[i], STATUS_OK));
    if (!strstr(said, "told: process 1 of 2: ")) fail_msg("%s", said);
}

static void tiny_memory(void) {
    struct rlimit room = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_AS, &room);
}

static void never(struct engine *e, const void *ctx) {
    (void)e, (void)ctx;
    EXPECT(!"the engine opens");
}

static void what_one_cannot_load_none_loads(void **state) {
    struct company c = {.opts = options(2, 2), .n = 2, .lead = never, .odd = tiny_memory};
    char said[2000];
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    live_all(&c, said, sizeof said);
    assert_false(ended_with(c.how[0], STATUS_OK));
    assert_non_null(strstr(said, "told: process 1 of 2"));
}

static void wrong_number(void **state) {
    struct company c = {.opts = options(4, 4), .n = 2, .lead = never};
    char said[2000];
    (void)state;
    live_all(&c, said, sizeof said);
    for (int i = 0; i < 2; i++) assert_true(ended_with(c.how[i], STATUS_USAGE));
    assert_non_null(strstr(said, "devices = 4, but 2 processes were started"));
    c.opts = options(4, 0), c.n = 3;
    live_all(&c, said, sizeof said);
    for (int i = 0; i < 3; i++) assert_true(ended_with(c.how[i], STATUS_USAGE));
    assert_non_null(strstr(said, "3 processes: expected a divisor"));
}

/* Dies where the last rank's keys are rotated in the second chunk: it is the last process's. */
static bool die_in_chunk(void *ctx, struct device *dev, struct op_call *call) {
    (void)ctx;
    if (call->op == OP_ROPE_CACHE && call->rank == 1) {
        struct step_params step;
        device_read(dev, &step, call->rope_cache.step, sizeof step);
        if (step.q_start > 0) raise(SIGKILL);
    }
    return false;
}

static void prefill_until_it_ends(struct engine *e, const void *ctx) {
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct chunk_result r;
    struct error err = {""};
    int32_t tokens[100];
    (void)ctx;
    so.prompt_tokens = 1000, so.chunk_tokens = 100;
    engine_random_tokens(5, V, 100, tokens);
    EXPECT(session_open(&s, e, &so, NULL) == STATUS_OK);
    EXPECT(session_prefill(s, tokens, 100, &r, NULL) == STATUS_OK);
    EXPECT(session_prefill(s, tokens, 100, &r, &err) == STATUS_LOST);
    fprintf(stderr, "told: %s\n", err.text);
    EXPECT(engine_check(e, NULL) != STATUS_OK);
    session_close(s);
}

static void a_process_that_is_killed_in_a_chunk_ends_it_for_all(void **state) {
    struct company c = {.opts = options(2, 2), .n = 2, .lead = prefill_until_it_ends};
    char said[2000];
    (void)state;
    c.opts.interpose = die_in_chunk;
    live_all(&c, said, sizeof said);
    assert_true(WIFSIGNALED(c.how[1]) && WTERMSIG(c.how[1]) == SIGKILL);
    assert_true(ended_with(c.how[0], STATUS_OK));
    assert_non_null(strstr(said, "told: process 1 of 2 is gone"));
}

static void lead_dies(struct engine *e, const void *ctx) {
    (void)e, (void)ctx;
    raise(SIGKILL);
}

static void followers_do_not_outlive_process_0(void **state) {
    struct company c = {.opts = options(4, 4), .n = 4, .lead = lead_dies};
    char said[2000];
    (void)state;
    live_all(&c, said, sizeof said);
    for (int i = 1; i < 4; i++) assert_true(ended_with(c.how[i], STATUS_LOST));
}

static void one_that_never_came_is_waited_for_only_so_long(void **state) {
    struct company c = {.opts = options(2, 2), .n = 2, .lead = never, .odd = die_before};
    char said[2000];
    (void)state;
    live_all(&c, said, sizeof said);
    assert_true(ended_with(c.how[0], STATUS_TIMEOUT));
    assert_non_null(strstr(said, "process 1 of 2 did not come within"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_answer_as_threads_do),
        cmocka_unit_test(memory_is_as_predicted),
        cmocka_unit_test(positions_move_together),
        cmocka_unit_test(a_session_that_one_has_no_room_for_opens_nowhere),
        cmocka_unit_test(what_one_cannot_load_none_loads),
        cmocka_unit_test(wrong_number),
        cmocka_unit_test(a_process_that_is_killed_in_a_chunk_ends_it_for_all),
        cmocka_unit_test(followers_do_not_outlive_process_0),
        cmocka_unit_test(one_that_never_came_is_waited_for_only_so_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
