/* tensors.h - the list of a base's tensors, in the order of its family's checkpoints: random initialisation,
 * load, save and pre-training walk it. */
#ifndef COHORT_BASE_TENSORS_H
#define COHORT_BASE_TENSORS_H

#include "base/base.h"
#include "base/family.h"
#include "base/safetensors.h"

int base_tensor_count(const base_shape *shape);
/* Tensor `index` and where it lies; *kind may be NULL. Names carry `prefix` ("" or the family's). */
packed_tensor base_tensor(const base_shape *shape, const base_layout *layout, const char *prefix, int index,
                          base_tensor_kind *kind);
/* All of them (malloc'd), NULL without memory. */
packed_tensor *base_tensor_list(const base_shape *shape, const base_layout *layout, const char *prefix);

/* Allocates a model of this shape, its weights all 0, but for the table of rotary positions. */
exit_code base_create(const base_shape *shape, base_model **out, problems *list);

/* config.json, both ways. Reading reports everything that this program does not support. */
exit_code base_config_read(const char *path, base_shape *shape, problems *list);
exit_code base_config_write(const char *path, const base_shape *shape, problems *list);

#endif
