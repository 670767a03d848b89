/* Reads result files, wherever they come from: a damaged, truncated or hostile one is an error.
 * Before it: record_write.c. After it: cmd_run.c (invariance), show.c. */
#include "harness/record_schema.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CASES_MAX = 1 << 16, READER_TIME_LIMIT_S = 120 };

#define READ_TABLE(h, at, name, columns, type, n, group)                                           \
    h5_read_table(h, at, name, columns, COLUMNS(columns), sizeof(type), n, group)

/* Text as its number in an enum whose names are `names`. */
static int find(struct h5 *h, const char *what, const char *text, const char *const *names, int n) {
    char why[120];
    for (int i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) return i;
    snprintf(why, sizeof why, "\"%.40s\" is none that this program knows (a newer one has more?)",
             text);
    h5_fail(h, "read", what, why);
    return 0;
}
#define FIND(h, what, text, names) find(h, what, text, names, COLUMNS(names))

/* ---- reading: a case ---- */

static bool is_added(const char *name) {
    for (int i = 0; i < COLUMNS(added_attributes); i++)
        if (strcmp(name, added_attributes[i]) == 0) return true;
    return false;
}

/* Fields of attributes that an older file does not have stay as they are. */
static void read_attributes(struct h5 *h, h5_id at, const struct column *columns, int n,
                            void *row) {
    for (int i = 0; i < n; i++)
        if (!is_added(columns[i].name) || h5_has_attribute(h, at, columns[i].name))
            h5_read_attributes(h, at, &columns[i], 1, row);
}

static void read_case_row(struct h5 *h, h5_id g, struct case_result *r) {
    struct case_row row;
    memset(&row, 0, sizeof row);
    read_attributes(h, g, case_columns, COLUMNS(case_columns), &row);
    read_attributes(h, g, case_facts, COLUMNS(case_facts), r);
    if (h->status != STATUS_OK) return;
#define COPY(field) record_copy_text(r->field, sizeof r->field, row.field)
    COPY(id), COPY(prompt), COPY(prompt_sha256), COPY(device), COPY(dtype);
    COPY(attention), COPY(linear), COPY(exchange), COPY(attention_note), COPY(reason);
#undef COPY
    r->status = (enum case_status)FIND(h, "status", row.status, status_names);
    r->coverage = (enum coverage)FIND(h, "coverage", row.coverage, coverage_names);
    r->graph = strcmp(row.mode, "graph") == 0;
    r->prompt_tokens = row.prompt_tokens, r->chunk_tokens = row.chunk_tokens;
    r->max_num_batched_tokens =
        row.max_num_batched_tokens ? row.max_num_batched_tokens : row.chunk_tokens;
    r->tp = row.tp, r->devices = row.devices, r->memories = row.memories, r->repeats = row.repeats;
    r->ttft_estimated = row.ttft_estimated, r->ttft_error = row.ttft_error;
    r->prune_last_layer = row.prune_last_layer, r->dual_chunk = row.dual_chunk;
    r->exchange_overlap = row.exchange_overlap;
    r->predicted_prefill_s = row.predicted_prefill_s;
    if (r->tp < 0 || r->tp > MAX_RANKS || r->devices < 0 || r->devices > MAX_RANKS ||
        r->memories < 0 || r->memories > MAX_RANKS)
        h5_fail(h, "read", "the case", "it has an impossible number of ranks or devices");
}

/* Like h5_read_table, with the room that result.c expects of arrays that it may add rows to. */
static void *read_rows(struct h5 *h, h5_id at, const char *name, const struct column *columns,
                       int n_columns, size_t stride, int64_t *n, h5_id *group) {
    void *rows = h5_read_table(h, at, name, columns, n_columns, stride, n, group);
    if (!rows) return NULL;
    void *roomy = realloc(rows, ((size_t)result_capacity(*n) + 1) * stride);
    if (!roomy) {
        free(rows);
        *n = 0;
        h5_check_memory(h, NULL, name);
    }
    return roomy;
}
#define READ_ROWS(h, at, name, columns, type, n, group)                                            \
    read_rows(h, at, name, columns, COLUMNS(columns), sizeof(type), n, group)

