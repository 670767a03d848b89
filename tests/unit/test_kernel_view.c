/* kernel_view.c: every nanosecond of a chunk is some kernel's or named, on each device, whatever
 * order kernels come in; sums by kernel and op; what is nobody's and what is not there is told. */
#include "harness/kernel_view.h"

#include "harness/show.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct op_place unknown = {SHARED_RANK, -1, PLACE_UNKNOWN, 0, 0, 0};

static struct op_place place(enum op op, enum role role, int rank, int device) {
    return (struct op_place){(int16_t)rank, 3, (uint8_t)op, (uint8_t)role, 0, (uint8_t)device};
}

static void add(struct case_result *r, int chunk, int64_t begin, int64_t end, const char *name,
                struct op_place p) {
    struct activity_log *log = &r->kernel_trace.log;
    struct activity_kernel k = {.head = {begin, end, 0, chunk, p},
                                .grid = {(int32_t)(end - begin), 2, 1},
                                .block = {128, 1, 1},
                                .registers = 40,
                                .dynamic_shared = 2048};
    assert_int_equal(activity_log_string(log, name, &k.mangled, NULL), STATUS_OK);
    k.demangled = k.short_name = k.mangled;
    assert_int_equal(activity_log_add_kernel(log, &k, NULL), STATUS_OK);
}

static void add_chunk(struct case_result *r, int chunk, int64_t begin, int64_t latency) {
    const struct chunk_row traced = {.chunk = chunk,
                                     .begin_ns = begin,
                                     .latency_ns = latency,
                                     .start_token = 100 * chunk,
                                     .n_tokens = 100,
                                     .replayed = chunk == 2};
    struct chunk_row measured = traced;
    measured.latency_ns /= 2;
    assert_int_equal(result_add_kernel_chunk(r, &traced, NULL), STATUS_OK);
    assert_int_equal(result_add_chunk(r, &measured, NULL), STATUS_OK);
}

/* Chunk 0 from 1000 to 1200: kernels at 1010-1050, 1050-1080 and, upon each other, 1100-1160 and
 * 1140-1170. Chunk 2 from 2000 to 2100 on two devices: 2000-2090; a stranger at 2010-2020, one of
 * an op that begins before the chunk. Recorded out of order. */
static void make_case(struct case_result *r) {
    memset(r, 0, sizeof *r);
    strcpy(r->id, "a-case");
    r->kernel_trace.wanted = true, r->kernel_trace.cupti_version = 130001;
    add_chunk(r, 0, 1000, 200);
    add_chunk(r, 2, 2000, 100);
    add(r, 2, 2010, 2020, "stranger", unknown);
    add(r, 2, 1995, 2090, "attention", place(OP_ATTENTION, ROLE_NONE, 0, 1));
    add(r, 0, 1100, 1160, "gemm", place(OP_LINEAR, ROLE_QKV, 0, 0));
    add(r, 0, 1010, 1050, "embed", place(OP_EMBED, ROLE_NONE, 0, 0));
    add(r, 0, 1140, 1170, "gemm", place(OP_LINEAR, ROLE_QKV, 1, 0));
    add(r, 0, 1050, 1080, "gemm", place(OP_LINEAR, ROLE_DOWN, 1, 0));
}

static void open_ok(struct kernel_view *v, const struct case_result *r, int chunk) {
    struct error err = {""};
    if (kernel_view_open(v, r, chunk, &err) != STATUS_OK) fail_msg("%s", err.text);
}

static void every_nanosecond_is_a_kernels_or_named(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    make_case(&r);
    open_ok(&v, &r, -1);
    assert_int_equal(v.n, 6);
    assert_int_equal(v.n_parts, 3);
    assert_int_equal(v.n_chunks, 2);
    for (int i = 0; i < v.n_parts; i++) {
        const struct kernel_part *p = &v.parts[i];
        assert_true((double)p->row->latency_ns ==
                    p->kernels_ns - p->at_once_ns + p->before_ns + p->between_ns + p->after_ns);
    }
    const struct kernel_part *p = &v.parts[0];
    assert_true(p->kernels_ns == 160 && p->at_once_ns == 20);
    assert_true(p->before_ns == 10 && p->between_ns == 20 && p->after_ns == 30);
    assert_true(p->longest_gap_ns == 20);
    /* the stranger is CUDA's device 0's; what lies before the chunk is not its */
    assert_int_equal(v.parts[1].device, 0);
    assert_true(v.parts[1].kernels_ns == 10 && v.parts[1].before_ns == 10);
    assert_int_equal(v.parts[2].device, 1);
    assert_true(v.parts[2].kernels_ns == 90 && v.parts[2].before_ns == 0);
    assert_true(v.latency_ns == 400);
    kernel_view_close(&v);
    result_free(&r);
}

