/* shards.h - the safetensors files of one checkpoint: model.safetensors, or else those that
 * model.safetensors.index.json names ({"weight_map": {TENSOR: FILE, ...}}). */
#ifndef COHORT_BASE_SHARDS_H
#define COHORT_BASE_SHARDS_H

#include "base/safetensors.h"

typedef struct {
    char *path_owned; /* of the one file or the index, for messages */
    int n;
    safetensors **files_owned;
} shards;

/* Opens and checks all of them; that the index and the files agree on which tensor is where. On failure
 * nothing is left open. */
exit_code shards_open(const char *folder, shards *out, problems *list);
/* The same of one file, whatever it is called. */
exit_code shards_open_file(const char *path, shards *out, problems *list);
void shards_close(shards *s);

/* NULL: in none; *file: the one that has it (file may be NULL). */
const safetensor *shards_find(const shards *s, const char *name, const safetensors **file);
/* safetensors_check() and safetensors_read() over all files. */
exit_code shards_check(const shards *s, const packed_tensor *tensors, int n_tensors,
                       bool (*ignored)(const char *name), problems *list);
exit_code shards_read(const shards *s, const packed_tensor *tensors, int n_tensors, float *pack,
                      problems *list);

#endif
