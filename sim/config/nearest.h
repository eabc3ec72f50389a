/* nearest.h - "did you mean ...?": the known word closest to what was typed. */
#ifndef COHORT_NEAREST_H
#define COHORT_NEAREST_H

/* Fewest insertions, deletions, replacements and swaps of neighbours that turn a into b (words of at most 63
 * bytes; longer: 64). */
int edit_distance(const char *a, const char *b);

/* The closest of `count` words, the first of equals; NULL if none is close enough to be a likely slip. */
const char *nearest_word(const char *typed, const char *const *words, int count);

#endif
