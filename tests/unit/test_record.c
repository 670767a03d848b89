/* record_write.c, record_read.c, h5file.c: what goes in comes out, a file is whole or not there,
 * and nothing that is read can do harm. */
#include "harness/h5file.h"
#include "harness/record.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { CHUNKS = 5, REPEATS = 2, RANKS = 2, SPANS = 40, BUFFERS = 9 };

/* ---- a folder of its own for each test ---- */

static int open_folder(void **state) {
    char *dir = strdup("/tmp/test_record-XXXXXX");
    *state = dir;
    return dir && mkdtemp(dir) ? 0 : -1;
}

static int remove_folder(void **state) {
    DIR *d = opendir(*state);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", (char *)*state, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    if (d) closedir(d);
    rmdir(*state);
    free(*state);
    return 0;
}

static char *in_folder(char out[600], const char *dir, const char *name) {
    snprintf(out, 600, "%s/%s", dir, name);
    return out;
}

/* ---- a case with something in every column ---- */

static struct case_plan plan_of(const char *id) {
    struct case_plan p = {.prompt = "needle:1k@0.5", .coverage = COVER_FULL};
    snprintf(p.id, sizeof p.id, "%s", id);
    p.engine.tensor_parallel_size = RANKS;
    p.engine.dtype = DTYPE_F32;
    p.engine.prune_last_layer = true;
    p.session.prompt_tokens = 1000;
    p.session.chunk_tokens = 200;
    p.max_num_batched_tokens = 1ll << 33;
    p.session.graph = true;
    p.predicted_prefill_s = 1.25;
    p.rates = (struct device_rates){1e9, 2e9, 3e9, 4e9, 50};
    p.memory.ranks = RANKS;
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        p.memory.shared_bytes[c] = 10 + c;
        for (int r = 0; r < RANKS; r++) p.memory.rank_bytes[r][c] = 100 * r + c;
    }
    p.memory.total_bytes = 12345, p.memory.available_bytes = 1ll << 40;
    return p;
}

static void add_rows(struct case_result *r) {
    for (int32_t repeat = 0; repeat < REPEATS; repeat++)
        for (int32_t chunk = 0; chunk < CHUNKS; chunk++) {
            int64_t k = repeat * CHUNKS + chunk;
            struct chunk_row c = {repeat, chunk,     200 * chunk, 200, 1000 + k, 50 + k,
                                  40,     1ll << 40, 77,          {0}, chunk > 0};
            c.device_latency_ns[0] = 50 + k;
            assert_int_equal(result_add_chunk(r, &c, NULL), STATUS_OK);
            for (int32_t rank = SHARED_RANK; rank < RANKS; rank++) {
                struct memory_row m = {.repeat = repeat, .chunk = chunk, .rank = rank};
                m.use.bytes[MEMORY_KV] = 1000 + rank;
                m.use.high_water[MEMORY_OTHER] = 2000 + rank;
                m.driver_before = 1, m.driver_after = 9000, m.driver_high_water = 9500;
                m.unaccounted = 6000;
                assert_int_equal(result_add_memory(r, &m, NULL), STATUS_OK);
            }
        }
    for (int32_t chunk = 0; chunk < CHUNKS; chunk++) {
        struct clock_row c = {.chunk = chunk, .samples = 7, .sm_clock_mhz = 1980};
        c.sm_clock_mean_mhz = 1700.5, c.sm_clock_min_mhz = 1200, c.memory_clock_mhz = 3201;
        c.power_w = 699.5, c.power_mean_w = 650, c.temperature_c = -1, c.device = chunk % 2;
        c.throttle_reasons = 4, c.throttle_reasons_seen = 1ll << 40 | 4, c.energy_mj = 123456789;
        assert_int_equal(result_add_clocks(r, &c, NULL), STATUS_OK);
    }
    for (int32_t step = 0; step < 3; step++) {
        struct decode_row d = {0, step, 300 + step, 5000, -0.5f * (float)step};
        assert_int_equal(result_add_decode(r, &d, NULL), STATUS_OK);
    }
    for (int32_t chunk = 0; chunk < CHUNKS; chunk++) {
        struct chunk_row c = {.repeat = REPEATS, .chunk = chunk, .n_tokens = 200};
        c.start_token = 200 * chunk, c.begin_ns = 9000 + chunk, c.latency_ns = 60 + chunk;
        assert_int_equal(result_add_traced(r, &c, NULL), STATUS_OK);
    }
    for (int i = 0; i < SPANS; i++) {
        struct span_row s = {.repeat = REPEATS,
                             .chunk = i % CHUNKS,
                             .span = {.begin_ns = i, .end_ns = i + 5, .flops = 1 << i % 30}};
        s.span.rank = (int16_t)(i % RANKS), s.span.layer = (int16_t)(i % 3 - 1);
        s.span.device = (uint8_t)(i % 2);
        s.counts = (struct span_counts){1000 + i, 2000 + i, i % 3 ? i : -1};
        s.span.op = i % 2 ? OP_LINEAR : OP_EMBED, s.span.role = i % 2 ? ROLE_DOWN : ROLE_NONE;
        assert_int_equal(result_add_spans(r, &s, 1, NULL), STATUS_OK);
    }
    for (int i = 0; i < BUFFERS; i++) {
        struct buffer_row b = {i % 2, {.category = i % MEMORY_CATEGORIES, .rank = i % RANKS - 1}};
        snprintf(b.buffer.name, sizeof b.buffer.name, "buffer %d", i);
        b.buffer.bytes = (int64_t)i << 33;
        assert_int_equal(result_add_buffers(r, &b, 1, NULL), STATUS_OK);
    }
    for (int i = 0; i < SPANS; i++) {
        const struct buffer_use_row u = {i / 2 * 2, i % BUFFERS, (int64_t)i << 32};
        assert_int_equal(result_add_buffer_uses(r, &u, 1, NULL), STATUS_OK);
    }
}

