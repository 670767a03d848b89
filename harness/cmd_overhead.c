/* `bench overhead`: what spans, NVTX ranges and CUPTI cost, on one chunk of a case: config -> plan
 * -> a folder of its own -> overhead.c -> table or JSON. Leaves nothing behind. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/fetch.h"
#include "harness/format.h"
#include "harness/interrupt.h"
#include "harness/jsondoc.h"
#include "harness/overhead.h"
#include "harness/run_dir.h"
#include "harness/show.h"
#include "harness/stats.h"
#include "harness/table.h"
#include "harness/terminal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_ROUNDS = 3, DEFAULT_REPEATS = 3 };

struct request {
    const char *config_path, *id, *chunk_text, *rounds_text, *repeats_text;
    struct argument_list sets;
    bool json, quiet, no_color;
    int chunk, rounds, repeats; /* chunk from 1; 0: the last */
    struct config config;
    struct config_errors errors;
    struct plan plan; /* owned */
    struct run_dir dir;
    char folder[PATH_MAX_BYTES]; /* it stands in; "": not made */
    bool dir_open;
    struct overhead overhead;       /* owned */
    const volatile int *interrupts; /* signals that asked to stop */
};

/* ---- the plan ---- */

/* Both modes, one chunk, and nothing beside it. */
static enum status load(struct request *r, struct error *err) {
    char chunk[40] = "trace.cupti=last", repeats[40];
    static const char *const fixed[] = {"engine.enforce_eager=true,false",
                                        "run.warmup=1",
                                        "run.coverage=full",
                                        "run.time_budget=0",
                                        "run.spans=none",
                                        "trace.nvtx=op",
                                        "trace.profile_chunk=none",
                                        "check.spot=0"};
    if (r->chunk > 0) snprintf(chunk, sizeof chunk, "trace.cupti=%d", r->chunk - 1);
    snprintf(repeats, sizeof repeats, "run.repeats=%d", r->repeats);
    struct argument_list sets = r->sets;
    const int own = (int)(sizeof fixed / sizeof *fixed);
    if (sets.n + own + 2 > ARGUMENT_LIST_MAX) return error_set(err, STATUS_USAGE, "too many --set");
    for (int i = 0; i < own; i++) sets.v[sets.n++] = fixed[i];
    sets.v[sets.n++] = chunk;
    sets.v[sets.n++] = repeats;
    enum status s = config_load(&r->config, r->config_path, sets.v, sets.n, &r->errors);
    const struct fetch_screen screen = {"overhead", r->quiet ? NULL : stderr,
                                        terminal_obeys(stderr)};
    if (s == STATUS_OK) s = fetch_prompts_of(&r->config, &screen, r->interrupts, &r->errors);
    if (s == STATUS_OK) s = plan_make(&r->plan, &r->config, &r->errors);
    return s == STATUS_OK ? s : error_set(err, s, "%s cannot be planned", r->config_path);
}

/* The case that was named; of one in two modes alone the name is not needed. */
static enum status choose(struct request *r, struct error *err) {
    const struct plan *p = &r->plan;
    const char *id = r->id ? r->id : p->n <= 2 ? p->cases[0].id : NULL;
    if (!id)
        return error_set(err, STATUS_USAGE,
                         "which case? `bench plan %s` lists them; expected "
                         "--case ID",
                         r->config_path);
    const enum status s = overhead_open(&r->overhead, p, id, r->rounds, err);
    const int chunks = s == STATUS_OK ? plan_find(p, id)->chunks : 0;
    if (s == STATUS_OK && r->chunk > chunks)
        return error_set(err, STATUS_USAGE, "--chunk %d: %s has %d chunk%s", r->chunk, id, chunks,
                         chunks == 1 ? "" : "s");
    return s;
}

/* Of this process alone, where temporary files are. */
static enum status open_folder(struct request *r, struct error *err) {
    char file[PATH_MAX_BYTES];
    const char *parent = getenv("TMPDIR");
    if (!parent || !*parent) parent = "/tmp";
    const int n = snprintf(r->folder, sizeof r->folder - 16, "%s/bench-overhead-XXXXXX", parent);
    if (n >= (int)sizeof r->folder - 16 || !mkdtemp(r->folder)) {
        r->folder[0] = 0;
        return error_set(err, STATUS_IO, "cannot make a folder in %.500s: %s", parent,
                         strerror(errno));
    }
    snprintf(file, sizeof file, "%.*s/run.h5", (int)sizeof file - 16, r->folder);
    const enum status s = run_dir_open(&r->dir, file, &r->config, RUN_NEW, err);
    r->dir_open = s == STATUS_OK;
    return s == STATUS_OK ? plan_write(&r->plan, r->dir.plan, err) : s;
}

/* ---- what a person sees ---- */

static const char *mode_name(const struct overhead_arm *a) {
    return a->graph ? "graph" : "eager";
}

static const char *arm_name(const struct overhead_arm *a) {
    return a->probe == PROBE_NVTX    ? "NVTX"
           : a->probe == PROBE_CUPTI ? "CUPTI"
                                     : probe_name(a->probe);
}

