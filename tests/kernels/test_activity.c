/* Records find their op: told call by call, or by the node of a recorded graph, in whatever order
 * they come; what is lost is counted, what is nobody's says so, and a CUPTI that another tool has
 * is left to it. Over a library that the test speaks for (fakes/fake_cupti.c). */
#include "kernels/activity/activity.h"

#include "fakes/fake_cupti.h"
#include "kernels/activity/kernel_name.h"
#include "kernels/activity/node_map.h"
#include "kernels/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static struct fake_cupti *fake;
static void *fake_handle;

static int set_up(void **state) {
    (void)state;
    unsetenv("FAKE_CUPTI");
    unsetenv("NSYS_PROFILING_SESSION_ID");
    unsetenv("CUDA_INJECTION64_PATH");
    fake = fake_cupti_open(FAKE_CUPTI, &fake_handle);
    return fake ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    const int left = fake->subscribed;
    dlclose(fake_handle);
    return left;
}

static struct activity *open_with(int buffers, size_t bytes) {
    struct activity *a;
    struct error err = {""};
    const struct activity_opts opts = {FAKE_CUPTI, buffers, bytes};
    if (activity_open(&a, &opts, &err) != STATUS_OK) fail_msg("%s", err.text);
    return a;
}

static struct op_place place(int rank, int layer, enum op op, enum role role) {
    return (struct op_place){(int16_t)rank, (int16_t)layer, (uint8_t)op,
                             (uint8_t)role, .variant = 3,   .device = 1};
}

static void put_kernel(uint32_t correlation, uint64_t node, uint64_t begin, const char *name) {
    const struct cupti_kernel k = {.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                   .start = begin,
                                   .end = begin + 500,
                                   .stream = 7,
                                   .grid = {4, 5, 6},
                                   .block = {128, 2, 1},
                                   .registers = 90,
                                   .static_shared = 16,
                                   .dynamic_shared = 2048,
                                   .correlation = correlation,
                                   .name = name,
                                   .graph_node = node};
    fake->put(&k);
}

static void put_external(uint32_t correlation, struct op_place p) {
    const struct cupti_external e = {.kind = CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                                     .external_kind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0,
                                     .id = op_place_pack(p),
                                     .correlation = correlation};
    fake->put(&e);
}

static void take(struct activity *a, int chunk, struct activity_log *log) {
    struct error err = {""};
    if (activity_take(a, 0, chunk, log, &err) != STATUS_OK) fail_msg("%s", err.text);
}

static void assert_place(struct op_place is, struct op_place wanted) {
    assert_int_equal(is.op, wanted.op);
    assert_int_equal(is.role, wanted.role);
    assert_int_equal(is.rank, wanted.rank);
    assert_int_equal(is.layer, wanted.layer);
    assert_int_equal(is.variant, wanted.variant);
    assert_int_equal(is.device, wanted.device);
}

/* ---- places, nodes and names */

static void a_place_comes_back_whole(void **state) {
    (void)state;
    const struct op_place last = {MAX_RANKS - 1, 32000, OPS - 1, ROLES - 1, 255, MAX_RANKS - 1};
    const struct op_place first = {SHARED_RANK, -1, 0, 0, 0, 0};
    assert_place(op_place_unpack(op_place_pack(last)), last);
    assert_place(op_place_unpack(op_place_pack(first)), first);
    assert_int_equal(op_place_unpack(0).op, PLACE_UNKNOWN);
    assert_int_equal(op_place_unpack(17).op, PLACE_UNKNOWN);
}

static void copies_of_nodes_inherit_however_many_there_are(void **state) {
    (void)state;
    struct node_map m = {0};
    const uint64_t captured = 4294967296, instantiated = 8589934592;
    for (uint64_t i = 0; i < 20000; i++) node_map_add(&m, captured + i, i + 1);
    for (uint64_t i = 0; i < 20000; i++) node_map_copy(&m, captured + i, instantiated + i);
    node_map_copy(&m, 1, 2); /* nobody's */
    for (uint64_t i = 0; i < 20000; i++)
        assert_int_equal(node_map_find(&m, instantiated + i), i + 1);
    assert_int_equal(node_map_find(&m, 2), 0);
    node_map_add(&m, captured, 77);
    assert_int_equal(node_map_find(&m, captured), 77);
    assert_int_equal(m.n, 40000);
    node_map_free(&m);
}

