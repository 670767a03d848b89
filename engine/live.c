/* What of each buffer is live while each op of a chunk runs. See live.h. Before it: part.c, whose
 * walk gives the calls; after it: the harness, which records it beside the spans. */
#include "engine/live.h"

#include "kernels/op_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sets of rectangles ---- */

static bool overlap(struct live_rect a, struct live_rect b) {
    return a.row < b.row_end && b.row < a.row_end && a.col < b.col_end && b.col < a.col_end;
}

static bool is_empty(struct live_rect r) {
    return r.row >= r.row_end || r.col >= r.col_end;
}

static bool append(struct live_set *s, struct live_rect r) {
    if (is_empty(r)) return true;
    if (s->n == s->capacity) {
        const int64_t capacity = s->capacity ? 2 * s->capacity : 8;
        struct live_rect *v = realloc(s->v, (size_t)capacity * sizeof *v);
        if (!v) return false;
        s->v = v, s->capacity = capacity;
    }
    s->v[s->n++] = r;
    return true;
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* What is left of a rectangle: above, below, and left and right of the hole. */
bool live_remove(struct live_set *s, struct live_rect r) {
    bool done = true;
    if (is_empty(r)) return true;
    for (int64_t i = 0; i < s->n;) {
        const struct live_rect old = s->v[i];
        if (!overlap(old, r)) {
            i++;
            continue;
        }
        s->v[i] = s->v[--s->n];
        const int64_t top = most(old.row, r.row), bottom = least(old.row_end, r.row_end);
        done = append(s, (struct live_rect){old.row, top, old.col, old.col_end}) && done;
        done = append(s, (struct live_rect){bottom, old.row_end, old.col, old.col_end}) && done;
        done =
            append(s, (struct live_rect){top, bottom, old.col, least(old.col_end, r.col)}) && done;
        done = append(s, (struct live_rect){top, bottom, most(old.col, r.col_end), old.col_end}) &&
               done;
    }
    return done;
}

/* Two that make one rectangle together. */
static bool join(struct live_rect *a, struct live_rect b) {
    const bool rows = a->row == b.row && a->row_end == b.row_end,
               cols = a->col == b.col && a->col_end == b.col_end;
    if (cols && (a->row_end == b.row || b.row_end == a->row)) {
        a->row = least(a->row, b.row), a->row_end = most(a->row_end, b.row_end);
        return true;
    }
    if (rows && (a->col_end == b.col || b.col_end == a->col)) {
        a->col = least(a->col, b.col), a->col_end = most(a->col_end, b.col_end);
        return true;
    }
    return false;
}

bool live_add(struct live_set *s, struct live_rect r) {
    if (is_empty(r)) return true;
    if (!live_remove(s, r)) return false;
    for (int64_t i = 0; i < s->n; i++) {
        if (!join(&r, s->v[i])) continue;
        s->v[i] = s->v[--s->n];
        i = -1; /* it may touch others now */
    }
    return append(s, r);
}

int64_t live_bytes(const struct live_set *s) {
    int64_t sum = 0;
    for (int64_t i = 0; i < s->n; i++)
        sum += (s->v[i].row_end - s->v[i].row) * (s->v[i].col_end - s->v[i].col);
    return sum;
}

void live_free(struct live_set *s) {
    free(s->v);
    *s = (struct live_set){0};
}

/* ---- the calls ---- */

struct access {
    int buffer;
    bool written;
    struct live_rect rect;
};
struct call { /* what of a call is needed: more of them are kept than fit otherwise */
    uint8_t op, role, aside;
    int16_t rank, layer;
    int32_t
        cached; /* positions that its layer and rank have in the cache after it; 0: writes none */
    int64_t first, end_own; /* its accesses, */
    int64_t end;            /* then those of calls aside that may still run */
};
struct calls {
    const struct part *p;
    const struct step_params *step; /* of the calls that come */
    struct call *v;
    int64_t n, capacity;
    struct access *access;
    int64_t n_access, access_capacity;
    int64_t aside[ASIDES + 1]; /* the first call aside of each number that is under way, or -1 */
};

static bool make_room(void **v, int64_t n, int64_t *capacity, size_t size) {
    if (n < *capacity) return true;
    const int64_t more = *capacity ? 2 * *capacity : 1024;
    void *grown = realloc(*v, (size_t)more * size);
    if (!grown) return false;
    *v = grown, *capacity = more;
    return true;
}

static int buffer_at(const struct buffers *b, const void *at) {
    for (int i = 0; i < b->n_named; i++) {
        const uintptr_t begin = (uintptr_t)b->named[i].at;
        if ((uintptr_t)at >= begin && (uintptr_t)at < begin + (uintptr_t)b->named[i].bytes)
            return i;
    }
    return -1;
}

/* In a buffer without a pitch all is one row. */
static struct live_rect rect_of(const struct buffer *b, const struct op_region *r) {
    const int64_t offset = (int64_t)((uintptr_t)r->at - (uintptr_t)b->at);
    if (b->pitch == 0) {
        const int64_t bytes = (r->rows - 1) * r->stride + r->row_bytes;
        return (struct live_rect){0, 1, offset, least(offset + bytes, b->bytes)};
    }
    const int64_t row = offset / b->pitch, col = offset % b->pitch;
    return (struct live_rect){row, row + r->rows, col, col + r->row_bytes};
}

static enum status no_memory(struct error *err) {
    return error_set(err, STATUS_NO_MEMORY, "no memory for a timeline of memory");
}

static bool add_access(struct calls *k, struct access a) {
    void *grown = k->access;
    if (!make_room(&grown, k->n_access, &k->access_capacity, sizeof *k->access)) return false;
    k->access = grown;
    k->access[k->n_access++] = a;
    return true;
}

static enum status add_accesses(struct calls *k, const struct op_region *r, int n,
                                struct error *err) {
    const struct buffers *b = &k->p->buffers;
    for (int i = 0; i < n; i++) {
        const int at = buffer_at(b, r[i].at);
        if (at < 0)
            return error_set(err, STATUS_INVALID, "op %lld of the chunk works outside the buffers",
                             (long long)k->n);
        if (!add_access(k, (struct access){at, r[i].written, rect_of(&b->named[at], &r[i])}))
            return no_memory(err);
    }
    return STATUS_OK;
}

/* Calls aside may run until the call that comes after them: what they read and write is read by the
 * last call before that one, too. */
static enum status end_aside(struct calls *k, int number, struct error *err) {
    bool done = true;
    for (int64_t i = k->aside[number]; i >= 0 && i < k->n; i++)
        for (int64_t a = k->v[i].first; k->v[i].aside == number && a < k->v[i].end_own; a++) {
            struct access again = k->access[a];
            again.written = false;
            done = add_access(k, again) && done;
        }
    if (k->n > 0) k->v[k->n - 1].end = k->n_access;
    k->aside[number] = -1;
    return done ? STATUS_OK : no_memory(err);
}

static enum status keep_call(void *ctx, const struct op_call *call,
                             const struct weight_shape *linear, struct error *err) {
    struct calls *k = ctx;
    struct op_region regions[OP_REGIONS_MAX];
    const int n = op_memory(call, linear, k->step, regions);
    void *grown = k->v;
    if (!make_room(&grown, k->n, &k->capacity, sizeof *k->v)) return no_memory(err);
    k->v = grown;
    enum status s = call->after > 0 ? end_aside(k, call->after, err) : STATUS_OK;
    const int64_t first = k->n_access;
    if (s == STATUS_OK) s = add_accesses(k, regions, n, err);
    if (s != STATUS_OK) return s;
    if (call->aside > 0 && k->aside[call->aside] < 0) k->aside[call->aside] = k->n;
    k->v[k->n++] = (struct call){.op = (uint8_t)call->op,
                                 .role = (uint8_t)call->role,
                                 .rank = call->rank,
                                 .layer = call->layer,
                                 .aside = call->aside,
                                 .cached = call->op == OP_ROPE_CACHE ? k->step->kv_len : 0,
                                 .first = first,
                                 .end_own = k->n_access,
                                 .end = k->n_access};
    return STATUS_OK;
}

/* The spans say what ran. */
static enum status compare_with_spans(const struct calls *k, struct error *err) {
    int64_t n, dropped;
    const struct span *spans = device_spans(k->p->dev, &n, &dropped);
    if (dropped > 0 || n != k->n)
        return error_set(err, STATUS_INVALID, "%lld of the chunk's %lld ops have spans",
                         (long long)n, (long long)k->n);
    for (int64_t i = 0; i < n; i++)
        if (spans[i].op != k->v[i].op || spans[i].role != k->v[i].role ||
            spans[i].rank != k->v[i].rank || spans[i].layer != k->v[i].layer)
            return error_set(err, STATUS_INVALID, "op %lld of the chunk is another than its span's",
                             (long long)i);
    return STATUS_OK;
}

/* ---- what is live ---- */

struct living {
    const struct calls *calls;
    int n_buffers;
    struct live_set set[BUFFERS_MAX];
    int64_t *bytes; /* [ops][buffers]: in use while the op runs */
};

static bool follows_ops(const struct buffer *b) {
    return b->life == LIVES_BETWEEN_OPS || b->life == LIVES_AFTER;
}

/* At the end of the chunk: what it leaves behind. */
static bool begin_at_end(struct living *l) {
    const struct calls *k = l->calls;
    bool done = true;
    for (int64_t i = 0; i < k->n_access; i++) {
        const struct access *a = &k->access[i];
        if (a->written && k->p->buffers.named[a->buffer].life == LIVES_AFTER)
            done = live_add(&l->set[a->buffer], a->rect) && done;
    }
    return done;
}

/* From after a call to before it, with what is in use meanwhile. */
static bool pass_call(struct living *l, int64_t i) {
    const struct calls *k = l->calls;
    const struct call *c = &k->v[i];
    bool done = true;
    for (int64_t a = c->first; a < c->end; a++)
        done = live_add(&l->set[k->access[a].buffer], k->access[a].rect) && done;
    for (int b = 0; b < l->n_buffers; b++)
        if (follows_ops(&k->p->buffers.named[b]))
            l->bytes[i * l->n_buffers + b] = live_bytes(&l->set[b]);
    for (int64_t a = c->first; a < c->end; a++)
        if (k->access[a].written)
            done = live_remove(&l->set[k->access[a].buffer], k->access[a].rect) && done;
    for (int64_t a = c->first; a < c->end; a++)
        if (!k->access[a].written)
            done = live_add(&l->set[k->access[a].buffer], k->access[a].rect) && done;
    return done;
}

/* Of a position, in the keys or the values of one layer. */
static int64_t position_bytes(const struct buffers *b) {
    return (int64_t)b->kv_bytes / b->kv.capacity;
}

/* Keys and values: every layer has those of all positions before the chunk, and from the op that
 * writes them on those of the chunk. */
static void fill_cache(struct living *l, int buffer, int32_t begin) {
    const struct calls *k = l->calls;
    const struct buffers *b = &k->p->buffers;
    int64_t bytes = (int64_t)k->p->forward.m->layers * begin * position_bytes(b);
    for (int64_t i = 0, done = -1; i < k->n; i++) {
        const struct call *c = &k->v[i];
        if (c->cached > begin && c->rank == b->named[buffer].rank && c->layer > done) {
            bytes += (c->cached - begin) * position_bytes(b);
            done = c->layer;
        }
        l->bytes[i * l->n_buffers + buffer] = bytes;
    }
}

static enum status follow(struct living *l, int32_t begin, struct error *err) {
    const struct calls *k = l->calls;
    const struct buffers *b = &k->p->buffers;
    bool done = begin_at_end(l);
    for (int64_t i = k->n - 1; i >= 0; i--) done = pass_call(l, i) && done;
    for (int i = 0; i < l->n_buffers; i++) {
        if (b->named[i].life == LIVES_IN_CACHE) fill_cache(l, i, begin);
        for (int64_t op = 0; op < k->n && b->named[i].life == LIVES_ALWAYS; op++)
            l->bytes[op * l->n_buffers + i] = b->named[i].bytes;
    }
    return done ? STATUS_OK : no_memory(err);
}

/* ---- the timeline ---- */

/* Number of the one of that name, category and rank; a new one where there is none. */
static int number_of(struct memory_timeline *t, const struct buffer_info *of) {
    int i = 0;
    for (; i < t->n_buffers; i++) {
        const struct buffer_info *b = &t->buffers[i];
        if (b->rank == of->rank && b->category == of->category && !strcmp(b->name, of->name)) break;
    }
    if (i == t->n_buffers) {
        t->buffers[t->n_buffers++] = *of;
        t->buffers[i].bytes = 0;
    }
    t->buffers[i].bytes += of->bytes;
    return i;
}

static const char *const category_names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
    MEMORY_CATEGORY_TABLE(X)
#undef X
};

