/* base.h - the frozen transformer that all devices share: a GPT-2, or one of the Llama family. */
#ifndef COHORT_BASE_H
#define COHORT_BASE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "support/problems.h"

/* GPT-2: learned positions, LayerNorm, GELU, one head of keys for each of queries, biases everywhere.
 * Llama (Llama, Qwen2): rotary positions, RMSNorm, SwiGLU, grouped-query attention. */
typedef enum { BASE_GPT2, BASE_LLAMA, BASE_FAMILIES } base_family_id;

typedef enum {
    BASE_ROPE_PLAIN, /* angle of pair i at position t: t theta^(-2 i / head_size) */
    BASE_ROPE_LLAMA3 /* the low frequencies divided by `factor` */
} base_rope_scaling;

typedef struct {
    float theta;
    base_rope_scaling scaling;
    float factor, low_frequency_factor, high_frequency_factor; /* of BASE_ROPE_LLAMA3, else 0 */
    int original_context;                                      /* of BASE_ROPE_LLAMA3, else 0 */
} base_rope;

typedef struct {
    base_family_id family;
    int layers, width, heads;
    int kv_heads, head_size; /* kv_heads divides heads; GPT-2: heads, and width / heads */
    int ffn;                 /* width of the MLP: of its activation */
    int vocabulary, context; /* context = positions */
    float epsilon;           /* of the norms */
    bool tied_head;          /* the output matrix is the token embedding */
    bool qkv_bias, out_bias, mlp_bias;
    base_rope rope; /* Llama; GPT-2: all 0 */
} base_shape;

/* What follows from the other fields, filled in: for GPT-2 kv_heads, head_size, the tied head and the biases;
 * for Llama kv_heads (= heads) and head_size (= width / heads) where they are 0. */
base_shape base_complete(base_shape shape);
bool base_same_shape(const base_shape *a, const base_shape *b);
const char *base_family_name(base_family_id family); /* "gpt2", "llama" */

/* "llama, 30 layers of width 576, 9 heads (3 of keys and values), MLP 1536, 49152 ids". Returns out. */
enum { BASE_TEXT_BYTES = 160 };
const char *base_describe(const base_shape *shape, char out[BASE_TEXT_BYTES]);

/* Columns of attention's output, of k (or v), of q, k and v, and of the MLP's first product. */
static inline int base_q_width(const base_shape *s) {
    return s->heads * s->head_size;
}
static inline int base_kv_width(const base_shape *s) {
    return s->kv_heads * s->head_size;
}
static inline int base_qkv_width(const base_shape *s) {
    return base_q_width(s) + 2 * base_kv_width(s);
}
static inline int base_fc_width(const base_shape *s) {
    return s->family == BASE_LLAMA ? 2 * s->ffn : s->ffn;
}

/* Offsets in floats of every tensor in the packed weights, each a multiple of CK_ALIGN_FLOATS; -1: the shape
 * has no such tensor. Linears are [out, in]. qkv has the rows of q, then k, then v; fc of a Llama the rows of
 * gate, then up. */
typedef struct {
    int64_t ln1_gain, ln1_bias, qkv_w, qkv_b, out_w, out_b, ln2_gain, ln2_bias, fc_w, fc_b, pr_w, pr_b;
} base_layer;
typedef struct {
    int64_t wte, wpe, lnf_gain, lnf_bias;
    int64_t head;      /* [vocabulary, width]; wte where the head is tied */
    int64_t rope;      /* [context, head_size / 2, 2]: cos, sin of base_rope; computed, in no checkpoint */
    base_layer layer0; /* of layer 0; layer l adds l * layer_stride */
    int64_t layer_stride, total;
} base_layout;

base_layout base_layout_of(const base_shape *shape);
/* Writes the table at layout.rope, if there is one, into packed weights. */
void base_fill_rope(const base_shape *shape, const base_layout *layout, float *weights);

typedef struct base_model {
    base_shape shape;
    base_layout layout;
    float *weights; /* [layout.total] host, owned */
} base_model;

void base_destroy(base_model *model);
/* Random weights as GPT-2 initialises them: N(0, 0.02), residual projections N(0, 0.02 / sqrt(2 L)), biases
 * 0, gains 1. */
exit_code base_random(const base_shape *shape, uint64_t seed, base_model **out, problems *list);
/* A Hugging Face folder: config.json, and model.safetensors or the files that model.safetensors.index.json
 * names (f32, f16 or bf16; names with or without the prefix "transformer." or "model."). Everything the
 * headers say is checked before a byte is used: bounds, overlaps, dtypes, shapes, missing and duplicate
 * tensors, NaN and Inf. */
exit_code base_load(const char *folder, base_model **out, problems *list);
/* What its config.json says, without the weights. */
exit_code base_load_shape(const char *folder, base_shape *out, problems *list);
/* Writes such a folder, whole or not at all (output_folder.h); transformers can load it. */
exit_code base_save(const base_model *model, const char *folder, problems *list);
/* Whether base_save() would take the folder: before a base is trained for it. */
exit_code base_check_place(const char *folder, problems *list);

#endif
