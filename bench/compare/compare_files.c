/* compare_files.c - the samples of two files, case by case. */
#include "compare/compare.h"

#ifndef COHORT_JANSSON

exit_code compare_files(FILE *out, const char *path_a, const char *path_b, double threshold, int *slower,
                        problems *list) {
    (void)out;
    (void)threshold;
    *slower = 0;
    return problem(list, EXIT_ENVIRONMENT,
                   "--compare %s %s: this cohort-bench was built without jansson, which reads JSON", path_a,
                   path_b);
}

#else

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fewer undisturbed samples, where others were disturbed, are no ground for a verdict. */
enum { FEWEST_UNDISTURBED = 3 };

typedef struct {
    json_t *root;
    json_t *times; /* name -> array of real_time of undisturbed samples, in the file's order */
    /* name -> how many samples were disturbed; of those that the file has or its aggregates are of */
    json_t *disturbed;
    /* name -> {"real_time", "undisturbed_samples", "samples", ...}: the aggregate over all undisturbed
     * samples */
    json_t *medians;
    json_t *spreads; /* the same of the spread */
    json_t *failed;  /* name -> message */
} record;

static json_t *times_of(record *r, const char *name) {
    json_t *array = json_object_get(r->times, name);
    if (!array) json_object_set_new(r->times, name, array = json_array());
    return array;
}

static void add_sample(record *r, const char *name, double time, bool disturbed) {
    json_t *array = times_of(r, name);
    if (disturbed)
        json_object_set_new(r->disturbed, name,
                            json_integer(json_integer_value(json_object_get(r->disturbed, name)) + 1));
    else
        json_array_append_new(array, json_real(time));
}

/* Cohort's own: of more samples than the file lists. */
static void add_aggregate(record *r, const char *name, json_t *entry) {
    const char *what = json_string_value(json_object_get(entry, "aggregate_name"));
    if (!what || !json_is_integer(json_object_get(entry, "undisturbed_samples"))) return;
    if (strcmp(what, "median") == 0) json_object_set(r->medians, name, entry);
    if (strcmp(what, "spread") == 0) json_object_set(r->spreads, name, entry);
}

/* Google Benchmark's units. */
static double unit_seconds(const char *unit) {
    const struct {
        const char *name;
        double seconds;
    } units[] = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
    for (size_t i = 0; unit && i < sizeof units / sizeof *units; i++)
        if (strcmp(units[i].name, unit) == 0) return units[i].seconds;
    return 1e-9;
}

static void add_entry(record *r, json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "run_name")),
               *type = json_string_value(json_object_get(entry, "run_type"));
    if (!name) name = json_string_value(json_object_get(entry, "name"));
    if (name && type && strcmp(type, "aggregate") == 0) add_aggregate(r, name, entry);
    if (!name || (type && strcmp(type, "iteration") != 0)) return;
    const json_t *time = json_object_get(entry, "real_time");
    if (json_is_true(json_object_get(entry, "error_occurred")))
        json_object_set(r->failed, name, json_object_get(entry, "error_message"));
    else if (json_is_number(time))
        add_sample(r, name,
                   json_number_value(time) *
                       unit_seconds(json_string_value(json_object_get(entry, "time_unit"))),
                   json_is_true(json_object_get(entry, "disturbed")));
}

static exit_code open_record(const char *path, record *r, problems *list) {
    json_error_t error;
    size_t i;
    json_t *entry;
    *r = (record){.times = json_object(),
                  .disturbed = json_object(),
                  .medians = json_object(),
                  .spreads = json_object(),
                  .failed = json_object(),
                  .root = json_load_file(path, 0, &error)};
    if (!r->root) return problem(list, EXIT_INPUT, "%s:%d: %s", path, error.line, error.text);
    const json_t *benchmarks = json_object_get(r->root, "benchmarks");
    if (!json_is_array(benchmarks)) return problem(list, EXIT_INPUT, "%s: has no list of benchmarks", path);
    json_array_foreach(benchmarks, i, entry) add_entry(r, entry);
    return EXIT_OK;
}

static void close_record(record *r) {
    json_decref(r->root);
    json_decref(r->times);
    json_decref(r->disturbed);
    json_decref(r->medians);
    json_decref(r->spreads);
    json_decref(r->failed);
}

static const char *context_text(const record *r, const char *key) {
    const char *text = json_string_value(json_object_get(json_object_get(r->root, "context"), key));
    return text ? text : "unknown";
}

static statistics statistics_of_array(const json_t *array) {
    size_t n = json_array_size(array);
    double *x = malloc((n + 1) * sizeof *x);
    if (!x) return statistics_of(NULL, 0);
    for (size_t i = 0; i < n; i++) x[i] = json_number_value(json_array_get(array, i));
    statistics s = statistics_of(x, (int)n);
    free(x);
    return s;
}

