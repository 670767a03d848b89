/* A trace as a database with the tables of an Nsight Systems export ("SQLite Export Schema
 * Reference" in its documentation), so that queries and scripts for those read it. The only user
 * of libsqlite3, which a build may lack. Before it: trace.c.
 *
 * Where CUPTI recorded kernels, they are the rows of CUPTI_ACTIVITY_KIND_KERNEL, with the copies,
 * fills and calls beside them in tables of their own, as are memory that was allocated and nodes of
 * graphs, of the whole life of the worker. Elsewhere a span is such a row: shortName is
 * op and role, demangledName has the kernel too, deviceId and contextId are the device, streamId is
 * the rank + 1 (0: for all ranks; 1 + MAX_RANKS: sums that were taken beside other ops); what a
 * span does not know (grid, block, registers) is NULL. META_DATA_EXPORT says which it is, and how
 * many spans and records of CUPTI found no room. Columns of ours come last: chunk, layer (as the
 * result file numbers them), rank, op, flops. NVTX_EVENTS has the ranges case > chunk > layer > op
 * of the spans, in a domain of their own, those of device D all of thread 1 + D of process 1, but
 * for sums beside other ops (thread 1 + MAX_RANKS + D): the file does not say under which numbers
 * they ran. The ranges that the host marked and CUPTI saw are the worker's: a summary by name must
 * not add the two. Times are nanoseconds since the first chunk began, as
 * TARGET_INFO_SESSION_START_TIME tells it; what was made before has negative ones. */
#include "harness/kernel_view.h"

#ifndef HAVE_SQLITE

bool trace_has_sqlite(void) {
    return false;
}

enum status trace_sqlite(const char *path, const struct record_run *run, const struct trace *t,
                         struct error *err) {
    (void)run;
    (void)t;
    return error_set(err, STATUS_RUN_FAILED,
                     "cannot write %s: this program was built without SQLite; install "
                     "libsqlite3-dev and build again",
                     path);
}

#else

#include "harness/new_file.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Event type of ranges in NVTX_EVENTS, and a thread's number: process << 24 | thread. */
enum { RANGE = 59, DOMAIN = 1, PROCESS = 1 << 24, THREAD = PROCESS | 1 };

static const char tables[] =
    "CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT);"
    "CREATE TABLE ENUM_NSYS_EVENT_TYPE (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);"
    "INSERT INTO ENUM_NSYS_EVENT_TYPE VALUES (59, 'NvtxPushPopRange', 'NVTX Push/Pop Range'),"
    " (75, 'NvtxDomainCreate', 'NVTX Domain Create');"
    "CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT);"
    "CREATE TABLE PROCESSES (globalPid INTEGER, pid INTEGER, name TEXT);"
    "CREATE TABLE ThreadNames (nameId INTEGER NOT NULL, priority INTEGER, globalTid INTEGER);"
    "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT,"
    " localTime TEXT);"
    "CREATE TABLE TARGET_INFO_SYSTEM_ENV (globalVid INTEGER, devStateName TEXT, name TEXT NOT NULL,"
    " nameEnum INTEGER, value TEXT);"
    "CREATE TABLE TARGET_INFO_GPU (vmId INTEGER, id INTEGER NOT NULL, name TEXT, busLocation TEXT,"
    " uuid TEXT, totalMemory INTEGER, computeMajor INTEGER, computeMinor INTEGER);"
    "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL,"
    " deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,"
    " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,"
    " demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER,"
    " launchType INTEGER, cacheConfig INTEGER, registersPerThread INTEGER, gridX INTEGER,"
    " gridY INTEGER, gridZ INTEGER, blockX INTEGER, blockY INTEGER, blockZ INTEGER,"
    " staticSharedMemory INTEGER, dynamicSharedMemory INTEGER, localMemoryPerThread INTEGER,"
    " localMemoryTotal INTEGER, gridId INTEGER, sharedMemoryExecuted INTEGER, graphNodeId INTEGER,"
    " sharedMemoryLimitConfig INTEGER, chunk INTEGER, layer INTEGER, rank INTEGER, op TEXT,"
    " flops INTEGER);"
    "CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);"
    "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL,"
    " deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,"
    " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, bytes INTEGER NOT NULL,"
    " copyKind INTEGER NOT NULL, deprecatedSrcId INTEGER, srcKind INTEGER, dstKind INTEGER,"
    " srcDeviceId INTEGER, srcContextId INTEGER, dstDeviceId INTEGER, dstContextId INTEGER,"
    " migrationCause INTEGER, graphNodeId INTEGER, virtualAddress INTEGER, copyCount INTEGER,"
    " chunk INTEGER);"
    "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL,"
    " deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,"
    " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, value INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, graphNodeId INTEGER, memKind INTEGER, chunk INTEGER);"
    "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL,"
    " eventClass INTEGER NOT NULL, globalTid INTEGER, correlationId INTEGER,"
    " nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER,"
    " chunk INTEGER);"
    "CREATE TABLE PROFILER_OVERHEAD (start INTEGER NOT NULL, end INTEGER NOT NULL,"
    " globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL,"
    " returnValue INTEGER NOT NULL);"
    "CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL,"
    " rangeId INTEGER, category INTEGER, color INTEGER, text TEXT, globalTid INTEGER,"
    " endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, uint64Value INTEGER,"
    " int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER,"
    " floatValue REAL, jsonTextId INTEGER, jsonText TEXT, binaryData TEXT);";

