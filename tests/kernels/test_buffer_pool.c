/* The pool of buffers: none is given out twice, what is refused is counted, what comes back full
 * is handed over once and in order, and threads do not wait for each other. */
#include "kernels/activity/buffer_pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { BYTES = 4096 };

struct seen {
    char text[100];
    int64_t bytes, buffers;
};

static void look(void *ctx, uint8_t *buffer, size_t valid) {
    struct seen *s = ctx;
    snprintf(s->text + strlen(s->text), sizeof s->text - strlen(s->text), "%c", buffer[0]);
    s->bytes += (int64_t)valid;
    s->buffers++;
}

static struct buffer_pool *pool_of(int buffers, size_t bytes) {
    struct buffer_pool *p;
    assert_int_equal(buffer_pool_open(&p, buffers, bytes, NULL), STATUS_OK);
    return p;
}

static void a_pool_that_is_dry_refuses_and_counts(void **state) {
    (void)state;
    struct buffer_pool *p = pool_of(2, 100);
    uint8_t *a = buffer_pool_take(p), *b = buffer_pool_take(p);
    assert_int_equal(buffer_pool_bytes(p), BYTES);
    assert_true(a && b && a != b);
    assert_null(buffer_pool_take(p));
    assert_int_equal(buffer_pool_refusals(p), 1);
    assert_true(buffer_pool_give(p, a, 0)); /* empty: free at once */
    assert_ptr_equal(buffer_pool_take(p), a);
    assert_true(buffer_pool_give(p, a, 10));
    assert_null(buffer_pool_take(p)); /* full: not before it was looked at */
    assert_int_equal(buffer_pool_refusals(p), 2);
    assert_int_equal(buffer_pool_out(p), 1);
    buffer_pool_close(p);
}

static void full_buffers_are_handed_over_once_in_the_order_of_their_return(void **state) {
    (void)state;
    struct buffer_pool *p = pool_of(3, BYTES);
    uint8_t *b[3];
    struct seen s = {.bytes = 0};
    for (int i = 0; i < 3; i++) {
        b[i] = buffer_pool_take(p);
        b[i][0] = (uint8_t)('a' + i);
    }
    buffer_pool_give(p, b[2], 7);
    buffer_pool_give(p, b[0], 5);
    buffer_pool_empty(p, look, &s);
    assert_string_equal(s.text, "ca");
    assert_int_equal(s.bytes, 12);
    buffer_pool_empty(p, look, &s);
    assert_int_equal(s.buffers, 2);
    assert_non_null(buffer_pool_take(p));
    assert_int_equal(buffer_pool_refusals(p), 0);
    buffer_pool_close(p);
}

static void what_is_not_of_the_pool_is_not_taken(void **state) {
    (void)state;
    struct buffer_pool *p = pool_of(2, BYTES);
    uint8_t *a = buffer_pool_take(p), stranger[8];
    assert_false(buffer_pool_give(p, stranger, 1));
    assert_false(buffer_pool_give(p, a + 1, 1));
    assert_false(buffer_pool_give(p, a + 2 * BYTES, 1));
    assert_false(buffer_pool_give(p, a + BYTES, 1)); /* not given out */
    assert_true(buffer_pool_give(p, a, BYTES + 1));  /* never more than there is */
    struct seen s = {.bytes = 0};
    buffer_pool_empty(p, look, &s);
    assert_int_equal(s.bytes, BYTES);
    buffer_pool_close(p);
}

/* ---- threads */

enum { THREADS = 4, ROUNDS = 20000 };

static struct buffer_pool *shared;
static atomic_llong given;

static void *use(void *ctx) {
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t *b = buffer_pool_take(shared);
        if (!b) continue;
        memset(b, *(char *)ctx, 64);
        for (int k = 0; k < 64; k++)
            if (b[k] != *(uint8_t *)ctx) return b; /* somebody else has it, too */
        atomic_fetch_add(&given, 64);
        buffer_pool_give(shared, b, 64);
    }
    return NULL;
}

static void threads_that_take_and_give_lose_nothing(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    char names[THREADS] = {'a', 'b', 'c', 'd'};
    struct seen s = {.bytes = 0};
    shared = pool_of(3, BYTES);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, use, &names[i]);
    for (int i = 0; i < 1000; i++) {
        s.text[0] = 0;
        buffer_pool_empty(shared, look, &s);
    }
    for (int i = 0; i < THREADS; i++) {
        void *shared_by_two;
        pthread_join(threads[i], &shared_by_two);
        assert_null(shared_by_two);
    }
    s.text[0] = 0;
    buffer_pool_empty(shared, look, &s);
    assert_int_equal(s.bytes, given);
    assert_int_equal(buffer_pool_out(shared), 0);
    buffer_pool_close(shared);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_that_is_dry_refuses_and_counts),
        cmocka_unit_test(full_buffers_are_handed_over_once_in_the_order_of_their_return),
        cmocka_unit_test(what_is_not_of_the_pool_is_not_taken),
        cmocka_unit_test(threads_that_take_and_give_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
