#include "result/table_layout.h"

#include <stdlib.h>
#include <string.h>

#include "config/nearest.h"

char *table_next_name(char **at) {
    if (!*at) return NULL;
    char *name = *at, *comma = strchr(name, ',');
    *at = comma ? comma + 1 : NULL;
    if (comma) *comma = '\0';
    return name;
}

exit_code table_refuse_column(const csv_file *file, const char *option, const char *name,
                              bool (*fits)(const char *), const char *what, problems *list) {
    const char **names = calloc((size_t)file->n_columns + 1, sizeof *names);
    char *text = NULL;
    size_t bytes = 0;
    int n = 0;
    FILE *out = names ? open_memstream(&text, &bytes) : NULL;
    if (!out) {
        free(names);
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    }
    for (int i = 0; i < file->n_columns; i++) {
        if (!fits(file->names[i])) continue;
        fprintf(out, "%s%s", n ? ", " : "", file->names[i]);
        names[n++] = file->names[i];
    }
    fclose(out);
    const char *near = nearest_word(name, names, n);
    if (near)
        problem(list, EXIT_INPUT, "table: --%s %s: %s has no such %s; did you mean %s?", option, name,
                file->path, what, near);
    else
        problem(list, EXIT_INPUT, "table: --%s %s: %s has no such %s; it has %s", option, name, file->path,
                what, text);
    free(text);
    free(names);
    return EXIT_INPUT;
}

/* ---- Keys ---- */

static bool same_place(const table_layout *l, const table_group *a, const table_group *b) {
    for (int i = 0; i < l->n_keys; i++)
        if (strcmp(table_setting(a, l->keys[i]), table_setting(b, l->keys[i])) != 0) return false;
    return !l->column || strcmp(table_setting(a, l->column), table_setting(b, l->column)) == 0;
}

/* Whether two groups that share a place differ in this setting. */
static bool tells_apart(const table_data *data, const table_layout *l, const char *setting) {
    for (int i = 0; i < data->n_groups; i++)
        for (int j = 0; j < i; j++) {
            const table_group *a = &data->groups[i], *b = &data->groups[j];
            if (same_place(l, a, b) && strcmp(table_setting(a, setting), table_setting(b, setting)) != 0)
                return true;
        }
    return false;
}

static void choose_keys(const table_data *data, table_layout *l) {
    const csv_file *file = &data->files[0];
    l->keys[l->n_keys++] = l->column ? "method" : "population";
    for (int i = 0; i < file->n_columns; i++)
        if (table_is_setting(file->names[i]) && strcmp(file->names[i], "population") != 0 &&
            tells_apart(data, l, file->names[i]))
            l->keys[l->n_keys++] = file->names[i];
    if (tells_apart(data, l, "population")) l->keys[l->n_keys++] = "population";
}

static exit_code check_setting(const table_data *data, const char *option, const char *name, problems *list) {
    if (table_is_setting(name) && csv_column(&data->files[0], name) >= 0) return EXIT_OK;
    return table_refuse_column(&data->files[0], option, name, table_is_setting, "setting", list);
}

static exit_code read_keys(const table_data *data, const char *rows, table_layout *l, problems *list) {
    char *at = l->words = strdup(rows);
    if (!at) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    exit_code code = EXIT_OK;
    for (char *name; code == EXIT_OK && (name = table_next_name(&at)) != NULL;) {
        code = check_setting(data, "rows", name, list);
        for (int i = 0; i < l->n_keys && code == EXIT_OK; i++)
            if (strcmp(l->keys[i], name) == 0)
                code = problem(list, EXIT_INPUT, "table: --rows names %s twice", name);
        if (code == EXIT_OK) l->keys[l->n_keys++] = name;
    }
    return code;
}

/* ---- Places ---- */

