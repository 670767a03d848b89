/* See activity.h. Owns the subscription, the buffers between CUPTI and us, and the map of nodes.
 *
 * CUPTI's callbacks carry no context, so the open activity stands in a variable of this file. They
 * run on any thread, within what is being measured: a buffer is taken or given back, no more. All
 * else happens in activity_take(). Before it: devices; after it: the harness. */
#include "kernels/activity/activity.h"

#include "kernels/activity/buffer_pool.h"
#include "kernels/activity/cupti_api.h"
#include "kernels/activity/kernel_name.h"
#include "kernels/activity/node_map.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Which op the calls with a correlation belong to. */
struct correlation {
    uint32_t id;
    uint64_t place;
};
struct open_range {
    uint32_t id;
    struct activity_range row;
};
/* CUPTI's own text of a kernel's name, and what was made of it. */
struct known_name {
    const char *name;
    int32_t mangled, demangled, short_name;
};

enum { OPEN_RANGES = 64 };

struct activity {
    struct cupti lib;
    char library[CUPTI_PATH_BYTES];
    struct buffer_pool *pool;
    int64_t refusals; /* of the pool, that have been counted */
    void *subscriber;
    pthread_mutex_t lock; /* guards nodes, and made.nodes while devices work */
    struct node_map nodes;
    struct activity_log made; /* memory and nodes that no take has had yet */
    struct correlation *correlations;
    int64_t n_correlations, correlation_capacity;
    struct open_range open[OPEN_RANGES];
    int n_open;
    struct known_name *names;
    int n_names, name_capacity;
    /* of the take at work */
    struct activity_log *log;
    int32_t repeat, chunk;
    enum status status;
    struct error *err;
};

static _Atomic(struct activity *) opened;

/* ---- CUPTI's callbacks */

static uint64_t timestamp(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void request_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records) {
    struct activity *a = atomic_load(&opened);
    *buffer = a ? buffer_pool_take(a->pool) : NULL;
    *bytes = *buffer ? buffer_pool_bytes(a->pool) : 0;
    *most_records = 0; /* as many as there is room for */
}

static void complete_buffer(void *context, uint32_t stream, uint8_t *buffer, size_t bytes,
                            size_t valid) {
    struct activity *a = atomic_load(&opened);
    (void)context, (void)stream, (void)bytes;
    if (a) buffer_pool_give(a->pool, buffer, valid);
}

/* Only when graphs are made; under the lock. A node that finds no room is one row less in a table.
 */
static void note_node(struct activity *a, uint64_t node, uint64_t original, uint64_t place) {
    const int64_t now = (int64_t)timestamp();
    const struct activity_node row = {.head = {.begin_ns = now,
                                               .end_ns = now,
                                               .repeat = -1,
                                               .chunk = -1,
                                               .place = op_place_unpack(place)},
                                      .process = (uint32_t)getpid(),
                                      .thread = (uint32_t)gettid(),
                                      .node = node,
                                      .original = original};
    if (activity_log_add_node(&a->made, &row, NULL) != STATUS_OK) a->made.dropped++;
}

/* Only when graphs are made. */
static void resource_callback(void *ctx, int32_t domain, uint32_t id, const void *data) {
    struct activity *a = ctx;
    const struct cupti_resource *r = data;
    uint64_t node, original;
    if (domain != CUPTI_CB_DOMAIN_RESOURCE || id != CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED || !r ||
        !r->descriptor)
        return;
    const struct cupti_graph_data *g = r->descriptor;
    if (a->lib.graph_node_id(g->node, &node) != CUPTI_SUCCESS ||
        a->lib.graph_node_id(g->original_node, &original) != CUPTI_SUCCESS)
        return;
    pthread_mutex_lock(&a->lock);
    node_map_copy(&a->nodes, original, node);
    note_node(a, node, original, node_map_find(&a->nodes, node));
    pthread_mutex_unlock(&a->lock);
}

