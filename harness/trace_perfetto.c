/* A trace as Chrome's trace events in JSON, which Perfetto (ui.perfetto.dev, trace_processor) and
 * chrome://tracing load. Format: "Trace Event Format" of the Chromium project; only complete events
 * ("X"), counters ("C": memory in use) and metadata ("M") are used. Streamed: a million spans need
 * no memory here.
 *
 * Process 1 + D is the case on device D. Thread 1 has its chunks and, within them, layers; thread 2
 * what was done once for all its ranks; thread 3 + R the ops of rank R; the last one sums that were
 * taken beside other ops. Times are microseconds since the first chunk began, with three decimals:
 * nothing is rounded. Before it: trace.c. */
#include "harness/kernel_view.h"
#include "harness/new_file.h"
#include "harness/timeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROCESS = 1,
    CHUNKS_THREAD = 1,
    SHARED_THREAD = 2,
    RANK_THREAD = 3,
    ASIDE_THREAD = RANK_THREAD + MAX_RANKS
};

/* Kernels have processes of their own, a thread for each stream, beside that of the chunks. */
enum { KERNELS_PROCESS = MAX_RANKS, STREAM_THREAD = 2, STREAMS = 1024 };

static bool has_kernels(const struct kernel_view *v, int device) {
    for (int i = 0; i < v->n_parts; i++)
        if (v->parts[i].device == device) return true;
    return false;
}

/* Text from a file as a JSON string; what is not ASCII becomes '?'. */
static void put_text(FILE *out, const char *text) {
    putc('"', out);
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\') putc('\\', out);
        putc(*c < 0x20 || *c > 0x7e ? '?' : *c, out);
    }
    putc('"', out);
}

static void put_metadata(FILE *out, int device, int thread, const char *what, const char *name,
                         int order) {
    fprintf(out, "{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"args\":{\"name\":",
            PROCESS + device, thread, what);
    put_text(out, name);
    fputs("}},\n", out);
    fprintf(out,
            "{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"name\":\"thread_sort_index\",\"args\":{"
            "\"sort_index\":%d}},\n",
            PROCESS + device, thread, order);
}

static void put_threads(FILE *out, const struct trace *t, int device) {
    char name[TRACE_TEXT], number[40] = "";
    if (t->n_devices > 1) snprintf(number, sizeof number, ", device %d", device);
    snprintf(name, sizeof name, "%s%s", t->r->id, number);
    put_metadata(out, device, 0, "process_name", name, 0);
    put_metadata(out, device, CHUNKS_THREAD, "thread_name", "chunks and layers", 1);
    if (t->devices[device].shared.sum.calls > 0)
        put_metadata(out, device, SHARED_THREAD, "thread_name", "for all ranks", 2);
    for (int i = 0; i < MAX_RANKS; i++) {
        if (t->ranks[i].sum.calls == 0 || t->rank_device[i] != device) continue;
        snprintf(name, sizeof name, "rank %d", i);
        put_metadata(out, device, RANK_THREAD + i, "thread_name", name, 3 + i);
    }
    if (t->r->exchange_overlap)
        put_metadata(out, device, ASIDE_THREAD, "thread_name", "beside", 3 + MAX_RANKS);
}

/* Nanoseconds as microseconds: "12.345" */
static void put_us(FILE *out, const char *key, int64_t ns) {
    fprintf(out, ",\"%s\":%s%lld.%03d", key, ns < 0 ? "-" : "", llabs((long long)ns) / 1000,
            (int)(llabs((long long)ns) % 1000));
}

/* An event up to its arguments. */
static void begin_event(FILE *out, const struct trace *t, int device, int thread,
                        const char *category, int64_t begin_ns, int64_t end_ns) {
    fprintf(out, "{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"cat\":\"%s\"", PROCESS + device, thread,
            category);
    put_us(out, "ts", begin_ns - t->origin_ns);
    put_us(out, "dur", end_ns - begin_ns);
}

