/* GPUs of a group exchange memory, by every kernel that serves here: parts of any size and place,
 * in turn and aside, again and again from a captured graph; a group that ends lets no GPU wait, and
 * no thread while graphs of it are there. On one GPU skipped by name. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "gpu_test.h"
#include "kernels/group.h"

enum { ROUNDS = 12, PARTS = 2, MOST_BYTES = 8 << 20 };
static const int64_t sizes[] = {4, 16, 1000, 65536 + 4, MOST_BYTES};
enum { SIZES = sizeof sizes / sizeof *sizes };

struct member {
    struct device_group *group;
    struct device *dev;
    struct arena *arena;
    int number, members;
    bool stops;      /* ends the group in the second round */
    bool with_graph; /* of those from the graph */
    char *out[MAX_RANKS][PARTS], *in[MAX_RANKS][PARTS];
    char *host; /* [MOST_BYTES] */
    int64_t wrong;
    enum status status;
    struct error err;
    pthread_t thread;
};

/* Parts of other lengths, whose ends are not aligned. */
static int64_t bytes_of(int64_t size, int part) {
    return size - 4 * part > 4 ? size - 4 * part : 4;
}

static struct op_call exchange_of(const struct member *m, int64_t size) {
    struct op_call call = {.op = OP_EXCHANGE, .rank = SHARED_RANK, .layer = -1};
    struct exchange_args *a = &call.exchange;
    for (int p = 0; p < m->members; p++)
        for (int part = 0; part < PARTS && p != m->number; part++) {
            const int64_t bytes = bytes_of(size, part);
            a->send[a->sends++] = (struct exchange_part){m->out[p][part], bytes, p};
            a->receive[a->receives++] = (struct exchange_part){m->in[p][part], bytes, p};
        }
    return call;
}

static int32_t word(int round, int from, int to, int part, int64_t i) {
    return (int32_t)(i * 31 + (((round * 16 + from) * 16 + to) * PARTS + part) * 7919);
}

static void fill(struct member *m, int64_t size, int round) {
    for (int p = 0; p < m->members; p++)
        for (int part = 0; part < PARTS; part++) {
            int32_t *words = (int32_t *)m->host;
            for (int64_t i = 0; i < bytes_of(size, part) / 4; i++)
                words[i] = word(round, m->number, p, part, i);
            device_write(m->dev, m->out[p][part], words, (size_t)bytes_of(size, part));
        }
}

static void compare(struct member *m, int64_t size, int round) {
    const struct op_call call = exchange_of(m, size);
    for (int k = 0, part = 0, last = -1; k < call.exchange.receives; k++) {
        const int p = call.exchange.receive[k].peer;
        part = p == last ? part + 1 : 0;
        last = p;
        int32_t *words = (int32_t *)m->host;
        device_read(m->dev, words, m->in[p][part], (size_t)bytes_of(size, part));
        for (int64_t i = 0; i < bytes_of(size, part) / 4; i++)
            m->wrong += words[i] != word(round, p, m->number, part, i);
    }
}

/* Aside, or twice: a second one in turn comes after the first. */
static enum status exchange(struct member *m, int64_t size, bool aside) {
    struct op_call call = exchange_of(m, size);
    call.aside = aside;
    enum status s = device_run(m->dev, &call, &m->err);
    call.aside = 0, call.after = aside;
    if (s == STATUS_OK && aside) s = device_run(m->dev, &call, &m->err);
    return s;
}

static void run_rounds(struct member *m) {
    for (int round = 0; round < ROUNDS && m->status == STATUS_OK; round++) {
        const int64_t size = sizes[round % SIZES];
        if (m->stops && !m->with_graph && round == 1) device_group_abort(m->group);
        fill(m, size, round);
        m->status = exchange(m, size, round % 2 == 1);
        if (m->status == STATUS_OK) m->status = device_sync(m->dev, &m->err);
        if (m->status == STATUS_OK) compare(m, size, round);
    }
}

static int32_t part_of_sum(int round, int member, int64_t i) {
    return (int32_t)((i * 7 + member * 31 + round) % 64);
}

static struct op_call sum_of(const struct member *m, int64_t n, bool in_place) {
    struct op_call call = {.op = OP_EXCHANGE, .role = ROLE_SUM, .rank = SHARED_RANK, .layer = -1};
    call.exchange.sum = (struct exchange_sum){m->out[0][0], in_place ? m->out[0][0] : m->in[0][0],
                                              n, m->members, DTYPE_F32};
    return call;
}