static void sums_are_by_kernel_and_op_the_longest_first(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    char text[TRACE_TEXT];
    make_case(&r);
    open_ok(&v, &r, -1);
    assert_int_equal(v.n_ops, 5);
    assert_string_equal(kernel_op_text(text, &v.ops[0].one->head.place), "attention");
    assert_string_equal(kernel_op_text(text, &v.ops[1].one->head.place), "linear qkv");
    assert_int_equal(v.ops[1].calls, 2);
    assert_true(v.ops[1].ns == 90 && !v.ops[1].same_grid);
    assert_int_equal(v.ops[1].one->grid[0], 60); /* the longest */
    assert_string_equal(kernel_op_text(text, &v.ops[4].one->head.place), "(nobody's)");
    assert_int_equal(v.n_names, 5); /* gemm twice: of two roles */
    assert_int_equal(v.nobodys, 1);
    assert_true(v.nobodys_ns == 10);
    assert_true(fabs(kernel_view_cost(&v) - 2) < 1e-9);
    kernel_view_close(&v);
    result_free(&r);
}

static void a_chunk_can_be_looked_at_alone(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    struct error err = {""};
    make_case(&r);
    open_ok(&v, &r, 0);
    assert_int_equal(v.n, 4);
    assert_true(kernel_view_has(&v, &r.kernel_trace.log.kernels[2].head));
    assert_false(kernel_view_has(&v, &r.kernel_trace.log.kernels[0].head));
    kernel_view_close(&v);
    assert_int_equal(kernel_view_open(&v, &r, 1, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "chunk 2 of a-case were not recorded"));
    result_free(&r);
}

static void a_case_without_kernels_says_why(void **state) {
    (void)state;
    struct case_result r = {.id = "a-case"};
    struct kernel_view v;
    struct error err = {""};
    assert_int_equal(kernel_view_open(&v, &r, -1, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "none were recorded; `--set"));
    r.kernel_trace.wanted = true;
    assert_int_equal(kernel_view_open(&v, &r, -1, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "none ran"));
    strcpy(r.kernel_trace.note, "no CUPTI: libcupti.so.13 is not there");
    assert_int_equal(kernel_view_open(&v, &r, -1, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "libcupti.so.13 is not there"));
}

/* ---- as people see it */

static char *printed(const struct kernel_view *v, bool csv) {
    const struct show_style style = {.width = SHOW_WIDTH};
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    if (csv)
        trace_kernels_csv(out, v);
    else
        trace_kernels(out, v, &style);
    fclose(out);
    return text;
}

static void assert_narrow(const char *text, size_t most) {
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > most)
            fail_msg("%zu columns: %.*s", strcspn(line, "\n"), (int)strcspn(line, "\n"), line);
}

