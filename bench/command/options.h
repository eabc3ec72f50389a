/* options.h - command lines as tables. */
#ifndef COHORT_BENCH_OPTIONS_H
#define COHORT_BENCH_OPTIONS_H

#include <stdbool.h>

#include "support/problems.h"

/* One of text, whole, real, flag and take says what the option is; the last row of a table has no name. */
typedef struct {
    const char *name, **text;
    int *whole;
    double *real;
    double least; /* of a number; at most 1e6 */
    bool *flag;   /* takes no value */
    exit_code (*take)(void *into, const char *name, const char *value, problems *list);
    void *into;
} option;

/* Words that are no options go to words[*n_words], at most `most`. */
exit_code options_read(int n, char **arguments, const option *options, int most, const char **words,
                       int *n_words, problems *list);

#endif
