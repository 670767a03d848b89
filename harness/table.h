/* Tables for a terminal: cells are added left to right, row by row; columns are as wide as they
 * need to be. A column that says the same in every row can be left out and told once.
 * Text is ASCII, except in the last column; control characters become '?'. */
#ifndef HARNESS_TABLE_H
#define HARNESS_TABLE_H

#include "engine/engine.h"

#include <stdio.h>

enum tone { TONE_PLAIN, TONE_GOOD, TONE_BAD, TONE_DOUBTFUL, TONE_FAINT };

struct table_column {
    const char *head, *unit; /* two lines above the column; "" for none */
    bool left;               /* aligned; numbers stand to the right */
    bool hidden;
};
struct table;

/* columns are borrowed and may be changed (hidden) until table_print. NULL: no memory. */
struct table *table_open(const struct table_column *columns, int n);
void table_close(struct table *t); /* NULL is legal */

/* The next cell. After a lack of memory a table takes no more, and prints as much. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void table_add(struct table *t, enum tone tone, const char *format, ...);
/* At most four significant digits; NaN: "-". */
void table_add_number(struct table *t, double value);
char *table_number(char out[40], double value);

int table_rows(const struct table *t);
/* Whether all rows have the same text in that column (and there are at least two). */
bool table_same(const struct table *t, int column);
const char *table_cell(const struct table *t, int row, int column);
/* Hides columns in the order of `least` (n numbers, the least needed first) until the table is at
 * most `width` wide; returns how many of them it took. */
int table_fit(const struct table *t, struct table_column *columns, const int *least, int n,
              int width);
/* A last column that stands to the left is broken between words, so that lines end at `width`, if
 * they can; 0: they may be of any length. */
void table_print(FILE *out, const struct table *t, const char *indent, int width, bool color);

/* Text in a tone: escape sequences around it when `color`. Returns what begins or ends it. */
const char *tone_begin(enum tone tone, bool color);
const char *tone_end(enum tone tone, bool color);

#endif