static void long_names_stay_within_a_screen_and_strangers_are_named(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    make_case(&r);
    for (int i = 0; i < 20; i++) {
        char name[200];
        snprintf(name, sizeof name, "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_bias_%d_\x01%099d",
                 i, i);
        add(&r, 0, 1100 + i, 1130 + 2 * i, name, place(OP_LINEAR, ROLE_KEY_VALUE, 1, 0));
    }
    for (int i = 0; i < 7; i++) add(&r, 0, 1100, 1101, i % 2 ? "cub" : "thrust", unknown);
    r.kernel_trace.log.dropped = 12;
    for (int i = 0; i < 3; i++) {
        const struct activity_overhead o = {
            .head = {1100, 1100 + 900 * (i == 1) + 10, 0, 0, unknown},
            .kind = (i == 1 ? 6 : 7) << 16};
        const struct activity_copy c = {
            .head = {1100, 1102, 0, 2 * (i % 2), unknown}, .bytes = 512, .set = i == 1};
        assert_int_equal(activity_log_add_overhead(&r.kernel_trace.log, &o, NULL), STATUS_OK);
        assert_int_equal(activity_log_add_copy(&r.kernel_trace.log, &c, NULL), STATUS_OK);
    }
    open_ok(&v, &r, -1);
    char *text = printed(&v, false);
    assert_narrow(text, SHOW_WIDTH);
    assert_null(strchr(text, '\x01'));
    assert_non_null(strstr(text, "NOBODY'S 8 kernels"));
    assert_non_null(strstr(text, "stranger (1)"));
    assert_non_null(strstr(text, "beside   2 copies and 1 fills of 1.50 KiB in 6.00 ns, 0 calls"));
    assert_non_null(strstr(text, "kept by: launch queue full 910 ns, buffer request 20.0 ns\n"));
    assert_non_null(strstr(text, "thrust (4)"));
    assert_non_null(strstr(text, "DROPPED  12 records"));
    assert_non_null(strstr(text, "2.000 times their measured latency"));
    assert_non_null(strstr(text, "nvjet_sm90_tst_128x256_64..."));
    assert_non_null(strstr(text, "each of them: --kernels --csv"));
    assert_non_null(strstr(text, "latency of the chunks"));
    free(text);
    kernel_view_close(&v);
    result_free(&r);
}

static void a_line_per_kernel_has_what_the_record_has(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    make_case(&r);
    add(&r, 0, 1171, 1172, "void f<\"a\", 2>(int)", place(OP_SWIGLU, ROLE_NONE, 1, 0));
    open_ok(&v, &r, 0);
    char *text = printed(&v, true);
    assert_non_null(strstr(text, ",begin_ns,end_ns,duration_ns,"));
    assert_non_null(strstr(text, "\n0,0,0,0,3,embed,,"));
    assert_non_null(strstr(text, ",1010,1050,40,0,0,0,40,2,1,128,1,1,40,0,2048,\"embed\"\n"));
    assert_non_null(strstr(text, ",\"void f<\"\"a\"\", 2>(int)\"\n"));
    free(text);
    kernel_view_close(&v);
    result_free(&r);
}

/* Kernels of one stream at once lie in two tracks, and so within nothing but their chunk. */
static void kernels_at_once_have_a_track_of_their_own(void **state) {
    (void)state;
    struct case_result r;
    struct kernel_view v;
    struct trace t = {.r = NULL};
    struct record_run run;
    struct error err = {""};
    char path[] = "/tmp/kernel-view-XXXXXX", text[8000];
    memset(&run, 0, sizeof run);
    make_case(&r);
    open_ok(&v, &r, 0);
    trace_add_kernels(&t, &v);
    assert_int_equal(t.origin_ns, 1000);
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (trace_perfetto(path, &run, &t, &err) != STATUS_OK) fail_msg("%s", err.text);
    FILE *f = fopen(path, "r");
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    unlink(path);
    text[n] = 0;
    assert_non_null(strstr(text, "\"args\":{\"name\":\"stream 0\"}"));
    assert_non_null(strstr(text, "\"args\":{\"name\":\"stream 0, at once\"}"));
    assert_non_null(strstr(text, "\"tid\":2,\"cat\":\"kernel\",\"ts\":0.100,\"dur\":0.060,"));
    assert_non_null(strstr(text, "\"tid\":3,\"cat\":\"kernel\",\"ts\":0.140,\"dur\":0.030,"));
    kernel_view_close(&v);
    result_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_nanosecond_is_a_kernels_or_named),
        cmocka_unit_test(sums_are_by_kernel_and_op_the_longest_first),
        cmocka_unit_test(a_chunk_can_be_looked_at_alone),
        cmocka_unit_test(a_case_without_kernels_says_why),
        cmocka_unit_test(long_names_stay_within_a_screen_and_strangers_are_named),
        cmocka_unit_test(a_line_per_kernel_has_what_the_record_has),
        cmocka_unit_test(kernels_at_once_have_a_track_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
