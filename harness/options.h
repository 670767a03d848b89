/* Inside of the configuration, for config.c: the one table of keys, and what each row can do. */
#ifndef HARNESS_OPTIONS_H
#define HARNESS_OPTIONS_H

#include "harness/config.h"

#include <stdio.h>

enum option_type {
    OPTION_INT,      /* int64_t; 64k, 1m */
    OPTION_SECONDS,  /* int64_t; 90, 90s, 30m, 2h */
    OPTION_BOOL,     /* bool */
    OPTION_REAL,     /* double */
    OPTION_CHOICE,   /* char[]: one of `choices` */
    OPTION_TEXT,     /* char[] */
    OPTION_COVERAGE, /* coverage and sample_chunks */
    AXIS_INT,        /* struct int_axis */
    AXIS_BOOL,       /* struct int_axis of 0 and 1 */
    AXIS_CHOICE,     /* struct text_axis of `choices` */
    AXIS_TEXT        /* struct text_axis */
};

struct option {
    const char *section, *key;
    enum option_type type;
    size_t offset, size;  /* place in struct config */
    double least, most;   /* numbers */
    const char *choices;  /* "auto|cpu|cuda" */
    const char *fallback; /* default, as a file would say it */
    const char *help;
    const char *also; /* names that people try for it: "tp|tensor_parallel" */
};

const struct option *option_table(int *n);
/* Row number, or -1. */
int option_find(const char *section, const char *key);
/* Parses `text` into its place in c. On failure c is unchanged, and `found` (at least 300 bytes)
 * says what was found: "\"three\"", "4 twice", "nothing". */
bool option_parse(const struct option *o, const char *text, struct config *c, char *found);
/* What is allowed, for messages: "a whole number from 1 to 8". At least 300 bytes. */
void option_expected(const struct option *o, char *out);
/* The value in c, as a file would say it. */
void option_print(const struct option *o, const struct config *c, FILE *out);
/* For a section and key that do not exist: what was expected instead, at least 400 bytes, and the
 * row that was probably meant, or -1. */
int option_suggest(const char *section, const char *key, char *out);

#endif
