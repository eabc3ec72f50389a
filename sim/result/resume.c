/* resume.c - goes on with a trace that a killed or finished run left behind.
 *
 * The old file is opened for reading only (RDONLY | SWMR_READ): opening a killed writer's file for writing,
 * or clearing its mark, can truncate it. Rows up to the checkpoint's round are copied into PATH.tmp, which
 * then takes its place; until that rename the old file is whole, so this can be killed as well. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "result/writer.h"
#include "support/durable.h"

enum { COPY_BYTES = 4 * 1024 * 1024 };

typedef struct {
    hid_t file;
    int64_t rows; /* up to the wanted round */
    int last_round;
    char *created_utc; /* owned */
} old_trace;

static void close_old(old_trace *old) {
    if (old->file >= 0) H5Fclose(old->file);
    free(old->created_utc);
}

static exit_code find_rows(const char *path, old_trace *old, int wanted, h5_error *error, problems *list) {
    int64_t n = 0;
    int32_t *rounds = trace_read_rounds(old->file, &n, error);
    if (!rounds) return h5_problem(error, path, "it is damaged: start over in a new folder", list);
    while (old->rows < n && rounds[old->rows] <= wanted) old->last_round = rounds[old->rows++];
    free(rounds);
    if (old->last_round == wanted) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s: holds %lld rounds (up to round %d), but the checkpoint was taken after round %d: the "
                   "two do not belong together",
                   path, (long long)n, old->last_round, wanted);
}

static int same_shape(hid_t dataset, metric_id id, const metric_shape *shape) {
    hsize_t wanted[TRACE_MAX_RANK], found[H5S_MAX_RANK] = {0};
    int rank = table_dimensions(id, shape, wanted);
    hid_t space = H5Dget_space(dataset);
    bool same = space >= 0 && H5Sget_simple_extent_ndims(space) == rank &&
                H5Sget_simple_extent_dims(space, found, NULL) == rank;
    for (int i = 1; i < rank && same; i++) same = found[i] == wanted[i];
    if (space >= 0) H5Sclose(space);
    return same;
}

static exit_code check_shape(const char *path, const old_trace *old, metric_id id, const metric_shape *shape,
                             problems *list) {
    h5_error error = {0};
    bool there = H5Lexists(old->file, metrics[id].path, H5P_DEFAULT) > 0;
    hid_t dataset = there ? H5Dopen2(old->file, metrics[id].path, H5P_DEFAULT) : -1;
    bool same = dataset >= 0 && same_shape(dataset, id, shape);
    if (there && dataset < 0) h5_failed(&error, "%s cannot be read", metrics[id].path);
    if (dataset >= 0) H5Dclose(dataset);
    if (same) return EXIT_OK;
    if (error.text[0]) return h5_problem(&error, path, "it is damaged: start over in a new folder", list);
    return problem(
        list, EXIT_INPUT,
        "%s: %s is missing or has another shape than this run's: it belongs to another configuration", path,
        metrics[id].path);
}

static exit_code check_shapes(const char *path, const old_trace *old, const metric_shape *shape,
                              problems *list) {
    exit_code code = EXIT_OK;
    for (int id = 0; id < METRIC_COUNT && code == EXIT_OK; id++)
        if (metric_recorded(id, shape)) code = check_shape(path, old, id, shape, list);
    return code;
}

static exit_code open_old(const char *path, const trace_header *header, int wanted, old_trace *old,
                          problems *list) {
    h5_error error = {0};
    *old = (old_trace){.file = -1};
    if (access(path, R_OK))
        return problem(list, EXIT_INPUT,
                       "%s: there is no trace to resume, though the checkpoint was taken after round %d",
                       path, wanted);
    old->file = h5_open_file(path, true, &error);
    if (old->file >= 0) old->created_utc = h5_read_text(old->file, "created_utc", &error);
    if (!old->created_utc)
        return h5_problem(&error, path, "it is not a trace, or damaged: start over in a new folder", list);
    const metric_shape shape = trace_shape_of(header);
    exit_code code = check_shapes(path, old, &shape, list);
    return THEN(code, find_rows(path, old, wanted, &error, list));
}

/* Nothing but fill values: left unwritten, so that rounds without an evaluation take no space in the new file
 * either. */
static bool only_fill(metric_id id, const uint8_t *row, size_t bytes) {
    size_t size = metric_value_bytes(id);
    return memcmp(row, metric_fill(id), size) == 0 && memcmp(row, row + size, bytes - size) == 0;
}

int table_write_measured(const trace_file *file, metric_id id, int64_t first, int64_t count,
                         const uint8_t *values, h5_error *error) {
    size_t row_bytes = metric_bytes(id, &file->shape);
    for (int64_t row = 0, run = 0; row < count; row += run ? run : 1) {
        run = 0;
        while (row + run < count && !only_fill(id, values + (size_t)(row + run) * row_bytes, row_bytes))
            run++;
        if (run && table_write_rows(file, id, first + row, run, values + (size_t)row * row_bytes, error))
            return -1;
    }
    return 0;
}

static int copy_table(const old_trace *old, const trace_file *file, metric_id id, h5_error *error) {
    size_t row_bytes = metric_bytes(id, &file->shape);
    int64_t block = row_bytes < COPY_BYTES ? (int64_t)(COPY_BYTES / row_bytes) : 1;
    uint8_t *values = malloc((size_t)block * row_bytes);
    hid_t dataset = H5Dopen2(old->file, metrics[id].path, H5P_DEFAULT);
    int status = dataset < 0 || !values ? h5_failed(error, "cannot read %s", metrics[id].path)
                                        : table_extend(file, id, old->rows, error);
    for (int64_t first = 0; first < old->rows && !status; first += block) {
        int64_t count = old->rows - first < block ? old->rows - first : block;
        if (table_read_rows(dataset, id, &file->shape, first, count, values))
            status = h5_failed(error, "cannot read the rows of %s", metrics[id].path);
        else
            status = table_write_measured(file, id, first, count, values, error);
    }
    if (dataset >= 0) H5Dclose(dataset);
    free(values);
    return status;
}

static int copy_rows(const old_trace *old, trace_file *file, h5_error *error) {
    for (int id = 0; id < METRIC_COUNT; id++)
        if (file->datasets[id] >= 0 && copy_table(old, file, id, error)) return -1;
    file->rows = old->rows;
    file->last_round = old->last_round;
    return 0;
}

static exit_code replace_old(const char *path, const trace_header *header, const old_trace *old,
                             trace_file *file, problems *list) {
    char *temporary = durable_temporary(path);
    if (!temporary) return problem(list, EXIT_ENVIRONMENT, "%s: not enough memory to resume it", path);
    unlink(temporary);
    h5_error error = {0};
    int status = trace_file_create(file, temporary, header, old->created_utc, &error);
    if (!status) status = copy_rows(old, file, &error);
    if (!status) status = trace_file_publish(file, temporary, path, &error);
    if (status) unlink(temporary);
    free(temporary);
    if (!status) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: %s; it was left as it is: make room or repair the disk, then try --resume again",
                   path, error.text);
}

exit_code trace_resume(const char *path, const trace_header *header, int rounds, trace **out,
                       problems *list) {
    *out = NULL;
    if (rounds == 0) return trace_create(path, header, out, list);
    exit_code code = trace_check_header(path, header, list);
    if (code != EXIT_OK) return code;
    old_trace old;
    trace_file file;
    h5_enter();
    code = open_old(path, header, rounds, &old, list);
    THEN(code, replace_old(path, header, &old, &file, list));
    close_old(&old);
    h5_leave();
    return THEN(code, trace_start(&file, path, out, list));
}
