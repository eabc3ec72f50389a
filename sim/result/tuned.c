#include "result/tuned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_columns(const csv_file *table) {
    static const char *const last[TUNED_BEHIND] = {"rounds", "valid_loss", "chosen"};
    int n = table->n_columns;
    if (n <= TUNED_BEFORE + TUNED_BEHIND) return false;
    for (int i = 0; i < TUNED_BEHIND; i++)
        if (strcmp(table->names[n - TUNED_BEHIND + i], last[i]) != 0) return false;
    return strcmp(table->names[0], "method") == 0 || strcmp(table->names[0], "population") == 0;
}

exit_code tuned_read(const char *folder, csv_file *out, problems *list) {
    char path[4096];
    *out = (csv_file){0};
    if (snprintf(path, sizeof path, "%s/" TUNING_TABLE, folder) >= (int)sizeof path)
        return problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
    if (access(path, F_OK) != 0) return EXIT_OK;
    exit_code code = csv_read(path, out, list);
    if (code != EXIT_OK || has_columns(out)) return code;
    return problem(
        list, EXIT_INPUT,
        "%s: is no table of what was tried before a run: its columns are method or population, the "
        "keys, rounds, valid_loss, chosen",
        path);
}

int tuned_keys(const csv_file *table) {
    return table->n_columns - TUNED_BEFORE - TUNED_BEHIND;
}

static const char *cell(const csv_file *table, int row, int column) {
    return table->cells[(size_t)row * (size_t)table->n_columns + (size_t)column];
}

const char *tuned_from_end(const csv_file *table, int row, int column) {
    return cell(table, row, table->n_columns - column);
}

bool tuned_is_chosen(const csv_file *table, int row) {
    return strcmp(tuned_from_end(table, row, 1), "1") == 0;
}

char *tuned_text(const csv_file *table, int row) {
    char *text = NULL;
    size_t bytes = 0;
    int tried = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return NULL;
    for (int i = 0; i < table->n_rows; i++) tried += strcmp(cell(table, i, 0), cell(table, row, 0)) == 0;
    fprintf(out, "%s:", cell(table, row, 0));
    for (int k = 0; k < tuned_keys(table); k++)
        fprintf(out, "%s %s %s", k > 0 ? "," : "", table->names[TUNED_BEFORE + k],
                cell(table, row, TUNED_BEFORE + k));
    fprintf(out, " by validation loss %.5g of %d tried", strtod(tuned_from_end(table, row, 2), NULL), tried);
    return fclose(out) == 0 ? text : NULL;
}
