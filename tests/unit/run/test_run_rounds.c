/* Rounds: local steps, losses, aggregation, losses, a row of the trace. Each is compared with the same steps
 * taken one by one. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "run/rounds.h"
#include "run/summarise.h"
#include "run/trace_open.h"
#include "unit/small_run.h"
#include "unit/trace_fixture.h"

static const char *const THREE =
    "  - {name: f, method: fedavg, devices: 2}\n"
    "  - {name: c, method: comigs, devices: 3, generalists: 1, specialists: [1, 2, 0]}\n"
    "  - {name: l, method: local, devices: 2}\n";
enum { DEVICES = 7, FIRST_LOCAL = 5, LOCAL_STEPS = 3 };

static float *parameters(const small_run *r) {
    return small_download(r, r->session->fleet->parameters, r->session->fleet->n_parameters);
}

/* All rounds as a run takes them; the trace lies at small_folder()/rounds/trace.h5. */
static void take_rounds(small_run *r, char path[FOLDER_PATH_BYTES]) {
    checkpoint state = {0};
    trace *t = NULL;
    result_folder folder = {0};
    snprintf(folder.path, sizeof folder.path, "%.4000s/rounds", small_folder());
    small_check(result_begin(r->settings, &folder, r->problems), r->problems, "folder");
    result_path(&folder, "trace.h5", path);
    small_check(checkpoints_create(r->session, &state, r->problems), r->problems, "checkpoint");
    small_check(session_open_trace(r->session, path, 0, &t, r->problems), r->problems, "trace");
    rounds all = {.session = r->session, .trace = t, .checkpoint = &state, .folder = &folder, .quiet = true};
    small_check(rounds_run(&all, r->problems), r->problems, "rounds");
    small_check(trace_close(t, r->problems), r->problems, "trace");
    checkpoints_destroy(&state);
    result_end(&folder);
}

static void take_local_steps(small_run *r) {
    for (int i = 0; i < LOCAL_STEPS; i++) {
        small_check(session_local_step(r->session, r->problems), r->problems, "expert step");
        small_check(session_follow_ups(r->session, r->problems), r->problems, "bursts");
    }
}

static void evaluate(small_run *r, data_part part, double loss[DEVICES]) {
    metric_id into = part == DATA_TEST ? METRIC_TEST_LOSS : METRIC_VALID_LOSS;
    small_check(session_evaluate(r->session, (evaluation_order){.part = part}, into, r->problems),
                r->problems, "evaluation");
    memcpy(loss, metric_doubles(&r->session->numbers, into), DEVICES * sizeof *loss);
}

typedef struct {
    int n;
    int64_t *offset, *count;
    const float *pack;
} shared_ranges;

static shared_ranges shared_of(const fleet *f, int device_index, const float *all) {
    const device *d = &f->devices[device_index];
    const ck_shape *shape = &f->shapes[d->shape];
    size_t most = (size_t)ck_part_count(shape);
    shared_ranges s = {.offset = malloc(most * sizeof *s.offset),
                       .count = malloc(most * sizeof *s.count),
                       .pack = all + d->pack};
    for (int i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        if (!population_shares(&f->populations[d->population], d, &part)) continue;
        s.offset[s.n] = part.offset;
        s.count[s.n++] = (int64_t)part.rows * part.columns;
    }
    return s;
}

static void drop_ranges(shared_ranges *s) {
    free(s->offset);
    free(s->count);
}

/* Replaces the shared ranges of a population in `mean` by their means over its devices in `all`, in the order
 * of the devices. */
static void average_population(const fleet *f, const population *p, const float *all, float *mean) {
    shared_ranges from[DEVICES] = {0};
    for (int i = 0; i < p->n_devices; i++) from[i] = shared_of(f, p->first_device + i, all);
    for (int j = 0; j < from[0].n; j++)
        for (int64_t k = 0; k < from[0].count[j]; k++) {
            double sum = 0.0;
            for (int i = 0; i < p->n_devices; i++) sum += from[i].pack[from[i].offset[j] + k];
            for (int i = 0; i < p->n_devices; i++)
                mean[f->devices[p->first_device + i].pack + from[i].offset[j] + k] =
                    (float)(sum / p->n_devices);
        }
    for (int i = 0; i < p->n_devices; i++) drop_ranges(&from[i]);
}

static float *averaged(const fleet *f, const float *all) {
    float *mean = malloc((size_t)f->n_parameters * sizeof *mean);
    memcpy(mean, all, (size_t)f->n_parameters * sizeof *mean);
    for (int i = 0; i < 2; i++) average_population(f, &f->populations[i], all, mean);
    return mean;
}

static void expect_averaged(const fleet *f, const float *before, const float *after) {
    float *mean = averaged(f, before);
    int moved = 0;
    for (int64_t i = 0; i < f->n_parameters; i++) {
        moved += mean[i] != before[i];
        cr_assert_float_eq(after[i], mean[i], 1e-6, "float %lld: %g, mean %g", (long long)i, (double)after[i],
                           (double)mean[i]);
    }
    cr_expect_gt(moved, 1000, "the devices had grown apart in only %d values", moved);
    free(mean);
}

static void expect_equal_where_shared(const fleet *f, const population *p, const float *all) {
    shared_ranges first = shared_of(f, p->first_device, all);
    cr_expect_gt(first.n, 0, "population %s averages something", p->settings->name);
    for (int i = 1; i < p->n_devices; i++) {
        shared_ranges other = shared_of(f, p->first_device + i, all);
        for (int j = 0; j < first.n; j++)
            cr_expect_arr_eq(other.pack + other.offset[j], first.pack + first.offset[j],
                             (size_t)first.count[j] * sizeof(float), "population %s: range %d of device %d",
                             p->settings->name, j, i);
        drop_ranges(&other);
    }
    drop_ranges(&first);
}