static const char made_once[] = /* nodes of graphs, memory */
    "CREATE TABLE CUDA_GRAPH_NODE_EVENTS (start INTEGER NOT NULL, end INTEGER,"
    " nameId INTEGER NOT NULL, eventClass INTEGER, globalTid INTEGER,"
    " graphNodeId INTEGER NOT NULL, originalGraphNodeId INTEGER, layer INTEGER, rank INTEGER,"
    " op TEXT);"
    "CREATE TABLE ENUM_CUDA_MEM_KIND (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);"
    "INSERT INTO ENUM_CUDA_MEM_KIND VALUES (0, 'CUDA_MEMOPR_MEMORY_KIND_PAGEABLE', 'Pageable'),"
    " (1, 'CUDA_MEMOPR_MEMORY_KIND_PINNED', 'Pinned'),"
    " (2, 'CUDA_MEMOPR_MEMORY_KIND_DEVICE', 'Device'),"
    " (3, 'CUDA_MEMOPR_MEMORY_KIND_ARRAY', 'Array'),"
    " (4, 'CUDA_MEMOPR_MEMORY_KIND_MANAGED', 'Managed'),"
    " (5, 'CUDA_MEMOPR_MEMORY_KIND_DEVICE_STATIC', 'Device Static'),"
    " (6, 'CUDA_MEMOPR_MEMORY_KIND_MANAGED_STATIC', 'Managed Static'),"
    " (7, 'CUDA_MEMOPR_MEMORY_KIND_UNKNOWN', 'Unknown');"
    "CREATE TABLE ENUM_CUDA_DEV_MEM_EVENT_OPER (id INTEGER NOT NULL PRIMARY KEY, name TEXT,"
    " label TEXT);"
    "INSERT INTO ENUM_CUDA_DEV_MEM_EVENT_OPER VALUES"
    " (0, 'CUDA_DEV_MEM_EVENT_OPR_ALLOCATION', 'Allocation'),"
    " (1, 'CUDA_DEV_MEM_EVENT_OPR_DEALLOCATION', 'Deallocation');"
    "CREATE TABLE CUDA_GPU_MEMORY_USAGE_EVENTS (start INTEGER NOT NULL,"
    " globalPid INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,"
    " address INTEGER NOT NULL, pc INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " memKind INTEGER NOT NULL, memoryOperationType INTEGER NOT NULL, name TEXT,"
    " correlationId INTEGER, streamId INTEGER, localMemoryPoolAddress INTEGER,"
    " localMemoryPoolReleaseThreshold INTEGER, localMemoryPoolSize INTEGER,"
    " localMemoryPoolUtilizedSize INTEGER, importedMemoryPoolAddress INTEGER,"
    " importedMemoryPoolProcessId INTEGER, chunk INTEGER);";