static exit_code refuse_shared(const table_data *data, const table_group *a, const table_group *b,
                               problems *list) {
    const csv_file *file = &data->files[0];
    char names[512] = "";
    for (int i = 0; i < file->n_columns; i++) {
        const char *name = file->names[i];
        size_t used = strlen(names);
        if (table_is_setting(name) && strcmp(table_setting(a, name), table_setting(b, name)) != 0)
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", name);
    }
    return problem(
        list, EXIT_INPUT,
        "table: %s and %s would share a place, and they differ in more than the seed: in %s; name %s in "
        "--rows or --columns",
        table_setting(a, "population"), table_setting(b, "population"), names,
        strchr(names, ',') ? "one of these" : "it");
}

static bool same_row(const table_layout *l, const table_group *a, const table_group *b) {
    table_layout keys_only = *l;
    keys_only.column = NULL;
    return same_place(&keys_only, a, b);
}

static int find_row(const table_data *data, const table_layout *l, const table_group *group) {
    int row = 0;
    while (row < l->n_rows && !same_row(l, &data->groups[l->rows[row]], group)) row++;
    return row;
}

static int find_column(const table_data *data, const table_layout *l, const table_group *group) {
    int column = 0;
    while (column < l->n_columns && l->column &&
           strcmp(table_setting(&data->groups[l->columns[column]], l->column),
                  table_setting(group, l->column)) != 0)
        column++;
    return l->column ? column : 0;
}

/* Values that are numbers stand in their order. */
static void sort_columns(const table_data *data, table_layout *l) {
    for (int i = 0; i < l->n_columns && l->column; i++) {
        const char *text = table_setting(&data->groups[l->columns[i]], l->column);
        char *end = NULL;
        strtod(text, &end);
        if (end == text || *end) return;
    }
    for (int i = 1; i < l->n_columns && l->column; i++)
        for (int j = i; j > 0; j--) {
            int *at = &l->columns[j - 1], own = at[1];
            if (strtod(table_setting(&data->groups[at[0]], l->column), NULL) <=
                strtod(table_setting(&data->groups[own], l->column), NULL))
                break;
            at[1] = at[0];
            at[0] = own;
        }
}

static exit_code place(const table_data *data, table_layout *l, problems *list) {
    size_t n = (size_t)data->n_groups;
    l->rows = calloc(n + 1, sizeof *l->rows);
    l->columns = calloc(n + 1, sizeof *l->columns);
    if (!l->rows || !l->columns) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    for (int i = 0; i < data->n_groups; i++) {
        if (find_row(data, l, &data->groups[i]) == l->n_rows) l->rows[l->n_rows++] = i;
        if (find_column(data, l, &data->groups[i]) == l->n_columns) l->columns[l->n_columns++] = i;
    }
    sort_columns(data, l);
    size_t places = (size_t)l->n_rows * (size_t)l->n_columns;
    l->groups = malloc(places * sizeof *l->groups);
    if (!l->groups) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    for (size_t i = 0; i < places; i++) l->groups[i] = -1;
    for (int i = 0; i < data->n_groups; i++) {
        const table_group *group = &data->groups[i];
        int *at = &l->groups[find_row(data, l, group) * l->n_columns + find_column(data, l, group)];
        if (*at >= 0) return refuse_shared(data, &data->groups[*at], group, list);
        *at = i;
    }
    return EXIT_OK;
}

exit_code table_lay_out(const table_data *data, const table_request *request, table_layout *out,
                        problems *list) {
    *out = (table_layout){.column = request->columns};
    out->keys = calloc((size_t)data->files[0].n_columns + 1, sizeof *out->keys);
    if (!out->keys) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    exit_code code = request->columns ? check_setting(data, "columns", request->columns, list) : EXIT_OK;
    if (request->rows)
        THEN(code, read_keys(data, request->rows, out, list));
    else if (code == EXIT_OK)
        choose_keys(data, out);
    return THEN(code, place(data, out, list));
}

void table_layout_free(table_layout *layout) {
    free(layout->keys);
    free(layout->words);
    free(layout->groups);
    free(layout->rows);
    free(layout->columns);
    *layout = (table_layout){0};
}
