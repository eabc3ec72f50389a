/* A device's pack <-> named tensors. */
#include "adapters/adapters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    packed_tensor *tensors;
    int count;
} tensor_list;

packed_tensor packed_part(const ck_part *part) {
    if (part->factor == CK_FACTOR_VECTOR)
        return (packed_tensor){.n_dims = 1, .dims = {part->columns}, .offset = part->offset};
    if (part->factor == CK_FACTOR_B)
        return (packed_tensor){
            .n_dims = 2, .dims = {part->columns, part->rows}, .offset = part->offset, .transposed = true};
    return (packed_tensor){.n_dims = 2, .dims = {part->rows, part->columns}, .offset = part->offset};
}

void adapters_name_part(const ck_part *part, size_t bytes, char *out) {
    const char *site = ck_site_name(part->site), *mlp = ck_is_of_mlp(part->site) ? "mlp." : "",
               factor = part->factor == CK_FACTOR_A ? 'A' : 'B';
    if (part->factor == CK_FACTOR_VECTOR)
        snprintf(out, bytes, "tied.%s%s.vector", mlp, site);
    else if (part->adapter == CK_TIED)
        snprintf(out, bytes, "tied.%s%s.%c", mlp, site, factor);
    else if (part->factor == CK_FACTOR_ROUTER)
        snprintf(out, bytes, "layer.%d.%s", part->layer, site);
    else if (part->expert >= 0)
        snprintf(out, bytes, "layer.%d.expert.%d.%s.%c", part->layer, part->expert, site, factor);
    else
        snprintf(out, bytes, "layer.%d.%s%s.%c", part->layer, mlp, site, factor);
}

static bool list_tensors(const ck_shape *s, tensor_list *list) {
    *list = (tensor_list){.tensors = malloc((size_t)ck_part_count(s) * sizeof *list->tensors)};
    for (int32_t i = 0; list->tensors && i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        packed_tensor *t = &list->tensors[list->count++];
        *t = packed_part(&part);
        adapters_name_part(&part, sizeof t->name, t->name);
    }
    return list->tensors != NULL;
}

char *adapters_path(const char *folder, int population, int device) {
    char *path;
    return asprintf(&path, "%s/adapters_%d_%d.safetensors", folder, population, device) < 0 ? NULL : path;
}

/* On success the caller closes the file and frees the tensors; on failure there is nothing to free. */
static exit_code open_checked(const char *path, const ck_shape *shape, safetensors **file,
                              tensor_list *tensors, problems *list) {
    *file = NULL;
    if (!list_tensors(shape, tensors))
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", path);
    exit_code code = safetensors_open(path, file, list);
    if (!code) code = safetensors_check(*file, tensors->tensors, tensors->count, NULL, list);
    if (!code) return EXIT_OK;
    safetensors_close(*file);
    free(tensors->tensors);
    return code;
}

exit_code adapters_read(const char *path, const ck_shape *shape, float *pack, problems *list) {
    safetensors *file;
    tensor_list tensors;
    exit_code code = open_checked(path, shape, &file, &tensors, list);
    if (code) return code;
    memset(pack, 0, (size_t)shape->total * sizeof *pack);
    code = safetensors_read(file, tensors.tensors, tensors.count, pack, list);
    safetensors_close(file);
    free(tensors.tensors);
    return code;
}

exit_code adapters_write(const char *path, const ck_shape *shape, const float *pack, problems *list) {
    tensor_list tensors;
    if (!list_tensors(shape, &tensors))
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", path);
    exit_code code = safetensors_write(path, tensors.tensors, tensors.count, pack, list);
    free(tensors.tensors);
    return code;
}
