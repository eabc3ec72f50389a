/* save_variant.h - a population's base variant as files: `cohort pretrain CONFIG --population NAME --out
 * PATH`. */
#ifndef COHORT_SAVE_VARIANT_H
#define COHORT_SAVE_VARIANT_H

#include "base/variant.h"
#include "settings/settings.h"
#include "support/problems.h"

/* Opens the variant of the population of that name, and looks whether `path` may be written: before a base is
 * trained. The first of a population's seeds speaks for all. */
exit_code save_variant_open(const settings *s, const char *population, const base_shape *shape,
                            const char *path, base_variant **out, problems *list);
/* path ends in .safetensors: the replaced linears alone, as tensors of a checkpoint. Else a folder: the whole
 * model, as transformers loads it. */
exit_code save_variant(const base_variant *v, const base_model *base, const char *path, problems *list);

#endif
