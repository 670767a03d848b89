/* Command lines of the subcommands: a table of options that parses and explains itself. */
#ifndef HARNESS_ARGUMENTS_H
#define HARNESS_ARGUMENTS_H

#include <stdbool.h>

enum { ARGUMENT_LIST_MAX = 256 };
struct argument_list {
    int n;
    const char *v[ARGUMENT_LIST_MAX];
};

enum argument_kind {
    ARGUMENT_FLAG,  /* bool: true when given */
    ARGUMENT_VALUE, /* const char *: the last one given */
    ARGUMENT_LIST,  /* struct argument_list: all given */
};
struct argument {
    const char *name; /* "--set", "-o" */
    enum argument_kind kind;
    void *place;
    const char *value; /* what its value is called in the help: "FILE" */
    const char *help;
};

struct command_line {
    const char *command;  /* "run" */
    const char *operands; /* "CONFIG", "FILE...": for the help */
    const char *purpose;  /* a sentence or two; lines of at most 78 columns, those that begin with a
                             space stay as they are in the manual */
    const struct argument *arguments;
    int n;
    int least, most; /* operands that it takes */
};

/* Takes argv apart (argv[0] is the command; "--name VALUE" and "--name=VALUE"). Returns -1 to go
 * on; else the exit code to leave with: --help has been printed (or --help=PAGE, see describe.h),
 * or what is wrong has been said. */
int arguments_parse(const struct command_line *c, int argc, char **argv,
                    struct argument_list *operands);

#endif