static void put_span(FILE *out, const struct trace *t, const struct span_row *row) {
    const struct span *s = &row->span;
    char name[TRACE_TEXT];
    const int thread = trace_is_aside(t, s) ? ASIDE_THREAD
                       : s->rank >= 0       ? RANK_THREAD + s->rank
                                            : SHARED_THREAD;
    begin_event(out, t, s->device, thread, "op", s->begin_ns, s->end_ns);
    fprintf(out,
            ",\"name\":\"%s\",\"args\":{\"kernel\":\"%s\",\"repeat\":%d,\"chunk\":%d,\"layer\":%d,"
            "\"rank\":%d,\"flops\":%lld,\"bytes\":%lld}},\n",
            trace_op_text(name, s->op, s->role), result_kernel_name(t->r, s->op, s->variant),
            row->repeat, row->chunk, s->layer, s->rank, (long long)s->flops, (long long)s->bytes);
}

/* On a GPU events may set the ends of layers a little beyond their chunk's, whose clock is the
 * host's; what stands in one thread must lie within one another. */
static int64_t within(const struct trace_chunk *c, int64_t ns) {
    return ns < c->begin_ns ? c->begin_ns : ns > c->end_ns ? c->end_ns : ns;
}

static void put_layers(FILE *out, const struct trace *t, const struct trace_chunk *c,
                       const struct trace_part *p) {
    for (int64_t first = 0, i = 0; i < p->n; first = i) {
        const int layer = p->spans[first]->span.layer;
        const int64_t end_ns = trace_layer_end(p, first, &i);
        if (layer < 0) continue;
        begin_event(out, t, p->device, CHUNKS_THREAD, "layer",
                    within(c, p->spans[first]->span.begin_ns), within(c, end_ns));
        fprintf(out, ",\"name\":\"layer %d\",\"args\":{\"layer\":%d}},\n", layer + 1, layer);
    }
}

static void put_part(FILE *out, const struct trace *t, const struct trace_chunk *c,
                     const struct trace_part *p) {
    begin_event(out, t, p->device, CHUNKS_THREAD, "chunk", c->begin_ns, c->end_ns);
    fprintf(out, ",\"name\":\"chunk %d\",\"args\":{\"repeat\":%d,\"chunk\":%d", c->chunk + 1,
            c->repeat, c->chunk);
    if (c->row)
        fprintf(out, ",\"start_token\":%d,\"n_tokens\":%d,\"flops\":%lld,\"bytes\":%lld",
                c->row->start_token, c->row->n_tokens, (long long)c->row->flops,
                (long long)c->row->bytes);
    fputs("}},\n", out);
    put_layers(out, t, c, p);
    for (int64_t i = 0; i < p->n; i++) put_span(out, t, p->spans[i]);
}

/* ---- memory in use ---- */

struct counting {
    FILE *out;
    const struct trace *t;
    int device;
    int64_t last[MEMORY_CATEGORIES];
};

static void put_counter(const struct counting *c, int category, int64_t at_ns, int64_t bytes) {
    static const char *const names[] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    fprintf(c->out, "{\"ph\":\"C\",\"pid\":%d,\"cat\":\"memory\",\"name\":\"memory: %s\"",
            PROCESS + c->device, names[category]);
    put_us(c->out, "ts", at_ns - c->t->origin_ns);
    fprintf(c->out, ",\"args\":{\"bytes\":%lld}},\n", (long long)bytes);
}

/* A point of a category's curve where what an op has in use differs from what the last one had. */
static void put_counters(void *ctx, const struct span_row *op, const int64_t *bytes) {
    struct counting *c = ctx;
    int64_t now[MEMORY_CATEGORIES] = {0};
    for (int64_t i = 0; i < c->t->r->n_buffers; i++)
        if (c->t->r->buffers[i].device == c->device)
            now[c->t->r->buffers[i].buffer.category] += bytes[i];
    for (int k = 0; k < MEMORY_CATEGORIES; k++)
        if (now[k] != c->last[k]) put_counter(c, k, op->span.begin_ns, now[k]);
    memcpy(c->last, now, sizeof now);
}

