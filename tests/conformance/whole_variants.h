/* whole_variants.h - variants of the base of a whole model, and what a device computes with. */
#ifndef COHORT_CONFORMANCE_WHOLE_VARIANTS_H
#define COHORT_CONFORMANCE_WHOLE_VARIANTS_H

#include "conformance/cases.h"
#include "oracle/oracle.h"

/* For a case's `arrays`, behind the base at WEIGHT: variant 1 has another weight and bias in every linear,
 * variant 2 in every second one; all else of their arrays, at OTHER_WEIGHTS, is the base's. */
void whole_variants(rig *r);
/* The base of a device, or its variant. buffer: the rig's in float64, by buffer_id. */
oracle_base whole_reference(const rig *r, double *const *buffer, int device);

#endif
