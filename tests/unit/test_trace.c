/* trace.c: every nanosecond of a chunk is some op's or named, on each device, whatever order spans
 * come in; sums by op, layer, rank and device; files that make no sense are refused. */
#include "harness/new_file.h"
#include "harness/show.h"
#include "harness/trace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void add(struct case_result *r, int chunk, int64_t begin_ns, int64_t end_ns, enum op op,
                int layer, int rank) {
    struct span_row s = {.repeat = 1, .chunk = chunk};
    s.span = (struct span){.begin_ns = begin_ns, .end_ns = end_ns, .flops = 1000, .bytes = 10};
    s.span.op = (uint8_t)op, s.span.layer = (int16_t)layer, s.span.rank = (int16_t)rank;
    assert_int_equal(result_add_spans(r, &s, 1, NULL), STATUS_OK);
}

static void add_chunk(struct case_result *r, int repeat, int chunk, int64_t begin_ns,
                      int64_t latency_ns) {
    struct chunk_row c = {.repeat = repeat, .chunk = chunk, .begin_ns = begin_ns};
    c.latency_ns = latency_ns, c.n_tokens = 100, c.start_token = 100 * chunk;
    enum status (*put)(struct case_result *, const struct chunk_row *, struct error *) =
        repeat == 1 ? result_add_traced : result_add_chunk;
    assert_int_equal(put(r, &c, NULL), STATUS_OK);
}

/* Chunk 0: 1000 to 1200, with ops at 1010-1050, 1050-1080 and, upon each other, 1100-1160 and
 * 1140-1170. Chunk 2: 2000 to 2100, an op at 2000-2090. Recorded out of order. */
static void make_case(struct case_result *r) {
    memset(r, 0, sizeof *r);
    strcpy(r->id, "a-case");
    r->prompt_tokens = 300, r->chunk_tokens = 100, r->repeats = 1;
    add_chunk(r, 1, 0, 1000, 200);
    add_chunk(r, 1, 2, 2000, 100);
    add(r, 2, 2000, 2090, OP_ATTENTION, 1, 0);
    add(r, 0, 1100, 1160, OP_LINEAR, 1, 0);
    add(r, 0, 1010, 1050, OP_EMBED, -1, SHARED_RANK);
    add(r, 0, 1140, 1170, OP_LINEAR, 1, 1);
    add(r, 0, 1050, 1080, OP_ALL_REDUCE, 0, SHARED_RANK);
}

static void assert_parts_add_up(const struct trace *t) {
    int parts = 0;
    for (int i = 0; i < t->n_chunks; i++) {
        const struct trace_chunk *c = &t->chunks[i];
        for (int k = 0; k < c->n_parts; k++) {
            const struct trace_part *p = &c->parts[k];
            assert_true((double)(c->end_ns - c->begin_ns) ==
                        p->ops_ns - p->at_once_ns + p->before_ns + p->between_ns + p->after_ns);
            assert_true(trace_no_op_ns(c, p) == p->before_ns + p->between_ns + p->after_ns);
        }
        parts += c->n_parts;
    }
    assert_int_equal(parts, t->n_parts);
    assert_true(t->latency_ns ==
                t->all.ns - t->at_once_ns + t->before_ns + t->between_ns + t->after_ns);
}

static void every_nanosecond_is_an_ops_or_named(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    make_case(&r);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_int_equal(t.n_chunks, 2);
    const struct trace_part *p = t.chunks[0].parts;
    assert_int_equal(p->n, 4);
    assert_true(p->before_ns == 10 && p->between_ns == 20 && p->after_ns == 30);
    assert_true(p->at_once_ns == 20 && p->ops_ns == 40 + 30 + 60 + 30);
    assert_parts_add_up(&t);
    assert_int_equal(t.n_devices, 1);
    assert_true(t.whole && t.latency_ns == 300 && t.elapsed_ns == 300 && t.all.ns == 250);
    assert_int_equal(t.n_gaps, 1);
    assert_true(t.gaps[0].ns == 20 && t.gaps[0].after->span.op == OP_ALL_REDUCE &&
                t.gaps[0].before->span.op == OP_LINEAR);
    trace_close(&t);
    result_free(&r);
}

