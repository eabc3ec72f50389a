#include "run/batch_folders.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/compare.h"
#include "config/config.h"
#include "result/trace.h"
#include "support/durable.h"
#include "support/output_folder.h"

typedef char point[SETTINGS_HASH_BYTES];

/* The path always fits, because result_find() refuses folders that leave no room for the longest name. */
static void join(const char *folder, const char *name, char out[FOLDER_PATH_BYTES]) {
    (void)folder_join(out, folder, name);
}

static bool has(const char *folder, const char *name) {
    char path[FOLDER_PATH_BYTES];
    join(folder, name, path);
    return access(path, F_OK) == 0;
}

void batches_path(const char *folder, const char *name, char out[FOLDER_PATH_BYTES]) {
    char batches[FOLDER_PATH_BYTES];
    join(folder, BATCHES_NAME, name ? batches : out);
    if (name) join(batches, name, out);
}

/* ---- Replacing ---- */

/* Removes the folder of batches. It gets another name first, so that a removal which is interrupted leaves
 * nothing that could be taken for batches. */
static void drop_batches(const char *folder) {
    char path[FOLDER_PATH_BYTES], done[FOLDER_PATH_BYTES];
    batches_path(folder, NULL, path);
    join(folder, BATCHES_NAME ".done", done);
    folder_remove(done);
    if (rename(path, done) == 0) folder_remove(done);
}

static int replace_file(const char *from, const char *folder, const char *name) {
    char source[FOLDER_PATH_BYTES], target[FOLDER_PATH_BYTES];
    join(from, name, source);
    join(folder, name, target);
    return access(source, F_OK) == 0 && rename(source, target) != 0 ? errno : 0;
}

/* Moves the merged files into the result. A result counts as complete if it has summary.csv, so the old one
 * is removed first, and the new one is moved last. */
static exit_code take_merged(const char *folder, problems *list) {
    static const char *const names[] = {"config.yaml", BASE_NAME, "trace.h5", "checkpoint.h5", "summary.csv"};
    char merged[FOLDER_PATH_BYTES], summary[FOLDER_PATH_BYTES];
    batches_path(folder, "merged", merged);
    join(folder, "summary.csv", summary);
    int failure = has(merged, "summary.csv") && unlink(summary) != 0 && errno != ENOENT ? errno : 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && failure == 0; i++) {
        failure = replace_file(merged, folder, names[i]);
        if (failure == 0) failure = durable_sync(folder);
    }
    if (failure == 0) {
        drop_batches(folder);
        return EXIT_OK;
    }
    return problem(list, EXIT_RUN, "%s: its files cannot be replaced by those in %s: %s; go on with --resume",
                   folder, merged, strerror(failure));
}

exit_code batches_replace(const char *folder, problems *list) {
    char merging[FOLDER_PATH_BYTES], merged[FOLDER_PATH_BYTES];
    batches_path(folder, "merging", merging);
    batches_path(folder, "merged", merged);
    int failure = durable_sync(merging);
    if (failure == 0) failure = durable_replace(merging, merged);
    if (failure)
        return problem(list, EXIT_RUN, "%s: cannot be put in its place: %s; go on with --resume", merging,
                       strerror(failure));
    return take_merged(folder, list);
}

/* Ends a replacement or a removal that was interrupted. It holds the lock of the folder, as every change
 * does. */
static exit_code end_replacement(const char *folder, problems *list) {
    char done[FOLDER_PATH_BYTES], merged[FOLDER_PATH_BYTES];
    run_lock lock = {0};
    join(folder, BATCHES_NAME ".done", done);
    batches_path(folder, "merged", merged);
    bool leftover = folder_is_there(done), unfinished = folder_is_there(merged);
    if (!leftover && !unfinished) return EXIT_OK;
    exit_code code = lock_take(folder, &lock, list);
    if (code == EXIT_OK && unfinished) code = take_merged(folder, list);
    if (code == EXIT_OK && leftover) folder_remove(done);
    lock_release(&lock);
    return code;
}

