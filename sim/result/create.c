/* create.c - an empty trace.h5: attributes, /populations, /devices and the tables that rows will be appended
 * to.
 *
 * Chunks hold up to 64 rounds or 64 KiB, so that a device's curve is a few reads and a round of thousands of
 * devices is a few writes; a single row beyond 1 MiB is cut along its second axis. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "result/trace_tables.h"

enum { CHUNK_ROWS = 64, CHUNK_BYTES = H5_CHUNK_BYTES, CHUNK_MOST_BYTES = 1024 * 1024 };

static void choose_chunk(metric_id id, const metric_shape *shape, int rank, hsize_t chunk[TRACE_MAX_RANK]) {
    size_t row_bytes = metric_bytes(id, shape);
    size_t rows = CHUNK_BYTES / row_bytes;
    chunk[0] = rows < 1 ? 1 : rows > CHUNK_ROWS ? CHUNK_ROWS : rows;
    if (rank > 1 && row_bytes > CHUNK_MOST_BYTES) {
        size_t part_bytes = row_bytes / chunk[1];
        size_t parts = CHUNK_MOST_BYTES / part_bytes;
        chunk[1] = parts < 1 ? 1 : parts;
    }
}

static hid_t table_properties(metric_id id, int rank, const hsize_t *chunk, h5_error *error) {
    hid_t properties = h5_object_properties(H5P_DATASET_CREATE, error);
    if (properties < 0) return -1;
    /* Chunks come into being when something is written: rounds without an evaluation take no space. */
    if (H5Pset_chunk(properties, rank, chunk) < 0 ||
        H5Pset_fill_value(properties, table_memory_type(id), metric_fill(id)) < 0 ||
        H5Pset_alloc_time(properties, H5D_ALLOC_TIME_INCR) < 0)
        return h5_failed(error, "cannot prepare %s", metrics[id].path);
    return properties;
}

static const char *axes_text(metric_axes axes) {
    switch (axes) {
    case METRIC_OF_RUN:
        return "row";
    case METRIC_OF_POPULATION:
        return "row,population";
    case METRIC_OF_DEVICE:
        return "row,device";
    case METRIC_OF_EXPERT:
        return "row,device,layer,expert";
    case METRIC_OF_TOKEN:
        return "row,window,token";
    case METRIC_OF_TOKEN_EXPERT:
        return "row,window,token,layer,expert";
    case METRIC_OF_TRAIN_WINDOW:
    case METRIC_OF_VALID_WINDOW:
        return "row,device,step,index";
    }
    return "";
}

static hid_t create_table(hid_t file, metric_id id, const metric_shape *shape, h5_error *error) {
    hsize_t dims[TRACE_MAX_RANK] = {0}, most[TRACE_MAX_RANK], chunk[TRACE_MAX_RANK];
    int rank = table_dimensions(id, shape, dims);
    memcpy(most, dims, sizeof most);
    memcpy(chunk, dims, sizeof chunk);
    choose_chunk(id, shape, rank, chunk);
    dims[0] = 0;
    most[0] = H5S_UNLIMITED;
    hid_t properties = table_properties(id, rank, chunk, error);
    hid_t space = H5Screate_simple(rank, dims, most);
    if (properties < 0 || space < 0) return -1;
    hid_t dataset =
        h5_create_dataset(file, metrics[id].path, table_memory_type(id), space, properties, error);
    if (dataset < 0) return -1;
    if (h5_write_text(dataset, "units", metric_units(id, shape), error) ||
        h5_write_text(dataset, "axes", axes_text(metrics[id].axes), error))
        return -1;
    H5Sclose(space);
    H5Pclose(properties);
    return dataset;
}

/* The groups of a path, from the outermost to the innermost. */
static int create_groups(hid_t file, const char *path, h5_error *error) {
    char group[64];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(group, sizeof group, "%.*s", (int)(slash - path), path);
        if (H5Lexists(file, group, H5P_DEFAULT) > 0) continue;
        hid_t made = h5_create_group(file, group, error);
        if (made < 0 || H5Gclose(made) < 0) return h5_failed(error, "cannot create %s", group);
    }
    return 0;
}

static int create_tables(trace_file *file, h5_error *error) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        file->datasets[id] = -1;
        if (!metric_recorded(id, &file->shape)) continue;
        if (create_groups(file->file, metrics[id].path, error)) return -1;
        file->datasets[id] = create_table(file->file, id, &file->shape, error);
        if (file->datasets[id] < 0) return -1;
    }
    return 0;
}

/* A table that never grows. `type` is the records' layout in memory; the file holds them packed. Closes
 * `type`. */
static int write_records(hid_t file, const char *path, hid_t type, const void *records, int n,
                         const char *units, h5_error *error) {
    hsize_t count = (hsize_t)n;
    hid_t packed = H5Tcopy(type), space = H5Screate_simple(1, &count, NULL);
    hid_t properties = h5_object_properties(H5P_DATASET_CREATE, error);
    if (packed < 0 || space < 0 || properties < 0) return h5_failed(error, "cannot prepare %s", path);
    if (H5Tget_class(packed) == H5T_COMPOUND && H5Tpack(packed) < 0)
        return h5_failed(error, "cannot prepare %s", path);
    hid_t dataset = h5_create_dataset(file, path, packed, space, properties, error);
    if (dataset < 0 || h5_write_text(dataset, "units", units, error)) return -1;
    if (H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, records) < 0 || H5Dclose(dataset) < 0)
        return h5_failed(error, "cannot write %s", path);
    H5Pclose(properties);
    H5Sclose(space);
    H5Tclose(packed);
    H5Tclose(type);
    return 0;
}

