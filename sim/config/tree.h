/* tree.h - a YAML document as a tree of places: what was written, and where. Values are not interpreted here.
 */
#ifndef COHORT_TREE_H
#define COHORT_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "support/problems.h"

/* Where something was written: a line of a file, or (line 0) a `--set` on the command line. */
typedef struct {
    const char *source; /* the file's path or "--set"; borrowed */
    int line;           /* from 1 */
} place;

typedef enum { NODE_SCALAR, NODE_LIST, NODE_MAP } node_kind;

typedef struct node node;
typedef struct {
    char *key; /* NULL in lists */
    place where;
    node *value;
    const char *label; /* what messages call it; NULL: the keys that lead to it. Borrowed */
} node_entry;

struct node {
    node_kind kind;
    place where;
    bool quoted; /* scalars: was it in quotes? */
    char *text;  /* scalars */
    int count;   /* lists and maps */
    node_entry *entries;
};

/* Adds "FILE:LINE: key: message" or "--set key: message". */
void problem_at(problems *list, place where, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The one document in the text of `path` (a map), with aliases written out; NULL after reporting what is
 * wrong. `path` must outlive it. */
node *tree_parse(const char *path, const char *text, size_t bytes, problems *list);
void tree_destroy(node *tree); /* NULL is fine */

/* Applies "a.b=value" (the value is YAML): lists are indexed by number, missing maps are made. */
void tree_override(node *tree, const char *assignment, problems *list);

const node *tree_get(const node *map, const char *key); /* the first of that key; NULL if absent */

/* A plain scalar that means "nothing": empty, ~ or null. */
bool node_is_null(const node *scalar);

/* Small strings of configuration: aborts only if a few bytes cannot be had. */
void *config_memory(void *allocated);
char *config_text(const char *text); /* a copy; NULL stays NULL */

#endif
