/* Sums over ranks on several devices, in rank order and by a library: what is asked of the devices,
 * played here on arrays, leaves every device with the sum of all parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/comm.h"
#include "kernels/op_memory.h"

enum { ROWS = 7, COLS = 4, ELEMENTS = ROWS * COLS, TP = 8, CALLS = 8 };

/* What a device was asked for. */
struct asked {
    struct op_call call[CALLS];
    int n;
};

struct member {
    float part[TP][ELEMENTS]; /* its ranks' parts, and room for its slice of the others' */
    float apart[ELEMENTS];
    float *out; /* apart, or its first rank's part */
    struct asked asked;
};

static const struct model_config model = {.C = COLS};

static enum status keep(void *ctx, const struct op_call *call, const struct weight_shape *linear,
                        struct error *err) {
    struct asked *a = ctx;
    (void)linear, (void)err;
    assert_true(a->n < CALLS);
    a->call[a->n++] = *call;
    return STATUS_OK;
}

static float value(int rank, int i) {
    return (float)((rank + 1) * 1000 + i); /* any order gives the same sum */
}

static void ask(const struct comm *comm, struct member *m, struct ranks ranks, bool in_place,
                uint8_t aside) {
    void *partial[TP];
    const struct forward f = {.m = &model, .ranks = ranks, .dtype = DTYPE_F32};
    const struct op_sink sink = {keep, &m->asked};
    m->asked.n = 0;
    for (int r = 0; r < ranks.tp; r++) {
        partial[r] = m->part[r];
        for (int i = 0; i < ELEMENTS; i++)
            m->part[r][i] = r >= ranks.begin && r < ranks.end ? value(r, i) : -1;
    }
    m->out = in_place ? m->part[ranks.begin] : m->apart;
    const struct reduction r = {.partial = partial,
                                .out = m->out,
                                .rows = ROWS,
                                .role = ROLE_DOWN,
                                .layer = 3,
                                .aside = aside};
    assert_int_equal(comm->all_reduce(&f, &r, &sink, NULL), STATUS_OK);
    for (int i = 0; i < m->asked.n; i++) {
        assert_int_equal(m->asked.call[i].layer, 3);
        assert_int_equal(m->asked.call[i].aside, aside);
        assert_int_equal(m->asked.call[i].rank, SHARED_RANK);
    }
}

static void play_reduce(const struct all_reduce_args *a) {
    float sum[ELEMENTS];
    for (int i = 0; i < a->rows * a->C; i++) {
        sum[i] = ((const float *)a->partial[0])[i];
        for (int r = 1; r < a->ranks; r++) sum[i] += ((const float *)a->partial[r])[i];
    }
    memcpy(a->out, sum, (size_t)(a->rows * a->C) * sizeof *sum);
}

static void play_sum(struct op_call *const *calls, int devices) {
    float sum[ELEMENTS] = {0};
    for (int d = 0; d < devices; d++) {
        const struct exchange_sum *s = &calls[d]->exchange.sum;
        assert_int_equal(s->elements, ELEMENTS);
        assert_int_equal(s->devices, devices);
        assert_int_equal(s->dtype, DTYPE_F32);
        for (int i = 0; i < ELEMENTS; i++) sum[i] += ((const float *)s->in)[i];
    }
    for (int d = 0; d < devices; d++) memcpy(calls[d]->exchange.sum.out, sum, sizeof sum);
}

/* The k-th send from one to the other is the k-th receive there. */
static void play_parts(struct op_call *const *calls, int devices) {
    for (int from = 0; from < devices; from++)
        for (int to = 0; to < devices; to++) {
            const struct exchange_args *s = &calls[from]->exchange, *r = &calls[to]->exchange;
            int at = 0;
            for (int i = 0; i < s->sends; i++) {
                if (s->send[i].peer != to) continue;
                while (at < r->receives && r->receive[at].peer != from) at++;
                assert_true(at < r->receives && r->receive[at].bytes == s->send[i].bytes);
                memcpy(r->receive[at++].at, s->send[i].at, (size_t)s->send[i].bytes);
            }
        }
}

/* The next exchange of a device, after the sums before it; NULL past the last. A device whose slice
 * has no rows takes no sum. */
static struct op_call *next_exchange(struct asked *a, int *at) {
    for (; *at < a->n && a->call[*at].op == OP_ALL_REDUCE; ++*at)
        play_reduce(&a->call[*at].all_reduce);
    return *at < a->n ? &a->call[(*at)++] : NULL;
}

