/* What is asked of NCCL, and in which order, over a library that this test speaks for: it takes the
 * place of kernels/exchange/nccl_api.c. No GPU is needed: the devices are no more than their state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#ifdef HAVE_CUDA

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cuda/cuda_core.h"
#include "kernels/exchange/nccl_api.h"

enum { MEMBERS = 2 };

/* ---- the library */

struct nccl_comm {
    int rank;
};
static struct nccl_comm comms[MEMBERS];
static atomic_int graphs, aborted, destroyed, sent, blocking, looks;
static atomic_int summed;        /* calls */
static struct exchange_sum last; /* what the newest of them was asked for */
static bool never_ready;

static int get_version(int *version) {
    *version = 22809;
    return NCCL_SUCCESS;
}

static int get_id(struct nccl_id *id) {
    memset(id, 0, sizeof *id);
    return NCCL_SUCCESS;
}

static int init_rank(struct nccl_comm **comm, int n, struct nccl_id id, int rank,
                     struct nccl_config *config) {
    (void)id;
    assert_int_equal(n, MEMBERS);
    *comm = &comms[rank];
    atomic_fetch_add(&blocking, config->blocking);
    return config->blocking ? NCCL_SUCCESS : NCCL_IN_PROGRESS;
}

static int destroy(struct nccl_comm *comm) {
    (void)comm;
    atomic_fetch_add(&destroyed, 1);
    return NCCL_SUCCESS;
}

/* The last of a process waits as long as there are graphs with its communicators. */
static int abort_comm(struct nccl_comm *comm) {
    (void)comm;
    if (atomic_fetch_add(&aborted, 1) + 1 < MEMBERS) return NCCL_SUCCESS;
    while (atomic_load(&graphs) > 0) usleep(1000);
    return NCCL_SUCCESS;
}

static int async_error(struct nccl_comm *comm, int *error) {
    (void)comm;
    atomic_fetch_add(&looks, 1);
    *error = never_ready ? NCCL_IN_PROGRESS : NCCL_SUCCESS;
    return NCCL_SUCCESS;
}

static int group_start(void) {
    return NCCL_SUCCESS;
}

static int group_end(void) {
    return NCCL_SUCCESS;
}

static int send_part(const void *at, size_t n, int type, int peer, struct nccl_comm *comm,
                     struct CUstream_st *stream) {
    (void)at, (void)n, (void)type, (void)peer, (void)comm, (void)stream;
    atomic_fetch_add(&sent, 1);
    return NCCL_SUCCESS;
}

static int receive_part(void *at, size_t n, int type, int peer, struct nccl_comm *comm,
                        struct CUstream_st *stream) {
    (void)at, (void)n, (void)type, (void)peer, (void)comm, (void)stream;
    return NCCL_SUCCESS;
}

static int all_reduce(const void *in, void *out, size_t n, int type, int op, struct nccl_comm *comm,
                      struct CUstream_st *stream) {
    (void)comm, (void)stream;
    assert_int_equal(op, NCCL_SUM);
    assert_true(type == NCCL_BF16 || type == NCCL_F32);
    last = (struct exchange_sum){in, out, (int64_t)n, MEMBERS,
                                 type == NCCL_BF16 ? DTYPE_BF16 : DTYPE_F32};
    atomic_fetch_add(&summed, 1);
    return NCCL_SUCCESS;
}

static const char *error_text(int result) {
    return result == NCCL_SUCCESS ? "no error" : "an error";
}

static const char *last_error(struct nccl_comm *comm) {
    (void)comm;
    return "";
}

static const struct nccl library = {.get_version = get_version,
                                    .get_id = get_id,
                                    .init_rank = init_rank,
                                    .destroy = destroy,
                                    .abort = abort_comm,
                                    .async_error = async_error,
                                    .group_start = group_start,
                                    .group_end = group_end,
                                    .send = send_part,
                                    .receive = receive_part,
                                    .all_reduce = all_reduce,
                                    .error_text = error_text,
                                    .last_error = last_error};

const struct nccl *nccl_library(const char **why) {
    if (why) *why = NULL;
    return &library;
}

int64_t cuda_nccl_version(void);
int64_t cuda_nccl_version(void) {
    return 22809;
}

/* ---- devices */

static enum status sync_nothing(struct device *dev, struct error *err) {
    (void)dev, (void)err;
    return STATUS_OK;
}

static void no_memory_held(struct device *dev, int64_t *bytes, int64_t *high_water) {
    (void)dev;
    *bytes = 0;
    if (high_water) *high_water = 0;
}

static const struct backend nothing = {.sync = sync_nothing, .memory_driver = no_memory_held};

struct fixture {
    struct device_group group;
    struct device dev[MEMBERS];
    struct cuda gpu[MEMBERS];
    atomic_int left;
};

static const struct variant *variant_named(const char *name) {
    int n;
    const struct variant *v = variant_table(&n);
    for (int i = 0; i < n; i++)
        if (v[i].op == OP_EXCHANGE && strcmp(v[i].name, name) == 0) return v + i;
    fail_msg("there is no exchange = %s", name);
    return NULL;
}

static const struct variant *nccl_variant(void) {
    return variant_named("nccl");
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    graphs = aborted = destroyed = sent = blocking = looks = summed = 0;
    never_ready = false;
    f->group.variant = nccl_variant();
    f->group.members = MEMBERS;
    for (int i = 0; i < MEMBERS; i++) {
        f->dev[i].backend = &nothing;
        f->dev[i].state = &f->gpu[i];
    }
    *state = f;
    return f->group.variant->group->open(&f->group, NULL) == STATUS_OK ? 0 : -1;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    f->group.variant->group->close(&f->group);
    free(f);
    return 0;
}

