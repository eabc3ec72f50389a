/* A Hugging Face GPT-2 folder -> base_model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/tensors.h"

static const char *const prefixed = "transformer.";

/* Causal masks that old checkpoints carry as buffers ("h.3.attn.bias"), and the head, which is compared with
 * wte elsewhere. */
static bool not_a_weight(const char *name) {
    int layer, end = -1;
    if (!strcmp(name, "lm_head.weight")) return true;
    if (!strncmp(name, prefixed, strlen(prefixed))) name += strlen(prefixed);
    if (sscanf(name, "h.%d.attn.%n", &layer, &end) < 1 || end < 0) return false;
    return !strcmp(name + end, "bias") || !strcmp(name + end, "masked_bias");
}

/* A head of its own would need a matrix of its own: it must be the embedding, bit for bit. */
static exit_code check_tied_head(const safetensors *file, const char *wte_name, problems *list) {
    const safetensor *head = safetensors_find(file, "lm_head.weight"),
                     *wte = safetensors_find(file, wte_name);
    if (!head || !wte) return EXIT_OK;
    if (head->dtype == wte->dtype && head->bytes == wte->bytes && !memcmp(head->data, wte->data, wte->bytes))
        return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: tensor \"lm_head.weight\" differs from \"%s\"; only models whose head is tied to the "
                   "embedding are supported",
                   safetensors_path(file), wte_name);
}

static exit_code load_weights(const safetensors *file, const base_shape *shape, base_model **out,
                              problems *list) {
    base_layout layout = base_layout_of(shape);
    int n = base_tensor_count(shape);
    packed_tensor *tensors =
        base_tensor_list(shape, &layout, safetensors_find(file, "transformer.wte.weight") ? prefixed : "");
    if (!tensors)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory for a list of %d tensors",
                       safetensors_path(file), n);
    exit_code code = safetensors_check(file, tensors, n, not_a_weight, list);
    exit_code head = check_tied_head(file, tensors[0].name, list);
    if (!code) code = head;
    if (!code) code = base_create(shape, out, list);
    if (!code) code = safetensors_read(file, tensors, n, (*out)->weights, list);
    if (code) {
        base_destroy(*out);
        *out = NULL;
    }
    free(tensors);
    return code;
}

static exit_code open_weights(const char *folder, const char *path, safetensors **out, problems *list) {
    if (access(path, F_OK) == 0) return safetensors_open(path, out, list);
    return problem(list, EXIT_INPUT,
                   "%s: has no model.safetensors; a GPT-2 folder of one such file and config.json is "
                   "expected (save_pretrained in transformers "
                   "writes one)",
                   folder);
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
    char *config_path = NULL, *weights_path = NULL;
    safetensors *file = NULL;
    exit_code code;
    *out = NULL;
    if (asprintf(&config_path, "%s/config.json", folder) < 0 ||
        asprintf(&weights_path, "%s/model.safetensors", folder) < 0) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory", folder);
        goto cleanup;
    }
    code = base_config_read(config_path, &shape, list);
    exit_code opened = open_weights(folder, weights_path, &file, list);
    if (!code) code = opened;
    if (!code) code = load_weights(file, &shape, out, list);
cleanup:
    safetensors_close(file);
    free(config_path);
    free(weights_path);
    return code;
}