static void names_of_kernels_are_made_short(void **state) {
    (void)state;
    static const char *const names[][2] = {
        {"void attention_kernel<Config<128, true> >(Params)", "attention_kernel"},
        {"(anonymous namespace)::fill(float *, int)", "fill"},
        {"void bench::(anonymous namespace)::scale<float>(float *)", "scale"},
        {"nvjet_sm90_tst_128x256_64x4_2x1_v_bz_TNT", "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_TNT"},
        {"void cutlass::Kernel2<ns::gemm<(int)4>>(ns::gemm<(int)4>::Params)", "Kernel2"},
        {"(", "("},
        {"", ""}};
    char out[100];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_string_equal(kernel_short_name(names[i][0], out, sizeof out), names[i][1]);
    assert_string_equal(kernel_short_name("attention", out, 5), "atte");
    char *plain = kernel_demangle("rope_table_kernel");
    assert_string_equal(plain, "rope_table_kernel");
    free(plain);
}

/* ---- attribution */

static void eager_records_find_their_op_by_correlation(void **state) {
    (void)state;
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    const struct op_place qkv = place(2, 5, OP_LINEAR, ROLE_QKV);
    const struct cupti_memset m = {
        .kind = CUPTI_ACTIVITY_KIND_MEMSET, .start = 50, .end = 60, .bytes = 64, .correlation = 9};
    const struct cupti_memcpy c = {.kind = CUPTI_ACTIVITY_KIND_MEMCPY,
                                   .copy_kind = 1,
                                   .start = 10,
                                   .end = 20,
                                   .bytes = 48,
                                   .correlation = 4};
    put_kernel(9, 0, 2000, "_ZN5bench5scaleIfEEvPf"); /* before anybody said whose it is */
    put_external(9, qkv);
    fake->put(&m);
    fake->put(&c);
    put_kernel(9, 0, 3000, "_ZN5bench5scaleIfEEvPf");
    take(a, 6, &log);
    assert_int_equal(log.n_kernels, 2);
    for (int i = 0; i < 2; i++) {
        const struct activity_kernel *k = &log.kernels[i];
        assert_place(k->head.place, qkv);
        assert_int_equal(k->head.chunk, 6);
        assert_int_equal(k->head.begin_ns, 2000 + 1000 * i);
        assert_int_equal(k->head.end_ns, 2500 + 1000 * i);
        assert_int_equal(k->grid[1], 5);
        assert_int_equal(k->block[0], 128);
        assert_int_equal(k->registers, 90);
        assert_int_equal(k->static_shared, 16);
        assert_int_equal(k->dynamic_shared, 2048);
        assert_string_equal(activity_log_text(&log, k->mangled), "_ZN5bench5scaleIfEEvPf");
        assert_string_equal(activity_log_text(&log, k->short_name),
                            strstr(activity_log_text(&log, k->demangled), "_Z")
                                ? "_ZN5bench5scaleIfEEvPf"
                                : "scale");
    }
    assert_int_equal(log.n_copies, 2);
    assert_true(log.copies[0].set && log.copies[0].bytes == 64);
    assert_place(log.copies[0].head.place, qkv);
    assert_false(log.copies[1].set);
    assert_int_equal(log.copies[1].head.place.op, PLACE_UNKNOWN); /* the step's parameters */
    assert_int_equal(log.dropped, 0);
    activity_log_free(&log);
    activity_close(a);
}

static void records_of_a_graph_find_their_op_by_its_node(void **state) {
    (void)state;
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    const struct op_place attention = place(0, 0, OP_ATTENTION, ROLE_NONE);
    const struct op_place down = place(3, 1, OP_LINEAR, ROLE_DOWN);
    char captured[3], instantiated[3];
    assert_true(activity_add_node(a, &captured[0], attention));
    assert_true(activity_add_node(a, &captured[1], down));
    assert_false(activity_add_node(a, &captured[1], attention)); /* down's for good */
    for (int i = 0; i < 3; i++) fake->clone(&instantiated[i], &captured[i]);
    /* all kernels of a replay have the correlation of its launch */
    put_kernel(40, (uintptr_t)&instantiated[1], 900, "down");
    put_kernel(40, (uintptr_t)&instantiated[0], 100, "attention");
    put_kernel(40, (uintptr_t)&instantiated[2], 2000, "stranger");
    take(a, 0, &log);
    assert_int_equal(log.n_kernels, 3);
    assert_place(log.kernels[0].head.place, down);
    assert_place(log.kernels[1].head.place, attention);
    assert_int_equal(log.kernels[2].head.place.op, PLACE_UNKNOWN);
    assert_string_equal(activity_log_text(&log, log.kernels[2].short_name), "stranger");
    assert_true(log.kernels[1].graph_node == (uintptr_t)&instantiated[0]);
    activity_log_free(&log);
    activity_close(a);
}