static void fill_parts(struct member *m, int64_t n, int round) {
    float *numbers = (float *)m->host;
    for (int64_t i = 0; i < n; i++) numbers[i] = (float)part_of_sum(round, m->number, i);
    device_write(m->dev, m->out[0][0], numbers, (size_t)n * sizeof *numbers);
}

static void compare_sums(struct member *m, const struct op_call *call, int round) {
    const int64_t n = call->exchange.sum.elements;
    float *numbers = (float *)m->host;
    device_read(m->dev, numbers, call->exchange.sum.out, (size_t)n * sizeof *numbers);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < m->members; k++) sum += (float)part_of_sum(round, k, i);
        m->wrong += numbers[i] != sum;
    }
}

/* Small whole numbers, which any order sums to the same bits; in turn and aside, then from a graph.
 * Of those that sum as a library does. */
static void sum_rounds(struct member *m) {
    struct device_graph *g = NULL;
    const struct op_call recorded = sum_of(m, MOST_BYTES / 4, false);
    for (int round = 0; round < ROUNDS && m->status == STATUS_OK; round++) {
        struct op_call call = sum_of(m, sizes[round % SIZES] / 4, round % 2 == 1);
        call.aside = round % 3 == 1;
        fill_parts(m, call.exchange.sum.elements, round);
        m->status = device_run(m->dev, &call, &m->err);
        if (m->status == STATUS_OK) m->status = device_sync(m->dev, &m->err);
        if (m->status == STATUS_OK) compare_sums(m, &call, round);
    }
    if (m->status == STATUS_OK) m->status = device_capture_begin(m->dev, &m->err);
    if (m->status != STATUS_OK) return;
    m->status = device_run(m->dev, &recorded, &m->err);
    const enum status s = device_capture_end(m->dev, &g, &m->err);
    if (m->status == STATUS_OK) m->status = s;
    for (int round = 0; round < ROUNDS && m->status == STATUS_OK; round++) {
        fill_parts(m, MOST_BYTES / 4, round);
        m->status = device_graph_launch(m->dev, g, &m->err);
        if (m->status == STATUS_OK) m->status = device_sync(m->dev, &m->err);
        if (m->status == STATUS_OK) compare_sums(m, &recorded, round);
    }
    device_graph_close(m->dev, g);
}

static void replay(struct member *m) {
    struct device_graph *g = NULL;
    if (m->status == STATUS_OK) m->status = device_capture_begin(m->dev, &m->err);
    if (m->status != STATUS_OK) return;
    for (int i = 0; i < SIZES && m->status == STATUS_OK; i++)
        m->status = exchange(m, sizes[i], i % 2 == 0);
    const enum status s = device_capture_end(m->dev, &g, &m->err);
    if (m->status == STATUS_OK) m->status = s;
    for (int round = 0; round < ROUNDS && m->status == STATUS_OK; round++) {
        if (m->stops && m->with_graph && round == 1) device_group_abort(m->group);
        fill(m, MOST_BYTES, round);
        m->status = device_graph_launch(m->dev, g, &m->err);
        if (m->status == STATUS_OK) m->status = device_sync(m->dev, &m->err);
        if (m->status == STATUS_OK) compare(m, MOST_BYTES, round);
    }
    device_graph_close(m->dev, g);
}

static enum status open_member(struct member *m) {
    struct device_opts o = device_opts_defaults();
    const size_t parts = (size_t)m->members * PARTS * 2;
    o.kind = DEVICE_CUDA, o.index = m->number;
    m->host = malloc(MOST_BYTES);
    if (!m->host) return STATUS_NO_MEMORY;
    enum status s = device_open(&m->dev, &o, &m->err);
    if (s == STATUS_OK)
        s = arena_open(&m->arena, m->dev, MEMORY_OTHER, parts * MOST_BYTES, &m->err);
    for (int p = 0; s == STATUS_OK && p < m->members; p++)
        for (int part = 0; part < PARTS; part++) {
            m->out[p][part] = arena_take(m->arena, SHARED_RANK, MOST_BYTES);
            m->in[p][part] = arena_take(m->arena, SHARED_RANK, MOST_BYTES);
        }
    return s;
}

/* All do the same step at a time: whoever closes frees what others may still reach. */
static pthread_barrier_t step;

