/* FLOP and bytes of each op against numbers worked out by hand on small shapes. */
#include "kernels/cost.h"
#include "kernels/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void check(struct op_call call, const struct step_params *step, int64_t flops,
                  int64_t bytes) {
    struct cost c = op_cost(&call, step);
    assert_int_equal(c.flops, flops);
    assert_int_equal(c.bytes, bytes);
}

static char some; /* a pointer that is not NULL and never followed */

static void pairs_are_the_sum_over_rows(void **state) {
    (void)state;
    const int64_t starts[] = {0, 1, 7, 128, 1000}, rows[] = {0, 1, 2, 3, 127, 128, 129};
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            int64_t sum = 0;
            for (int64_t p = starts[s]; p < starts[s] + rows[r]; p++) sum += p + 1;
            assert_int_equal(attention_pairs(starts[s], rows[r]), sum);
        }
    }
}

static void pairs_of_the_chunks_add_up_to_the_prompt(void **state) {
    (void)state;
    const int64_t prompt = 10007, chunks[] = {1, 128, 1000, 8192, 20000};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        int64_t sum = 0;
        for (int64_t at = 0; at < prompt; at += chunks[i])
            sum += attention_pairs(at, prompt - at < chunks[i] ? prompt - at : chunks[i]);
        assert_int_equal(sum, 10007 * 10008 / 2);
    }
}

/* The segments of dual chunk attention hold the same keys as plain causal attention. */
static void dual_chunk_sees_as_many_pairs(void **state) {
    (void)state;
    const struct attention_pattern pattern = {128, 32};
    int64_t sum = 0;
    for (int32_t p = 100; p < 600; p++) {
        struct attention_segment s[Q_COPIES];
        int n = attention_segments(pattern, p, s);
        for (int i = 0; i < n; i++) sum += s[i].end - s[i].begin;
    }
    assert_int_equal(attention_pairs(100, 500), sum);
}

static void a_million_tokens_in_one_chunk_do_not_overflow(void **state) {
    (void)state;
    const int64_t million = 1 << 20;
    /* 2^20 (2^20 + 1) / 2 = 2^39 + 2^19 */
    assert_int_equal(attention_pairs(0, million), (INT64_C(1) << 39) + (1 << 19));
    struct attention_cost_shape s = {64, 8, 128, 3, DTYPE_BF16};
    struct cost c = attention_cost(&s, 0, million);
    assert_int_equal(c.flops, 4 * 128 * 64 * ((INT64_C(1) << 39) + (1 << 19)));
    /* 3 copies and the output: 4 * 2^20 * 8192; keys, values: 2 * 2^20 * 1024; 2 bytes each */
    assert_int_equal(c.bytes, (4 * million * 8192 + 2 * million * 1024) * 2);
    /* the wide layers of a 72b model */
    c = linear_cost(million, 59136, 8192, false, DTYPE_BF16);
    assert_int_equal(c.flops, 2 * million * 59136 * 8192);
    assert_true(c.flops > 0 && c.bytes > 0);
    struct op_call wide = {.op = OP_LOGITS,
                           .logits = {.rows = 1 << 20, .V = 152064, .C = 8192, .dtype = DTYPE_F32}};
    c = op_cost(&wide, NULL);
    assert_int_equal(c.flops, 2 * million * 152064 * 8192);
    assert_int_equal(c.bytes, 4 * (INT64_C(152064) * 8192 + million * 8192 + million * 152064));
}

static void embed_moves_rows(void **state) {
    (void)state;
    struct op_call c = {.op = OP_EMBED, .embed = {.rows = 3, .C = 5, .dtype = DTYPE_BF16}};
    check(c, NULL, 0, 3 * (5 * 2 * 2 + 4));
}

static void add_rmsnorm_counts_what_is_asked_for(void **state) {
    (void)state;
    struct op_call c = {.op = OP_ADD_RMSNORM,
                        .add_rmsnorm = {.rows = 3, .C = 5, .dtype = DTYPE_BF16}};
    c.add_rmsnorm.y = &some; /* read h, write y, read gain */
    check(c, NULL, 4 * 15, (15 + 15 + 5) * 2);
    c.add_rmsnorm.x = &some; /* and read x, write h */
    check(c, NULL, 5 * 15, (4 * 15 + 5) * 2);
    c.add_rmsnorm.y = NULL;
    c.add_rmsnorm.dtype = DTYPE_F32;
    check(c, NULL, 15, 3 * 15 * 4);
}

static void linear_counts_products_and_bias(void **state) {
    (void)state;
    struct weight w = {.shape = {.N = 7, .K = 11, .dtype = DTYPE_BF16, .bias = true}};
    struct op_call c = {.op = OP_LINEAR, .linear = {.w = &w, .rows = 3}};
    check(c, NULL, 2 * 3 * 7 * 11 + 21, (33 + 77 + 21 + 7) * 2);
    w.shape.bias = false;
    check(c, NULL, 462, (33 + 77 + 21) * 2);
}

static void rope_table_counts_angles(void **state) {
    (void)state;
    struct op_call c = {.op = OP_ROPE_TABLE, .rope_table = {.rows = 3, .D = 8, .copies = 3}};
    check(c, NULL, 3 * 36, 36 * 2 * 4 + 4 * 8);
}