/* Records of two chunks, one of each kind, and one that is nobody's. */
static void add_kernels(struct case_result *r) {
    struct activity_log *log = &r->kernel_trace.log;
    const struct op_place down = {1, 2, OP_LINEAR, ROLE_DOWN, 0, 1};
    r->kernel_trace.wanted = true;
    r->kernel_trace.cupti_version = 130001;
    strcpy(r->kernel_trace.note, "some were lost");
    log->dropped = 3;
    for (int32_t chunk = 0; chunk < 2; chunk++) {
        const int64_t begin = 5000000 + 1000 * chunk;
        const struct chunk_row c = {
            .chunk = chunk, .n_tokens = 9, .begin_ns = begin, .latency_ns = 900};
        struct activity_kernel k = {.head = {begin + 1, begin + 400, 0, chunk, down},
                                    .stream = 13,
                                    .correlation = 77,
                                    .graph_node = 8589934592,
                                    .grid = {132, 2, 3},
                                    .block = {384, 1, 1},
                                    .registers = 168,
                                    .static_shared = 1024,
                                    .dynamic_shared = 180224,
                                    .shared_executed = 233472};
        assert_int_equal(result_add_kernel_chunk(r, &c, NULL), STATUS_OK);
        activity_log_string(log, "_Z4downv", &k.mangled, NULL);
        activity_log_string(log, "down()", &k.demangled, NULL);
        activity_log_string(log, chunk ? "down" : "", &k.short_name, NULL);
        if (chunk == 1) k.head.place = op_place_unknown();
        assert_int_equal(activity_log_add_kernel(log, &k, NULL), STATUS_OK);
        const struct activity_copy copy = {.head = k.head, .bytes = 48, .set = chunk, .kind = 1};
        assert_int_equal(activity_log_add_copy(log, &copy, NULL), STATUS_OK);
    }
    const struct activity_head head = {5000010, 5000020, 0, 0, op_place_unknown()};
    struct activity_call call = {
        .head = {5000010, 5000012, 0, 0, down}, .process = 1234, .thread = 56, .correlation = 77};
    struct activity_range range = {.head = head, .process = 1234, .thread = 56};
    const struct activity_overhead overhead = {.head = head, .kind = 5 << 16};
    activity_log_string(log, "cudaLaunchKernel_v7000", &call.name, NULL);
    activity_log_string(log, "chunk", &range.name, NULL);
    activity_log_string(log, "bench", &range.domain, NULL);
    assert_int_equal(activity_log_add_call(log, &call, NULL), STATUS_OK);
    assert_int_equal(activity_log_add_range(log, &range, NULL), STATUS_OK);
    const struct activity_overhead flush = {.head = head, .kind = 1 << 16};
    assert_int_equal(activity_log_add_overhead(log, &overhead, NULL), STATUS_OK);
    assert_int_equal(activity_log_add_overhead(log, &flush, NULL), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        const struct activity_node node = {
            .head = {4000000, 4000000, -1, -1, i ? down : op_place_unknown()},
            .process = 1234,
            .thread = 56,
            .node = 8589934592 + (uint64_t)i,
            .original = i ? 8589934592 : 0};
        const struct activity_memory memory = {.head = {3000000 + i, 3000000 + i, -1, i - 1},
                                               .process = 1234,
                                               .stream = 7,
                                               .address = 0xffff800000000000,
                                               .bytes = 1LL << 40,
                                               .release = i,
                                               .kind = i ? 3 : 0};
        assert_int_equal(activity_log_add_node(log, &node, NULL), STATUS_OK);
        assert_int_equal(activity_log_add_memory(log, &memory, NULL), STATUS_OK);
    }
}

static void assert_same_head(const struct activity_head *a, const struct activity_head *b) {
    assert_true(a->begin_ns == b->begin_ns && a->end_ns == b->end_ns);
    assert_true(a->repeat == b->repeat && a->chunk == b->chunk);
    assert_int_equal(a->place.op, b->place.op);
    assert_int_equal(a->place.role, b->place.role);
    assert_int_equal(a->place.variant, b->place.variant);
    assert_int_equal(a->place.rank, b->place.rank);
    assert_int_equal(a->place.layer, b->place.layer);
    assert_int_equal(a->place.device, b->place.device);
}

static void assert_same_text(const struct activity_log *a, int32_t x, const struct activity_log *b,
                             int32_t y) {
    assert_string_equal(activity_log_text(a, x), activity_log_text(b, y));
}

