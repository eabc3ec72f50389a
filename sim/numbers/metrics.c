#include "numbers/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const metric metrics[METRIC_COUNT] = {
    [METRIC_TRAIN_LOSS] = {"/loss/train", "nats/token", METRIC_F64, METRIC_OF_DEVICE, METRIC_EACH_ROUND,
                           .summed = true, .info = "train"},
    [METRIC_VALID_LOSS] = {"/loss/valid", "nats/token", METRIC_F64, METRIC_OF_DEVICE, METRIC_WHERE_EVALUATED,
                           .columns = {{"valid_loss_mean", SUMMARY_MEAN}}, .info = "valid"},
    [METRIC_TEST_LOSS] = {"/loss/test", "nats/token", METRIC_F64, METRIC_OF_DEVICE, METRIC_WHERE_EVALUATED,
                          .columns = {{"test_ppl_mean", SUMMARY_PERPLEXITY},
                                      {"test_ppl_std", SUMMARY_PERPLEXITY_STD},
                                      {"test_loss_mean", SUMMARY_MEAN}},
                          .info = "test"},
    [METRIC_TEST_AFTER] = {"/loss/test_after", "nats/token", METRIC_F64, METRIC_OF_DEVICE,
                           METRIC_WHERE_EVALUATED, .columns = {{"test_ppl_after", SUMMARY_PERPLEXITY}},
                           .info = "after"},
    [METRIC_WORST_DECILE] = {"/fairness/test_worst_decile", "nats/token", METRIC_F64, METRIC_OF_POPULATION,
                             METRIC_WHERE_EVALUATED, .derive = derive_worst_decile},
    [METRIC_GINI] = {"/fairness/test_gini", "1", METRIC_F64, METRIC_OF_POPULATION, METRIC_WHERE_EVALUATED,
                     .derive = derive_gini},
    [METRIC_GATE_MEAN] = {"/routing/gate_mean", "1", METRIC_F32, METRIC_OF_EXPERT, METRIC_WHERE_EVALUATED},
    [METRIC_TOKEN_SHARE] = {"/routing/token_share", "1", METRIC_F32, METRIC_OF_EXPERT,
                            METRIC_WHERE_EVALUATED},
    [METRIC_ROUTING_IDS] = {"/routing/tokens/ids", "token", METRIC_I32, METRIC_OF_TOKEN,
                            METRIC_WHERE_EVALUATED},
    [METRIC_ROUTING_GATES] = {"/routing/tokens/gates", "1", METRIC_F32, METRIC_OF_TOKEN_EXPERT,
                              METRIC_WHERE_EVALUATED},
    [METRIC_BYTES_UP] = {"/traffic/bytes_up", "bytes", METRIC_I64, METRIC_OF_DEVICE, METRIC_EACH_ROUND},
    [METRIC_BYTES_DOWN] = {"/traffic/bytes_down", "bytes", METRIC_I64, METRIC_OF_DEVICE, METRIC_EACH_ROUND},
    [METRIC_TRAIN_WINDOWS] = {"/sampling/windows/train", "token", METRIC_I64, METRIC_OF_TRAIN_WINDOW,
                              METRIC_EACH_ROUND},
    [METRIC_VALID_WINDOWS] = {"/sampling/windows/valid", "token", METRIC_I64, METRIC_OF_VALID_WINDOW,
                              METRIC_EACH_ROUND},
    [METRIC_TIME_TRAIN] = {"/time/train", "s", METRIC_F64, METRIC_OF_RUN, METRIC_EACH_ROUND},
    [METRIC_TIME_EVALUATE] = {"/time/evaluate", "s", METRIC_F64, METRIC_OF_RUN, METRIC_EACH_ROUND},
    [METRIC_TIME_AGGREGATE] = {"/time/aggregate", "s", METRIC_F64, METRIC_OF_RUN, METRIC_EACH_ROUND},
    [METRIC_TIME_TOTAL] = {"/time/total", "s", METRIC_F64, METRIC_OF_RUN, METRIC_EACH_ROUND},
    [METRIC_ROUND] = {"/rounds", "round", METRIC_I32, METRIC_OF_RUN, METRIC_EACH_ROUND},
};

bool metric_recorded(metric_id id, const metric_shape *shape) {
    switch (metrics[id].axes) {
    case METRIC_OF_TOKEN:
    case METRIC_OF_TOKEN_EXPERT:
        return shape->windows > 0;
    case METRIC_OF_TRAIN_WINDOW:
        return shape->sampling.train_steps > 0;
    case METRIC_OF_VALID_WINDOW:
        return shape->sampling.valid_steps > 0;
    case METRIC_OF_RUN:
    case METRIC_OF_POPULATION:
    case METRIC_OF_DEVICE:
    case METRIC_OF_EXPERT:
        break;
    }
    return true;
}

const char *metric_units(metric_id id, const metric_shape *shape) {
    bool windows = metrics[id].axes == METRIC_OF_TRAIN_WINDOW || metrics[id].axes == METRIC_OF_VALID_WINDOW;
    if (!windows || !shape->sampling.of_examples) return metrics[id].units;
    return shape->sampling.of_tokens ? "token or example" : "example";
}

static int set_dimensions(int64_t dims[METRIC_MAX_DIMS], int n, const int64_t values[METRIC_MAX_DIMS]) {
    memcpy(dims, values, METRIC_MAX_DIMS * sizeof *dims);
    return n;
}

