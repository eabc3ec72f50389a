/* variants_state.h - what population/variants*.c share. */
#ifndef COHORT_VARIANTS_STATE_H
#define COHORT_VARIANTS_STATE_H

#include "population/variants.h"

/* A variant on the backend. */
typedef struct {
    base_variant *source; /* borrowed */
    float *memory;        /* backend [base_variant_floats()]; NULL until it is placed */
    int64_t version;
    int64_t *bytes_of; /* [version] what brings version i to i + 1, downloaded by a device */
    /* of versions after the first: the factors since, one record after the other; once these would be more
     * than the weights themselves, none are kept */
    uint8_t *added;
    size_t n_added;
    bool dense;
} placed_variant;

struct variants {
    int n_sources, n, n_linears;
    base_variant **sources; /* [n_sources] owned */
    placed_variant *each;   /* [n], room for one a population */
    int *of_population;     /* [n_populations] index into each; -1: the base itself */
    ck_replacement *table;  /* [n, n_linears], room for as many */
};

placed_variant *variant_of_population(const fleet *f, int which); /* NULL: the base itself */
void variant_fill_table(struct variants *v, int index);

#endif
