#include "model/obtain_base.h"

#include <stdio.h>
#include <string.h>

#include "base/family.h"
#include "config/config.h"
#include "model/pretrain.h"
#include "support/cache.h"
#include "support/output_folder.h"
#include "support/progress.h"

static exit_code load_cached(const settings *s, const char *path, base_model **model, problems *list) {
    const base_shape expected = pretrain_shape(s);
    exit_code code = base_load(path, model, list);
    if (code != EXIT_OK)
        return problem(list, code,
                       "%s is a base that was made before and cannot be read; remove it to make it anew",
                       path);
    if (base_same_shape(&(*model)->shape, &expected)) return EXIT_OK;
    base_destroy(*model);
    *model = NULL;
    return problem(
        list, EXIT_INPUT,
        "%s is a base that was made before, and its config.json has been changed; remove it to make it anew",
        path);
}

/* A base that cannot be kept is no reason to stop: the run has it in memory. Another run may have kept the
 * same base meanwhile, and others may be reading it. */
static void keep(const base_model *model, const char *folder, const char *path, bool quiet) {
    if (folder_is_there(path)) return;
    problems *list = problems_create();
    exit_code code = folder_create(folder, list);
    THEN(code, base_save(model, path, list));
    if (code != EXIT_OK && problems_count(list) > 0)
        progress_note(quiet, "the base is not kept for the next run: %s", problems_message(list, 0));
    problems_destroy(list);
}

/* Where a base that was made before is kept, under the hash of its settings. */
static bool cached_base(const settings *s, char path[FOLDER_PATH_BYTES]) {
    char hash[SETTINGS_HASH_BYTES], name[64];
    settings_base_hash(s, hash);
    snprintf(name, sizeof name, "bases/%s", hash);
    return cache_path(name, path);
}

bool run_trains_base(const settings *s) {
    char path[FOLDER_PATH_BYTES];
    return !s->base.checkpoint && s->base.pretrain.tokens > 0 &&
           !(cached_base(s, path) && folder_is_there(path));
}

static exit_code check_checkpoint(const settings *s, problems *list) {
    if (folder_is_there(s->base.checkpoint)) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "there is no folder %s; it must be a model as Hugging Face publishes it, with config.json "
                   "and model.safetensors",
                   s->base.checkpoint);
}

/* A described base is as long as its windows; one that is given says itself how long it is. */
static exit_code check_context(const settings *s, const base_shape *shape, problems *list) {
    int before = problems_count(list);
    if (s->data.sequence <= shape->context) return EXIT_OK;
    exit_code code = problem(list, EXIT_INPUT,
                             "windows of %d tokens do not fit the base in %s, which knows %d positions "
                             "(%s in its config.json); "
                             "take at most %d",
                             s->data.sequence, s->base.checkpoint, shape->context,
                             base_family_of(shape->family)->context_key, shape->context);
    settings_prefix(s, "data.sequence", before, list);
    return code;
}

exit_code run_base_shape(const settings *s, base_shape *out, problems *list) {
    int before = problems_count(list);
    *out = pretrain_shape(s);
    if (!s->base.checkpoint) return EXIT_OK;
    exit_code code = check_checkpoint(s, list);
    THEN(code, base_load_shape(s->base.checkpoint, out, list));
    settings_prefix(s, "base.checkpoint", before, list);
    return THEN(code, check_context(s, out, list));
}

static exit_code load_checkpoint(const settings *s, base_model **model, problems *list) {
    int before = problems_count(list);
    exit_code code = check_checkpoint(s, list);
    THEN(code, base_load(s->base.checkpoint, model, list));
    settings_prefix(s, "base.checkpoint", before, list);
    return code;
}

exit_code run_read_base(const settings *s, base_model **model, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = EXIT_OK;
    *model = NULL;
    if (s->base.checkpoint)
        code = load_checkpoint(s, model, list);
    else if (s->base.pretrain.tokens > 0 && cached_base(s, path) && folder_is_there(path))
        code = load_cached(s, path, model, list);
    return code;
}

static exit_code from_settings(const settings *s, ck_backend *backend, bool quiet, base_model **model,
                               problems *list) {
    char folder[FOLDER_PATH_BYTES], path[FOLDER_PATH_BYTES];
    bool cached = s->base.pretrain.tokens > 0 && cache_path("bases", folder) && cached_base(s, path);
    if (cached && folder_is_there(path)) return load_cached(s, path, model, list);
    exit_code code = pretrain_base(s, backend, quiet, model, list);
    if (code == EXIT_OK && cached) keep(*model, folder, path, quiet);
    return code;
}

exit_code run_obtain_base(const settings *s, ck_backend *backend, bool quiet, const char *out,
                          base_model **model, problems *list) {
    *model = NULL;
    exit_code code = out ? base_check_place(out, list) : EXIT_OK;
    THEN(code, s->base.checkpoint ? load_checkpoint(s, model, list)
                                  : from_settings(s, backend, quiet, model, list));
    if (code == EXIT_OK && out) code = base_save(*model, out, list);
    if (code == EXIT_OK) return EXIT_OK;
    base_destroy(*model);
    *model = NULL;
    return code;
}
