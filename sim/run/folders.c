#include "run/folders.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/tensors.h"
#include "config/compare.h"
#include "config/config.h"
#include "result/trace.h"
#include "result/tuned.h"
#include "support/durable.h"
#include "support/output_folder.h"
#include "support/writable.h"

enum { LONGEST_NAME = 64 };

bool folder_join(char out[FOLDER_PATH_BYTES], const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    if (n + 1 + m >= FOLDER_PATH_BYTES) return false;
    memcpy(out, folder, n);
    out[n] = '/';
    memcpy(out + n + 1, name, m + 1);
    return true;
}

void result_path(const result_folder *folder, const char *name, char out[FOLDER_PATH_BYTES]) {
    folder_join(out, folder->path, name); /* result_choose() left room for the longest name */
}

/* ---- The result's folder ---- */

static bool is_among(const char *name, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* Nothing but what a run leaves that was killed before it had written its configuration. */
static bool is_empty(const result_folder *folder) {
    static const char *const left[] = {LOCK_NAME, "config.yaml.tmp", TUNING_NAME, TUNING_TABLE,
                                       TUNING_TABLE ".tmp"};
    enum { UNTUNED = 2, ALL = sizeof left / sizeof *left };
    DIR *entries = opendir(folder->path);
    bool empty = true;
    for (struct dirent *e = entries ? readdir(entries) : NULL; e; e = readdir(entries))
        empty = empty &&
                (folder_is_nothing(e->d_name) || is_among(e->d_name, left, folder->tuned ? ALL : UNTUNED));
    if (entries) closedir(entries);
    return empty;
}

/* The configuration's own name. */
static const char *name_of(const settings *s) {
    const char *slash = strrchr(s->file, '/');
    return slash ? slash + 1 : s->file;
}

/* results/<configuration's name without .yaml>-<first 8 digits of its hash> */
static bool default_path(const settings *s, char out[FOLDER_PATH_BYTES]) {
    char hash[SETTINGS_HASH_BYTES];
    const char *name = name_of(s);
    const char *dot = strrchr(name, '.');
    int length = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    settings_hash(s, hash);
    int n = snprintf(out, FOLDER_PATH_BYTES, "results/%.*s-%.8s", length, name, hash);
    return n > 0 && n < FOLDER_PATH_BYTES;
}

exit_code result_write_text(const char *path, const char *text, problems *list) {
    char *temporary = durable_temporary(path);
    FILE *file = temporary ? fopen(temporary, "w") : NULL;
    bool written = file && fputs(text, file) >= 0;
    if (file && fclose(file) != 0) written = false;
    int failure = !written ? errno : durable_replace(temporary, path);
    free(temporary);
    if (failure == 0) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: cannot be written: %s; make room or repair the disk, then try again with --resume",
                   path, strerror(failure));
}

exit_code result_write_config(const settings *s, const char *path, problems *list) {
    char *yaml = settings_to_yaml(s);
    exit_code code = yaml ? result_write_text(path, yaml, list)
                          : problem(list, EXIT_ENVIRONMENT, "out of memory for the configuration");
    free(yaml);
    return code;
}

static bool has(const result_folder *folder, const char *name) {
    char path[FOLDER_PATH_BYTES];
    result_path(folder, name, path);
    return access(path, F_OK) == 0;
}

/* The settings' hash of the result's last checkpoint: of what lay at the configuration's paths when it was
 * begun. "": there is none yet. */
static exit_code hash_of_checkpoint(const result_folder *folder, char hash[SETTINGS_HASH_BYTES],
                                    problems *list) {
    char path[FOLDER_PATH_BYTES];
    checkpoint c;
    hash[0] = '\0';
    if (!has(folder, "checkpoint.h5")) return EXIT_OK;
    result_path(folder, "checkpoint.h5", path);
    exit_code code = checkpoint_peek(path, &c, list);
    if (code == EXIT_OK) snprintf(hash, SETTINGS_HASH_BYTES, "%.*s", SETTINGS_HASH_BYTES - 1, c.config_hash);
    return code;
}

/* Settings that change no number (threads, waves) may differ, and so may paths to equal contents: the hashes
 * decide, the keys explain. */
static exit_code compare_settings(const settings *s, const settings *old, const char *saved,
                                  const result_folder *folder, problems *list) {
    char ours[SETTINGS_HASH_BYTES], theirs[SETTINGS_HASH_BYTES];
    settings_hash(s, ours);
    settings_hash(old, theirs);
    return strcmp(ours, saved[0] ? saved : theirs) == 0 ? EXIT_OK
                                                        : result_refuse_settings(s, old, folder, list);
}

exit_code result_refuse_settings(const settings *s, const settings *old, const result_folder *folder,
                                 problems *list) {
    char *keys = settings_differences(old, s);
    exit_code code = keys[0] ? problem(list, EXIT_INPUT,
                                       "%s/config.yaml: the result is of another configuration; what "
                                       "differs: %s; resume with the same settings or choose "
                                       "another --out",
                                       folder->path, keys)
                             : problem(list, EXIT_INPUT,
                                       "%s/checkpoint.h5: was written with the same settings but other "
                                       "contents: the files that the configuration names "
                                       "(data, base, adapters), or the program, have changed since; restore "
                                       "them or choose another --out",
                                       folder->path);
    free(keys);
    return code;
}

