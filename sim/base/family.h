/* family.h - how the families of bases differ on disk: in the keys of config.json, in the tensors of a
 * checkpoint, and in where these lie in the packed weights. (How they differ when they compute:
 * model/family.h.)
 *
 * To add one: sim/README.md lists the files. The one here is base/families/NAME.c, a `const base_family
 * base_family_NAME`, which families.c and base_family_id list. */
#ifndef COHORT_BASE_FAMILY_H
#define COHORT_BASE_FAMILY_H

#include <jansson.h>
#include <stddef.h>

#include "base/base.h"
#include "base/config_keys.h"

/* Numbers of rows or columns, each a function of the shape. */
typedef enum {
    BASE_NONE, /* 0 */
    BASE_ONE,
    BASE_WIDTH,
    BASE_Q,         /* heads * head_size */
    BASE_KV,        /* kv_heads * head_size */
    BASE_Q_AND_K,   /* BASE_Q + BASE_KV */
    BASE_Q_K_AND_V, /* BASE_Q + 2 BASE_KV */
    BASE_FFN,
    BASE_VOCABULARY,
    BASE_CONTEXT
} base_extent;

typedef enum {
    BASE_EMBEDDING,
    BASE_GAIN,
    BASE_BIAS,
    BASE_LINEAR,
    BASE_RESIDUAL_LINEAR, /* writes into the residual stream: initialised smaller, the deeper the model */
    BASE_TENSOR_KINDS
} base_tensor_kind;

/* A tensor as a checkpoint has it. */
typedef struct {
    const char *name;          /* in a layer: what follows the layer's number */
    base_extent rows, columns; /* as in the file; columns BASE_ONE: a vector */
    base_tensor_kind kind;
    /* where base_layout (of a tensor in a layer: base_layer) has its place, an int64_t; a place of -1: a
     * base of this shape has no such tensor */
    size_t offset;
    base_extent first; /* row (of a bias: element) of the packed tensor where it begins */
    bool alone;        /* its name has no prefix; it is absent where the head is tied */
} base_tensor_row;

typedef struct {
    const char *name;               /* of base.family */
    const char *const *model_types; /* of config.json, NULL at the end */
    /* All names of a file have this prefix, or none has it; names of rows that are `alone` never have it. */
    const char *prefix;
    const char *layers;      /* "h": layer 3's tensors are called "h.3.NAME" */
    const char *context_key; /* the key of config.json that says how many positions there are */
    bool transposed;         /* linears are [in, out] in the file (Conv1D) */
    const base_tensor_row *before, *in_layer, *after; /* the layers; a checkpoint's order */
    int n_before, n_in_layer, n_after;
    /* Reports all that is wrong, or that Cohort does not support, and why. */
    void (*read)(base_config *config, base_shape *shape);
    json_t *(*write)(const base_shape *shape); /* a new object, NULL without memory */
    /* Whether a name that is in no row may be in a file: the head where it is tied (it is compared with the
     * embedding elsewhere), and what old checkpoints carry beside the weights. */
    bool (*may_be_there)(const char *name);
} base_family;

const base_family *base_family_of(base_family_id id);

#endif
