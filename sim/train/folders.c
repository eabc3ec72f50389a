#include "train/folders.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trace/durable.h"

enum { LONGEST_NAME = 64 };

static bool join(char out[FOLDER_PATH_BYTES], const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    if (n + 1 + m >= FOLDER_PATH_BYTES) return false;
    memcpy(out, folder, n);
    out[n] = '/';
    memcpy(out + n + 1, name, m + 1);
    return true;
}

void result_path(const result_folder *folder, const char *name, char out[FOLDER_PATH_BYTES]) {
    join(out, folder->path, name); /* result_choose() left room for the longest name */
}

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

exit_code make_folder(const char *path, problems *list) {
    char part[FOLDER_PATH_BYTES];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return problem(list, EXIT_INPUT, "%.60s...: the path is too long", path);
    for (char *end = part + 1;; end++) {
        if (*end != '/' && *end != '\0') continue;
        char kept = *end;
        *end = '\0';
        if (mkdir(part, 0777) != 0 && !is_folder(part))
            return problem(list, EXIT_INPUT, "%s: cannot make the folder: %s", part, strerror(errno == EEXIST ? ENOTDIR : errno));
        *end = kept;
        if (kept == '\0') return EXIT_OK;
    }
}

bool cache_path(const char *name, char out[FOLDER_PATH_BYTES]) {
    const char *own = getenv("COHORT_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char root[FOLDER_PATH_BYTES];
    int n = 0;
    if (own && *own)
        n = snprintf(root, sizeof root, "%s", own);
    else if (xdg && *xdg)
        n = snprintf(root, sizeof root, "%s/cohort", xdg);
    else if (home && *home)
        n = snprintf(root, sizeof root, "%s/.cache/cohort", home);
    return n > 0 && n < (int)sizeof root && join(out, root, name);
}

/* ---- The result's folder ---- */

static bool is_empty(const char *path) {
    DIR *folder = opendir(path);
    bool empty = true;
    for (struct dirent *e = folder ? readdir(folder) : NULL; e; e = readdir(folder))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) empty = false;
    if (folder) closedir(folder);
    return empty;
}

/* results/<configuration's name without .yaml>-<first 8 digits of its hash> */
static bool default_path(const settings *s, char out[FOLDER_PATH_BYTES]) {
    char hash[SETTINGS_HASH_BYTES];
    const char *name = strrchr(s->file, '/');
    name = name ? name + 1 : s->file;
    const char *dot = strrchr(name, '.');
    int length = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    settings_hash(s, hash);
    int n = snprintf(out, FOLDER_PATH_BYTES, "results/%.*s-%.8s", length, name, hash);
    return n > 0 && n < FOLDER_PATH_BYTES;
}

static char *read_text(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    char *text = NULL;
    size_t size = 0;
    if (getdelim(&text, &size, '\0', file) < 0) {
        free(text);
        text = NULL;
    }
    fclose(file);
    return text;
}

static exit_code write_config(const char *path, const char *yaml, problems *list) {
    char *temporary = durable_temporary(path);
    FILE *file = temporary ? fopen(temporary, "w") : NULL;
    bool written = file && fputs(yaml, file) >= 0;
    if (file && fclose(file) != 0) written = false;
    int failure = !written ? errno : durable_replace(temporary, path);
    free(temporary);
    return failure == 0 ? EXIT_OK : problem(list, EXIT_RUN, "%s: cannot be written: %s", path, strerror(failure));
}

/* The first line in which two texts differ, to name what differs between two configurations. */
static exit_code report_difference(const char *path, const char *old, const char *new, problems *list) {
    const char *old_line = old, *new_line = new;
    int line = 1;
    for (; *old && *old == *new; old++, new ++) {
        if (*old != '\n') continue;
        old_line = old + 1, new_line = new + 1;
        line++;
    }
    old_line += strspn(old_line, " "), new_line += strspn(new_line, " ");
    return problem(list, EXIT_INPUT,
                   "%s:%d: the result is of another configuration: it has '%.*s', this one '%.*s'; resume with the same configuration or "
                   "choose another --out",
                   path, line, (int)strcspn(old_line, "\n"), old_line, (int)strcspn(new_line, "\n"), new_line);
}

