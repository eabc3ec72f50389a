#include "small_run.h"
#include "config/config.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "model/pretrain.h"

static const char *const HEAD = "seed: 42\n"
                                "base: {layers: 2, width: 16, heads: 2, pretrain: {tokens: 0}}\n"
                                "data: {tokens_per_device: 600, valid_tokens_per_device: 300, "
                                "test_tokens_per_device: 300, sequence: 16,\n"
                                "  synthetic: {topics: 4, vocabulary: 16, branching: 3}}\n"
                                "train: {rounds: 2, local_steps: 3, batch: 2, router: {every: 2, steps: 2}}\n"
                                "experts: {rank: 4}\n"
                                "attention: {rank: 4}\n"
                                "evaluate: {every: 1, windows: 4}\n"
                                "checkpoint: {every: 1}\n"
                                "populations:\n";

void small_check(exit_code code, const problems *list, const char *what) {
    cr_assert_eq(code, EXIT_OK, "%s: %s", what,
                 problems_count(list) > 0 ? problems_message(list, 0) : "no message");
}

static char folder[4096];

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)info, (void)kind, (void)position;
    return remove(path);
}

static void remove_folder(void) {
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *small_folder(void) {
    if (folder[0]) return folder;
    const char *root = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cohort-run-XXXXXX", root && *root ? root : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    atexit(remove_folder);
    setenv("COHORT_CACHE", folder, 1);
    return folder;
}

settings *small_settings(const char *populations, int n_overrides, const char *const *overrides) {
    char path[5000];
    snprintf(path, sizeof path, "%s/config.yaml", small_folder());
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fprintf(file, "%s%s", HEAD, populations);
    fclose(file);
    problems *list = problems_create();
    settings *s = NULL;
    small_check(settings_load(path, n_overrides, overrides, &s, list), list, "settings");
    problems_destroy(list);
    return s;
}

small_run small_open(const char *populations, int n_overrides, const char *const *overrides) {
    small_run r = {.settings = small_settings(populations, n_overrides, overrides),
                   .problems = problems_create()};
    base_model *base = NULL;
    cr_assert_eq(ck_open("cpu", 0, &r.backend), CK_OK, "%s", ck_last_error(NULL));
    small_check(pretrain_base(r.settings, r.backend, true, &base, r.problems), r.problems, "base");
    small_check(session_create(r.settings, r.backend, base, &r.session, r.problems), r.problems, "session");
    r.session->at.round = 1;
    return r;
}

void small_close(small_run *r) {
    session_destroy(r->session);
    ck_close(r->backend);
    settings_destroy(r->settings);
    problems_destroy(r->problems);
}

float *small_download(const small_run *r, const float *from, int64_t floats) {
    float *host = malloc((size_t)floats * sizeof *host);
    cr_assert_not_null(host);
    cr_assert_eq(ck_download(r->session->stream, host, from, (size_t)floats * sizeof *host), CK_OK);
    cr_assert_eq(ck_wait(r->session->stream), CK_OK);
    return host;
}
