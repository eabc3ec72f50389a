/* read.c - rows out of a trace that may still be growing: /rounds says how many of them are complete. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "result/trace_tables.h"

exit_code trace_find(const char *folder, char *path, size_t path_bytes, problems *list) {
    struct stat info;
    if (snprintf(path, path_bytes, "%s/trace.h5", folder) >= (int)path_bytes)
        return problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
    if (access(path, R_OK) == 0) return EXIT_OK;
    if (stat(folder, &info) != 0)
        return problem(list, EXIT_INPUT, "%s: cannot be opened: %s; give the folder that `cohort run` made",
                       folder, errno == ENOENT ? "there is no such folder" : strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return problem(list, EXIT_INPUT, "%s: is not a folder; give the folder that `cohort run` made",
                       folder);
    if (snprintf(path, path_bytes, "%s/" BATCHES_NAME, folder) < (int)path_bytes && access(path, R_OK) == 0)
        return problem(
            list, EXIT_INPUT,
            "%s: holds no trace.h5 yet: its populations run in batches, which become one result when "
            "all are done; look at one of them, such as %s/0",
            folder, path);
    return problem(list, EXIT_INPUT, "%s: holds no readable trace.h5; give the folder that `cohort run` made",
                   folder);
}

exit_code trace_look(const char *path, problems *list) {
    h5_error error = {0};
    h5_enter();
    hid_t file = h5_open_file(path, true, &error);
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return file < 0 ? h5_problem(&error, path, "it is not a trace, or damaged", list) : EXIT_OK;
}

int32_t *trace_read_rounds(hid_t file, int64_t *n, h5_error *error) {
    int32_t *rounds = NULL;
    hid_t space = -1, dataset = H5Dopen2(file, "/rounds", H5P_DEFAULT);
    if (dataset < 0 || (space = H5Dget_space(dataset)) < 0) goto cleanup;
    *n = (int64_t)H5Sget_simple_extent_npoints(space);
    rounds = calloc((size_t)*n + 1, sizeof *rounds);
    if (rounds && *n > 0 && H5Dread(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, rounds) < 0) {
        free(rounds);
        rounds = NULL;
    }
cleanup:
    if (!rounds) h5_failed(error, "cannot read /rounds");
    if (space >= 0) H5Sclose(space);
    if (dataset >= 0) H5Dclose(dataset);
    return rounds;
}

void *table_read_records(hid_t file, const char *path, hid_t type, size_t record_bytes, int *n,
                         h5_error *error) {
    void *records = NULL;
    hid_t space = -1, dataset = type < 0 ? -1 : H5Dopen2(file, path, H5P_DEFAULT);
    if (dataset < 0 || (space = H5Dget_space(dataset)) < 0) goto cleanup;
    *n = (int)H5Sget_simple_extent_npoints(space);
    records = calloc((size_t)*n + 1, record_bytes);
    if (records && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, records) < 0) {
        free(records);
        records = NULL;
    }
cleanup:
    if (!records) h5_failed(error, "cannot read %s", path);
    if (space >= 0) H5Sclose(space);
    if (dataset >= 0) H5Dclose(dataset);
    if (type >= 0) H5Tclose(type);
    return records;
}

trace_device *table_read_devices(hid_t file, const population_record *populations, int n_populations, int *n,
                                 h5_error *error) {
    trace_device *devices =
        table_read_records(file, "/devices", device_type(error), sizeof *devices, n, error);
    for (int i = 0; devices && i < *n; i++) {
        trace_device *d = &devices[i];
        if (d->rank > 0 || d->population < 0 || d->population >= n_populations) continue;
        d->rank = populations[d->population].rank;
        d->generalists = populations[d->population].generalists;
        d->specialists = d->experts - d->generalists;
    }
    return devices;
}

int table_read_rows(hid_t dataset, metric_id id, const metric_shape *shape, int64_t first, int64_t count,
                    void *values) {
    hsize_t dims[TRACE_MAX_RANK], start[TRACE_MAX_RANK] = {(hsize_t)first};
    int rank = table_dimensions(id, shape, dims);
    dims[0] = (hsize_t)count;
    hid_t memory = H5Screate_simple(rank, dims, NULL), space = H5Dget_space(dataset);
    bool done = memory >= 0 && space >= 0 &&
                H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, dims, NULL) >= 0 &&
                H5Dread(dataset, table_memory_type(id), memory, space, H5P_DEFAULT, values) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return done ? 0 : -1;
}

int trace_find_diverged(hid_t file, const trace_device *devices, int n_devices, const int32_t *rounds,
                        int64_t rows, int n_populations, int *diverged, h5_error *error) {
    const metric_shape shape = {.devices = n_devices};
    double *loss = calloc((size_t)n_devices + 1, sizeof *loss);
    bool *ended = calloc((size_t)n_populations + 1, sizeof *ended); /* it has a loss in a later row */
    hid_t dataset = H5Dopen2(file, metrics[METRIC_TRAIN_LOSS].path, H5P_DEFAULT);
    int status = dataset < 0 || !loss || !ended ? -1 : 0, left = n_populations;
    memset(diverged, 0, (size_t)n_populations * sizeof *diverged);
    for (int64_t row = rows - 1; row >= 0 && left > 0 && !status; row--) {
        status = table_read_rows(dataset, METRIC_TRAIN_LOSS, &shape, row, 1, loss);
        for (int i = 0; i < n_devices && !status; i++) {
            int p = devices[i].population;
            if (isnan(loss[i]) || ended[p]) continue;
            ended[p] = true;
            left--;
        }
        for (int p = 0; p < n_populations && !status; p++)
            if (!ended[p]) diverged[p] = rounds[row];
    }
    if (dataset >= 0) H5Dclose(dataset);
    free(ended);
    free(loss);
    return status ? h5_failed(error, "cannot read %s", metrics[METRIC_TRAIN_LOSS].path) : 0;
}

static int read_row(hid_t file, int64_t index, metric_row *row, h5_error *error) {
    int status = 0;
    for (metric_id id = 0; id < METRIC_COUNT && !status; id++) {
        if (metrics[id].axes != METRIC_OF_DEVICE) continue;
        hid_t dataset = H5Dopen2(file, metrics[id].path, H5P_DEFAULT);
        status = dataset < 0 ? -1 : table_read_rows(dataset, id, &row->shape, index, 1, row->values[id]);
        if (status) h5_failed(error, "cannot read %s", metrics[id].path);
        if (dataset >= 0) H5Dclose(dataset);
    }
    return status;
}

exit_code trace_read_devices(const char *path, int last, metric_row *row, trace_row_reader reader,
                             void *context, problems *list) {
    h5_error error = {0};
    int64_t rows = 0, index = 0;
    h5_enter();
    hid_t file = h5_open_file(path, true, &error);
    int32_t *rounds = file < 0 ? NULL : trace_read_rounds(file, &rows, &error);
    int status = !rounds;
    for (; index < rows && !status && rounds[index] <= last; index++) {
        status = read_row(file, index, row, &error);
        *metric_ints(row, METRIC_ROUND) = rounds[index];
        if (!status) reader(context, row);
    }
    if (!status && (index == 0 || rounds[index - 1] != last))
        status = h5_failed(&error, "it has no round %d", last);
    free(rounds);
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return status ? h5_problem(&error, path, "it is damaged: start over in a new folder", list) : EXIT_OK;
}
