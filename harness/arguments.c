/* Takes a subcommand's arguments apart by its table, and prints the table as its --help. */
#include "harness/arguments.h"

#include "harness/bench.h"
#include "harness/describe.h"
#include "harness/suggest.h"
#include "harness/terminal.h"

#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 29 };

static void print_help(const struct command_line *c) {
    printf("usage: bench %s [OPTION...]%s%s\n\n%s\n\noptions:\n", c->command,
           c->operands[0] ? " " : "", c->operands, c->purpose);
    for (int i = 0; i < c->n; i++) {
        const struct argument *a = &c->arguments[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", a->name, a->value ? " " : "",
                 a->value ? a->value : "");
        printf("  %-26s ", left);
        print_wrapped(stdout, a->help, HELP_COLUMN);
    }
    printf("  %-26s %s\n", "--help", "print this and exit");
}

/* The argument that `text` names, or -1. *value: what follows "=", or NULL. */
static int find(const struct command_line *c, const char *text, const char **value) {
    const char *equals = strncmp(text, "--", 2) == 0 ? strchr(text, '=') : NULL;
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    *value = equals ? equals + 1 : NULL;
    for (int i = 0; i < c->n; i++)
        if (strlen(c->arguments[i].name) == n && strncmp(c->arguments[i].name, text, n) == 0)
            return i;
    return -1;
}

static int unknown(const struct command_line *c, const char *text) {
    const char *names[64];
    int n = c->n < 64 ? c->n : 64;
    for (int i = 0; i < n; i++) names[i] = c->arguments[i].name;
    int nearest = suggest_nearest(text, names, n);
    char what[128] = "unknown option";
    if (nearest >= 0)
        snprintf(what, sizeof what, "unknown option (did you mean %s?)", names[nearest]);
    return bench_fail_usage(c->command, what, text);
}

static bool add(struct argument_list *list, const char *value) {
    if (list->n == ARGUMENT_LIST_MAX) return false;
    list->v[list->n++] = value;
    return true;
}

static bool keep(const struct argument *a, const char *value) {
    switch (a->kind) {
    case ARGUMENT_FLAG: *(bool *)a->place = true; return true;
    case ARGUMENT_VALUE: *(const char **)a->place = value; return true;
    case ARGUMENT_LIST: return add(a->place, value);
    }
    return false;
}

int arguments_parse(const struct command_line *c, int argc, char **argv,
                    struct argument_list *operands) {
    operands->n = 0;
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i], *value;
        if (options_end || text[0] != '-' || !text[1]) {
            if (operands->n == c->most) return bench_fail_usage(c->command, "one too many:", text);
            if (!add(operands, text)) return bench_fail_usage(c->command, "too many:", text);
            continue;
        }
        if (strcmp(text, "--") == 0) {
            options_end = true;
            continue;
        }
        if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            print_help(c);
            return 0;
        }
        if (strncmp(text, "--help=", 7) == 0 && describe_part(text + 7, c)) return 0;
        int at = find(c, text, &value);
        if (at < 0) return unknown(c, text);
        const struct argument *a = &c->arguments[at];
        if (a->kind == ARGUMENT_FLAG && value)
            return bench_fail_usage(c->command, "takes no value:", text);
        if (a->kind != ARGUMENT_FLAG && !value) {
            if (i + 1 == argc) return bench_fail_usage(c->command, "needs a value:", text);
            value = argv[++i];
        }
        if (!keep(a, value)) return bench_fail_usage(c->command, "too many:", text);
    }
    if (operands->n < c->least) return bench_fail_usage(c->command, "missing", c->operands);
    return -1;
}