static void read_chunks(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g;
    int width;
    r->chunks = READ_ROWS(h, at, "chunks", chunk_columns, struct chunk_row, &r->n_chunks, &g);
    char *packed = h5_read_matrix(h, g, device_columns, r->n_chunks, MAX_RANKS, &width);
    for (int64_t i = 0; packed && i < r->n_chunks; i++) {
        size_t row = (size_t)width * sizeof(int64_t);
        memcpy(r->chunks[i].device_latency_ns, packed + (size_t)i * row, row);
    }
    free(packed);
    h5_close_group(g);
}

static void read_predicted(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g;
    int64_t n;
    struct predicted_row *rows =
        READ_TABLE(h, at, "predicted_memory", predicted_columns, struct predicted_row, &n, &g);
    struct memory_prediction *m = &r->predicted_memory;
    h5_read_attributes(h, g, predicted_facts, COLUMNS(predicted_facts), r);
    for (int64_t i = 0; rows && i < n; i++) {
        if (rows[i].rank == SHARED_RANK) {
            memcpy(m->shared_bytes, rows[i].bytes, sizeof m->shared_bytes);
        } else if (rows[i].rank >= 0 && rows[i].rank < MAX_RANKS) {
            memcpy(m->rank_bytes[rows[i].rank], rows[i].bytes, sizeof rows[i].bytes);
            if (rows[i].rank >= m->ranks) m->ranks = rows[i].rank + 1;
        }
    }
    free(rows);
    h5_close_group(g);
}

static void read_ttft(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g;
    int64_t n;
    struct ttft_row *rows = READ_TABLE(h, at, "ttft", ttft_columns, struct ttft_row, &n, &g);
    h5_close_group(g);
    if (!rows) return;
    r->ttft_ns = calloc((size_t)n + 1, sizeof *r->ttft_ns);
    if (h5_check_memory(h, r->ttft_ns, "ttft")) {
        for (int64_t i = 0; i < n; i++) r->ttft_ns[i] = rows[i].ttft_ns;
        r->n_ttft = (int)n;
    }
    free(rows);
}

static int32_t *read_ids(struct h5 *h, h5_id g, const struct column *c, int *n) {
    int64_t rows;
    int32_t *ids = h5_read_column(h, g, c, &rows);
    *n = (int)rows;
    return ids;
}

static void read_checks(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g;
    int64_t n;
    struct check_row *rows = READ_TABLE(h, at, "checks", check_columns, struct check_row, &n, &g);
    for (int64_t i = 0; rows && i < n; i++) {
        int which = FIND(h, "a check's name", rows[i].name, check_names);
        struct check_result *c = &r->check[which];
        c->verdict = (enum verdict)FIND(h, "a verdict", rows[i].verdict, verdict_names);
        c->worst = rows[i].worst, c->limit = rows[i].limit;
        record_copy_text(c->detail, sizeof c->detail, rows[i].detail);
    }
    free(rows);
    h5_close_group(g);
}

static void read_outputs(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g = h5_open_group(h, at, "outputs"), top;
    h5_read_attributes(h, g, output_facts, COLUMNS(output_facts), r);
    r->output = read_ids(h, g, token_columns, &r->n_output);
    r->expected = read_ids(h, g, expected_columns, &r->n_expected);
    r->output_text = h5_read_text(h, g, "text");
    int64_t n = 0, most = (int64_t)(sizeof r->top / sizeof *r->top);
    struct top_logprob *rows = READ_TABLE(h, g, "top", top_columns, struct top_logprob, &n, &top);
    for (r->n_top = 0; rows && r->n_top < n && r->n_top < most; r->n_top++)
        r->top[r->n_top] = rows[r->n_top];
    free(rows);
    h5_close_group(top);
    read_checks(h, g, r);
    h5_close_group(g);
}

