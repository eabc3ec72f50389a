/* variant.h - frozen weights that differ from a base in named linears: W + dW.
 *
 * A variant is written down in one of two forms:
 *   factors   a PEFT folder (adapter_config.json, adapter_model.safetensors): W' = W + sum_j s B_j A_j, the
 *             LoRA merged into the base
 *   dense     a safetensors file, or a folder of model.safetensors (or the index of several), whose tensors
 *             are called as in a checkpoint of the base's family: they take the place of the base's. Biases
 *             that the base does not have may be among them. What is no linear (embeddings, norms) may be
 *             there if it equals the base's, so that a whole model is such a folder, too.
 * Only linears that differ are held. Names may have the family's prefix ("transformer.", "model.") or not.
 *
 * Folding has one order of sums, so that the same factors always make the same bits:
 *   w[o, i] <- fma(s b[j, o], a[j, i], w[o, i])   for j = 0, 1, ... */
#ifndef COHORT_BASE_VARIANT_H
#define COHORT_BASE_VARIANT_H

#include "base/base.h"
#include "base/linears.h"
#include "base/safetensors.h"
#include "support/problems.h"

/* Where the replaced linears lie in an array of the variant's own, which the caller allocates. */
typedef struct {
    int64_t weight, bias; /* offsets in floats, multiples of CK_ALIGN_FLOATS; -1: as in the base */
} variant_place;

typedef struct base_variant base_variant;

/* Opens what `path` names and checks it against the shape: names, shapes, types. All that is wrong is
 * reported. Values are read later. */
exit_code base_variant_open(const char *path, const base_shape *shape, base_variant **out, problems *list);
void base_variant_close(base_variant *v); /* NULL is fine */

const char *base_variant_path(const base_variant *v);
int base_variant_linears(const base_variant *v);                     /* layers * BASE_LAYER_LINEARS */
variant_place base_variant_place(const base_variant *v, int linear); /* of a linear's number */
int64_t base_variant_floats(const base_variant *v);                  /* of the whole array */
int64_t base_variant_values(const base_variant *v);   /* that are written down: of factors, or dense */
int64_t base_variant_replaced(const base_variant *v); /* values of the linears that it replaces */
base_linear base_variant_linear(const base_variant *v, int linear); /* as the base has it */
/* Floats of the largest replaced linear, its bias included: what base_variant_fold() needs room for. */
int64_t base_variant_largest(const base_variant *v);

/* Writes a replaced linear: weight [out, in] and bias [out], each where the variant has it (else it may be
 * NULL). A value that is
 * not finite is refused. */
exit_code base_variant_fold(const base_variant *v, const base_model *base, int linear, float *weight,
                            float *bias, problems *list);
/* What is no linear must equal the base's. */
exit_code base_variant_compare(const base_variant *v, const base_model *base, problems *list);
/* The same, and all else is folded once, for what is refused: for `cohort check`. */
exit_code base_variant_check(const base_variant *v, const base_model *base, problems *list);

/* w [rows, in] += s sum_j b_j a_j^T, in the order of the file's comment; a [rank, in], b [rank, rows]. */
void base_fold_factors(float *w, int64_t rows, int64_t in, int rank, float scale, const float *a,
                       const float *b);

/* No value is read from here on. */
void base_variant_close_files(base_variant *v);

/* Writes the replaced linears, from an array as the places say, as tensors of a checkpoint: `path` is a file
 * (written atomically). */
exit_code base_variant_write(const base_variant *v, const float *values, const char *path, problems *list);
/* A model of its own with the variant's linears and everything else of the base, which base_save() writes as
 * a folder for transformers. Biases that a family has in all layers or in none are 0 where the variant has
 * none.
 */
exit_code base_variant_whole(const base_variant *v, const base_model *base, base_model **out, problems *list);

#endif
