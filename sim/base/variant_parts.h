/* variant_parts.h - what a base_variant is made of: for base/variant*.c alone. */
#ifndef COHORT_BASE_VARIANT_PARTS_H
#define COHORT_BASE_VARIANT_PARTS_H

#include "base/peft_lora.h"
#include "base/shards.h"
#include "base/tensors.h"
#include "base/variant.h"

/* Rows of a linear's weight, or elements of its bias, that a tensor of a checkpoint has. */
typedef struct {
    packed_tensor tensor; /* as a checkpoint has it; offset: from the beginning of the weight or the bias */
    int linear;           /* its number; -1: of no linear, and offset is into the base's weights */
    bool bias;
    int pair; /* of the LoRA that changes it; -1: it is replaced */
} variant_part;

struct base_variant {
    char *path_owned;
    base_shape shape;
    base_layout layout; /* of the shape */
    int n_linears;
    variant_place *places; /* [n_linears] owned */
    int64_t floats, values;
    int n_parts;
    variant_part *parts; /* owned; in the order of the file */
    /* what is open: a LoRA, or a checkpoint's files; neither after base_variant_close_files() */
    peft_lora lora;
    shards files;
};

/* The shape with every bias that its family can have: its tensors are all that a variant may hold. */
base_shape variant_widest_shape(const base_shape *shape);
/* Finds where a tensor belongs, by its name with or without the family's prefix: tensor (with its name in a
 * checkpoint without prefix), linear and bias of *out. list: of the widest shape's tensors without prefix.
 * False: no tensor of this base is called so. */
typedef struct {
    base_shape shape;
    base_layout layout;
    int n;
    packed_tensor *tensors_owned;
} variant_names;
bool variant_find(const variant_names *names, const base_shape *base, const char *name, variant_part *out);

#endif
