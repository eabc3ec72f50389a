/* trace_tables.h - the schema of trace.h5: a table for each metric, which grows by a row each round, and the
 * records of populations and devices. (`cohort table` is another thing: table.h.) */
#ifndef COHORT_TRACE_TABLES_H
#define COHORT_TRACE_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "result/h5.h"
#include "result/trace.h"

#define TRACE_COHORT_VERSION "0.1.0"
enum { TRACE_SCHEMA_VERSION = 1, TRACE_NAME_BYTES = 256, TRACE_MAX_RANK = METRIC_MAX_DIMS + 1 };

typedef struct {
    hid_t file;
    hid_t datasets[METRIC_COUNT]; /* -1 where nothing of the kind is recorded */
    metric_shape shape;
    int64_t rows;
    int last_round; /* of the last row, 0 before the first */
} trace_file;

metric_shape trace_shape_of(const trace_header *header);
/* dims[0] = 1; returns the rank */
int table_dimensions(metric_id id, const metric_shape *shape, hsize_t dims[TRACE_MAX_RANK]);
hid_t table_memory_type(metric_id id);

/* One record of /populations. */
typedef struct population_record {
    char name[TRACE_NAME_BYTES], method[TRACE_NAME_BYTES], split[32];
    uint64_t seed;
    int64_t tokens_per_device;
    int32_t devices, generalists, specialists, rank, top_k, first_source;
    char gates[16], evaluation[32]; /* evaluation: empty in traces of before there was the key */
    char point[SETTINGS_HASH_BYTES], revision[64];
} population_record;
hid_t population_type(h5_error *error); /* of population_record in memory */
hid_t device_type(h5_error *error);     /* of trace_device in memory */
/* of texts of fixed length, their zero byte included; -1 on failure */
hid_t text_type(size_t bytes);

/* Creates a file with all attributes and empty tables. The three functions below return -1 on failure, with
 * the reason noted. */
int trace_file_create(trace_file *file, const char *path, const trace_header *header, const char *created_utc,
                      h5_error *error);
/* Starts SWMR and puts the file in its place: from here on it can be read at any moment. No object can be
 * created any more. */
int trace_file_publish(trace_file *file, const char *temporary, const char *path, h5_error *error);
/* Appends a row: cells[table] are the row's values, NULL leaves the fill value. Flushed when it returns. */
int trace_file_append(trace_file *file, int round, const void *const cells[METRIC_COUNT], h5_error *error);
/* Writes rows [first, first + count) of one table, which has been extended; also in unpublished files. */
int table_extend(const trace_file *file, metric_id id, int64_t rows, h5_error *error);
int table_write_rows(const trace_file *file, metric_id id, int64_t first, int64_t count, const void *values,
                     h5_error *error);
/* The same, but rows that are nothing but fill values stay unwritten and take no space. */
int table_write_measured(const trace_file *file, metric_id id, int64_t first, int64_t count,
                         const uint8_t *values, h5_error *error);
int trace_file_sync(const trace_file *file, h5_error *error); /* to the disk */
int trace_file_close(trace_file *file, h5_error *error);

/* The rounds of the complete rows, *n of them: malloc'd, NULL on failure. */
int32_t *trace_read_rounds(hid_t file, int64_t *n, h5_error *error);
/* Of each population the round in which it diverged: from there on no device of it has a training loss; 0:
 * it did not. diverged [n_populations]. */
int trace_find_diverged(hid_t file, const trace_device *devices, int n_devices, const int32_t *rounds,
                        int64_t rows, int n_populations, int *diverged, h5_error *error);
/* All records of a table that never grows, *n of them: malloc'd, NULL on failure. Closes `type`. */
void *table_read_records(hid_t file, const char *path, hid_t type, size_t record_bytes, int *n,
                         h5_error *error);
/* /devices, likewise. An older trace says of a device's experts only how many there are: its generalists and
 * its rank are then those of its population. */
trace_device *table_read_devices(hid_t file, const population_record *populations, int n_populations, int *n,
                                 h5_error *error);
int table_read_rows(hid_t dataset, metric_id id, const metric_shape *shape, int64_t first, int64_t count,
                    void *values);

#endif
