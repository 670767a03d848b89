/* What CUPTI recorded, in the group trace of a case: tables with the names and fields of an Nsight
 * Systems export, so that whoever reads those reads these. Times in them are ns since the session
 * began, which TARGET_INFO_SESSION_START_TIME (UTC) and the attribute session_begin_ns
 * (CLOCK_MONOTONIC) tell. It began when that clock did: session_begin_ns is 0, and times are those
 * of all other tables. In older files it began with the first traced chunk. Fields of ours come
 * last: repeat, chunk, rank, layer, op_id, deviceOfRun. Before it: record_write.c, record_read.c.
 */
#include "harness/record_schema.h"

#include "kernels/gpu_list.h"

#include <stdlib.h>
#include <time.h>

/* ---- columns */

struct kernel_record {
    struct activity_kernel k;
    int32_t op_id;
    uint64_t process; /* as NVIDIA numbers it: a thread's number of it, without the thread */
};
struct copy_record {
    struct activity_copy c;
    int32_t op_id;
    uint64_t process;
};
struct call_record {
    struct activity_call c;
    int32_t op_id;
    uint64_t thread; /* process and thread in one, as NVIDIA numbers them */
};
struct range_record {
    struct activity_range r;
    uint64_t thread;
    int32_t event_type, domain;
};
struct overhead_record {
    struct activity_overhead o;
    uint64_t thread;
    int32_t name;
};
struct node_record {
    struct activity_node n;
    int32_t op_id, name;
    uint64_t thread;
};
struct memory_record {
    struct activity_memory m;
    uint64_t process;
    int32_t kind, operation;
};
struct string_record {
    int32_t id;
    char value[1024];
};
struct session_record {
    int64_t utc_ns;
};
struct gpu_record {
    int32_t id, major, minor;
    int64_t memory_bytes;
    char name[96], bus_id[32], uuid[96];
};

enum { PUSH_POP_RANGE = 59 };

#define SINCE "CLOCK_MONOTONIC less the group's session_begin_ns"
#define TIMES(row, head)                                                                           \
    {"start", SIGNED, FIELD(row, head.begin_ns), "ns", SINCE}, {                                   \
        "end", SIGNED, FIELD(row, head.end_ns), "ns", SINCE                                        \
    }
#define CHUNK(row, head)                                                                           \
    {"repeat", SIGNED, FIELD(row, head.repeat), "1", ""}, {                                        \
        "chunk", SIGNED, FIELD(row, head.chunk), "1", "number in the prompt, from 0; -1: before"   \
    }
#define OURS(row, head)                                                                            \
    CHUNK(row, head), {"rank", SIGNED, FIELD(row, head.place.rank), "1", "-1: for all at once"},   \
        {"layer", SIGNED, FIELD(row, head.place.layer), "1", "-1: outside the layers"},            \
        {"op_id", SIGNED, FIELD(row, op_id), "1", "row of the table trace/ops; -1: nobody's"}, {   \
        "deviceOfRun", UNSIGNED, FIELD(row, head.place.device), "1", "from 0"                      \
    }
#define BYTES(row, name, field)                                                                    \
    { name, SIGNED, FIELD(row, field), "bytes", "" }
#define N(row, name, kind, field)                                                                  \
    { name, kind, FIELD(row, field), "", "" }

static const struct column kernel_columns[] = {
    TIMES(kernel_record, k.head),
    N(kernel_record, "deviceId", UNSIGNED, k.device),
    N(kernel_record, "contextId", UNSIGNED, k.context),
    N(kernel_record, "streamId", UNSIGNED, k.stream),
    N(kernel_record, "correlationId", UNSIGNED, k.correlation),
    N(kernel_record, "demangledName", SIGNED, k.demangled),
    N(kernel_record, "shortName", SIGNED, k.short_name),
    N(kernel_record, "mangledName", SIGNED, k.mangled),
    {"launchType", SIGNED, FIELD(kernel_record, k.launch_type), "", "CUPTI's number"},
    N(kernel_record, "registersPerThread", SIGNED, k.registers),
    N(kernel_record, "gridX", SIGNED, k.grid[0]),
    N(kernel_record, "gridY", SIGNED, k.grid[1]),
    N(kernel_record, "gridZ", SIGNED, k.grid[2]),
    N(kernel_record, "blockX", SIGNED, k.block[0]),
    N(kernel_record, "blockY", SIGNED, k.block[1]),
    N(kernel_record, "blockZ", SIGNED, k.block[2]),
    BYTES(kernel_record, "staticSharedMemory", k.static_shared),
    BYTES(kernel_record, "dynamicSharedMemory", k.dynamic_shared),
    BYTES(kernel_record, "localMemoryPerThread", k.local_per_thread),
    BYTES(kernel_record, "sharedMemoryExecuted", k.shared_executed),
    N(kernel_record, "graphNodeId", UNSIGNED, k.graph_node),
    OURS(kernel_record, k.head),
    N(kernel_record, "globalPid", UNSIGNED, process),
};

