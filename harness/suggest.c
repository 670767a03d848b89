/* Edit distance between short words. See suggest.h. */
#include "harness/suggest.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { WORD_MAX = 63 };

static int length_of(const char *s) {
    return (int)strnlen(s, WORD_MAX);
}
static bool same(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}
static int least(int a, int b) {
    return a < b ? a : b;
}

int edit_distance(const char *a, const char *b) {
    const int na = length_of(a), nb = length_of(b);
    int rows[3][WORD_MAX + 1]; /* of the table: two before, before, now */
    int *before2 = rows[0], *before = rows[1], *now = rows[2];
    for (int j = 0; j <= nb; j++) before[j] = before2[j] = j;
    for (int i = 1; i <= na; i++) {
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            now[j] =
                least(least(before[j], now[j - 1]) + 1, before[j - 1] + !same(a[i - 1], b[j - 1]));
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                now[j] = least(now[j], before2[j - 2] + 1);
        }
        int *const recycled = before2;
        before2 = before, before = now, now = recycled;
    }
    return before[nb];
}

int suggest_nearest(const char *word, const char *const *names, int n) {
    int allowed = length_of(word) / 3;
    if (allowed < 2) allowed = 2;
    int best = -1, best_distance = allowed + 1;
    for (int i = 0; i < n; i++) {
        const int distance = edit_distance(word, names[i]);
        if (distance < best_distance && distance < length_of(names[i])) {
            best = i;
            best_distance = distance;
        }
    }
    return best;
}