/* Of a kernel that this program does not have, whose name is kept; letters that no kernel's name
 * has are not. */
static int foreign_number(struct case_result *r, const char *name) {
    char plain[sizeof r->foreign_kernel[0]];
    int i = 0;
    record_copy_text(plain, sizeof plain, name);
    for (char *c = plain; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_') *c = '?';
    while (i < r->n_foreign && strcmp(r->foreign_kernel[i], plain) != 0) i++;
    if (i == r->n_foreign && i < FOREIGN_KERNELS)
        record_copy_text(r->foreign_kernel[r->n_foreign++], sizeof plain, plain);
    return UINT8_MAX - (i < FOREIGN_KERNELS ? i : FOREIGN_KERNELS - 1);
}

static int variant_number(struct case_result *r, enum op op, const char *name) {
    struct variant_info v;
    for (int i = 0, of_op = 0; variant_info(i, &v); i++)
        if (v.op == op && of_op++ < UINT8_MAX - FOREIGN_KERNELS && strcmp(v.name, name) == 0)
            return of_op - 1;
    return foreign_number(r, name);
}

struct span *record_read_ops(struct h5 *h, h5_id at, struct case_result *r, int64_t *n) {
    h5_id g;
    struct op_row *rows = READ_TABLE(h, at, "ops", op_columns, struct op_row, n, &g);
    struct span *out = rows ? calloc((size_t)*n + 1, sizeof *out) : NULL;
    for (int64_t i = 0; out && i < *n; i++) {
        if (rows[i].op_id != i) h5_fail(h, "read", "ops", "its rows are not in order");
        out[i].op = (uint8_t)FIND(h, "an op's name", rows[i].op, op_names);
        out[i].role = (uint8_t)FIND(h, "an op's role", rows[i].role, role_names);
        out[i].variant = (uint8_t)variant_number(r, (enum op)out[i].op, rows[i].variant);
    }
    if (rows) h5_check_memory(h, out, "spans");
    free(rows);
    h5_close_group(g);
    return out;
}

/* A table that older files do not have. */
static void read_traced(struct h5 *h, h5_id g, struct case_result *r) {
    h5_id table;
    int64_t rows = 0;
    if (!h5_has(h, g, "chunks")) return;
    r->traced = READ_ROWS(h, g, "chunks", chunk_columns, struct chunk_row, &rows, &table);
    r->n_traced = rows;
    h5_close_group(table);
}

/* An older file does not say on which of `devices` a span was: of each chunk it has one device's
 * spans after the other's, and a device's are in order of time. */
static void infer_span_devices(struct span_record *rows, int64_t n, int devices) {
    for (int64_t i = 1; i < n; i++) {
        struct span_record *s = &rows[i];
        const struct span_record *last = &rows[i - 1];
        if (s->repeat != last->repeat || s->chunk != last->chunk) continue;
        s->device = last->device;
        if (s->begin_ns < last->begin_ns && s->device + 1 < devices) s->device++;
    }
}

static void read_span_devices(struct h5 *h, h5_id g, struct span_record *rows, int64_t n,
                              int devices) {
    int64_t there;
    if (!rows) return;
    if (!h5_has(h, g, span_device_column.name)) {
        infer_span_devices(rows, n, devices);
        return;
    }
    uint8_t *device = h5_read_column(h, g, &span_device_column, &there);
    if (device && there != n)
        h5_fail(h, "read", "spans/device", "its number of rows is not that of its table");
    for (int64_t i = 0; device && there == n && i < n; i++) rows[i].device = device[i];
    free(device);
}

static void read_buffers(struct h5 *h, h5_id g, struct case_result *r) {
    h5_id table;
    int64_t n = 0;
    struct buffer_record *rows =
        READ_TABLE(h, g, "buffers", buffer_columns, struct buffer_record, &n, &table);
    h5_close_group(table);
    if (rows) r->buffers = calloc((size_t)result_capacity(n) + 1, sizeof *r->buffers);
    if (rows && h5_check_memory(h, r->buffers, "buffers")) r->n_buffers = n;
    for (int64_t i = 0; i < r->n_buffers; i++) {
        struct buffer_info *b = &r->buffers[i].buffer;
        if (rows[i].buffer != i) h5_fail(h, "read", "spans/buffers", "its rows are not in order");
        if (rows[i].device < 0 || rows[i].device >= MAX_RANKS || rows[i].rank < SHARED_RANK ||
            rows[i].rank >= MAX_RANKS || rows[i].bytes < 0)
            h5_fail(h, "read", "spans/buffers", "an impossible device, rank or size");
        r->buffers[i].device = rows[i].device;
        b->rank = rows[i].rank, b->bytes = rows[i].bytes;
        b->category = (enum memory_category)FIND(h, "a category", rows[i].category, category_names);
        record_copy_text(b->name, sizeof b->name, rows[i].name);
    }
    free(rows);
}

/* In order of the spans, each of one that is there. */
static void check_uses(struct h5 *h, const struct case_result *r) {
    for (int64_t i = 0; i < r->n_buffer_uses; i++) {
        const struct buffer_use_row *u = &r->buffer_uses[i];
        if (u->span < 0 || u->span >= r->n_spans || u->buffer < 0 || u->buffer >= r->n_buffers ||
            u->bytes < 0 || (i > 0 && u->span < r->buffer_uses[i - 1].span)) {
            h5_fail(h, "read", "spans/memory", "a span or a buffer that is not there");
            return;
        }
    }
}

/* Two tables that older files do not have. */
static void read_timeline(struct h5 *h, h5_id g, struct case_result *r) {
    h5_id table;
    int64_t n = 0;
    if (!h5_has(h, g, "buffers") || !h5_has(h, g, "memory")) return;
    read_buffers(h, g, r);
    r->buffer_uses =
        READ_ROWS(h, g, "memory", buffer_use_columns, struct buffer_use_row, &n, &table);
    r->n_buffer_uses = n;
    h5_close_group(table);
    if (h->status == STATUS_OK) check_uses(h, r);
}

/* Of runs that had the processor's counters read. */
static void read_span_counts(struct h5 *h, h5_id g, struct span_record *rows, int64_t n,
                             struct case_result *r) {
    r->counted = rows && h5_has(h, g, span_count_columns[0].name);
    for (int c = 0; r->counted && c < COLUMNS(span_count_columns); c++) {
        int64_t there;
        int64_t *values = h5_read_column(h, g, &span_count_columns[c], &there);
        if (values && there != n)
            h5_fail(h, "read", "spans/cycles", "its number of rows is not that of its table");
        for (int64_t i = 0; values && there == n && i < n; i++)
            memcpy((char *)&rows[i] + span_count_columns[c].offset, &values[i], sizeof *values);
        free(values);
    }
}

static void read_spans(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g;
    int64_t n = 0, n_ops = 0;
    struct span_record *rows = READ_TABLE(h, at, "spans", span_columns, struct span_record, &n, &g);
    read_span_devices(h, g, rows, n, r->devices);
    struct span *ops = record_read_ops(h, g, r, &n_ops);
    read_attributes(h, g, span_facts, COLUMNS(span_facts), r);
    read_span_counts(h, g, rows, n, r);
    read_traced(h, g, r);
    if (h->status == STATUS_OK) r->spans = calloc((size_t)result_capacity(n) + 1, sizeof *r->spans);
    if (h5_check_memory(h, r->spans, "spans") && ops) {
        for (int64_t i = 0; i < n && h->status == STATUS_OK; i++) {
            const struct span_record *s = &rows[i];
            if (s->op_id < 0 || s->op_id >= n_ops) {
                h5_fail(h, "read", "spans/op_id", "a number that spans/ops does not have");
                break;
            }
            struct span_row *out = &r->spans[r->n_spans++];
            out->repeat = s->repeat, out->chunk = s->chunk;
            out->span = ops[s->op_id];
            out->span.begin_ns = s->begin_ns, out->span.end_ns = s->end_ns;
            out->span.flops = s->flops, out->span.bytes = s->bytes;
            out->span.rank = s->rank, out->span.layer = s->layer;
            out->span.device = s->device;
            out->counts = s->counts;
        }
    }
    free(ops);
    free(rows);
    if (h->status == STATUS_OK) read_timeline(h, g, r);
    h5_close_group(g);
}

static void read_status(struct h5 *h, h5_id at, struct case_result *r) {
    h5_id g = h5_open_group(h, at, "status");
    h5_read_attributes(h, g, status_facts, COLUMNS(status_facts), r);
    r->stderr_tail = h5_read_text(h, g, "stderr_tail");
    if (r->stderr_tail && !*r->stderr_tail) {
        free(r->stderr_tail);
        r->stderr_tail = NULL;
    }
    h5_close_group(g);
}

static void read_prompt(struct h5 *h, h5_id at, struct case_result *r) {
    if (!h5_has(h, at, "prompt")) return;
    h5_id g = h5_open_group(h, at, "prompt");
    h5_read_attributes(h, g, prompt_facts, COLUMNS(prompt_facts), r);
    h5_close_group(g);
}

static void read_case(struct h5 *h, h5_id all, const char *id, bool with_spans,
                      struct case_result *r) {
    memset(r, 0, sizeof *r);
    h5_id g = h5_open_group(h, all, id);
    read_case_row(h, g, r);
    if (h->status == STATUS_OK && strcmp(r->id, id) != 0)
        h5_fail(h, "read", id, "its group has another name");
    read_prompt(h, g, r);
    read_chunks(h, g, r);
    int64_t rows = 0;
    h5_id table = -1;
    r->memory = READ_ROWS(h, g, "memory", memory_columns, struct memory_row, &rows, &table);
    r->n_memory = rows;
    h5_close_group(table);
    if (h5_has(h, g, "clocks")) {
        r->clocks = READ_ROWS(h, g, "clocks", clock_columns, struct clock_row, &rows, &table);
        r->n_clocks = rows;
        h5_close_group(table);
    }
    r->decode = READ_ROWS(h, g, "decode", decode_columns, struct decode_row, &rows, &table);
    r->n_decode = rows;
    h5_close_group(table);
    read_predicted(h, g, r);
    read_ttft(h, g, r);
    read_outputs(h, g, r);
    if (with_spans) read_spans(h, g, r);
    record_read_trace(h, g, r, with_spans);
    read_status(h, g, r);
    h5_close_group(g);
    if (h->status != STATUS_OK) result_free(r);
}

/* ---- reading: files ---- */

static bool read_root(struct h5 *h, h5_id file) {
    char schema[32];
    h5_read_text_attribute(h, file, "schema", schema, sizeof schema);
    int64_t version = h5_read_int_attribute(h, file, "schema_version");
    bool complete = h5_read_int_attribute(h, file, "complete") == 1;
    if (h->status != STATUS_OK) return false;
    char why[120];
    if (strcmp(schema, "chunkbench") != 0) {
        h5_fail(h, "read", "", "it is an HDF5 file, but not a result of bench");
    } else if (version != RECORD_SCHEMA_VERSION) {
        snprintf(why, sizeof why, "its schema version is %lld, this program reads version %d",
                 (long long)version, (int)RECORD_SCHEMA_VERSION);
        h5_fail(h, "read", "", why);
    }
    return complete;
}

/* The only case of a fragment. */
static void only_case(struct h5 *h, h5_id all, char *out, size_t size) {
    if (h5_children(h, all) != 1)
        h5_fail(h, "choose", "a case", "the file does not hold exactly one");
    h5_first_child(h, all, out, size);
}

static bool check_id(struct h5 *h, const char *id) {
    if (h->status != STATUS_OK) return false;
    return (*id && *id != '.' && !strchr(id, '/')) ||
           h5_fail(h, "read", id, "it is not a case's id");
}

static enum status read_case_here(const char *path, const char *id, bool with_spans,
                                  struct case_result *out, struct error *err) {
    struct h5 h = {.path = path, .status = STATUS_OK, .err = err};
    char name[sizeof out->id];
    memset(out, 0, sizeof *out);
    h5_id file = h5_open(&h);
    read_root(&h, file);
    h5_id all = h5_open_group(&h, file, "case");
    if (id)
        record_copy_text(name, sizeof name, id);
    else
        only_case(&h, all, name, sizeof name);
    if (check_id(&h, name)) read_case(&h, all, name, with_spans, out);
    h5_close_group(all);
    h5_close(&h, file);
    if (h.status != STATUS_OK) result_free(out);
    return h.status;
}

/* The cases, in the order of the /cases table. */
static void read_cases(struct h5 *h, h5_id file, struct record_run *out) {
    struct column id = {"id", TEXT, 0, sizeof out->cases->id, "", ""};
    int64_t rows;
    h5_id all = h5_open_group(h, file, "case");
    char *ids = h5_read_compound_text(h, file, "cases", &id, &rows);
    if (ids && (rows > CASES_MAX || rows != h5_children(h, all)))
        h5_fail(h, "read", "cases", "its rows are not the groups of case");
    if (h->status == STATUS_OK) out->cases = calloc((size_t)rows + 1, sizeof *out->cases);
    if (h5_check_memory(h, out->cases, "cases")) {
        for (; out->n < rows && h->status == STATUS_OK; out->n++) {
            const char *name = ids + (size_t)out->n * id.size;
            if (check_id(h, name)) read_case(h, all, name, false, &out->cases[out->n]);
        }
    }
    free(ids);
    h5_close_group(all);
}

/* argv, configuration and kernel names: one block that the run owns. */
static void read_run_texts(struct h5 *h, h5_id g, struct record_run *out) {
    enum { VARIANT_BYTES = 64 };
    char *argv = h5_read_text(h, g, "argv"), *config = h5_read_text(h, g, "config");
    char variant[OPS][VARIANT_BYTES] = {{0}};
    for (int i = 0; i < OPS; i++) {
        char name[64];
        snprintf(name, sizeof name, "kernel_%s", op_names[i]);
        if (!is_added(name) || h5_has_attribute(h, g, name))
            h5_read_text_attribute(h, g, name, variant[i], sizeof variant[i]);
    }
    if (h->status == STATUS_OK) {
        size_t argv_bytes = strlen(argv) + 1, config_bytes = strlen(config) + 1;
        out->text = calloc(argv_bytes + config_bytes + sizeof variant, 1);
        if (h5_check_memory(h, out->text, "texts")) {
            char *p = out->text;
            out->facts.argv = memcpy(p, argv, argv_bytes);
            out->facts.config_text = memcpy(p + argv_bytes, config, config_bytes);
            p = memcpy(p + argv_bytes + config_bytes, variant, sizeof variant);
            for (int i = 0; i < OPS; i++)
                out->facts.device.variant[i] = p + (size_t)i * VARIANT_BYTES;
        }
    }
    free(config);
    free(argv);
}

/* There is no such table where there was no GPU. */
static void read_gpus(struct h5 *h, h5_id g, struct run_facts *out) {
    h5_id table;
    int64_t n;
    if (!h5_has(h, g, "gpus")) return;
    struct gpu_row *rows = READ_TABLE(h, g, "gpus", gpu_columns, struct gpu_row, &n, &table);
    for (int64_t i = 0; rows && i < n && i < GPU_LIST_MOST; i++) out->gpus[out->n_gpus++] = rows[i];
    free(rows);
    h5_close_group(table);
}

static enum status read_run_here(const char *path, struct record_run *out, struct error *err) {
    struct h5 h = {.path = path, .status = STATUS_OK, .err = err};
    memset(out, 0, sizeof *out);
    h5_id file = h5_open(&h);
    out->complete = read_root(&h, file);
    h5_read_attributes(&h, file, root_columns, COLUMNS(root_columns), &out->facts);
    h5_id run = h5_open_group(&h, file, "run");
    h5_read_attributes(&h, run, run_columns, COLUMNS(run_columns), &out->facts);
    read_gpus(&h, run, &out->facts);
    read_run_texts(&h, run, out);
    read_cases(&h, file, out);
    h5_close_group(run);
    h5_close(&h, file);
    if (h.status != STATUS_OK) record_run_free(out);
    return h.status;
}

const struct device_rates *record_rates(const struct record_run *run, const struct case_result *r) {
    return r->rates.roof_flops > 0 ? &r->rates : &run->facts.rates;
}

void record_run_free(struct record_run *r) {
    for (int i = 0; i < r->n; i++) result_free(&r->cases[i]);
    free(r->cases);
    free(r->text);
    memset(r, 0, sizeof *r);
}

/* ---- reading: the guard ---- */

/* What to read: a case, or (run) everything. */
struct request {
    const char *path, *id;
    bool run, with_spans;
};
struct answer {
    enum status status;
    struct error error;
};

static void read_and_answer(const struct request *q, int fd) {
    struct answer a = {STATUS_OK, {""}};
    if (q->run) {
        struct record_run run;
        a.status = read_run_here(q->path, &run, &a.error);
    } else {
        struct case_result r;
        a.status = read_case_here(q->path, q->id, q->with_spans, &r, &a.error);
    }
    const char *p = (const char *)&a;
    for (size_t done = 0; done < sizeof a;) {
        ssize_t w = write(fd, p + done, sizeof a - done);
        if (w <= 0) break;
        done += (size_t)w;
    }
}

static void run_reader(const struct request *q, int fd) {
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM, SIGTERM};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) signal(deadly[i], SIG_DFL);
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, STDERR_FILENO); /* what an aborting libc has to say */
    alarm(READER_TIME_LIMIT_S);
    read_and_answer(q, fd);
    _exit(0);
}