#define COPY_HEAD                                                                                  \
    TIMES(copy_record, c.head), N(copy_record, "deviceId", UNSIGNED, c.device),                    \
        N(copy_record, "contextId", UNSIGNED, c.context),                                          \
        N(copy_record, "streamId", UNSIGNED, c.stream),                                            \
        N(copy_record, "correlationId", UNSIGNED, c.correlation),                                  \
        BYTES(copy_record, "bytes", c.bytes),                                                      \
        N(copy_record, "graphNodeId", UNSIGNED, c.graph_node)
static const struct column copy_columns[] = {
    COPY_HEAD,
    N(copy_record, "copyKind", UNSIGNED, c.kind),
    {"srcKind", UNSIGNED, FIELD(copy_record, c.from), "", "CUPTI's number"},
    {"dstKind", UNSIGNED, FIELD(copy_record, c.to), "", "CUPTI's number"},
    OURS(copy_record, c.head),
    N(copy_record, "globalPid", UNSIGNED, process),
};
static const struct column fill_columns[] = {
    COPY_HEAD,
    N(copy_record, "value", UNSIGNED, c.value),
    {"memKind", UNSIGNED, FIELD(copy_record, c.to), "", "CUPTI's number"},
    OURS(copy_record, c.head),
    N(copy_record, "globalPid", UNSIGNED, process),
};
static const struct column call_columns[] = {
    TIMES(call_record, c.head),
    N(call_record, "eventClass", UNSIGNED, c.driver),
    N(call_record, "globalTid", UNSIGNED, thread),
    N(call_record, "correlationId", UNSIGNED, c.correlation),
    N(call_record, "nameId", SIGNED, c.name),
    N(call_record, "returnValue", UNSIGNED, c.result),
    OURS(call_record, c.head),
};
static const struct column range_columns[] = {
    TIMES(range_record, r.head),
    N(range_record, "eventType", SIGNED, event_type),
    N(range_record, "globalTid", UNSIGNED, thread),
    N(range_record, "textId", SIGNED, r.name),
    N(range_record, "domainNameId", SIGNED, r.domain),
    CHUNK(range_record, r.head),
    {"domainId", SIGNED, FIELD(range_record, domain), "", "the string of its name, too"},
};
static const struct column overhead_columns[] = {
    TIMES(overhead_record, o.head),
    N(overhead_record, "globalTid", UNSIGNED, thread),
    N(overhead_record, "nameId", SIGNED, name),
    N(overhead_record, "overheadKind", SIGNED, o.kind),
    CHUNK(overhead_record, o.head),
};
static const struct column node_columns[] = {
    TIMES(node_record, n.head),
    N(node_record, "nameId", SIGNED, name),
    N(node_record, "globalTid", UNSIGNED, thread),
    N(node_record, "graphNodeId", UNSIGNED, n.node),
    {"originalGraphNodeId", UNSIGNED, FIELD(node_record, n.original), "", "0: captured itself"},
    OURS(node_record, n.head),
};
static const struct column allocation_columns[] = {
    {"start", SIGNED, FIELD(memory_record, m.head.begin_ns), "ns", SINCE},
    N(memory_record, "globalPid", UNSIGNED, process),
    N(memory_record, "deviceId", UNSIGNED, m.device),
    N(memory_record, "contextId", UNSIGNED, m.context),
    N(memory_record, "address", UNSIGNED, m.address),
    N(memory_record, "pc", UNSIGNED, m.pc),
    BYTES(memory_record, "bytes", m.bytes),
    {"memKind", SIGNED, FIELD(memory_record, kind), "", "1: pinned, 2: device"},
    {"memoryOperationType", SIGNED, FIELD(memory_record, operation), "",
     "0: allocated, 1: released"},
    N(memory_record, "correlationId", UNSIGNED, m.correlation),
    N(memory_record, "streamId", UNSIGNED, m.stream),
    CHUNK(memory_record, m.head),
};
static const struct column string_columns[] = {
    N(string_record, "id", SIGNED, id),
    N(string_record, "value", TEXT, value),
};
static const struct column session_columns[] = {
    {"utcEpochNs", SIGNED, FIELD(session_record, utc_ns), "ns", "since 1970"},
};
static const struct column target_gpu_columns[] = {
    N(gpu_record, "id", SIGNED, id),
    N(gpu_record, "name", TEXT, name),
    N(gpu_record, "busLocation", TEXT, bus_id),
    N(gpu_record, "uuid", TEXT, uuid),
    BYTES(gpu_record, "totalMemory", memory_bytes),
    N(gpu_record, "computeMajor", SIGNED, major),
    N(gpu_record, "computeMinor", SIGNED, minor),
};
static const struct column trace_facts[] = {
    N(case_result, "note", TEXT, kernel_trace.note),
    N(case_result, "cupti_version", UNSIGNED, kernel_trace.cupti_version),
    N(case_result, "dropped_records", SIGNED, kernel_trace.log.dropped),
};

