/* configuration.h - loading settings from text, for tests. */
#ifndef COHORT_TEST_CONFIGURATION_H
#define COHORT_TEST_CONFIGURATION_H

#include "settings/settings.h"
#include "support/problems.h"

/* Writes `text` to a new file c.yaml in a new folder and loads it; *out and the problems are the caller's. */
problems *configuration_load(const char *text, settings **out);
/* The same with "a.b=c" overrides, NULL-terminated. */
problems *configuration_load_with(const char *text, const char *const *overrides, settings **out);

/* Loads what must be right, or fails the test with the problems. */
settings *configuration_must_load(const char *text);

/* Asserts exactly one problem, and that it contains `expected` ("c.yaml:3: train.rounds: ..."). */
void configuration_must_fail(const char *text, const char *expected);
/* Does any problem contain the text? */
int configuration_has(const problems *list, const char *expected);
/* All messages, a line each; freed by the next call. */
const char *configuration_messages(const problems *list);

#endif
