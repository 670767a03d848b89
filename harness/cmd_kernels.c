/* `bench kernels`: one op on one shape, again and again: time, rate, share of the machine's
 * ceiling, and on a GPU the clocks and joules that it took. Opens the device itself, in this
 * process; no model, no session. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/clocks.h"
#include "harness/jsondoc.h"
#include "harness/sum_rates.h"
#include "harness/table.h"

#include "kernels/op_runs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_RUNS = 100000, MOST_SHAPES = 32, LEAST_ENERGY_S = 1 };

struct request {
    const char *op, *kernel, *device, *devices, *dtype, *warmup, *seconds;
    struct argument_list shapes;
    bool json;
    double warmup_s, measured_s;
    int device_count; /* of sums; 0: not said */
};

/* Of one shape. NaN: not known. */
struct kernel_time {
    double median_s, mean_s, min_s, max_s, flops_per_s, bytes_per_s;
    double ceiling; /* share of it */
    double sm_mhz, power_w, joules_per_flop;
    int runs;
};

struct measuring {
    const struct request *request;
    struct device *dev;
    struct device_info info;
    struct clocks *clocks;            /* NULL: no GPU, or it does not tell */
    double product_flops, copy_bytes; /* the machine's ceilings */
    struct table *table;              /* one of the two, owned */
    struct jsondoc *json, *rows;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- one shape ---- */

/* What ran in some time, at least one; the first `room` of them have their times kept. */
struct series {
    double *times; /* [room] */
    int room, kept;
    int64_t n;
    double sum_s; /* of all n, by the device's clock */
};

static enum status run_for(struct op_runs *r, double seconds, struct series *out, struct error *err) {
    const double begin = now_s();
    out->n = out->kept = 0, out->sum_s = 0;
    do {
        double t;
        const enum status s = op_runs_next(r, &t, err);
        if (s != STATUS_OK) return s;
        if (out->kept < out->room) out->times[out->kept++] = t;
        out->n++, out->sum_s += t;
    } while (now_s() < begin + seconds);
    return STATUS_OK;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool is_product(enum op op) {
    return op == OP_LINEAR || op == OP_ATTENTION;
}

static void evaluate(const struct measuring *m, enum op op, struct cost cost, struct series *all,
                     struct kernel_time *out) {
    const int n = all->kept;
    qsort(all->times, (size_t)n, sizeof *all->times, by_value);
    out->runs = (int)all->n;
    out->min_s = all->times[0];
    out->max_s = all->times[n - 1];
    out->mean_s = all->sum_s / (double)all->n;
    out->median_s = (all->times[(n - 1) / 2] + all->times[n / 2]) / 2;
    out->flops_per_s = (double)cost.flops / out->median_s;
    out->bytes_per_s = (double)cost.bytes / out->median_s;
    out->ceiling =
        is_product(op) ? out->flops_per_s / m->product_flops : out->bytes_per_s / m->copy_bytes;
}

/* Joules of so many seconds by the host's clock, in which the device did nothing but run. The
 * counter moves ten times a second: those of less than a second are not known well enough. */
static void add_clocks(const struct measuring *m, double elapsed_s, struct cost cost,
                       const struct series *all, struct kernel_time *out) {
    struct clock_row row;
    out->sm_mhz = out->power_w = out->joules_per_flop = (double)NAN;
    if (!clocks_row(m->clocks, 0, &row)) return;
    out->sm_mhz = row.sm_clock_mean_mhz;
    if (row.energy_mj < 0 || elapsed_s < LEAST_ENERGY_S) return;
    out->power_w = (double)row.energy_mj * 1e-3 / elapsed_s;
    out->joules_per_flop = out->power_w * all->sum_s / ((double)cost.flops * (double)all->n);
}

static enum status measure(struct measuring *m, const struct op_shape *shape,
                           struct kernel_time *out, struct error *err) {
    struct op_bench *b = NULL;
    struct series warmup = {.room = 0}, all = {.room = MOST_RUNS};
    all.times = malloc(MOST_RUNS * sizeof *all.times);
    if (!all.times) return error_set(err, STATUS_NO_MEMORY, "no memory for times");
    enum status s = op_bench_open(&b, m->dev, shape, err);
    if (s == STATUS_OK) {
        struct op_runs runs = op_runs_begin(b);
        s = run_for(&runs, m->request->warmup_s, &warmup, err);
        clocks_begin(m->clocks);
        const double begin = now_s();
        if (s == STATUS_OK) s = run_for(&runs, m->request->measured_s, &all, err);
        clocks_end(m->clocks);
        const double elapsed = now_s() - begin;
        if (s == STATUS_OK) {
            evaluate(m, shape->op, op_bench_cost(b), &all, out);
            add_clocks(m, elapsed, op_bench_cost(b), &all, out);
        }
        if (s == STATUS_OK) s = op_runs_end(&runs, err);
    }
    op_bench_close(b);
    free(all.times);
    return s;
}

/* ---- what is told ---- */

static struct table_column columns[] = {{"op", "", true, false},
                                        {"kernel", "", true, false},
                                        {"shape", "", true, false},
                                        {"time", "ms", false, false},
                                        {"min-max", "ms", false, false},
                                        {"rate", "TFLOP/s", false, false},
                                        {"rate", "GB/s", false, false},
                                        {"ceiling", "%", false, false},
                                        {"SM clock", "MHz", false, false},
                                        {"power", "W", false, false},
                                        {"energy", "pJ/FLOP", false, false},
                                        {"runs", "", false, false}};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void tell_row(struct measuring *m, const struct op_shape *shape,
                     const struct kernel_time *t) {
    char text[96];
    op_shape_text(shape, text, sizeof text);
    const char *kernel = m->info.variant[shape->op];
    if (m->json) {
        struct jsondoc *row = jsondoc_add_object(m->rows);
        jsondoc_put_text(row, "op", op_name(shape->op));
        jsondoc_put_text(row, "kernel", kernel);
        jsondoc_put_text(row, "shape", text);
        jsondoc_put_real(row, "median_s", t->median_s);
        jsondoc_put_real(row, "mean_s", t->mean_s);
        jsondoc_put_real(row, "min_s", t->min_s);
        jsondoc_put_real(row, "max_s", t->max_s);
        jsondoc_put_real(row, "flops_per_s", t->flops_per_s);
        jsondoc_put_real(row, "bytes_per_s", t->bytes_per_s);
        jsondoc_put_real(row, "share_of_ceiling", t->ceiling);
        jsondoc_put_real(row, "sm_clock_mhz", t->sm_mhz);
        jsondoc_put_real(row, "power_w", t->power_w);
        jsondoc_put_real(row, "joules_per_flop", t->joules_per_flop);
        jsondoc_put_int(row, "runs", t->runs);
        return;
    }
    table_add(m->table, TONE_PLAIN, "%s", op_name(shape->op));
    table_add(m->table, TONE_PLAIN, "%s", kernel);
    table_add(m->table, TONE_PLAIN, "%s", text);
    table_add_number(m->table, t->median_s * 1e3);
    table_add(m->table, TONE_FAINT, "%.4g-%.4g", t->min_s * 1e3, t->max_s * 1e3);
    table_add_number(m->table, t->flops_per_s * 1e-12);
    table_add_number(m->table, t->bytes_per_s * 1e-9);
    table_add_number(m->table, t->ceiling * 100);
    table_add_number(m->table, t->sm_mhz);
    table_add_number(m->table, t->power_w);
    table_add_number(m->table, is_product(shape->op) ? t->joules_per_flop * 1e12 : (double)NAN);
    table_add(m->table, TONE_PLAIN, "%d", t->runs);
}

static void tell_begin(struct measuring *m) {
    if (m->request->json) {
        m->json = jsondoc_object();
        jsondoc_put_text(m->json, "schema", "chunkbench kernels");
        jsondoc_put_int(m->json, "schema_version", 1);
        jsondoc_put_text(m->json, "device", m->info.name);
        jsondoc_put_text(m->json, "isa", m->info.isa);
        jsondoc_put_real(m->json, "product_flops_per_s", m->product_flops);
        jsondoc_put_real(m->json, "copy_bytes_per_s", m->copy_bytes);
        m->rows = jsondoc_put_array(m->json, "kernels");
        return;
    }
    printf(
        "%s (%s): ceilings measured now: %.4g TFLOP/s of a plain matrix product, copy %.4g GB/s\n"
        "each shape: %.3g s of warm-up, %.3g s measured\n\n",
        m->info.name, m->info.isa, m->product_flops * 1e-12, m->copy_bytes * 1e-9,
        m->request->warmup_s, m->request->measured_s);
    m->table = table_open(columns, COLUMNS);
    for (int i = 8; i < 11; i++) columns[i].hidden = !m->clocks;
}

static void tell_end(struct measuring *m) {
    if (m->json) {
        char *text = jsondoc_text(m->json);
        if (text) puts(text);
        free(text);
        jsondoc_close(m->json);
        return;
    }
    if (m->table) table_print(stdout, m->table, "", 0, false);
    table_close(m->table);
}

/* ---- the command ---- */

static bool parse_seconds(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && *out >= 0 && *out <= 3600;
}

static bool find_op(const char *name, enum op *out) {
    struct op_shape unused;
    for (int op = 0; op < OPS; op++)
        if (strcmp(op_name((enum op)op), name) == 0) {
            *out = (enum op)op;
            return *out == OP_EXCHANGE || op_shape_default(*out, DEVICE_CPU, 0, &unused);
        }
    return false;
}

static int bad(const char *what, const char *found, const char *expected) {
    struct error err;
    error_set(&err, STATUS_USAGE, "%s: found \"%s\", expected %s", what, found, expected);
    return bench_fail("kernels", STATUS_USAGE, &err);
}

static int check_shapes(const struct request *r, enum op op) {
    struct op_shape shape = {.op = op, .rows = 8192, .C = 3584};
    char usual[96], expected[160];
    if (op != OP_EXCHANGE) op_shape_default(op, DEVICE_CPU, 0, &shape);
    op_shape_text(&shape, usual, sizeof usual);
    snprintf(expected, sizeof expected, "one like %s", usual);
    for (int i = 0; i < r->shapes.n; i++)
        if (!op_shape_parse(op, r->shapes.v[i], &shape))
            return bad("--shape", r->shapes.v[i], expected);
    return -1;
}

static bool parse_devices(struct request *r) {
    char *end;
    if (!r->devices) return true;
    const long n = strtol(r->devices, &end, 10);
    r->device_count = (int)n;
    return end != r->devices && *end == 0 && n >= 2 && n <= MAX_RANKS;
}

static int parse(struct request *r, int argc, char **argv) {
    const struct argument arguments[] = {
        {"--op", ARGUMENT_VALUE, &r->op, "OP", "one op; else all that have a benchmark"},
        {"--kernel", ARGUMENT_VALUE, &r->kernel, "NAME",
         "variant of attention, linear or exchange (with --op), a name of `bench list kernels`"},
        {"--shape", ARGUMENT_LIST, &r->shapes, "SHAPE",
         "instead of the usual ones (with --op): T=32768,N=204800,H=28,K=4,D=128 for attention"},
        {"--device", ARGUMENT_VALUE, &r->device, "cpu|cuda", "where they run"},
        {"--devices", ARGUMENT_VALUE, &r->devices, "N",
         "with --op exchange, which sums over devices: how many (all GPUs; 2 of a CPU)"},
        {"--dtype", ARGUMENT_VALUE, &r->dtype, "bfloat16|float32", "of the operands (bfloat16)"},
        {"--warmup", ARGUMENT_VALUE, &r->warmup, "S", "seconds before measuring (0.5)"},
        {"--seconds", ARGUMENT_VALUE, &r->seconds, "S",
         "seconds measured (1); of less than one no joules are told"},
        {"--json", ARGUMENT_FLAG, &r->json, NULL, "one JSON document instead of a table"},
    };
    const struct command_line line = {
        .command = "kernels",
        .operands = "",
        .purpose = "Runs ops alone, on normal operands, and tells their rates beside this\n"
                   "machine's ceilings. A card that sits at its power limit shows its true rate\n"
                   "only after seconds: --warmup 3.5 --seconds 7.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof *arguments,
    };
    struct argument_list operands;
    const int code = arguments_parse(&line, argc, argv, &operands);
    enum op op = OPS;
    if (code >= 0) return code;
    if (r->op && !find_op(r->op, &op))
        return bad("--op", r->op,
                   "an op that has a benchmark: embed, "
                   "add_rmsnorm, linear, rope_cache, attention, swiglu, all_reduce, logits, "
                   "exchange");
    if (r->kernel && op != OP_ATTENTION && op != OP_LINEAR && op != OP_EXCHANGE)
        return bad("--kernel", r->kernel, "--op attention, linear or exchange beside it");
    if (r->devices && op != OP_EXCHANGE)
        return bad("--devices", r->devices, "--op exchange beside it");
    if (!parse_devices(r)) return bad("--devices", r->devices, "2 to 8");
    if (r->shapes.n > 0 && !r->op) return bad("--shape", r->shapes.v[0], "--op beside it");
    if (strcmp(r->device, "cpu") != 0 && strcmp(r->device, "cuda") != 0)
        return bad("--device", r->device, "cpu or cuda");
    if (strcmp(r->dtype, "bfloat16") != 0 && strcmp(r->dtype, "float32") != 0)
        return bad("--dtype", r->dtype, "bfloat16 or float32");
    if (!parse_seconds(r->warmup, &r->warmup_s)) return bad("--warmup", r->warmup, "seconds");
    if (!parse_seconds(r->seconds, &r->measured_s)) return bad("--seconds", r->seconds, "seconds");
    return r->op ? check_shapes(r, op) : -1;
}

static enum status measure_op(struct measuring *m, enum op op, struct error *err) {
    const struct request *r = m->request;
    enum status s = STATUS_OK;
    struct op_shape shape;
    for (int i = 0; s == STATUS_OK; i++) {
        struct kernel_time t = {.runs = 0};
        if (r->shapes.n > 0) {
            if (i == r->shapes.n) break;
            op_shape_parse(op, r->shapes.v[i], &shape); /* parse() has looked at it */
        } else if (!op_shape_default(op, strcmp(r->device, "cuda") ? DEVICE_CPU : DEVICE_CUDA, i,
                                     &shape)) {
            break;
        }
        s = measure(m, &shape, &t, err);
        if (s == STATUS_OK) tell_row(m, &shape, &t);
        if (s == STATUS_NO_MEMORY) { /* this shape alone */
            fprintf(stderr, "bench kernels: %s\n", err->text);
            s = STATUS_OK;
        }
    }
    return s;
}

static enum status measure_all(struct measuring *m, struct error *err) {
    enum op only = OPS;
    struct op_shape unused;
    if (m->request->op) find_op(m->request->op, &only);
    enum status s = STATUS_OK;
    for (int op = 0; op < OPS && s == STATUS_OK; op++)
        if ((only == OPS || only == (enum op)op) &&
            op_shape_default((enum op)op, DEVICE_CPU, 0, &unused))
            s = measure_op(m, (enum op)op, err);
    return s;
}

static enum status open_device(struct measuring *m, struct error *err) {
    const struct request *r = m->request;
    struct device_opts opts = device_opts_defaults();
    struct device_rates rates;
    opts.kind = strcmp(r->device, "cuda") ? DEVICE_CPU : DEVICE_CUDA;
    opts.dtype = strcmp(r->dtype, "float32") ? DTYPE_BF16 : DTYPE_F32;
    if (r->kernel && !strcmp(r->op, "attention")) opts.attention = r->kernel;
    if (r->kernel && !strcmp(r->op, "linear")) opts.linear = r->kernel;
    enum status s = device_open(&m->dev, &opts, err);
    if (s != STATUS_OK) return s;
    device_info(m->dev, &m->info);
    m->clocks = clocks_open(&m->info, 1, NULL);
    s = device_ceilings(m->dev, &rates, err);
    m->product_flops = rates.roof_flops;
    m->copy_bytes = rates.copy_bytes;
    return s;
}

static enum status measure_sums(const struct request *r, struct error *err) {
    const struct sum_request sums = {.device = strcmp(r->device, "cuda") ? DEVICE_CPU : DEVICE_CUDA,
                                     .dtype = strcmp(r->dtype, "float32") ? DTYPE_BF16 : DTYPE_F32,
                                     .devices = r->device_count,
                                     .kernel = r->kernel,
                                     .shapes = r->shapes,
                                     .warmup_s = r->warmup_s,
                                     .seconds = r->measured_s,
                                     .json = r->json};
    return sum_rates(&sums, err);
}

static enum status measure_ops(const struct request *r, struct error *err) {
    struct measuring m = {.request = r};
    enum status s = open_device(&m, err);
    if (s == STATUS_OK) {
        tell_begin(&m);
        s = measure_all(&m, err);
        tell_end(&m);
    }
    clocks_close(m.clocks);
    device_close(m.dev);
    return s;
}

int cmd_kernels(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct request r = {.device = "cpu", .dtype = "bfloat16", .warmup = "0.5", .seconds = "1"};
    struct error err = {""};
    const int code = parse(&r, argc, argv);
    if (code >= 0) return code;
    const bool sums = r.op && strcmp(r.op, op_name(OP_EXCHANGE)) == 0;
    const enum status s = sums ? measure_sums(&r, &err) : measure_ops(&r, &err);
    return s == STATUS_OK ? 0 : bench_fail("kernels", s, &err);
}
