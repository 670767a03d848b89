/* Names beside points: see plot_labels.h. Used by plot_roofline.c. */
#include "harness/plot_labels.h"

static const double gap = 0.8;       /* letters between a point and its name */
static const double half_row = 0.45; /* of a name; a little less than a row, as most letters are */
static const double step = 0.25;     /* rows between two places that are tried */
enum { PIECES = 24 };                /* of a line to a name that stands apart */

void labels_take(struct labels *l, struct label_box box) {
    if (l->n < LABEL_BOXES) l->taken[l->n++] = box;
}

static bool meet(const struct label_box *a, const struct label_box *b) {
    return a->left < b->right && b->left < a->right && a->low < b->high && b->low < a->high;
}

static bool is_free(const struct labels *l, const struct label_box *b) {
    if (b->left < 0 || b->right > l->letters || b->low < 0 || b->high > l->rows) return false;
    for (int i = 0; i < l->n; i++)
        if (meet(b, &l->taken[i])) return false;
    return true;
}

/* The i-th piece of the line from a point to its name; without height or width, as a line has none.
 */
static struct label_box piece(double letter, double row, const struct label_place *at, int i) {
    const double share = (i + 0.5) / PIECES;
    const double x = letter + share * (at->letter - letter), y = row + share * (at->row - row);
    return (struct label_box){.left = x, .right = x, .low = y, .high = y};
}

static bool crosses_words(const struct labels *l, const struct label_box *b) {
    for (int i = 0; i < l->n; i++)
        if (l->taken[i].words && meet(b, &l->taken[i])) return true;
    return false;
}

static bool try_place(struct labels *l, double letter, double row, const struct label_place *at,
                      int length, bool crossing) {
    const struct label_box box = {.left = at->right ? at->letter : at->letter - length,
                                  .right = at->right ? at->letter + length : at->letter,
                                  .low = at->row - half_row,
                                  .high = at->row + half_row,
                                  .words = true};
    if (!is_free(l, &box)) return false;
    for (int i = 0; at->apart && !crossing && i < PIECES; i++) {
        const struct label_box line = piece(letter, row, at, i);
        if (crosses_words(l, &line)) return false;
    }
    labels_take(l, box);
    for (int i = 0; at->apart && i < PIECES; i++) labels_take(l, piece(letter, row, at, i));
    return true;
}

/* The nearest place. */
static bool find_place(struct labels *l, double letter, double row, double radius, int length,
                       bool crossing, struct label_place *out) {
    for (double away = 0; away <= l->rows; away += step)
        for (int i = 0; i < 4; i++) { /* above and below, right and left */
            *out = (struct label_place){.right = i % 2 == 0, .apart = away >= 1};
            out->row = i < 2 ? row + away : row - away;
            out->letter = out->right ? letter + radius + gap : letter - radius - gap;
            if (try_place(l, letter, row, out, length, crossing)) return true;
        }
    return false;
}

bool labels_place(struct labels *l, double letter, double row, double radius, int length,
                  struct label_place *out) {
    return find_place(l, letter, row, radius, length, false, out) ||
           find_place(l, letter, row, radius, length, true, out);
}