static void assert_same_kernels(const struct case_result *x, const struct case_result *y) {
    const struct activity_log *a = &x->kernel_trace.log, *b = &y->kernel_trace.log;
    assert_int_equal(x->kernel_trace.wanted, y->kernel_trace.wanted);
    assert_int_equal(x->kernel_trace.cupti_version, y->kernel_trace.cupti_version);
    assert_string_equal(x->kernel_trace.note, y->kernel_trace.note);
    assert_int_equal(x->kernel_trace.n_chunks, y->kernel_trace.n_chunks);
    assert_int_equal(a->dropped, b->dropped);
    assert_int_equal(a->n_kernels, b->n_kernels);
    assert_int_equal(a->n_copies, b->n_copies);
    assert_int_equal(a->n_calls, b->n_calls);
    assert_int_equal(a->n_ranges, b->n_ranges);
    assert_int_equal(a->n_overheads, b->n_overheads);
    assert_int_equal(a->n_nodes, b->n_nodes);
    assert_int_equal(a->n_memory, b->n_memory);
    for (int64_t i = 0; i < a->n_kernels; i++) {
        const struct activity_kernel *k = &a->kernels[i], *l = &b->kernels[i];
        assert_same_head(&k->head, &l->head);
        assert_memory_equal(k->grid, l->grid, sizeof k->grid);
        assert_memory_equal(k->block, l->block, sizeof k->block);
        assert_true(k->graph_node == l->graph_node && k->correlation == l->correlation);
        assert_true(k->registers == l->registers && k->dynamic_shared == l->dynamic_shared);
        assert_same_text(a, k->mangled, b, l->mangled);
        assert_same_text(a, k->demangled, b, l->demangled);
        assert_same_text(a, k->short_name, b, l->short_name);
    }
    for (int64_t i = 0; i < a->n_copies; i++) {
        assert_same_head(&a->copies[i].head, &b->copies[i].head);
        assert_true(a->copies[i].set == b->copies[i].set && b->copies[i].bytes == 48);
    }
    for (int64_t i = 0; i < a->n_calls; i++) {
        assert_same_head(&a->calls[i].head, &b->calls[i].head);
        assert_true(b->calls[i].process == 1234 && b->calls[i].thread == 56);
        assert_same_text(a, a->calls[i].name, b, b->calls[i].name);
    }
    for (int64_t i = 0; i < a->n_ranges; i++) {
        assert_same_head(&a->ranges[i].head, &b->ranges[i].head);
        assert_same_text(a, a->ranges[i].name, b, b->ranges[i].name);
        assert_same_text(a, a->ranges[i].domain, b, b->ranges[i].domain);
    }
    for (int64_t i = 0; i < a->n_overheads; i++)
        assert_int_equal(a->overheads[i].kind, b->overheads[i].kind);
    for (int64_t i = 0; i < a->n_nodes; i++) {
        const struct activity_node *n = &a->nodes[i], *m = &b->nodes[i];
        assert_same_head(&n->head, &m->head);
        assert_true(n->node == m->node && n->original == m->original);
        assert_true(n->process == m->process && n->thread == m->thread);
    }
    for (int64_t i = 0; i < a->n_memory; i++) {
        const struct activity_memory *n = &a->memory[i], *m = &b->memory[i];
        assert_true(n->head.begin_ns == m->head.begin_ns && n->head.chunk == m->head.chunk);
        assert_true(n->address == m->address && n->bytes == m->bytes && n->kind == m->kind);
        assert_true(n->release == m->release && n->process == m->process && n->stream == m->stream);
    }
}

static void *copy_of(const void *data, size_t n) {
    void *p = malloc(n);
    assert_non_null(p);
    return memcpy(p, data, n);
}

static void make_case(struct case_result *r, const char *id) {
    static const int64_t ttft[REPEATS] = {7000000, 9000000};
    static const int32_t ids[] = {300, 301, 302};
    struct case_plan p = plan_of(id);
    result_init(r, &p);
    r->status = CASE_OK, r->reason[0] = 0, r->repeats = REPEATS;
    add_rows(r);
    r->ttft_ns = copy_of(ttft, sizeof ttft), r->n_ttft = REPEATS;
    r->output = copy_of(ids, sizeof ids), r->n_output = 3;
    r->expected = copy_of(ids, 2 * sizeof *ids), r->n_expected = 2;
    r->output_text = strdup("Zürich \xff <g1>");
    r->stderr_tail = strdup("a warning\n");
    r->top[0] = (struct top_logprob){300, -0.25f}, r->top[1] = (struct top_logprob){7, -3};
    r->n_top = 2, r->logits_hash = 0xfedcba9876543210u;
    r->fit = (struct affine_fit){1.5, 2.5, 0.01, 5};
    r->ttft_error = 0.02, r->load_ns = 11, r->session_ns = 12, r->step_allocations = 3;
    r->graph_info = (struct graph_info){2, 300, 200, 4096, 55, 66, 77};
    r->dropped_spans = 4;
    r->counted = true;
    snprintf(r->counters_note, sizeof r->counters_note, "not on Sundays");
    r->check[CHECK_TOKENS].verdict = VERDICT_OK;
    r->check[CHECK_SPOT] = (struct check_result){VERDICT_FAILED, 0.5, 0.25, "layer 3, head 1"};
    strcpy(r->prompt_sha256, "00ff");
    strcpy(r->prompt_url, "https://example.org/a.txt"), strcpy(r->prompt_file_sha256, "11ee");
}

