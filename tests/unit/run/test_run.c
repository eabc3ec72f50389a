/* Whole runs: they learn, repeat bit by bit, and resume. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "run/run.h"
#include "unit/small_run.h"

static const char *const THREE =
    "  - {name: l, method: local, devices: 4}\n"
    "  - {name: c, method: comigs, devices: 4, generalists: 1, specialists: [1, 2, 0, 3]}\n"
    "  - {name: p, method: pfedmoe, devices: 4}\n";

static char *read_file(const char *path) {
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s is missing", path);
    char *text = NULL;
    size_t size = 0;
    cr_assert_geq(getdelim(&text, &size, '\0', file), 0);
    fclose(file);
    return text;
}

/* Runs and returns summary.csv. */
static char *run_to(const char *name, const char *populations, int n, const char *const *overrides,
                    bool resume) {
    char out[4500], path[4600];
    snprintf(out, sizeof out, "%s/%s", small_folder(), name);
    settings *s = small_settings(populations, n, overrides);
    problems *list = problems_create();
    run_options options = {.out = out, .quiet = true, .resume = resume};
    small_check(run_execute(s, &options, list), list, name);
    problems_destroy(list);
    settings_destroy(s);
    snprintf(path, sizeof path, "%s/summary.csv", out);
    return read_file(path);
}

static exit_code try_run(const char *name, const char *populations, int n, const char *const *overrides,
                         bool resume, char message[512]) {
    char out[4500];
    snprintf(out, sizeof out, "%s/%s", small_folder(), name);
    settings *s = small_settings(populations, n, overrides);
    problems *list = problems_create();
    exit_code code = run_execute(s, &(run_options){.out = out, .quiet = true, .resume = resume}, list);
    snprintf(message, 512, "%s", problems_count(list) > 0 ? problems_message(list, 0) : "");
    problems_destroy(list);
    settings_destroy(s);
    return code;
}

Test(run, repeats_bit_by_bit_whatever_the_waves_and_threads) {
    const char *one_device[] = {"wave_tokens=1", "threads=1"}, *some[] = {"wave_tokens=200", "threads=2"};
    char *a = run_to("a", THREE, 0, NULL, false), *b = run_to("b", THREE, 0, NULL, false);
    char *c = run_to("c", THREE, 2, one_device, false), *d = run_to("d", THREE, 2, some, false);
    cr_expect_str_eq(a, b, "the same run twice");
    cr_expect_str_eq(a, c, "every device alone in its wave");
    cr_expect_str_eq(a, d, "waves of a few devices");
    free(a);
    free(b);
    free(c);
    free(d);
}

/* The row of a population, without its end of line (malloc'd). */
static char *row_of(const char *csv, const char *name) {
    char start[64];
    snprintf(start, sizeof start, "\n%s,", name);
    const char *at = strstr(csv, start);
    cr_assert_not_null(at, "no row %s in %s", name, csv);
    return strndup(at + 1, strcspn(at + 1, "\n"));
}

Test(run, a_population_does_not_see_its_neighbours) {
    char *all = run_to("all", THREE, 0, NULL, false);
    char *alone = run_to(
        "alone", "  - {name: c, method: comigs, devices: 4, generalists: 1, specialists: [1, 2, 0, 3]}\n", 0,
        NULL, false);
    char *among = row_of(all, "c"), *by_itself = row_of(alone, "c");
    cr_expect_str_eq(among, by_itself);
    free(all);
    free(alone);
    free(among);
    free(by_itself);
}

static double cell(const char *csv, const char *name, int column) {
    char *row = row_of(csv, name);
    const char *at = row;
    for (int i = 0; i < column; i++) at = strchr(at, ',') + 1;
    double found = strtod(at, NULL);
    free(row);
    return found;
}

/* Unigram entropy of a device's text. */
static double unigram_entropy(void) {
    small_run r = small_open("  - {name: l, method: local, devices: 1}\n", 0, NULL);
    double counts[16] = {0}, total = 0.0, entropy = 0.0;
    for (int i = 0; i < 64; i++) {
        int32_t tokens[16], targets[16];
        const device_data *data = r.session->fleet->devices[0].data;
        data_window at;
        cr_assert_eq(device_data_fixed(data, DATA_TRAIN, i, 64, 16, &at, r.problems), EXIT_OK);
        cr_assert_eq(data_window_read(&at, tokens, targets, r.problems), EXIT_OK);
        for (int t = 0; t < 16; t++, total += 1.0) counts[tokens[t]] += 1.0;
    }
    for (int i = 0; i < 16; i++)
        if (counts[i] > 0.0) entropy -= counts[i] / total * log(counts[i] / total);
    small_close(&r);
    return entropy;
}

Test(run, learns_more_than_unigrams) {
    const char *overrides[] = {"base.pretrain.tokens=80000",
                               "base.pretrain.batch=8",
                               "base.width=32",
                               "train.rounds=4",
                               "train.local_steps=10",
                               "train.batch=4",
                               "data.tokens_per_device=2000",
                               "train.router.every=10"};
    double entropy = unigram_entropy();
    char *csv = run_to("learn", THREE, 8, overrides, false);
    for (int i = 0; i < 3; i++) {
        const char *name = (const char *[]){"l", "c", "p"}[i];
        double ppl = cell(csv, name, 3);
        cr_expect_lt(log(ppl), 0.85 * entropy, "%s: loss %.3f, unigram entropy %.3f", name, log(ppl),
                     entropy);
    }
    free(csv);
}

Test(run, a_folder_in_use_is_refused_and_a_finished_one_left_alone) {
    char message[512], path[4600];
    const char *other[] = {"train.batch=3"};
    free(run_to("once", THREE, 0, NULL, false));
    cr_expect_eq(try_run("once", THREE, 0, NULL, false, message), EXIT_INPUT);
    cr_expect_not_null(strstr(message, "--resume"), "%s", message);
    cr_expect_eq(try_run("once", THREE, 1, other, true, message), EXIT_INPUT);
    cr_expect_not_null(strstr(message, "train.batch (2 there, 3 here)"), "%s", message);
    cr_expect_eq(try_run("once", THREE, 0, NULL, true, message), EXIT_OK);
    snprintf(path, sizeof path, "%s/once/summary.csv.tmp", small_folder());
    cr_expect_neq(access(path, F_OK), 0, "the summary took its name");
}

/* The state of a run that was killed after its last checkpoint, or after its first. */
Test(run, resumes_to_the_same_summary) {
    char path[4600];
    char *whole = run_to("whole", THREE, 0, NULL, false);
    free(run_to("cut", THREE, 0, NULL, false));
    snprintf(path, sizeof path, "%s/cut/summary.csv", small_folder());
    cr_assert_eq(unlink(path), 0);
    char *last = run_to("cut", THREE, 0, NULL, true);
    cr_expect_str_eq(whole, last);
    cr_assert_eq(unlink(path), 0);
    snprintf(path, sizeof path, "%s/cut/checkpoint.h5", small_folder());
    cr_assert_eq(unlink(path), 0);
    char *again = run_to("cut", THREE, 0, NULL, true);
    cr_expect_str_eq(whole, again, "without a checkpoint it starts over");
    free(whole);
    free(last);
    free(again);
}

Test(run, finds_bad_text_before_it_writes) {
    char message[512], path[4600];
    const char *missing[] = {"data.corpus=/no/such/corpus"};
    cr_expect_eq(try_run("none", THREE, 1, missing, false, message), EXIT_INPUT);
    snprintf(path, sizeof path, "%s/none", small_folder());
    cr_expect_neq(access(path, F_OK), 0, "no folder is left");
}
