/* `bench run`: config -> plan -> RUN.partial -> launches -> checks over cases -> merge -> table ->
 * exit code. The stages are in run.c. */
#include "harness/bench.h"
#include "harness/interrupt.h"
#include "harness/run.h"

#include <stdlib.h>
#include <string.h>

/* What a plan knows nothing of must not seem to have had its effect. Where the result would go is
 * no matter: there is none. */
static int refuse_with_dry_run(const struct run *r) {
    const struct {
        bool given;
        const char *name;
    } options[] = {
        {r->only, "--only"}, {r->once, "--once"}, {r->resume, "--resume"}, {r->quiet, "--quiet"}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].given) return bench_fail_usage("run", "--dry-run excludes", options[i].name);
    if (r->output || r->force)
        fprintf(stderr, "note: a dry run writes no result: %s has no effect\n",
                r->output ? "-o" : "--force");
    return -1;
}

/* --chunk N --once: that chunk alone, whatever the configuration says of passes, time and probes.
 * -1, or an exit code. */
static int set_once(struct run *r) {
    static const char *const sets[] = {"run.warmup=0",     "run.repeats=1",
                                       "run.spans=none",   "run.time_budget=0",
                                       "trace.cupti=none", "check.invariance=false"};
    enum { SETS = sizeof sets / sizeof sets[0] };
    char *end;
    if (!r->once && !r->chunk) return -1;
    if (!r->once || !r->chunk)
        return bench_fail_usage("run", r->once ? "--once needs" : "--chunk needs",
                                r->once ? "--chunk" : "--once");
    if (r->resume) return bench_fail_usage("run", "--once excludes", "--resume");
    const bool last = strcmp(r->chunk, "last") == 0;
    const long n = last ? 1 : strtol(r->chunk, &end, 10);
    if (!last && (end == r->chunk || *end || n < 1 || n > INT32_MAX))
        return bench_fail_usage("run", "--chunk: not a number from 1, nor last", r->chunk);
    if (r->sets.n + SETS + 1 > ARGUMENT_LIST_MAX)
        return bench_fail_usage("run", "too many of", "--set");
    snprintf(r->chunk_set, sizeof r->chunk_set, "trace.profile_chunk=%ld", n - 1);
    r->sets.v[r->sets.n++] = last ? "trace.profile_chunk=last" : r->chunk_set;
    for (int i = 0; i < SETS; i++) r->sets.v[r->sets.n++] = sets[i];
    return -1;
}

