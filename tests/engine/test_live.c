/* What a timeline of memory says is so: sets of rectangles are sets; no op writes where op_memory()
 * does not say; what is said to be idle can be overwritten and not a bit of what comes out changes;
 * sizes are those that can be counted by hand. */
#include "engine/live.h"

#include "kernels/op_memory.h"
#include "tests/enough_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- sets ---- */

enum { GRID = 12 };

static void paint(bool grid[GRID][GRID], struct live_rect r, bool on) {
    for (int64_t row = r.row; row < r.row_end; row++)
        for (int64_t col = r.col; col < r.col_end; col++) grid[row][col] = on;
}

static void compare(const struct live_set *s, bool grid[GRID][GRID]) {
    bool drawn[GRID][GRID] = {{0}};
    int64_t painted = 0;
    for (int64_t i = 0; i < s->n; i++) paint(drawn, s->v[i], true);
    for (int i = 0; i < GRID * GRID; i++) painted += grid[i / GRID][i % GRID];
    assert_memory_equal(drawn, grid, sizeof drawn);
    assert_int_equal(live_bytes(s), painted); /* none overlap */
}

static void a_set_of_rectangles_is_the_set_of_their_cells(void **state) {
    (void)state;
    srand(1);
    for (int round = 0; round < 200; round++) {
        bool grid[GRID][GRID] = {{0}};
        struct live_set s = {0};
        for (int i = 0; i < 30; i++) {
            const int row = rand() % GRID, col = rand() % GRID, add = rand() % 3;
            const struct live_rect r = {row, row + rand() % (GRID - row + 1), col,
                                        col + rand() % (GRID - col + 1)};
            assert_true(add ? live_add(&s, r) : live_remove(&s, r));
            paint(grid, r, add != 0);
            compare(&s, grid);
        }
        live_free(&s);
    }
}

static void blocks_that_follow_each_other_are_one_rectangle(void **state) {
    struct live_set s = {0};
    (void)state;
    for (int64_t i = 0; i < 1000; i++)
        assert_true(live_add(&s, (struct live_rect){i * 7 % 1000, i * 7 % 1000 + 1, 0, 5}));
    assert_int_equal(s.n, 1);
    assert_int_equal(live_bytes(&s), 5000);
    live_free(&s);
}

/* ---- a part of a session, watched ---- */

enum { S = 300, V = 256, CHUNK = 128, CHUNKS = 3 };

enum watching { WATCH_NOTHING, WATCH_WRITES, OVERWRITE_IDLE };
struct watch {
    enum watching what;
    const struct part *p;
    const struct chunk *c;
    const struct memory_timeline *t;
    int64_t op, next_use;
    int64_t in_use[BUFFERS_MAX]; /* of the timeline's buffers */
    char *before[BUFFERS_MAX];   /* of the part's */
    int64_t overwritten;
};

static int number_in(const struct memory_timeline *t, const struct buffer *b) {
    for (int i = 0; i < t->n_buffers; i++)
        if (!strcmp(t->buffers[i].name, b->name) && t->buffers[i].rank == b->rank &&
            t->buffers[i].category == b->category)
            return i;
    fail_msg("the timeline has no %s", b->name);
    return -1;
}

static void overwrite_idle(struct watch *w) {
    for (; w->next_use < w->t->n_uses && w->t->uses[w->next_use].op <= w->op; w->next_use++)
        w->in_use[w->t->uses[w->next_use].buffer] = w->t->uses[w->next_use].bytes;
    for (int i = 0; i < w->p->buffers.n_named; i++) {
        const struct buffer *b = &w->p->buffers.named[i];
        if (w->in_use[number_in(w->t, b)] > 0) continue;
        memset((void *)(uintptr_t)b->at, 0xff, (size_t)b->bytes); /* NaN, of both types */
        w->overwritten++;
    }
}

static bool is_written(const struct watch *w, const struct op_call *call, const char *at) {
    struct op_region r[OP_REGIONS_MAX];
    struct weight_shape shape = {0};
    if (call->op == OP_LINEAR) shape = weight_shape(call->linear.w);
    const bool finish = call->op == OP_TAP && call->tap.step == w->p->buffers.params[STEP_FINISH];
    const struct step_params *step = finish ? &w->c->finish_params : &w->c->params;
    const int n = op_memory(call, &shape, step, r);
    for (int i = 0; i < n; i++) {
        const int64_t offset = at - (const char *)r[i].at;
        if (r[i].written && offset >= 0 && offset < r[i].rows * r[i].stride &&
            offset % r[i].stride < r[i].row_bytes)
            return true;
    }
    return false;
}

