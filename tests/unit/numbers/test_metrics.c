/* The table of metrics, and what is derived from them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers/metrics.h"

static const metric_shape SHAPE = {.populations = 3,
                                   .devices = 23,
                                   .layers = 2,
                                   .experts = 3,
                                   .windows = 2,
                                   .sequence = 8,
                                   .sampling = {4, 2, 3, 1, true, false}};

Test(metrics, every_row_of_the_table_is_filled) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        cr_assert(metrics[id].path && metrics[id].path[0] == '/', "metric %d has no path", id);
        cr_expect(metrics[id].units && metrics[id].units[0], "%s has no unit", metrics[id].path);
        for (metric_id other = 0; other < id; other++)
            cr_expect_neq(strcmp(metrics[id].path, metrics[other].path), 0);
    }
}

Test(metrics, windows_count_tokens_or_examples) {
    metric_shape shape = SHAPE;
    cr_expect_str_eq(metric_units(METRIC_VALID_WINDOWS, &shape), "token");
    shape.sampling.of_examples = true;
    cr_expect_str_eq(metric_units(METRIC_VALID_WINDOWS, &shape), "token or example");
    shape.sampling.of_tokens = false;
    cr_expect_str_eq(metric_units(METRIC_TRAIN_WINDOWS, &shape), "example");
    cr_expect_str_eq(metric_units(METRIC_BYTES_UP, &shape), "bytes");
}

Test(metrics, a_row_is_as_large_as_said_and_empty) {
    metric_row row;
    size_t bytes = 0;
    cr_assert(metric_row_create(&row, &SHAPE));
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        const uint8_t *values = row.values[id];
        size_t each = metric_value_bytes(id);
        cr_assert_not_null(values, "%s", metrics[id].path);
        for (size_t at = 0; at < metric_bytes(id, &SHAPE); at += each)
            cr_assert_eq(memcmp(values + at, metric_fill(id), each), 0, "%s is not empty", metrics[id].path);
        bytes += metric_bytes(id, &SHAPE);
    }
    cr_expect_eq(bytes, metric_all_bytes(&SHAPE));
    cr_expect_eq(metric_bytes(METRIC_GATE_MEAN, &SHAPE), 23 * 2 * 3 * sizeof(float));
    cr_expect_eq(metric_bytes(METRIC_ROUTING_GATES, &SHAPE), 2 * 8 * 2 * 3 * sizeof(float));
    cr_expect_eq(metric_bytes(METRIC_VALID_WINDOWS, &SHAPE), 23 * 3 * 1 * sizeof(int64_t));
    cr_expect_eq(metric_bytes(METRIC_GINI, &SHAPE), 3 * sizeof(double));
    metric_row_destroy(&row);
}

Test(metrics, what_nobody_asked_for_is_not_recorded) {
    const metric_shape plain = {.populations = 1, .devices = 2, .layers = 1, .experts = 1, .sequence = 8};
    metric_row row;
    cr_assert(metric_row_create(&row, &plain));
    cr_expect_null(row.values[METRIC_ROUTING_IDS]);
    cr_expect_null(row.values[METRIC_TRAIN_WINDOWS]);
    cr_expect_not_null(row.values[METRIC_GATE_MEAN]);
    metric_row_destroy(&row);
}

/* 1 .. 20, a population with one loss that is not a number, and one device alone. */
Test(metrics, fairness_by_hand) {
    metric_row row;
    cr_assert(metric_row_create(&row, &SHAPE));
    row.first_device[1] = 20, row.first_device[2] = 22, row.first_device[3] = 23;
    row.described[0] = 20, row.described[1] = 2, row.described[2] = 1;
    double *loss = metric_doubles(&row, METRIC_TEST_LOSS);
    for (int i = 0; i < 20; i++) loss[i] = (i * 7) % 20 + 1; /* in no order */
    loss[20] = 2.0, loss[21] = NAN, loss[22] = 1.5;
    metric_row_derive(&row);
    cr_expect(isnan(metric_doubles(&row, METRIC_GINI)[0]), "nothing was evaluated");
    row.evaluated = true;
    metric_row_derive(&row);
    /* The worst two of 20; Gini of 1 .. n is (n^2 - 1) / (3 n (n + 1)). */
    cr_expect_float_eq(metric_doubles(&row, METRIC_WORST_DECILE)[0], 19.5, 1e-12);
    cr_expect_float_eq(metric_doubles(&row, METRIC_GINI)[0], 399.0 / (3.0 * 20.0 * 21.0), 1e-12);
    cr_expect(isnan(metric_doubles(&row, METRIC_WORST_DECILE)[1]) &&
              isnan(metric_doubles(&row, METRIC_GINI)[1]));
    cr_expect_float_eq(metric_doubles(&row, METRIC_WORST_DECILE)[2], 1.5, 0.0);
    cr_expect_float_eq(metric_doubles(&row, METRIC_GINI)[2], 0.0, 1e-15);
    cr_expect_eq(loss[0], 1.0, "the losses keep their order");
    metric_row_destroy(&row);
}