/* The same run by hand, up to where the last round's aggregation begins. */
static small_run before_last_aggregation(int n_rounds, const char *const overrides[1]) {
    small_run r = small_open(THREE, 1, overrides);
    for (int i = 1; i <= n_rounds; i++) {
        if (i > 1) small_check(fleet_aggregate(r.session->fleet, 1, r.problems), r.problems, "aggregation");
        take_local_steps(&r);
    }
    return r;
}

static void expect_last_aggregation(int n_rounds, const char *const overrides[1]) {
    char path[FOLDER_PATH_BYTES];
    small_run run = small_open(THREE, 1, overrides), steps = before_last_aggregation(n_rounds, overrides);
    take_rounds(&run, path);
    const fleet *f = run.session->fleet;
    float *before = parameters(&steps), *after = parameters(&run);
    expect_averaged(f, before, after);
    for (int i = 0; i < 2; i++) expect_equal_where_shared(f, &f->populations[i], after);
    free(before);
    free(after);
    small_close(&run);
    small_close(&steps);
}

Test(rounds, the_first_round_ends_with_the_mean_of_what_is_shared) {
    const char *one[] = {"train.rounds=1"};
    expect_last_aggregation(1, one);
}

Test(rounds, later_rounds_go_on_from_that_mean_and_end_with_another) {
    const char *two[] = {"train.rounds=2"};
    expect_last_aggregation(2, two);
}

static void expect_losses(const double found[DEVICES], const double expected[DEVICES], double tolerance,
                          const char *what) {
    for (int i = 0; i < DEVICES; i++)
        cr_expect_float_eq(found[i], expected[i], tolerance, "%s of device %d: %.17g, expected %.17g", what,
                           i, found[i], expected[i]);
}

/* Test and validation loss belong to the models before the aggregation, test_after to the averaged ones. */
Test(rounds, losses_are_those_before_and_after_the_aggregation) {
    const char *one[] = {"train.rounds=1"};
    char path[FOLDER_PATH_BYTES];
    small_run run = small_open(THREE, 1, one), steps = before_last_aggregation(1, one);
    take_rounds(&run, path);
    const metric_row *n = &run.session->numbers;
    const double *test_before = metric_doubles(n, METRIC_TEST_LOSS),
                 *test_after = metric_doubles(n, METRIC_TEST_AFTER);
    double test[DEVICES], valid[DEVICES], after[DEVICES];
    evaluate(&steps, DATA_TEST, test);
    evaluate(&steps, DATA_VALID, valid);
    expect_losses(test_before, test, 0.0, "test loss");
    expect_losses(metric_doubles(n, METRIC_VALID_LOSS), valid, 0.0, "validation loss");
    float *before = parameters(&steps), *mean = averaged(steps.session->fleet, before);
    size_t bytes = (size_t)steps.session->fleet->n_parameters * sizeof *mean;
    cr_assert_eq(ck_upload(steps.session->stream, steps.session->fleet->parameters, mean, bytes), CK_OK);
    evaluate(&steps, DATA_TEST, after);
    expect_losses(test_after, after, 1e-6, "test loss of the averaged model");
    for (int i = 0; i < DEVICES; i++) {
        if (i < FIRST_LOCAL)
            cr_expect_gt(fabs(test_before[i] - test_after[i]), 1e-5, "device %d: averaging changed nothing",
                         i);
        else
            cr_expect_eq(test_before[i], test_after[i], "device %d averages nothing", i);
    }
    free(before);
    free(mean);
    small_close(&run);
    small_close(&steps);
}

static void expect_row(const char *path, const char *dataset, int row, const double expected[DEVICES]) {
    hsize_t dims[5] = {0};
    double *found = fixture_read(path, dataset, H5T_NATIVE_DOUBLE, dims);
    cr_assert_not_null(found, "%s", dataset);
    cr_assert(dims[0] == (hsize_t)row + 1 && dims[1] == DEVICES);
    expect_losses(found + (int64_t)row * DEVICES, expected, 0.0, dataset);
}

Test(rounds, trace_and_summary_keep_the_two_losses_apart) {
    char path[FOLDER_PATH_BYTES];
    small_run r = small_open(THREE, 0, NULL);
    take_rounds(&r, path);
    const metric_row *n = &r.session->numbers;
    const double *test = metric_doubles(n, METRIC_TEST_LOSS), *after = metric_doubles(n, METRIC_TEST_AFTER);
    expect_row(path, "/loss/train", 1, metric_doubles(n, METRIC_TRAIN_LOSS));
    expect_row(path, "/loss/valid", 1, metric_doubles(n, METRIC_VALID_LOSS));
    expect_row(path, "/loss/test", 1, test);
    expect_row(path, "/loss/test_after", 1, after);
    summary_row rows[3];
    population_course courses[3] = {0};
    summarise(r.session, courses, rows);
    cr_expect_float_eq(rows[0].of_metric[METRIC_TEST_LOSS][2], (test[0] + test[1]) / 2.0, 1e-12);
    cr_expect_float_eq(rows[0].of_metric[METRIC_TEST_LOSS][0], (exp(test[0]) + exp(test[1])) / 2.0, 1e-9);
    cr_expect_float_eq(rows[0].of_metric[METRIC_TEST_AFTER][0], (exp(after[0]) + exp(after[1])) / 2.0, 1e-9);
    cr_expect_neq(rows[0].of_metric[METRIC_TEST_LOSS][0], rows[0].of_metric[METRIC_TEST_AFTER][0]);
    small_close(&r);
}