#define WRITE_ROWS(h, g, name, columns, rows, n, description)                                      \
    h5_write_compound(h, g, name, columns, COLUMNS(columns), rows, sizeof *(rows), n, description)

/* ---- writing */

struct trace_writer {
    struct h5 *h;
    h5_id g;
    const struct case_result *r;
    const struct activity_log *log;
    struct op_numbers *ops; /* owned */
};

static int32_t op_id(struct trace_writer *w, struct op_place p) {
    const struct span s = {.op = p.op, .role = p.role, .variant = p.variant};
    return p.op == PLACE_UNKNOWN ? -1 : record_op_number(w->h, w->ops, w->r, &s);
}

static uint64_t thread_of(uint32_t process, uint32_t thread) {
    return (uint64_t)process << 24 | (thread & 0xffffff);
}

/* The one that recorded. */
static uint64_t process_of(const struct activity_log *log) {
    return log->n_calls > 0 ? thread_of(log->calls[0].process, 0) : 0;
}

static void write_kernels(struct trace_writer *w) {
    const int64_t n = w->log->n_kernels;
    struct kernel_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "kernels") && i < n; i++)
        rows[i] = (struct kernel_record){
            w->log->kernels[i], op_id(w, w->log->kernels[i].head.place), process_of(w->log)};
    WRITE_ROWS(w->h, w->g, "CUPTI_ACTIVITY_KIND_KERNEL", kernel_columns, rows, n,
               "kernels of the GPU, each with the op that it belongs to");
    free(rows);
}

/* Copies, or (set) fills. */
static void write_copies(struct trace_writer *w, bool set) {
    struct copy_record *rows = calloc((size_t)w->log->n_copies + 1, sizeof *rows);
    int64_t n = 0;
    for (int64_t i = 0; h5_check_memory(w->h, rows, "copies") && i < w->log->n_copies; i++) {
        const struct activity_copy *c = &w->log->copies[i];
        if (c->set == set)
            rows[n++] = (struct copy_record){*c, op_id(w, c->head.place), process_of(w->log)};
    }
    if (set)
        WRITE_ROWS(w->h, w->g, "CUPTI_ACTIVITY_KIND_MEMSET", fill_columns, rows, n,
                   "fills of memory");
    else
        WRITE_ROWS(w->h, w->g, "CUPTI_ACTIVITY_KIND_MEMCPY", copy_columns, rows, n,
                   "copies of memory");
    free(rows);
}

static void write_calls(struct trace_writer *w) {
    const int64_t n = w->log->n_calls;
    struct call_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "calls") && i < n; i++) {
        const struct activity_call *c = &w->log->calls[i];
        rows[i] =
            (struct call_record){*c, op_id(w, c->head.place), thread_of(c->process, c->thread)};
    }
    WRITE_ROWS(w->h, w->g, "CUPTI_ACTIVITY_KIND_RUNTIME", call_columns, rows, n,
               "calls of CUDA's runtime (eventClass 0) and driver (1)");
    free(rows);
}

