#include "command/sweep_file.h"

#ifndef COHORT_YAML

exit_code sweep_file_read(const char *path, int most, sweep *sweeps, int *n, problems *list) {
    (void)most;
    (void)sweeps;
    *n = 0;
    return problem(list, EXIT_ENVIRONMENT,
                   "--sweep %s: this cohort-bench was built without libyaml; give the axes as options", path);
}

#else

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum { WHERE_BYTES = 512 };

static exit_code set_one(sweep *s, const char *path, const char *key, const yaml_node_t *value,
                         problems *list) {
    char where[WHERE_BYTES];
    snprintf(where, sizeof where, "%s:%zu: ", path, value->start_mark.line + 1);
    if (value->type != YAML_SCALAR_NODE)
        return problem(list, EXIT_INPUT, "%s%s must be a value or a list of values", where, key);
    return sweep_set(s, where, key, (const char *)value->data.scalar.value, list);
}

/* "ranks" is one value of the axis rank: its list is handed over as a whole. */
static exit_code set_ranks(sweep *s, const char *path, yaml_document_t *document, const yaml_node_t *value,
                           problems *list) {
    char where[WHERE_BYTES], text[256] = "";
    snprintf(where, sizeof where, "%s:%zu: ", path, value->start_mark.line + 1);
    for (yaml_node_item_t *i = value->data.sequence.items.start; i < value->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(document, *i);
        size_t at = strlen(text);
        if (item->type != YAML_SCALAR_NODE)
            return problem(list, EXIT_INPUT, "%sranks must be a list of numbers", where);
        snprintf(text + at, sizeof text - at, "%s%s", at ? "," : "", (const char *)item->data.scalar.value);
    }
    return sweep_set(s, where, "ranks", text, list);
}

static exit_code set_pair(sweep *s, const char *path, yaml_document_t *document, const yaml_node_pair_t *pair,
                          problems *list) {
    const yaml_node_t *name = yaml_document_get_node(document, pair->key),
                      *value = yaml_document_get_node(document, pair->value);
    if (name->type != YAML_SCALAR_NODE)
        return problem(list, EXIT_INPUT, "%s:%zu: a key must be the name of an axis", path,
                       name->start_mark.line + 1);
    const char *key = (const char *)name->data.scalar.value;
    if (value->type != YAML_SEQUENCE_NODE) return set_one(s, path, key, value, list);
    if (strcmp(key, "ranks") == 0) return set_ranks(s, path, document, value, list);
    exit_code code = EXIT_OK;
    for (yaml_node_item_t *i = value->data.sequence.items.start;
         i < value->data.sequence.items.top && code == EXIT_OK; i++)
        code = set_one(s, path, key, yaml_document_get_node(document, *i), list);
    return code;
}

static exit_code read_document(const char *path, yaml_document_t *document, int most, sweep *sweeps, int *n,
                               problems *list) {
    const yaml_node_t *root = yaml_document_get_root_node(document);
    if (!root || root->type != YAML_SEQUENCE_NODE)
        return problem(list, EXIT_INPUT, "%s: must be a list of sweeps", path);
    exit_code code = EXIT_OK;
    for (yaml_node_item_t *i = root->data.sequence.items.start;
         i < root->data.sequence.items.top && code == EXIT_OK; i++) {
        const yaml_node_t *map = yaml_document_get_node(document, *i);
        size_t line = map->start_mark.line + 1;
        if (*n == most)
            return problem(list, EXIT_INPUT, "%s:%zu: at most %d sweeps are possible", path, line, most);
        if (map->type != YAML_MAPPING_NODE)
            return problem(list, EXIT_INPUT, "%s:%zu: a sweep is a mapping from axes to values", path, line);
        sweeps[*n] = (sweep){0};
        for (yaml_node_pair_t *p = map->data.mapping.pairs.start;
             p < map->data.mapping.pairs.top && code == EXIT_OK; p++)
            code = set_pair(&sweeps[*n], path, document, p, list);
        (*n)++;
    }
    return code == EXIT_OK && *n == 0 ? problem(list, EXIT_INPUT, "%s: holds no sweep", path) : code;
}

exit_code sweep_file_read(const char *path, int most, sweep *sweeps, int *n, problems *list) {
    yaml_parser_t parser;
    yaml_document_t document;
    *n = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return problem(list, EXIT_INPUT, "--sweep %s: %s", path, strerror(errno));
    exit_code code = EXIT_OK;
    if (!yaml_parser_initialize(&parser)) {
        fclose(file);
        return problem(list, EXIT_ENVIRONMENT, "--sweep %s: out of memory", path);
    }
    yaml_parser_set_input_file(&parser, file);
    if (yaml_parser_load(&parser, &document)) {
        code = read_document(path, &document, most, sweeps, n, list);
        yaml_document_delete(&document);
    } else
        code = problem(list, EXIT_INPUT, "%s:%zu: %s", path, parser.problem_mark.line + 1,
                       parser.problem ? parser.problem : "no YAML");
    yaml_parser_delete(&parser);
    fclose(file);
    return code;
}

#endif
