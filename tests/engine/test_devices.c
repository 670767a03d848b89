/* Ranks on several devices: the same bits as on one, memory as predicted, no device left waiting
 * when another cannot go on. The devices are parts of this CPU; on GPUs tests/gpu/run does the
 * same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/engine_core.h"
#include "engine/needle.h"
#include "kernels/device_core.h"

static const char SMALL[] = "random:3x128x8x4x64x160x256";
enum { S = 301, V = 256, MORE = 4 };

static struct engine_opts options(const char *model, int tp, int devices) {
    struct engine_opts o = engine_opts_defaults();
    o.model = model;
    o.tensor_parallel_size = tp;
    o.devices = devices;
    o.threads = 2;
    o.block_rows = 100;
    return o;
}

/* What a run leaves: logits of a row in its middle and of its last, tokens. */
struct answer {
    float logits[2][V];
    struct token_result token[MORE];
    int64_t flops;
};

static void run(struct engine *e, int32_t chunk, bool graph, struct answer *out) {
    const int32_t middle[] = {S / 2};
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct error err = {""};
    int32_t tokens[S];
    so.prompt_tokens = S, so.max_tokens = MORE, so.chunk_tokens = chunk, so.graph = graph;
    so.logits_at = middle, so.logits_at_count = 1;
    engine_random_tokens(5, V, S, tokens);
    memset(out, 0, sizeof *out);
    if (session_open(&s, e, &so, &err) != STATUS_OK) fail_msg("%s", err.text);
    for (int32_t at = 0; at < S;) {
        struct chunk_result r;
        const int32_t n = S - at < chunk ? S - at : chunk;
        const int64_t before = engine_allocations(e);
        assert_int_equal(session_prefill(s, tokens + at, n, &r, NULL), STATUS_OK);
        assert_int_equal(engine_allocations(e), before);
        assert_true(r.host_ns > 0 && r.host_ns <= r.latency_ns);
        for (int i = 0; i < engine_info(e)->devices; i++)
            assert_true(r.device_latency_ns[i] > 0 && r.device_latency_ns[i] <= r.latency_ns);
        out->flops += r.flops;
        at += n;
    }
    assert_int_equal(session_logits_at(s, 0, out->logits[0], NULL), STATUS_OK);
    assert_int_equal(session_logits(s, out->logits[1], NULL), STATUS_OK);
    for (int i = 0; i < MORE; i++) {
        assert_int_equal(session_generate(s, &out->token[i], NULL), STATUS_OK);
        out->token[i].latency_ns = 0;
    }
    session_close(s);
}

static struct engine *open_engine(const struct engine_opts *o) {
    struct engine *e;
    struct error err = {""};
    if (engine_open(&e, o, &err) != STATUS_OK) fail_msg("%s", err.text);
    return e;
}

static void bits_do_not_depend_on_the_number_of_devices(void **state) {
    static const struct {
        int tp, devices;
        enum dtype dtype;
    } runs[] = {{2, 2, DTYPE_BF16}, {4, 2, DTYPE_BF16}, {4, 4, DTYPE_BF16}, {8, 2, DTYPE_BF16},
                {8, 8, DTYPE_BF16}, {4, 2, DTYPE_F32},  {4, 4, DTYPE_F32}};
    static struct answer one, several;
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct engine_opts o = options(SMALL, runs[i].tp, 1);
        o.dtype = runs[i].dtype;
        struct engine *e = open_engine(&o);
        run(e, 64, false, &one);
        engine_close(e);
        o.devices = runs[i].devices;
        e = open_engine(&o);
        assert_int_equal(engine_info(e)->devices, runs[i].devices);
        for (int graph = 0; graph < 2; graph++)
            for (int32_t chunk = 64; chunk <= 512; chunk *= 8) {
                run(e, chunk, graph, &several);
                assert_memory_equal(one.logits, several.logits, sizeof one.logits);
                assert_memory_equal(one.token, several.token, sizeof one.token);
                if (chunk == 64) /* norms and rotations are taken on each device */
                    assert_true(several.flops > one.flops && several.flops < 2 * one.flops);
            }
        engine_close(e);
    }
}

