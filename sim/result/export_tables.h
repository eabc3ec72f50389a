/* export_tables.h - what export.c reads and export_rows.c writes: the tables by name, and an open result. */
#ifndef COHORT_TRACE_EXPORT_TABLES_H
#define COHORT_TRACE_EXPORT_TABLES_H

#include <stdio.h>

#include "result/trace_tables.h"

enum { EXPORT_PATH_BYTES = 4096 };

typedef struct {
    char path[EXPORT_PATH_BYTES]; /* of trace.h5 */
    hid_t file;
    metric_shape shape;
    int n_populations, n_devices, n_windows, n_sources;
    population_record *populations; /* owned */
    trace_device *devices;          /* owned */
    int *diverged;                  /* [n_populations] round in which it diverged, 0: it did not; owned */
    int64_t *cell;                  /* [n_devices] room for a cell with a number for each, owned */
    /* [n_sources, source_bytes], with zero bytes, owned; NULL: an older trace has none */
    char *source_names;
    size_t source_bytes;
    /* [n_devices, most_sources] training tokens of each source, owned; NULL: an older trace has none */
    int64_t *mixtures;
    int most_sources;
    int32_t *window_devices;            /* [n_windows], owned */
    int32_t *rounds;                    /* [rows], owned */
    int64_t *train_steps, *valid_steps; /* [n_devices] taken in the rows written so far, owned */
    int64_t rows;
} export_source;

/* Between h5_enter() and h5_leave(); to be closed whatever the code. */
exit_code export_open(const char *folder, export_source *s, problems *list);
void export_close(export_source *s);

enum { EXPORT_MOST_COLUMNS = 4 };

/* values[id] is the row's value of a metric that the table uses, NULL where the trace has none. A table that
 * uses none is written once, from the source alone. */
typedef struct {
    const char *name, *header, *wish; /* wish: the setting that asks for it; NULL: always there */
    bool every_metric;                /* it uses all that are of a population or a device */
    int n_columns;
    metric_id columns[EXPORT_MOST_COLUMNS];
    void (*write)(export_source *source, int64_t row, const void *const values[METRIC_COUNT], FILE *out);
} export_table;

extern const export_table export_tables[];
extern const int export_n_tables;

#endif
