/* `bench show`: a result file as a table, one of its cases in detail, or either for programs: JSON,
 * comma-separated values. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/show.h"
#include "harness/suggest.h"
#include "harness/terminal.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *path, *id;
    bool json, csv, verbose, no_color;
};

/* Whether the user's locale can show block characters. */
static bool has_blocks(void) {
    locale_t l = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    if (l == (locale_t)0) return false;
    bool utf8 = strcmp(nl_langinfo_l(CODESET, l), "UTF-8") == 0;
    freelocale(l);
    return utf8;
}

static enum status unknown_case(const struct record_run *run, const struct options *o,
                                struct error *err) {
    const char **ids = calloc((size_t)run->n + 1, sizeof *ids);
    for (int i = 0; ids && i < run->n; i++) ids[i] = run->cases[i].id;
    int nearest = ids ? suggest_nearest(o->id, ids, run->n) : -1;
    if (nearest >= 0)
        error_set(err, STATUS_USAGE, "%s has no case '%s'; did you mean %s?", o->path, o->id,
                  ids[nearest]);
    else
        error_set(err, STATUS_USAGE, "%s has no case '%s'; `bench show %s` lists its %d", o->path,
                  o->id, o->path, run->n);
    free(ids);
    return STATUS_USAGE;
}

static struct show_style style_of(const struct options *o) {
    return (struct show_style){.color = terminal_colored(stdout, o->no_color),
                               .bars = has_blocks(),
                               .verbose = o->verbose,
                               .width = terminal_width(stdout, SHOW_WIDTH)};
}

static enum status show_one(const struct record_run *run, const struct options *o,
                            struct error *err) {
    struct case_result r;
    bool there = false;
    for (int i = 0; i < run->n; i++) there = there || strcmp(run->cases[i].id, o->id) == 0;
    if (!there) return unknown_case(run, o, err);
    enum status s = record_read_case(o->path, o->id, true, &r, err);
    if (s != STATUS_OK) return s;
    const struct show_style style = style_of(o);
    if (o->json)
        show_case_json(stdout, run, &r, o->path);
    else if (o->csv)
        show_case_csv(stdout, &r);
    else
        show_case(stdout, run, &r, &style);
    result_free(&r);
    return s;
}

static enum status show(const struct options *o, struct error *err) {
    struct record_run run;
    enum status s = record_read_run(o->path, &run, err);
    if (s != STATUS_OK) return s;
    if (o->id) {
        s = show_one(&run, o, err);
    } else if (o->json) {
        show_json(stdout, &run, o->path);
    } else if (o->csv) {
        show_csv(stdout, &run);
    } else {
        const struct show_style style = style_of(o);
        show_table(stdout, &run, o->path, &style);
        if (o->verbose) show_facts(stdout, &run);
    }
    record_run_free(&run);
    return s;
}

int cmd_show(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct options o = {0};
    const struct argument arguments[] = {
        {"--case", ARGUMENT_VALUE, &o.id, "ID", "everything about this case"},
        {"--json", ARGUMENT_FLAG, &o.json, NULL,
         "print one JSON object on stdout (docs/show.schema.json)"},
        {"--csv", ARGUMENT_FLAG, &o.csv, NULL,
         "print comma-separated values: a line per case; with --case per chunk"},
        {"--verbose", ARGUMENT_FLAG, &o.verbose, NULL,
         "also facts of the machine and configuration; with --case every chunk and op"},
        {"--no-color", ARGUMENT_FLAG, &o.no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "show",
        .operands = "FILE",
        .purpose = "Shows a result file that `bench run` left: a line per case, or one case in\n"
                   "detail. Exits with 0 when the file could be read, 2 for an unknown case, 6\n"
                   "for a file that is missing, damaged or of another version.",
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
    if (o.json && o.csv) return bench_fail_usage("show", "--json excludes", "--csv");
    enum status s = show(&o, &err);
    return s == STATUS_OK ? 0 : bench_fail("show", s, &err);
}
