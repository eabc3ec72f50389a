/* peft_modules.h - a device's LoRAs as PEFT counts them: one for each linear of a layer. What an expert and
 * the LoRA that every token uses add to one linear is one LoRA there, with the ranks of both. */
#ifndef COHORT_PEFT_MODULES_H
#define COHORT_PEFT_MODULES_H

#include "base/safetensors.h"
#include "kernels.h"

typedef struct {
    ck_site site;
    int32_t layer, rank, in, out; /* rank: of all parts */
    int32_t n_parts;              /* 1, or 2: the expert's, then that of every token */
    ck_part a[2], b[2];
    int64_t at_a, at_b; /* offsets of A [rank, in] and B transposed [rank, out] in a buffer of all modules */
} peft_module;

typedef struct {
    peft_module *list; /* layer by layer; NULL: no memory */
    int count;
    int64_t floats; /* of the buffer */
} peft_modules;

/* Those of an expert, and of no expert; without a router. The caller frees the list. */
peft_modules peft_modules_of(const ck_shape *shape, int expert);

/* "attn.c_attn", "self_attn.q_proj", ...: of GPT-2, or of Llama where the MLP has a gate; NULL: there is no
 * such linear. */
const char *peft_module_name(const ck_shape *shape, ck_site site);
bool peft_is_gpt2(const ck_shape *shape);

/* Factor A or B of a module as a tensor of adapter_model.safetensors, placed in the buffer. */
packed_tensor peft_tensor(const ck_shape *shape, const peft_module *module, ck_factor factor);

/* The factor s of a part in W + s B A. */
float peft_scale_of(const ck_shape *shape, const ck_part *part);

#endif
