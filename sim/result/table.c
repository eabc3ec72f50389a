/* table.c - a request is checked, populations are placed and compared, and the table is printed. */
#include "result/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "result/table_parts.h"
#include "result/trace.h"

static bool is_metric(const char *column) {
    return strcmp(column, "seed") != 0 && !table_is_setting(column);
}

/* A summary that an older program wrote may lack a column. That is an error only for a column that is asked
 * for. */
static exit_code check_metric(const table_data *data, const char *name, problems *list) {
    for (int i = 0; i < data->n_files; i++) {
        if (is_metric(name) && csv_column(&data->files[i], name) >= 0) continue;
        if (!is_metric(name))
            return table_refuse_column(&data->files[i], "metric", name, is_metric, "metric", list);
        return problem(
            list, EXIT_INPUT,
            "table: --metric %s: %s has no such column: it is of a Cohort that did not write it yet; "
            "run its config.yaml again",
            name, data->files[i].path);
    }
    return EXIT_OK;
}

static exit_code read_metrics(table_parts *t, const char *wanted, problems *list) {
    char *at = t->words = strdup(wanted);
    t->metrics = calloc(strlen(wanted) + 1, sizeof *t->metrics);
    if (!at || !t->metrics) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    exit_code code = EXIT_OK;
    for (char *name; code == EXIT_OK && (name = table_next_name(&at)) != NULL;) {
        code = check_metric(&t->data, name, list);
        t->metrics[t->n_metrics++] = name;
    }
    return code;
}

static exit_code compare(table_parts *t, const char *baseline, problems *list) {
    size_t n = (size_t)t->data.n_groups;
    t->marks = calloc(n * (size_t)t->n_metrics, sizeof *t->marks);
    t->baselines = calloc(n, sizeof *t->baselines);
    if (!t->marks || !t->baselines) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    for (int m = 0; m < t->n_metrics; m++)
        table_find_marks(&t->data, t->metrics[m], t->layout.column, t->marks + (size_t)m * n);
    for (size_t i = 0; i < n; i++) t->baselines[i] = -1;
    t->baseline = baseline;
    return baseline ? table_find_baselines(&t->data, baseline, t->baselines, list) : EXIT_OK;
}

exit_code table_write(const table_request *request, FILE *out, problems *list) {
    table_parts t = {0};
    exit_code code = table_read(request->results, request->n_results, &t.data, list);
    THEN(code, read_metrics(&t, request->metrics ? request->metrics : "test_ppl_mean", list));
    THEN(code, table_lay_out(&t.data, request, &t.layout, list));
    THEN(code, compare(&t, request->baseline, list));
    if (code == EXIT_OK && request->form == TABLE_CSV)
        table_print_csv(&t, out);
    else if (code == EXIT_OK)
        code = table_print(&t, request->form, out, list);
    table_layout_free(&t.layout);
    table_free(&t.data);
    free(t.words);
    free(t.metrics);
    free(t.marks);
    free(t.baselines);
    return code;
}
