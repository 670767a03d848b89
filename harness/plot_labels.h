/* Names beside the points of a picture, clear of each other, of what is drawn there, and of the
 * lines that lead from points to names that stand apart. Pure arithmetic, in letters (to the right)
 * and rows of text (upwards) from the lower left corner. */
#ifndef HARNESS_PLOT_LABELS_H
#define HARNESS_PLOT_LABELS_H

#include <stdbool.h>

struct label_box {
    double left, right, low, high;
    bool words; /* lines lead round it */
};

enum { LABEL_BOXES = 1000 };
struct labels {
    double letters, rows; /* size of the picture */
    int n;
    struct label_box taken[LABEL_BOXES];
};

/* Nothing else is placed there. What finds no room in the list is overlooked. */
void labels_take(struct labels *l, struct label_box box);

/* Where the name of a point stands: at its right or left, at its own height where there is room,
 * else at the nearest one, and takes that place. A line to it crosses words only where there is no
 * other way. False, and nothing of it: there is no room
 * anywhere. radius: of the point, in letters. */
struct label_place {
    bool right; /* of the point: `letter` is the name's first edge, else its last */
    bool apart; /* so far from its point that a line leads there */
    double letter, row;
};
bool labels_place(struct labels *l, double letter, double row, double radius, int length,
                  struct label_place *out);

#endif