static const char insert_string[] = "INSERT INTO StringIds VALUES (?, ?)";
static const char insert_kernel[] =
    "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL (start, end, deviceId, contextId, streamId,"
    " correlationId, globalPid, demangledName, shortName, chunk, layer, flops)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char insert_recorded[] =
    "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL (start, end, deviceId, contextId, streamId,"
    " correlationId, globalPid, demangledName, shortName, mangledName, launchType,"
    " registersPerThread, gridX, gridY, gridZ, blockX, blockY, blockZ, staticSharedMemory,"
    " dynamicSharedMemory, localMemoryPerThread, sharedMemoryExecuted, graphNodeId, chunk, layer,"
    " rank, op) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
    " nullif(?, 0), ?, ?, ?, ?)";
static const char insert_copy[] =
    "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY (start, end, deviceId, contextId, streamId,"
    " correlationId, globalPid, bytes, graphNodeId, chunk, copyKind, srcKind, dstKind)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?, ?, ?)";
static const char insert_fill[] =
    "INSERT INTO CUPTI_ACTIVITY_KIND_MEMSET (start, end, deviceId, contextId, streamId,"
    " correlationId, globalPid, bytes, graphNodeId, chunk, value, memKind)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?, ?)";
static const char insert_call[] =
    "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME (start, end, eventClass, globalTid, correlationId,"
    " nameId, returnValue, chunk) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
static const char insert_node[] =
    "INSERT INTO CUDA_GRAPH_NODE_EVENTS (start, end, nameId, globalTid, graphNodeId,"
    " originalGraphNodeId, layer, rank, op) VALUES (?, ?, ?, ?, ?, nullif(?, 0), ?, ?, ?)";
static const char insert_memory[] =
    "INSERT INTO CUDA_GPU_MEMORY_USAGE_EVENTS (start, globalPid, deviceId, contextId, address, pc,"
    " bytes, memKind, memoryOperationType, correlationId, streamId, chunk)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
static const char insert_overhead[] =
    "INSERT INTO PROFILER_OVERHEAD (start, end, globalTid, nameId, returnValue)"
    " VALUES (?, ?, ?, ?, 0)";
static const char insert_range[] =
    "INSERT INTO NVTX_EVENTS (start, end, eventType, rangeId, text, globalTid, textId, domainId)"
    " VALUES (?, ?, ?, NULL, ?, ?, ?, ?)";

/* A database that is being written. After the first failure nothing more is done. */
struct writer {
    sqlite3 *db;
    int code; /* SQLite's, of the first failure */
    sqlite3_stmt *string, *kernel, *range;
    const struct trace *t;
    int64_t origin_ns;
    int64_t n_strings, n_kernels;
    int64_t *short_name, *full_name; /* string ids, [t->n_ops] */
    int64_t *layer_name;             /* [t->n_layers]; 0: not used yet */
    int64_t *text;                   /* string ids of the kernels' log, or NULL */
};

static void check(struct writer *w, int code) {
    if (w->code == SQLITE_OK && code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW)
        w->code = code;
}

static void run_sql(struct writer *w, const char *sql) {
    if (w->code == SQLITE_OK) check(w, sqlite3_exec(w->db, sql, NULL, NULL, NULL));
}

static sqlite3_stmt *prepare(struct writer *w, const char *sql) {
    sqlite3_stmt *s = NULL;
    if (w->code == SQLITE_OK) check(w, sqlite3_prepare_v2(w->db, sql, -1, &s, NULL));
    return s;
}

static void bind_numbers(struct writer *w, sqlite3_stmt *s, const int64_t *values, int n) {
    for (int i = 0; w->code == SQLITE_OK && i < n; i++)
        check(w, sqlite3_bind_int64(s, i + 1, values[i]));
}

static void step(struct writer *w, sqlite3_stmt *s) {
    if (w->code != SQLITE_OK) return;
    check(w, sqlite3_step(s));
    check(w, sqlite3_reset(s));
    check(w, sqlite3_clear_bindings(s));
}

/* ---- strings and facts ---- */

static int64_t add_string(struct writer *w, const char *text) {
    if (w->code != SQLITE_OK) return 0;
    check(w, sqlite3_bind_int64(w->string, 1, ++w->n_strings));
    check(w, sqlite3_bind_text(w->string, 2, text, -1, SQLITE_TRANSIENT));
    step(w, w->string);
    return w->n_strings;
}