/* ---- opening */

struct activity_opts activity_opts_defaults(void) {
    return (struct activity_opts){.buffers = 64, .buffer_bytes = 1 << 20};
}

/* The tool that has told, in the environment of its own, that it profiles this process; or NULL. */
static const char *other_tool(void) {
    static const struct {
        const char *variable, *tool;
    } known[] = {{"NSYS_PROFILING_SESSION_ID", "Nsight Systems"},
                 {"CUDA_INJECTION64_PATH", "the tool in CUDA_INJECTION64_PATH"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *value = getenv(known[i].variable);
        if (value && *value) return known[i].tool;
    }
    return NULL;
}

static enum status refuse(const struct activity *a, int32_t result, const char *what,
                          struct error *err) {
    if (result == CUPTI_SUCCESS) return STATUS_OK;
    const bool taken = result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED ||
                       result == CUPTI_ERROR_MAX_LIMIT_REACHED;
    return error_set(err, STATUS_UNSUPPORTED, "%s: %s (%s)",
                     taken ? "another tool has taken CUPTI in this process"
                           : "CUPTI does not serve here",
                     what, cupti_error_text(&a->lib, result));
}

static const struct {
    int32_t kind;
    const char *name;
    bool needed;
} kinds[] = {{CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, "external correlation", true},
             {CUPTI_ACTIVITY_KIND_RUNTIME, "calls of the runtime", true},
             {CUPTI_ACTIVITY_KIND_DRIVER, "calls of the driver", true},
             {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, "kernels", true},
             {CUPTI_ACTIVITY_KIND_MEMCPY, "copies", true},
             {CUPTI_ACTIVITY_KIND_MEMSET, "fills", true},
             {CUPTI_ACTIVITY_KIND_OVERHEAD, "overhead", false},
             {CUPTI_ACTIVITY_KIND_MARKER, "ranges", false},
             {CUPTI_ACTIVITY_KIND_MEMORY2, "memory", false}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static enum status enable_kinds(struct activity *a, struct error *err) {
    for (int i = 0; i < KINDS; i++) {
        const enum status s = refuse(a, a->lib.enable(kinds[i].kind), kinds[i].name, err);
        if (s != STATUS_OK && kinds[i].needed) return s;
    }
    return STATUS_OK;
}

/* The clock before anything has a time; the subscription first of all: it is what one tool alone
 * can have. */
static enum status attach(struct activity *a, struct error *err) {
    void *subscriber = NULL;
    enum status s =
        refuse(a, a->lib.subscribe(&subscriber, resource_callback, a), "subscribing", err);
    if (s != STATUS_OK) return s;
    a->subscriber = subscriber;
    a->lib.set_thread_id_type(CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM); /* else of pthreads */
    s = refuse(a, a->lib.register_timestamp(timestamp), "its clock", err);
    if (s == STATUS_OK)
        s = refuse(a, a->lib.register_buffers(request_buffer, complete_buffer), "its buffers", err);
    if (s == STATUS_OK)
        s = refuse(a,
                   a->lib.enable_callback(1, subscriber, CUPTI_CB_DOMAIN_RESOURCE,
                                          CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED),
                   "nodes of graphs", err);
    return s == STATUS_OK ? enable_kinds(a, err) : s;
}

enum status activity_open(struct activity **out, const struct activity_opts *opts,
                          struct error *err) {
    char why[CUPTI_WHY_BYTES];
    const char *other = other_tool();
    *out = NULL;
    if (other)
        return error_set(err, STATUS_UNSUPPORTED, "%s profiles this process: CUPTI is left to it",
                         other);
    if (atomic_load(&opened))
        return error_set(err, STATUS_UNSUPPORTED, "CUPTI is open in this process already");
    struct activity *a = calloc(1, sizeof *a);
    if (!a) return error_set(err, STATUS_NO_MEMORY, "no memory for records of CUPTI");
    pthread_mutex_init(&a->lock, NULL);
    enum status s = STATUS_OK;
    if (!cupti_load(&a->lib, opts->library, a->library, why))
        s = error_set(err, STATUS_UNSUPPORTED, "no CUPTI: %s", why);
    if (s == STATUS_OK) s = buffer_pool_open(&a->pool, opts->buffers, opts->buffer_bytes, err);
    if (s == STATUS_OK) {
        atomic_store(&opened, a);
        s = attach(a, err);
    }
    if (s == STATUS_OK)
        *out = a;
    else
        activity_close(a);
    return s;
}

static void detach(struct activity *a) {
    for (int i = 0; i < KINDS; i++) a->lib.disable(kinds[i].kind);
    a->lib.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    a->lib.unsubscribe(a->subscriber);
}

/* A buffer that CUPTI has not given back stays its own for as long as the process lives. */
void activity_close(struct activity *a) {
    if (!a) return;
    if (a->subscriber) detach(a);
    if (atomic_load(&opened) == a) atomic_store(&opened, NULL);
    if (!a->pool || buffer_pool_out(a->pool) == 0) buffer_pool_close(a->pool);
    node_map_free(&a->nodes);
    activity_log_free(&a->made);
    pthread_mutex_destroy(&a->lock);
    free(a->correlations);
    free(a->names);
    free(a);
}

const char *activity_library(const struct activity *a) {
    return a->library;
}

uint32_t activity_version(const struct activity *a) {
    return a->lib.version;
}

/* ---- whose work it is */

void activity_begin_op(struct activity *a, struct op_place place) {
    if (a) a->lib.push_external(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, op_place_pack(place));
}

void activity_end_op(struct activity *a) {
    uint64_t last;
    if (a) a->lib.pop_external(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &last);
}

bool activity_add_node(struct activity *a, void *node, struct op_place place) {
    uint64_t id;
    if (!a || a->lib.graph_node_id(node, &id) != CUPTI_SUCCESS) return false;
    pthread_mutex_lock(&a->lock);
    const bool known = node_map_find(&a->nodes, id) != 0;
    if (!known) {
        node_map_add(&a->nodes, id, op_place_pack(place));
        note_node(a, id, 0, op_place_pack(place));
    }
    pthread_mutex_unlock(&a->lock);
    return !known;
}

/* ---- reading records: a->status keeps the first failure, after which nothing more is done */

static void keep(struct activity *a, enum status s) {
    if (a->status == STATUS_OK) a->status = s;
}

static struct activity_head head_of(const struct activity *a, uint64_t begin, uint64_t end) {
    return (struct activity_head){.begin_ns = (int64_t)begin,
                                  .end_ns = (int64_t)end,
                                  .repeat = a->repeat,
                                  .chunk = a->chunk,
                                  .place = op_place_unknown()};
}

static int32_t string_of(struct activity *a, const char *text) {
    int32_t number;
    keep(a, activity_log_string(a->log, text, &number, a->err));
    return number;
}

/* What people call it; made once for each of CUPTI's texts. */
static struct known_name known_name(struct activity *a, const char *name) {
    struct known_name k = {.name = name ? name : ""};
    for (int i = 0; i < a->n_names; i++)
        if (a->names[i].name == k.name &&
            strcmp(activity_log_text(a->log, a->names[i].mangled), k.name) == 0)
            return a->names[i];
    char *demangled = kernel_demangle(k.name), brief[200];
    k.mangled = string_of(a, k.name);
    k.demangled = demangled ? string_of(a, demangled) : k.mangled;
    k.short_name =
        string_of(a, kernel_short_name(demangled ? demangled : k.name, brief, sizeof brief));
    free(demangled);
    if (a->n_names == a->name_capacity) {
        const int capacity = 2 * a->name_capacity + 32;
        struct known_name *names = realloc(a->names, (size_t)capacity * sizeof *names);
        if (!names) return k;
        a->names = names;
        a->name_capacity = capacity;
    }
    a->names[a->n_names++] = k;
    return k;
}

static void read_kernel(struct activity *a, const struct cupti_kernel *r) {
    const struct known_name name = known_name(a, r->name);
    const struct activity_kernel row = {.head = head_of(a, r->start, r->end),
                                        .device = r->device,
                                        .context = r->context,
                                        .stream = r->stream,
                                        .correlation = r->correlation,
                                        .graph_node = r->graph_node,
                                        .grid = {r->grid[0], r->grid[1], r->grid[2]},
                                        .block = {r->block[0], r->block[1], r->block[2]},
                                        .registers = r->registers,
                                        .static_shared = r->static_shared,
                                        .dynamic_shared = r->dynamic_shared,
                                        .shared_executed = (int32_t)r->shared_executed,
                                        .local_per_thread = (int32_t)r->local_per_thread,
                                        .launch_type = r->launch_type,
                                        .mangled = name.mangled,
                                        .demangled = name.demangled,
                                        .short_name = name.short_name};
    if (r->start == 0 || r->end < r->start)
        a->log->dropped++; /* CUPTI could not tell its times */
    else
        keep(a, activity_log_add_kernel(a->log, &row, a->err));
}

static void read_memcpy(struct activity *a, const struct cupti_memcpy *r) {
    const struct activity_copy row = {.head = head_of(a, r->start, r->end),
                                      .device = r->device,
                                      .context = r->context,
                                      .stream = r->stream,
                                      .correlation = r->correlation,
                                      .graph_node = r->graph_node,
                                      .bytes = (int64_t)r->bytes,
                                      .kind = r->copy_kind,
                                      .from = r->source_kind,
                                      .to = r->target_kind};
    keep(a, activity_log_add_copy(a->log, &row, a->err));
}

static void read_memset(struct activity *a, const struct cupti_memset *r) {
    const struct activity_copy row = {.head = head_of(a, r->start, r->end),
                                      .device = r->device,
                                      .context = r->context,
                                      .stream = r->stream,
                                      .correlation = r->correlation,
                                      .graph_node = r->graph_node,
                                      .bytes = (int64_t)r->bytes,
                                      .set = true,
                                      .to = (uint8_t)r->memory_kind,
                                      .value = r->value};
    keep(a, activity_log_add_copy(a->log, &row, a->err));
}

static void read_call(struct activity *a, const struct cupti_call *r) {
    const bool driver = r->kind == CUPTI_ACTIVITY_KIND_DRIVER;
    const char *name = NULL;
    a->lib.callback_name(driver ? CUPTI_CB_DOMAIN_DRIVER_API : CUPTI_CB_DOMAIN_RUNTIME_API,
                         r->function, &name);
    const struct activity_call row = {.head = head_of(a, r->start, r->end),
                                      .process = r->process,
                                      .thread = r->thread,
                                      .correlation = r->correlation,
                                      .result = r->result,
                                      .driver = driver,
                                      .name = string_of(a, name)};
    keep(a, activity_log_add_call(a->log, &row, a->err));
}

static void read_external(struct activity *a, const struct cupti_external *r) {
    if (r->external_kind != CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0) return;
    if (a->n_correlations == a->correlation_capacity) {
        const int64_t capacity = 2 * a->correlation_capacity + 4096;
        struct correlation *c = realloc(a->correlations, (size_t)capacity * sizeof *c);
        if (!c) {
            keep(a, error_set(a->err, STATUS_NO_MEMORY, "no memory for %lld correlations",
                              (long long)capacity));
            return;
        }
        a->correlations = c;
        a->correlation_capacity = capacity;
    }
    a->correlations[a->n_correlations++] = (struct correlation){r->correlation, r->id};
}

/* The two ends of a range have its number in common. */
static void read_marker(struct activity *a, const struct cupti_marker *r) {
    if (r->flags & CUPTI_ACTIVITY_FLAG_MARKER_START && a->n_open < OPEN_RANGES) {
        struct activity_range row = {.head = head_of(a, r->timestamp, r->timestamp),
                                     .process = r->process,
                                     .thread = r->thread,
                                     .name = string_of(a, r->name),
                                     .domain = string_of(a, r->domain)};
        a->open[a->n_open++] = (struct open_range){r->id, row};
    }
    if (!(r->flags & CUPTI_ACTIVITY_FLAG_MARKER_END)) return;
    for (int i = a->n_open - 1; i >= 0; i--) {
        struct activity_range *row = &a->open[i].row;
        if (a->open[i].id != r->id) continue;
        row->head.end_ns = (int64_t)r->timestamp;
        keep(a, activity_log_add_range(a->log, row, a->err));
        memmove(&a->open[i], &a->open[i + 1], (size_t)(--a->n_open - i) * sizeof a->open[0]);
        return;
    }
}

static void read_overhead(struct activity *a, const struct cupti_overhead *r) {
    const struct activity_overhead row = {.head = head_of(a, r->start, r->end),
                                          .process = r->process,
                                          .thread = r->thread,
                                          .kind = r->overhead_kind};
    keep(a, activity_log_add_overhead(a->log, &row, a->err));
}

/* Moves of memory pools are neither. */
static void read_memory(struct activity *a, const struct cupti_memory *r) {
    const bool release = r->operation == CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE;
    const struct activity_memory row = {.head = head_of(a, r->timestamp, r->timestamp),
                                        .process = r->process,
                                        .device = r->device,
                                        .context = r->context,
                                        .stream = r->stream,
                                        .correlation = r->correlation,
                                        .address = r->address,
                                        .pc = r->pc,
                                        .bytes = (int64_t)r->bytes,
                                        .release = release,
                                        .kind = (uint8_t)r->memory_kind};
    if (release || r->operation == CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION)
        keep(a, activity_log_add_memory(&a->made, &row, a->err));
}

static void read_record(struct activity *a, const int32_t *record) {
    const void *r = record;
    switch (*record) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: read_kernel(a, r); break;
    case CUPTI_ACTIVITY_KIND_MEMCPY: read_memcpy(a, r); break;
    case CUPTI_ACTIVITY_KIND_MEMSET: read_memset(a, r); break;
    case CUPTI_ACTIVITY_KIND_RUNTIME:
    case CUPTI_ACTIVITY_KIND_DRIVER: read_call(a, r); break;
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: read_external(a, r); break;
    case CUPTI_ACTIVITY_KIND_MARKER: read_marker(a, r); break;
    case CUPTI_ACTIVITY_KIND_OVERHEAD: read_overhead(a, r); break;
    case CUPTI_ACTIVITY_KIND_MEMORY2: read_memory(a, r); break;
    default: break;
    }
}

static void read_buffer(void *ctx, uint8_t *buffer, size_t valid) {
    struct activity *a = ctx;
    int32_t *record = NULL;
    while (a->status == STATUS_OK && a->lib.next_record(buffer, valid, &record) == CUPTI_SUCCESS &&
           record)
        read_record(a, record);
}

/* ---- attributing */

static int by_id(const void *x, const void *y) {
    const struct correlation *a = x, *b = y;
    return (a->id > b->id) - (a->id < b->id);
}

static struct op_place place_of(struct activity *a, uint32_t correlation, uint64_t graph_node) {
    const struct correlation key = {.id = correlation};
    uint64_t packed = graph_node ? node_map_find(&a->nodes, graph_node) : 0;
    const struct correlation *c =
        packed || a->n_correlations == 0
            ? NULL
            : bsearch(&key, a->correlations, (size_t)a->n_correlations, sizeof key, by_id);
    return op_place_unpack(c ? c->place : packed);
}

/* Rows since those numbers. */
static void attribute(struct activity *a, int64_t kernels, int64_t copies, int64_t calls) {
    struct activity_log *log = a->log;
    if (a->n_correlations > 0)
        qsort(a->correlations, (size_t)a->n_correlations, sizeof *a->correlations, by_id);
    pthread_mutex_lock(&a->lock);
    for (int64_t i = kernels; i < log->n_kernels; i++)
        log->kernels[i].head.place =
            place_of(a, log->kernels[i].correlation, log->kernels[i].graph_node);
    for (int64_t i = copies; i < log->n_copies; i++)
        log->copies[i].head.place =
            place_of(a, log->copies[i].correlation, log->copies[i].graph_node);
    for (int64_t i = calls; i < log->n_calls; i++)
        log->calls[i].head.place = place_of(a, log->calls[i].correlation, 0);
    pthread_mutex_unlock(&a->lock);
    a->n_correlations = 0;
}

/* ---- taking */

/* Buffers come back once all their records are whole, which is soon after the devices are idle;
 * what does not come is taken as it is. */
static enum status flush(struct activity *a, struct error *err) {
    enum { TRIES = 50 };
    int32_t r = a->lib.flush(0);
    for (int i = 0; r == CUPTI_SUCCESS && buffer_pool_out(a->pool) > 0 && i < TRIES; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        r = a->lib.flush(0);
    }
    if (r == CUPTI_SUCCESS && buffer_pool_out(a->pool) > 0)
        r = a->lib.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    return r == CUPTI_SUCCESS ? STATUS_OK
                              : error_set(err, STATUS_DEVICE, "records of CUPTI: %s",
                                          cupti_error_text(&a->lib, r));
}

/* CUPTI counts what it could not store; that a buffer was refused means that there was some. */
static int64_t count_dropped(struct activity *a) {
    const int64_t refusals = buffer_pool_refusals(a->pool), refused = refusals - a->refusals;
    size_t dropped = 0;
    a->refusals = refusals;
    if (a->lib.dropped(NULL, 0, &dropped) != CUPTI_SUCCESS) dropped = 0;
    return (int64_t)dropped > refused ? (int64_t)dropped : refused;
}

/* What comes next is of that chunk, or (-1) of none. */
static void collect(struct activity *a, int32_t repeat, int32_t chunk, struct activity_log *log,
                    struct error *err) {
    const int64_t kernels = log->n_kernels, copies = log->n_copies, calls = log->n_calls;
    if (a->log != log) a->n_names = a->n_open = 0; /* their strings are of another log */
    a->log = log, a->repeat = repeat, a->chunk = chunk;
    a->err = err, a->status = flush(a, err);
    buffer_pool_empty(a->pool, read_buffer, a);
    attribute(a, kernels, copies, calls);
    log->dropped += count_dropped(a);
}

/* What was made goes to whoever asks first. */
static void give_made(struct activity *a) {
    struct activity_log *made = &a->made;
    pthread_mutex_lock(&a->lock);
    for (int64_t i = 0; i < made->n_nodes; i++)
        keep(a, activity_log_add_node(a->log, &made->nodes[i], a->err));
    for (int64_t i = 0; i < made->n_memory; i++)
        keep(a, activity_log_add_memory(a->log, &made->memory[i], a->err));
    a->log->dropped += made->dropped;
    activity_log_free(made);
    pthread_mutex_unlock(&a->lock);
}

enum status activity_take(struct activity *a, int32_t repeat, int32_t chunk,
                          struct activity_log *log, struct error *err) {
    collect(a, repeat, chunk, log, err);
    give_made(a);
    return a->status;
}

/* Ranges that are open have names of the log that is thrown away: they are forgotten, too. */
void activity_reset(struct activity *a) {
    struct activity_log log = {0};
    collect(a, -1, -1, &log, NULL);
    activity_log_free(&log);
    a->log = NULL;
}