static double real_time(const json_t *entry) {
    return json_number_value(json_object_get(entry, "real_time"));
}

/* Of the undisturbed samples. *judged: there are enough of them. */
static statistics statistics_of_name(const record *r, const char *name, bool *judged) {
    const json_t *median = json_object_get(r->medians, name), *spread = json_object_get(r->spreads, name);
    statistics s = statistics_of_array(json_object_get(r->times, name));
    json_int_t all = s.count + json_integer_value(json_object_get(r->disturbed, name));
    if (median && spread) {
        all = json_integer_value(json_object_get(median, "samples"));
        s.count = (int)json_integer_value(json_object_get(median, "undisturbed_samples"));
        s.median = real_time(median) * unit_seconds(json_string_value(json_object_get(median, "time_unit")));
        s.spread = real_time(spread);
    }
    *judged = s.count == all ? s.count > 0 : s.count >= FEWEST_UNDISTURBED;
    return s;
}

typedef struct {
    FILE *out;
    double threshold;
    int count[COMPARE_UNCLEAR + 1], missing;
} tally;

static void print_pair(tally *t, const char *name, const record *a, const record *b) {
    bool judged_a, judged_b;
    statistics of_a = statistics_of_name(a, name, &judged_a), of_b = statistics_of_name(b, name, &judged_b);
    bool judged = judged_a && judged_b;
    comparison c = judged ? compare_statistics(&of_a, &of_b, t->threshold) : COMPARE_UNCLEAR;
    t->count[c]++;
    fprintf(t->out, "%-72s", name);
    if (judged)
        fprintf(t->out, " %11.2f %5.1f%% %11.2f %5.1f%% %7.3f  %s\n", 1e6 * of_a.median, 100 * of_a.spread,
                1e6 * of_b.median, 100 * of_b.spread, of_b.median / of_a.median, comparison_name(c));
    else
        fprintf(t->out, "  %s: others disturbed nearly all samples of %s\n", comparison_name(c),
                judged_b   ? "A"
                : judged_a ? "B"
                           : "A and B");
}

/* Of a measurement: its case is wrong, or the peer failed. */
static bool has_failed(const record *r, const char *name) {
    char *of_case = strdup(name), *of_peer = NULL;
    bool failed = false;
    char *slash = of_case ? strrchr(of_case, '/') : NULL;
    if (slash) *slash = '\0';
    if (asprintf(&of_peer, "%s/failed", name) > 0 && of_case)
        failed = json_object_get(r->failed, of_case) || json_object_get(r->failed, of_peer);
    free(of_case);
    free(of_peer);
    return failed;
}

static void print_all(tally *t, const record *a, const record *b) {
    const char *name;
    json_t *times;
    json_object_foreach(a->times, name, times) {
        const json_t *other = json_object_get(b->times, name);
        if (other)
            print_pair(t, name, a, b);
        else {
            t->missing++;
            fprintf(t->out, "%-72s only in A%s\n", name,
                    has_failed(b, name) ? ": B has no time, it is wrong" : "");
        }
    }
    json_object_foreach(b->times, name, times) {
        if (json_object_get(a->times, name)) continue;
        t->missing++;
        fprintf(t->out, "%-72s only in B\n", name);
    }
}

exit_code compare_files(FILE *out, const char *path_a, const char *path_b, double threshold, int *slower,
                        problems *list) {
    record a, b = {0};
    tally t = {.out = out, .threshold = threshold};
    exit_code code = open_record(path_a, &a, list);
    THEN(code, open_record(path_b, &b, list));
    if (code == EXIT_OK) {
        fprintf(out, "A %s: %s, %s\nB %s: %s, %s\n\n", path_a, context_text(&a, "git_revision"),
                context_text(&a, "hardware"), path_b, context_text(&b, "git_revision"),
                context_text(&b, "hardware"));
        if (strcmp(context_text(&a, "hardware"), context_text(&b, "hardware")) != 0)
            fprintf(out, "The hardware differs: the ratios say nothing about the code.\n\n");
        fprintf(out, "%-72s %11s %6s %11s %6s %7s\n", "case", "A us", "+-", "B us", "+-", "B / A");
        print_all(&t, &a, &b);
        fprintf(out, "\n%d same, %d faster, %d slower, %d unclear, %d in one file only\n",
                t.count[COMPARE_SAME], t.count[COMPARE_FASTER], t.count[COMPARE_SLOWER],
                t.count[COMPARE_UNCLEAR], t.missing);
        *slower = t.count[COMPARE_SLOWER];
        int compared = t.count[COMPARE_SAME] + t.count[COMPARE_FASTER] + t.count[COMPARE_SLOWER] +
                       t.count[COMPARE_UNCLEAR];
        if (compared == 0)
            code = problem(list, EXIT_INPUT, "%s and %s have no case in common", path_a, path_b);
    }
    close_record(&a);
    close_record(&b);
    return code;
}

#endif
