/* Names beside points: see plot_labels.h. Used by plot_roofline.c. */
#include "harness/plot_labels.h"

static const double gap = 0.8;       /* letters between a point and its name */
static const double half_row = 0.45; /* of a name; a little less than a row, as most letters are */
static const double step = 0.25;     /* rows between two places that are tried */

void labels_take(struct labels *l, struct label_box box) {
    if (l->n < LABEL_BOXES) l->taken[l->n++] = box;
}

static bool is_free(const struct labels *l, const struct label_box *b) {
    if (b->left < 0 || b->right > l->letters || b->low < 0 || b->high > l->rows) return false;
    for (int i = 0; i < l->n; i++) {
        const struct label_box *t = &l->taken[i];
        if (b->left < t->right && t->left < b->right && b->low < t->high && t->low < b->high)
            return false;
    }
    return true;
}

static bool try_place(struct labels *l, const struct label_place *at, int length) {
    const struct label_box box = {.left = at->right ? at->letter : at->letter - length,
                                  .right = at->right ? at->letter + length : at->letter,
                                  .low = at->row - half_row,
                                  .high = at->row + half_row};
    if (!is_free(l, &box)) return false;
    labels_take(l, box);
    return true;
}

bool labels_place(struct labels *l, double letter, double row, double radius, int length,
                  struct label_place *out) {
    for (double away = 0; away <= l->rows; away += step)
        for (int i = 0; i < 4; i++) { /* above and below, right and left */
            *out =
                (struct label_place){.right = i % 2 == 0, .row = i < 2 ? row + away : row - away};
            out->letter = out->right ? letter + radius + gap : letter - radius - gap;
            if (try_place(l, out, length)) return true;
        }
    return false;
}
