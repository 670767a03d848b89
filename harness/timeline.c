/* Rows of memory in use: from the engine's chunk to the result, and from the result to its readers.
 * See timeline.h. */
#include "harness/timeline.h"

#include "harness/trace.h"

#include <stdlib.h>
#include <string.h>

/* ---- the worker's side ---- */

/* Place of a device's first buffer in the result, or -1. */
static int64_t first_buffer(const struct case_result *r, int device) {
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (r->buffers[i].device == device) return i;
    return -1;
}

/* All chunks have the same buffers; a later one finds them there. */
static enum status keep_buffers(struct case_result *out, const struct memory_timeline *m,
                                int device, int64_t *first, struct error *err) {
    enum status s = STATUS_OK;
    *first = first_buffer(out, device);
    if (*first >= 0) {
        for (int i = 0; i < m->n_buffers; i++) {
            const struct buffer_row *b = &out->buffers[*first + i];
            if (*first + i >= out->n_buffers || b->device != device ||
                strcmp(b->buffer.name, m->buffers[i].name) != 0)
                return error_set(err, STATUS_INVALID,
                                 "the buffers are not those of the chunk before");
        }
        return s;
    }
    *first = out->n_buffers;
    for (int i = 0; s == STATUS_OK && i < m->n_buffers; i++)
        s = result_add_buffers(out, &(struct buffer_row){device, m->buffers[i]}, 1, err);
    return s;
}

enum status timeline_keep(struct case_result *out, struct session *session, int device,
                          int64_t first_span, struct error *err) {
    struct memory_timeline m;
    int64_t first = 0;
    enum status s = session_memory_timeline(session, device, &m, err);
    if (s == STATUS_OK) s = keep_buffers(out, &m, device, &first, err);
    for (int64_t i = 0; s == STATUS_OK && i < m.n_uses; i++) {
        const struct buffer_use *u = &m.uses[i];
        const struct buffer_use_row row = {first_span + u->op, (int32_t)first + u->buffer,
                                           u->bytes};
        s = result_add_buffer_uses(out, &row, 1, err);
    }
    memory_timeline_free(&m);
    return s;
}

/* ---- the readers' side ---- */

static bool same_part(const struct span_row *a, const struct span_row *b) {
    return a->repeat == b->repeat && a->chunk == b->chunk && a->span.device == b->span.device;
}

/* Spans from `first` to before `end`, where something was said of them. */
static void add_part(struct timeline *t, int64_t first, int64_t end, int64_t *use) {
    const struct case_result *r = t->r;
    const int64_t begin = *use;
    while (*use < r->n_buffer_uses && r->buffer_uses[*use].span < end) ++*use;
    if (*use == begin) return;
    const struct span_row *s = &r->spans[first];
    t->parts[t->n_parts++] = (struct timeline_part){.repeat = s->repeat,
                                                    .chunk = s->chunk,
                                                    .device = s->span.device,
                                                    .first_span = first,
                                                    .end_span = end,
                                                    .uses = &r->buffer_uses[begin],
                                                    .n_uses = *use - begin};
}

static int64_t count_parts(const struct case_result *r) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_spans; i++)
        n += i == 0 || !same_part(&r->spans[i], &r->spans[i - 1]);
    return n;
}

/* Tells whether it is one of them. */
static bool keep_chunk(struct timeline *t, int chunk) {
    int n = 0;
    for (int i = 0; i < t->n_parts; i++)
        if (chunk < 0 || t->parts[i].chunk == chunk) t->parts[n++] = t->parts[i];
    if (n > 0) t->n_parts = n;
    return n > 0;
}

static enum status nothing_there(const struct timeline *t, int chunk, struct error *err) {
    const struct case_result *r = t->r;
    char list[TRACE_TEXT];
    if (t->n_parts > 0)
        return error_set(err, STATUS_USAGE,
                         "chunk %d of %s has no memory timeline; chunks that have one: %s",
                         chunk + 1, r->id,
                         trace_chunk_list(list, &t->parts[0].chunk, sizeof *t->parts, t->n_parts));
    return error_set(err, STATUS_INVALID,
                     "%s has no memory timeline: it has no spans, or the file is older than "
                     "timelines; `--set run.spans=all` records both in a pass of its own",
                     r->id);
}

enum status timeline_open(struct timeline *t, const struct case_result *r, int chunk,
                          struct error *err) {
    *t = (struct timeline){.r = r};
    t->parts = calloc((size_t)count_parts(r) + 1, sizeof *t->parts);
    t->bytes = calloc((size_t)r->n_buffers + 1, sizeof *t->bytes);
    if (!t->parts || !t->bytes) {
        timeline_close(t);
        return error_set(err, STATUS_NO_MEMORY, "no memory for the timeline");
    }
    int64_t use = 0;
    for (int64_t first = 0, i = 1; i <= r->n_spans; i++) {
        if (i < r->n_spans && same_part(&r->spans[i], &r->spans[first])) continue;
        add_part(t, first, i, &use);
        first = i;
    }
    if (keep_chunk(t, chunk)) return STATUS_OK;
    const enum status s = nothing_there(t, chunk, err);
    timeline_close(t);
    return s;
}

void timeline_close(struct timeline *t) {
    free(t->parts);
    free(t->bytes);
    t->parts = NULL, t->bytes = NULL, t->n_parts = 0;
}

void timeline_walk(struct timeline *t, const struct timeline_part *p, timeline_seer *see,
                   void *ctx) {
    memset(t->bytes, 0, (size_t)t->r->n_buffers * sizeof *t->bytes);
    int64_t use = 0;
    for (int64_t i = p->first_span; i < p->end_span; i++) {
        for (; use < p->n_uses && p->uses[use].span <= i; use++)
            t->bytes[p->uses[use].buffer] = p->uses[use].bytes;
        see(ctx, &t->r->spans[i], t->bytes);
    }
}

bool timeline_counts(const struct buffer_row *b, int device, int rank) {
    return b->device == device &&
           (rank == TIMELINE_DEVICE || b->buffer.rank == rank || b->buffer.rank == SHARED_RANK);
}

struct search {
    const struct timeline *t;
    int device, rank;
    struct timeline_peak peak;
    int64_t *then; /* what was in use at the peak */
};

static void look(void *ctx, const struct span_row *op, const int64_t *bytes) {
    struct search *s = ctx;
    const struct case_result *r = s->t->r;
    int64_t sum = 0;
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (timeline_counts(&r->buffers[i], s->device, s->rank)) sum += bytes[i];
    if (s->peak.op && sum <= s->peak.bytes) return;
    s->peak.op = op, s->peak.bytes = sum;
    if (s->then) memcpy(s->then, bytes, (size_t)r->n_buffers * sizeof *bytes);
}

struct timeline_peak timeline_find_peak(struct timeline *t, const struct timeline_part *p,
                                        int rank) {
    const struct case_result *r = t->r;
    struct search s = {.t = t, .device = p->device, .rank = rank};
    s.then = calloc((size_t)r->n_buffers + 1, sizeof *s.then);
    timeline_walk(t, p, look, &s);
    for (int64_t i = 0; i < r->n_buffers; i++)
        if (timeline_counts(&r->buffers[i], p->device, rank))
            s.peak.reserved += r->buffers[i].buffer.bytes;
    if (s.then) memcpy(t->bytes, s.then, (size_t)r->n_buffers * sizeof *t->bytes);
    free(s.then);
    return s.peak;
}
