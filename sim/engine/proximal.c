#include "engine/proximal.h"

#include <stdlib.h>

static int most_groups(const fleet *f) {
    int most = 0;
    for (int g = 0, n = 0; g < f->n_groups; g++) {
        n = g > 0 && f->holders[g].population == f->holders[g - 1].population ? n + 1 : 1;
        if (n > most) most = n;
    }
    return most;
}

exit_code proximal_terms_create(proximal_terms *t, const fleet *f, int devices, problems *list) {
    *t = (proximal_terms){0};
    if (fleet_anchor_bytes(f) == 0) return EXIT_OK;
    t->section = devices;
    t->n_sections = most_groups(f);
    size_t n = (size_t)t->n_sections * (size_t)devices;
    t->groups = malloc((size_t)f->n_groups * sizeof *t->groups);
    t->n_members = calloc((size_t)t->n_sections, sizeof *t->n_members);
    t->members = malloc(n * sizeof *t->members);
    t->gradients = malloc(n * sizeof *t->gradients);
    t->layout = malloc(n * sizeof *t->layout);
    t->weights = malloc(n * sizeof *t->weights);
    return t->groups && t->n_members && t->members && t->gradients && t->layout && t->weights
               ? EXIT_OK
               : problem(list, EXIT_ENVIRONMENT, "out of memory for the proximal terms of a wave");
}

void proximal_terms_destroy(proximal_terms *t) {
    free(t->groups);
    free(t->n_members);
    free(t->members);
    free(t->gradients);
    free(t->layout);
    free(t->weights);
    *t = (proximal_terms){0};
}

void proximal_terms_clear(proximal_terms *t) {
    t->n_groups = 0;
    for (int i = 0; i < t->n_sections; i++) t->n_members[i] = 0;
}

/* The group in the list, with the members that it has so far: one of the last, for devices come in their
 * order. at: where its next member lies. */
static ck_group *listed(proximal_terms *t, const ck_group *whole, int64_t at) {
    for (int i = t->n_groups - 1; i >= 0 && i >= t->n_groups - t->n_sections; i--)
        if (t->groups[i].packed == whole->packed) return &t->groups[i];
    ck_group *g = &t->groups[t->n_groups++];
    *g = *whole;
    g->n_members = 0;
    g->members = t->members + at;
    g->gradients = t->gradients + at;
    g->layout = t->layout + at;
    g->weights = t->weights + at;
    return g;
}

void proximal_terms_add(proximal_terms *t, const fleet *f, const device *d, const ck_adamw_device *update) {
    double mu = population_proximal(&f->populations[d->population]);
    if (mu == 0.0 || !(update->learn & CK_LEARN_EXPERTS)) return;
    for (int g = 0, section = -1; g < f->n_groups; g++) {
        if (f->holders[g].population != d->population) continue;
        int32_t layout = fleet_layout(f, g, (int)(d - f->devices));
        section++;
        if (layout < 0) continue;
        int64_t at = (int64_t)section * t->section + t->n_members[section]++;
        listed(t, &f->groups[g], at)->n_members++;
        t->members[at] = update->parameters;
        t->gradients[at] = update->gradients;
        t->layout[at] = layout;
        t->weights[at] = (float)mu;
    }
}
