/* source.c - where a configuration comes from: a file, and the --set overrides that are applied to its tree.
 */
#define _GNU_SOURCE 1 /* memmem */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/tree.h"
#include "config/yaml.h"

enum { MAX_FILE_BYTES = 16 << 20 };

/* Everything up to MAX_FILE_BYTES + 1 bytes, of a file or a pipe (owned). */
static char *read_all(FILE *file, size_t *bytes) {
    size_t room = 65536, wanted;
    char *text = NULL;
    *bytes = 0;
    do {
        text = config_memory(realloc(text, room));
        wanted = (room > MAX_FILE_BYTES ? MAX_FILE_BYTES + 1 : room) - *bytes;
        size_t got = fread(text + *bytes, 1, wanted, file);
        *bytes += got;
        if (got < wanted) break;
        room *= 2;
    } while (*bytes <= MAX_FILE_BYTES);
    return text;
}

char *settings_read(const char *path, size_t *bytes, problems *list) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        problem(list, EXIT_INPUT, "%s: cannot open the configuration: %s; give the path of a YAML file", path,
                strerror(errno));
        return NULL;
    }
    char *text = read_all(file, bytes);
    if (ferror(file))
        problem(list, EXIT_INPUT, "%s: cannot read the configuration: %s; give the path of a YAML file", path,
                strerror(errno));
    else if (*bytes > MAX_FILE_BYTES)
        problem(list, EXIT_INPUT, "%s: larger than 16 MiB; a configuration is a small YAML file", path);
    else
        goto cleanup;
    free(text);
    text = NULL;
cleanup:
    fclose(file);
    return text;
}

node *tree_parse(const char *path, const char *text, size_t bytes, problems *list) {
    node *tree = yaml_parse(text, bytes, path, true, "configuration", list);
    if (tree && tree->kind != NODE_MAP) {
        problem_at(list, tree->where, "configuration",
                   "starts with a %s; it must be a map of keys (seed, base, data, train, populations, ...)",
                   tree->kind == NODE_LIST ? "list" : "single value");
        tree_destroy(tree);
        return NULL;
    }
    return tree;
}

static node_entry *entry_of(node *map, const char *key) {
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->entries[i].key, key) == 0) return &map->entries[i];
    return NULL;
}

static node_entry *add_entry(node *map, const char *key, place where) {
    map->entries = config_memory(realloc(map->entries, (size_t)(map->count + 1) * sizeof *map->entries));
    node_entry *entry = &map->entries[map->count++];
    *entry = (node_entry){.key = config_text(key), .where = where};
    return entry;
}

/* The entry of a map whose key begins the rest of the path, however many dots the key has; NULL: none. */
static node_entry *dotted_entry(node *map, const char *step, char **rest) {
    for (int i = 0; *rest && map->kind == NODE_MAP && i < map->count; i++) {
        const char *key = map->entries[i].key;
        size_t first = strlen(step), n = strlen(key);
        if (n <= first || strncmp(key, step, first) != 0 || key[first] != '.') continue;
        const char *more = key + first + 1;
        size_t length = strlen(more);
        if (strncmp(*rest, more, length) != 0 || ((*rest)[length] != '\0' && (*rest)[length] != '.'))
            continue;
        *rest = (*rest)[length] ? *rest + length + 1 : NULL;
        return &map->entries[i];
    }
    return NULL;
}

/* The entry that one step of the path names, made if a map lacks it. NULL after reporting. */
static node_entry *step_into(node *from, const char *step, const char *path, place where, problems *list) {
    if (from->kind == NODE_MAP) {
        node_entry *entry = entry_of(from, step);
        return entry ? entry : add_entry(from, step, where);
    }
    if (from->kind == NODE_SCALAR) {
        problem_at(list, where, path,
                   "'%s' is looked for inside a single value; only maps and lists have parts", step);
        return NULL;
    }
    char *end = NULL;
    long index = strtol(step, &end, 10);
    bool is_index = step[0] >= '0' && step[0] <= '9' && *end == '\0';
    if (is_index && index < from->count) return &from->entries[index];
    problem_at(list, where, path, "'%s' does not name an entry of the list; it has %d (count from 0)", step,
               from->count);
    return NULL;
}

static void assign(node *tree, char *path, const char *full_path, node *value, problems *list) {
    place where = {.source = "--set"};
    node_entry *entry = NULL;
    char *rest = path;
    do {
        node *from = entry ? entry->value : tree;
        const char *step = strsep(&rest, ".");
        node_entry *dotted = dotted_entry(from, step, &rest);
        entry = dotted ? dotted : step_into(from, step, full_path, where, list);
        if (!entry) goto failed;
        if (!entry->value && rest) {
            entry->value = config_memory(calloc(1, sizeof *entry->value));
            *entry->value = (node){.kind = NODE_MAP, .where = where};
        }
    } while (rest);
    tree_destroy(entry->value);
    entry->value = value;
    entry->where = where;
    return;
failed:
    tree_destroy(value);
}

void tree_override(node *tree, const char *assignment, problems *list) {
    const char *equals = strchr(assignment, '=');
    size_t length = equals ? (size_t)(equals - assignment) : 0;
    if (length == 0 || assignment[0] == '.' || equals[-1] == '.' || memmem(assignment, length, "..", 2)) {
        problem(list, EXIT_INPUT,
                "--set %s: not of the form key.path=value; write for example --set train.rounds=5",
                assignment);
        return;
    }
    char *path = config_memory(strndup(assignment, length));
    char *steps = config_text(path);
    if (equals[1] == '\0')
        problem(list, EXIT_INPUT,
                "--set %s: there is no value after the equals sign; write for example --set train.rounds=5",
                path);
    else {
        node *value = yaml_parse(equals + 1, strlen(equals + 1), "--set", false, path, list);
        if (value) assign(tree, steps, path, value, list);
    }
    free(steps);
    free(path);
}
