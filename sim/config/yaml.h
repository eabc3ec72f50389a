/* yaml.h - from YAML text to nodes. The only place that knows libyaml. */
#ifndef COHORT_YAML_H
#define COHORT_YAML_H

#include <stddef.h>

#include "config/tree.h"

/* The document in `text`; source as in place, lines counted only where `lined`. key: what messages call it.
 * NULL on failure. */
node *yaml_parse(const char *text, size_t bytes, const char *source, bool lined, const char *key,
                 problems *list);

#endif
