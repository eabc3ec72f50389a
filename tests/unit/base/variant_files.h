/* variant_files.h - PEFT folders and files of linears for the tests of base variants. */
#ifndef COHORT_TEST_VARIANT_FILES_H
#define COHORT_TEST_VARIANT_FILES_H

#include "base/variant.h"

/* Values that are different everywhere. */
void variant_numbers(float *values, int64_t count, float scale, int seed);

/* A module with its factors: a [rank, in], b [out, rank], owned. */
typedef struct {
    const char *module;
    int rank;
    int64_t in, out;
    float *a, *b;
} written_pair;
written_pair variant_pair(const char *module, int rank, int64_t in, int64_t out, int seed);

/* Makes FOLDER/NAME with adapter_model.safetensors and adapter_config.json; returns its path (malloc'd). */
char *variant_peft(const char *folder, const char *name, const char *config, const written_pair *pairs,
                   int n);

/* A file of tensors, all of the same packed array. */
typedef struct {
    const char *name;
    int64_t rows, columns; /* columns 0: a vector */
    const float *values;
} written_tensor;
char *variant_file(const char *folder, const char *name, const written_tensor *tensors, int n);

#endif