static void write_ranges(struct trace_writer *w) {
    const int64_t n = w->log->n_ranges;
    struct range_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "ranges") && i < n; i++) {
        const struct activity_range *r = &w->log->ranges[i];
        rows[i] =
            (struct range_record){*r, thread_of(r->process, r->thread), PUSH_POP_RANGE, r->domain};
    }
    WRITE_ROWS(w->h, w->g, "NVTX_EVENTS", range_columns, rows, n, "NVTX ranges, by the host");
    free(rows);
}

/* name: the string of what they all are. */
static void write_nodes(struct trace_writer *w, int32_t name) {
    const int64_t n = w->log->n_nodes;
    struct node_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "nodes") && i < n; i++) {
        const struct activity_node *node = &w->log->nodes[i];
        rows[i] = (struct node_record){*node, op_id(w, node->head.place), name,
                                       thread_of(node->process, node->thread)};
    }
    WRITE_ROWS(w->h, w->g, "CUDA_GRAPH_NODE_EVENTS", node_columns, rows, n,
               "nodes of CUDA graphs, when they were captured or copied, each with its op");
    free(rows);
}

static void write_memory(struct trace_writer *w) {
    const int64_t n = w->log->n_memory;
    struct memory_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "memory") && i < n; i++) {
        const struct activity_memory *m = &w->log->memory[i];
        rows[i] = (struct memory_record){*m, thread_of(m->process, 0),
                                         activity_memory_kind(m->kind), m->release};
    }
    WRITE_ROWS(w->h, w->g, "CUDA_GPU_MEMORY_USAGE_EVENTS", allocation_columns, rows, n,
               "memory that CUDA allocated and released since the worker began");
    free(rows);
}

/* names: the string of each one's kind. */
static void write_overheads(struct trace_writer *w, const int32_t *names) {
    const int64_t n = w->log->n_overheads;
    struct overhead_record *rows = calloc((size_t)n + 1, sizeof *rows);
    for (int64_t i = 0; h5_check_memory(w->h, rows, "overheads") && i < n; i++) {
        const struct activity_overhead *o = &w->log->overheads[i];
        rows[i] = (struct overhead_record){*o, thread_of(o->process, o->thread), names[i]};
    }
    WRITE_ROWS(w->h, w->g, "PROFILER_OVERHEAD", overhead_columns, rows, n,
               "what tracing cost, and what the driver does once");
    free(rows);
}

/* Nanoseconds that recording took of the host while the chunks ran. */
static void write_overhead(struct trace_writer *w) {
    int64_t ns = 0;
    for (int64_t i = 0; i < w->log->n_overheads; i++) {
        const struct activity_overhead *o = &w->log->overheads[i];
        if (o->head.chunk >= 0 && activity_overhead_of_recording(o->kind))
            ns += o->head.end_ns - o->head.begin_ns;
    }
    h5_write_int_attribute(w->h, w->g, "overhead", ns);
}

static void write_gpus(struct trace_writer *w) {
    const struct gpu_list *gpus = gpu_list_machine();
    struct gpu_record rows[GPU_LIST_MOST + 1] = {0};
    for (int i = 0; i < gpus->n; i++) {
        const struct nvml_gpu *g = &gpus->gpu[i];
        rows[i] = (struct gpu_record){
            i, g->capability / 10, g->capability % 10, g->memory_bytes, "", "", ""};
        record_copy_text(rows[i].name, sizeof rows->name, g->name);
        record_copy_text(rows[i].bus_id, sizeof rows->bus_id, g->bus_id);
        record_copy_text(rows[i].uuid, sizeof rows->uuid, g->uuid);
    }
    WRITE_ROWS(w->h, w->g, "TARGET_INFO_GPU", target_gpu_columns, rows, gpus->n,
               "the machine's GPUs, by NVML's numbers");
}

/* Names of overheads stand behind the log's own strings, one for each row; behind those that of
 * nodes, whose number is returned. */