static void join_all(struct fixture *f) {
    struct error err = {""};
    for (int i = 0; i < MEMBERS; i++)
        if (device_join(&f->dev[i], &f->group, i, &err) != STATUS_OK) fail_msg("%s", err.text);
}

static void *leave_all(void *ctx) {
    struct fixture *f = ctx;
    for (int i = 0; i < MEMBERS; i++) device_leave(&f->dev[i]);
    atomic_store(&f->left, 1);
    return NULL;
}

/* ---- tests */

static void members_that_leave_in_order_destroy_theirs(void **state) {
    struct fixture *f = *state;
    join_all(f);
    leave_all(f);
    assert_int_equal(destroyed, MEMBERS);
    assert_int_equal(aborted, 0);
}

/* A device that fails in a step says so at once, though graphs are closed only after that. */
static void an_abort_waits_for_graphs_in_a_thread_of_its_own(void **state) {
    struct fixture *f = *state;
    pthread_t leaving;
    join_all(f);
    graphs = 1;
    alarm(60); /* where it waits here it waits for good */
    device_group_abort(&f->group);
    while (atomic_load(&aborted) < MEMBERS) usleep(1000);
    struct exchange_args a = {.sends = 1};
    const int before = sent;
    nccl_variant()->run(&f->dev[0], &a); /* into nothing */
    assert_int_equal(sent, before);
    assert_int_equal(pthread_create(&leaving, NULL, leave_all, f), 0);
    usleep(100000);
    assert_int_equal(f->left, 0);
    graphs = 0;
    pthread_join(leaving, NULL);
    alarm(0);
    assert_int_equal(aborted, MEMBERS);
    assert_int_equal(destroyed, 0);
}

static void an_abort_that_nobody_leaves_after_ends_with_the_group(void **state) {
    struct fixture *f = *state;
    join_all(f);
    device_group_abort(&f->group);
    f->group.variant->group->close(&f->group);
    assert_int_equal(aborted, MEMBERS);
    f->group.state = NULL;
}

/* A kernel's record has its op only where the thread that issued the op launches it. */
static void communicators_of_traced_workers_block(void **state) {
    struct fixture *f = *state;
    join_all(f);
    leave_all(f);
    assert_int_equal(blocking, 0);
    f->dev[1].activity = (struct activity *)f; /* no more than there */
    join_all(f);
    leave_all(f);
    assert_int_equal(blocking, 1);
}

/* And who waits for it uses next to no processor time. */
static void a_member_that_does_not_come_is_named(void **state) {
    struct fixture *f = *state;
    struct error err = {""};
    never_ready = true;
    f->group.patience_s = 3;
    const clock_t before = clock();
    assert_int_equal(device_join(&f->dev[0], &f->group, 0, &err), STATUS_TIMEOUT);
    assert_string_equal(err.text, "device 1 of 2 did not come to NCCL's group within 3 s");
    assert_true(clock() - before < CLOCKS_PER_SEC);
    const int in_all = looks;
    f->group.patience_s = 2;
    assert_int_equal(device_join(&f->dev[1], &f->group, 1, &err), STATUS_TIMEOUT);
    assert_string_equal(err.text, "NCCL has not joined 2 devices within 2 s");
    assert_true(looks - in_all > 10);
    leave_all(f);
}

/* Its members sum while they join, for the memory that the library takes when it first does; of
 * nccl, which is never asked for sums, they do not. */
static void sums_are_one_call_of_the_library(void **state) {
    struct fixture *f = *state;
    char in[64], out[64];
    join_all(f);
    assert_int_equal(summed, 0);
    leave_all(f);
    f->group.variant = variant_named("nccl_sum");
    for (int i = 0; i < MEMBERS; i++) f->dev[i].dtype = DTYPE_BF16;
    join_all(f);
    assert_true(summed >= 3 * MEMBERS);
    assert_true(last.elements * 2 == CUDA_WORKSPACE_BYTES); /* a block of rows is about as much */
    const int before = summed, parts = sent;
    struct exchange_args a = {.sum = {in, out, 16, MEMBERS, DTYPE_F32}};
    f->group.variant->run(&f->dev[1], &a);
    assert_int_equal(summed, before + 1);
    assert_int_equal(sent, parts);
    assert_memory_equal(&last, &a.sum, sizeof last);
    a = (struct exchange_args){.sends = 1}; /* of logits */
    f->group.variant->run(&f->dev[1], &a);
    assert_int_equal(sent, parts + 1);
    leave_all(f);
}

/* `auto` takes the first that serves. */
static void sums_in_another_order_want_to_be_asked_for(void **state) {
    (void)state;
    assert_true(variant_named("nccl") < variant_named("nccl_sum"));
    assert_true(variant_named("nccl_sum")->library->lacks & LACKS_SAME_BITS);
    assert_int_equal(variant_named("nccl")->library->lacks, 0);
    assert_true(exchange_takes_sums("nccl_sum"));
    assert_false(exchange_takes_sums("nccl") || exchange_takes_sums("auto") ||
                 exchange_takes_sums(NULL));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(members_that_leave_in_order_destroy_theirs),
        TEST(an_abort_waits_for_graphs_in_a_thread_of_its_own),
        TEST(an_abort_that_nobody_leaves_after_ends_with_the_group),
        TEST(communicators_of_traced_workers_block),
        TEST(a_member_that_does_not_come_is_named),
        TEST(sums_are_one_call_of_the_library),
        TEST(sums_in_another_order_want_to_be_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("skipped: a build without CUDA has no exchange = nccl");
    return 77;
}

#endif