static void assert_same_rows(const struct case_result *a, const struct case_result *b) {
    assert_int_equal(a->n_chunks, b->n_chunks);
    assert_int_equal(a->n_memory, b->n_memory);
    assert_int_equal(a->n_decode, b->n_decode);
    assert_int_equal(a->n_clocks, b->n_clocks);
    for (int64_t i = 0; i < a->n_clocks; i++) { /* no row has a NaN here: bytes tell */
        assert_memory_equal(&a->clocks[i], &b->clocks[i], sizeof *a->clocks);
    }
    for (int64_t i = 0; i < a->n_decode; i++) {
        assert_int_equal(a->decode[i].step, b->decode[i].step);
        assert_int_equal(a->decode[i].token_id, b->decode[i].token_id);
        assert_int_equal(a->decode[i].latency_ns, b->decode[i].latency_ns);
        assert_true(a->decode[i].logprob == b->decode[i].logprob);
    }
    for (int64_t i = 0; i < a->n_chunks; i++) {
        assert_int_equal(a->chunks[i].begin_ns, b->chunks[i].begin_ns);
        assert_int_equal(a->chunks[i].flops, b->chunks[i].flops);
        assert_int_equal(a->chunks[i].replayed, b->chunks[i].replayed);
        assert_memory_equal(a->chunks[i].device_latency_ns, b->chunks[i].device_latency_ns,
                            sizeof a->chunks[i].device_latency_ns);
    }
    for (int64_t i = 0; i < a->n_memory; i++) {
        assert_int_equal(a->memory[i].rank, b->memory[i].rank);
        assert_int_equal(a->memory[i].unaccounted, b->memory[i].unaccounted);
        assert_memory_equal(&a->memory[i].use, &b->memory[i].use, sizeof a->memory[i].use);
    }
}

static void assert_same_spans(const struct case_result *a, const struct case_result *b) {
    assert_int_equal(a->n_spans, b->n_spans);
    assert_int_equal(a->dropped_spans, b->dropped_spans);
    assert_int_equal(a->n_traced, b->n_traced);
    for (int64_t i = 0; i < a->n_traced; i++) {
        const struct chunk_row *x = &a->traced[i], *y = &b->traced[i];
        assert_true(x->repeat == y->repeat && x->chunk == y->chunk && x->n_tokens == y->n_tokens);
        assert_true(x->begin_ns == y->begin_ns && x->latency_ns == y->latency_ns);
    }
    for (int64_t i = 0; i < a->n_spans; i++) {
        const struct span *x = &a->spans[i].span, *y = &b->spans[i].span;
        assert_int_equal(a->spans[i].chunk, b->spans[i].chunk);
        assert_true(x->op == y->op && x->role == y->role && x->rank == y->rank);
        assert_int_equal(x->device, y->device);
        assert_true(x->layer == y->layer && x->begin_ns == y->begin_ns && x->end_ns == y->end_ns);
        assert_int_equal(x->flops, y->flops);
        assert_memory_equal(&a->spans[i].counts, &b->spans[i].counts, sizeof b->spans[i].counts);
    }
    assert_true(a->counted == b->counted);
    assert_string_equal(a->counters_note, b->counters_note);
    assert_int_equal(a->n_buffers, b->n_buffers);
    for (int64_t i = 0; i < a->n_buffers; i++) {
        const struct buffer_info *x = &a->buffers[i].buffer, *y = &b->buffers[i].buffer;
        assert_int_equal(a->buffers[i].device, b->buffers[i].device);
        assert_string_equal(x->name, y->name);
        assert_true(x->category == y->category && x->rank == y->rank && x->bytes == y->bytes);
    }
    assert_int_equal(a->n_buffer_uses, b->n_buffer_uses);
    for (int64_t i = 0; i < a->n_buffer_uses; i++) {
        const struct buffer_use_row *x = &a->buffer_uses[i], *y = &b->buffer_uses[i];
        assert_true(x->span == y->span && x->buffer == y->buffer && x->bytes == y->bytes);
    }
}

static void assert_same_prediction(const struct memory_prediction *a,
                                   const struct memory_prediction *b) {
    assert_int_equal(a->ranks, b->ranks);
    assert_memory_equal(a->rank_bytes, b->rank_bytes, sizeof a->rank_bytes);
    assert_memory_equal(a->shared_bytes, b->shared_bytes, sizeof a->shared_bytes);
    assert_int_equal(a->total_bytes, b->total_bytes);
    assert_int_equal(a->available_bytes, b->available_bytes);
}

static void assert_same_graph(const struct graph_info *a, const struct graph_info *b) {
    assert_true(a->graphs == b->graphs && a->nodes == b->nodes && a->bytes == b->bytes);
    assert_true(a->capture_ns == b->capture_ns && a->instantiate_ns == b->instantiate_ns &&
                a->upload_ns == b->upload_ns);
}

static void assert_same_case(const struct case_result *a, const struct case_result *b) {
    assert_string_equal(a->id, b->id);
    assert_int_equal(a->status, b->status);
    assert_string_equal(a->prompt, b->prompt);
    assert_string_equal(a->prompt_sha256, b->prompt_sha256);
    assert_string_equal(a->prompt_url, b->prompt_url);
    assert_string_equal(a->prompt_file_sha256, b->prompt_file_sha256);
    assert_true(a->graph == b->graph && a->tp == b->tp && a->repeats == b->repeats);
    assert_true(a->prune_last_layer == b->prune_last_layer && a->coverage == b->coverage);
    assert_string_equal(a->dtype, b->dtype);
    assert_true(a->chunk_tokens == b->chunk_tokens);
    assert_true(a->max_num_batched_tokens == b->max_num_batched_tokens);
    assert_true(a->predicted_prefill_s == b->predicted_prefill_s);
    assert_memory_equal(&a->rates, &b->rates, sizeof a->rates);
    assert_same_prediction(&a->predicted_memory, &b->predicted_memory);
    assert_same_rows(a, b);
    assert_int_equal(a->n_ttft, b->n_ttft);
    assert_memory_equal(a->ttft_ns, b->ttft_ns, (size_t)a->n_ttft * sizeof *a->ttft_ns);
    assert_int_equal(a->n_output, b->n_output);
    assert_memory_equal(a->output, b->output, (size_t)a->n_output * sizeof *a->output);
    assert_int_equal(a->n_expected, b->n_expected);
    assert_string_equal(a->output_text, b->output_text);
    assert_string_equal(a->stderr_tail, b->stderr_tail);
    assert_memory_equal(a->top, b->top, sizeof a->top);
    assert_true(a->logits_hash == b->logits_hash && a->n_top == b->n_top);
    assert_true(a->fit.base_ns == b->fit.base_ns && a->fit.n == b->fit.n);
    assert_true(a->fit.slope_ns_per_token == b->fit.slope_ns_per_token);
    assert_true(a->fit.rms_relative == b->fit.rms_relative && a->ttft_error == b->ttft_error);
    assert_same_graph(&a->graph_info, &b->graph_info);
    assert_int_equal(a->step_allocations, b->step_allocations);
    for (int i = 0; i < CHECKS; i++) {
        assert_int_equal(a->check[i].verdict, b->check[i].verdict);
        assert_string_equal(a->check[i].detail, b->check[i].detail);
        assert_memory_equal(&a->check[i].worst, &b->check[i].worst, sizeof(double));
    }
}