static int32_t write_strings(struct trace_writer *w, int32_t *overhead_names) {
    const int64_t own = w->log->n_strings, n = own + w->log->n_overheads + 1;
    struct string_record *rows = calloc((size_t)n + 1, sizeof *rows);
    int64_t used = 0;
    if (!h5_check_memory(w->h, rows, "names")) return 0;
    for (; used < own; used++)
        record_copy_text(rows[used].value, sizeof rows->value, w->log->strings[used]);
    for (int64_t i = 0; i < w->log->n_overheads; i++) {
        const char *name = activity_overhead_name(w->log->overheads[i].kind);
        int64_t at = own;
        while (at < used && strcmp(rows[at].value, name) != 0) at++;
        if (at == used) record_copy_text(rows[used++].value, sizeof rows->value, name);
        overhead_names[i] = (int32_t)at;
    }
    record_copy_text(rows[used++].value, sizeof rows->value, ACTIVITY_NODE_NAME);
    for (int64_t i = 0; i < used; i++) rows[i].id = (int32_t)i;
    WRITE_ROWS(w->h, w->g, "StringIds", string_columns, rows, used, "what numbers of names mean");
    free(rows);
    return (int32_t)used - 1;
}

/* When CLOCK_MONOTONIC was 0, by two clocks read together. */
static void write_session(struct trace_writer *w) {
    struct timespec real, monotonic;
    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    const int64_t ahead_ns =
        (int64_t)(real.tv_sec - monotonic.tv_sec) * 1000000000 + (real.tv_nsec - monotonic.tv_nsec);
    const struct session_record row = {ahead_ns}, *rows = &row;
    WRITE_ROWS(w->h, w->g, "TARGET_INFO_SESSION_START_TIME", session_columns, rows, 1,
               "when times of these tables were 0");
    h5_write_int_attribute(w->h, w->g, "session_begin_ns", 0);
}

static void write_tables(struct trace_writer *w) {
    int32_t *names = calloc((size_t)w->log->n_overheads + 1, sizeof *names);
    w->ops = calloc(1, sizeof *w->ops);
    if (h5_check_memory(w->h, names, "names") && h5_check_memory(w->h, w->ops, "ops")) {
        const int32_t node_name = write_strings(w, names);
        write_kernels(w);
        write_copies(w, false);
        write_copies(w, true);
        write_calls(w);
        write_ranges(w);
        write_overheads(w, names);
        write_overhead(w);
        write_gpus(w);
        write_nodes(w, node_name);
        write_memory(w);
        write_session(w);
        h5_close_group(h5_write_table(w->h, w->g, "ops", op_columns, COLUMNS(op_columns),
                                      w->ops->row, sizeof *w->ops->row, w->ops->n));
        h5_close_group(h5_write_table(w->h, w->g, "chunks", chunk_columns, COLUMNS(chunk_columns),
                                      w->r->kernel_trace.chunks, sizeof *w->r->kernel_trace.chunks,
                                      w->r->kernel_trace.n_chunks));
    }
    free(w->ops);
    free(names);
}

void record_write_trace(struct h5 *h, h5_id at, const struct case_result *r) {
    if (!r->kernel_trace.wanted) return;
    struct trace_writer w = {
        .h = h, .g = h5_create_group(h, at, TRACE_GROUP), .r = r, .log = &r->kernel_trace.log};
    h5_write_attributes(h, w.g, trace_facts, COLUMNS(trace_facts), r);
    if (r->kernel_trace.n_chunks > 0) write_tables(&w);
    h5_close_group(w.g);
}

/* ---- reading: from files that may say anything */

struct trace_reader {
    struct h5 *h;
    h5_id g;
    struct activity_log *log;
    struct span *ops; /* what each op_id stands for; owned */
    int64_t n_ops;
    int32_t *strings; /* numbers of the log for those of the file; owned */
    int64_t n_strings;
    int64_t begin_ns;
};

#define READ_COMPOUND(t, name, columns, type, n)                                                   \
    h5_read_compound((t)->h, (t)->g, name, columns, COLUMNS(columns), sizeof(type), n)
/* Without the last column, which older files lack and nothing here needs. */
#define READ_BUT_LAST(t, name, columns, type, n)                                                   \
    h5_read_compound((t)->h, (t)->g, name, columns, COLUMNS(columns) - 1, sizeof(type), n)

