/* check_parameters.c - keys of one split or one method, where nothing reads them. */
#include <stdio.h>
#include <string.h>

#include "config/populations.h"
#include "data/split.h"
#include "methods/method.h"

static void report(const level *of, const char *path, const char *message) {
    char label[MAX_KEY];
    level_label(of, path, label);
    problem_at(of->list, level_place(of, path), label, "%s", message);
}

/* Without any population, of which something else was said, none is missed. */
static bool has_population_of_split(const settings *s, int index) {
    if (s->n_populations == 0) return true;
    for (int i = 0; i < s->n_populations; i++)
        if (s->populations[i].data.split == index) return true;
    return false;
}

/* A split's parameter where no population can read it. */
static void check_splits(const settings *s, const level *of) {
    char message[256];
    for (int i = 0; i < split_count(); i++) {
        const char *key = split_at(i)->parameter;
        bool is_read = of->run ? has_population_of_split(s, i) : of->defaults->data.split == i;
        if (!key || is_read || !level_has(of, key)) continue;
        snprintf(message, sizeof message,
                 "is of data.split %s, but the split is %s; write data.split: %s, or remove this key",
                 split_name(i), split_name(of->defaults->data.split), split_name(i));
        report(of, key, message);
    }
}

static bool has_population_of_method(const settings *s, const char *name) {
    for (int i = 0; i < s->n_populations; i++)
        if (s->populations[i].method && strcmp(s->populations[i].method, name) == 0) return true;
    return false;
}

/* A method's parameter where no population can read it. */
static void check_method_parameters(const settings *s, const level *of) {
    char message[256];
    int count = 0;
    const method *const *methods = method_list(&count);
    for (int i = 0; i < count; i++) {
        const char *key = methods[i]->parameter, *name = methods[i]->name, *own = of->defaults->method;
        bool is_read = of->run ? has_population_of_method(s, name) : !own || strcmp(own, name) == 0;
        if (!key || is_read || !level_has(of, key)) continue;
        snprintf(message, sizeof message,
                 "is of the method %s, but %s%.80s; write method: %s, or remove this key", name,
                 of->run ? "no population has it" : "the method is ", of->run ? "" : own, name);
        report(of, key, message);
    }
}

/* data.sources where no population has devices with a source of their own. */
static void check_sources(const settings *s, const level *of) {
    char message[256], names[96] = "";
    bool is_read = split_of(&of->defaults->data)->has_own;
    if (!level_has(of, "data.sources")) return;
    for (int i = 0; of->run && i < s->n_populations; i++)
        is_read = is_read || split_of(&s->populations[i].data)->has_own;
    if (is_read) return;
    for (int i = 0, used = 0; i < split_count(); i++)
        if (split_at(i)->has_own)
            used +=
                snprintf(names + used, sizeof names - (size_t)used, "%s%s", used ? ", " : "", split_name(i));
    snprintf(message, sizeof message,
             "devices have no source of their own in the split %s, but in %s; change data.split, or remove "
             "this key",
             split_name(of->defaults->data.split), names);
    report(of, "data.sources", message);
}

void check_parameters(const settings *s, const level *of) {
    check_splits(s, of);
    check_method_parameters(s, of);
    check_sources(s, of);
}
