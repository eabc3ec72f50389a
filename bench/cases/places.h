/* places.h - where adapters are: the linears of a layer, named by their sites. A case's variants have a site
 * each. */
#ifndef COHORT_BENCH_PLACES_H
#define COHORT_BENCH_PLACES_H

#include "rig/case.h"

/* The linear of a site: its inputs and outputs, and where the outputs lie in a tensor of `columns`. */
typedef struct {
    ck_site site;
    int in, out, first, columns;
} place;

place place_of(const rig *r, ck_site site);
/* The variant's site; that of qkv without variant. */
ck_site place_site(const rig *r);
/* A variant's size. */
#define AT(site) (1 + (site))

#endif
