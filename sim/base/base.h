/* base.h - the frozen transformer that all devices share (GPT-2 architecture). */
#ifndef COHORT_BASE_H
#define COHORT_BASE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "support/problems.h"

typedef struct {
    int layers, width, heads, ffn, vocabulary, context; /* ffn = 4 width in GPT-2; context = positions */
    float epsilon;                                      /* of the LayerNorms */
} base_shape;

/* Offsets in floats of every tensor in the packed weights, each a multiple of CK_ALIGN_FLOATS. Linears are
 * [out, in]: a GPT-2 checkpoint's Conv1D matrices ([in, out]) are transposed on load. */
typedef struct {
    int64_t ln1_gain, ln1_bias, qkv_w, qkv_b, out_w, out_b, ln2_gain, ln2_bias, fc_w, fc_b, pr_w, pr_b;
} base_layer;
typedef struct {
    int64_t wte, wpe, lnf_gain, lnf_bias;
    base_layer layer0; /* of layer 0; layer l adds l * layer_stride */
    int64_t layer_stride, total;
} base_layout;

base_layout base_layout_of(const base_shape *shape);

typedef struct base_model {
    base_shape shape;
    base_layout layout;
    float *weights; /* [layout.total] host, owned */
} base_model;

void base_destroy(base_model *model);
/* Random weights as GPT-2 initialises them: N(0, 0.02), residual projections N(0, 0.02 / sqrt(2 L)), biases
 * 0, gains 1. */
exit_code base_random(const base_shape *shape, uint64_t seed, base_model **out, problems *list);
/* A Hugging Face GPT-2 folder: config.json + model.safetensors (f32, f16 or bf16; with or without the
 * "transformer." prefix). Everything the header says is checked before a byte is used: bounds, overlaps,
 * dtypes, shapes, missing and duplicate tensors, NaN and Inf. */
exit_code base_load(const char *folder, base_model **out, problems *list);
/* What its config.json says, without the weights. */
exit_code base_load_shape(const char *folder, base_shape *out, problems *list);
/* Writes such a folder, whole or not at all (output_folder.h); transformers can load it. */
exit_code base_save(const base_model *model, const char *folder, problems *list);
/* Whether base_save() would take the folder: before a base is trained for it. */
exit_code base_check_place(const char *folder, problems *list);

#endif
