/* peft.h - an expert as a folder that PEFT (Hugging Face) loads onto the same base:
 *
 *   adapter_model.safetensors   base_model.model.transformer.h.<l>.<module>.lora_{A,B}.weight
 *       A [r, in], B [out, r]
 *   adapter_config.json         r, lora_alpha, use_rslora, target_modules, rank_pattern, fan_in_fan_out
 *                               (GPT-2's Conv1D)
 *
 *   module             A, B of        where
 *   attn.c_attn        qkv            the device has attention LoRA: it is shared by all experts,
 *       so every expert's folder holds it
 *   attn.c_proj        out
 *   mlp.c_fc           expert fc
 *   mlp.c_proj         expert proj
 *
 * One folder is what the device computes if its gates are 1 for this expert and 0 for all others; a device
 * with one expert is its folder. The gates of several experts come from the router, which no PEFT folder can
 * hold: it is written beside them. */
#ifndef COHORT_PEFT_H
#define COHORT_PEFT_H

#include "kernels.h"
#include "settings/settings.h"
#include "support/problems.h"

/* Writes both files into `folder`, which exists. base: what the configuration should name as the base model,
 * or NULL. */
exit_code peft_write(const char *folder, const ck_shape *shape, int expert, const experts_settings *scaling,
                     const char *base, const float *pack, problems *list);
/* Writes router.safetensors, layer.<l>.router [E, D], experts in the order generalists, specialists; nothing
 * without a router. */
exit_code peft_write_router(const char *folder, const ck_shape *shape, const float *pack, problems *list);

#endif
