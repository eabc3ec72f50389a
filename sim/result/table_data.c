#include "result/table_data.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "result/trace.h"

bool table_is_setting(const char *column) {
    return strcmp(column, "seed") != 0 && summary_column_of(column).role == SUMMARY_SETTING;
}

const char *table_text(const table_member *member, const char *column) {
    int at = csv_column(member->file, column);
    return at < 0 ? NULL
                  : member->file->cells[(size_t)member->row * (size_t)member->file->n_columns + (size_t)at];
}

const char *table_setting(const table_group *group, const char *column) {
    const char *text = table_text(&group->members[0], column);
    return text ? text : "";
}

double table_value(const table_member *member, const char *column) {
    const char *text = table_text(member, column);
    double value = text && text[0] ? strtod(text, NULL) : NAN;
    return isfinite(value) ? value : NAN;
}

/* ---- Reading ---- */

/* A folder's summary.csv, or the file itself. */
static exit_code open_result(const char *result, csv_file *out, problems *list) {
    char path[4096];
    struct stat info;
    if (stat(result, &info) != 0)
        return problem(list, EXIT_INPUT,
                       "%s: cannot be opened: %s; give the folder of a result, or its summary.csv", result,
                       strerror(errno));
    if (!S_ISDIR(info.st_mode)) return csv_read(result, out, list);
    if (snprintf(path, sizeof path, "%s/summary.csv", result) >= (int)sizeof path)
        return problem(list, EXIT_INPUT, "%.80s...: the path is too long", result);
    if (summary_is_there(path)) return csv_read(path, out, list);
    return problem(
        list, EXIT_INPUT,
        "%s: has no summary.csv: the run is not finished, or the folder is no result; `cohort info %s` "
        "says how far it got",
        result, result);
}

static exit_code check_settings(const csv_file *file, const csv_file *other, problems *list) {
    for (int i = 0; i < other->n_columns; i++)
        if (table_is_setting(other->names[i]) && csv_column(file, other->names[i]) < 0)
            return problem(
                list, EXIT_INPUT,
                "%s: has no column %s, which %s has; results of one table have the same settings as "
                "columns",
                file->path, other->names[i], other->path);
    return EXIT_OK;
}

static exit_code check_columns(const csv_file *file, const csv_file *first, problems *list) {
    static const char *const needed[] = {"population", "method", "seed"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (csv_column(file, needed[i]) < 0)
            return problem(list, EXIT_INPUT, "%s: has no column %s: it is no summary.csv", file->path,
                           needed[i]);
    if (file->n_rows == 0) return problem(list, EXIT_INPUT, "%s: has no populations", file->path);
    exit_code code = check_settings(file, first, list);
    return THEN(code, check_settings(first, file, list));
}

/* ---- Groups ---- */

static bool same_settings(const table_member *a, const table_member *b) {
    for (int i = 0; i < a->file->n_columns; i++) {
        const char *name = a->file->names[i];
        if (table_is_setting(name) && strcmp(table_text(a, name), table_text(b, name)) != 0) return false;
    }
    return true;
}

static table_group *find_group(table_data *data, const table_member *member) {
    for (int i = 0; i < data->n_groups; i++)
        if (same_settings(&data->groups[i].members[0], member)) return &data->groups[i];
    return NULL;
}

static exit_code refuse_twice(const table_group *group, const table_member *member, problems *list) {
    for (int i = 0; i < group->n; i++) {
        const table_member *other = &group->members[i];
        if (strcmp(other->seed, member->seed) == 0)
            return problem(
                list, EXIT_INPUT,
                "%s:%d: the population %s of seed %s, with equal settings, is there already in %s:%d; "
                "give each result once",
                member->file->path, member->file->lines[member->row], table_text(member, "population"),
                member->seed, other->file->path, other->file->lines[other->row]);
    }
    return EXIT_OK;
}

static exit_code add_member(table_data *data, const table_member *member, problems *list) {
    table_group *group = find_group(data, member);
    if (group) {
        exit_code code = refuse_twice(group, member, list);
        if (code != EXIT_OK) return code;
    } else {
        table_group *groups = realloc(data->groups, (size_t)(data->n_groups + 1) * sizeof *groups);
        if (!groups) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
        data->groups = groups;
        group = &groups[data->n_groups++];
        *group = (table_group){0};
    }
    table_member *members = realloc(group->members, (size_t)(group->n + 1) * sizeof *members);
    if (!members) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    group->members = members;
    members[group->n++] = *member;
    return EXIT_OK;
}

/* A measured cell is a number, or empty. */
static exit_code check_numbers(const csv_file *file, int row, problems *list) {
    for (int i = 0; i < file->n_columns; i++) {
        const char *text = file->cells[row * file->n_columns + i];
        char *end = NULL;
        if (summary_column_of(file->names[i]).role == SUMMARY_SETTING || !text[0]) continue;
        strtod(text, &end);
        if (*end)
            return problem(list, EXIT_INPUT, "%s:%d: %s is '%.60s', which is no number", file->path,
                           file->lines[row], file->names[i], text);
    }
    return EXIT_OK;
}

exit_code table_read(const char *const *results, int n, table_data *out, problems *list) {
    *out = (table_data){.files = calloc((size_t)n, sizeof(csv_file))};
    if (!out->files) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    exit_code code = EXIT_OK;
    for (int i = 0; i < n && code == EXIT_OK; i++) {
        csv_file *file = &out->files[out->n_files++];
        code = open_result(results[i], file, list);
        THEN(code, check_columns(file, &out->files[0], list));
        for (int row = 0; code == EXIT_OK && row < file->n_rows; row++) {
            table_member member = {.file = file, .row = row};
            member.seed = table_text(&member, "seed");
            code = check_numbers(file, row, list);
            THEN(code, add_member(out, &member, list));
        }
    }
    return code;
}

void table_free(table_data *data) {
    for (int i = 0; i < data->n_groups; i++) free(data->groups[i].members);
    for (int i = 0; i < data->n_files; i++) csv_free(&data->files[i]);
    free(data->groups);
    free(data->files);
    *data = (table_data){0};
}