static population_record record_of(const trace_population *p) {
    population_record record = {.seed = p->seed,
                                .tokens_per_device = p->tokens_per_device,
                                .devices = p->devices,
                                .generalists = p->generalists,
                                .specialists = p->specialists,
                                .rank = p->rank,
                                .top_k = p->top_k,
                                .first_source = p->first_source};
    strncpy(record.name, p->name, sizeof record.name - 1);
    strncpy(record.method, p->method, sizeof record.method - 1);
    strncpy(record.gates, p->routed ? "top_k" : "mean", sizeof record.gates - 1);
    strncpy(record.split, p->split, sizeof record.split - 1);
    strncpy(record.evaluation, p->evaluation, sizeof record.evaluation - 1);
    strncpy(record.point, p->point ? p->point : "", sizeof record.point - 1);
    strncpy(record.revision, p->revision ? p->revision : "", sizeof record.revision - 1);
    return record;
}

static int write_populations(hid_t file, const trace_header *header, h5_error *error) {
    population_record *records = calloc((size_t)header->n_populations, sizeof *records);
    hid_t type = population_type(error);
    if (!records) return h5_failed(error, "not enough memory for %d populations", header->n_populations);
    for (int i = 0; i < header->n_populations; i++)
        records[i] = header->records ? header->records[i] : record_of(&header->populations[i]);
    int status =
        type < 0
            ? -1
            : write_records(file, "/populations", type, records, header->n_populations,
                            "text,text,text,1,tokens,devices,experts,experts,1,experts,text,1,text,text,text",
                            error);
    free(records);
    return status;
}

static int write_devices(hid_t file, const trace_header *header, h5_error *error) {
    hid_t type = device_type(error);
    if (type < 0) return -1;
    return write_records(
        file, "/devices", type, header->devices, header->n_devices,
        "1,1,1,experts,experts,experts,1,tokens,tokens,tokens,parameters,parameters,nats/token,1", error);
}

/* As wide as the longest name. */
static int write_sources(hid_t file, const trace_header *header, h5_error *error) {
    size_t width = 1;
    for (int i = 0; i < header->n_sources; i++)
        if (strlen(header->source_names[i]) >= width) width = strlen(header->source_names[i]) + 1;
    char *names = calloc((size_t)header->n_sources + 1, width);
    if (!names) return h5_failed(error, "not enough memory for the names of %d sources", header->n_sources);
    for (int i = 0; i < header->n_sources; i++)
        memcpy(names + (size_t)i * width, header->source_names[i], strlen(header->source_names[i]));
    int status = write_records(file, "/sources", text_type(width), names, header->n_sources, "text", error);
    free(names);
    return status;
}

static int write_mixtures(hid_t file, const trace_header *header, h5_error *error) {
    hsize_t dims[2] = {(hsize_t)header->n_devices, (hsize_t)header->most_sources};
    hid_t space = H5Screate_simple(2, dims, NULL),
          properties = h5_object_properties(H5P_DATASET_CREATE, error);
    if (space < 0 || properties < 0) return h5_failed(error, "cannot prepare /mixture");
    hid_t dataset = h5_create_dataset(file, "/mixture", H5T_NATIVE_INT64, space, properties, error);
    if (dataset < 0 || h5_write_text(dataset, "units", "tokens", error) ||
        h5_write_text(dataset, "axes", "device,source", error))
        return -1;
    if (H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, header->mixtures) < 0 ||
        H5Dclose(dataset) < 0)
        return h5_failed(error, "cannot write /mixture");
    H5Pclose(properties);
    H5Sclose(space);
    return 0;
}

static int write_windows(hid_t file, const trace_header *header, h5_error *error) {
    if (header->routing_windows == 0) return 0;
    hid_t type = H5Tcopy(H5T_NATIVE_INT);
    return write_records(file, "/routing/tokens/devices", type, header->routing_devices,
                         header->routing_windows, "device", error);
}

static int write_attributes(hid_t file, const trace_header *header, const char *created_utc,
                            h5_error *error) {
    const int32_t schema = TRACE_SCHEMA_VERSION;
    const struct {
        const char *name, *text;
    } texts[] = {{"cohort_version", TRACE_COHORT_VERSION},
                 {"git_revision", header->git_revision},
                 {"config", header->config_yaml},
                 {"base", header->base},
                 {"backend", header->backend},
                 {"hardware", header->hardware},
                 {"created_utc", created_utc}};
    if (h5_write_scalar(file, "schema_version", H5T_NATIVE_INT32, &schema, error)) return -1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (h5_write_text(file, texts[i].name, texts[i].text ? texts[i].text : "", error)) return -1;
    return h5_write_scalar(file, "seed", H5T_NATIVE_UINT64, &header->seed, error);
}

int trace_file_create(trace_file *file, const char *path, const trace_header *header, const char *created_utc,
                      h5_error *error) {
    *file = (trace_file){.file = h5_create_file(path, error), .shape = trace_shape_of(header)};
    if (file->file < 0 || write_attributes(file->file, header, created_utc, error) ||
        create_tables(file, error) || write_populations(file->file, header, error) ||
        write_devices(file->file, header, error) || write_sources(file->file, header, error) ||
        write_mixtures(file->file, header, error))
        return -1;
    return write_windows(file->file, header, error);
}