/* A name and a value, or two texts, into a table that has room for both. */
static void add_texts(struct writer *w, const char *sql, const char *first, const char *second) {
    sqlite3_stmt *s = prepare(w, sql);
    if (w->code == SQLITE_OK) check(w, sqlite3_bind_text(s, 1, first, -1, SQLITE_TRANSIENT));
    if (w->code == SQLITE_OK) check(w, sqlite3_bind_text(s, 2, second, -1, SQLITE_TRANSIENT));
    step(w, s);
    check(w, sqlite3_finalize(s));
}

static void add_count(struct writer *w, const char *sql, const char *name, int64_t count) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)count);
    add_texts(w, sql, name, text);
}

/* When the first chunk began, by the pair of clocks that the run read together. */
static void add_session_start(struct writer *w, const struct run_facts *facts) {
    char utc[40], local[40];
    struct tm tm;
    const double ns =
        (double)facts->realtime_ns + ((double)w->origin_ns - (double)facts->monotonic_ns);
    const int64_t epoch_ns =
        ns > 0 && ns < 9e18 ? (int64_t)((uint64_t)facts->realtime_ns +
                                        ((uint64_t)w->origin_ns - (uint64_t)facts->monotonic_ns))
                            : 0;
    const time_t seconds = (time_t)(epoch_ns / 1000000000);
    gmtime_r(&seconds, &tm);
    strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", &tm);
    localtime_r(&seconds, &tm);
    strftime(local, sizeof local, "%Y-%m-%dT%H:%M:%S%z", &tm);
    add_texts(w, "INSERT INTO TARGET_INFO_SESSION_START_TIME (utcTime, localTime) VALUES (?, ?)",
              utc, local);
    sqlite3_stmt *s = prepare(w, "UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?");
    bind_numbers(w, s, &epoch_ns, 1);
    step(w, s);
    check(w, sqlite3_finalize(s));
}

static void add_gpus(struct writer *w, const struct run_facts *facts) {
    for (int i = 0; i < facts->n_gpus; i++) {
        const struct nvml_gpu *gpu = &facts->gpus[i].gpu;
        const int64_t numbers[] = {i, gpu->memory_bytes, gpu->capability / 10,
                                   gpu->capability % 10};
        sqlite3_stmt *s = prepare(w, "INSERT INTO TARGET_INFO_GPU (id, totalMemory, computeMajor,"
                                     " computeMinor, vmId, name, busLocation, uuid)"
                                     " VALUES (?, ?, ?, ?, 0, ?, ?, ?)");
        bind_numbers(w, s, numbers, 4);
        if (w->code == SQLITE_OK) {
            check(w, sqlite3_bind_text(s, 5, gpu->name, -1, SQLITE_TRANSIENT));
            check(w, sqlite3_bind_text(s, 6, gpu->bus_id, -1, SQLITE_TRANSIENT));
            check(w, sqlite3_bind_text(s, 7, gpu->uuid, -1, SQLITE_TRANSIENT));
        }
        step(w, s);
        check(w, sqlite3_finalize(s));
    }
}

static void add_threads(struct writer *w) {
    for (int i = 0; i < MAX_RANKS; i++) {
        char name[60], number[40] = "";
        if (w->t->devices[i].all.sum.calls == 0) continue;
        if (w->t->n_devices > 1) snprintf(number, sizeof number, " of device %d", i);
        snprintf(name, sizeof name, "chunks, layers, ops%s", number);
        const int64_t thread[] = {add_string(w, name), THREAD + i};
        sqlite3_stmt *s = prepare(w, "INSERT INTO ThreadNames VALUES (?, 0, ?)");
        bind_numbers(w, s, thread, 2);
        step(w, s);
        check(w, sqlite3_finalize(s));
    }
}

static void add_facts(struct writer *w, const struct run_facts *facts) {
    static const char about[] = "INSERT INTO META_DATA_EXPORT VALUES (?, ?)";
    static const char environment[] = "INSERT INTO TARGET_INFO_SYSTEM_ENV (name, value)"
                                      " VALUES (?, ?)";
    add_texts(w, about, "EXPORT_PRODUCT", "chunkbench");
    add_texts(w, about, "EXPORT_PRODUCT_VERSION", facts->tool_version);
    add_texts(w, about, "KERNELS_FROM",
              w->t->kernels ? "CUPTI: in a process of its own, not that of the ranges of ops"
                            : "spans: begin and end of every op");
    add_count(w, about, "DROPPED_SPANS", w->t->r->dropped_spans);
    add_count(w, about, "DROPPED_RECORDS", w->t->r->kernel_trace.log.dropped);
    add_texts(w, environment, "Hostname", facts->hostname);
    add_texts(w, environment, "CpuModel", facts->cpu_model);
    add_threads(w);
    add_session_start(w, facts);
    add_gpus(w, facts);
}