static void rope_cache_counts_real_rows(void **state) {
    (void)state;
    const struct step_params step = {.n_tokens = 2};
    struct op_call c = {.op = OP_ROPE_CACHE,
                        .rope_cache = {.rows = 3, .H = 4, .D = 8, .copies = 1}};
    c.rope_cache.kv.heads = 2;
    c.rope_cache.dtype = DTYPE_BF16;
    /* keys and values: 2 rows, 2 heads of 8 = 32 each; 8 operations a pair; read and written */
    check(c, &step, 16 * 8, 4 * 32 * 2 + 2 * 4 * 2 * 4);
    /* and queries: 2 rows, 4 heads of 8 = 64; 6 operations a pair and copy; read once */
    c.rope_cache.q[0] = &some;
    check(c, &step, 128 + 32 * 6, (128 + 64 + 64) * 2 + 64);
    c.rope_cache.copies = 3;
    check(c, &step, 128 + 3 * 32 * 6, (128 + 64 + 3 * 64) * 2 + 3 * 64);
}

static void attention_counts_the_keys_that_rows_see(void **state) {
    (void)state;
    const struct step_params step = {.q_start = 10, .n_tokens = 2, .kv_len = 12};
    struct op_call c = {
        .op = OP_ATTENTION,
        .attention = {.q = {&some}, .rows = 5, .H = 4, .D = 8, .dtype = DTYPE_BF16}};
    c.attention.kv.heads = 2;
    /* 11 + 12 pairs, 2 * 8 operations for the score and as many for the sum, 4 heads */
    check(c, &step, 23 * 32 * 4, (64 + 64 + 2 * 12 * 16) * 2);
    c.attention.q[1] = c.attention.q[2] = &some;
    check(c, &step, 23 * 32 * 4, (3 * 64 + 64 + 2 * 12 * 16) * 2);
    assert_ptr_equal(op_step(&c), c.attention.step);
}

static void swiglu_reads_two_and_writes_one(void **state) {
    (void)state;
    struct op_call c = {.op = OP_SWIGLU, .swiglu = {.rows = 3, .F = 7, .dtype = DTYPE_BF16}};
    check(c, NULL, 5 * 21, 3 * 21 * 2);
}

static void all_reduce_adds_one_less_than_ranks(void **state) {
    (void)state;
    struct op_call c = {.op = OP_ALL_REDUCE,
                        .all_reduce = {.ranks = 4, .rows = 3, .C = 5, .dtype = DTYPE_BF16}};
    check(c, NULL, 3 * 15, 5 * 15 * 2);
}

static void an_exchange_counts_what_passes(void **state) {
    (void)state;
    struct op_call c = {.op = OP_EXCHANGE};
    c.exchange = (struct exchange_args){.send = {{&some, 24, 1}}, .sends = 1, .receives = 1};
    c.exchange.receive[0] = (struct exchange_part){&some, 16, 1};
    check(c, NULL, 0, 40);
}

/* As much as the parts and then the sums of other devices: three quarters out and in, twice. */
static void a_librarys_sum_counts_what_a_ring_passes(void **state) {
    (void)state;
    struct op_call c = {.op = OP_EXCHANGE};
    c.exchange.sum = (struct exchange_sum){&some, &some, 100, 4, DTYPE_BF16};
    check(c, NULL, 75, 4 * 75 * 2);
}

static void logits_are_f32(void **state) {
    (void)state;
    struct op_call c = {.op = OP_LOGITS,
                        .logits = {.rows = 2, .V = 10, .C = 4, .dtype = DTYPE_BF16}};
    check(c, NULL, 2 * 2 * 10 * 4, (40 + 8) * 2 + 20 * 4);
}

static void sample_reads_logits_and_the_set(void **state) {
    (void)state;
    struct op_call c = {.op = OP_SAMPLE, .sample = {.V = 33}};
    check(c, NULL, 99, 33 * 4 + 2 * 4);
}

static void tap_counts_the_rows_that_are_asked_for(void **state) {
    (void)state;
    const struct step_params step = {.tap_row = {-1, 0, 5, -1, -1, -1, 2, -1}};
    struct op_call c = {.op = OP_TAP, .tap = {.n = 6, .step = &step, .dtype = DTYPE_BF16}};
    check(c, op_step(&c), 0, 2 * 3 * 6 * 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_the_sum_over_rows),
        cmocka_unit_test(pairs_of_the_chunks_add_up_to_the_prompt),
        cmocka_unit_test(dual_chunk_sees_as_many_pairs),
        cmocka_unit_test(a_million_tokens_in_one_chunk_do_not_overflow),
        cmocka_unit_test(embed_moves_rows),
        cmocka_unit_test(add_rmsnorm_counts_what_is_asked_for),
        cmocka_unit_test(linear_counts_products_and_bias),
        cmocka_unit_test(rope_table_counts_angles),
        cmocka_unit_test(rope_cache_counts_real_rows),
        cmocka_unit_test(attention_counts_the_keys_that_rows_see),
        cmocka_unit_test(swiglu_reads_two_and_writes_one),
        cmocka_unit_test(all_reduce_adds_one_less_than_ranks),
        cmocka_unit_test(an_exchange_counts_what_passes),
        cmocka_unit_test(a_librarys_sum_counts_what_a_ring_passes),
        cmocka_unit_test(logits_are_f32),
        cmocka_unit_test(sample_reads_logits_and_the_set),
        cmocka_unit_test(tap_counts_the_rows_that_are_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
