/* The manual page and the shells' completions, made from the tables: subcommands (bench.h), their
 * options (each command's struct command_line), the keys of a configuration (options.c). A page is
 * a head, a part for each subcommand, and a foot. The parts come out of the commands themselves:
 * `bench COMMAND --help=PAGE` prints one, `bench describe PAGE` the whole. */
#ifndef HARNESS_DESCRIBE_H
#define HARNESS_DESCRIBE_H

#include "harness/arguments.h"

struct describe_page {
    const char *name; /* "man", "bash", "zsh", "fish" */
    void (*head)(void);
    void (*part)(const struct command_line *c);
    void (*foot)(void);
};
/* Page i, or NULL past the end. All of them write to stdout. */
const struct describe_page *describe_page(int i);

/* Prints the part of a subcommand. False: there is no page of that name. */
bool describe_part(const char *page, const struct command_line *c);

/* What can be typed in the place of a value or an operand. */
enum describe_kind {
    DESCRIBE_NOTHING, /* free text */
    DESCRIBE_FILE,
    DESCRIBE_FOLDER,
    DESCRIBE_CONFIG, /* *.ini */
    DESCRIBE_RESULT, /* *.h5 */
    DESCRIBE_KEY,    /* section.key=value */
    DESCRIBE_PROMPT, /* a published prompt; an address is free text */
    DESCRIBE_WORDS,  /* one of "a|b|c" */
};
/* By its name in the help: "FILE", "RUN.h5...", "CONFIG", "models|kernels". of_option: of an option
 * (whose FILE is any file), not an operand (whose FILE is a result). */
enum describe_kind describe_kind(const char *value, bool of_option);

/* All that can follow --set, each with a space before it: " section.key=" for every key,
 * " section.key=word" for every word that a key of choices takes. Malloc'd, or NULL. */
char *describe_keys(void);

/* The pages: describe_man.c and describe_shells.c. */
extern const struct describe_page describe_man, describe_bash, describe_zsh, describe_fish;

#endif
