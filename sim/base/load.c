/* A Hugging Face folder -> base_model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shards.h"
#include "base/tensors.h"

static const char head_name[] = "lm_head.weight";

/* A tied head that is there all the same must be the embedding, bit for bit. */
static exit_code check_tied_head(const shards *s, const char *wte_name, problems *list) {
    const safetensors *file = NULL, *wte_file = NULL;
    const safetensor *head = shards_find(s, head_name, &file), *wte = shards_find(s, wte_name, &wte_file);
    bool same = false;
    if (!head || !wte) return EXIT_OK;
    exit_code code = safetensors_same_data(file, head, wte_file, wte, &same, list);
    if (code || same) return code;
    return problem(list, EXIT_INPUT,
                   "%s: tensor \"%s\" differs from \"%s\", but config.json says that the head is tied to the "
                   "embedding",
                   safetensors_path(file), head_name, wte_name);
}

/* The family's prefix, if the first tensor is there with it, else "". */
static const char *prefix_of(const shards *s, const base_shape *shape, const base_layout *layout) {
    const char *prefix = base_family_of(shape->family)->prefix;
    packed_tensor first = base_tensor(shape, layout, prefix, 0, NULL);
    return shards_find(s, first.name, NULL) ? prefix : "";
}

static exit_code load_weights(const shards *s, const base_shape *shape, base_model **out, problems *list) {
    base_layout layout = base_layout_of(shape);
    int n = base_tensor_count(shape);
    packed_tensor *tensors = base_tensor_list(shape, &layout, prefix_of(s, shape, &layout));
    if (!tensors)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory for a list of %d tensors", s->path_owned, n);
    exit_code code = shards_check(s, tensors, n, base_family_of(shape->family)->may_be_there, list);
    exit_code head = shape->tied_head ? check_tied_head(s, tensors[0].name, list) : EXIT_OK;
    if (!code) code = head;
    if (!code) code = base_create(shape, out, list);
    if (!code) code = shards_read(s, tensors, n, (*out)->weights, list);
    if (code) {
        base_destroy(*out);
        *out = NULL;
    }
    free(tensors);
    return code;
}

exit_code base_load_shape(const char *folder, base_shape *out, problems *list) {
    char *path = NULL;
    if (asprintf(&path, "%s/config.json", folder) < 0)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory", folder);
    exit_code code = base_config_read(path, out, list);
    free(path);
    return code;
}

exit_code base_load(const char *folder, base_model **out, problems *list) {
    base_shape shape;
    shards files;
    *out = NULL;
    exit_code code = base_load_shape(folder, &shape, list);
    exit_code opened = shards_open(folder, &files, list);
    if (!code) code = opened;
    if (!code) code = load_weights(&files, &shape, out, list);
    if (!opened) shards_close(&files);
    return code;
}