/* ---- round trips ---- */

static void a_case_reads_back_as_it_was_written(void **state) {
    struct case_result r, back;
    struct error err = {""};
    char path[600];
    make_case(&r, "one");
    assert_int_equal(record_write_case(*state, &r, &err), STATUS_OK);
    in_folder(path, *state, "case-one.h5");
    assert_int_equal(record_read_case(path, NULL, true, &back, &err), STATUS_OK);
    assert_same_case(&r, &back);
    assert_same_spans(&r, &back);
    assert_false(back.kernel_trace.wanted); /* nobody asked */
    result_free(&back);
    assert_int_equal(record_read_case(path, "one", false, &back, &err), STATUS_OK);
    assert_int_equal(back.n_spans, 0);
    struct chunk_row more = {0};
    assert_int_equal(result_add_chunk(&back, &more, NULL),
                     STATUS_OK); /* rows that were read grow */
    result_free(&back);
    assert_int_equal(record_read_case(path, "two", false, &back, &err), STATUS_IO);
    result_free(&r);
}

static void a_case_without_rows_reads_back(void **state) {
    struct case_plan p = plan_of("none");
    p.coverage = COVER_SKIPPED;
    strcpy(p.reason, "needs more memory than there is");
    struct case_result r, back;
    char path[600];
    result_init(&r, &p);
    assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
    in_folder(path, *state, "case-none.h5");
    assert_int_equal(record_read_case(path, NULL, true, &back, NULL), STATUS_OK);
    assert_int_equal(back.status, CASE_SKIPPED);
    assert_string_equal(back.reason, p.reason);
    assert_int_equal(back.n_clocks, 0); /* the group is not even there */
    assert_int_equal(back.n_chunks + back.n_memory + back.n_spans + back.n_ttft, 0);
    assert_null(back.stderr_tail);
    result_free(&back);
    result_free(&r);
}

static struct run_facts some_facts(void) {
    struct run_facts f = {.argv = "bench run x.ini", .config_text = "[model]\npath = needle\n"};
    strcpy(f.config_sha256, "abcd"), strcpy(f.git_commit, "unknown"), strcpy(f.hostname, "there");
    strcpy(f.created_utc, "2026-01-02T03:04:05Z"), strcpy(f.tool_version, "0.1.0");
    f.git_dirty = true, f.cores = 2, f.memory_bytes = 1ll << 35;
    f.realtime_ns = 1ll << 60, f.monotonic_ns = 17;
    f.rates.roof_flops = 2.5e11;
    f.device.variant[OP_ATTENTION] = "avx512_bf16";
    f.n_gpus = 2;
    f.gpus[1] = (struct gpu_row){.gpu = {.name = "NVIDIA H200", .bus_id = "00000000:07:00.0"}};
    f.gpus[1].gpu.power_limit_w = 700, f.gpus[1].gpu.memory_bytes = 1ll << 37;
    f.gpus[1].gpu.mig = -1, f.gpus[1].gpu.nvlinks = 18;
    strcpy(f.gpus[1].driver, "580.1"), f.gpus[1].cuda_version = 13000, f.gpus[1].used = true;
    return f;
}

static void a_merged_run_has_its_cases_in_order_and_its_facts(void **state) {
    const char *ids[] = {"zeta", "alpha"};
    struct case_result r[2];
    struct run_facts facts = some_facts();
    struct record_run run;
    struct error err = {""};
    char path[600];
    int damaged = -1;
    for (int i = 0; i < 2; i++) {
        make_case(&r[i], ids[i]);
        assert_int_equal(record_write_case(*state, &r[i], NULL), STATUS_OK);
    }
    in_folder(path, *state, "run.h5");
    assert_int_equal(record_merge(*state, path, &facts, ids, 2, true, &damaged, &err), STATUS_OK);
    assert_int_equal(damaged, 0);
    assert_int_equal(record_read_run(path, &run, &err), STATUS_OK);
    assert_true(run.complete);
    assert_int_equal(run.n, 2);
    for (int i = 0; i < 2; i++) {
        assert_same_case(&r[i], &run.cases[i]);
        struct case_result whole;
        assert_int_equal(record_read_case(path, ids[i], true, &whole, &err), STATUS_OK);
        assert_same_spans(&r[i], &whole);
        result_free(&whole);
        result_free(&r[i]);
    }
    assert_string_equal(run.facts.argv, facts.argv);
    assert_string_equal(run.facts.config_text, facts.config_text);
    assert_string_equal(run.facts.hostname, "there");
    assert_string_equal(run.facts.device.variant[OP_ATTENTION], "avx512_bf16");
    assert_string_equal(run.facts.device.variant[OP_EMBED], "");
    assert_true(run.facts.git_dirty && run.facts.rates.roof_flops == 2.5e11);
    assert_true(run.facts.realtime_ns == 1ll << 60);
    assert_int_equal(run.facts.n_gpus, 2);
    const struct gpu_row *gpu = &run.facts.gpus[1];
    assert_string_equal(gpu->gpu.name, "NVIDIA H200");
    assert_string_equal(gpu->gpu.bus_id, "00000000:07:00.0");
    assert_string_equal(gpu->driver, "580.1");
    assert_true(gpu->gpu.power_limit_w == 700 && gpu->gpu.memory_bytes == 1ll << 37);
    assert_true(gpu->gpu.mig == -1 && gpu->gpu.nvlinks == 18 && gpu->cuda_version == 13000);
    assert_true(gpu->used && !run.facts.gpus[0].used);
    record_run_free(&run);
}

