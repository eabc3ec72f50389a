/* base_model -> a Hugging Face folder. Where an earlier base stands in it, that has gone before the new
 * one comes. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/tensors.h"
#include "support/output_folder.h"
#include "support/writable.h"

static const char *const files[] = {"model.safetensors", "config.json"};
enum { FILES = 2 };

/* Only a folder that holds nothing but an earlier base may be replaced. */
static exit_code check_replaceable(const char *folder, problems *list) {
    exit_code code = EXIT_OK;
    DIR *entries = opendir(folder);
    if (!entries && errno == ENOENT) return EXIT_OK;
    if (!entries)
        return problem(list, EXIT_INPUT, "%s: a base cannot be saved there: %s", folder, strerror(errno));
    for (struct dirent *e = readdir(entries); e && !code; e = readdir(entries)) {
        bool ours = folder_is_nothing(e->d_name);
        for (int i = 0; i < FILES; i++) ours |= !strcmp(e->d_name, files[i]);
        if (!ours)
            code = problem(list, EXIT_INPUT,
                           "%s: holds other files than a base; name a new or an empty folder", folder);
    }
    closedir(entries);
    return code;
}

exit_code base_check_place(const char *folder, problems *list) {
    exit_code code = writable_check(folder, "a base", list);
    return THEN(code, check_replaceable(folder, list));
}

static exit_code write_files(const base_model *model, const char *folder, problems *list) {
    char weights[OUTPUT_PATH_BYTES + 32], config[OUTPUT_PATH_BYTES + 32];
    packed_tensor *tensors =
        base_tensor_list(&model->shape, &model->layout, base_family_of(model->shape.family)->prefix);
    if (!tensors) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to save a base", folder);
    snprintf(weights, sizeof weights, "%s/%s", folder, files[0]);
    snprintf(config, sizeof config, "%s/%s", folder, files[1]);
    exit_code code =
        safetensors_write(weights, tensors, base_tensor_count(&model->shape), model->weights, list);
    free(tensors);
    return THEN(code, base_config_write(config, &model->shape, list));
}

exit_code base_save(const base_model *model, const char *folder, problems *list) {
    output_folder out;
    exit_code code = base_check_place(folder, list);
    THEN(code, output_folder_begin(folder, &out, list));
    if (code != EXIT_OK) return code;
    out.replaces = true;
    return output_folder_end(&out, write_files(model, out.work, list), list);
}
