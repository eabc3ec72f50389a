/* adapters.h - the adapters of one device as a safetensors file, so that another program can start from the
 * same numbers or compare.
 *
 * A folder holds one file per device, adapters_<population>_<device>.safetensors, both counted from 0 in the
 * run's order. Tensors have PyTorch's orientation ([out, in]; PEFT's lora_A is [r, in], lora_B [out, r]);
 * generalists come first:
 *
 *   layer.<l>.attention.<site>.A [r, in]   layer.<l>.attention.<site>.B [out, r]
 *       where a LoRA is at q, k, v,
 *                                                                                  qkv or out
 *   layer.<l>.mlp.<site>.A [r, in]         layer.<l>.mlp.<site>.B [out, r]
 *       where a LoRA of no expert is
 *                                                                                  at gate, fc or proj
 *   layer.<l>.router               [E, D]                                          where the shape has a
 *       router
 *   layer.<l>.router.out           [E, E]                                          its second matrix,
 *       where it
 *                                                                                  has a hidden layer
 *   layer.<l>.expert.<e>.fc.A [r_e, D]     layer.<l>.expert.<e>.fc.B [F, r_e]      with SwiGLU also of gate
 *   layer.<l>.expert.<e>.proj.A [r_e, F]   layer.<l>.expert.<e>.proj.B [D, r_e]
 *   tied.attention.<site>.A, .B, .vector [out]; tied.mlp.<site>...                  what all layers share
 */
#ifndef COHORT_ADAPTERS_H
#define COHORT_ADAPTERS_H

#include "base/safetensors.h"
#include "kernels.h"
#include "support/problems.h"

/* The path of a device's file (malloc'd), NULL without memory. */
char *adapters_path(const char *folder, int population, int device);

/* A part as a tensor of a file, in PyTorch's orientation and still without a name. */
packed_tensor packed_part(const ck_part *part);
/* The name above. */
void adapters_name_part(const ck_part *part, size_t bytes, char *out);

/* Fills a pack of shape->total floats (host); what lies between tensors becomes 0. Missing and unexpected
 * tensors, wrong shapes and values that are not finite are all reported. F32, F16 and BF16 are read. */
exit_code adapters_read(const char *path, const ck_shape *shape, float *pack, problems *list);
/* Writes F32, atomically. */
exit_code adapters_write(const char *path, const ck_shape *shape, const float *pack, problems *list);

#endif