/* Blocks of 30 rows: with chunks of 512 eleven of them, with 64 three, and one in decoding. */
static struct engine_opts overlapping(int tp, int devices) {
    struct engine_opts o = options(SMALL, tp, devices);
    o.exchange_overlap = OVERLAP_ON;
    o.block_rows = 30;
    return o;
}

static void assert_same_as_on_one(struct engine *e, int tp, int32_t chunk, bool graph) {
    static struct answer one, several;
    const struct engine_opts o = options(SMALL, tp, 1);
    struct engine *alone = open_engine(&o);
    run(alone, chunk, graph, &one);
    engine_close(alone);
    run(e, chunk, graph, &several);
    assert_memory_equal(one.logits, several.logits, sizeof one.logits);
    assert_memory_equal(one.token, several.token, sizeof one.token);
}

static void overlapping_blocks_have_the_same_bits(void **state) {
    (void)state;
    for (int devices = 2; devices <= 4; devices *= 2) {
        const struct engine_opts o = overlapping(4, devices);
        struct engine *e = open_engine(&o);
        for (int graph = 0; graph < 2; graph++)
            for (int32_t chunk = 64; chunk <= 512; chunk *= 8)
                assert_same_as_on_one(e, 4, chunk, graph);
        engine_close(e);
    }
}

/* Calls aside that were not run yet, of each device. */
struct late {
    struct op_call call[MAX_RANKS][16];
    int n[MAX_RANKS];
    int64_t delayed[MAX_RANKS]; /* of all calls before them */
    bool broken[MAX_RANKS];     /* what ops.h says of calls aside: this is no thread to fail in */
};

/* Runs the oldest calls aside, up to the last of this number. */
static void catch_up(struct late *late, struct device *dev, uint8_t number) {
    const int d = device_member(dev);
    int n = late->n[d];
    while (n > 0 && late->call[d][n - 1].aside != number) n--;
    for (int i = 0; i < n; i++)
        late->broken[d] |= device_execute(dev, &late->call[d][i], NULL) != STATUS_OK;
    late->n[d] -= n;
    memmove(late->call[d], late->call[d] + n, (size_t)late->n[d] * sizeof late->call[d][0]);
}

/* Runs calls aside as late as they may: what must not come before them has other results then. */
static bool run_late(void *ctx, struct device *dev, struct op_call *call) {
    struct late *late = ctx;
    const int d = device_member(dev);
    if (call->after) catch_up(late, dev, call->after);
    if (!call->aside) {
        late->delayed[d] += late->n[d];
        return false;
    }
    late->broken[d] |= late->n[d] == 16 || call->aside > ASIDES ||
                       (call->op != OP_EXCHANGE && call->op != OP_ALL_REDUCE);
    if (!late->broken[d]) late->call[d][late->n[d]++] = *call;
    return !late->broken[d];
}

static void sums_may_be_as_late_as_their_readers(void **state) {
    (void)state;
    for (int devices = 2; devices <= 4; devices *= 2)
        for (int32_t chunk = 64; chunk <= 512; chunk *= 8) {
            static struct late late;
            struct engine_opts o = overlapping(4, devices);
            memset(&late, 0, sizeof late);
            o.interpose = run_late, o.interpose_ctx = &late;
            struct engine *e = open_engine(&o);
            assert_same_as_on_one(e, 4, chunk, false);
            for (int d = 0; d < devices; d++)
                assert_true(!late.broken[d] && late.n[d] == 0 && late.delayed[d] > 0);
            engine_close(e);
        }
}

static bool overlaps(struct engine_opts o, int32_t chunk) {
    struct session_opts so = session_opts_defaults();
    struct engine *e = open_engine(&o);
    struct session *s;
    so.prompt_tokens = S, so.chunk_tokens = chunk;
    assert_int_equal(session_open(&s, e, &so, NULL), STATUS_OK);
    const bool does = session_overlaps(s);
    session_close(s);
    engine_close(e);
    return does;
}