/* Settings that change no number (threads, waves) may differ: the hashes decide, the texts explain. */
static exit_code check_config(const settings *s, const char *path, const char *yaml, problems *list) {
    char ours[SETTINGS_HASH_BYTES], theirs[SETTINGS_HASH_BYTES];
    settings *old = NULL;
    exit_code code = settings_load(path, 0, NULL, &old, list);
    if (code != EXIT_OK) return code;
    settings_hash(s, ours);
    settings_hash(old, theirs);
    settings_destroy(old);
    if (strcmp(ours, theirs) == 0) return EXIT_OK;
    char *text = read_text(path);
    if (text && strcmp(text, yaml) != 0)
        code = report_difference(path, text, yaml, list);
    else
        code = problem(list, EXIT_INPUT, "%s: the files that the configuration names have changed since the result was begun", path);
    free(text);
    return code;
}

static exit_code compare_config(const settings *s, const char *path, problems *list) {
    char *yaml = settings_to_yaml(s);
    if (!yaml) return problem(list, EXIT_ENVIRONMENT, "out of memory for the configuration");
    exit_code code = check_config(s, path, yaml, list);
    free(yaml);
    return code;
}

/* The nearest folder above `path` that exists must be writable. */
static exit_code check_writable(const char *path, problems *list) {
    char part[FOLDER_PATH_BYTES];
    struct stat info;
    snprintf(part, sizeof part, "%s", path);
    while (stat(part, &info) != 0) {
        char *slash = strrchr(part, '/');
        if (!slash) snprintf(part, sizeof part, ".");
        if (slash) slash[slash == part ? 1 : 0] = '\0';
    }
    if (!S_ISDIR(info.st_mode)) return problem(list, EXIT_INPUT, "%s: the result cannot be written there: %s is no folder", path, part);
    if (access(part, W_OK | X_OK) == 0) return EXIT_OK;
    return problem(list, EXIT_INPUT, "%s: the result cannot be written there: %s: %s", path, part, strerror(errno));
}

exit_code result_choose(const settings *s, const run_options *options, result_folder *out, problems *list) {
    char path[FOLDER_PATH_BYTES];
    bool fits =
        options->out ? snprintf(out->path, sizeof out->path, "%s", options->out) < (int)sizeof out->path : default_path(s, out->path);
    if (!fits || strlen(out->path) + LONGEST_NAME > sizeof out->path)
        return problem(list, EXIT_INPUT, "the result's path is too long: %.60s...", out->path);
    if (is_folder(out->path) && !is_empty(out->path) && !options->resume)
        return problem(list, EXIT_INPUT, "%s holds a result already: add --resume to go on with it, or give another folder with --out",
                       out->path);
    exit_code code = check_writable(out->path, list);
    result_path(out, "config.yaml", path);
    if (code == EXIT_OK && options->resume && access(path, F_OK) == 0) code = compare_config(s, path, list);
    result_path(out, "summary.csv", path);
    out->finished = options->resume && access(path, F_OK) == 0;
    result_path(out, "checkpoint.h5", path);
    out->resumes = options->resume && access(path, F_OK) == 0;
    return code;
}

exit_code result_begin(const settings *s, const result_folder *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = make_folder(folder->path, list);
    result_path(folder, "config.yaml", path);
    if (code != EXIT_OK || folder->resumes) return code;
    char *yaml = settings_to_yaml(s);
    code = yaml ? write_config(path, yaml, list) : problem(list, EXIT_ENVIRONMENT, "out of memory for the configuration");
    free(yaml);
    return code;
}