static void sums_are_by_op_layer_and_rank(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    make_case(&r);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_int_equal(t.n_ops, 4);
    assert_int_equal(t.ops[0].op + t.ops[1].op, OP_LINEAR + OP_ATTENTION); /* 90 ns each */
    assert_true(t.ops[0].sum.ns == 90 && t.ops[1].sum.ns == 90 && t.ops[3].sum.ns == 30);
    for (int i = 0; i < t.n_ops; i++)
        assert_int_equal(trace_op_number(&t, &(struct span){.op = t.ops[i].op}), i);
    assert_int_equal(t.n_layers, 3);
    assert_true(t.layers[0].sum.ns == 40 && t.layers[1].sum.ns == 30 && t.layers[2].sum.ns == 180);
    assert_true(t.layers[2].op_ns[OP_ATTENTION] == 90 && t.layers[2].sum.flops == 3000);
    assert_true(t.devices[0].shared.sum.ns == 70 && t.devices[0].all.sum.ns == 250);
    assert_true(t.ranks[0].sum.ns == 150 && t.ranks[1].sum.ns == 30);
    int64_t end = 0;
    assert_int_equal(trace_layer_end(t.chunks[0].parts, 2, &end), 1170);
    assert_int_equal(end, 4);
    trace_close(&t);
    result_free(&r);
}

/* Chunk 0 as it was, on device 0. On device 1, at the same time: rank 2 at 1020-1060, an exchange
 * at 1060-1190. Chunk 2 on device 0 alone: spans of device 1 found no room. */
static void devices_at_the_same_time_are_not_ops_at_once(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    char text[TRACE_TEXT];
    make_case(&r);
    add(&r, 0, 1060, 1190, OP_EXCHANGE, 1, SHARED_RANK);
    r.spans[r.n_spans - 1].span.device = 1;
    add(&r, 0, 1020, 1060, OP_LINEAR, 1, 2);
    r.spans[r.n_spans - 1].span.device = 1;
    add_chunk(&r, 0, 0, 0, 190), add_chunk(&r, 0, 2, 0, 110);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_int_equal(t.n_devices, 2);
    assert_int_equal(t.n_chunks, 2);
    assert_true(t.chunks[0].n_parts == 2 && t.chunks[1].n_parts == 1);
    assert_parts_add_up(&t);
    const struct trace_part *p = &t.chunks[0].parts[1];
    assert_true(p->device == 1 && p->n == 2 && p->spans[0]->span.rank == 2);
    assert_true(p->before_ns == 20 && p->between_ns == 0 && p->after_ns == 10);
    assert_true(p->at_once_ns == 0 && t.at_once_ns == 20);
    assert_true(t.elapsed_ns == 300 && t.latency_ns == 500 && trace_cost(&t) == 1);
    assert_true(t.devices[0].latency_ns == 300 && t.devices[1].latency_ns == 200);
    assert_true(t.devices[0].shared.sum.ns == 70 && t.devices[1].shared.sum.ns == 130);
    assert_true(t.devices[1].all.op_ns[OP_EXCHANGE] == 130 && t.devices[1].all.sum.ns == 170);
    assert_true(t.ranks[2].sum.ns == 40 && t.rank_device[2] == 1);
    assert_int_equal(t.n_gaps, 1); /* of device 0: device 1 does not fill it */
    assert_string_equal(trace_when(text, &t), "chunks 1, 3 of 3 after the repeats");
    trace_close(&t);
    r.n_traced = 0; /* an older file: from the first op of any device to the last */
    assert_int_equal(trace_open(&t, &r, 0, NULL), STATUS_OK);
    assert_true(t.chunks[0].begin_ns == 1010 && t.chunks[0].end_ns == 1190);
    assert_parts_add_up(&t);
    trace_close(&t);
    result_free(&r);
}