static void see_writes(struct watch *w, struct device *dev, const struct op_call *call) {
    const struct buffers *b = &w->p->buffers;
    for (int i = 0; i < b->n_named; i++)
        memcpy(w->before[i], b->named[i].at, (size_t)b->named[i].bytes);
    assert_int_equal(device_execute(dev, call, NULL), STATUS_OK);
    for (int i = 0; i < b->n_named; i++) {
        const char *now = b->named[i].at;
        if (b->named[i].life == LIVES_IN_CACHE) continue;
        for (int64_t k = 0; k < b->named[i].bytes; k++)
            if (now[k] != w->before[i][k] && !is_written(w, call, now + k))
                fail_msg("%s writes byte %lld of %s", op_name(call->op), (long long)k,
                         b->named[i].name);
    }
}

static bool watch(void *ctx, struct device *dev, struct op_call *call) {
    struct watch *w = ctx;
    if (w->what == OVERWRITE_IDLE) overwrite_idle(w);
    if (w->what == WATCH_WRITES) see_writes(w, dev, call);
    w->op++;
    return w->what == WATCH_WRITES;
}

struct setting {
    const char *model;
    int tp;
    enum dtype dtype;
    bool prune, taps;
    int logits_at;
};
struct world {
    struct watch watch;
    struct engine *e;
    struct part part;
    struct session_opts so;
    uint32_t seen[V / 32];
};

static const int32_t wanted[2] = {130, 131};