/* Lets a child process read first: it answers as this process would be answered, or dies in its
 * stead. */
static enum status guard(const struct request *q, struct error *err) {
    int fds[2];
    if (pipe(fds) != 0)
        return error_set(err, STATUS_IO, "%s: cannot make a pipe: %s", q->path, strerror(errno));
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    fflush(stdout); /* else both have it: _exit of the thread sanitizer writes it, too */
    pid_t child = fork();
    if (child == 0) run_reader(q, fds[1]);
    close(fds[1]);
    if (child < 0) {
        close(fds[0]);
        return error_set(err, STATUS_IO, "%s: cannot start a process: %s", q->path,
                         strerror(errno));
    }
    struct answer a;
    size_t got = 0;
    while (got < sizeof a) {
        ssize_t n = read(fds[0], (char *)&a + got, sizeof a - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        got += (size_t)n;
    }
    close(fds[0]);
    int how = 0;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) continue;
    if (got < sizeof a)
        return error_set(err, STATUS_IO, "%s: the file is damaged: the HDF5 library %s on it",
                         q->path,
                         WIFSIGNALED(how) && WTERMSIG(how) == SIGALRM ? "does not end" : "crashes");
    if (a.status != STATUS_OK) {
        a.error.text[sizeof a.error.text - 1] = 0;
        error_set(err, a.status, "%s", a.error.text);
    }
    return a.status;
}

enum status record_read_case(const char *path, const char *id, bool with_spans,
                             struct case_result *out, struct error *err) {
    memset(out, 0, sizeof *out);
    enum status s = guard(&(struct request){path, id, false, with_spans}, err);
    return s == STATUS_OK ? read_case_here(path, id, with_spans, out, err) : s;
}

enum status record_read_run(const char *path, struct record_run *out, struct error *err) {
    memset(out, 0, sizeof *out);
    enum status s = guard(&(struct request){path, NULL, true, false}, err);
    return s == STATUS_OK ? read_run_here(path, out, err) : s;
}