/* Kernels of one op and role share a short name. */
static void add_op_names(struct writer *w) {
    const struct trace *t = w->t;
    for (int i = 0; i < t->n_ops; i++) {
        const struct trace_op *o = &t->ops[i];
        char text[TRACE_TEXT], full[TRACE_TEXT];
        trace_op_text(text, o->op, o->role);
        snprintf(full, sizeof full, "%.100s [%.100s]", text,
                 result_kernel_name(t->r, o->op, o->variant));
        w->full_name[i] = add_string(w, full);
        for (int k = 0; k < i && !w->short_name[i]; k++)
            if (t->ops[k].op == o->op && t->ops[k].role == o->role)
                w->short_name[i] = w->short_name[k];
        if (!w->short_name[i]) w->short_name[i] = add_string(w, text);
    }
}

/* ---- ranges and kernels ---- */

static void add_range_of(struct writer *w, int64_t domain, int64_t thread, int64_t begin_ns,
                         int64_t end_ns, int64_t name) {
    if (w->code != SQLITE_OK) return;
    check(w, sqlite3_bind_int64(w->range, 1, begin_ns - w->origin_ns));
    check(w, sqlite3_bind_int64(w->range, 2, end_ns - w->origin_ns));
    check(w, sqlite3_bind_int(w->range, 3, RANGE));
    check(w, sqlite3_bind_int64(w->range, 5, thread));
    check(w, sqlite3_bind_int64(w->range, 6, name));
    check(w, sqlite3_bind_int64(w->range, 7, domain));
    step(w, w->range);
}

/* Of a thread of the process that stands for spans. */
static void add_range(struct writer *w, int thread, int64_t begin_ns, int64_t end_ns,
                      int64_t name) {
    add_range_of(w, DOMAIN, THREAD + thread, begin_ns, end_ns, name);
}

static void add_span(struct writer *w, const struct span_row *row) {
    const struct span *s = &row->span;
    const int op = trace_op_number(w->t, s);
    const bool aside = trace_is_aside(w->t, s);
    add_range(w, (aside ? MAX_RANKS : 0) + s->device, s->begin_ns, s->end_ns, w->short_name[op]);
    if (w->t->kernels) return;
    const int64_t values[] = {s->begin_ns - w->origin_ns,
                              s->end_ns - w->origin_ns,
                              s->device,
                              s->device,
                              aside ? 1 + MAX_RANKS : s->rank + 1,
                              ++w->n_kernels,
                              PROCESS,
                              w->full_name[op],
                              w->short_name[op],
                              row->chunk,
                              s->layer,
                              s->flops};
    bind_numbers(w, w->kernel, values, (int)(sizeof values / sizeof *values));
    step(w, w->kernel);
}

static int64_t layer_name(struct writer *w, int layer) {
    char text[40];
    snprintf(text, sizeof text, "layer %d", layer + 1);
    if (!w->layer_name[layer + 1]) w->layer_name[layer + 1] = add_string(w, text);
    return w->layer_name[layer + 1];
}

/* A range before those within it. */
static void add_part(struct writer *w, const struct trace_chunk *c, const struct trace_part *p,
                     int64_t chunk_name) {
    add_range(w, p->device, c->begin_ns, c->end_ns, chunk_name);
    for (int64_t first = 0, i = 0; i < p->n; first = i) {
        const int layer = p->spans[first]->span.layer;
        const int64_t end_ns = trace_layer_end(p, first, &i);
        if (layer >= 0)
            add_range(w, p->device, p->spans[first]->span.begin_ns, end_ns, layer_name(w, layer));
        for (int64_t k = first; k < i && w->code == SQLITE_OK; k++) add_span(w, p->spans[k]);
    }
}

