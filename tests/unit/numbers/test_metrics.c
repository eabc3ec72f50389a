/* The table of metrics, and what is derived from them. */
#include <criterion/criterion.h>
#include <math.h>
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
