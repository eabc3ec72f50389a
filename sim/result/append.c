/* append.c - rows into an open trace.h5, and its way to the disk.
 *
 * A row is written to every table and flushed, then to /rounds and flushed: whoever reads sees a row of
 * /rounds only when the row is complete everywhere. Every flush is checked, because after a failed write
 * H5Dwrite may succeed and only H5Dflush tells. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "result/trace_tables.h"
#include "support/durable.h"

int table_extend(const trace_file *file, metric_id id, int64_t rows, h5_error *error) {
    hsize_t dims[TRACE_MAX_RANK];
    table_dimensions(id, &file->shape, dims);
    dims[0] = (hsize_t)rows;
    if (H5Dset_extent(file->datasets[id], dims) < 0)
        return h5_failed(error, "cannot extend %s", metrics[id].path);
    return 0;
}

int table_write_rows(const trace_file *file, metric_id id, int64_t first, int64_t count, const void *values,
                     h5_error *error) {
    hsize_t dims[TRACE_MAX_RANK], start[TRACE_MAX_RANK] = {(hsize_t)first};
    int rank = table_dimensions(id, &file->shape, dims);
    dims[0] = (hsize_t)count;
    hid_t memory = H5Screate_simple(rank, dims, NULL), space = H5Dget_space(file->datasets[id]);
    if (memory < 0 || space < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, dims, NULL) < 0 ||
        H5Dwrite(file->datasets[id], table_memory_type(id), memory, space, H5P_DEFAULT, values) < 0)
        return h5_failed(error, "cannot write %s", metrics[id].path);
    H5Sclose(memory);
    H5Sclose(space);
    return 0;
}

static int write_cell(const trace_file *file, metric_id id, const void *values, h5_error *error) {
    if (file->datasets[id] < 0) return 0;
    if (table_extend(file, id, file->rows + 1, error)) return -1;
    return values ? table_write_rows(file, id, file->rows, 1, values, error) : 0;
}

static int flush(const trace_file *file, metric_id id, h5_error *error) {
    if (file->datasets[id] < 0 || H5Dflush(file->datasets[id]) >= 0) return 0;
    return h5_failed(error, "cannot write %s", metrics[id].path);
}

int trace_file_append(trace_file *file, int round, const void *const cells[METRIC_COUNT], h5_error *error) {
    const int32_t stored_round = round;
    for (int id = 0; id < METRIC_ROUND; id++)
        if (write_cell(file, id, cells[id], error)) return -1;
    for (int id = 0; id < METRIC_ROUND; id++)
        if (flush(file, id, error)) return -1;
    if (write_cell(file, METRIC_ROUND, &stored_round, error) || flush(file, METRIC_ROUND, error)) return -1;
    file->rows++;
    file->last_round = round;
    return 0;
}

int trace_file_publish(trace_file *file, const char *temporary, const char *path, h5_error *error) {
    if (H5Fflush(file->file, H5F_SCOPE_GLOBAL) < 0 || H5Fstart_swmr_write(file->file) < 0 ||
        H5Fflush(file->file, H5F_SCOPE_GLOBAL) < 0)
        return h5_failed(error, "cannot write %s", temporary);
    int status = durable_replace(temporary, path);
    return status ? h5_failed(error, "cannot put %s in its place: %s", path, strerror(status)) : 0;
}

int trace_file_sync(const trace_file *file, h5_error *error) {
    int *descriptor = NULL;
    if (H5Fget_vfd_handle(file->file, H5P_DEFAULT, (void **)&descriptor) < 0)
        return h5_failed(error, "cannot sync the trace");
    if (fsync(*descriptor) && errno != EINVAL)
        return h5_failed(error, "cannot sync the trace: %s", strerror(errno));
    return 0;
}

int trace_file_close(trace_file *file, h5_error *error) {
    for (int id = 0; id < METRIC_COUNT; id++)
        if (file->datasets[id] >= 0 && H5Dclose(file->datasets[id]) < 0)
            return h5_failed(error, "cannot close %s", metrics[id].path);
    if (H5Fclose(file->file) < 0) return h5_failed(error, "cannot close the trace");
    return 0;
}