/* What summary.csv, `cohort info` and checkpoints within a round do with a metric they do for devices alone.
 */
Test(metrics, only_numbers_of_devices_are_summarised_or_summed) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        const metric *m = &metrics[id];
        bool of_devices = m->axes == METRIC_OF_DEVICE, doubles = m->type == METRIC_F64;
        if (m->columns[0].name || m->info) cr_expect(of_devices && doubles, "%s", m->path);
        if (m->summed) cr_expect(of_devices && m->when == METRIC_EACH_ROUND, "%s", m->path);
    }
}

Test(metrics, sums_of_a_round_come_back_out_of_a_checkpoint) {
    metric_row row, back;
    cr_assert(metric_row_create(&row, &SHAPE) && metric_row_create(&back, &SHAPE));
    size_t bytes = metric_sums_bytes(&SHAPE);
    cr_expect_geq(bytes, SHAPE.devices * sizeof(double), "the training loss is one of them");
    uint8_t *packed = malloc(bytes);
    cr_assert_not_null(packed);
    metric_sums_clear(&row);
    cr_expect_eq(metric_doubles(&row, METRIC_TRAIN_LOSS)[3], 0.0);
    cr_expect(isnan(metric_doubles(&row, METRIC_TEST_LOSS)[3]), "the steps of a round do not add to it");
    for (int i = 0; i < SHAPE.devices; i++) metric_doubles(&row, METRIC_TRAIN_LOSS)[i] = 0.5 + i;
    metric_sums_pack(&row, packed);
    metric_sums_unpack(&back, packed);
    for (int i = 0; i < SHAPE.devices; i++)
        cr_expect_eq(metric_doubles(&back, METRIC_TRAIN_LOSS)[i], 0.5 + i);
    metric_sums_drop(&back, 4);
    cr_expect(isnan(metric_doubles(&back, METRIC_TRAIN_LOSS)[4]));
    cr_expect_eq(metric_doubles(&back, METRIC_TRAIN_LOSS)[5], 5.5);
    free(packed);
    metric_row_destroy(&row);
    metric_row_destroy(&back);
}

/* The first cell of a line of the table, from one name in backquotes to the next; false: no more. */
static bool next_name(const char **at, char name[128]) {
    const char *begin = strchr(*at, '`'), *end = begin ? strchr(begin + 1, '`') : NULL,
               *cell = strchr(*at, '|');
    if (!end || (cell && cell < begin)) return false;
    snprintf(name, 128, "/%.*s", (int)(end - begin - 1), begin + 1);
    *at = end + 1;
    return true;
}

/* results/README.md lists the datasets of trace.h5: all metrics, and of the names that it gives to numbers by
 * row none that is no metric. */
Test(metrics, the_list_of_datasets_is_that_of_the_table) {
    char line[1024], name[128];
    bool listed[METRIC_COUNT] = {false};
    FILE *readme = fopen(COHORT_SOURCE_DIR "/results/README.md", "r");
    cr_assert_not_null(readme);
    while (fgets(line, sizeof line, readme)) {
        const char *at = line + 1, *axes = strchr(line + 1, '|');
        if (line[0] != '|' || !axes || strncmp(axes, "| row", 5) != 0) continue;
        while (next_name(&at, name)) {
            metric_id id = 0;
            while (id < METRIC_COUNT && strcmp(metrics[id].path, name) != 0) id++;
            cr_expect_lt(id, METRIC_COUNT, "results/README.md: %s is not a metric", name);
            if (id < METRIC_COUNT) listed[id] = true;
        }
    }
    fclose(readme);
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        cr_expect(listed[id], "results/README.md does not list %s", metrics[id].path);
}