exit_code batches_begin(const settings *s, const char *folder, bool has_result, problems *list) {
    char path[FOLDER_PATH_BYTES];
    batches_path(folder, NULL, path);
    exit_code code = folder_create(path, list);
    join(folder, "config.yaml", path);
    if (!has_result) THEN(code, result_write_config(s, path, list));
    batches_path(folder, "config.yaml", path);
    return THEN(code, result_write_config(s, path, list));
}

/* ---- Finding ---- */

void found_parts_free(found_parts *found) {
    for (int i = 0; i < found->n_parts; i++) {
        settings_destroy(found->parts[i].settings);
        free(found->parts[i].states);
    }
    free(found->parts);
    free(found->sources);
    *found = (found_parts){0};
}

static bool is_number(const char *name) {
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && digits < 8 && name[digits] == '\0';
}

static int by_number(const struct dirent **a, const struct dirent **b) {
    return atoi((*a)->d_name) - atoi((*b)->d_name);
}

static int is_batch(const struct dirent *entry) {
    return is_number(entry->d_name);
}

static exit_code read_part(found_part *part, problems *list) {
    char path[FOLDER_PATH_BYTES];
    int before = problems_count(list);
    join(part->path, "config.yaml", path);
    exit_code code = settings_load(path, 0, NULL, &part->settings, list);
    join(part->path, "summary.csv", path);
    part->complete = code == EXIT_OK && summary_is_there(path);
    if (code == EXIT_OK) {
        part->states = calloc((size_t)part->settings->n_populations, sizeof *part->states);
        if (!part->states) code = problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    }
    /* A checkpoint without a trace is refused by the run that would go on from it. */
    if (part->complete || (has(part->path, "checkpoint.h5") && has(part->path, "trace.h5")))
        THEN(code, trace_read_states(part->path, part->settings->n_populations, part->states, list));
    if (code == EXIT_INPUT && part->number >= 0)
        problems_prefix(list, before,
                        "batch %d of %s cannot be read (without %s its populations run again): ",
                        part->number, part->path, part->path);
    return code;
}

static exit_code add_part(found_parts *found, const char *path, int number, problems *list) {
    found_part *grown = realloc(found->parts, (size_t)(found->n_parts + 1) * sizeof *grown);
    if (!grown) return problem(list, EXIT_ENVIRONMENT, "out of memory for the parts of %s", path);
    found->parts = grown;
    found_part *part = &grown[found->n_parts++];
    *part = (found_part){.number = number};
    snprintf(part->path, sizeof part->path, "%s", path);
    return read_part(part, list);
}

/* A batch without config.yaml was killed before it had written which populations it has. Its folder is
 * removed. */
static exit_code add_batches(found_parts *found, const char *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    struct dirent **entries = NULL;
    exit_code code = EXIT_OK;
    batches_path(folder, NULL, path);
    int n = scandir(path, &entries, is_batch, by_number);
    for (int i = 0; i < n; i++) {
        int number = atoi(entries[i]->d_name);
        batches_path(folder, entries[i]->d_name, path);
        if (has(path, "config.yaml"))
            THEN(code, add_part(found, path, number, list));
        else
            folder_remove(path);
        if (number >= found->next_number) found->next_number = number + 1;
        free(entries[i]);
    }
    free(entries);
    return code;
}

/* ---- Matching ---- */

/* The population of `s` whose hash is `wanted`, among those that no other population of the part has taken.
 * If there are several, it is one with the name `name`, if possible. -1: there is none. */
static int find_point(const settings *s, const point *points, const bool *taken, const char *wanted,
                      const char *name) {
    int found = -1;
    for (int i = 0; i < s->n_populations; i++) {
        if (taken[i] || strcmp(points[i], wanted) != 0) continue;
        if (strcmp(s->populations[i].name, name) == 0) return i;
        found = found < 0 ? i : found;
    }
    return found;
}

/* Whether both list the same names and seeds. Then some key must have another value, and the message can
 * name that key. */
static bool same_names(const settings *a, const settings *b) {
    bool same = a->n_populations == b->n_populations;
    for (int i = 0; i < a->n_populations && same; i++)
        same = strcmp(a->populations[i].name, b->populations[i].name) == 0 &&
               a->populations[i].seed == b->populations[i].seed;
    return same;
}

