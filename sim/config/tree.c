/* tree.c - libyaml's document, copied into nodes that remember where they were written. */
#include "config/tree.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *config_memory(void *allocated) {
    if (!allocated) abort();
    return allocated;
}

char *config_text(const char *text) {
    return text ? config_memory(strdup(text)) : NULL;
}

void problem_at(problems *list, place where, const char *key, const char *format, ...) {
    char *message = NULL;
    size_t bytes = 0;
    va_list arguments;
    FILE *out = config_memory(open_memstream(&message, &bytes));
    va_start(arguments, format);
    vfprintf(out, format, arguments);
    va_end(arguments);
    fclose(out);
    if (where.line > 0)
        problem(list, EXIT_INPUT, "%s:%d: %s: %s", where.source, where.line, key, message);
    else
        problem(list, EXIT_INPUT, "%s %s: %s", where.source, key, message);
    free(message);
}

void tree_destroy(node *tree) {
    if (!tree) return;
    for (int i = 0; i < tree->count; i++) {
        free(tree->entries[i].key);
        tree_destroy(tree->entries[i].value);
    }
    free(tree->entries);
    free(tree->text);
    free(tree);
}

const node *tree_get(const node *map, const char *key) {
    for (int i = 0; map && map->kind == NODE_MAP && i < map->count; i++)
        if (strcmp(map->entries[i].key, key) == 0) return map->entries[i].value;
    return NULL;
}

bool node_is_null(const node *scalar) {
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    if (scalar->kind != NODE_SCALAR || scalar->quoted) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(scalar->text, words[i]) == 0) return true;
    return false;
}