static int64_t named_bytes(const struct memory_timeline *t, int rank, int category) {
    int64_t sum = 0;
    for (int i = 0; i < t->n_buffers; i++)
        if (t->buffers[i].rank == rank && (int)t->buffers[i].category == category)
            sum += t->buffers[i].bytes;
    return sum;
}

/* What the device accounts for beside the buffers: in use from first to last. */
static void add_rest(struct memory_timeline *t, struct device *dev, int rank) {
    struct memory_use use;
    device_memory(dev, rank, &use);
    for (int c = 0; c < MEMORY_CATEGORIES; c++) {
        struct buffer_info rest = {.category = (enum memory_category)c, .rank = rank};
        rest.bytes = use.bytes[c] - named_bytes(t, rank, c);
        if (rest.bytes <= 0) continue;
        snprintf(rest.name, sizeof rest.name, "%s", category_names[c]);
        const int number = number_of(t, &rest);
        t->uses[t->n_uses++] = (struct buffer_use){0, number, rest.bytes};
    }
}

/* Rows where a buffer's use changes, before the first op from nothing; only their number where
 * there is no place for them. */
static int64_t put_changes(struct memory_timeline *t, const struct living *l,
                           const int number[BUFFERS_MAX]) {
    int64_t before[BUFFERS_MAX] = {0}, rows = 0;
    for (int64_t op = 0; op < l->calls->n; op++) {
        int64_t now[BUFFERS_MAX] = {0};
        for (int b = 0; b < l->n_buffers; b++) now[number[b]] += l->bytes[op * l->n_buffers + b];
        for (int b = 0; b < l->n_buffers; b++) {
            if (now[b] == before[b]) continue;
            if (t->uses) t->uses[t->n_uses++] = (struct buffer_use){(int32_t)op, b, now[b]};
            rows++;
        }
        memcpy(before, now, sizeof before);
    }
    return rows;
}

