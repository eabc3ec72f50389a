#include "result/table_compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers/student.h"
#include "result/trace.h"

bool table_diverged(const table_member *member) {
    const char *loss = table_text(member, "test_loss_mean");
    return loss && !loss[0];
}

/* The mean of n values, and the sum of the squares of their deviations from it. */
static void moments(const double *values, int n, double *mean, double *squares) {
    *mean = n > 0 ? 0.0 : NAN;
    *squares = 0.0;
    for (int i = 0; i < n; i++) *mean += values[i] / n;
    for (int i = 0; i < n; i++) *squares += (values[i] - *mean) * (values[i] - *mean);
}

/* Room for a value of each seed; NULL without memory, and then the group counts as one without values. */
static double *room(const table_group *group) {
    return calloc((size_t)group->n + 1, sizeof(double));
}

over_seeds over_seeds_of(const table_group *group, const char *measure) {
    over_seeds s = {.mean = NAN, .std = NAN};
    double squares, *values = room(group);
    for (int i = 0; i < group->n && values; i++) {
        double value = table_value(&group->members[i], measure);
        if (isnan(value)) {
            s.missing++;
            s.diverged += table_diverged(&group->members[i]);
        } else
            values[s.n++] = value;
    }
    if (values) moments(values, s.n, &s.mean, &squares);
    if (s.n > 1) s.std = sqrt(squares / (s.n - 1));
    free(values);
    return s;
}

static const table_member *of_seed(const table_group *group, const char *seed) {
    for (int i = 0; i < group->n; i++)
        if (strcmp(group->members[i].seed, seed) == 0) return &group->members[i];
    return NULL;
}

paired_difference paired_of(const table_group *a, const table_group *b, const char *measure) {
    paired_difference d = {.mean = NAN, .low = NAN, .high = NAN};
    double squares = 0.0, *values = room(a);
    for (int i = 0; i < a->n && values; i++) {
        const table_member *other = of_seed(b, a->members[i].seed);
        double value = other ? table_value(&a->members[i], measure) - table_value(other, measure) : NAN;
        if (!isnan(value)) values[d.pairs++] = value;
    }
    if (values) moments(values, d.pairs, &d.mean, &squares);
    if (d.pairs > 1) {
        double half = student_quantile(0.975, d.pairs - 1) * sqrt(squares / (d.pairs - 1) / d.pairs);
        d.low = d.mean - half;
        d.high = d.mean + half;
    }
    free(values);
    return d;
}

bool table_has_seed(const table_group *group, const char *seed) {
    return of_seed(group, seed) != NULL;
}

/* ---- Who is compared with whom ---- */

static bool is_of_text(const char *column) {
    static const char *const names[] = {"devices", "tokens_per_device", "split", "evaluation",
                                        "held_out.devices"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(column, names[i]) == 0) return true;
    return strncmp(column, "data.", 5) == 0;
}

/* Settings that differ between methods because of their defaults. */
static bool is_of_method(const char *column) {
    static const char *const names[] = {"population", "method", "generalists", "specialists",
                                        "aggregate_weights"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(column, names[i]) == 0) return true;
    return false;
}

static bool is_of_conditions(const char *column) {
    return !is_of_method(column);
}

/* Whether two groups agree in all settings of a kind. */
static bool agree(const table_group *a, const table_group *b, bool (*is_of)(const char *)) {
    const csv_file *file = a->members[0].file;
    for (int i = 0; i < file->n_columns; i++) {
        const char *name = file->names[i];
        if (table_is_setting(name) && is_of(name) &&
            strcmp(table_setting(a, name), table_setting(b, name)) != 0)
            return false;
    }
    return true;
}

bool table_of_equal_text(const table_group *a, const table_group *b) {
    return agree(a, b, is_of_text);
}

/* ---- Best ---- */

static bool compete(const table_group *a, const table_group *b, const char *column) {
    return table_of_equal_text(a, b) &&
           (!column || strcmp(table_setting(a, column), table_setting(b, column)) == 0);
}

static void mark_against(const table_data *data, const char *measure, const char *column, int best,
                         double lowest, table_mark *marks) {
    const table_group *winner = &data->groups[best];
    marks[best] = MARK_BEST;
    for (int i = 0; i < data->n_groups; i++) {
        const table_group *group = &data->groups[i];
        if (i == best || !compete(group, winner, column)) continue;
        over_seeds s = over_seeds_of(group, measure);
        paired_difference d = paired_of(group, winner, measure);
        if (s.missing > 0) continue;
        if (s.mean == lowest || (d.low <= 0.0 && d.high >= 0.0)) marks[i] = MARK_NEAR;
    }
}