enum { MOST_NAMED = 6 };

static exit_code refuse_gone(const settings *s, const found_part *part, const bool *gone, int n_gone,
                             problems *list) {
    const settings *there = part->settings;
    if (n_gone == there->n_populations || same_names(there, s)) {
        result_folder folder = {0};
        memcpy(folder.path, part->path, sizeof folder.path);
        return result_refuse_settings(s, there, &folder, list);
    }
    char names[512] = "";
    size_t used = 0;
    for (int i = 0, named = 0; i < there->n_populations && named < MOST_NAMED; i++) {
        if (!gone[i] || used >= sizeof names) continue;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%.60s (seed %llu)",
                                 named++ > 0 ? ", " : "", there->populations[i].name,
                                 (unsigned long long)there->populations[i].seed);
    }
    return problem(
        list, EXIT_INPUT,
        "%s: has populations that the configuration lacks, or has with other settings: %s%s; nothing "
        "that was computed is dropped: put them back as they were, or choose another --out",
        part->path, names, n_gone > MOST_NAMED ? ", ..." : "");
}

static exit_code match_part(const settings *s, const point *points, bool retry_failed, found_parts *found,
                            int which, problems *list) {
    found_part *part = &found->parts[which];
    int n = part->settings->n_populations, n_gone = 0;
    bool *taken = calloc((size_t)s->n_populations, sizeof *taken), *gone = calloc((size_t)n, sizeof *gone);
    if (!taken || !gone) {
        free(taken);
        free(gone);
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    }
    part->renamed = n != s->n_populations;
    for (int i = 0; i < n; i++) {
        point own;
        snprintf(own, sizeof own, "%s", part->states[i].point);
        if (own[0] == '\0') settings_point_hash(part->settings, i, own);
        int at = find_point(s, points, taken, own, part->settings->populations[i].name);
        gone[i] = at < 0;
        n_gone += at < 0;
        if (at < 0) continue;
        taken[at] = true;
        part->renamed |= at != i || strcmp(part->settings->populations[i].name, s->populations[at].name) != 0;
        if (part->number >= 0 || !retry_failed || part->states[i].diverged == 0)
            found->sources[at] = (merge_source){which, i};
    }
    exit_code code = n_gone > 0 ? refuse_gone(s, part, gone, n_gone, list) : EXIT_OK;
    free(taken);
    free(gone);
    return code;
}

static exit_code match_parts(const settings *s, bool retry_failed, found_parts *found, problems *list) {
    point *points = calloc((size_t)s->n_populations, sizeof *points);
    if (!points) return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    for (int i = 0; i < s->n_populations; i++) settings_point_hash(s, i, points[i]);
    exit_code code = EXIT_OK;
    for (int i = 0; i < found->n_parts && code == EXIT_OK; i++)
        code = match_part(s, points, retry_failed, found, i, list);
    free(points);
    return code;
}

/* The result's own folder is a part once a run has begun in it. */
static exit_code add_result(found_parts *found, const char *folder, problems *list) {
    bool computed = has(folder, "trace.h5") || has(folder, "checkpoint.h5") ||
                    (has(folder, "config.yaml") && !found->batches);
    return computed && has(folder, "config.yaml") ? add_part(found, folder, -1, list) : EXIT_OK;
}

exit_code batches_find(const settings *s, const char *folder, bool retry_failed, found_parts *out,
                       problems *list) {
    char path[FOLDER_PATH_BYTES];
    *out = (found_parts){0};
    exit_code code = end_replacement(folder, list);
    batches_path(folder, NULL, path);
    out->batches = folder_is_there(path);
    out->sources = malloc((size_t)s->n_populations * sizeof *out->sources);
    if (!out->sources) return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    for (int i = 0; i < s->n_populations; i++) out->sources[i] = (merge_source){-1, -1};
    THEN(code, add_result(out, folder, list));
    THEN(code, add_batches(out, folder, list));
    if (out->n_parts > 0) THEN(code, settings_check_paths(s, list));
    return THEN(code, match_parts(s, retry_failed, out, list));
}
