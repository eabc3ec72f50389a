/* peft_lora.h - the LoRA of a PEFT folder (adapter_config.json, adapter_model.safetensors) as it stands
 * there: pairs of factors, by the module that they change. What they mean to a base is the reader's business.
 */
#ifndef COHORT_BASE_PEFT_LORA_H
#define COHORT_BASE_PEFT_LORA_H

#include <stdbool.h>

#include "base/safetensors.h"
#include "support/problems.h"

/* W' = W + scale B A. */
typedef struct {
    char module[PACKED_NAME_BYTES]; /* "transformer.h.0.attn.c_attn" */
    const safetensor *a, *b;        /* [rank, in], [out, rank] */
    int rank;
    int64_t in, out;
    float scale; /* alpha / rank, or alpha / sqrt(rank) where the folder says rsLoRA */
} peft_pair;

typedef struct {
    safetensors *file_owned;
    int n;
    peft_pair *pairs_owned; /* [n] in the order of their names */
} peft_lora;

/* Whether the folder holds an adapter of PEFT. */
bool peft_lora_is_there(const char *folder);
/* Reports all that is wrong, and what Cohort does not support: DoRA, biases, whole modules beside the LoRA.
 */
exit_code peft_lora_open(const char *folder, peft_lora *out, problems *list);
void peft_lora_close(peft_lora *lora);
/* a [rank, in], b [rank, out] (the transpose of what the file has); NaN and Inf are refused. */
exit_code peft_lora_read(const peft_lora *lora, const peft_pair *pair, float *a, float *b, problems *list);

#endif
