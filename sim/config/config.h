/* config.h - a configuration file into settings and back, by one table of keys (table.c). */
#ifndef COHORT_CONFIG_H
#define COHORT_CONFIG_H

#include "settings/settings.h"
#include "support/problems.h"

/* Reads `path` and applies `overrides` ("a.b=c", populations by index: populations.0.rank=4). All problems
 * are reported, each as "FILE:LINE: key: what is wrong; what would be right". *out is NULL on failure. */
exit_code settings_load(const char *path, int n_overrides, const char *const *overrides, settings **out,
                        problems *list);
/* The same in two steps, for text that can be read only once: all of a file or a pipe (owned by the caller;
 * NULL after reporting), and what it says. */
char *settings_read(const char *path, size_t *bytes, problems *list);
exit_code settings_parse(const char *path, const char *text, size_t bytes, int n_overrides,
                         const char *const *overrides, settings **out, problems *list);
void settings_destroy(settings *s);
/* A copy, to be destroyed, that has populations[0 .. n - 1] of it alone, in that order. */
settings *settings_subset(const settings *s, int n, const int *populations);
/* Puts where a key of the top level is written before all messages from index `first` on: "FILE:LINE: KEY: ",
 * "--set KEY: ", or "FILE: KEY: " where it has its default. */
void settings_prefix(const settings *s, const char *key, int first, problems *list);
/* The same of a key whose line is known otherwise; 0: --set, negative: its default. */
void settings_prefix_line(const settings *s, const char *key, int line, int first, problems *list);

/* The lists of a population that have a number for each device, as
 * "experts.rank [4, 8], generalists [1, 2]"; malloc'd, empty without any. */
char *settings_lists(const population_settings *p);

/* The resolved configuration as YAML (malloc'd), paths absolute: settings_load() of it gives equal settings,
 * whatever the current folder. Without `tune`: what is tuned has been chosen before (config/tune.h).
 */
char *settings_to_yaml(const settings *s);
/* EXIT_INPUT with a message for every path that leads nowhere: without what lies there no hash below can be
 * compared. */
exit_code settings_check_paths(const settings *s, problems *list);
/* 32 hex digits (XXH3-128) of what determines the base's weights (cache key), and of everything that
 * determines a run's numbers (not the file's name, threads, backend, wave_tokens or checkpoint.every). Paths
 * count by what lies there, not by their names. */
enum { SETTINGS_HASH_BYTES = 33 };
void settings_base_hash(const settings *s, char out[SETTINGS_HASH_BYTES]);
void settings_hash(const settings *s, char out[SETTINGS_HASH_BYTES]);
/* The same of all values of a population but its name and seed, paths by their names. */
void settings_values_hash(const population_settings *p, char out[SETTINGS_HASH_BYTES]);
/* The same of what determines the numbers of population `index`: its own values but its name, the base, and the
 * run's keys that change numbers. Equal wherever the population stands, and whatever stands beside it. */
void settings_point_hash(const settings *s, int index, char out[SETTINGS_HASH_BYTES]);
/* Reference page of all keys as Markdown, generated from the table (malloc'd). */
char *settings_reference(void);

#endif