static void *live(void *arg) {
    struct member *m = arg;
    m->status = open_member(m);
    pthread_barrier_wait(&step);
    if (m->status == STATUS_OK) m->status = device_join(m->dev, m->group, m->number, &m->err);
    if (m->status == STATUS_OK && exchange_takes_sums(device_group_exchange(m->group)))
        sum_rounds(m);
    if (m->status == STATUS_OK) run_rounds(m);
    if (m->status == STATUS_OK) replay(m);
    if (m->status != STATUS_OK) device_group_abort(m->group);
    if (m->dev) device_sync(m->dev, NULL);
    pthread_barrier_wait(&step);
    if (m->dev) device_leave(m->dev);
    pthread_barrier_wait(&step);
    arena_close(m->arena);
    device_close(m->dev);
    free(m->host);
    return NULL;
}

/* Member number `stops`, if not -1, ends the group in a round; with_graph: one from the graph. */
static void meet(struct member *m, const char *kernel, int members, int stops, bool with_graph) {
    struct device_group *g;
    struct error err = {""};
    const struct group_opts o = {.kind = DEVICE_CUDA, .members = members, .exchange = kernel};
    if (device_group_open(&g, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    memset(m, 0, (size_t)members * sizeof *m);
    pthread_barrier_init(&step, NULL, (unsigned)members);
    for (int i = 0; i < members; i++) {
        m[i].group = g, m[i].number = i, m[i].members = members, m[i].stops = i == stops;
        m[i].with_graph = with_graph;
        assert_int_equal(pthread_create(&m[i].thread, NULL, live, &m[i]), 0);
    }
    for (int i = 0; i < members; i++) pthread_join(m[i].thread, NULL);
    pthread_barrier_destroy(&step);
    device_group_close(g);
}

static int gpus_or_skip(void) {
    const int gpus = device_count(DEVICE_CUDA);
    if (gpus < 2) {
        print_message("skipped: exchanges between GPUs: this machine has %d\n", gpus);
        skip();
    }
    return gpus < 4 ? gpus : 4;
}

static void everyone_gets_what_was_sent(void **state) {
    static struct member m[MAX_RANKS];
    (void)state;
    const int gpus = gpus_or_skip();
    const char *kernel;
    for (int i = 0; (kernel = exchange_kernel(i, gpus, 0)); i++)
        for (int members = 2; members <= gpus; members += 2) {
            print_message("exchange %s between %d GPUs\n", kernel, members);
            meet(m, kernel, members, -1, false);
            for (int k = 0; k < members; k++) {
                if (m[k].status != STATUS_OK) fail_msg("%s: %s", kernel, m[k].err.text);
                if (m[k].wrong > 0)
                    fail_msg("%s, %d GPUs: %lld words of GPU %d are wrong", kernel, members,
                             (long long)m[k].wrong, k);
            }
        }
}

static void nobody_waits_when_one_ends(bool with_graph) {
    static struct member m[MAX_RANKS];
    const int gpus = gpus_or_skip();
    const char *kernel;
    for (int i = 0; (kernel = exchange_kernel(i, gpus, 0)); i++) {
        struct timespec begin, end;
        print_message("exchange %s whose group ends%s\n", kernel,
                      with_graph ? " while there are graphs" : "");
        clock_gettime(CLOCK_MONOTONIC, &begin);
        meet(m, kernel, gpus, gpus - 1, with_graph);
        clock_gettime(CLOCK_MONOTONIC, &end);
        for (int k = 0; k < gpus; k++) assert_int_equal(m[k].status, STATUS_RUN_FAILED);
        assert_true(end.tv_sec - begin.tv_sec < 60);
    }
}

/* The last comes to the second exchange after it has ended the group. */
static void no_gpu_waits_for_a_member_that_ended(void **state) {
    (void)state;
    nobody_waits_when_one_ends(false);
}

/* As a device that fails in a step of a session with graphs: they are closed only after that. */
static void no_thread_waits_for_graphs_when_one_ended(void **state) {
    (void)state;
    nobody_waits_when_one_ends(true);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_what_was_sent),
        cmocka_unit_test(no_gpu_waits_for_a_member_that_ended),
        cmocka_unit_test(no_thread_waits_for_graphs_when_one_ended),
    };
    struct gpu_test probe;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what was said before a test that does not end */
    gpu_test_open(&probe, DTYPE_BF16, 128, "auto", 1 << 20); /* ends here without a GPU */
    gpu_test_close(&probe);
    if (wants_small(argc, argv)) {
        puts("skipped: a sanitizer runs one kernel at a time: sums over GPUs would wait for ever");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