static void tell(void *ctx, int round, const struct overhead_arm *a) {
    const struct request *r = ctx;
    if (!r->quiet)
        fprintf(stderr, "round %d of %d: %s, %s\n", round + 1, r->rounds, mode_name(a),
                arm_name(a));
}

static void add_arm(struct table *table, const struct overhead *o, const struct overhead_arm *a) {
    double least, most;
    const double ratio = overhead_ratio(o, a, &least, &most);
    char range[60], note[200] = "", count[FORMAT_BYTES];
    snprintf(range, sizeof range, "%.3f..%.3f", least, most);
    if (a->note) snprintf(note, sizeof note, "%s", a->note);
    if (a->dropped > 0)
        snprintf(note, sizeof note, "%lld records dropped", (long long)a->dropped);
    else if (a->kernels > 0)
        snprintf(note, sizeof note, "%s kernels a chunk", format_count(count, a->kernels));
    table_add(table, TONE_PLAIN, "%s", mode_name(a));
    table_add(table, TONE_PLAIN, "%s", arm_name(a));
    table_add(table, TONE_PLAIN, "%d", a->n);
    table_add_number(table, (double)stats_median(a->latency_ns, a->n) / 1e6);
    table_add_number(table, (double)stats_min(a->latency_ns, a->n) / 1e6);
    table_add_number(table, (double)stats_max(a->latency_ns, a->n) / 1e6);
    table_add(table, TONE_PLAIN, isfinite(ratio) ? "%.3f" : "-", ratio);
    table_add(table, TONE_PLAIN, "%s", isfinite(ratio) ? range : "-");
    table_add(table, a->dropped > 0 ? TONE_BAD : TONE_FAINT, "%s", note);
}

static void print(const struct request *r) {
    static const struct table_column columns[] = {{"mode", "", true, false},
                                                  {"probe", "", true, false},
                                                  {"samples", "", false, false},
                                                  {"latency", "ms", false, false},
                                                  {"least", "ms", false, false},
                                                  {"most", "ms", false, false},
                                                  {"over none", "", false, false},
                                                  {"by rounds", "", false, false},
                                                  {"", "", true, false}};
    const struct overhead *o = &r->overhead;
    const struct case_plan *c = o->mode[0] ? o->mode[0] : o->mode[1];
    char count[FORMAT_BYTES];
    struct table *table = table_open(columns, (int)(sizeof columns / sizeof *columns));
    show_text(stdout, c->id, SIZE_MAX);
    printf("\n  chunk %d of %d, from token %s: %d round%s of %d, in turn, in worker processes of "
           "their own\n",
           o->chunk + 1, c->chunks,
           format_count(count, (int64_t)o->chunk * c->session.chunk_tokens), o->rounds,
           o->rounds == 1 ? "" : "s", r->repeats);
    for (int i = 0; i < OVERHEAD_ARMS; i++)
        if (o->arm[i].n > 0 && !o->arm[i].left_out[0]) add_arm(table, o, &o->arm[i]);
    table_print(stdout, table, "  ", terminal_width(stdout, SHOW_WIDTH),
                terminal_colored(stdout, r->no_color));
    table_close(table);
    puts("  latency: median of all samples, against a synthetic cache");
    for (int i = 0; i < OVERHEAD_ARMS; i++)
        if (o->arm[i].left_out[0]) {
            printf("  left out: %s, %s: ", mode_name(&o->arm[i]), arm_name(&o->arm[i]));
            show_text(stdout, o->arm[i].left_out, SIZE_MAX);
            putchar('\n');
        }
}

/* ---- JSON ---- */

static void put_arm(struct jsondoc *arms, const struct overhead *o, const struct overhead_arm *a) {
    double least, most;
    const double ratio = overhead_ratio(o, a, &least, &most);
    struct jsondoc *one = jsondoc_add_object(arms);
    jsondoc_put_text(one, "mode", mode_name(a));
    jsondoc_put_text(one, "probe", probe_name(a->probe));
    jsondoc_put_text(one, "left_out", a->left_out[0] ? a->left_out : NULL);
    jsondoc_put_text(one, "note", a->note);
    if (a->left_out[0] || a->n == 0) return;
    jsondoc_put_int(one, "median_ns", stats_median(a->latency_ns, a->n));
    jsondoc_put_int(one, "min_ns", stats_min(a->latency_ns, a->n));
    jsondoc_put_int(one, "max_ns", stats_max(a->latency_ns, a->n));
    jsondoc_put_real(one, "ratio", ratio);
    jsondoc_put_real(one, "ratio_min", least);
    jsondoc_put_real(one, "ratio_max", most);
    jsondoc_put_int(one, "kernels", a->kernels);
    jsondoc_put_int(one, "dropped_records", a->dropped);
    struct jsondoc *samples = jsondoc_put_array(one, "latency_ns");
    for (int i = 0; i < a->n; i++) jsondoc_add_int(samples, a->latency_ns[i]);
}

