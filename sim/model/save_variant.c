#include "model/save_variant.h"

#include <stdlib.h>
#include <string.h>

static bool is_file(const char *path) {
    static const char ending[] = ".safetensors";
    size_t n = strlen(path), m = sizeof ending - 1;
    return n > m && strcmp(path + n - m, ending) == 0;
}

static exit_code find_population(const settings *s, const char *name, const population_settings **out,
                                 problems *list) {
    bool known = false;
    for (int i = 0; i < s->n_populations; i++) {
        *out = &s->populations[i];
        if (strcmp((*out)->name, name) != 0) continue;
        known = true;
        if ((*out)->variant) return EXIT_OK;
    }
    return problem(list, EXIT_INPUT,
                   known ? "%s: population '%.80s' has no base.variant; without --population the base itself "
                           "is written"
                         : "%s: has no population '%.80s'",
                   s->file, name);
}

exit_code save_variant_open(const settings *s, const char *population, const base_shape *shape,
                            const char *path, base_variant **out, problems *list) {
    const population_settings *p = NULL;
    *out = NULL;
    exit_code code = find_population(s, population, &p, list);
    THEN(code, is_file(path) ? EXIT_OK : base_check_place(path, list));
    return THEN(code, base_variant_open(p->variant, shape, out, list));
}

static exit_code save_linears(const base_variant *v, const base_model *base, const char *path,
                              problems *list) {
    float *values = calloc((size_t)base_variant_floats(v), sizeof *values);
    if (!values) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", path);
    exit_code code = base_variant_compare(v, base, list);
    for (int i = 0; i < base_variant_linears(v) && code == EXIT_OK; i++) {
        variant_place at = base_variant_place(v, i);
        code = base_variant_fold(v, base, i, at.weight >= 0 ? values + at.weight : NULL,
                                 at.bias >= 0 ? values + at.bias : NULL, list);
    }
    THEN(code, base_variant_write(v, values, path, list));
    free(values);
    return code;
}

exit_code save_variant(const base_variant *v, const base_model *base, const char *path, problems *list) {
    base_model *whole = NULL;
    if (is_file(path)) return save_linears(v, base, path, list);
    exit_code code = base_variant_whole(v, base, &whole, list);
    THEN(code, base_save(whole, path, list));
    base_destroy(whole);
    return code;
}
