/* The JSON of results made by hand: which samples stand in it as repetitions, and what was not measured. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure/result.h"

enum { MOST = 40 };

typedef struct {
    double seconds[MOST], cpu[MOST];
    bool disturbed[MOST];
} samples;

/* `undisturbed` samples of 1, 2, 3 ... ms, each after `before` disturbed ones of 1 s. */
static result made(const char *name, samples *s, int undisturbed, int before) {
    result r = {.family = name, .right = {.checked = 1}, .n_times = 1};
    timing *t = &r.times[0].t;
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.times[0].label, sizeof r.times[0].label, "warm");
    *t = (timing){
        .seconds = s->seconds, .cpu_seconds = s->cpu, .disturbed = s->disturbed, .undisturbed = undisturbed};
    for (int i = 0; i < undisturbed; i++) {
        for (int d = 0; d < before; d++, t->count++) t->seconds[t->count] = 1, t->disturbed[t->count] = true;
        t->disturbed[t->count] = false;
        t->seconds[t->count++] = 1e-3 * (i + 1);
    }
    for (int i = 0; i < t->count; i++) t->cpu_seconds[i] = t->seconds[i];
    double judged[MOST];
    t->real = statistics_of(judged, timing_judged(t, t->seconds, judged));
    return r;
}

static json_t *written(const result *all, int n, const context *c) {
    char path[] = "/tmp/cohort-test-XXXXXX";
    problems *list = problems_create();
    int file = mkstemp(path);
    cr_assert(file >= 0);
    close(file);
    output_file out;
    cr_assert_eq(output_file_begin(path, &out, list), EXIT_OK);
    cr_assert_eq(output_file_end(&out, result_write_json(&out, c, all, n, list), list), EXIT_OK);
    json_t *root = json_load_file(path, 0, NULL);
    cr_assert(root != NULL);
    unlink(path);
    problems_destroy(list);
    return root;
}

/* The real_time in ms of the repetitions of a case; 1000: a disturbed one. */
static int repetitions_of(const json_t *root, const char *name, double *ms) {
    size_t i;
    json_t *entry;
    int n = 0;
    json_array_foreach(json_object_get(root, "benchmarks"), i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "name")), name) != 0) continue;
        cr_assert_eq(json_integer_value(json_object_get(entry, "repetition_index")), n);
        ms[n] = 1e-3 * json_number_value(json_object_get(entry, "real_time"));
        cr_assert_eq(json_is_true(json_object_get(entry, "disturbed")), ms[n] > 999, "marked wrongly");
        n++;
    }
    return n;
}

static void expect(const json_t *root, const char *name, int count, const double *wanted) {
    double ms[MOST];
    int n = repetitions_of(root, name, ms);
    cr_assert_eq(n, count, "%d repetitions of %s instead of %d", n, name, count);
    for (int i = 0; i < n; i++)
        cr_assert(ms[i] > 0.999 * wanted[i] && ms[i] < 1.001 * wanted[i],
                  "%s: repetition %d is %g instead of %g", name, i, ms[i], wanted[i]);
}

static const context NOTHING_MEASURED = {
    .backend = "cpu", .hardware = "h", .revision = "r", .load = {3, {0.5, 0.25, 0.125}}};

Test(bench_json, every_case_has_as_many_repetitions_as_the_one_with_the_fewest_samples) {
    static samples a, b, c;
    result all[] = {made("few", &a, 4, 0), made("many", &b, 12, 1), made("busy", &c, 2, 3)};
    json_t *root = written(all, 3, &NOTHING_MEASURED);
    expect(root, "few/warm", 4, (double[]){1, 2, 3, 4});
    expect(root, "many/warm", 4, (double[]){3, 6, 9, 12});
    expect(root, "busy/warm", 4, (double[]){1000, 1000, 1, 2});
    json_decref(root);
}

Test(bench_json, aggregates_are_of_all_undisturbed_samples) {
    static samples a, b;
    result all[] = {made("few", &a, 3, 0), made("many", &b, 9, 2)};
    json_t *root = written(all, 2, &NOTHING_MEASURED), *entry;
    size_t i;
    int found = 0;
    json_array_foreach(json_object_get(root, "benchmarks"), i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "name")), "many/warm_median") != 0) continue;
        found++;
        cr_assert_eq(json_number_value(json_object_get(entry, "real_time")), 5000);
        cr_assert_eq(json_integer_value(json_object_get(entry, "samples")), 27);
        cr_assert_eq(json_integer_value(json_object_get(entry, "undisturbed_samples")), 9);
    }
    cr_assert_eq(found, 1);
    json_decref(root);
}

Test(bench_json, the_load_stands_in_the_context_and_no_rate_that_was_not_measured) {
    json_t *root = written(NULL, 0, &NOTHING_MEASURED);
    const json_t *head = json_object_get(root, "context"), *load = json_object_get(head, "load_avg");
    cr_assert_eq(json_array_size(load), 3);
    cr_assert_eq(json_number_value(json_array_get(load, 1)), 0.25);
    const char *rates[] = {"copy_bytes_per_second", "gemm_f32_flops_per_second", "gemm_bf16_flops_per_second",
                           "fma_f32_flops_per_second"};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        cr_assert(json_is_null(json_object_get(head, rates[i])), "%s", rates[i]);
    json_decref(root);
}
