/* Tables for a terminal: see table.h. Owns the cells' text. */
#include "harness/table.h"

#include "harness/format.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct cell {
    char *text; /* owned */
    enum tone tone;
};
struct table {
    const struct table_column *columns; /* borrowed */
    int n_columns, n, capacity;         /* cells */
    struct cell *cells;                 /* owned */
    bool failed;
};

struct table *table_open(const struct table_column *columns, int n) {
    struct table *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->columns = columns;
    t->n_columns = n;
    return t;
}

void table_close(struct table *t) {
    for (int i = 0; t && i < t->n; i++) free(t->cells[i].text);
    if (t) free(t->cells);
    free(t);
}

static bool grow(struct table *t) {
    if (t->n < t->capacity) return true;
    int capacity = t->capacity ? 2 * t->capacity : 64;
    struct cell *cells = realloc(t->cells, (size_t)capacity * sizeof *cells);
    if (!cells) return false;
    t->cells = cells;
    t->capacity = capacity;
    return true;
}

void table_add(struct table *t, enum tone tone, const char *format, ...) {
    if (!t || t->failed) return;
    va_list ap;
    char *text = NULL;
    va_start(ap, format);
    bool made = grow(t) && vasprintf(&text, format, ap) >= 0;
    va_end(ap);
    for (char *p = text; made && *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    if (made)
        t->cells[t->n++] = (struct cell){text, tone};
    else
        t->failed = true;
}

char *table_number(char out[40], double value) {
    double size = fabs(value);
    if (!isfinite(value))
        snprintf(out, 40, "-");
    else if (value == 0)
        snprintf(out, 40, "0");
    else if (size < 0.0009995)
        snprintf(out, 40, "%.2e", value);
    else if (size < 0.9995)
        snprintf(out, 40, "%.3g", value);
    else if (size < 9.9995)
        snprintf(out, 40, "%.3f", value);
    else if (size < 99.995)
        snprintf(out, 40, "%.2f", value);
    else if (size < 999.95)
        snprintf(out, 40, "%.1f", value);
    else if (size < 1e15)
        format_count(out, llround(value));
    else
        snprintf(out, 40, "%.4g", value);
    return out;
}

void table_add_number(struct table *t, double value) {
    char text[40];
    table_add(t, TONE_PLAIN, "%s", table_number(text, value));
}

int table_rows(const struct table *t) {
    return t->n / t->n_columns;
}

const char *table_cell(const struct table *t, int row, int column) {
    return t->cells[row * t->n_columns + column].text;
}

bool table_same(const struct table *t, int column) {
    if (!t || table_rows(t) < 2) return false;
    for (int r = 1; r < table_rows(t); r++)
        if (strcmp(table_cell(t, r, column), table_cell(t, 0, column)) != 0) return false;
    return true;
}

static const char *escape(enum tone tone) {
    switch (tone) {
    case TONE_GOOD: return "\033[32m";
    case TONE_BAD: return "\033[1;31m";
    case TONE_DOUBTFUL: return "\033[33m";
    case TONE_FAINT: return "\033[2m";
    case TONE_PLAIN: break;
    }
    return "";
}

const char *tone_begin(enum tone tone, bool color) {
    return color ? escape(tone) : "";
}
const char *tone_end(enum tone tone, bool color) {
    return color && tone != TONE_PLAIN ? "\033[0m" : "";
}

static size_t longer(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t width(const struct table *t, int column) {
    size_t w = longer(strlen(t->columns[column].head), strlen(t->columns[column].unit));
    for (int r = 0; r < table_rows(t); r++) w = longer(w, strlen(table_cell(t, r, column)));
    return w;
}

/* One line. `text_of` and tones come from a row, or (row < 0) from the heads. */
static void print_line(FILE *out, const struct table *t, const size_t *widths, int row,
                       const char *indent, bool color) {
    int last = t->n_columns - 1;
    while (last > 0 && t->columns[last].hidden) last--;
    fputs(indent, out);
    for (int c = 0, first = 1; c <= last; c++) {
        const struct table_column *column = &t->columns[c];
        if (column->hidden) continue;
        enum tone tone = row < 0 ? TONE_FAINT : t->cells[row * t->n_columns + c].tone;
        const char *text = row == -2   ? column->head
                           : row == -1 ? column->unit
                                       : table_cell(t, row, c);
        int pad = (int)(widths[c] - strlen(text));
        if (!first) fputs("  ", out);
        first = 0;
        fprintf(out, "%*s%s%s%s", column->left ? 0 : pad, "", tone_begin(tone, color), text,
                tone_end(tone, color));
        if (column->left && c < last) fprintf(out, "%*s", pad, "");
    }
    fputc('\n', out);
}

void table_print(FILE *out, const struct table *t, const char *indent, bool color) {
    if (!t) {
        fputs("no memory for a table\n", out);
        return;
    }
    size_t *widths = calloc((size_t)t->n_columns, sizeof *widths);
    bool units = false;
    for (int c = 0; widths && c < t->n_columns; c++) {
        widths[c] = width(t, c);
        units = units || (t->columns[c].unit[0] && !t->columns[c].hidden);
    }
    for (int r = units ? -2 : -1; widths && r < table_rows(t); r++)
        print_line(out, t, widths, !units && r == -1 ? -2 : r, indent, color);
    if (!widths || t->failed) fputs("no memory for the rest of this table\n", out);
    free(widths);
}