static void add_chunk(struct writer *w, const struct trace_chunk *c) {
    char text[40];
    snprintf(text, sizeof text, "chunk %d", c->chunk + 1);
    const int64_t name = add_string(w, text);
    for (int i = 0; i < c->n_parts; i++) add_part(w, c, &c->parts[i], name);
}

static void add_chunks(struct writer *w) {
    char text[TRACE_TEXT];
    const struct trace *t = w->t;
    snprintf(text, sizeof text, "case %s", t->r->id);
    if (t->n_chunks == 0) return;
    const int64_t name = add_string(w, text);
    for (int i = 0; i < MAX_RANKS; i++)
        if (t->devices[i].all.sum.calls > 0)
            add_range(w, i, t->chunks[0].begin_ns, t->chunks[t->n_chunks - 1].end_ns, name);
    for (int i = 0; i < t->n_chunks; i++) add_chunk(w, &t->chunks[i]);
}

/* ---- what CUPTI recorded ---- */

/* Its strings, in their order: ids of the database for those of the log. */
static void add_log_strings(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    for (int32_t i = 0; i < log->n_strings; i++)
        w->text[i] = add_string(w, activity_log_text(log, i));
}

static int64_t text_id(const struct writer *w, int32_t string) {
    return string >= 0 && string < w->t->kernels->log->n_strings ? w->text[string] : 0;
}

/* The process whose calls they are. */
static int64_t log_process(const struct activity_log *log) {
    return log->n_calls > 0 ? (int64_t)log->calls[0].process << 24 : PROCESS;
}

static int64_t log_thread(uint32_t process, uint32_t thread) {
    return (int64_t)process << 24 | thread;
}

