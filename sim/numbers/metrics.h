/* metrics.h - what a run measures: one row per metric. Whatever handles all metrics walks these rows: the
 * memory of a round, what processes send to process 0, the plan, the tables of trace.h5, resume,
 * `cohort info`, and `cohort export --table metrics`.
 *
 * To add one: a name in metric_id, a row in metrics.c, and the line that computes it (or a function that
 * derives it from other metrics, named in the row). sim/README.md says more. */
#ifndef COHORT_METRICS_H
#define COHORT_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    METRIC_TRAIN_LOSS,
    METRIC_VALID_LOSS,
    METRIC_TEST_LOSS,
    METRIC_TEST_AFTER,
    METRIC_WORST_DECILE,
    METRIC_GINI,
    METRIC_GATE_MEAN,
    METRIC_TOKEN_SHARE,
    METRIC_ROUTING_IDS,
    METRIC_ROUTING_GATES,
    METRIC_BYTES_UP,
    METRIC_BYTES_DOWN,
    METRIC_TRAIN_WINDOWS,
    METRIC_VALID_WINDOWS,
    METRIC_TIME_TRAIN,
    METRIC_TIME_EVALUATE,
    METRIC_TIME_AGGREGATE,
    METRIC_TIME_TOTAL,
    METRIC_ROUND, /* the round's number; written last, so that its length is the number of complete rounds */
    METRIC_COUNT
} metric_id;

typedef enum { METRIC_F64, METRIC_F32, METRIC_I64, METRIC_I32 } metric_type;

/* What a round has a value of. */
typedef enum {
    METRIC_OF_RUN,          /* one; merging results adds up those of METRIC_F64, such as seconds */
    METRIC_OF_POPULATION,   /* [population] */
    METRIC_OF_DEVICE,       /* [device] */
    METRIC_OF_EXPERT,       /* [device, layer, expert] */
    METRIC_OF_TOKEN,        /* [window, token] of the recorded windows */
    METRIC_OF_TOKEN_EXPERT, /* [window, token, layer, expert] */
    METRIC_OF_TRAIN_WINDOW, /* [device, step, index] of the windows that steps drew */
    METRIC_OF_VALID_WINDOW
} metric_axes;

typedef enum { METRIC_EACH_ROUND, METRIC_WHERE_EVALUATED } metric_when;

/* Steps of a round and windows of a step, the largest over devices; all 0: not recorded. */
typedef struct {
    int train_steps, train_batch, valid_steps, valid_batch;
    bool of_tokens, of_examples; /* whether some devices' windows are places in text, and some are examples */
} sampling_shape;

typedef struct {
    int populations, devices, layers, experts; /* experts: the most of any device */
    int windows, sequence;                     /* recorded windows, tokens of each */
    sampling_shape sampling;
} metric_shape;

/* What summary.csv says of a metric that is METRIC_OF_DEVICE and METRIC_F64, for each population. Devices
 * without a value do not count. */
typedef enum {
    SUMMARY_MEAN,          /* over devices */
    SUMMARY_PERPLEXITY,    /* mean over devices of exp(value) (as released: 2.71828^value) */
    SUMMARY_PERPLEXITY_STD /* and its deviation over devices */
} summary_kind;
typedef struct {
    const char *name;
    summary_kind kind;
} metric_column;
enum { METRIC_COLUMNS = 3 };

typedef struct metric_row metric_row;

typedef struct {
    const char *path, *units; /* of the dataset in trace.h5; of windows see metric_units() */
    metric_type type;
    metric_axes axes;
    metric_when when;
    /* computes it on process 0 from the other metrics of the round; NULL: measured */
    void (*derive)(metric_row *row);
    /* Of METRIC_OF_DEVICE: the steps of a round add to it. It is 0 when the round begins. A checkpoint that
     * is written within a round has it. */
    bool summed;
    metric_column columns[METRIC_COLUMNS]; /* of summary.csv; the first without a name ends them */
    /* Its heading in the table of losses that `cohort info` prints, of METRIC_OF_DEVICE and METRIC_F64;
     * NULL: it is not in that table. */
    const char *info;
} metric;
extern const metric metrics[METRIC_COUNT];

enum { METRIC_MAX_DIMS = 4 };
/* False where nothing of the kind was asked for: no window's routing, no offsets. */
bool metric_recorded(metric_id id, const metric_shape *shape);
/* What it counts: of windows, tokens or examples. */
const char *metric_units(metric_id id, const metric_shape *shape);
/* of a round; returns how many, 0 or more */
int metric_dimensions(metric_id id, const metric_shape *shape, int64_t dims[METRIC_MAX_DIMS]);
/* of a round */
int64_t metric_values(metric_id id, const metric_shape *shape);
size_t metric_value_bytes(metric_id id);
size_t metric_bytes(metric_id id, const metric_shape *shape); /* of a round */
/* what stands where nothing was measured: NaN, or -1 */
const void *metric_fill(metric_id id);

/* The metrics of one round. Devices of a population are neighbours. */
struct metric_row {
    metric_shape shape;
    bool evaluated;             /* METRIC_WHERE_EVALUATED counts */
    void *values[METRIC_COUNT]; /* owned; NULL where it is not recorded */
    int *first_device;          /* [populations + 1], owned, the caller fills it, and the next */
    /* [populations], owned: how many devices of the population are not held out. They are its first devices,
     * and the numbers of a population are about them alone. */
    int *described;
    double *sorted; /* [devices], owned: room for a derived metric */
};
/* Memory that metric_row_create() takes, and the bytes of all recorded values. */
size_t metric_row_bytes(const metric_shape *shape);
size_t metric_all_bytes(const metric_shape *shape);
/* Every value is the fill value. False without memory; metric_row_destroy() is right in any case. */
bool metric_row_create(metric_row *row, const metric_shape *shape);
void metric_row_destroy(metric_row *row);
/* Of the metrics that are `summed`: _clear sets all to 0, _drop takes the values of a device that has
 * stopped away, _pack and _unpack copy all to and from metric_sums_bytes() bytes. */
void metric_sums_clear(metric_row *row);
void metric_sums_drop(metric_row *row, int device);
size_t metric_sums_bytes(const metric_shape *shape);
void metric_sums_pack(const metric_row *row, uint8_t *out);
void metric_sums_unpack(metric_row *row, const uint8_t *bytes);
/* Computes what is derived: on process 0, when the round's other numbers are there. */
void metric_row_derive(metric_row *row);

static inline int metric_round(const metric_row *row) {
    return *(const int32_t *)row->values[METRIC_ROUND];
}
static inline double *metric_doubles(const metric_row *row, metric_id id) {
    return row->values[id];
}
static inline float *metric_floats(const metric_row *row, metric_id id) {
    return row->values[id];
}
static inline int64_t *metric_longs(const metric_row *row, metric_id id) {
    return row->values[id];
}
static inline int32_t *metric_ints(const metric_row *row, metric_id id) {
    return row->values[id];
}

/* fairness.c */
void derive_worst_decile(metric_row *row);
void derive_gini(metric_row *row);

#endif