static enum status print_json(const struct request *r, struct error *err) {
    const struct overhead *o = &r->overhead;
    const struct case_plan *c = o->mode[0] ? o->mode[0] : o->mode[1];
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "schema", "chunkbench-overhead");
    jsondoc_put_int(d, "schema_version", 1);
    jsondoc_put_text(d, "case", c->id);
    jsondoc_put_text(d, "device", r->plan.device_info.name);
    jsondoc_put_int(d, "chunk", o->chunk);
    jsondoc_put_int(d, "start_token", (int64_t)o->chunk * c->session.chunk_tokens);
    jsondoc_put_int(d, "rounds", o->rounds);
    jsondoc_put_int(d, "repeats", r->repeats);
    struct jsondoc *list = jsondoc_put_array(d, "arms");
    for (int i = 0; i < OVERHEAD_ARMS; i++) put_arm(list, o, &o->arm[i]);
    char *text = jsondoc_text(d);
    jsondoc_close(d);
    if (!text) return error_set(err, STATUS_NO_MEMORY, "no memory for JSON");
    puts(text);
    free(text);
    return STATUS_OK;
}

/* ---- the command ---- */

static bool parse_count(const char *text, int fallback, int most, int *out) {
    char *end;
    *out = fallback;
    if (!text) return true;
    errno = 0;
    const long n = strtol(text, &end, 10);
    if (errno || *end || end == text || n < 1 || n > most) return false;
    *out = (int)n;
    return true;
}

static int parse(struct request *r, int argc, char **argv) {
    const struct argument arguments[] = {
        {"--case", ARGUMENT_VALUE, &r->id, "ID",
         "the case, in either mode; `bench plan` lists them"},
        {"--chunk", ARGUMENT_VALUE, &r->chunk_text, "N",
         "its chunk, counted from 1; default: the last"},
        {"--rounds", ARGUMENT_VALUE, &r->rounds_text, "N",
         "workers for each probe, in turn; default 3"},
        {"--repeats", ARGUMENT_VALUE, &r->repeats_text, "N",
         "measured times in each worker, after one that is not; default 3"},
        {"--set", ARGUMENT_LIST, &r->sets, "SECTION.KEY=VALUE", "override a key; may be repeated"},
        {"--json", ARGUMENT_FLAG, &r->json, NULL, "print one JSON object on stdout"},
        {"--quiet", ARGUMENT_FLAG, &r->quiet, NULL, "no word about what is at work"},
        {"--no-color", ARGUMENT_FLAG, &r->no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "overhead",
        .operands = "CONFIG",
        .purpose =
            "Tells what probes cost: one chunk of a case without any, with spans, with NVTX\n"
            "ranges (attach a tool by NVTX_INJECTION64_PATH; else what they cost without one)\n"
            "and with CUPTI, op by op and as a recorded step, in turn, each time in a worker\n"
            "process of its own. What cannot be had here is left out, and named.\n"
            "Exits with 0, 2 usage or configuration, 5 the chunk did not run, 6 I/O,\n"
            "130 interrupted.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    const int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    r->config_path = operands.v[0];
    if (!parse_count(r->chunk_text, 0, 1 << 24, &r->chunk))
        return bench_fail_usage("overhead", "--chunk: not the number of a chunk", r->chunk_text);
    if (!parse_count(r->rounds_text, DEFAULT_ROUNDS, OVERHEAD_ROUNDS_MAX, &r->rounds))
        return bench_fail_usage("overhead", "--rounds: not 1 to 100", r->rounds_text);
    if (!parse_count(r->repeats_text, DEFAULT_REPEATS, 1000, &r->repeats))
        return bench_fail_usage("overhead", "--repeats: not 1 to 1000", r->repeats_text);
    return -1;
}

static enum status measure(struct request *r, struct error *err) {
    enum status s = load(r, err);
    if (s == STATUS_OK) s = choose(r, err);
    if (s == STATUS_OK) s = open_folder(r, err);
    if (s != STATUS_OK) return s;
    const struct launch_opts opts = {
        .dir = r->dir.path, .watchdog_s = r->config.watchdog_s, .interrupts = r->interrupts};
    s = overhead_run(&r->overhead, &opts, tell, r, err);
    if (s != STATUS_OK) return s;
    if (r->json) return print_json(r, err);
    print(r);
    return s;
}

int cmd_overhead(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct request *r = calloc(1, sizeof *r); /* a configuration is too large for the stack */
    struct error err = {""};
    if (!r) return bench_fail("overhead", STATUS_NO_MEMORY, &err);
    int code = parse(r, argc, argv);
    if (code < 0) {
        r->interrupts = interrupt_catch();
        const enum status s = measure(r, &err);
        const bool told = r->errors.n > 0;
        if (told) config_errors_print(&r->errors);
        code = s == STATUS_OK ? 0 : told ? status_exit_code(s) : bench_fail("overhead", s, &err);
    }
    overhead_close(&r->overhead);
    if (r->dir_open) run_dir_close(&r->dir, true);
    if (r->folder[0]) rmdir(r->folder);
    plan_free(&r->plan);
    free(r);
    return code;
}