/* Exchange by exchange, all devices together. */
static void play(struct member *m, int devices) {
    int at[TP] = {0};
    for (;;) {
        struct op_call *calls[TP] = {NULL};
        for (int d = 0; d < devices; d++) calls[d] = next_exchange(&m[d].asked, &at[d]);
        for (int d = 0; d < devices; d++) assert_int_equal(!calls[d], !calls[0]);
        if (!calls[0]) return;
        assert_int_equal(calls[0]->op, OP_EXCHANGE);
        if (calls[0]->exchange.sum.elements > 0)
            play_sum(calls, devices);
        else
            play_parts(calls, devices);
    }
}

static void sums_over(const struct comm *comm, int tp, int devices, bool in_place) {
    struct member *m = calloc((size_t)devices, sizeof *m);
    assert_non_null(m);
    for (int d = 0; d < devices; d++) ask(comm, &m[d], ranks_of(tp, devices, d), in_place, 2);
    play(m, devices);
    for (int d = 0; d < devices; d++)
        for (int i = 0; i < ELEMENTS; i++) {
            float sum = 0;
            for (int r = 0; r < tp; r++) sum += value(r, i);
            assert_true(m[d].out[i] == sum);
        }
    free(m);
}

static void every_device_gets_the_sum(void **state) {
    (void)state;
    for (int devices = 2; devices <= TP; devices *= 2)
        for (int tp = devices; tp <= TP; tp *= 2)
            for (int in_place = 0; in_place < 2; in_place++) {
                sums_over(&comm_group, tp, devices, in_place);
                sums_over(&comm_library, tp, devices, in_place);
            }
}

/* One call of it where a device is a rank, and the ranks of a device before it. */
static void a_library_is_asked_once(void **state) {
    static struct member m;
    (void)state;
    ask(&comm_library, &m, ranks_of(4, 4, 1), true, 0);
    assert_int_equal(m.asked.n, 1);
    assert_int_equal(m.asked.call[0].op, OP_EXCHANGE);
    assert_int_equal(m.asked.call[0].role, ROLE_SUM);
    assert_ptr_equal(m.asked.call[0].exchange.sum.in, m.part[1]);
    ask(&comm_library, &m, ranks_of(8, 4, 1), true, 0);
    assert_int_equal(m.asked.n, 2);
    assert_int_equal(m.asked.call[0].op, OP_ALL_REDUCE);
    assert_int_equal(m.asked.call[0].all_reduce.ranks, 2);
    assert_ptr_equal(m.asked.call[1].exchange.sum.in, m.asked.call[0].all_reduce.out);
}

/* For whoever tells how long buffers are needed: each is read and written whole. */
static void a_librarys_sum_reads_a_part_and_writes_the_sum(void **state) {
    static struct member m;
    struct op_region region[OP_REGIONS_MAX];
    (void)state;
    ask(&comm_library, &m, ranks_of(2, 2, 1), false, 0);
    assert_int_equal(op_memory(&m.asked.call[0], NULL, NULL, region), 2);
    assert_ptr_equal(region[0].at, m.part[1]);
    assert_ptr_equal(region[1].at, m.apart);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(region[i].written, i == 1);
        assert_int_equal(region[i].rows * region[i].row_bytes, sizeof m.apart);
    }
}

static void who_sums_goes_by_the_exchange(void **state) {
    (void)state;
    assert_ptr_equal(comm_of(ranks_of(4, 1, 0), "nccl_sum"), &comm_local);
    assert_ptr_equal(comm_of(ranks_of(4, 2, 0), "auto"), &comm_group);
    assert_ptr_equal(comm_of(ranks_of(4, 2, 0), "ref"), &comm_group);
    assert_ptr_equal(comm_of(ranks_of(4, 2, 0), NULL), &comm_group);
#ifdef HAVE_CUDA
    assert_ptr_equal(comm_of(ranks_of(4, 2, 0), "nccl"), &comm_group);
    assert_ptr_equal(comm_of(ranks_of(4, 2, 0), "nccl_sum"), &comm_library);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_gets_the_sum),
        cmocka_unit_test(a_library_is_asked_once),
        cmocka_unit_test(a_librarys_sum_reads_a_part_and_writes_the_sum),
        cmocka_unit_test(who_sums_goes_by_the_exchange),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
