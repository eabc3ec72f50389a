/* proximal.h - the proximal terms of a wave's devices (methods/method.h), listed for ck_group_proximal(). */
#ifndef COHORT_PROXIMAL_H
#define COHORT_PROXIMAL_H

#include "kernels.h"
#include "population/fleet.h"
#include "support/problems.h"

/* Members of a group lie together. A device is in several groups of its population, so the groups of a
 * population take their members from sections of their own, one for each of its groups in their order. */
typedef struct {
    int n_groups;
    /* [fleet.n_groups] of the fleet's groups, those with devices in the wave, each with these as members;
     * NULL: no population has a term */
    ck_group *groups;
    int section;                  /* the most devices of a wave */
    int n_sections;               /* the most groups of a population */
    int *n_members;               /* [n_sections] of all groups */
    int64_t *members, *gradients; /* [n_sections, section], like the next */
    int32_t *layout;
    float *weights;
} proximal_terms;

/* devices: the most of a wave. After a failure, too, it is to be destroyed. */
exit_code proximal_terms_create(proximal_terms *t, const fleet *f, int devices, problems *list);
void proximal_terms_destroy(proximal_terms *t);

void proximal_terms_clear(proximal_terms *t);
/* The term of a device, if its population has one and the update trains experts; devices come in their order.
 * update: where its parameters and gradients lie. */
void proximal_terms_add(proximal_terms *t, const fleet *f, const device *d, const ck_adamw_device *update);

#endif
