#include "config/paths.h"
#include "config/config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings/corpus_folder.h"

static char *joined(const char *folder, const char *name) {
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = config_memory(malloc(bytes));
    snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}

bool setting_is_path(const setting_row *row, const void *base) {
    if (!row->names_a_path || value_is_absent(row, base)) return false;
    return !row->word || strcmp(*(char *const *)((const char *)base + row->offset), row->word) != 0;
}

char *setting_path(const setting_row *row, const void *base) {
    char here[PATH_MAX];
    if (!setting_is_path(row, base)) return NULL;
    const char *text = *(char *const *)((const char *)base + row->offset);
    char *path = row->names_a_corpus       ? corpus_folder(text)
                 : access(text, F_OK) == 0 ? config_text(text)
                                           : NULL;
    if (!path || path[0] == '/' || !getcwd(here, sizeof here)) return path;
    const char *below = strncmp(path, "./", 2) == 0 ? path + 2 : path;
    char *absolute = strcmp(below, ".") == 0 || below[0] == '\0'
                         ? config_text(here)
                         : joined(strcmp(here, "/") == 0 ? "" : here, below);
    free(path);
    return absolute;
}

/* ---- What is missing ---- */

static exit_code check_path(const settings *s, const setting_row *row, const void *base, problems *list) {
    int before = problems_count(list);
    char *path = setting_path(row, base);
    bool unused = strcmp(row->path, "base.pretrain.text") == 0 && s->base.pretrain.tokens == 0;
    bool there = path || unused || !setting_is_path(row, base);
    free(path);
    if (there) return EXIT_OK;
    problem(list, EXIT_INPUT, "there is no %s %s; put it back, or say where it is now: --set %s=PATH",
            row->names_a_corpus ? "folder" : "file or folder",
            *(char *const *)((const char *)base + row->offset), row->path);
    if (strcmp(row->path, "data.corpus") == 0)
        settings_prefix_line(s, row->path, ((const population_settings *)base)->data.corpus_line, before,
                             list);
    else if (strcmp(row->path, "adapters") == 0)
        settings_prefix_line(s, row->path, ((const population_settings *)base)->adapters_line, before, list);
    else
        settings_prefix(s, row->path, before, list);
    return EXIT_INPUT;
}

/* A path that several populations share is missed once. */
static bool is_first(const settings *s, const setting_row *row, int population) {
    for (int i = 0; i < population; i++)
        if (value_equal(row, &s->populations[i], &s->populations[population])) return false;
    return true;
}

exit_code settings_check_paths(const settings *s, problems *list) {
    exit_code code = EXIT_OK;
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        if (!rows[i].names_a_path) continue;
        for (int p = 0; p < (rows[i].in_population ? s->n_populations : 1); p++) {
            if (rows[i].in_population && !is_first(s, &rows[i], p)) continue;
            if (check_path(s, &rows[i], rows[i].in_population ? (const void *)&s->populations[p] : s, list) !=
                EXIT_OK)
                code = EXIT_INPUT;
        }
    }
    return code;
}