/* An exchange from 10 ns before the end of an op to 8 ns after it. */
static void what_runs_aside_is_counted_once(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    make_case(&r);
    r.exchange_overlap = true;
    add(&r, 2, 2080, 2098, OP_EXCHANGE, 1, SHARED_RANK);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_parts_add_up(&t);
    const struct trace_part *p = t.chunks[1].parts;
    assert_true(p->ops_ns == 90 + 18 && p->at_once_ns == 10 && p->after_ns == 2);
    for (int64_t i = 0; i < t.n; i++)
        assert_true(trace_is_aside(&t, &t.spans[i]->span) ==
                    (t.spans[i]->span.op == OP_EXCHANGE || t.spans[i]->span.op == OP_ALL_REDUCE));
    r.exchange_overlap = false;
    for (int64_t i = 0; i < t.n; i++) assert_false(trace_is_aside(&t, &t.spans[i]->span));
    trace_close(&t);
    result_free(&r);
}

static void a_trace_is_compared_with_the_same_chunks_alone(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    make_case(&r);
    add_chunk(&r, 0, 0, 0, 190), add_chunk(&r, 0, 1, 0, 5000), add_chunk(&r, 0, 2, 0, 110);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_true(trace_cost(&t) == 1);
    trace_close(&t);
    assert_int_equal(trace_open(&t, &r, 2, NULL), STATUS_OK);
    assert_true(fabs(trace_cost(&t) - 100.0 / 110) < 1e-12 && t.n == 1);
    trace_close(&t);
    r.n_traced = 0; /* an older file */
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_true(!t.whole && isnan(trace_cost(&t)));
    assert_true(t.chunks[0].begin_ns == 1010 && t.chunks[0].end_ns == 1170);
    trace_close(&t);
    result_free(&r);
}

static void what_makes_no_sense_is_refused(void **state) {
    (void)state;
    static const struct span bad[] = {{.begin_ns = 5, .end_ns = 4},
                                      {.begin_ns = INT64_MIN, .end_ns = INT64_MAX},
                                      {.flops = -1},
                                      {.op = OPS},
                                      {.role = ROLES},
                                      {.rank = MAX_RANKS},
                                      {.rank = -2},
                                      {.device = MAX_RANKS},
                                      {.layer = -2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct case_result r;
        struct trace t;
        struct error err = {""};
        make_case(&r);
        r.spans[3].span = bad[i];
        assert_int_equal(trace_open(&t, &r, -1, &err), STATUS_IO);
        assert_non_null(strstr(err.text, "span 3"));
        trace_close(&t);
        result_free(&r);
    }
    struct case_result r;
    struct trace t;
    make_case(&r);
    r.traced[1].latency_ns = INT64_MAX;
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_IO);
    r.traced[1].latency_ns = 1;
    assert_int_equal(trace_open(&t, &r, 1, NULL), STATUS_USAGE);
    r.n_spans = 0;
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_INVALID);
    result_free(&r);
}

static void words_say_what_was_traced(void **state) {
    (void)state;
    struct case_result r;
    struct trace t;
    char text[TRACE_TEXT];
    make_case(&r);
    assert_int_equal(trace_open(&t, &r, -1, NULL), STATUS_OK);
    assert_string_equal(trace_when(text, &t), "chunks 1, 3 of 3 after the repeats");
    assert_string_equal(trace_span_text(text, &t.chunks[0].parts[0].spans[2]->span),
                        "layer 2 linear, rank 0");
    assert_string_equal(trace_op_text(text, OP_LINEAR, ROLE_DOWN), "linear down");
    const struct device_rates rates = {.roof_flops = 1e9, .copy_bytes = 1e9};
    assert_true(fabs(trace_of_ceiling(
                         &(struct trace_sum){.calls = 1, .ns = 4, .flops = 1, .bytes = 2}, &rates) -
                     0.5) < 1e-12);
    assert_true(isnan(trace_of_ceiling(&(struct trace_sum){.calls = 1, .ns = 4}, &rates)));
    trace_close(&t);
    result_free(&r);
}