static void open_world(struct world *w, const struct setting *s) {
    struct engine_opts o = engine_opts_defaults();
    struct error err = {""};
    memset(w, 0, sizeof *w);
    o.model = s->model, o.tensor_parallel_size = s->tp, o.dtype = s->dtype;
    o.prune_last_layer = s->prune, o.threads = 2, o.block_rows = 50;
    o.dual_chunk_attention = strstr(s->model, "/dual") != NULL;
    o.interpose = watch, o.interpose_ctx = &w->watch;
    if (engine_open(&w->e, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    w->so = session_opts_defaults();
    w->so.prompt_tokens = S, w->so.max_tokens = 4, w->so.chunk_tokens = CHUNK;
    w->so.taps = s->taps;
    w->so.logits_at = wanted, w->so.logits_at_count = s->logits_at;
    if (part_open(&w->part, w->e, 0, &w->so, &err) != STATUS_OK) fail_msg("%s", err.text);
    assert_int_equal(part_get_ready(&w->part, &err), STATUS_OK);
    w->watch.p = &w->part;
    for (int i = 0; i < w->part.buffers.n_named; i++)
        w->watch.before[i] = malloc((size_t)w->part.buffers.named[i].bytes);
}

static void close_world(struct world *w) {
    for (int i = 0; i < BUFFERS_MAX; i++) free(w->watch.before[i]);
    part_close(&w->part);
    engine_close(w->e);
}

static struct step_params params(const struct world *w, int32_t start, int32_t n) {
    struct step_params p = {start, n, start + n, S, 1, 1, {-1, -1, -1, -1, -1, -1, -1, -1}};
    for (int i = 0; w->so.taps && start == 0 && i < TAP_ROWS; i++) p.tap_row[i] = 5 + 10 * i;
    return p;
}

static struct chunk chunk_of(const struct world *w, int number) {
    static int32_t ids[S];
    const int32_t start = number * CHUNK, left = S - start, n = left < CHUNK ? left : CHUNK;
    engine_random_tokens(5, V, S, ids);
    return (struct chunk){.start = start,
                          .n = n,
                          .last = start + n == S,
                          .tokens = ids + start,
                          .seen = w->seen,
                          .params = params(w, start, n),
                          .finish_params = params(w, start + n - 1, 1)};
}

/* All that a prompt leaves: logits, those wanted on the way, taps. */
static void run_prompt(struct world *w, enum watching what, struct memory_timeline *t, char *out) {
    struct error err = {""};
    for (int i = 0; i < CHUNKS; i++) {
        const struct chunk c = chunk_of(w, i);
        struct watch *k = &w->watch;
        k->what = what, k->c = &c, k->t = &t[i], k->op = k->next_use = 0;
        memset(k->in_use, 0, sizeof k->in_use);
        assert_int_equal(device_spans_enable(w->part.dev, 4000, NULL), STATUS_OK);
        assert_int_equal(part_prefill(&w->part, &c, &err), STATUS_OK);
        k->what = WATCH_NOTHING;
        if (what == WATCH_NOTHING && live_find(&t[i], &w->part, &c, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        for (int b = 0; b < w->part.buffers.n_named; b++) {
            const struct buffer *named = &w->part.buffers.named[b];
            const bool there = !strcmp(named->name, "logits")      ? c.last
                               : !strcmp(named->name, "logits_at") ? i > 0
                               : !strncmp(named->name, "tap_", 4)  ? i == 0
                                                                   : false;
            if (!there) continue;
            memcpy(out, named->at, (size_t)named->bytes);
            out += named->bytes;
        }
    }
}

enum { OUT_BYTES = 8 << 20 };

static const struct setting settings[] = {
    {"random:3x128x8x4x64x160x256", 1, DTYPE_BF16, true, false, 0},
    {"random:3x128x8x4x64x160x256", 4, DTYPE_BF16, true, false, 0},
    {"random:3x128x8x4x64x160x256", 2, DTYPE_F32, false, false, 0},
    {"random:3x128x8x4x64x160x256", 2, DTYPE_BF16, false, true, 2},
    {"random:3x128x8x4x64x160x256/dual:128:64:256", 2, DTYPE_BF16, true, false, 0},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void what_is_idle_can_be_overwritten(void **state) {
    (void)state;
    char *right = calloc(1, OUT_BYTES), *again = calloc(1, OUT_BYTES);
    for (int i = 0; i < SETTINGS; i++) {
        struct world w;
        struct memory_timeline t[CHUNKS];
        open_world(&w, &settings[i]);
        memset(right, 0, OUT_BYTES), memset(again, 0, OUT_BYTES);
        run_prompt(&w, WATCH_NOTHING, t, right);
        run_prompt(&w, OVERWRITE_IDLE, t, again);
        assert_true(w.watch.overwritten > 300); /* or it would not be much of a test */
        assert_memory_equal(right, again, OUT_BYTES);
        for (int c = 0; c < CHUNKS; c++) memory_timeline_free(&t[c]);
        close_world(&w);
    }
    free(right);
    free(again);
}

static void no_op_writes_where_it_does_not_say(void **state) {
    (void)state;
    char *out = calloc(1, OUT_BYTES);
    for (int i = 0; i < SETTINGS; i++) {
        struct world w;
        struct memory_timeline t[CHUNKS] = {{0}};
        open_world(&w, &settings[i]);
        run_prompt(&w, WATCH_WRITES, t, out);
        close_world(&w);
    }
    free(out);
}

/* ---- by hand ---- */

static const char MODEL[] = "random:3x128x8x4x64x160x256"; /* L C H K D F V */
enum { L = 3, C = 128, H = 8, K = 4, D = 64, F = 160, SIZE = 2 };

static struct engine *open_engine(int tp, int devices, enum overlap overlap) {
    struct engine_opts o = engine_opts_defaults();
    struct engine *e;
    struct error err = {""};
    o.model = MODEL, o.tensor_parallel_size = tp, o.devices = devices, o.dtype = DTYPE_BF16;
    o.threads = 2, o.block_rows = 50, o.exchange_overlap = overlap;
    if (engine_open(&e, &o, &err) != STATUS_OK) fail_msg("%s", err.text);
    return e;
}

static struct session *open_session(struct engine *e, int64_t spans) {
    struct session_opts o = session_opts_defaults();
    struct session *s;
    o.prompt_tokens = S, o.max_tokens = 4, o.chunk_tokens = CHUNK;
    assert_int_equal(session_open(&s, e, &o, NULL), STATUS_OK);
    assert_int_equal(session_spans_enable(s, spans, NULL), STATUS_OK);
    return s;
}

static void prefill(struct session *s) {
    int32_t ids[S];
    struct chunk_result r;
    const int32_t at = session_position(s), n = S - at < CHUNK ? S - at : CHUNK;
    engine_random_tokens(5, V, S, ids);
    assert_int_equal(session_prefill(s, ids + at, n, &r, NULL), STATUS_OK);
}

/* Bytes of a name in use while the n-th op of that role in a layer runs. */
static int64_t in_use(struct session *s, const struct memory_timeline *t, const char *name,
                      enum op op, enum role role, int layer) {
    int64_t n, dropped, found = -1, sum = 0;
    int64_t bytes[64] = {0};
    const struct span *spans = session_spans(s, 0, &n, &dropped);
    for (int64_t i = n - 1; i >= 0; i--)
        if (spans[i].op == op && spans[i].role == role && spans[i].layer == layer) found = i;
    assert_true(found >= 0 && t->n_buffers <= 64);
    for (int64_t i = 0; i < t->n_uses && t->uses[i].op <= found; i++)
        bytes[t->uses[i].buffer] = t->uses[i].bytes;
    for (int i = 0; i < t->n_buffers; i++)
        if (!strcmp(t->buffers[i].name, name)) sum += bytes[i];
    return sum;
}

static void sizes_are_those_counted_by_hand(void **state) {
    struct engine *e = open_engine(1, 0, OVERLAP_AUTO);
    struct session *s = open_session(e, 4000);
    struct memory_timeline t;
    (void)state;
    prefill(s);
    session_spans_reset(s);
    prefill(s); /* positions 128 to 256: not the last */
    assert_int_equal(session_memory_timeline(s, 0, &t, NULL), STATUS_OK);
    const int64_t stream = (int64_t)CHUNK * C * SIZE;
#define IN_USE(name, op, role, layer) in_use(s, &t, name, op, role, layer)
    /* Embedding in blocks of 50: the first ids and rows alone, then more. */
    assert_int_equal(IN_USE("ids", OP_EMBED, ROLE_NONE, -1), CHUNK * 4);
    assert_int_equal(IN_USE("h", OP_EMBED, ROLE_NONE, -1), 50 * C * SIZE);
    assert_int_equal(IN_USE("ids", OP_LINEAR, ROLE_QKV, 0), 0);
    assert_int_equal(IN_USE("h", OP_LINEAR, ROLE_QKV, 0), stream);
    assert_int_equal(IN_USE("y", OP_LINEAR, ROLE_QKV, 0), stream);
    assert_int_equal(IN_USE("qkv", OP_LINEAR, ROLE_QKV, 0), CHUNK * (H + 2 * K) * D * SIZE);
    assert_int_equal(IN_USE("gate_up", OP_LINEAR, ROLE_QKV, 0), 0);
    /* The norm has been read: y waits for the next norm. */
    assert_int_equal(IN_USE("y", OP_ROPE_CACHE, ROLE_NONE, 0), 0);
    assert_int_equal(IN_USE("qkv", OP_ATTENTION, ROLE_NONE, 0), 0);
    assert_int_equal(IN_USE("attended", OP_ATTENTION, ROLE_NONE, 0), CHUNK * H * D * SIZE);
    assert_int_equal(IN_USE("gate_up", OP_LINEAR, ROLE_GATE_UP, 0), 50 * 2 * F * SIZE);
    assert_int_equal(IN_USE("activated", OP_LINEAR, ROLE_GATE_UP, 0), 0);
    assert_int_equal(IN_USE("activated", OP_SWIGLU, ROLE_NONE, 0), 50 * F * SIZE);
    assert_int_equal(IN_USE("gate_up", OP_LINEAR, ROLE_DOWN, 0), 0);
    /* Of the pruned last layer keys and values alone are computed. */
    assert_int_equal(IN_USE("qkv", OP_LINEAR, ROLE_QKV, L - 1), CHUNK * 2 * K * D * SIZE);
    assert_int_equal(IN_USE("h", OP_LINEAR, ROLE_QKV, L - 1), 0);
    assert_int_equal(IN_USE("logits", OP_LINEAR, ROLE_QKV, L - 1), 0);
    /* The cache: all layers to 128, then layer by layer to 256. */
    const int64_t position = 2 * K * D * SIZE;
    assert_int_equal(IN_USE("kv", OP_EMBED, ROLE_NONE, -1), L * 128 * position);
    assert_int_equal(IN_USE("kv", OP_ROPE_CACHE, ROLE_NONE, 0), (L + 1) * 128 * position);
    assert_int_equal(IN_USE("kv", OP_ROPE_CACHE, ROLE_NONE, L - 1), 2 * L * 128 * position);
#undef IN_USE
    memory_timeline_free(&t);
    session_close(s);
    engine_close(e);
}

/* What is reserved is what the devices account for, to the byte; in use is no more. */
static void all_that_is_accounted_has_a_name(void **state) {
    static const int layouts[][2] = {{1, 1}, {4, 1}, {4, 2}}; /* ranks, devices */
    (void)state;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        struct engine *e = open_engine(layouts[i][0], layouts[i][1], OVERLAP_ON);
        struct session *s = open_session(e, 4000);
        int64_t reserved = 0;
        prefill(s);
        for (int d = 0; d < layouts[i][1]; d++) {
            struct memory_timeline t;
            assert_int_equal(session_memory_timeline(s, d, &t, NULL), STATUS_OK);
            for (int b = 0; b < t.n_buffers; b++) {
                assert_true(t.buffers[b].name[0] != 0);
                reserved += t.buffers[b].bytes;
            }
            for (int64_t u = 0; u < t.n_uses; u++)
                assert_true(t.uses[u].bytes <= t.buffers[t.uses[u].buffer].bytes);
            memory_timeline_free(&t);
        }
        assert_int_equal(reserved, engine_memory_accounted(e, 0));
        session_close(s);
        engine_close(e);
    }
}

/* A scatter aside of the first block's o_proj runs on while the second block's is computed: what it
 * sends and what it receives is in use until the norm that comes after it. */
static void calls_aside_hold_their_memory_until_what_comes_after_them(void **state) {
    (void)state;
    for (int aside = 0; aside < 2; aside++) {
        struct engine *e = open_engine(2, 2, aside ? OVERLAP_ON : OVERLAP_OFF);
        struct session *s = open_session(e, 4000);
        struct memory_timeline t;
        int64_t n, dropped, at = 0;
        prefill(s);
        assert_int_equal(session_memory_timeline(s, 0, &t, NULL), STATUS_OK);
        const struct span *spans = session_spans(s, 0, &n, &dropped);
        while (at < n && !(spans[at].op == OP_EXCHANGE && spans[at].role == ROLE_GATHER &&
                           spans[at].layer == 0))
            at++;
        assert_true(at + 1 < n);
        at++; /* the next block's o_proj, or this one's norm */
        assert_int_equal(spans[at].op, aside ? OP_LINEAR : OP_ADD_RMSNORM);
        int64_t bytes[64] = {0}, peer = 0, own = 0;
        for (int64_t i = 0; i < t.n_uses && t.uses[i].op <= at; i++)
            bytes[t.uses[i].buffer] = t.uses[i].bytes;
        for (int i = 0; i < t.n_buffers; i++) {
            if (!strcmp(t.buffers[i].name, "partial")) own += bytes[i];
            if (!strcmp(t.buffers[i].name, "partial (peer)")) peer += bytes[i];
        }
        const int64_t block = 50 * C * SIZE;
        assert_int_equal(own, aside ? 2 * block : block);
        assert_int_equal(peer, aside ? block / 2 : 0);
        memory_timeline_free(&t);
        session_close(s);
        engine_close(e);
    }
}

static void without_the_spans_there_is_no_timeline(void **state) {
    struct engine *e = open_engine(1, 0, OVERLAP_AUTO);
    struct session *s = open_session(e, 10); /* far too few */
    struct memory_timeline t;
    struct error err = {""};
    (void)state;
    assert_int_equal(session_memory_timeline(s, 0, &t, &err), STATUS_USAGE);
    prefill(s);
    assert_int_equal(session_memory_timeline(s, 0, &t, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "have spans"));
    session_close(s);
    engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_of_rectangles_is_the_set_of_their_cells),
        cmocka_unit_test(blocks_that_follow_each_other_are_one_rectangle),
        cmocka_unit_test(no_op_writes_where_it_does_not_say),
        cmocka_unit_test(what_is_idle_can_be_overwritten),
        cmocka_unit_test(sizes_are_those_counted_by_hand),
        cmocka_unit_test(all_that_is_accounted_has_a_name),
        cmocka_unit_test(calls_aside_hold_their_memory_until_what_comes_after_them),
        cmocka_unit_test(without_the_spans_there_is_no_timeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
