/* Devices of a group exchange memory: what the k-th send sends the k-th receive gets, whoever comes
 * first; a group that ends lets nobody wait. Members are threads here; test_rendezvous.c has them
 * in processes. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/backend.h"

enum { MEMBERS = 4, ROUNDS = 200, WORDS = 3 };

struct member {
    struct device_group *group;
    int number, members;
    bool stops_before_last; /* of the rounds */
    bool stays_away;        /* ends the group instead of joining it */
    int32_t out[MAX_RANKS][2][WORDS], in[MAX_RANKS][2][WORDS];
    int rounds; /* that went well */
    enum status status;
    struct error err;
    pthread_t thread;
};

/* Two parts to each peer, of different lengths; the second is listed first of all. */
static struct op_call exchange_of(struct member *m) {
    struct op_call call = {.op = OP_EXCHANGE, .rank = SHARED_RANK, .layer = -1};
    struct exchange_args *a = &call.exchange;
    for (int part = 0; part < 2; part++)
        for (int p = 0; p < m->members; p++) {
            const int64_t bytes = (part + 2) * (int64_t)sizeof(int32_t);
            if (p == m->number) continue;
            a->send[a->sends++] = (struct exchange_part){m->out[p][part], bytes, p};
            a->receive[a->receives++] = (struct exchange_part){m->in[p][part], bytes, p};
        }
    return call;
}

static int32_t word(int round, int from, int to, int part, int w) {
    return (((round * 16 + from) * 16 + to) * 2 + part) * WORDS + w;
}

static bool round_is_right(const struct member *m, int round) {
    for (int p = 0; p < m->members; p++)
        for (int part = 0; part < 2; part++)
            for (int w = 0; w < part + 2 && p != m->number; w++)
                if (m->in[p][part][w] != word(round, p, m->number, part, w)) return false;
    return true;
}

static void run_rounds(struct member *m, struct device *dev) {
    const struct op_call call = exchange_of(m);
    for (int round = 0; round < ROUNDS && m->status == STATUS_OK; round++) {
        if (m->stops_before_last && round == ROUNDS - 1) {
            nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
            device_group_abort(m->group);
        }
        for (int p = 0; p < m->members; p++)
            for (int part = 0; part < 2; part++)
                for (int w = 0; w < WORDS; w++)
                    m->out[p][part][w] = word(round, m->number, p, part, w);
        m->status = device_run(dev, &call, &m->err);
        if (m->status == STATUS_OK) m->rounds += round_is_right(m, round);
    }
    if (m->status == STATUS_OK) m->status = device_sync(dev, &m->err);
}

static enum status join(struct member *m, struct device *dev) {
    if (!m->stays_away) return device_join(dev, m->group, m->number, &m->err);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    device_group_abort(m->group);
    return error_set(&m->err, STATUS_NO_MEMORY, "no room");
}

static void *live(void *arg) {
    struct member *m = arg;
    struct device_opts o = device_opts_defaults();
    struct device *dev;
    o.threads = 1;
    m->status = device_open(&dev, &o, &m->err);
    if (m->status != STATUS_OK) return NULL;
    m->status = join(m, dev);
    if (m->status == STATUS_OK) run_rounds(m, dev);
    device_leave(dev);
    device_close(dev);
    return NULL;
}

static void meet(struct member *m, const char *exchange, int members, int stops, int away) {
    struct device_group *g;
    const struct group_opts o = {.kind = DEVICE_CPU, .members = members, .exchange = exchange};
    assert_int_equal(device_group_open(&g, &o, NULL), STATUS_OK);
    memset(m, 0, (size_t)members * sizeof *m);
    for (int i = 0; i < members; i++) {
        m[i].group = g, m[i].number = i, m[i].members = members;
        m[i].stops_before_last = i == stops, m[i].stays_away = i == away;
        assert_int_equal(pthread_create(&m[i].thread, NULL, live, &m[i]), 0);
    }
    for (int i = 0; i < members; i++) pthread_join(m[i].thread, NULL);
    device_group_close(g);
}

static const char *const exchanges[] = {"ref", "shared"};
enum { EXCHANGES = sizeof exchanges / sizeof *exchanges };

static void everyone_gets_what_was_sent(void **state) {
    static struct member m[MEMBERS];
    (void)state;
    for (int e = 0; e < EXCHANGES; e++)
        for (int members = 2; members <= MEMBERS; members++) {
            meet(m, exchanges[e], members, -1, -1);
            for (int i = 0; i < members; i++) {
                assert_int_equal(m[i].status, STATUS_OK);
                assert_int_equal(m[i].rounds, ROUNDS);
            }
        }
}

/* ---- long parts, which do not pass in one piece */

enum { LONG_WORDS = 200001, SHORT_WORDS = 3 };
struct long_member {
    struct device_group *group;
    int number;
    int32_t *out, *in; /* [LONG_WORDS + SHORT_WORDS] */
    enum status status;
    pthread_t thread;
};