static void correlations_of_one_take_do_not_reach_into_the_next(void **state) {
    (void)state;
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    put_external(9, place(0, 0, OP_EMBED, ROLE_NONE));
    put_kernel(9, 0, 100, "k");
    activity_reset(a);
    put_kernel(9, 0, 100, "k");
    take(a, 1, &log);
    assert_int_equal(log.n_kernels, 1);
    assert_int_equal(log.kernels[0].head.place.op, PLACE_UNKNOWN);
    put_external(12, place(0, 0, OP_EMBED, ROLE_NONE));
    put_kernel(12, 0, 100, "k");
    take(a, 2, &log);
    assert_int_equal(log.n_kernels, 2);
    assert_int_equal(log.kernels[0].head.chunk, 1);
    assert_int_equal(log.kernels[1].head.chunk, 2);
    assert_int_equal(log.kernels[1].head.place.op, OP_EMBED);
    assert_string_equal(activity_log_text(&log, log.kernels[1].short_name), "k");
    activity_log_free(&log);
    activity_close(a);
}

static void put_memory(int32_t operation, int32_t kind, uint64_t time, uint64_t bytes) {
    const struct cupti_memory m = {.kind = CUPTI_ACTIVITY_KIND_MEMORY2,
                                   .operation = operation,
                                   .memory_kind = kind,
                                   .address = 4096,
                                   .bytes = bytes,
                                   .timestamp = time,
                                   .process = 5,
                                   .device = 1};
    fake->put(&m);
}

static void what_is_made_once_outlives_a_reset_and_comes_once(void **state) {
    (void)state;
    enum { ALLOCATION = 1, RELEASE = 2, TRIM_OF_A_POOL = 5 };
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    const struct op_place embedding = place(1, -1, OP_EMBED, ROLE_NONE);
    char captured, instantiated, stranger, copy;
    put_memory(ALLOCATION, 3, 100, 1 << 20);
    assert_true(activity_add_node(a, &captured, embedding));
    fake->clone(&instantiated, &captured);
    fake->clone(&copy, &stranger);
    activity_reset(a);
    put_memory(RELEASE, 2, 200, 512);
    put_memory(TRIM_OF_A_POOL, 3, 300, 512);
    take(a, 5, &log);
    assert_int_equal(log.n_memory, 2);
    assert_false(log.memory[0].release);
    assert_int_equal(log.memory[0].head.chunk, -1); /* before the chunk */
    assert_int_equal(log.memory[0].head.begin_ns, 100);
    assert_true(log.memory[0].bytes == 1 << 20 && log.memory[0].kind == 3);
    assert_true(log.memory[0].process == 5 && log.memory[0].device == 1);
    assert_true(log.memory[1].release && log.memory[1].kind == 2);
    assert_int_equal(log.memory[1].head.chunk, 5);
    assert_int_equal(log.n_nodes, 3);
    assert_true(log.nodes[0].node == (uintptr_t)&captured && log.nodes[0].original == 0);
    assert_true(log.nodes[1].node == (uintptr_t)&instantiated);
    assert_true(log.nodes[1].original == (uintptr_t)&captured);
    for (int i = 0; i < 2; i++) assert_place(log.nodes[i].head.place, embedding);
    assert_int_equal(log.nodes[2].head.place.op, PLACE_UNKNOWN);
    assert_int_equal(log.nodes[0].head.chunk, -1);
    assert_true(log.nodes[0].head.begin_ns > 0 && log.nodes[0].process == (uint32_t)getpid());
    take(a, 6, &log);
    assert_true(log.n_memory == 2 && log.n_nodes == 3);
    activity_log_free(&log);
    put_memory(ALLOCATION, 3, 400, 1); /* that nobody asks for */
    activity_reset(a);
    activity_close(a);
}

/* ---- devices tell */