static void several_blocks_on_several_devices_overlap_when_asked(void **state) {
    (void)state;
    struct engine_opts o = overlapping(4, 2);
    assert_true(overlaps(o, 64));
    assert_false(overlaps(o, 30)); /* one block */
    o.exchange_overlap = OVERLAP_OFF;
    assert_false(overlaps(o, 64));
    o.exchange_overlap = OVERLAP_AUTO; /* devices of a CPU share its cores */
    assert_false(overlaps(o, 64));
    o = overlapping(4, 1);
    assert_false(overlaps(o, 64));
}

static void ranks_are_where_the_result_says(void **state) {
    (void)state;
    struct engine_opts o = options(SMALL, 8, 4);
    struct engine *e = open_engine(&o);
    const struct engine_info *info = engine_info(e);
    for (int rank = 0; rank < 8; rank++) {
        struct memory_use use;
        assert_int_equal(info->rank_device[rank], rank / 2);
        engine_memory(e, rank, &use);
        assert_true(use.bytes[MEMORY_WEIGHTS] > 0);
    }
    for (int i = 0; i < info->devices; i++)
        assert_string_equal(info->device[i].variant[OP_EXCHANGE], "ref");
    engine_close(e);
}

static void spans_name_the_device_that_they_are_of(void **state) {
    const struct engine_opts o = options(SMALL, 8, 4);
    struct session_opts so = session_opts_defaults();
    struct engine *e = open_engine(&o);
    struct chunk_result r;
    struct session *s;
    int32_t tokens[S];
    (void)state;
    so.prompt_tokens = so.chunk_tokens = S;
    engine_random_tokens(5, V, S, tokens);
    assert_int_equal(session_open(&s, e, &so, NULL), STATUS_OK);
    assert_int_equal(session_spans_enable(s, 10000, NULL), STATUS_OK);
    assert_int_equal(session_prefill(s, tokens, S, &r, NULL), STATUS_OK);
    for (int d = 0; d < engine_info(e)->devices; d++) {
        int64_t n, dropped, exchanges = 0;
        const struct span *spans = session_spans(s, d, &n, &dropped);
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(spans[i].device, d);
            if (spans[i].rank != SHARED_RANK) assert_int_equal(spans[i].rank / 2, d);
            exchanges += spans[i].op == OP_EXCHANGE;
        }
        assert_true(exchanges > 0 && dropped == 0);
    }
    session_close(s);
    engine_close(e);
}

/* Predicts, opens, compares; returns what parts of sums take. */
static int64_t compare_memory(const struct engine_opts *o, bool graph) {
    struct session_opts so = session_opts_defaults();
    struct engine_planner *planner;
    struct memory_prediction p;
    struct memory_use use;
    struct session *s;
    int64_t total = 0, comm = 0;
    so.chunk_tokens = 500, so.graph = graph;
    assert_int_equal(engine_planner_open(&planner, o, NULL), STATUS_OK);
    assert_int_equal(engine_planner_predict(planner, &so, &p, NULL), STATUS_OK);
    engine_planner_close(planner);
    struct engine *e = open_engine(o);
    assert_int_equal(session_open(&s, e, &so, NULL), STATUS_OK);
    for (int rank = SHARED_RANK; rank < p.ranks; rank++) {
        engine_memory(e, rank, &use);
        for (int c = 0; c < MEMORY_CATEGORIES; c++) {
            assert_int_equal(use.bytes[c],
                             rank == SHARED_RANK ? p.shared_bytes[c] : p.rank_bytes[rank][c]);
            total += use.bytes[c];
        }
        comm += use.bytes[MEMORY_COMM];
    }
    assert_int_equal(total, p.total_bytes);
    assert_int_equal(engine_memory_accounted(e, 0), total); /* the host's memory is one */
    session_close(s);
    engine_close(e);
    return comm;
}