static void a_damaged_or_missing_fragment_is_left_out_and_the_run_is_incomplete(void **state) {
    const char *ids[] = {"good", "bad", "missing"};
    struct case_result r;
    struct run_facts facts = some_facts();
    struct record_run run;
    char path[600];
    int damaged = -1;
    for (int i = 0; i < 2; i++) {
        make_case(&r, ids[i]);
        assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
        result_free(&r);
    }
    assert_int_equal(truncate(in_folder(path, *state, "case-bad.h5"), 3000), 0);
    in_folder(path, *state, "run.h5");
    assert_int_equal(record_merge(*state, path, &facts, ids, 3, true, &damaged, NULL), STATUS_OK);
    assert_int_equal(damaged, 2);
    assert_int_equal(record_read_run(path, &run, NULL), STATUS_OK);
    assert_int_equal(run.n, 1);
    assert_false(run.complete);
    record_run_free(&run);
}

static void a_run_without_cases_reads_back(void **state) {
    struct run_facts facts = some_facts();
    struct record_run run;
    char path[600];
    int damaged;
    in_folder(path, *state, "run.h5");
    assert_int_equal(record_merge(*state, path, &facts, NULL, 0, false, &damaged, NULL), STATUS_OK);
    assert_int_equal(record_read_run(path, &run, NULL), STATUS_OK);
    assert_int_equal(run.n, 0);
    record_run_free(&run);
}

static void updated_checks_change_nothing_else(void **state) {
    struct case_result r, back;
    char path[600];
    make_case(&r, "one");
    assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
    r.check[CHECK_INVARIANCE].verdict = VERDICT_FAILED;
    strcpy(r.check[CHECK_INVARIANCE].detail, "differs from two at token 1");
    struct case_result only_checks = {.check = {{0}}};
    strcpy(only_checks.id, "one");
    memcpy(only_checks.check, r.check, sizeof r.check);
    assert_int_equal(record_update_checks(*state, &only_checks, NULL), STATUS_OK);
    in_folder(path, *state, "case-one.h5");
    assert_int_equal(record_read_case(path, "one", true, &back, NULL), STATUS_OK);
    assert_same_case(&r, &back);
    assert_same_spans(&r, &back);
    result_free(&back);
    result_free(&r);
}

/* What loading took is not recording's. */
static void assert_overhead(const char *path, int64_t ns) {
    struct h5 h = {.path = path};
    const h5_id file = h5_open(&h), cases = h5_open_group(&h, file, "case");
    const h5_id one = h5_open_group(&h, cases, "one"), trace = h5_open_group(&h, one, "trace");
    assert_int_equal(h5_read_int_attribute(&h, trace, "overhead"), ns);
    h5_close_group(trace), h5_close_group(one), h5_close_group(cases);
    h5_close(&h, file);
    assert_int_equal(h.status, STATUS_OK);
}

/* Into a fragment that is there; a second time in the place of the first. */
static void kernels_that_come_later_change_nothing_else(void **state) {
    struct case_result r, only_kernels = {.tp = RANKS}, back;
    struct error err = {""};
    char path[600];
    make_case(&r, "one");
    assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
    strcpy(only_kernels.id, "one");
    only_kernels.kernel_trace.wanted = true;
    strcpy(only_kernels.kernel_trace.note, "no CUPTI");
    in_folder(path, *state, "case-one.h5");
    for (int i = 0; i < 2; i++) {
        if (i > 0) add_kernels(&only_kernels);
        if (record_update_trace(*state, &only_kernels, &err) != STATUS_OK) fail_msg("%s", err.text);
        if (record_read_case(path, "one", true, &back, &err) != STATUS_OK) fail_msg("%s", err.text);
        assert_same_case(&r, &back);
        assert_same_spans(&r, &back);
        assert_same_kernels(&only_kernels, &back);
        result_free(&back);
    }
    assert_overhead(path, 10);
    assert_int_equal(record_read_case(path, "one", false, &back, NULL), STATUS_OK);
    assert_true(back.kernel_trace.wanted); /* its facts alone */
    assert_int_equal(back.kernel_trace.log.n_kernels, 0);
    assert_int_equal(back.kernel_trace.log.dropped, 3);
    result_free(&back);
    result_free(&only_kernels);
    result_free(&r);
}

/* ---- disks that refuse ---- */