/* Member 0 sends much and gets little. */
static void *live_long(void *arg) {
    struct long_member *m = arg;
    struct device_opts o = device_opts_defaults();
    struct device *dev;
    struct op_call call = {.op = OP_EXCHANGE, .rank = SHARED_RANK, .layer = -1};
    struct exchange_args *a = &call.exchange;
    const int64_t much = LONG_WORDS * (int64_t)sizeof(int32_t), little = SHORT_WORDS * 4;
    const int peer = 1 - m->number;
    o.threads = 1;
    m->status = device_open(&dev, &o, NULL);
    if (m->status != STATUS_OK) return NULL;
    for (int i = 0; m->number == 0 && i < LONG_WORDS + SHORT_WORDS; i++) m->out[i] = i;
    a->send[a->sends++] = (struct exchange_part){m->out, little, peer};
    a->receive[a->receives++] = (struct exchange_part){m->in, little, peer};
    if (m->number == 0)
        a->send[a->sends++] = (struct exchange_part){m->out + SHORT_WORDS, much, peer};
    else
        a->receive[a->receives++] = (struct exchange_part){m->in + SHORT_WORDS, much, peer};
    m->status = device_join(dev, m->group, m->number, NULL);
    if (m->status == STATUS_OK) m->status = device_run(dev, &call, NULL);
    device_leave(dev);
    device_close(dev);
    return NULL;
}

static void long_parts_arrive_whole(void **state) {
    (void)state;
    for (int e = 0; e < EXCHANGES; e++) {
        const struct group_opts o = {.kind = DEVICE_CPU, .members = 2, .exchange = exchanges[e]};
        struct long_member m[2] = {{.number = 0}, {.number = 1}};
        struct device_group *g;
        assert_int_equal(device_group_open(&g, &o, NULL), STATUS_OK);
        for (int i = 0; i < 2; i++) {
            m[i].group = g;
            m[i].out = calloc(LONG_WORDS + SHORT_WORDS, sizeof *m[i].out);
            m[i].in = calloc(LONG_WORDS + SHORT_WORDS, sizeof *m[i].in);
            assert_int_equal(pthread_create(&m[i].thread, NULL, live_long, &m[i]), 0);
        }
        for (int i = 0; i < 2; i++) pthread_join(m[i].thread, NULL);
        for (int i = 0; i < LONG_WORDS + SHORT_WORDS; i++) assert_int_equal(m[1].in[i], i);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(m[i].status, STATUS_OK);
            free(m[i].out);
            free(m[i].in);
        }
        device_group_close(g);
    }
}

/* The others are in the exchange already when one ends it. It comes there, too, last of all: what
 * they showed is gone by then, and it gets nothing. */
static void nobody_waits_for_a_member_that_ended(void **state) {
    static struct member m[MEMBERS];
    (void)state;
    for (int e = 0; e < EXCHANGES; e++) {
        meet(m, exchanges[e], MEMBERS, 2, -1);
        for (int i = 0; i < MEMBERS; i++) {
            assert_int_equal(m[i].status, STATUS_RUN_FAILED);
            assert_int_equal(m[i].rounds, ROUNDS - 1);
            assert_true(round_is_right(&m[i], ROUNDS - 2));
            assert_non_null(strstr(m[i].err.text, "another device"));
        }
    }
}

static void nobody_waits_for_a_member_that_does_not_join(void **state) {
    static struct member m[MEMBERS];
    (void)state;
    for (int e = 0; e < EXCHANGES; e++) {
        meet(m, exchanges[e], MEMBERS, -1, 1);
        for (int i = 0; i < MEMBERS; i++)
            assert_int_equal(m[i].status, i == 1 ? STATUS_NO_MEMORY : STATUS_RUN_FAILED);
    }
}

static void what_serves_processes_is_not_what_threads_need(void **state) {
    struct group_opts o = {.kind = DEVICE_CPU, .members = 2, .exchange = "ref", .apart = true};
    struct device_group *g;
    struct error err = {""};
    (void)state;
    assert_int_equal(device_group_open(&g, &o, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "ref: its devices are threads of one process"));
}

static void a_device_without_a_group_has_no_exchange(void **state) {
    struct device_opts o = device_opts_defaults();
    struct device *dev;
    struct device_info info;
    (void)state;
    o.threads = 1;
    assert_int_equal(device_open(&dev, &o, NULL), STATUS_OK);
    device_info(dev, &info);
    assert_null(info.variant[OP_EXCHANGE]);
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_what_was_sent),
        cmocka_unit_test(long_parts_arrive_whole),
        cmocka_unit_test(nobody_waits_for_a_member_that_ended),
        cmocka_unit_test(nobody_waits_for_a_member_that_does_not_join),
        cmocka_unit_test(what_serves_processes_is_not_what_threads_need),
        cmocka_unit_test(a_device_without_a_group_has_no_exchange),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