static void memory_is_as_predicted(void **state) {
    (void)state;
    for (int devices = 1; devices <= 4; devices *= 2)
        for (int graph = 0; graph < 2; graph++) {
            struct engine_opts o = options("random:nano", 4, devices);
            const int64_t in_turn = compare_memory(&o, graph);
            o.exchange_overlap = OVERLAP_ON;
            assert_int_equal(compare_memory(&o, graph), devices > 1 ? ASIDES * in_turn : in_turn);
        }
}

static void the_needle_is_found(void **state) {
    (void)state;
    const struct engine_opts o = options("needle", 4, 2);
    struct engine *e = open_engine(&o);
    struct needle_prompt p;
    struct session *s;
    struct session_opts so = session_opts_defaults();
    struct chunk_result r;
    struct token_result token;
    const struct attention_pattern plain = {0, 0};
    assert_int_equal(needle_prompt_build(&p, 2048, NULL, 0, plain, 1, NULL), STATUS_OK);
    so.prompt_tokens = p.length, so.chunk_tokens = 512, so.sampling.temperature = 0;
    so.sampling.repetition_penalty = 1;
    assert_int_equal(session_open(&s, e, &so, NULL), STATUS_OK);
    for (int32_t at = 0; at < p.length; at += 512)
        assert_int_equal(session_prefill(s, p.tokens + at, 512, &r, NULL), STATUS_OK);
    for (int i = 0; i < p.answer_length; i++) {
        assert_int_equal(session_generate(s, &token, NULL), STATUS_OK);
        assert_int_equal(token.id, p.answer[i]);
    }
    session_close(s);
    needle_prompt_free(&p);
    engine_close(e);
}

static void impossible_placements_are_refused(void **state) {
    struct engine_opts o = options(SMALL, 4, 3);
    struct error err = {""};
    struct engine *e;
    int n;
    (void)state;
    assert_int_equal(engine_open(&e, &o, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "divisor of tensor_parallel_size = 4"));
    o.devices = 2, o.exchange_backend = "nccl";
    assert_int_equal(engine_open(&e, &o, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "not a kernel of this kind of device"));
    assert_non_null(strstr(err.text, "devices = 1"));
    o.device = DEVICE_CUDA, o.devices = 0;
    assert_int_equal(engine_devices(&o, &n, &err), STATUS_OK);
    assert_true(n >= 1 && 4 % n == 0);
    o.device = DEVICE_CPU;
    assert_int_equal(engine_devices(&o, &n, &err), STATUS_OK);
    assert_int_equal(n, 1);
}

static void devices_with_other_kernels_are_refused(void **state) {
    struct device_info info[3] = {{.name = "big"}, {.name = "big"}, {.name = "small"}};
    struct error err = {""};
    (void)state;
    for (int i = 0; i < 3; i++)
        info[i].variant[OP_ATTENTION] = "fast", info[i].variant[OP_LINEAR] = "cublas";
    assert_int_equal(devices_alike(info, 3, &err), STATUS_OK);
    info[2].variant[OP_ATTENTION] = "simt";
    assert_int_equal(devices_alike(info, 2, &err), STATUS_OK);
    assert_int_equal(devices_alike(info, 3, &err), STATUS_UNSUPPORTED);
    assert_non_null(
        strstr(err.text, "device 0 (big) would run attention = fast, device 2 (small) simt"));
}

/* ---- failure */

static enum status one_fails(void *ctx, int i, struct error *err) {
    struct devices *d = ctx;
    struct op_call call = {.op = OP_EXCHANGE};
    int32_t word[2] = {0};
    const int peer = i == 0 ? d->n - 1 : 0;
    if (i == 1) return error_set(err, STATUS_DEVICE, "it is ill");
    call.exchange.sends = call.exchange.receives = 1;
    call.exchange.send[0] = (struct exchange_part){&word[0], 4, peer};
    call.exchange.receive[0] = (struct exchange_part){&word[1], 4, peer};
    return device_run(d->dev[i], &call, err);
}