/* NULL: that chunk is not shown. */
static const struct trace_chunk *chunk_shown(const struct trace *t, int32_t repeat, int32_t chunk) {
    for (int i = 0; i < t->n_chunks; i++)
        if (t->chunks[i].repeat == repeat && t->chunks[i].chunk == chunk) return &t->chunks[i];
    return NULL;
}

static bool has_part(const struct timeline *tl, const struct timeline_part *of, int32_t chunk) {
    for (int i = 0; i < tl->n_parts; i++)
        if (tl->parts[i].repeat == of->repeat && tl->parts[i].chunk == chunk &&
            tl->parts[i].device == of->device)
            return true;
    return false;
}

/* Of the chunks that have a timeline. A curve keeps its last value: before a chunk of which nothing
 * is known it falls to 0. */
static void put_memory(FILE *out, const struct trace *t) {
    struct timeline tl;
    if (timeline_open(&tl, t->r, -1, NULL) != STATUS_OK) return;
    for (int i = 0; i < tl.n_parts; i++) {
        const struct timeline_part *p = &tl.parts[i];
        const struct trace_chunk *chunk = chunk_shown(t, p->repeat, p->chunk);
        struct counting c = {.out = out, .t = t, .device = p->device};
        memset(c.last, -1, sizeof c.last);
        if (!chunk) continue;
        timeline_walk(&tl, p, put_counters, &c);
        if (chunk_shown(t, p->repeat, p->chunk + 1) && has_part(&tl, p, p->chunk + 1)) continue;
        for (int k = 0; k < MEMORY_CATEGORIES; k++)
            if (c.last[k] > 0) put_counter(&c, k, chunk->end_ns, 0);
    }
    timeline_close(&tl);
}

/* ---- kernels ---- */

/* What lies in one track must lie within one another: a kernel that begins before the one before it
 * on its stream has ended gets a second track. */
struct lanes {
    int64_t end_ns[STREAMS];
    bool named[2 * STREAMS];
};

/* The thread that a kernel is put to; its name comes with the first. */
static int lane_of(FILE *out, struct lanes *l, const struct activity_kernel *k, int process) {
    const int stream = (int)(k->stream % STREAMS);
    const bool beside = k->head.begin_ns < l->end_ns[stream];
    const int lane = 2 * stream + beside;
    char name[TRACE_TEXT];
    if (!beside) l->end_ns[stream] = k->head.end_ns;
    if (!l->named[lane]) {
        l->named[lane] = true;
        snprintf(name, sizeof name, "stream %d%s", stream, beside ? ", at once" : "");
        put_metadata(out, process, STREAM_THREAD + lane, "thread_name", name, 1 + lane);
    }
    return STREAM_THREAD + lane;
}

static void put_kernel(FILE *out, const struct trace *t, const struct activity_kernel *k,
                       struct lanes *lanes) {
    const struct kernel_view *v = t->kernels;
    const struct op_place *p = &k->head.place;
    char op[TRACE_TEXT];
    const int process = KERNELS_PROCESS + kernel_device(k);
    const int thread = lane_of(out, lanes, k, process);
    begin_event(out, t, process, thread, "kernel", k->head.begin_ns, k->head.end_ns);
    fputs(",\"name\":", out);
    put_text(out, activity_log_text(v->log, k->short_name));
    fprintf(out, ",\"args\":{\"op\":\"%s\",\"layer\":%d,\"rank\":%d,\"chunk\":%d,",
            kernel_op_text(op, p), p->layer, p->rank, k->head.chunk);
    fprintf(out,
            "\"grid\":\"%d %d %d\",\"block\":\"%d %d %d\",\"registers\":%d,\"static_shared\":%d,"
            "\"dynamic_shared\":%d,\"correlation\":%u,\"graph_node\":\"%llu\",\"demangled\":",
            k->grid[0], k->grid[1], k->grid[2], k->block[0], k->block[1], k->block[2], k->registers,
            k->static_shared, k->dynamic_shared, k->correlation, (unsigned long long)k->graph_node);
    put_text(out, activity_log_text(v->log, k->demangled));
    fputs("}},\n", out);
}