static void failed(struct trace_reader *t, enum status s) {
    if (s != STATUS_OK) h5_check_memory(t->h, NULL, TRACE_GROUP);
}

/* Times of our clock, and the place; false: there is no such op, rank, device or time. */
static bool read_head(struct trace_reader *t, struct activity_head *head, int32_t id) {
    struct op_place *p = &head->place;
    const bool times = head->begin_ns <= head->end_ns &&
                       !__builtin_add_overflow(head->begin_ns, t->begin_ns, &head->begin_ns) &&
                       !__builtin_add_overflow(head->end_ns, t->begin_ns, &head->end_ns) &&
                       head->begin_ns >= 0;
    const bool place = id >= -1 && id < t->n_ops && p->rank >= SHARED_RANK && p->rank < MAX_RANKS &&
                       p->layer >= -1 && p->device < MAX_RANKS;
    if (!times || !place)
        return h5_fail(t->h, "read", TRACE_GROUP, "a record is of no op, rank, device or time");
    if (id < 0) {
        *p = op_place_unknown();
    } else {
        p->op = t->ops[id].op, p->role = t->ops[id].role, p->variant = t->ops[id].variant;
    }
    return true;
}

static int32_t string_of(const struct trace_reader *t, int32_t id) {
    return id > 0 && id < t->n_strings ? t->strings[id] : 0;
}

static void read_strings(struct trace_reader *t) {
    struct string_record *rows =
        READ_COMPOUND(t, "StringIds", string_columns, struct string_record, &t->n_strings);
    t->strings = rows ? calloc((size_t)t->n_strings + 1, sizeof *t->strings) : NULL;
    if (rows && !h5_check_memory(t->h, t->strings, "names")) t->n_strings = 0;
    for (int64_t i = 0; t->strings && i < t->n_strings; i++) {
        if (rows[i].id != i) h5_fail(t->h, "read", "StringIds", "its rows are not in order");
        failed(t, activity_log_string(t->log, rows[i].value, &t->strings[i], NULL));
    }
    free(rows);
}

static void read_kernels(struct trace_reader *t) {
    int64_t n;
    struct kernel_record *rows =
        READ_BUT_LAST(t, "CUPTI_ACTIVITY_KIND_KERNEL", kernel_columns, struct kernel_record, &n);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_kernel *k = &rows[i].k;
        if (!read_head(t, &k->head, rows[i].op_id)) break;
        k->mangled = string_of(t, k->mangled);
        k->demangled = string_of(t, k->demangled);
        k->short_name = string_of(t, k->short_name);
        failed(t, activity_log_add_kernel(t->log, k, NULL));
    }
    free(rows);
}

static void read_copies(struct trace_reader *t, bool set) {
    int64_t n;
    struct copy_record *rows =
        set ? READ_BUT_LAST(t, "CUPTI_ACTIVITY_KIND_MEMSET", fill_columns, struct copy_record, &n)
            : READ_BUT_LAST(t, "CUPTI_ACTIVITY_KIND_MEMCPY", copy_columns, struct copy_record, &n);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        if (!read_head(t, &rows[i].c.head, rows[i].op_id)) break;
        rows[i].c.set = set;
        failed(t, activity_log_add_copy(t->log, &rows[i].c, NULL));
    }
    free(rows);
}

static void read_calls(struct trace_reader *t) {
    int64_t n;
    struct call_record *rows =
        READ_COMPOUND(t, "CUPTI_ACTIVITY_KIND_RUNTIME", call_columns, struct call_record, &n);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_call *c = &rows[i].c;
        if (!read_head(t, &c->head, rows[i].op_id)) break;
        c->process = (uint32_t)(rows[i].thread >> 24), c->thread = rows[i].thread & 0xffffff;
        c->name = string_of(t, c->name);
        failed(t, activity_log_add_call(t->log, c, NULL));
    }
    free(rows);
}

static void read_ranges(struct trace_reader *t) {
    int64_t n;
    struct range_record *rows =
        READ_BUT_LAST(t, "NVTX_EVENTS", range_columns, struct range_record, &n);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_range *r = &rows[i].r;
        if (!read_head(t, &r->head, -1)) break;
        r->process = (uint32_t)(rows[i].thread >> 24), r->thread = rows[i].thread & 0xffffff;
        r->name = string_of(t, r->name), r->domain = string_of(t, r->domain);
        failed(t, activity_log_add_range(t->log, r, NULL));
    }
    free(rows);
}

