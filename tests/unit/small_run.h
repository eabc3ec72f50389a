/* small_run.h - runs small enough for a unit test: a configuration written to a temporary folder, a tiny
 * base, a session. */
#ifndef COHORT_TEST_SMALL_RUN_H
#define COHORT_TEST_SMALL_RUN_H

#include "engine/session.h"
#include "settings/settings.h"
#include "support/problems.h"

/* A fresh folder, also used as the cache of bases; lives until the process ends. */
const char *small_folder(void);

/* Settings of 4 topics, vocabulary 16, a base of 2 layers x width 16 with random weights, 2 rounds of 3
 * steps, and these populations (YAML list entries, a line each). Overrides as on the command line. Fails the
 * test on any problem. */
settings *small_settings(const char *populations, int n_overrides, const char *const *overrides);

typedef struct {
    settings *settings;
    ck_backend *backend;
    session *session;
    problems *problems;
} small_run;

small_run small_open(const char *populations, int n_overrides, const char *const *overrides);
void small_close(small_run *r);
void small_check(exit_code code, const problems *list, const char *what);

/* A copy of backend memory (malloc'd). */
float *small_download(const small_run *r, const float *from, int64_t floats);

#endif
