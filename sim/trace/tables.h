/* tables.h - the schema of trace.h5: which tables there are, their shapes, types and units. Writing, resuming and info all go by
 * this one list. */
#ifndef COHORT_TRACE_TABLES_H
#define COHORT_TRACE_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trace/h5.h"
#include "trace/trace.h"

#define TRACE_COHORT_VERSION "0.1.0"
enum { TRACE_SCHEMA_VERSION = 1, TRACE_NAME_BYTES = 256, TRACE_MAX_RANK = 5 };

/* Tables that grow by a row each round. /rounds is written last: its length is the number of complete rows. */
typedef enum {
    TABLE_TRAIN_LOSS,
    TABLE_VALID_LOSS,
    TABLE_TEST_LOSS,
    TABLE_TEST_AFTER,
    TABLE_GATE_MEAN,
    TABLE_TOKEN_SHARE,
    TABLE_ROUTING_IDS,
    TABLE_ROUTING_GATES,
    TABLE_BYTES_UP,
    TABLE_BYTES_DOWN,
    TABLE_TRAIN_WINDOWS,
    TABLE_VALID_WINDOWS,
    TABLE_TIME_TRAIN,
    TABLE_TIME_EVALUATE,
    TABLE_TIME_AGGREGATE,
    TABLE_TIME_TOTAL,
    TABLE_ROUNDS,
    TABLE_COUNT
} table_id;

typedef enum { TABLE_F64, TABLE_F32, TABLE_I64, TABLE_I32 } table_type;
typedef enum { AXES_ROW, AXES_DEVICE, AXES_EXPERT, AXES_TOKEN, AXES_TOKEN_EXPERT, AXES_TRAIN_WINDOW, AXES_VALID_WINDOW } table_axes;

typedef struct {
    const char *path, *units;
    table_type type;
    table_axes axes;
} table_spec;
extern const table_spec table_specs[TABLE_COUNT];

typedef struct {
    int devices, layers, experts, windows, sequence;
    trace_sampling sampling;
} trace_shape;

typedef struct {
    hid_t file;
    hid_t datasets[TABLE_COUNT]; /* -1 where nothing of the kind is recorded */
    trace_shape shape;
    int64_t rows;
    int last_round; /* of the last row, 0 before the first */
} trace_file;

trace_shape trace_shape_of(const trace_header *header);
/* False where nothing of the kind was asked for: no window's routing, no offsets. */
bool table_recorded(const table_spec *spec, const trace_shape *shape);
int table_dimensions(const table_spec *spec, const trace_shape *shape, hsize_t dims[TRACE_MAX_RANK]); /* dims[0] = 1; returns the rank */
size_t table_value_bytes(const table_spec *spec);
size_t table_row_bytes(const table_spec *spec, const trace_shape *shape);
hid_t table_memory_type(const table_spec *spec);
const void *table_fill(const table_spec *spec); /* what stands where nothing was measured: NaN, or -1 */

/* One record of /populations. */
typedef struct {
    char name[TRACE_NAME_BYTES], method[TRACE_NAME_BYTES], split[32];
    uint64_t seed;
    int64_t tokens_per_device;
    int32_t devices, generalists, specialists, rank, top_k, first_source;
    char gates[16];
} population_record;
hid_t population_type(h5_error *error); /* of population_record in memory */
hid_t device_type(h5_error *error);     /* of trace_device in memory */
hid_t text_type(size_t bytes);          /* of texts of fixed length, their zero byte included; -1 on failure */

/* Creates a file with all attributes and empty tables. The three functions below return -1 on failure, with the reason noted. */
int trace_file_create(trace_file *file, const char *path, const trace_header *header, const char *created_utc, h5_error *error);
/* Starts SWMR and puts the file in its place: from here on it can be read at any moment. No object can be created any more. */
int trace_file_publish(trace_file *file, const char *temporary, const char *path, h5_error *error);
/* Appends a row: cells[table] are the row's values, NULL leaves the fill value. Flushed when it returns. */
int trace_file_append(trace_file *file, int round, const void *const cells[TABLE_COUNT], h5_error *error);
/* Writes rows [first, first + count) of one table, which has been extended; used on unpublished files too. */
int table_extend(const trace_file *file, table_id id, int64_t rows, h5_error *error);
int table_write_rows(const trace_file *file, table_id id, int64_t first, int64_t count, const void *values, h5_error *error);
int trace_file_sync(const trace_file *file, h5_error *error); /* to the disk */
int trace_file_close(trace_file *file, h5_error *error);

/* The rounds of the complete rows, *n of them: malloc'd, NULL on failure. */
int32_t *trace_read_rounds(hid_t file, int64_t *n, h5_error *error);
int table_read_rows(hid_t dataset, const table_spec *spec, const trace_shape *shape, int64_t first, int64_t count, void *values);

#endif
