/* The command line: finds the subcommand, or says what there is. `worker` is not shown: `bench run`
 * starts it. Before it: main.c, or a test's main; after it: cmd_*.c. */
#include "harness/bench.h"

#include "harness/config.h"
#include "harness/data_dir.h"
#include "harness/suggest.h"
#include "harness/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct subcommand {
    const char *name, *text;
    int (*run)(int argc, char **argv, const struct bench_hooks *hooks);
};

static const struct subcommand subcommands[] = {
#define X(name, text) {#name, text, cmd_##name},
    SUBCOMMAND_TABLE(X)
#undef X
};
enum { SUBCOMMANDS = sizeof subcommands / sizeof subcommands[0] };

static const struct subcommand *find(const char *name) {
    for (int i = 0; i < SUBCOMMANDS; i++)
        if (strcmp(subcommands[i].name, name) == 0) return &subcommands[i];
    return NULL;
}

static void print_exit_codes(FILE *out) {
    fputs("exit codes:\n", out);
#define X(code, text) fprintf(out, "  %3d  %s\n", code, text);
    EXIT_CODE_TABLE(X)
#undef X
}

static void usage(FILE *out) {
    char where[PATH_MAX_BYTES] = ""; /* of the configurations, unless they are here */
    if (access("configs", F_OK) != 0) bench_data_dir(where, sizeof where);
    fputs("bench: how long each prefill chunk of a long prompt takes, what it costs in\n"
          "memory, and whether the answer is right\n\nusage: bench COMMAND "
          "[OPTION...]\n\ncommands:\n",
          out);
    for (int i = 0; i < SUBCOMMANDS; i++)
        fprintf(out, "  %-8s %s\n", subcommands[i].name, subcommands[i].text);
    fputs("\n`bench COMMAND --help` explains one. Start with:\n  bench run ", out);
    fprintf(out, "%s%sconfigs/quickstart.ini\n\n", where, *where ? "/" : "");
    print_exit_codes(out);
}

static int unknown(const char *name) {
    const char *names[SUBCOMMANDS];
    for (int i = 0; i < SUBCOMMANDS; i++) names[i] = subcommands[i].name;
    int nearest = suggest_nearest(name, names, SUBCOMMANDS);
    fprintf(stderr, "bench: unknown command '%s'", name);
    if (nearest >= 0) fprintf(stderr, "; did you mean '%s'?", names[nearest]);
    fputs("\nbench: `bench --help` lists the commands\n", stderr);
    return status_exit_code(STATUS_USAGE);
}

static int dispatch(int argc, char **argv, const struct bench_hooks *hooks) {
    if (argc < 2) {
        usage(stderr);
        return status_exit_code(STATUS_USAGE);
    }
    char *name = argv[1];
    bool help = strcmp(name, "help") == 0;
    if (strcmp(name, "--version") == 0) {
        puts("bench " BENCH_VERSION);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (help && argc == 2)) {
        usage(stdout);
        return 0;
    }
    if (strcmp(name, "worker") == 0) return worker_main(argc - 1, argv + 1, hooks);
    const struct subcommand *c = find(help ? argv[2] : name);
    if (!c) return unknown(help ? argv[2] : name);
    if (help) return c->run(2, (char *[]){argv[2], "--help", NULL}, hooks);
    return c->run(argc - 1, argv + 1, hooks);
}

int bench_main(int argc, char **argv, const struct bench_hooks *hooks) {
    signal(SIGXFSZ, SIG_IGN); /* a file limit is an error of write, with a name and a reason */
    int code = dispatch(argc, argv, hooks);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "bench: cannot write to standard output: %s\n", strerror(errno));
        if (code == 0) code = status_exit_code(STATUS_IO);
    }
    return code;
}

int bench_fail(const char *command, enum status s, const struct error *err) {
    fprintf(stderr, "bench %s: %s\n", command, err->text[0] ? err->text : status_text(s));
    return status_exit_code(s);
}

int bench_fail_usage(const char *command, const char *what, const char *argument) {
    fprintf(stderr, "bench %s: %s '%s'; `bench %s --help` explains\n", command, what, argument,
            command);
    return status_exit_code(STATUS_USAGE);
}
