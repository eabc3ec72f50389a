/* read.c - rows out of a trace that may still be growing: /rounds says how many of them are complete. */
#include <stdlib.h>

#include "trace/tables.h"

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

int table_read_rows(hid_t dataset, const table_spec *spec, const trace_shape *shape, int64_t first, int64_t count, void *values) {
    hsize_t dims[TRACE_MAX_RANK], start[TRACE_MAX_RANK] = {(hsize_t)first};
    int rank = table_dimensions(spec, shape, dims);
    dims[0] = (hsize_t)count;
    hid_t memory = H5Screate_simple(rank, dims, NULL), space = H5Dget_space(dataset);
    bool done = memory >= 0 && space >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, dims, NULL) >= 0 &&
                H5Dread(dataset, table_memory_type(spec), memory, space, H5P_DEFAULT, values) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return done ? 0 : -1;
}
