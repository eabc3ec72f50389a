#include "engine/proximal.h"

#include <stdlib.h>

exit_code proximal_terms_create(proximal_terms *t, const fleet *f, int devices, problems *list) {
    size_t n = (size_t)devices;
    *t = (proximal_terms){0};
    if (fleet_anchor_bytes(f) == 0) return EXIT_OK;
    t->groups = malloc((size_t)f->n_populations * sizeof *t->groups);
    t->members = malloc(n * sizeof *t->members);
    t->gradients = malloc(n * sizeof *t->gradients);
    t->layout = malloc(n * sizeof *t->layout);
    t->weights = malloc(n * sizeof *t->weights);
    return t->groups && t->members && t->gradients && t->layout && t->weights
               ? EXIT_OK
               : problem(list, EXIT_ENVIRONMENT, "out of memory for the proximal terms of a wave");
}

void proximal_terms_destroy(proximal_terms *t) {
    free(t->groups);
    free(t->members);
    free(t->gradients);
    free(t->layout);
    free(t->weights);
    *t = (proximal_terms){0};
}

void proximal_terms_clear(proximal_terms *t) {
    t->n_groups = t->n_members = 0;
}

/* NULL: the population shares nothing. */
static const ck_group *group_of(const fleet *f, const device *d) {
    for (int g = 0; g < f->n_groups; g++)
        if (f->group_population[g] == d->population) return &f->groups[g];
    return NULL;
}

/* The group in the list, with the members that it has so far. */
static ck_group *listed(proximal_terms *t, const ck_group *whole) {
    ck_group *last = t->n_groups > 0 ? &t->groups[t->n_groups - 1] : NULL;
    if (last && last->packed == whole->packed) return last;
    last = &t->groups[t->n_groups++];
    *last = *whole;
    last->n_members = 0;
    last->members = t->members + t->n_members;
    last->gradients = t->gradients + t->n_members;
    last->layout = t->layout + t->n_members;
    last->weights = t->weights + t->n_members;
    return last;
}

void proximal_terms_add(proximal_terms *t, const fleet *f, const device *d, const ck_adamw_device *update) {
    double mu = population_proximal(&f->populations[d->population]);
    const ck_group *whole = mu > 0.0 && update->learn & CK_LEARN_EXPERTS ? group_of(f, d) : NULL;
    if (!whole) return;
    listed(t, whole)->n_members++;
    t->members[t->n_members] = update->parameters;
    t->gradients[t->n_members] = update->gradients;
    t->layout[t->n_members] = whole->layout[d->member];
    t->weights[t->n_members++] = (float)mu;
}