static void chunks_are_listed_once_in_order_with_runs(void **state) {
    static const struct {
        int n;
        int32_t chunks[8];
        const char *want;
    } cases[] = {{0, {0}, ""},
                 {1, {6}, "7"},
                 {2, {0, 1}, "1-2"},
                 {6, {7, 2, 0, 2, 1, 7}, "1-3, 8"},
                 {3, {4, 0, 2}, "1, 3, 5"}};
    (void)state;
    char out[TRACE_TEXT];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(trace_chunk_list(out, cases[i].chunks, sizeof(int32_t), cases[i].n),
                            cases[i].want);
    enum { MANY = 400 };
    struct chunk_row rows[MANY];
    for (int i = 0; i < MANY; i++) rows[i].chunk = 1000000 + 2 * i;
    trace_chunk_list(out, &rows[0].chunk, sizeof *rows, MANY);
    assert_true(strlen(out) < TRACE_TEXT);
    assert_string_equal(out + strlen(out) - 5, ", ...");
}

/* What trace_say prints, in a buffer of its own. */
static char *said(int width, int hang, const char *text) {
    char *out = NULL;
    size_t size;
    FILE *f = open_memstream(&out, &size);
    assert_non_null(f);
    trace_say(f, &(struct show_style){.width = width}, hang, "%s", text);
    fclose(f);
    return out;
}

static void a_line_goes_on_below_where_the_screen_ends(void **state) {
    static const struct {
        int width, hang;
        const char *text, *want;
    } cases[] = {{0, 4, "  one two three", "  one two three\n"},
                 {15, 4, "  one two three", "  one two three\n"},
                 {14, 4, "  one two three", "  one two\n    three\n"},
                 {9, 0, "one two three", "one two\nthree\n"},
                 {3, 2, "longer than it", "longer\n  than\n  it\n"},
                 {80, 2, "", "\n"},
                 {80, 2, "no \033 escape", "no \\x1b escape\n"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = said(cases[i].width, cases[i].hang, cases[i].text);
        assert_string_equal(out, cases[i].want);
        free(out);
    }
}

static void a_new_file_takes_its_place_at_the_end_alone(void **state) {
    (void)state;
    char folder[] = "/tmp/test_trace-XXXXXX", path[80];
    struct new_file f;
    struct stat st;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(new_file_begin(&f, path, NULL), STATUS_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(new_file_end(&f, NULL), STATUS_OK);
    assert_int_equal(stat(path, &st), 0);
    const mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(new_file_begin(&f, path, NULL), STATUS_OK);
    new_file_drop(&f);
    assert_int_equal(access(f.temporary, F_OK), -1);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); /* nothing else was in it */
    struct error err = {""};
    assert_int_equal(new_file_begin(&f, path, &err), STATUS_IO);
    assert_non_null(strstr(err.text, path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_nanosecond_is_an_ops_or_named),
        cmocka_unit_test(sums_are_by_op_layer_and_rank),
        cmocka_unit_test(devices_at_the_same_time_are_not_ops_at_once),
        cmocka_unit_test(what_runs_aside_is_counted_once),
        cmocka_unit_test(a_trace_is_compared_with_the_same_chunks_alone),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(words_say_what_was_traced),
        cmocka_unit_test(chunks_are_listed_once_in_order_with_runs),
        cmocka_unit_test(a_line_goes_on_below_where_the_screen_ends),
        cmocka_unit_test(a_new_file_takes_its_place_at_the_end_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