static int files_in(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void a_full_disk_is_an_error_and_keeps_the_old_file(void **state) {
    struct case_result r, back;
    struct error err = {""};
    char path[600], temporary[600];
    make_case(&r, "one");
    assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
    in_folder(temporary, *state, "case-one.h5.tmp");
    assert_int_equal(symlink("/dev/full", temporary), 0);
    assert_int_equal(record_write_case(*state, &r, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "case-one.h5.tmp: cannot write"));
    assert_non_null(strstr(err.text, strerror(ENOSPC)));
    assert_int_equal(files_in(*state), 1);
    in_folder(path, *state, "case-one.h5");
    assert_int_equal(record_read_case(path, NULL, false, &back, NULL), STATUS_OK);
    result_free(&back);
    result_free(&r);
}

/* In a child: 0 when the write failed as it should. */
static int write_under_limit(const char *dir, const struct case_result *r) {
    struct rlimit limit = {4096, 4096};
    struct error err = {""};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    if (record_write_case(dir, r, &err) != STATUS_IO) return 1;
    return strstr(err.text, strerror(EFBIG)) ? 0 : 2;
}

static void a_file_size_limit_leaves_no_file_behind(void **state) {
    struct case_result r;
    int how = 0;
    make_case(&r, "one");
    pid_t child = fork();
    if (child == 0) _exit(write_under_limit(*state, &r));
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_int_equal(files_in(*state), 0);
    result_free(&r);
}

static void a_folder_that_takes_no_files_is_named(void **state) {
    struct case_result r;
    struct error err = {""};
    struct run_facts facts = some_facts();
    int damaged;
    make_case(&r, "one");
    assert_int_equal(record_write_case("/proc", &r, &err), STATUS_IO); /* also refuses root */
    assert_non_null(strstr(err.text, "/proc/case-one.h5.tmp: cannot create: "));
    assert_int_equal(record_write_case("/dev/null", &r, &err), STATUS_IO);
    assert_non_null(strstr(err.text, strerror(ENOTDIR)));
    assert_int_equal(record_merge(*state, "/proc/run.h5", &facts, NULL, 0, true, &damaged, &err),
                     STATUS_IO);
    assert_non_null(strstr(err.text, "/proc/run.h5"));
    result_free(&r);
}

/* ---- files from anywhere ---- */

static void assert_refused(const char *path, const char *because) {
    struct record_run run;
    struct error err = {""};
    assert_int_equal(record_read_run(path, &run, &err), STATUS_IO);
    if (!strstr(err.text, because)) print_error("expected \"%s\" in \"%s\"\n", because, err.text);
    assert_non_null(strstr(err.text, because));
    assert_non_null(strstr(err.text, path));
}

static void what_is_no_result_is_refused_with_its_reason(void **state) {
    char path[600];
    assert_refused(in_folder(path, *state, "nowhere.h5"), strerror(ENOENT));
    assert_refused(*state, "not a regular file");
    in_folder(path, *state, "text.h5");
    FILE *f = fopen(path, "w");
    assert_true(f && fputs("not HDF5 at all\n", f) >= 0 && fclose(f) == 0);
    assert_refused(path, "as an HDF5 file");
    assert_int_equal(truncate(path, 0), 0);
    assert_refused(path, "as an HDF5 file");
}

static void write_foreign(const char *path, const char *schema, int64_t version) {
    struct h5 h = {.path = path};
    h5_id file = h5_create(&h);
    if (schema) h5_write_text_attribute(&h, file, "schema", schema);
    h5_write_int_attribute(&h, file, "schema_version", version);
    h5_write_int_attribute(&h, file, "complete", 1);
    assert_int_equal(h5_finish(&h, file), STATUS_OK);
}

static void other_schemas_are_refused_by_name(void **state) {
    char path[600];
    in_folder(path, *state, "foreign.h5");
    write_foreign(path, "chunkbench", 2);
    assert_refused(path, "its schema version is 2, this program reads version 1");
    write_foreign(path, "weather", 1);
    assert_refused(path, "not a result of bench");
    write_foreign(path, NULL, 1);
    assert_refused(path, "schema");
    write_foreign(path, "chunkbench", 1);
    assert_refused(path, "created_utc");
}

/* Short ones stand in the header of their dataset, long ones beside it. */
static void texts_of_any_length_read_back(void **state) {
    static const size_t lengths[] = {0, 1, 59999, 60000, 65535, 65536, 1 << 20};
    enum { N = sizeof lengths / sizeof *lengths };
    char path[600], *text = calloc((1 << 20) + 1, 1), name[12];
    struct error err = {""};
    in_folder(path, *state, "texts.h5");
    for (size_t i = 0; i < 1 << 20; i++) text[i] = (char)('a' + i % 23);
    struct h5 h = {.path = path, .err = &err};
    h5_id file = h5_create(&h);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "%d", i);
        const char kept = text[lengths[i]];
        text[lengths[i]] = 0;
        h5_write_text(&h, file, name, text);
        text[lengths[i]] = kept;
    }
    assert_int_equal(h5_finish(&h, file), STATUS_OK);
    struct h5 back = {.path = path, .err = &err};
    file = h5_open(&back);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "%d", i);
        char *got = h5_read_text(&back, file, name);
        assert_non_null(got);
        assert_int_equal(strlen(got), lengths[i]);
        assert_memory_equal(got, text, lengths[i]);
        free(got);
    }
    h5_close(&back, file);
    assert_int_equal(back.status, STATUS_OK);
    free(text);
}