static void add_recorded_kernels(struct writer *w) {
    const struct kernel_view *v = w->t->kernels;
    sqlite3_stmt *s = prepare(w, insert_recorded);
    for (int64_t i = 0; w->code == SQLITE_OK && i < v->n; i++) {
        const struct activity_kernel *k = v->kernels[i];
        const struct activity_head *h = &k->head;
        char op[TRACE_TEXT];
        const int64_t values[] = {h->begin_ns - w->origin_ns,
                                  h->end_ns - w->origin_ns,
                                  k->device,
                                  k->context,
                                  k->stream,
                                  k->correlation,
                                  log_process(v->log),
                                  text_id(w, k->demangled),
                                  text_id(w, k->short_name),
                                  text_id(w, k->mangled),
                                  k->launch_type + 1, /* an export counts from 1, CUPTI from 0 */
                                  k->registers,
                                  k->grid[0],
                                  k->grid[1],
                                  k->grid[2],
                                  k->block[0],
                                  k->block[1],
                                  k->block[2],
                                  k->static_shared,
                                  k->dynamic_shared,
                                  k->local_per_thread,
                                  k->shared_executed,
                                  (int64_t)k->graph_node,
                                  h->chunk,
                                  h->place.layer,
                                  h->place.rank};
        enum { NUMBERS = sizeof values / sizeof *values };
        bind_numbers(w, s, values, NUMBERS);
        if (w->code == SQLITE_OK && h->place.op != PLACE_UNKNOWN)
            check(w, sqlite3_bind_text(s, NUMBERS + 1, kernel_op_text(op, &h->place), -1,
                                       SQLITE_TRANSIENT));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

static void add_recorded_copies(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    sqlite3_stmt *copy = prepare(w, insert_copy), *fill = prepare(w, insert_fill);
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_copies; i++) {
        const struct activity_copy *c = &log->copies[i];
        const int64_t values[] = {c->head.begin_ns - w->origin_ns,
                                  c->head.end_ns - w->origin_ns,
                                  c->device,
                                  c->context,
                                  c->stream,
                                  c->correlation,
                                  log_process(log),
                                  c->bytes,
                                  (int64_t)c->graph_node,
                                  c->head.chunk,
                                  c->set ? c->value : c->kind,
                                  activity_memory_kind(c->set ? c->to : c->from),
                                  activity_memory_kind(c->to)};
        const int n = (int)(sizeof values / sizeof *values);
        if (!kernel_view_has(w->t->kernels, &c->head)) continue;
        bind_numbers(w, c->set ? fill : copy, values, c->set ? n - 1 : n);
        step(w, c->set ? fill : copy);
    }
    check(w, sqlite3_finalize(copy));
    check(w, sqlite3_finalize(fill));
}

static void add_recorded_calls(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    sqlite3_stmt *s = prepare(w, insert_call);
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_calls; i++) {
        const struct activity_call *c = &log->calls[i];
        const int64_t values[] = {c->head.begin_ns - w->origin_ns,
                                  c->head.end_ns - w->origin_ns,
                                  c->driver,
                                  log_thread(c->process, c->thread),
                                  c->correlation,
                                  text_id(w, c->name),
                                  c->result,
                                  c->head.chunk};
        if (!kernel_view_has(w->t->kernels, &c->head)) continue;
        bind_numbers(w, s, values, (int)(sizeof values / sizeof *values));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

static void add_recorded_ranges(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_ranges; i++) {
        const struct activity_range *r = &log->ranges[i];
        if (kernel_view_has(w->t->kernels, &r->head))
            add_range_of(w, text_id(w, r->domain), log_thread(r->process, r->thread),
                         r->head.begin_ns, r->head.end_ns, text_id(w, r->name));
    }
}

static void add_recorded_overheads(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    sqlite3_stmt *s = prepare(w, insert_overhead);
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_overheads; i++) {
        const struct activity_overhead *o = &log->overheads[i];
        if (!kernel_view_has(w->t->kernels, &o->head)) continue;
        const int64_t values[] = {o->head.begin_ns - w->origin_ns, o->head.end_ns - w->origin_ns,
                                  log_thread(o->process, o->thread),
                                  add_string(w, activity_overhead_name(o->kind))};
        bind_numbers(w, s, values, (int)(sizeof values / sizeof *values));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

/* Of all graphs of the process, whenever they were made. */
static void add_recorded_nodes(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    const int64_t name = log->n_nodes > 0 ? add_string(w, ACTIVITY_NODE_NAME) : 0;
    sqlite3_stmt *s = prepare(w, insert_node);
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_nodes; i++) {
        const struct activity_node *n = &log->nodes[i];
        char op[TRACE_TEXT];
        const int64_t values[] = {n->head.begin_ns - w->origin_ns,
                                  n->head.end_ns - w->origin_ns,
                                  name,
                                  log_thread(n->process, n->thread),
                                  (int64_t)n->node,
                                  (int64_t)n->original,
                                  n->head.place.layer,
                                  n->head.place.rank};
        enum { NUMBERS = sizeof values / sizeof *values };
        bind_numbers(w, s, values, NUMBERS);
        if (w->code == SQLITE_OK && n->head.place.op != PLACE_UNKNOWN)
            check(w, sqlite3_bind_text(s, NUMBERS + 1, kernel_op_text(op, &n->head.place), -1,
                                       SQLITE_TRANSIENT));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

static void add_recorded_memory(struct writer *w) {
    const struct activity_log *log = w->t->kernels->log;
    sqlite3_stmt *s = prepare(w, insert_memory);
    for (int64_t i = 0; w->code == SQLITE_OK && i < log->n_memory; i++) {
        const struct activity_memory *m = &log->memory[i];
        const int64_t values[] = {m->head.begin_ns - w->origin_ns,
                                  log_thread(m->process, 0),
                                  m->device,
                                  m->context,
                                  (int64_t)m->address,
                                  (int64_t)m->pc,
                                  m->bytes,
                                  activity_memory_kind(m->kind),
                                  m->release,
                                  m->correlation,
                                  m->stream,
                                  m->head.chunk};
        bind_numbers(w, s, values, (int)(sizeof values / sizeof *values));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

static void add_copy_kinds(struct writer *w) {
    sqlite3_stmt *s =
        prepare(w, "INSERT INTO ENUM_CUDA_MEMCPY_OPER (id, name, label) VALUES (?1, ?2, ?2)");
    for (int kind = 1; w->code == SQLITE_OK && *activity_copy_name(kind) != '?'; kind++) {
        check(w, sqlite3_bind_int(s, 1, kind));
        check(w, sqlite3_bind_text(s, 2, activity_copy_name(kind), -1, SQLITE_STATIC));
        step(w, s);
    }
    check(w, sqlite3_finalize(s));
}

static void add_recorded(struct writer *w) {
    if (!w->t->kernels) return;
    add_log_strings(w);
    add_copy_kinds(w);
    add_recorded_kernels(w);
    add_recorded_copies(w);
    add_recorded_calls(w);
    add_recorded_ranges(w);
    add_recorded_overheads(w);
    add_recorded_nodes(w);
    add_recorded_memory(w);
}

/* ---- whose they are ---- */

/* A domain's number is that of its name; that of spans is 1, in process 1 alone.
 * An export's queries join ranges with the domain of their process, and records with the names of
 * processes and threads: each process of a record has all three. Process 1 stands for spans. */
static const char owners[] =
    "CREATE TEMP VIEW threads AS SELECT globalTid AS tid FROM NVTX_EVENTS"
    " UNION SELECT globalTid FROM CUPTI_ACTIVITY_KIND_RUNTIME"
    " UNION SELECT globalTid FROM PROFILER_OVERHEAD"
    " UNION SELECT globalTid FROM CUDA_GRAPH_NODE_EVENTS;"
    "INSERT INTO NVTX_EVENTS (start, eventType, text, globalTid, domainId)"
    " SELECT 0, 75, iif(globalTid >> 24 = 1, 'bench spans', value), min(globalTid), domainId"
    " FROM NVTX_EVENTS LEFT JOIN StringIds ON id = domainId GROUP BY globalTid >> 24, domainId;";
static const char insert_processes[] =
    "INSERT INTO PROCESSES (globalPid, pid, name) SELECT pid << 24, pid,"
    " iif(pid = 1, ?1, ?1 || ' worker') || ' ' || ?2 FROM"
    " (SELECT tid >> 24 AS pid FROM threads"
    " UNION SELECT globalPid >> 24 FROM CUPTI_ACTIVITY_KIND_KERNEL)";
static const char insert_worker_threads[] =
    "INSERT INTO ThreadNames SELECT ?, 0, tid FROM threads WHERE tid >> 24 > 1";

static void add_owners(struct writer *w) {
    run_sql(w, owners);
    add_texts(w, insert_processes, "bench run", w->t->r->id);
    const int64_t name = add_string(w, "thread of the worker");
    sqlite3_stmt *s = prepare(w, insert_worker_threads);
    bind_numbers(w, s, &name, 1);
    step(w, s);
    check(w, sqlite3_finalize(s));
}

/* ---- the file ---- */

static void write_database(struct writer *w, const char *path, const struct run_facts *facts) {
    check(w, sqlite3_open(path, &w->db));
    run_sql(w, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN");
    run_sql(w, tables);
    run_sql(w, made_once);
    w->string = prepare(w, insert_string);
    w->kernel = prepare(w, insert_kernel);
    w->range = prepare(w, insert_range);
    add_facts(w, facts);
    add_op_names(w);
    add_chunks(w);
    add_recorded(w);
    add_owners(w);
    run_sql(w, "COMMIT");
    sqlite3_finalize(w->string);
    sqlite3_finalize(w->kernel);
    sqlite3_finalize(w->range);
    check(w, sqlite3_close(w->db));
}

bool trace_has_sqlite(void) {
    return true;
}

enum status trace_sqlite(const char *path, const struct record_run *run, const struct trace *t,
                         struct error *err) {
    struct new_file f;
    enum status s = new_file_begin(&f, path, err);
    if (s != STATUS_OK) return s;
    struct writer w = {.t = t, .origin_ns = t->origin_ns};
    const size_t strings = t->kernels ? (size_t)t->kernels->log->n_strings : 0;
    w.short_name = calloc((size_t)t->n_ops + 1, sizeof *w.short_name);
    w.full_name = calloc((size_t)t->n_ops + 1, sizeof *w.full_name);
    w.layer_name = calloc((size_t)t->n_layers + 1, sizeof *w.layer_name);
    w.text = calloc(strings + 1, sizeof *w.text);
    if (w.short_name && w.full_name && w.layer_name && w.text)
        write_database(&w, f.temporary, &run->facts);
    else
        w.code = SQLITE_NOMEM;
    free(w.short_name);
    free(w.full_name);
    free(w.layer_name);
    free(w.text);
    if (w.code == SQLITE_OK) return new_file_end(&f, err);
    new_file_drop(&f);
    return error_set(err, STATUS_IO, "cannot write %s: %s", path, sqlite3_errstr(w.code));
}

#endif
