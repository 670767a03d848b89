/* `bench trace`: where the time of a case went, op by op: as text, as comma-separated values, or as
 * a file that another program opens. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/kernel_view.h"
#include "harness/show.h"
#include "harness/suggest.h"
#include "harness/terminal.h"
#include "harness/timeline.h"
#include "harness/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct options {
    const char *path, *id, *chunk_text, *perfetto, *sqlite;
    int chunk; /* from 0; -1: all */
    bool last; /* the prompt's last chunk: known with the case */
    bool csv, memory, kernels, verbose, no_color;
};

/* "3": people count from 1; or "last". */
static bool parse_chunk(struct options *o) {
    char *end;
    o->chunk = -1;
    o->last = o->chunk_text && strcmp(o->chunk_text, "last") == 0;
    if (!o->chunk_text || o->last) return true;
    errno = 0;
    const long n = strtol(o->chunk_text, &end, 10);
    if (errno || *end || end == o->chunk_text || n < 1 || n > INT32_MAX) return false;
    o->chunk = (int)n - 1;
    return true;
}

/* The case that was named; the only one needs no name. */
static enum status choose_case(const struct record_run *run, struct options *o, struct error *err) {
    if (!o->id && run->n == 1) o->id = run->cases[0].id;
    if (!o->id)
        return error_set(err, STATUS_USAGE,
                         "which case? `bench show %s` lists its %d; expected "
                         "--case ID",
                         o->path, run->n);
    const char **ids = calloc((size_t)run->n + 1, sizeof *ids);
    if (!ids) return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", run->n);
    bool there = false;
    for (int i = 0; i < run->n; i++) {
        ids[i] = run->cases[i].id;
        there = there || strcmp(ids[i], o->id) == 0;
    }
    const int nearest = there ? -1 : suggest_nearest(o->id, ids, run->n);
    const char *guess = nearest >= 0 ? ids[nearest] : NULL;
    free(ids);
    if (there) return STATUS_OK;
    return error_set(err, STATUS_USAGE, "%s has no case '%s'%s%s; `bench show` lists its %d",
                     o->path, o->id, guess ? "; did you mean " : "", guess ? guess : "", run->n);
}

/* For who reads no text: what the view that was asked for lacks. */
static void warn_dropped(const struct options *o, const struct case_result *r) {
    if (r->dropped_spans > 0)
        fprintf(stderr, "bench trace: %lld spans found no room and are missing\n",
                (long long)r->dropped_spans);
    if (r->kernel_trace.log.dropped > 0 && !o->memory)
        fprintf(stderr, "bench trace: %lld records of CUPTI found no room and are missing\n",
                (long long)r->kernel_trace.log.dropped);
}

/* A result is not replaced by what is made of it. */
static enum status check_target(const struct options *o, const char *target, struct error *err) {
    struct stat from, to;
    if (!target || stat(o->path, &from) != 0 || stat(target, &to) != 0 ||
        from.st_dev != to.st_dev || from.st_ino != to.st_ino)
        return STATUS_OK;
    return error_set(err, STATUS_USAGE, "this is the result itself: choose another name than %s",
                     target);
}

static struct show_style style_of(const struct options *o) {
    return (struct show_style){.color = terminal_colored(stdout, o->no_color),
                               .verbose = o->verbose,
                               .width = terminal_width(stdout, SHOW_WIDTH)};
}

/* --memory: another view of the same chunks. */
static enum status write_memory(const struct options *o, const struct case_result *r,
                                struct error *err) {
    const struct show_style style = style_of(o);
    struct timeline t;
    const enum status s = timeline_open(&t, r, o->chunk, err);
    if (s != STATUS_OK) return s;
    if (o->csv)
        trace_memory_csv(stdout, &t);
    else
        trace_memory(stdout, &t, &style);
    timeline_close(&t);
    if (o->csv) warn_dropped(o, r);
    return s;
}

/* --kernels, or what there is where no spans are. */
static void write_kernels(const struct options *o, const struct trace *t) {
    const struct show_style style = style_of(o);
    if (o->csv) {
        trace_kernels_csv(stdout, t->kernels);
        return;
    }
    show_text(stdout, t->r->id, SIZE_MAX);
    putchar('\n');
    trace_kernels(stdout, t->kernels, &style);
}

static void write_spans(const struct options *o, const struct record_run *run,
                        const struct trace *t) {
    const struct show_style style = style_of(o);
    if (o->csv) {
        trace_csv(stdout, t);
        if (t->kernels) fputs("bench trace: a line per kernel: --csv --kernels\n", stderr);
        return;
    }
    trace_summary(stdout, run, t, &style);
    putchar('\n');
    if (t->kernels)
        trace_kernels(stdout, t->kernels, &style);
    else if (t->r->kernel_trace.note[0])
        trace_say(stdout, &style, 2, "no kernels: %s", kernel_view_why(t->r));
}

