#include "unit/base/variant_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "unit/checkpoints.h"

void variant_numbers(float *values, int64_t count, float scale, int seed) {
    for (int64_t i = 0; i < count; i++)
        values[i] = scale * sinf(0.37F * (float)(i + 1) * (float)(i + seed) + (float)seed);
}

written_pair variant_pair(const char *module, int rank, int64_t in, int64_t out, int seed) {
    written_pair p = {module,
                      rank,
                      in,
                      out,
                      malloc((size_t)(rank * in) * sizeof(float)),
                      malloc((size_t)(rank * out) * sizeof(float))};
    variant_numbers(p.a, rank * in, 0.3F, seed);
    variant_numbers(p.b, rank * out, 0.2F, seed + 7);
    return p;
}

static void must(exit_code code, problems *list) {
    cr_assert_eq(code, EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
}

char *variant_file(const char *folder, const char *name, const written_tensor *tensors, int n) {
    packed_tensor *packed = calloc((size_t)n, sizeof *packed);
    char *path = path_in(folder, name);
    float *all = NULL;
    int64_t end = 0;
    for (int i = 0; i < n; i++) {
        int64_t count = tensors[i].rows * (tensors[i].columns ? tensors[i].columns : 1);
        all = realloc(all, (size_t)(end + count) * sizeof *all);
        memcpy(all + end, tensors[i].values, (size_t)count * sizeof *all);
        packed[i] = (packed_tensor){.n_dims = tensors[i].columns ? 2 : 1,
                                    .dims = {tensors[i].rows, tensors[i].columns},
                                    .offset = end};
        snprintf(packed[i].name, sizeof packed[i].name, "%s", tensors[i].name);
        end += count;
    }
    problems *list = problems_create();
    must(safetensors_write(path, packed, n, all, list), list);
    free(packed);
    free(all);
    return path;
}

char *variant_peft(const char *folder, const char *name, const char *config, const written_pair *pairs,
                   int n) {
    char(*names)[2][160] = calloc((size_t)n, sizeof *names);
    written_tensor *tensors = calloc((size_t)n, 2 * sizeof *tensors);
    char *path = path_in(folder, name);
    cr_assert_eq(mkdir(path, 0700), 0);
    for (int i = 0; i < n; i++) {
        for (int b = 0; b < 2; b++)
            snprintf(names[i][b], sizeof names[i][b], "base_model.model.%s.lora_%c.weight", pairs[i].module,
                     "AB"[b]);
        tensors[2 * i] = (written_tensor){names[i][0], pairs[i].rank, pairs[i].in, pairs[i].a};
        tensors[2 * i + 1] = (written_tensor){names[i][1], pairs[i].out, pairs[i].rank, pairs[i].b};
    }
    free(variant_file(path, "adapter_model.safetensors", tensors, 2 * n));
    char *config_path = path_in(path, "adapter_config.json");
    write_text(config_path, config);
    free(config_path);
    free(names);
    free(tensors);
    return path;
}
