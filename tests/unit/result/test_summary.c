/* test_summary.c - summary.csv, to the letter: scripts read it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "unit/configuration.h"
#include "unit/trace_fixture.h"

#define HEADER                                                                                               \
    "population,method,devices,test_ppl_mean,test_ppl_std,bytes_up,bytes_down,"                              \
    "test_ppl_after,seed,generalists,specialists,rank,tokens_per_device,split,test_loss_mean,entropy_mean,"  \
    "aggregate_weights,valid_loss_mean,test_ppl_best,best_round,rounds_to_target,bytes_to_target,"           \
    "evaluation\n"

static char *written(const summary_row *rows, int n) {
    char *folder = fixture_folder(), *path = fixture_path(folder, "summary.csv"),
         *text = fixture_array(8192, 1);
    problems *list = fixture_problems();
    cr_assert_eq(summary_write(path, rows, n, list), EXIT_OK);
    FILE *in = fopen(path, "r");
    cr_assert_not_null(in);
    text[fread(text, 1, 8191, in)] = '\0';
    fclose(in);
    cr_assert_eq(access(fixture_path(folder, "summary.csv.tmp"), F_OK), -1);
    return text;
}

static bool has_column(const char *header, const char *name) {
    int n = 0;
    size_t length = strlen(name);
    for (const char *at = header; (at = strstr(at, name)) != NULL; at += length)
        n += (at == header || at[-1] == ',') && strchr(",\n", at[length]);
    return n == 1;
}

static summary_row plain(void) {
    return (summary_row){.population = "comigs-1g1s",
                         .method = "comigs",
                         .devices = 4,
                         .seed = UINT64_MAX,
                         .generalists = {.value = 1},
                         .specialists = {.value = 1},
                         .rank = {.value = 8},
                         .tokens_per_device = {.value = 40000},
                         .split = "natural",
                         .evaluation = "in_distribution",
                         .entropy_mean = 1.125,
                         .weights = "uniform",
                         .of_metric = {[METRIC_VALID_LOSS] = {2.5},
                                       [METRIC_TEST_LOSS] = {9.25, 1.0 / 3.0, 2.2246235515243336},
                                       [METRIC_TEST_AFTER] = {9.5}},
                         .of_state = {[STATE_BYTES_UP] = INT64_C(6000000000), [STATE_BYTES_DOWN] = 12},
                         .best_round = 14,
                         .test_ppl_best = 8.875,
                         .rounds_to_target = 6,
                         .bytes_to_target = INT64_C(7000000001)};
}

Test(summary, a_row_per_population) {
    summary_row rows[2] = {plain(), plain()};
    rows[1].population = "local";
    rows[1].of_metric[METRIC_TEST_LOSS][0] = 123456789.25;
    rows[1].of_metric[METRIC_TEST_LOSS][1] = 0;
    rows[1].weights = "";
    rows[1].rounds_to_target = 0;
    const char *expected =
        HEADER "comigs-1g1s,comigs,4,9.25,0.333333333,6000000000,12,9.5,18446744073709551615,1,1,8,40000,"
               "natural,2.22462355,1.125,uniform,2.5,8.875,14,6,7000000001,in_distribution\n"
               "local,comigs,4,123456789,0,6000000000,12,9.5,18446744073709551615,1,1,8,40000,"
               "natural,2.22462355,1.125,,2.5,8.875,14,,,in_distribution\n";
    cr_assert_str_eq(written(rows, 2), expected);
}

Test(summary, a_value_that_does_not_exist_is_an_empty_cell) {
    summary_row row = plain();
    row.entropy_mean = NAN;
    row.best_round = 0;
    row.of_metric[METRIC_TEST_LOSS][1] = NAN;
    row.of_metric[METRIC_TEST_AFTER][0] = INFINITY;
    cr_assert_str_eq(written(&row, 1),
                     HEADER "comigs-1g1s,comigs,4,9.25,,6000000000,12,inf,18446744073709551615,1,1,8,40000,"
                            "natural,2.22462355,,uniform,2.5,,,6,7000000001,in_distribution\n");
}

Test(summary, devices_that_differ_have_a_number_each) {
    static int64_t specialists[] = {1, 2, 1, 3}, generalists[] = {2, 1, 1, 1}, ranks[] = {4, 8, 8, 16},
                   tokens[] = {100, 200, 300, 6000000000};
    summary_row rows[2] = {plain(), plain()};
    rows[0].specialists = (per_device){.value = 3, .n = 4, .list = specialists};
    rows[1].generalists = (per_device){.value = 2, .n = 4, .list = generalists},
    rows[1].rank = (per_device){.value = 16, .n = 4, .list = ranks};
    rows[1].tokens_per_device = (per_device){.value = 6000000000, .n = 4, .list = tokens};
    const char *text = written(rows, 2);
    cr_assert(strstr(text, ",18446744073709551615,1,1 2 1 3,8,40000,"), "%s", text);
    cr_assert(strstr(text, ",18446744073709551615,2 1 1 1,1,4 8 8 16,100 200 300 6000000000,"), "%s", text);
}

Test(summary, names_with_commas_and_quotes_are_quoted) {
    summary_row row = plain();
    row.population = "a \"b\", c";
    cr_assert(strstr(written(&row, 1), "\n\"a \"\"b\"\", c\",comigs,4,"));
}

Test(summary, the_same_rows_give_the_same_bytes) {
    summary_row row = plain();
    cr_assert_str_eq(written(&row, 1), written(&row, 1));
}

Test(summary, axes_that_have_no_column_are_the_last_ones) {
    settings *s = configuration_must_load(
        "sweep:\n"
        "  population: {devices: 4, data.tokens_per_device: 999}\n"
        "  cross: [{method: [comigs]}, {rank: [8]}, {data.corpus: ['a, b', \"c\\\"\"]}]\n"
        "  axes: [seed, data.split, data.evaluation, base.variant, tied.linears, train.learning_rate, "
        "aggregate.weights]\n"
        "base: {pretrain: {tokens: 0}}\n");
    summary_row rows[2] = {plain(), plain()};
    for (int i = 0; i < 2; i++) rows[i].run = s, rows[i].own = &s->populations[i];
    const char *text = written(rows, 2);
    cr_expect(strstr(text, ",data.corpus,base.variant,tied.linears,train.learning_rate\n"), "%s", text);
    cr_expect(!strstr(text, "held_out_ppl"), "%s", text);
    cr_expect(strstr(text, ",\"a, b\",,all,0.002\n"), "%s", text);
    cr_expect(strstr(text, ",\"c\"\"\",,all,0.002\n"), "%s", text);
    rows[1].held_out = 2, rows[1].held_out_first = 20.5, rows[1].held_out_last = 10.25;
    text = written(rows, 2);
    cr_expect(strstr(text, ",held_out_ppl_first,held_out_ppl_last,data.corpus,base.variant,"), "%s", text);
    cr_expect(strstr(text, ",,,\"a, b\",,all,0.002\n"), "%s", text);
    cr_expect(strstr(text, ",20.5,10.25,\"c\"\"\",,all,0.002\n"), "%s", text);
    settings_destroy(s);
}

Test(summary, no_population_is_a_header_alone) {
    cr_assert_str_eq(written(NULL, 0), HEADER);
}

Test(summary, a_folder_that_is_not_there_is_named) {
    summary_row row = plain();
    problems *list = fixture_problems();
    cr_assert_eq(summary_write("/nowhere/summary.csv", &row, 1, list), EXIT_RUN);
    cr_assert(strstr(problems_message(list, 0), "/nowhere/summary.csv"));
}

Test(summary, a_place_that_is_taken_by_a_folder_is_a_failure) {
    summary_row row = plain();
    char *folder = fixture_folder(), *path = fixture_path(folder, "summary.csv");
    problems *list = fixture_problems();
    cr_assert_eq(mkdir(path, 0755), 0);
    cr_assert_eq(summary_write(path, &row, 1, list), EXIT_RUN);
    cr_assert(strstr(problems_message(list, 0), "Is a directory"), "%s", problems_message(list, 0));
    cr_assert_eq(access(fixture_path(folder, "summary.csv.tmp"), F_OK), -1);
}

/* Whoever gives a metric or a device state a column finds it in the file, once. */
Test(summary, has_every_column_of_the_tables_once) {
    const char *text = written(NULL, 0);
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        for (int i = 0; i < METRIC_COLUMNS && metrics[id].columns[i].name; i++)
            cr_expect(has_column(text, metrics[id].columns[i].name), "%s", metrics[id].columns[i].name);
    for (device_state_id id = 0; id < DEVICE_STATES; id++)
        if (device_states[id].column) cr_expect(has_column(text, device_states[id].column));
}