static exit_code compare_result(const settings *s, const result_folder *folder, problems *list) {
    char path[FOLDER_PATH_BYTES], saved[SETTINGS_HASH_BYTES];
    settings *old = NULL;
    if (!folder_is_there(folder->path) || is_empty(folder)) return EXIT_OK;
    if (!has(folder, "config.yaml"))
        return problem(
            list, EXIT_INPUT,
            "%s: there is nothing to resume: it holds files, but no config.yaml; choose another --out",
            folder->path);
    result_path(folder, "config.yaml", path);
    exit_code code = settings_check_paths(s, list);
    THEN(code, settings_load(path, 0, NULL, &old, list));
    THEN(code, hash_of_checkpoint(folder, saved, list));
    THEN(code, compare_settings(s, old, saved, folder, list));
    settings_destroy(old);
    return code;
}

static bool has_summary(const result_folder *folder) {
    char path[FOLDER_PATH_BYTES];
    result_path(folder, "summary.csv", path);
    return summary_is_there(path);
}

static exit_code check_content(const settings *s, result_folder *folder, bool resume, problems *list) {
    folder->fresh = !resume;
    if (resume) {
        exit_code code = compare_result(s, folder, list);
        folder->finished = has_summary(folder);
        folder->resumes = has(folder, "checkpoint.h5");
        return code;
    }
    if (!folder_is_there(folder->path) || is_empty(folder)) return EXIT_OK;
    if (!has(folder, "config.yaml") && !has(folder, TUNING_NAME))
        return problem(list, EXIT_INPUT,
                       "%s: holds files that are no result; give a new or an empty folder with --out",
                       folder->path);
    return problem(
        list, EXIT_INPUT,
        "%s holds a result already: add --resume to go on with it, or give another folder with --out",
        folder->path);
}

/* The folder that the configuration stands in, where both are a result's: a run has begun there (its lock
 * file is left if it was killed). False: it is a configuration like any other. */
static bool own_result(const settings *s, result_folder *out) {
    const char *slash = strrchr(s->file, '/');
    int length = slash ? (int)(slash - s->file) + (slash == s->file) : 1;
    if (strcmp(name_of(s), "config.yaml") != 0 || length + LONGEST_NAME > FOLDER_PATH_BYTES) return false;
    snprintf(out->path, sizeof out->path, "%.*s", length, slash ? s->file : ".");
    return has(out, "trace.h5") || has(out, "checkpoint.h5") || has(out, LOCK_NAME);
}

/* --out, or the place that a run without it has; with --resume a result's own configuration means that
 * result, and never another. */
static exit_code choose_path(const settings *s, const run_options *options, result_folder *out,
                             problems *list) {
    bool fits = true;
    if (options->out)
        fits = snprintf(out->path, sizeof out->path, "%s", options->out) < (int)sizeof out->path;
    else if (!options->resume || !own_result(s, out))
        fits = default_path(s, out->path);
    if (!fits || strlen(out->path) + LONGEST_NAME > sizeof out->path)
        return problem(list, EXIT_INPUT, "the result's path is too long: %.60s...", out->path);
    if (options->out || !options->resume || strcmp(name_of(s), "config.yaml") != 0 ||
        folder_is_there(out->path))
        return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: there is nothing to resume: no run has begun in its folder, nor in %s; name the "
                   "result with --out",
                   s->file, out->path);
}

exit_code result_find(const settings *s, const run_options *options, result_folder *out, problems *list) {
    *out = (result_folder){.tuned = options->tuned};
    exit_code code = choose_path(s, options, out, list);
    return THEN(code, lock_look(out->path, list));
}

exit_code result_choose(const settings *s, const run_options *options, result_folder *out, problems *list) {
    exit_code code = result_find(s, options, out, list);
    THEN(code, check_content(s, out, options->resume, list));
    return code == EXIT_OK && !out->finished ? writable_check(out->path, "the result", list) : code;
}

/* Between choosing and beginning a base may have been trained: time enough for another run. */
static exit_code check_unchanged(const result_folder *folder, problems *list) {
    bool same = folder->fresh ? is_empty(folder)
                              : has_summary(folder) == folder->finished &&
                                    has(folder, "checkpoint.h5") == folder->resumes;
    return same ? EXIT_OK
                : problem(list, EXIT_INPUT, "%s: another run has written to it since this one started",
                          folder->path);
}

exit_code result_begin(const settings *s, result_folder *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = folder_create(folder->path, list);
    THEN(code, lock_take(folder->path, &folder->lock, list));
    THEN(code, check_unchanged(folder, list));
    result_path(folder, "config.yaml", path);
    if (code != EXIT_OK || folder->resumes) return code;
    return result_write_config(s, path, list);
}

exit_code result_keep_base(const settings *s, const base_shape *shape, const result_folder *folder,
                           problems *list) {
    char path[FOLDER_PATH_BYTES];
    if (!s->base.checkpoint || has(folder, BASE_NAME)) return EXIT_OK;
    result_path(folder, BASE_NAME, path);
    char *temporary = durable_temporary(path);
    exit_code code = temporary ? base_config_write(temporary, shape, list)
                               : problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    int failure = code == EXIT_OK ? durable_replace(temporary, path) : 0;
    if (failure) code = problem(list, EXIT_RUN, "%s: cannot be written: %s", path, strerror(failure));
    if (code != EXIT_OK && temporary) unlink(temporary);
    free(temporary);
    return code;
}

void result_end(result_folder *folder) {
    lock_release(&folder->lock);
}