/* One device's, chunk by chunk. */
static void put_kernels_of(FILE *out, const struct trace *t, int device) {
    const struct kernel_view *v = t->kernels;
    struct lanes lanes = {{0}, {false}};
    const int process = KERNELS_PROCESS + device;
    char name[TRACE_TEXT];
    snprintf(name, sizeof name, "kernels by CUPTI, GPU %d", device);
    put_metadata(out, process, 0, "process_name", name, 0);
    put_metadata(out, process, CHUNKS_THREAD, "thread_name", "chunks", 0);
    for (int i = 0; i < v->n_parts; i++) {
        const struct kernel_part *p = &v->parts[i];
        if (p->device != device) continue;
        begin_event(out, t, process, CHUNKS_THREAD, "chunk", p->row->begin_ns,
                    p->row->begin_ns + p->row->latency_ns);
        fprintf(out, ",\"name\":\"chunk %d\",\"args\":{\"chunk\":%d,\"start_token\":%d}},\n",
                p->row->chunk + 1, p->row->chunk, p->row->start_token);
        for (int64_t k = 0; k < p->n; k++) put_kernel(out, t, v->kernels[p->first + k], &lanes);
    }
}

static void put_kernels(FILE *out, const struct trace *t) {
    for (int i = 0; t->kernels && i < MAX_RANKS; i++)
        if (has_kernels(t->kernels, i)) put_kernels_of(out, t, i);
}

static void put_label(FILE *out, const char *comma, int process, const char *label) {
    fprintf(out,
            "%s{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_labels\",\"args\":{"
            "\"labels\":",
            comma, PROCESS + process);
    put_text(out, label);
    fputs("}}", out);
}

/* The last events of the list, whose place is free: the last has no comma after it. */
static void put_labels(FILE *out, const struct trace *t) {
    const char *comma = "";
    for (int i = 0; i < MAX_RANKS; i++) {
        if (t->devices[i].all.sum.calls > 0) {
            put_label(out, comma, i, t->r->dropped_spans > 0 ? "spans are missing" : t->r->device);
            comma = ",\n";
        }
        if (t->kernels && has_kernels(t->kernels, i)) {
            put_label(out, comma, KERNELS_PROCESS + i,
                      t->kernels->log->dropped > 0 ? "records are missing"
                                                   : "recorded in a run of their own");
            comma = ",\n";
        }
    }
}

static void put_trace(FILE *out, const struct record_run *run, const struct trace *t) {
    fputs("{\"displayTimeUnit\":\"ns\",\"otherData\":{\"tool\":\"chunkbench\",\"case\":", out);
    put_text(out, t->r->id);
    fputs(",\"host\":", out);
    put_text(out, run->facts.hostname);
    fprintf(out,
            ",\"begin_monotonic_ns\":\"%lld\",\"dropped_spans\":\"%lld\",\"dropped_records\":\"%"
            "lld\"},\n",
            (long long)t->origin_ns, (long long)t->r->dropped_spans,
            (long long)t->r->kernel_trace.log.dropped);
    fputs("\"traceEvents\":[\n", out);
    for (int i = 0; i < MAX_RANKS; i++)
        if (t->devices[i].all.sum.calls > 0) put_threads(out, t, i);
    for (int i = 0; i < t->n_chunks; i++)
        for (int k = 0; k < t->chunks[i].n_parts; k++)
            put_part(out, t, &t->chunks[i], &t->chunks[i].parts[k]);
    put_memory(out, t);
    put_kernels(out, t);
    put_labels(out, t);
    fputs("\n]}\n", out);
}

enum status trace_perfetto(const char *path, const struct record_run *run, const struct trace *t,
                           struct error *err) {
    struct new_file f;
    enum status s = new_file_begin(&f, path, err);
    if (s != STATUS_OK) return s;
    FILE *out = fopen(f.temporary, "we");
    if (out) put_trace(out, run, t);
    const bool bad = !out || ferror(out);
    if ((out && fclose(out) != 0) || bad) {
        s = error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
        new_file_drop(&f);
        return s;
    }
    return new_file_end(&f, err);
}
