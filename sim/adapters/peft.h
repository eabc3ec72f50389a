/* peft.h - folders that PEFT (Hugging Face) loads onto the same base, out and in:
 *
 *   adapter_model.safetensors   base_model.model.<layers>.<l>.<module>.lora_{A,B}.weight
 *       A [r, in], B [out, r]
 *   adapter_config.json         r, lora_alpha, use_rslora, target_modules, rank_pattern, alpha_pattern,
 *                               fan_in_fan_out (GPT-2's Conv1D)
 *
 *   site   GPT-2: transformer.h    Llama: model.layers
 *   Q, K, V                        self_attn.q_proj, self_attn.k_proj, self_attn.v_proj
 *   QKV    attn.c_attn
 *   OUT    attn.c_proj             self_attn.o_proj
 *   GATE                           mlp.gate_proj
 *   FC     mlp.c_fc                mlp.up_proj
 *   PR     mlp.c_proj              mlp.down_proj
 *
 * A folder is an expert, with the LoRAs that every token uses: what the device computes if its gates are 1
 * for this expert and 0 for all others; a device with one expert, or with none, is its folder. Where both
 * change one linear they are one LoRA with the ranks of both, whose factor B takes up the difference of their
 * scales. The gates of several experts come from the router, which no PEFT folder can hold, nor what all
 * layers share: they are written beside the folders. */
#ifndef COHORT_PEFT_H
#define COHORT_PEFT_H

#include "kernels.h"
#include "settings/settings.h"
#include "support/problems.h"

/* The name of an expert's folder in its device's: "generalist0", "specialist1", or "lora" of a device without
 * experts. */
enum { PEFT_NAME_BYTES = 32 };
const char *peft_folder_name(int generalists, int experts, int expert, char name[PEFT_NAME_BYTES]);

/* Whether such a folder holds anything: not of an expert of rank 0 on a device whose layers have no LoRA. */
bool peft_has_lora(const ck_shape *shape, int expert);
/* Writes both files into `folder`, which exists. expert: -1 to n_experts - 1. base: what the configuration
 * should name as the base model, or NULL. */
exit_code peft_write(const char *folder, const ck_shape *shape, int expert, const experts_settings *experts,
                     const lora_settings *lora, const char *base, const float *pack, problems *list);
/* Writes what no PEFT folder can hold, with the names of adapters.h: router.safetensors, layer.<l>.router [E,
 * D] (and layer.<l>.router.out [E, E]), experts in the order generalists, specialists; tied.safetensors, what
 * all layers share. Neither where the shape has none. */
exit_code peft_write_beside(const char *folder, const ck_shape *shape, const float *pack, problems *list);

/* Whether a folder is PEFT's: it has an adapter_config.json. */
bool peft_is_folder(const char *folder);
/* Into the parts of the expert and of the LoRAs that every token uses, in a pack of shape->total floats
 * (host); the others stay as they are. Where the folder's scale (lora_alpha and rank) is not the device's, B
 * takes up the difference. Refused, with names and shapes: what PEFT adds beside LoRA (bias, DoRA, whole
 * modules), other modules than those that have a LoRA here, other ranks, and the adapter of another base. */
exit_code peft_read(const char *folder, const ck_shape *shape, int expert, float *pack, problems *list);
/* These files of a folder, those that are there and that the shape has parts for. */
exit_code peft_read_beside(const char *folder, const ck_shape *shape, float *pack, problems *list);

#endif