/* A table whose parts contradict each other: rows in the attribute, in one column, in the other. */
static enum status read_contradiction(const char *path, int64_t claimed, int64_t a, int64_t b,
                                      struct error *err) {
    struct pair {
        int64_t a, b;
    } pairs[8] = {{0, 0}};
    static const struct column columns[] = {{"a", SIGNED, FIELD(pair, a), "1", ""},
                                            {"b", SIGNED, FIELD(pair, b), "1", ""}};
    struct h5 h = {.path = path, .err = err};
    h5_id file = h5_create(&h), g = h5_create_group(&h, file, "t");
    h5_write_int_attribute(&h, g, "rows", claimed);
    h5_write_column(&h, g, &columns[0], pairs, sizeof *pairs, a);
    h5_write_column(&h, g, &columns[1], pairs, sizeof *pairs, b);
    h5_close_group(g);
    assert_int_equal(h5_finish(&h, file), STATUS_OK);
    struct h5 back = {.path = path, .err = err};
    int64_t n;
    file = h5_open(&back);
    void *rows = h5_read_table(&back, file, "t", columns, 2, sizeof *pairs, &n, &g);
    assert_true((rows != NULL) == (back.status == STATUS_OK));
    free(rows);
    h5_close_group(g);
    h5_close(&back, file);
    return back.status;
}

static void columns_of_unequal_length_are_refused(void **state) {
    char path[600];
    struct error err = {""};
    in_folder(path, *state, "t.h5");
    assert_int_equal(read_contradiction(path, 5, 5, 5, &err), STATUS_OK);
    assert_int_equal(read_contradiction(path, 6, 5, 5, &err), STATUS_IO);
    assert_int_equal(read_contradiction(path, 5, 5, 4, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "number of rows"));
    assert_int_equal(read_contradiction(path, -1, 5, 5, &err), STATUS_IO);
    assert_int_equal(read_contradiction(path, INT64_MAX, 5, 5, &err), STATUS_IO);
}

/* ---- a campaign of bit flips and cuts ---- */

static char *read_bytes(const char *path, long *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = ftell(f);
    rewind(f);
    char *bytes = malloc((size_t)*n);
    assert_true(bytes && fread(bytes, 1, (size_t)*n, f) == (size_t)*n && fclose(f) == 0);
    return bytes;
}

static void write_bytes_to(const char *path, const char *bytes, long n) {
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(bytes, 1, (size_t)n, f) == (size_t)n && fclose(f) == 0);
}

static uint32_t next_random(uint32_t *x) {
    *x ^= *x << 13, *x ^= *x >> 17, *x ^= *x << 5;
    return *x;
}

static void mutated_files_are_read_or_refused_never_fatal(void **state) {
    enum { MUTATIONS = 300 };
    const char *ids[] = {"one"};
    struct case_result r;
    struct run_facts facts = some_facts();
    struct error err = {""};
    char path[600];
    int damaged, refused = 0, crashes = 0;
    long n;
    uint32_t x = 2463534242u;
    make_case(&r, "one");
    add_kernels(&r);
    assert_int_equal(record_write_case(*state, &r, NULL), STATUS_OK);
    result_free(&r);
    in_folder(path, *state, "run.h5");
    assert_int_equal(record_merge(*state, path, &facts, ids, 1, true, &damaged, NULL), STATUS_OK);
    char *good = read_bytes(path, &n), *bad = malloc((size_t)n);
    assert_non_null(bad);
    for (int i = 0; i < MUTATIONS; i++) {
        long size = i % 10 == 9 ? (long)(next_random(&x) % (uint32_t)n) : n;
        memcpy(bad, good, (size_t)n);
        for (int flips = i % 10 == 9 ? 0 : 1 + i % 3; flips > 0; flips--) {
            uint32_t at = next_random(&x) % (uint32_t)n, bit = next_random(&x) % 8;
            bad[at] = (char)(bad[at] ^ 1 << bit);
        }
        write_bytes_to(path, bad, size);
        struct record_run run;
        enum status s = record_read_run(path, &run, &err);
        assert_true(s == STATUS_OK || s == STATUS_IO || s == STATUS_NO_MEMORY);
        if (s == STATUS_OK) record_run_free(&run);
        refused += s != STATUS_OK;
        s = record_read_case(path, "one", true, &r, NULL); /* with spans and kernels */
        assert_true(s == STATUS_OK || s == STATUS_IO || s == STATUS_NO_MEMORY);
        if (s == STATUS_OK) result_free(&r);
        crashes +=
            s != STATUS_OK && strstr(err.text, "the HDF5 library") && strstr(err.text, " on it");
    }
    print_message("%d of %d mutations refused, %d of them after a crash of libhdf5 in the child\n",
                  refused, MUTATIONS, crashes);
    assert_true(refused > MUTATIONS / 10); /* every truncation at least */
    free(bad);
    free(good);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_case_reads_back_as_it_was_written),
        TEST(a_case_without_rows_reads_back),
        TEST(a_merged_run_has_its_cases_in_order_and_its_facts),
        TEST(a_damaged_or_missing_fragment_is_left_out_and_the_run_is_incomplete),
        TEST(a_run_without_cases_reads_back),
        TEST(updated_checks_change_nothing_else),
        TEST(kernels_that_come_later_change_nothing_else),
        TEST(a_full_disk_is_an_error_and_keeps_the_old_file),
        TEST(a_file_size_limit_leaves_no_file_behind),
        TEST(a_folder_that_takes_no_files_is_named),
        TEST(what_is_no_result_is_refused_with_its_reason),
        TEST(other_schemas_are_refused_by_name),
        TEST(texts_of_any_length_read_back),
        TEST(columns_of_unequal_length_are_refused),
        TEST(mutated_files_are_read_or_refused_never_fatal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