int metric_dimensions(metric_id id, const metric_shape *s, int64_t dims[METRIC_MAX_DIMS]) {
    const sampling_shape *w = &s->sampling;
    switch (metrics[id].axes) {
    case METRIC_OF_RUN:
        break;
    case METRIC_OF_POPULATION:
        return set_dimensions(dims, 1, (int64_t[METRIC_MAX_DIMS]){s->populations});
    case METRIC_OF_DEVICE:
        return set_dimensions(dims, 1, (int64_t[METRIC_MAX_DIMS]){s->devices});
    case METRIC_OF_EXPERT:
        return set_dimensions(dims, 3, (int64_t[METRIC_MAX_DIMS]){s->devices, s->layers, s->experts});
    case METRIC_OF_TOKEN:
        return set_dimensions(dims, 2, (int64_t[METRIC_MAX_DIMS]){s->windows, s->sequence});
    case METRIC_OF_TOKEN_EXPERT:
        return set_dimensions(dims, 4,
                              (int64_t[METRIC_MAX_DIMS]){s->windows, s->sequence, s->layers, s->experts});
    case METRIC_OF_TRAIN_WINDOW:
        return set_dimensions(dims, 3,
                              (int64_t[METRIC_MAX_DIMS]){s->devices, w->train_steps, w->train_batch});
    case METRIC_OF_VALID_WINDOW:
        return set_dimensions(dims, 3,
                              (int64_t[METRIC_MAX_DIMS]){s->devices, w->valid_steps, w->valid_batch});
    }
    return 0;
}

int64_t metric_values(metric_id id, const metric_shape *shape) {
    int64_t dims[METRIC_MAX_DIMS], values = 1;
    int n = metric_dimensions(id, shape, dims);
    for (int i = 0; i < n; i++) values *= dims[i];
    return values;
}

size_t metric_value_bytes(metric_id id) {
    return metrics[id].type == METRIC_F64 || metrics[id].type == METRIC_I64 ? 8 : 4;
}

size_t metric_bytes(metric_id id, const metric_shape *shape) {
    return (size_t)metric_values(id, shape) * metric_value_bytes(id);
}

const void *metric_fill(metric_id id) {
    static const double f64 = NAN;
    static const float f32 = NAN;
    static const int64_t i64 = -1;
    static const int32_t i32 = -1;
    switch (metrics[id].type) {
    case METRIC_F64:
        return &f64;
    case METRIC_F32:
        return &f32;
    case METRIC_I64:
        return &i64;
    case METRIC_I32:
        return &i32;
    }
    return NULL;
}

size_t metric_all_bytes(const metric_shape *shape) {
    size_t total = 0;
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metric_recorded(id, shape)) total += metric_bytes(id, shape);
    return total;
}

static size_t room_bytes(const metric_shape *shape) {
    return (size_t)shape->devices * sizeof(double) + (2 * (size_t)shape->populations + 1) * sizeof(int);
}

size_t metric_row_bytes(const metric_shape *shape) {
    return metric_all_bytes(shape) + room_bytes(shape);
}

static bool create_values(metric_row *row, metric_id id) {
    size_t value = metric_value_bytes(id), bytes = metric_bytes(id, &row->shape);
    uint8_t *values = malloc(bytes + 1);
    row->values[id] = values;
    for (size_t i = 0; values && i < bytes; i += value) memcpy(values + i, metric_fill(id), value);
    return values != NULL;
}

bool metric_row_create(metric_row *row, const metric_shape *shape) {
    *row = (metric_row){.shape = *shape};
    bool ok = true;
    for (metric_id id = 0; id < METRIC_COUNT && ok; id++)
        if (metric_recorded(id, shape)) ok = create_values(row, id);
    row->first_device = calloc((size_t)shape->populations + 1, sizeof *row->first_device);
    row->described = calloc((size_t)shape->populations + 1, sizeof *row->described);
    row->sorted = calloc((size_t)shape->devices + 1, sizeof *row->sorted);
    return ok && row->first_device && row->described && row->sorted;
}

void metric_row_destroy(metric_row *row) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) free(row->values[id]);
    free(row->first_device);
    free(row->described);
    free(row->sorted);
    *row = (metric_row){0};
}

void metric_sums_clear(metric_row *row) {
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metrics[id].summed) memset(row->values[id], 0, metric_bytes(id, &row->shape));
}

void metric_sums_drop(metric_row *row, int device) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        size_t bytes = metric_value_bytes(id);
        if (metrics[id].summed)
            memcpy((uint8_t *)row->values[id] + (size_t)device * bytes, metric_fill(id), bytes);
    }
}

size_t metric_sums_bytes(const metric_shape *shape) {
    size_t bytes = 0;
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metrics[id].summed) bytes += metric_bytes(id, shape);
    return bytes;
}

void metric_sums_pack(const metric_row *row, uint8_t *out) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        if (!metrics[id].summed) continue;
        memcpy(out, row->values[id], metric_bytes(id, &row->shape));
        out += metric_bytes(id, &row->shape);
    }
}

void metric_sums_unpack(metric_row *row, const uint8_t *bytes) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        if (!metrics[id].summed) continue;
        memcpy(row->values[id], bytes, metric_bytes(id, &row->shape));
        bytes += metric_bytes(id, &row->shape);
    }
}

void metric_row_derive(metric_row *row) {
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metrics[id].derive && (row->evaluated || metrics[id].when == METRIC_EACH_ROUND))
            metrics[id].derive(row);
}
