/* Tables for a terminal: see table.h. Owns the cells' text. */
#include "harness/table.h"

#include "harness/format.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
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

static int last_column(const struct table *t) {
    int last = t->n_columns - 1;
    while (last > 0 && t->columns[last].hidden) last--;
    return last;
}

enum { GAP = 2 };

static size_t line_width(const struct table *t) {
    size_t sum = 0;
    for (int c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) sum += width(t, c) + (sum > 0 ? GAP : 0);
    return sum;
}

int table_fit(const struct table *t, struct table_column *columns, const int *least, int n,
              int most) {
    int i = 0;
    while (t && i < n && line_width(t) > (size_t)most) columns[least[i++]].hidden = true;
    return i;
}

/* How much of the text fits into `room` without breaking a word; a word longer than that in full.
 */
static size_t words_that_fit(const char *text, size_t room) {
    if (strlen(text) <= room) return strlen(text);
    size_t n = room;
    while (n > 0 && text[n] != ' ') n--;
    return n > 0 ? n : strcspn(text, " ");
}

/* The text of the last column, in as many lines as it needs: the first goes on at `column`. */
static void print_last(FILE *out, const char *text, size_t column, size_t room) {
    for (size_t n; *text; text += n) {
        n = words_that_fit(text, room);
        fprintf(out, "%.*s", (int)n, text);
        n += strspn(text + n, " ");
        if (text[n]) fprintf(out, "\n%*s", (int)column, "");
    }
}

/* Widths of the columns, where the last one begins, and the room that it has. */
struct layout {
    size_t *widths; /* owned */
    size_t last_at, last_room;
};

static bool lay_out(const struct table *t, const char *indent, int most, struct layout *l) {
    enum { LEAST_ROOM = 16 };
    const int last = last_column(t);
    l->widths = calloc((size_t)t->n_columns, sizeof *l->widths);
    l->last_at = strlen(indent);
    for (int c = 0; l->widths && c < t->n_columns; c++) {
        l->widths[c] = width(t, c);
        if (c < last && !t->columns[c].hidden) l->last_at += l->widths[c] + GAP;
    }
    const bool broken = most > 0 && t->columns[last].left && (size_t)most > l->last_at + LEAST_ROOM;
    l->last_room = broken ? (size_t)most - l->last_at : SIZE_MAX;
    return l->widths != NULL;
}

/* One line; row -2: the heads, -1: the units. Blanks wait until something stands behind them. */
static void print_line(FILE *out, const struct table *t, const struct layout *l, int row,
                       const char *indent, bool color) {
    const int last = last_column(t);
    int blanks = (int)strlen(indent);
    for (int c = 0, first = 1; c <= last; c++) {
        const struct table_column *column = &t->columns[c];
        if (column->hidden) continue;
        enum tone tone = row < 0 ? TONE_FAINT : t->cells[row * t->n_columns + c].tone;
        const char *text = row == -2   ? column->head
                           : row == -1 ? column->unit
                                       : table_cell(t, row, c);
        int pad = l->widths[c] > strlen(text) ? (int)(l->widths[c] - strlen(text)) : 0;
        blanks += (first ? 0 : GAP) + (column->left ? 0 : pad);
        first = 0;
        if (*text) {
            fprintf(out, "%*s%s", blanks, "", tone_begin(tone, color));
            if (c == last)
                print_last(out, text, l->last_at, l->last_room);
            else
                fputs(text, out);
            fputs(tone_end(tone, color), out);
            blanks = 0;
        }
        blanks += column->left ? pad : 0;
    }
    fputc('\n', out);
}

void table_print(FILE *out, const struct table *t, const char *indent, int most, bool color) {
    struct layout l = {NULL, 0, 0};
    if (!t) {
        fputs("no memory for a table\n", out);
        return;
    }
    bool units = false, there = lay_out(t, indent, most, &l);
    for (int c = 0; c < t->n_columns; c++)
        units = units || (t->columns[c].unit[0] && !t->columns[c].hidden);
    for (int r = units ? -2 : -1; there && r < table_rows(t); r++)
        print_line(out, t, &l, !units && r == -1 ? -2 : r, indent, color);
    if (!there || t->failed) fputs("no memory for the rest of this table\n", out);
    free(l.widths);
}
