/* check_tune.c - `cohort check` of a configuration that has `tune`. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/tune.h"
#include "run/batches.h"
#include "run/tune.h"

static void print_keys(const tuning *t) {
    for (int k = 0; k < t->n_keys; k++) {
        printf("  %s: ", t->keys[k].path);
        for (int i = 0; i < t->keys[k].n; i++) printf("%s%s", i > 0 ? ", " : "", t->keys[k].values[i]);
        putchar('\n');
    }
}

enum { MOST_NAMED = 8 };

static void print_groups(const settings *s) {
    const tuning *t = s->tuning;
    const char *what = t->by_name ? "population" : "method";
    printf("  for %d %s%s:", t->n_groups, what, t->n_groups == 1 ? "" : "s");
    for (int g = 0; g < t->n_groups && g < MOST_NAMED; g++)
        printf("%s %s", g > 0 ? "," : "", tune_group(s, g));
    if (t->n_groups > MOST_NAMED) printf(" and %d more", t->n_groups - MOST_NAMED);
    if (!t->by_name) printf("; of each the first population is tried");
    putchar('\n');
}

/* What does not fit alone is refused by its name. */
static exit_code count_batches(const settings *trials, int *batches, problems *list) {
    int first = 0, *which = calloc((size_t)trials->n_populations, sizeof *which);
    exit_code code = which ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the trials");
    for (int i = 0; which && i < trials->n_populations; i++) which[i] = i;
    THEN(code, batches_divide(trials, ck_collective_local(), which, trials->n_populations, INT_MAX, &first,
                              batches, list));
    free(which);
    return code;
}

exit_code tune_check(const settings *s, int processes, problems *list) {
    const tuning *t = s->tuning;
    int batches = 1;
    if (!t) return EXIT_OK;
    exit_code code = processes == 1 ? count_batches(t->trials, &batches, list) : EXIT_OK;
    if (code != EXIT_OK) return code;
    printf("Tuning, before the run: %d trials of %d round%s, of which the lowest validation loss chooses\n\n",
           t->trials->n_populations, t->rounds, t->rounds == 1 ? "" : "s");
    print_keys(t);
    print_groups(s);
    if (batches > 1)
        printf("  the trials do not fit into memory all at once: they run in %d batches\n", batches);
    printf("\nThe run itself, without the trials, and with the first of these values:\n\n");
    return EXIT_OK;
}