static enum status write_views(const struct options *o, const struct record_run *run,
                               const struct trace *t, struct error *err) {
    enum status s = check_target(o, o->perfetto, err);
    if (s == STATUS_OK) s = check_target(o, o->sqlite, err);
    if (s == STATUS_OK && o->perfetto) s = trace_perfetto(o->perfetto, run, t, err);
    if (s == STATUS_OK && o->sqlite) s = trace_sqlite(o->sqlite, run, t, err);
    if (s != STATUS_OK) return s;
    if (o->csv || (!o->perfetto && !o->sqlite)) {
        if (t->kernels && (o->kernels || t->n_chunks == 0))
            write_kernels(o, t);
        else
            write_spans(o, run, t);
    }
    if (o->csv || o->perfetto || o->sqlite) warn_dropped(o, t->r);
    return STATUS_OK;
}

/* Spans are what --csv has unless kernels were asked for. */
static bool wants_spans(const struct options *o) {
    return o->csv && !o->kernels && !o->memory;
}

static bool is_absent(enum status s) {
    return s == STATUS_INVALID || s == STATUS_USAGE;
}

/* Of spans and kernels the case may have either alone. The error for a chunk that has neither says
 * which chunks have any. */
static enum status open_views(const struct options *o, const struct case_result *r, struct trace *t,
                              struct kernel_view *v, struct error *err) {
    struct error no_kernels = {""}, no_spans = {""};
    const enum status kernels = kernel_view_open(v, r, o->chunk, &no_kernels);
    const enum status spans = trace_open(t, r, o->chunk, &no_spans);
    if (spans != STATUS_OK && !is_absent(spans)) return error_set(err, spans, "%s", no_spans.text);
    if (kernels != STATUS_OK &&
        (o->kernels || (kernels == STATUS_USAGE && spans == STATUS_INVALID)))
        return error_set(err, kernels, "%s", no_kernels.text);
    if (kernels == STATUS_USAGE && spans == STATUS_USAGE)
        return error_set(err, spans, "%.480s; %.480s", no_spans.text, no_kernels.text);
    if (spans != STATUS_OK && kernels != STATUS_OK)
        return error_set(err, spans, "%s", no_spans.text);
    if (spans != STATUS_OK && wants_spans(o))
        return error_set(err, spans, "%.900s; a line per kernel: --csv --kernels", no_spans.text);
    if (kernels == STATUS_OK) trace_add_kernels(t, v);
    return STATUS_OK;
}

static enum status trace(struct options *o, struct error *err) {
    struct record_run run;
    struct case_result r;
    struct trace t;
    struct kernel_view v;
    enum status s = record_read_run(o->path, &run, err);
    if (s != STATUS_OK) return s;
    s = choose_case(&run, o, err);
    if (s == STATUS_OK) s = record_read_case(o->path, o->id, true, &r, err);
    if (s == STATUS_OK) {
        if (o->last) o->chunk = trace_chunks_of(&r) - 1;
        s = open_views(o, &r, &t, &v, err);
        if (s != STATUS_OK)
            error_prefix(err, s, "%s", o->path);
        else
            s = o->memory ? write_memory(o, &r, err) : write_views(o, &run, &t, err);
        trace_close(&t);
        kernel_view_close(&v);
        result_free(&r);
    }
    record_run_free(&run);
    return s;
}

int cmd_trace(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct options o = {0};
    const struct argument arguments[] = {
        {"--case", ARGUMENT_VALUE, &o.id, "ID", "the case; not needed where there is one alone"},
        {"--chunk", ARGUMENT_VALUE, &o.chunk_text, "N",
         "this chunk alone, counted from 1, or last"},
        {"--perfetto", ARGUMENT_VALUE, &o.perfetto, "FILE",
         "write Chrome trace events (JSON) for ui.perfetto.dev"},
        {"--sqlite", ARGUMENT_VALUE, &o.sqlite, "FILE",
         "write a database with the tables of an Nsight Systems export"},
        {"--csv", ARGUMENT_FLAG, &o.csv, NULL,
         "print comma-separated values: a line per span, with --kernels per kernel"},
        {"--kernels", ARGUMENT_FLAG, &o.kernels, NULL,
         "kernels of the GPU alone, where [trace] cupti recorded them"},
        {"--memory", ARGUMENT_FLAG, &o.memory, NULL,
         "memory in use at the peaks instead, and who held it"},
        {"--verbose", ARGUMENT_FLAG, &o.verbose, NULL, "every op, layer and buffer"},
        {"--no-color", ARGUMENT_FLAG, &o.no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "trace",
        .operands = "FILE",
        .purpose = "Tells where the time of a case's traced chunks went: by op, depth, layer and\n"
                   "rank, with the longest gaps and what no op accounts for; or what memory they\n"
                   "had in use; or which kernels ran, where CUPTI recorded them; or writes all of\n"
                   "it for another program. Exits with 0, 2 for an unknown case or chunk, 4 for\n"
                   "a case without spans or kernels, 5 where the program was built without what\n"
                   "it needs, 6 for a file that cannot be read or written.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    struct error err = {""};
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    o.path = operands.v[0];
    if (o.memory && (o.perfetto || o.sqlite))
        return bench_fail_usage("trace", "--memory excludes",
                                o.perfetto ? "--perfetto" : "--sqlite");
    if (o.memory && o.kernels) return bench_fail_usage("trace", "--memory excludes", "--kernels");
    if (!parse_chunk(&o))
        return bench_fail_usage("trace", "--chunk: not a number from 1, nor last", o.chunk_text);
    enum status s = trace(&o, &err);
    return s == STATUS_OK ? 0 : bench_fail("trace", s, &err);
}