void table_find_marks(const table_data *data, const char *measure, const char *column, table_mark *marks) {
    for (int i = 0; i < data->n_groups; i++) marks[i] = MARK_NONE;
    if (summary_column_of(measure).role != SUMMARY_MEASURED) return;
    for (int i = 0; i < data->n_groups; i++) {
        int best = -1, rivals = 0;
        double lowest = INFINITY;
        bool seen = false;
        for (int j = 0; j < data->n_groups; j++) {
            if (!compete(&data->groups[i], &data->groups[j], column)) continue;
            seen |= j < i; /* these competitors got their marks when i was j */
            rivals++;
            over_seeds s = over_seeds_of(&data->groups[j], measure);
            if (s.missing == 0 && s.mean < lowest) best = j, lowest = s.mean;
        }
        if (!seen && best >= 0 && rivals > 1) mark_against(data, measure, column, best, lowest, marks);
    }
}

/* ---- Baselines ---- */

/* The only candidate that agrees with the group in all settings of a kind; -1: none, -2: several. */
static int only_one(const table_data *data, const bool *candidates, const table_group *group,
                    bool (*is_of)(const char *)) {
    int found = -1;
    for (int i = 0; i < data->n_groups; i++) {
        if (!candidates[i] || !agree(&data->groups[i], group, is_of)) continue;
        if (found >= 0) return -2;
        found = i;
    }
    return found;
}

static bool is_of_nothing(const char *column) {
    (void)column;
    return false;
}

static exit_code refuse_several(const table_data *data, const bool *candidates, const char *name,
                                const table_group *group, problems *list) {
    char names[512];
    size_t used = 0;
    names[0] = '\0';
    for (int i = 0; i < data->n_groups && used < sizeof names; i++)
        if (candidates[i])
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                                     table_setting(&data->groups[i], "population"));
    return problem(
        list, EXIT_INPUT,
        "table: --baseline %s: several populations could be the one that %s is compared with; name one of "
        "them: %s",
        name, table_setting(group, "population"), names);
}

static exit_code refuse_nobody(const table_data *data, const char *name, problems *list) {
    char *names = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&names, &bytes);
    if (!out) return problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    for (int of_methods = 0; of_methods < 2; of_methods++) {
        const char *column = of_methods ? "method" : "population";
        fputs(of_methods ? "; methods: " : "populations: ", out);
        for (int i = 0, written = 0; i < data->n_groups; i++) {
            int before = 0;
            const char *own = table_setting(&data->groups[i], column);
            while (before < i && strcmp(table_setting(&data->groups[before], column), own) != 0) before++;
            if (before == i) fprintf(out, "%s%s", written++ ? ", " : "", own);
        }
    }
    fclose(out);
    problem(list, EXIT_INPUT, "table: --baseline %s: there is no population and no method of that name; %s",
            name, names);
    free(names);
    return EXIT_INPUT;
}

static exit_code check_seeds(const table_group *group, const table_group *baseline, problems *list) {
    for (int i = 0; i < group->n; i++)
        if (table_has_seed(baseline, group->members[i].seed)) return EXIT_OK;
    return problem(
        list, EXIT_INPUT,
        "table: %s (seed %s%s) and the baseline %s (seed %s%s) have no seed in common, so there are no "
        "pairs; run both with equal seeds",
        table_setting(group, "population"), group->members[0].seed, group->n > 1 ? ", ..." : "",
        table_setting(baseline, "population"), baseline->members[0].seed, baseline->n > 1 ? ", ..." : "");
}

exit_code table_find_baselines(const table_data *data, const char *name, int *baselines, problems *list) {
    bool *candidates = calloc((size_t)data->n_groups, sizeof *candidates);
    static const char *const columns[] = {"population", "method"};
    int n = 0;
    exit_code code = candidates ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the table");
    for (int c = 0; c < 2 && candidates && n == 0; c++)
        for (int i = 0; i < data->n_groups; i++)
            n += candidates[i] = strcmp(table_setting(&data->groups[i], columns[c]), name) == 0;
    if (candidates && n == 0) code = refuse_nobody(data, name, list);
    for (int i = 0; i < data->n_groups && code == EXIT_OK; i++) {
        const table_group *group = &data->groups[i];
        int found = only_one(data, candidates, group, is_of_nothing);
        if (found == -2) found = only_one(data, candidates, group, is_of_text);
        if (found == -2) found = only_one(data, candidates, group, is_of_conditions);
        if (found == -2 && candidates[i]) found = i;
        if (found == -2) code = refuse_several(data, candidates, name, group, list);
        if (found >= 0) THEN(code, check_seeds(group, &data->groups[found], list));
        baselines[i] = found;
    }
    free(candidates);
    return code;
}
