/* yaml.c - libyaml composes a document (aliases become shared nodes); this copies it into a tree, so that a
 * node belongs to one place only. What the settings cannot mean is refused here: tags, a second document, a
 * node inside itself. */
#include "config/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 16, MAX_NODES = 200000 };

typedef struct {
    yaml_document_t *document;
    const char *source, *key;
    bool lined, failed;
    int nodes;
    problems *list;
} copier;

static node *copy_node(copier *c, int index, int depth);

static place place_of(const copier *c, const yaml_node_t *from) {
    return (place){.source = c->source, .line = c->lined ? (int)from->start_mark.line + 1 : 0};
}

static node *refuse(copier *c, place where, const char *what) {
    if (!c->failed) problem_at(c->list, where, c->key, "%s", what);
    c->failed = true;
    return NULL;
}

static bool has_own_tag(const yaml_node_t *from) {
    const char *usual = from->type == YAML_SCALAR_NODE     ? YAML_DEFAULT_SCALAR_TAG
                        : from->type == YAML_SEQUENCE_NODE ? YAML_DEFAULT_SEQUENCE_TAG
                                                           : YAML_DEFAULT_MAPPING_TAG;
    return from->tag && strcmp((const char *)from->tag, usual) != 0;
}

static void copy_scalar(copier *c, const yaml_node_t *from, node *to) {
    const char *text = (const char *)from->data.scalar.value;
    to->text = config_text(text);
    to->quoted = from->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    if (strlen(text) != from->data.scalar.length)
        refuse(c, to->where, "the text contains a zero byte; remove it");
}

static void copy_list(copier *c, const yaml_node_t *from, node *to, int depth) {
    size_t n = (size_t)(from->data.sequence.items.top - from->data.sequence.items.start);
    to->entries = config_memory(calloc(n + 1, sizeof *to->entries));
    for (size_t i = 0; i < n && !c->failed; i++) {
        node *value = copy_node(c, from->data.sequence.items.start[i], depth + 1);
        if (value) to->entries[to->count++] = (node_entry){.where = value->where, .value = value};
    }
}

static void copy_map(copier *c, const yaml_node_t *from, node *to, int depth) {
    size_t n = (size_t)(from->data.mapping.pairs.top - from->data.mapping.pairs.start);
    to->entries = config_memory(calloc(n + 1, sizeof *to->entries));
    for (size_t i = 0; i < n && !c->failed; i++) {
        const yaml_node_pair_t *pair = &from->data.mapping.pairs.start[i];
        const yaml_node_t *key = yaml_document_get_node(c->document, pair->key);
        if (key->type != YAML_SCALAR_NODE) {
            refuse(c, place_of(c, key), "a list or map is used as a key; a key must be a word");
            return;
        }
        node *value = copy_node(c, pair->value, depth + 1);
        if (value)
            to->entries[to->count++] = (node_entry){.key = config_text((const char *)key->data.scalar.value),
                                                    .where = place_of(c, key),
                                                    .value = value};
    }
}

static node *copy_node(copier *c, int index, int depth) {
    const yaml_node_t *from = yaml_document_get_node(c->document, index);
    place where = place_of(c, from);
    if (depth > MAX_DEPTH)
        return refuse(c, where, "nested deeper than 16 levels (an alias inside its own anchor?); flatten it");
    if (++c->nodes > MAX_NODES)
        return refuse(c, where, "more than 200000 values after writing out aliases; make it smaller");
    if (has_own_tag(from)) return refuse(c, where, "tags (!...) have no meaning here; remove the tag");
    node *to = config_memory(calloc(1, sizeof *to));
    to->where = where;
    to->kind = from->type == YAML_SCALAR_NODE     ? NODE_SCALAR
               : from->type == YAML_SEQUENCE_NODE ? NODE_LIST
                                                  : NODE_MAP;
    if (to->kind == NODE_SCALAR) copy_scalar(c, from, to);
    if (to->kind == NODE_LIST) copy_list(c, from, to, depth);
    if (to->kind == NODE_MAP) copy_map(c, from, to, depth);
    return to;
}

static void report_syntax(const yaml_parser_t *parser, const copier *c) {
    const char *what = parser->problem ? parser->problem : "out of memory";
    if (!c->lined) {
        problem(c->list, EXIT_INPUT, "%s %s: the value is not valid YAML: %s", c->source, c->key, what);
        return;
    }
    if (parser->error == YAML_READER_ERROR) {
        problem(c->list, EXIT_INPUT,
                "%s: not readable as YAML text: %s at byte %zu; save the file as UTF-8 text", c->source, what,
                parser->problem_offset);
        return;
    }
    char context[160] = "";
    if (parser->context)
        snprintf(context, sizeof context, " %s that begins in line %zu", parser->context,
                 parser->context_mark.line + 1);
    problem(c->list, EXIT_INPUT, "%s:%zu:%zu: not valid YAML: %s%s; correct it there or in the line before",
            c->source, parser->problem_mark.line + 1, parser->problem_mark.column + 1, what, context);
}

static node *copy_document(copier *c) {
    yaml_node_t *root = yaml_document_get_root_node(c->document);
    if (!root) {
        place start = {.source = c->source, .line = c->lined ? 1 : 0};
        return refuse(c, start, "there is nothing in it; write at least the key populations");
    }
    return copy_node(c, 1, 0);
}

/* Anything after the first document would be silently ignored otherwise. */
static bool is_last_document(yaml_parser_t *parser, copier *c) {
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next)) {
        report_syntax(parser, c);
        return false;
    }
    yaml_node_t *root = yaml_document_get_root_node(&next);
    if (root) refuse(c, place_of(c, root), "a second document starts here; a configuration is one document");
    yaml_document_delete(&next);
    return !root;
}

node *yaml_parse(const char *text, size_t bytes, const char *source, bool lined, const char *key,
                 problems *list) {
    yaml_parser_t parser;
    yaml_document_t document;
    node *tree = NULL;
    copier c = {.document = &document, .source = source, .key = key, .lined = lined, .list = list};
    if (!yaml_parser_initialize(&parser)) abort();
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    if (!yaml_parser_load(&parser, &document)) {
        report_syntax(&parser, &c);
        goto cleanup;
    }
    bool empty = !yaml_document_get_root_node(&document);
    tree = copy_document(&c);
    yaml_document_delete(&document);
    if (c.failed || (!empty && !is_last_document(&parser, &c))) {
        tree_destroy(tree);
        tree = NULL;
    }
cleanup:
    yaml_parser_delete(&parser);
    return tree;
}