static void a_device_that_fails_stops_all_and_is_the_one_named(void **state) {
    struct engine_opts o = options(SMALL, 4, 4);
    struct engine *e = open_engine(&o);
    struct error err = {""};
    (void)state;
    assert_int_equal(devices_together(&e->devices, one_fails, &e->devices, &err), STATUS_DEVICE);
    assert_string_equal(err.text, "device 1: it is ill");
    assert_int_equal(engine_check(e, &err), STATUS_RUN_FAILED); /* the worker starts anew */
    engine_close(e);
}

/* What a load looks at before each weight. */
static enum status wait_for_failure(void *ctx, int i, struct error *err) {
    const struct devices *d = ctx;
    if (i == 1) return error_set(err, STATUS_NO_MEMORY, "no room");
    while (__atomic_load_n(&d->failed, __ATOMIC_RELAXED) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return error_set(err, STATUS_INTERRUPTED, "stopped");
}

static void a_load_that_fails_stops_those_of_all_devices(void **state) {
    struct engine_opts o = options(SMALL, 4, 4);
    struct engine *e = open_engine(&o);
    struct error err = {""};
    (void)state;
    assert_int_equal(devices_together(&e->devices, wait_for_failure, &e->devices, &err),
                     STATUS_NO_MEMORY);
    assert_string_equal(err.text, "device 1: no room");
    engine_close(e);
}

static _Atomic int syncs;

static enum status count_sync(struct device *dev, struct error *err) {
    (void)dev, (void)err;
    syncs++;
    return STATUS_OK;
}

/* What a failed device had issued may reach into the others' memory, and theirs into its own. */
static void a_failure_is_told_when_all_devices_are_idle(void **state) {
    struct engine_opts o = options(SMALL, 4, 4);
    struct engine *e = open_engine(&o);
    struct backend counting = backend_cpu;
    (void)state;
    counting.sync = count_sync;
    for (int i = 0; i < e->devices.n; i++) e->devices.dev[i]->backend = &counting;
    syncs = 0;
    assert_int_equal(devices_together(&e->devices, one_fails, &e->devices, NULL), STATUS_DEVICE);
    assert_int_equal(syncs, e->devices.n);
    engine_close(e);
}

/* What fails before devices meet (memory) leaves the engine as good as it was. */
static void a_session_that_does_not_open_leaves_the_engine_whole(void **state) {
    struct engine_opts o = options(SMALL, 4, 2);
    struct engine *e = open_engine(&o);
    struct session_opts so = session_opts_defaults();
    struct session *s;
    struct error err = {""};
    static struct answer a;
    (void)state;
    so.prompt_tokens = 2000000000, so.chunk_tokens = 1024;
    assert_int_equal(session_open(&s, e, &so, &err), STATUS_NO_MEMORY);
    assert_int_equal(strncmp(err.text, "device ", 7), 0);
    assert_int_equal(engine_check(e, &err), STATUS_OK);
    run(e, 64, true, &a);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_devices),
        cmocka_unit_test(overlapping_blocks_have_the_same_bits),
        cmocka_unit_test(sums_may_be_as_late_as_their_readers),
        cmocka_unit_test(several_blocks_on_several_devices_overlap_when_asked),
        cmocka_unit_test(ranks_are_where_the_result_says),
        cmocka_unit_test(spans_name_the_device_that_they_are_of),
        cmocka_unit_test(memory_is_as_predicted),
        cmocka_unit_test(the_needle_is_found),
        cmocka_unit_test(impossible_placements_are_refused),
        cmocka_unit_test(devices_with_other_kernels_are_refused),
        cmocka_unit_test(a_device_that_fails_stops_all_and_is_the_one_named),
        cmocka_unit_test(a_load_that_fails_stops_those_of_all_devices),
        cmocka_unit_test(a_failure_is_told_when_all_devices_are_idle),
        cmocka_unit_test(a_session_that_does_not_open_leaves_the_engine_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