static enum status make_timeline(struct memory_timeline *t, const struct living *l,
                                 struct error *err) {
    enum { REST_MAX = (MAX_RANKS + 1) * MEMORY_CATEGORIES };
    const struct part *p = l->calls->p;
    int number[BUFFERS_MAX];
    t->n_ops = l->calls->n;
    t->buffers = calloc(BUFFERS_MAX + REST_MAX, sizeof *t->buffers);
    if (!t->buffers) return no_memory(err);
    for (int i = 0; i < l->n_buffers; i++) {
        const struct buffer *b = &p->buffers.named[i];
        struct buffer_info info = {.category = b->category, .rank = b->rank};
        memcpy(info.name, b->name, sizeof info.name);
        info.bytes = (int64_t)arena_bytes((size_t)b->bytes);
        number[i] = number_of(t, &info);
    }
    const int64_t rows = put_changes(t, l, number);
    t->uses = calloc((size_t)rows + REST_MAX, sizeof *t->uses);
    if (!t->uses) return no_memory(err);
    for (int rank = SHARED_RANK; rank < MAX_RANKS; rank++) add_rest(t, p->dev, rank);
    put_changes(t, l, number);
    return STATUS_OK;
}

void memory_timeline_free(struct memory_timeline *t) {
    free(t->buffers);
    free(t->uses);
    *t = (struct memory_timeline){0};
}

enum status live_find(struct memory_timeline *out, const struct part *p, const struct chunk *c,
                      struct error *err) {
    struct calls calls = {.p = p};
    for (int i = 0; i <= ASIDES; i++) calls.aside[i] = -1;
    struct living l = {.calls = &calls, .n_buffers = p->buffers.n_named};
    const struct op_sink sink = {keep_call, &calls};
    *out = (struct memory_timeline){0};
    enum status s = part_walk(p, c, &sink, &calls.step, err);
    if (s == STATUS_OK) s = compare_with_spans(&calls, err);
    if (s == STATUS_OK) {
        l.bytes = calloc((size_t)calls.n * (size_t)l.n_buffers + 1, sizeof *l.bytes);
        s = l.bytes ? follow(&l, c->start, err) : no_memory(err);
    }
    if (s == STATUS_OK) s = make_timeline(out, &l, err);
    if (s != STATUS_OK) memory_timeline_free(out);
    for (int i = 0; i < BUFFERS_MAX; i++) live_free(&l.set[i]);
    free(l.bytes);
    free(calls.v);
    free(calls.access);
    return s;
}
