/* config_keys.h - reading config.json key by key. Each function reports what is wrong to the config's list,
 * naming the file and the key, and then leaves *out as it is. */
#ifndef COHORT_BASE_CONFIG_KEYS_H
#define COHORT_BASE_CONFIG_KEYS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "support/problems.h"

typedef struct {
    const char *path; /* for messages */
    const char *in;   /* "", or the key of the object that `json` is, with a dot behind it */
    json_t *json;     /* object */
    problems *list;
} base_config;

enum { CONFIG_MAX_WIDTH = 1 << 16, CONFIG_MAX_FFN = 1 << 20, CONFIG_MAX_IDS = 1 << 24 };

/* A size of the model: an int at `offset` in base_shape. */
typedef struct {
    const char *key;
    size_t offset;
    int max;
} config_size;

/* Whether the key is there and not null. */
bool config_has(const base_config *config, const char *key);
/* An integer from 1 to max. */
bool config_int(const base_config *config, const char *key, int max, int *out);
/* All of them; false if one is wrong. */
bool config_sizes(const base_config *config, const config_size *sizes, int n, void *shape);
/* A number above 0; absent: *out stays. */
bool config_positive(const base_config *config, const char *key, float *out);
/* A norm's epsilon, between 0 and 1. */
bool config_epsilon(const base_config *config, const char *key, double otherwise, float *out);
/* true or false; absent: *out stays. */
bool config_flag(const base_config *config, const char *key, bool *out);
/* A switch of which one position is supported; absent passes. why: a sentence. */
bool config_must_be(const base_config *config, const char *key, bool supported, const char *why);
/* A word of which one value is supported; absent passes. */
bool config_word(const base_config *config, const char *key, const char *supported);
void config_refuse_quantized(const base_config *config);

/* The shortest decimal that reads back as the same float: 1e-05, not 9.99999975e-06. */
double config_shortest(float value);

#endif
