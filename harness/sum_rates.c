/* Sums over devices: time, and the rates by which others tell them. algbw is bytes of a part over
 * the time of a sum; busbw, by the formula of nccl-tests, is what each device has to send in it:
 * 2 (n - 1) / n of the part, whatever the way. Before it: cmd_kernels.c; after it: engine's
 * sum_bench.c. */
#include "harness/sum_rates.h"

#include "harness/jsondoc.h"
#include "harness/table.h"

#include "engine/sum_bench.h"
#include "kernels/op_bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of 4,096: in bfloat16 1 MiB, 4, 16, 64, 256, 1,024; and a block of the 7B model's. */
static const char *const usual_shapes[] = {
    "T=128,C=4096",   "T=512,C=4096",    "T=2048,C=4096", "T=8192,C=4096",
    "T=32768,C=4096", "T=131072,C=4096", "T=8192,C=3584",
};
enum { USUAL = sizeof usual_shapes / sizeof *usual_shapes };

struct rates {
    const struct sum_request *request;
    int devices, rows;
    bool nccl;           /* rows of it are among them */
    struct table *table; /* one of the two, owned */
    struct jsondoc *json, *sums;
};

static const struct table_column columns[] = {
    {"kernel", "", true, false},     {"order", "", true, false},
    {"shape", "", true, false},      {"part", "MiB", false, false},
    {"time", "us", false, false},    {"min-max", "us", false, false},
    {"algbw", "GB/s", false, false}, {"busbw", "GB/s", false, false},
    {"wrong", "", false, false},     {"runs", "", false, false}};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void begin(struct rates *m, const char *device) {
    if (m->rows++ > 0) return;
    if (!m->request->json) {
        printf("sums over %d devices, each %s\n\n", m->devices, device);
        m->table = table_open(columns, COLUMNS);
        return;
    }
    m->json = jsondoc_object();
    jsondoc_put_text(m->json, "schema", "chunkbench kernels");
    jsondoc_put_int(m->json, "schema_version", 1);
    jsondoc_put_text(m->json, "device", device);
    jsondoc_put_int(m->json, "devices", m->devices);
    m->sums = jsondoc_put_array(m->json, "sums");
}

/* What the numbers of short sums are made of. */
static const char nccl_note[] =
    "\nnccl, nccl_sum: each call of a communicator that does not block, as these are, starts a "
    "thread, "
    "which\n"
    "the time of a short sum includes. A recorded step (enforce_eager = false) has no such calls.";

static void end(struct rates *m) {
    char *text = m->json ? jsondoc_text(m->json) : NULL;
    if (text) puts(text);
    free(text);
    jsondoc_close(m->json);
    if (m->table) table_print(stdout, m->table, "", 0, false);
    if (m->table && m->nccl) puts(nccl_note);
    table_close(m->table);
}

static void tell(struct rates *m, const char *kernel, bool in_rank_order, const struct op_shape *s,
                 const struct sum_time *t) {
    const double bytes = (double)s->rows * s->C * (double)dtype_bytes(m->request->dtype);
    const double algbw = bytes / t->median_s;
    const double busbw = algbw * 2 * (m->devices - 1) / m->devices;
    char text[96];
    op_shape_text(s, text, sizeof text);
    m->nccl = m->nccl || strncmp(kernel, "nccl", 4) == 0;
    if (m->json) {
        struct jsondoc *row = jsondoc_add_object(m->sums);
        jsondoc_put_text(row, "kernel", kernel);
        jsondoc_put_bool(row, "in_rank_order", in_rank_order);
        jsondoc_put_text(row, "shape", text);
        jsondoc_put_real(row, "bytes", bytes);
        jsondoc_put_real(row, "median_s", t->median_s);
        jsondoc_put_real(row, "min_s", t->min_s);
        jsondoc_put_real(row, "max_s", t->max_s);
        jsondoc_put_real(row, "algbw_bytes_per_s", algbw);
        jsondoc_put_real(row, "busbw_bytes_per_s", busbw);
        jsondoc_put_int(row, "wrong", t->wrong);
        jsondoc_put_int(row, "runs", t->runs);
        return;
    }
    table_add(m->table, TONE_PLAIN, "%s", kernel);
    table_add(m->table, TONE_PLAIN, "%s", in_rank_order ? "by rank" : "its own");
    table_add(m->table, TONE_PLAIN, "%s", text);
    table_add_number(m->table, bytes / (1 << 20));
    table_add_number(m->table, t->median_s * 1e6);
    table_add(m->table, TONE_FAINT, "%.4g-%.4g", t->min_s * 1e6, t->max_s * 1e6);
    table_add_number(m->table, algbw * 1e-9);
    table_add_number(m->table, busbw * 1e-9);
    if (t->wrong < 0)
        table_add(m->table, TONE_FAINT, "-");
    else
        table_add(m->table, t->wrong ? TONE_BAD : TONE_PLAIN, "%lld", (long long)t->wrong);
    table_add(m->table, TONE_PLAIN, "%lld", (long long)t->runs);
}

/* A size for which there is no memory is left out, and said. */
static enum status measure_shape(struct rates *m, struct sum_bench *b, const char *kernel,
                                 const char *text, struct error *err) {
    struct op_shape shape;
    struct sum_time t;
    op_shape_parse(OP_EXCHANGE, text, &shape); /* whoever asked has looked at it */
    const enum status s =
        sum_bench_run(b, shape.rows, shape.C, m->request->warmup_s, m->request->seconds, &t, err);
    if (s == STATUS_OK) {
        begin(m, sum_bench_device(b));
        tell(m, kernel, sum_bench_in_rank_order(b), &shape, &t);
    }
    if (s != STATUS_NO_MEMORY) return s;
    fprintf(stderr, "bench kernels: %s\n", err->text);
    return STATUS_OK;
}

static enum status measure_kernel(struct rates *m, const char *kernel, struct error *err) {
    const struct sum_request *r = m->request;
    const int shapes = r->shapes.n > 0 ? r->shapes.n : USUAL;
    struct engine_opts o = engine_opts_defaults();
    struct sum_bench *b;
    o.device = r->device, o.dtype = r->dtype, o.devices = m->devices, o.exchange_backend = kernel;
    enum status s = sum_bench_open(&b, &o, err);
    for (int i = 0; i < shapes && s == STATUS_OK; i++)
        s = measure_shape(m, b, kernel, r->shapes.n > 0 ? r->shapes.v[i] : usual_shapes[i], err);
    sum_bench_close(b);
    return s;
}

/* All of the device's kind; those that do not serve say why, and the last of them is the error
 * where none does. */
static enum status measure_all(struct rates *m, struct error *err) {
    struct variant_info v;
    enum status s = STATUS_OK;
    for (int i = 0; variant_info(i, &v) && (s == STATUS_OK || s == STATUS_UNSUPPORTED); i++) {
        if (v.op != OP_EXCHANGE || strcmp(v.device, device_kind_name(m->request->device)) != 0)
            continue;
        s = measure_kernel(m, v.name, err);
        if (s == STATUS_UNSUPPORTED) fprintf(stderr, "bench kernels: %s\n", err->text);
    }
    return s == STATUS_UNSUPPORTED && m->rows > 0 ? STATUS_OK : s;
}

enum status sum_rates(const struct sum_request *r, struct error *err) {
    struct rates m = {.request = r, .devices = r->devices};
    if (m.devices == 0) m.devices = r->device == DEVICE_CPU ? 2 : device_count(r->device);
    const enum status s = r->kernel ? measure_kernel(&m, r->kernel, err) : measure_all(&m, err);
    end(&m);
    return s;
}