static void read_overheads(struct trace_reader *t) {
    int64_t n;
    struct overhead_record *rows =
        READ_COMPOUND(t, "PROFILER_OVERHEAD", overhead_columns, struct overhead_record, &n);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_overhead *o = &rows[i].o;
        if (!read_head(t, &o->head, -1)) break;
        o->process = (uint32_t)(rows[i].thread >> 24), o->thread = rows[i].thread & 0xffffff;
        failed(t, activity_log_add_overhead(t->log, o, NULL));
    }
    free(rows);
}

/* Files of earlier versions have neither nodes nor memory. */
static void read_nodes(struct trace_reader *t) {
    static const char name[] = "CUDA_GRAPH_NODE_EVENTS";
    int64_t n = 0;
    struct node_record *rows = h5_has(t->h, t->g, name)
                                   ? READ_COMPOUND(t, name, node_columns, struct node_record, &n)
                                   : NULL;
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_node *node = &rows[i].n;
        if (!read_head(t, &node->head, rows[i].op_id)) break;
        node->process = (uint32_t)(rows[i].thread >> 24), node->thread = rows[i].thread & 0xffffff;
        failed(t, activity_log_add_node(t->log, node, NULL));
    }
    free(rows);
}

static void read_memory(struct trace_reader *t) {
    static const char name[] = "CUDA_GPU_MEMORY_USAGE_EVENTS";
    int64_t n = 0;
    struct memory_record *rows =
        h5_has(t->h, t->g, name)
            ? READ_COMPOUND(t, name, allocation_columns, struct memory_record, &n)
            : NULL;
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        struct activity_memory *m = &rows[i].m;
        m->head.end_ns = m->head.begin_ns;
        if (!read_head(t, &m->head, -1)) break;
        m->process = (uint32_t)(rows[i].process >> 24);
        m->kind = rows[i].kind >= 0 && rows[i].kind < ACTIVITY_UNKNOWN_MEMORY
                      ? (uint8_t)rows[i].kind + 1
                      : 0;
        m->release = rows[i].operation != 0;
        failed(t, activity_log_add_memory(t->log, m, NULL));
    }
    free(rows);
}

static void read_chunks(struct trace_reader *t, struct case_result *r) {
    h5_id table;
    int64_t n = 0;
    struct chunk_row *rows = h5_read_table(t->h, t->g, "chunks", chunk_columns,
                                           COLUMNS(chunk_columns), sizeof *rows, &n, &table);
    for (int64_t i = 0; rows && i < n && t->h->status == STATUS_OK; i++) {
        if (rows[i].begin_ns < 0 || rows[i].latency_ns < 0 ||
            rows[i].latency_ns > INT64_MAX - rows[i].begin_ns)
            h5_fail(t->h, "read", TRACE_GROUP, "a chunk ends before it begins");
        else
            failed(t, result_add_kernel_chunk(r, &rows[i], NULL));
    }
    free(rows);
    h5_close_group(table);
}

static void read_tables(struct trace_reader *t, struct case_result *r) {
    t->begin_ns = h5_read_int_attribute(t->h, t->g, "session_begin_ns");
    t->ops = record_read_ops(t->h, t->g, r, &t->n_ops);
    read_chunks(t, r);
    read_strings(t);
    read_kernels(t);
    read_copies(t, false);
    read_copies(t, true);
    read_calls(t);
    read_ranges(t);
    read_overheads(t);
    read_nodes(t);
    read_memory(t);
    free(t->ops);
    free(t->strings);
}

void record_read_trace(struct h5 *h, h5_id at, struct case_result *r, bool with_tables) {
    if (!h5_has(h, at, TRACE_GROUP)) return;
    struct trace_reader t = {
        .h = h, .g = h5_open_group(h, at, TRACE_GROUP), .log = &r->kernel_trace.log};
    r->kernel_trace.wanted = true;
    h5_read_attributes(h, t.g, trace_facts, COLUMNS(trace_facts), r);
    if (with_tables && h5_has(h, t.g, "chunks")) read_tables(&t, r);
    h5_close_group(t.g);
}