static void embed(struct activity *a, int rank) {
    struct device *dev;
    struct device_opts opts = device_opts_defaults();
    const float table[2] = {1, 2};
    const int32_t ids[1] = {1};
    float out[1] = {0};
    struct op_call call = {.op = OP_EMBED, .rank = (int16_t)rank, .layer = -1};
    call.embed = (struct embed_args){table, ids, out, 0, 2, 1, 1, DTYPE_F32};
    opts.activity = a;
    opts.threads = 1;
    opts.dtype = DTYPE_F32;
    assert_int_equal(device_open(&dev, &opts, NULL), STATUS_OK);
    assert_int_equal(device_run(dev, &call, NULL), STATUS_OK);
    assert_int_equal(device_sync(dev, NULL), STATUS_OK);
    assert_true(out[0] == 2);
    device_close(dev);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void a_device_tells_whose_op_it_issues_by_our_clock(void **state) {
    (void)state;
    fake->works = true;
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    const int64_t before = now_ns();
    embed(a, 2);
    take(a, 0, &log);
    assert_int_equal(log.n_kernels, 1);
    assert_int_equal(log.kernels[0].head.place.op, OP_EMBED);
    assert_int_equal(log.kernels[0].head.place.rank, 2);
    assert_true(log.kernels[0].head.begin_ns >= before);
    assert_true(log.kernels[0].head.end_ns <= now_ns());
    assert_int_equal(log.n_calls, 1);
    assert_int_equal(log.calls[0].head.place.op, OP_EMBED);
    assert_string_equal(activity_log_text(&log, log.calls[0].name), "cudaLaunchKernel_v7000");
    activity_log_free(&log);
    activity_close(a);
}

static void order_does_not_matter(void **state) {
    (void)state;
    fake->works = fake->late = true;
    fake->more = 2; /* nor that buffers come late */
    struct activity *a = open_with(4, 65536);
    struct activity_log log = {0};
    for (int i = 0; i < 3; i++) embed(a, i);
    take(a, 0, &log);
    assert_int_equal(log.n_kernels, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(log.kernels[i].head.place.rank, i);
    activity_log_free(&log);
    activity_close(a);
}

/* ---- what is lost */

static void a_dry_pool_costs_records_and_they_are_counted(void **state) {
    (void)state;
    struct activity *a = open_with(2, 4096);
    struct activity_log log = {0};
    int put = 0;
    for (; put < 100; put++) put_kernel(9, 0, 100 + (uint64_t)put, "k");
    assert_true(fake->refused > 0);
    take(a, 0, &log);
    assert_true(log.n_kernels > 10 && log.n_kernels < put);
    assert_int_equal(log.n_kernels + log.dropped, put);
    const int64_t dropped = log.dropped;
    put_kernel(9, 0, 100, "k"); /* the buffers are free again */
    take(a, 0, &log);
    assert_int_equal(log.dropped, dropped);
    activity_log_free(&log);
    activity_close(a);
}

static void kernels_without_times_count_as_lost(void **state) {
    (void)state;
    struct activity *a = open_with(2, 4096);
    struct activity_log log = {0};
    put_kernel(9, 0, 0, "k");
    fake->dropped = 4;
    take(a, 0, &log);
    assert_int_equal(log.n_kernels, 0);
    assert_int_equal(log.dropped, 5);
    activity_log_free(&log);
    activity_close(a);
}

static void a_flush_that_fails_says_so(void **state) {
    (void)state;
    struct activity *a = open_with(2, 4096);
    struct activity_log log = {0};
    struct error err = {""};
    fake->flush_result = 999;
    assert_int_equal(activity_take(a, 0, 0, &log, &err), STATUS_DEVICE);
    assert_non_null(strstr(err.text, "CUPTI_ERROR_OF_A_TEST"));
    fake->flush_result = 0;
    activity_log_free(&log);
    activity_close(a);
}

/* ---- ranges and overhead */

static void put_marker(uint32_t id, bool begin, uint64_t time, const char *name) {
    const struct cupti_marker m = {.kind = CUPTI_ACTIVITY_KIND_MARKER,
                                   .flags = begin ? CUPTI_ACTIVITY_FLAG_MARKER_START
                                                  : CUPTI_ACTIVITY_FLAG_MARKER_END,
                                   .timestamp = time,
                                   .id = id,
                                   .process = 5,
                                   .thread = 6,
                                   .name = name,
                                   .domain = begin ? "bench" : NULL};
    fake->put(&m);
}

static void ranges_are_made_of_their_two_ends(void **state) {
    (void)state;
    struct activity *a = open_with(2, 4096);
    struct activity_log log = {0};
    const struct cupti_overhead o = {
        .kind = CUPTI_ACTIVITY_KIND_OVERHEAD, .overhead_kind = 5 << 16, .start = 20, .end = 90};
    put_marker(1, true, 100, "case");
    put_marker(2, true, 200, "chunk");
    put_marker(3, true, 250, "op");
    put_marker(3, false, 260, NULL);
    put_marker(2, false, 300, NULL);
    put_marker(9, false, 310, NULL); /* began before we listened */
    fake->put(&o);
    take(a, 0, &log);
    assert_int_equal(log.n_ranges, 2);
    assert_string_equal(activity_log_text(&log, log.ranges[0].name), "op");
    assert_string_equal(activity_log_text(&log, log.ranges[1].name), "chunk");
    assert_string_equal(activity_log_text(&log, log.ranges[1].domain), "bench");
    assert_int_equal(log.ranges[1].head.begin_ns, 200);
    assert_int_equal(log.ranges[1].head.end_ns, 300);
    put_marker(1, false, 400, NULL);
    take(a, 0, &log);
    assert_int_equal(log.n_ranges, 3);
    assert_int_equal(log.n_overheads, 1);
    assert_string_equal(activity_overhead_name(log.overheads[0].kind), "lazy function loading");
    assert_string_equal(activity_overhead_name(99 << 16), "other");
    for (int kind = 0; kind < 10; kind++)
        assert_int_equal(activity_overhead_of_recording(kind << 16),
                         kind == 1 || kind == 2 || kind == 3 || kind == 7);
    assert_false(activity_overhead_of_recording(1)); /* compilation */
    assert_string_equal(activity_copy_name(2), "DtoH");
    assert_string_equal(activity_copy_name(99), "?");
    activity_log_free(&log);
    activity_close(a);
}

/* ---- who may have CUPTI */

static void refused_with(const char *text) {
    struct activity *a;
    struct error err = {""};
    const struct activity_opts opts = {FAKE_CUPTI, 2, 4096};
    assert_int_equal(activity_open(&a, &opts, &err), STATUS_UNSUPPORTED);
    assert_null(a);
    if (!strstr(err.text, text)) fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void cupti_that_is_taken_is_left_alone(void **state) {
    (void)state;
    fake->subscribe_result = CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
    refused_with("another tool has taken CUPTI");
    fake->subscribe_result = 0;
    setenv("NSYS_PROFILING_SESSION_ID", "1", 1);
    refused_with("Nsight Systems profiles this process");
    unsetenv("NSYS_PROFILING_SESSION_ID");
    assert_int_equal(fake->enabled, 0);
    struct activity *a = open_with(2, 4096);
    refused_with("open in this process already");
    activity_close(a);
}

static void what_cannot_be_recorded_is_named(void **state) {
    (void)state;
    fake->enable_result = CUPTI_ERROR_INSUFFICIENT_PRIVILEGES;
    fake->failing_kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;
    refused_with("kernels");
    fake->failing_kind = CUPTI_ACTIVITY_KIND_MARKER; /* that can be done without */
    activity_close(open_with(2, 4096));
    struct activity *a;
    struct error err = {""};
    struct activity_opts opts = activity_opts_defaults();
    opts.library = "libno_such_cupti.so";
    assert_int_equal(activity_open(&a, &opts, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no CUPTI: libno_such_cupti.so"));
}

static void without_cupti_nobody_needs_to_ask(void **state) {
    (void)state;
    activity_begin_op(NULL, place(0, 0, OP_EMBED, ROLE_NONE));
    activity_end_op(NULL);
    assert_false(activity_add_node(NULL, NULL, place(0, 0, OP_EMBED, ROLE_NONE)));
    activity_close(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_comes_back_whole),
        cmocka_unit_test(copies_of_nodes_inherit_however_many_there_are),
        cmocka_unit_test(names_of_kernels_are_made_short),
        TEST(eager_records_find_their_op_by_correlation),
        TEST(records_of_a_graph_find_their_op_by_its_node),
        TEST(correlations_of_one_take_do_not_reach_into_the_next),
        TEST(what_is_made_once_outlives_a_reset_and_comes_once),
        TEST(a_device_tells_whose_op_it_issues_by_our_clock),
        TEST(order_does_not_matter),
        TEST(a_dry_pool_costs_records_and_they_are_counted),
        TEST(kernels_without_times_count_as_lost),
        TEST(a_flush_that_fails_says_so),
        TEST(ranges_are_made_of_their_two_ends),
        TEST(cupti_that_is_taken_is_left_alone),
        TEST(what_cannot_be_recorded_is_named),
        TEST(without_cupti_nobody_needs_to_ask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
