/* Recording spans on the CPU costs less than one part in a hundred of a chunk of 512 tokens of the
 * nano model. Judged by what one span costs, measured alone: that is steady enough for a test.
 * Chunks with and without spans, in turns, are run as well and their ratio printed: on a machine
 * that others use it varies by more than it could tell. */
#include "engine/engine.h"
#include "kernels/device_core.h"
#include "tests/enough_memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CHUNK = 512, PAIRS = 12, ROOM = 1000 };

struct chunks {
    int64_t with_ns[PAIRS], without_ns[PAIRS]; /* of each pair */
    int64_t spans;                             /* of a chunk */
};

static int64_t run_chunk(struct session *s, const int32_t *tokens, bool traced) {
    struct chunk_result r;
    assert_int_equal(session_spans_enable(s, traced ? ROOM : 0, NULL), STATUS_OK);
    assert_int_equal(session_rewind(s, 0, NULL), STATUS_OK);
    assert_int_equal(session_prefill(s, tokens, CHUNK, &r, NULL), STATUS_OK);
    return r.latency_ns;
}

static void run_pairs(struct chunks *out) {
    struct engine_opts o = engine_opts_defaults();
    struct session_opts p = session_opts_defaults();
    struct engine *e;
    struct session *s;
    int32_t tokens[CHUNK];
    o.model = "random:nano", o.device = DEVICE_CPU, o.dtype = DTYPE_BF16, o.threads = 2;
    p.prompt_tokens = 2 * CHUNK, p.chunk_tokens = CHUNK, p.max_tokens = 1;
    assert_int_equal(engine_open(&e, &o, NULL), STATUS_OK);
    assert_int_equal(session_open(&s, e, &p, NULL), STATUS_OK);
    engine_random_tokens(1, 256, CHUNK, tokens);
    run_chunk(s, tokens, false);
    for (int i = 0; i < PAIRS; i++) {
        const bool first = i % 2; /* whether the pair begins with spans */
        *(first ? &out->with_ns[i] : &out->without_ns[i]) = run_chunk(s, tokens, first);
        *(first ? &out->without_ns[i] : &out->with_ns[i]) = run_chunk(s, tokens, !first);
    }
    run_chunk(s, tokens, true);
    int64_t dropped;
    session_spans(s, 0, &out->spans, &dropped);
    assert_true(out->spans > 0 && dropped == 0);
    session_close(s);
    engine_close(e);
}

/* What the backend does around an op while spans are kept: two readings of the clock and a row. */
static double span_ns(void) {
    enum { TIMES = 200000 };
    struct device_opts o = {.kind = DEVICE_CPU, .dtype = DTYPE_BF16, .threads = 1, .head_dim = 64};
    struct device *dev;
    struct error err = {""};
    if (device_open(&dev, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_int_equal(device_spans_enable(dev, ROOM, NULL), STATUS_OK);
    const struct op_call call = {.op = OP_SWIGLU};
    const struct step_params step = {.n_tokens = CHUNK};
    const int64_t begin = monotonic_ns();
    for (int i = 0; i < TIMES; i++) {
        if (i % ROOM == 0) device_spans_reset(dev);
        const int64_t now = monotonic_ns();
        span_add(dev, &call, &step, now, monotonic_ns());
    }
    const double ns = (double)(monotonic_ns() - begin) / TIMES;
    device_close(dev);
    return ns;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void spans_cost_less_than_a_hundredth_of_a_chunk(void **state) {
    (void)state;
    struct chunks c = {.spans = 0};
    run_pairs(&c);
    double ratio[PAIRS], least = INFINITY;
    for (int i = 0; i < PAIRS; i++) {
        ratio[i] = (double)c.with_ns[i] / (double)c.without_ns[i];
        least = fmin(least, (double)c.without_ns[i]);
    }
    qsort(ratio, PAIRS, sizeof *ratio, by_value);
    const double each = span_ns(), cost = each * (double)c.spans / least;
    printf(
        "%lld spans of %.0f ns in a chunk of %.2f ms: %.4f %%; with over without, %d pairs: median "
        "%.4f, %.4f to %.4f\n",
        (long long)c.spans, each, least / 1e6, 100 * cost, PAIRS,
        (ratio[PAIRS / 2 - 1] + ratio[PAIRS / 2]) / 2, ratio[0], ratio[PAIRS - 1]);
    assert_true(cost < 0.01);
}

int main(void) {
    if (!enough_memory(128)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_cost_less_than_a_hundredth_of_a_chunk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
