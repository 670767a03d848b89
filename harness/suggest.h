/* "Did you mean ...?": the nearest of some names by edit distance. */
#ifndef HARNESS_SUGGEST_H
#define HARNESS_SUGGEST_H

/* Insertions, deletions, replacements and exchanges of neighbours that turn a into b (Damerau's
 * optimal string alignment), letter case ignored. Words longer than 63 bytes are cut. */
int edit_distance(const char *a, const char *b);

/* Index of the nearest name that is near enough to be a typing error (at most a third of the word,
 * at least 2 edits allowed), or -1. Ties: the first. */
int suggest_nearest(const char *word, const char *const *names, int n);

#endif