static int parse(struct run *r, int argc, char **argv) {
    const struct argument arguments[] = {
        {"--set", ARGUMENT_LIST, &r->sets, "SECTION.KEY=VALUE", "override a key; may be repeated"},
        {"-o", ARGUMENT_VALUE, &r->output, "FILE", "result file; default results/raw/NAME-TIME.h5"},
        {"--only", ARGUMENT_VALUE, &r->only, "ID",
         "only cases with this id, with the time budget theirs first; * and ? match"},
        {"--chunk", ARGUMENT_VALUE, &r->chunk, "N",
         "with --once: this chunk alone, counted from 1, or last"},
        {"--once", ARGUMENT_FLAG, &r->once, NULL,
         "run the chunk once against a synthetic cache, for a profiler: no warm-up, spans, "
         "CUPTI, time budget or watchdog, whatever the configuration says"},
        {"--resume", ARGUMENT_FLAG, &r->resume, NULL,
         "continue an unfinished run: what is not ok runs (again)"},
        {"--force", ARGUMENT_FLAG, &r->force, NULL, "replace a result that is there"},
        {"--dry-run", ARGUMENT_FLAG, &r->dry_run, NULL,
         "show the whole plan, run nothing: not with --only, --resume, --quiet"},
        {"--json", ARGUMENT_FLAG, &r->json, NULL, "print one JSON object on stdout"},
        {"--quiet", ARGUMENT_FLAG, &r->quiet, NULL, "print errors and the verdict only"},
        {"--no-color", ARGUMENT_FLAG, &r->no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "run",
        .operands = "CONFIG",
        .purpose =
            "Runs every case of a configuration in worker processes, checks the answers,\n"
            "and leaves one result file. Ctrl-C once finishes the chunk and writes what\n"
            "there is; twice stops at once; --resume continues either.\n"
            "Exits with 0 when all is well, 2 usage or configuration, 3 a check failed, 5 a\n"
            "case failed or crashed or nothing ran, 6 I/O, 130 interrupted.\n"
            "kill -TERM does what Ctrl-C does. Use it for a run that a script started with &:\n"
            "the shell lets such a run ignore Ctrl-C and kill -INT.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code < 0 && r->resume && r->force)
        code = bench_fail_usage("run", "--resume excludes", "--force");
    if (code < 0 && r->dry_run) code = refuse_with_dry_run(r);
    if (code < 0) code = set_once(r);
    if (code < 0) r->config_path = operands.v[0];
    r->argc = argc;
    r->argv = argv;
    return code;
}

static int dry_run(const struct run *r, const struct bench_hooks *hooks) {
    char *argv[2 * ARGUMENT_LIST_MAX + 5];
    int n = 0;
    argv[n++] = "plan";
    for (int i = 0; i < r->sets.n; i++) {
        argv[n++] = "--set";
        argv[n++] = (char *)r->sets.v[i];
    }
    if (r->json) argv[n++] = "--json";
    if (r->no_color) argv[n++] = "--no-color";
    argv[n++] = (char *)r->config_path;
    argv[n] = NULL;
    return cmd_plan(n, argv, hooks);
}

static enum status run_all(struct run *r, struct error *err) {
    enum status s = run_load_config(r, err);
    if (s == STATUS_OK) s = run_open(r, err);
    if (s == STATUS_OK) s = run_choose_cases(r, err);
    if (s != STATUS_OK) return s;
    enum status launched = run_launches(r, err);
    if (!run_can_merge(r, launched)) return launched;
    s = run_check_cases(r, err);
    if (s == STATUS_OK) s = run_merge(r, !run_was_stopped(r, launched), err);
    if (s == STATUS_OK) s = run_show(r, err);
    return s == STATUS_OK ? run_verdict(r, launched, err) : s;
}

/* One word of a command line, as a shell wants it. */
static void print_word(const char *word) {
    if (word[0] &&
        !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                           "_-+=.,:/@%")]) {
        fprintf(stderr, " %s", word);
        return;
    }
    fputs(" '", stderr);
    for (; *word; word++) fputs(*word == '\'' ? "'\\''" : (const char[]){*word, 0}, stderr);
    fputc('\'', stderr);
}

/* All that made this run what it is: another configuration would be refused. */
static void say_how_to_go_on(const struct run *r) {
    fprintf(stderr, "bench run: %s is kept; to go on: bench run", r->dir.path);
    print_word(r->config_path);
    for (int i = 0; i < r->sets.n; i++) {
        fputs(" --set", stderr);
        print_word(r->sets.v[i]);
    }
    if (r->only) {
        fputs(" --only", stderr);
        print_word(r->only);
    }
    fputs(" --resume -o", stderr);
    print_word(r->dir.file);
    fputc('\n', stderr);
}

/* The last words, and the exit code. */
static int conclude(const struct run *r, enum status s, const struct error *err) {
    if (s == STATUS_OK) {
        char news[240];
        run_good_news(r, news, 200);
        int skipped = run_skipped(r);
        if (skipped > 0) snprintf(news + strlen(news), 40, ", %d skipped", skipped);
        if (!r->json) printf("%s: %s\n", news, r->dir.file);
        return 0;
    }
    if (r->config_errors.n > 0) {
        config_errors_print(&r->config_errors);
        return status_exit_code(s);
    }
    int code = bench_fail("run", s, err);
    if (r->started && !r->finished && !r->once) say_how_to_go_on(r);
    return code;
}

int cmd_run(int argc, char **argv, const struct bench_hooks *hooks) {
    struct run *r = calloc(1, sizeof *r); /* a configuration is too large for the stack */
    struct error err = {{0}};
    if (!r) return bench_fail("run", STATUS_NO_MEMORY, &err);
    int code = parse(r, argc, argv);
    if (code < 0 && r->dry_run) code = dry_run(r, hooks);
    if (code < 0) {
        r->interrupts = interrupt_catch();
        code = conclude(r, run_all(r, &err), &err);
    }
    run_close(r);
    free(r);
    return code;
}
