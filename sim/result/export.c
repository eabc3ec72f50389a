/* export.c - opens a result, reads a table row by row and hands the rows to export_rows.c. Works on a trace
 * that is still growing: only the rows that /rounds counts are read. */
#include "result/export.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "result/export_tables.h"
#include "result/own_file.h"
#include "support/output_file.h"

/* ---- An open result ---- */

static int read_source_names(export_source *s, h5_error *error) {
    if (H5Lexists(s->file, "/sources", H5P_DEFAULT) <= 0) return 0;
    hid_t dataset = H5Dopen2(s->file, "/sources", H5P_DEFAULT),
          type = dataset < 0 ? -1 : H5Dget_type(dataset);
    bool text = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    if (text) s->source_bytes = H5Tget_size(type);
    if (text)
        s->source_names = table_read_records(s->file, "/sources", text_type(s->source_bytes), s->source_bytes,
                                             &s->n_sources, error);
    if (type >= 0) H5Tclose(type);
    if (dataset >= 0) H5Dclose(dataset);
    for (int i = 0; s->source_names && i < s->n_sources; i++)
        s->source_names[(size_t)(i + 1) * s->source_bytes - 1] = '\0';
    return s->source_names ? 0 : h5_failed(error, "cannot read /sources");
}

static int read_dimensions(hid_t file, metric_id id, int rank, hsize_t dims[TRACE_MAX_RANK],
                           h5_error *error) {
    hid_t space = -1, dataset = H5Dopen2(file, metrics[id].path, H5P_DEFAULT);
    int status = 0;
    if (dataset < 0 || (space = H5Dget_space(dataset)) < 0 || H5Sget_simple_extent_ndims(space) != rank ||
        H5Sget_simple_extent_dims(space, dims, NULL) != rank)
        status = h5_failed(error, "cannot read the size of %s", metrics[id].path);
    if (space >= 0) H5Sclose(space);
    if (dataset >= 0) H5Dclose(dataset);
    return status;
}

/* Before the devices' number is checked against it: it must be as many rows. */
static int read_mixtures(export_source *s, h5_error *error) {
    hsize_t dims[2] = {0, 0};
    if (H5Lexists(s->file, "/mixture", H5P_DEFAULT) <= 0) return 0;
    hid_t dataset = H5Dopen2(s->file, "/mixture", H5P_DEFAULT),
          space = dataset < 0 ? -1 : H5Dget_space(dataset);
    bool good = space >= 0 && H5Sget_simple_extent_ndims(space) == 2 &&
                H5Sget_simple_extent_dims(space, dims, NULL) == 2 && dims[0] == (hsize_t)s->n_devices;
    if (good) s->mixtures = calloc((size_t)(dims[0] * dims[1]) + 1, sizeof *s->mixtures);
    s->most_sources = (int)dims[1];
    good = good && s->mixtures &&
           H5Dread(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, s->mixtures) >= 0;
    if (space >= 0) H5Sclose(space);
    if (dataset >= 0) H5Dclose(dataset);
    return good ? 0 : h5_failed(error, "cannot read /mixture");
}

static int read_sampling(export_source *s, h5_error *error) {
    sampling_shape *size = &s->shape.sampling;
    hsize_t dims[TRACE_MAX_RANK];
    if (H5Lexists(s->file, "/sampling", H5P_DEFAULT) <= 0) return 0;
    if (read_dimensions(s->file, METRIC_TRAIN_WINDOWS, 4, dims, error)) return -1;
    size->train_steps = (int)dims[2];
    size->train_batch = (int)dims[3];
    if (H5Lexists(s->file, metrics[METRIC_VALID_WINDOWS].path, H5P_DEFAULT) <= 0) return 0;
    if (read_dimensions(s->file, METRIC_VALID_WINDOWS, 4, dims, error)) return -1;
    size->valid_steps = (int)dims[2];
    size->valid_batch = (int)dims[3];
    return 0;
}

static int read_shape(export_source *s, h5_error *error) {
    hsize_t dims[TRACE_MAX_RANK];
    if (read_dimensions(s->file, METRIC_GATE_MEAN, 4, dims, error)) return -1;
    s->shape = (metric_shape){.populations = s->n_populations,
                              .devices = (int)dims[1],
                              .layers = (int)dims[2],
                              .experts = (int)dims[3]};
    if (read_sampling(s, error)) return -1;
    if (H5Lexists(s->file, "/routing/tokens", H5P_DEFAULT) <= 0) return 0;
    if (read_dimensions(s->file, METRIC_ROUTING_IDS, 3, dims, error)) return -1;
    s->shape.windows = (int)dims[1];
    s->shape.sequence = (int)dims[2];
    s->window_devices = table_read_records(s->file, "/routing/tokens/devices", H5Tcopy(H5T_NATIVE_INT32),
                                           sizeof *s->window_devices, &s->n_windows, error);
    return s->window_devices ? 0 : -1;
}

/* What the tables point at must be there, or a damaged file would send us out of bounds. */
static int check_source(const export_source *s, h5_error *error) {
    bool fits = s->n_devices == s->shape.devices && s->n_windows == s->shape.windows;
    for (int i = 0; i < s->n_devices; i++)
        fits = fits && s->devices[i].population >= 0 && s->devices[i].population < s->n_populations;
    for (int i = 0; i < s->n_windows; i++)
        fits = fits && s->window_devices[i] >= 0 && s->window_devices[i] < s->n_devices;
    return fits ? 0 : h5_failed(error, "its tables contradict each other");
}

static int find_diverged(export_source *s, h5_error *error) {
    s->diverged = calloc((size_t)s->n_populations + 1, sizeof *s->diverged);
    if (!s->diverged) return h5_failed(error, "not enough memory for %d populations", s->n_populations);
    return trace_find_diverged(s->file, s->devices, s->n_devices, s->rounds, s->rows, s->n_populations,
                               s->diverged, error);
}

static int source_open(export_source *s, h5_error *error) {
    s->file = h5_open_file(s->path, true, error);
    if (s->file < 0) return -1;
    s->populations = table_read_records(s->file, "/populations", population_type(error),
                                        sizeof *s->populations, &s->n_populations, error);
    if (!s->populations) return -1;
    s->devices = table_read_devices(s->file, s->populations, s->n_populations, &s->n_devices, error);
    s->rounds = trace_read_rounds(s->file, &s->rows, error);
    if (!s->devices || !s->rounds || read_source_names(s, error) || read_mixtures(s, error) ||
        read_shape(s, error) || check_source(s, error) || find_diverged(s, error))
        return -1;
    s->train_steps = calloc((size_t)s->n_devices + 1, sizeof *s->train_steps);
    s->valid_steps = calloc((size_t)s->n_devices + 1, sizeof *s->valid_steps);
    s->cell = calloc((size_t)s->n_devices + 1, sizeof *s->cell);
    return s->train_steps && s->valid_steps && s->cell
               ? 0
               : h5_failed(error, "not enough memory for %d devices", s->n_devices);
}

void export_close(export_source *s) {
    free(s->populations);
    free(s->diverged);
    free(s->devices);
    free(s->cell);
    free(s->source_names);
    free(s->mixtures);
    free(s->window_devices);
    free(s->rounds);
    free(s->train_steps);
    free(s->valid_steps);
    if (s->file >= 0) H5Fclose(s->file);
}

/* ---- A table ---- */

typedef struct {
    hid_t datasets[METRIC_COUNT]; /* -1: not used */
    void *values[METRIC_COUNT];   /* of one row, owned */
} columns;

static bool uses(const export_table *table, metric_id id) {
    metric_axes axes = metrics[id].axes;
    if (table->every_metric) return axes == METRIC_OF_POPULATION || axes == METRIC_OF_DEVICE;
    for (int i = 0; i < table->n_columns; i++)
        if (table->columns[i] == id) return true;
    return false;
}

/* An older trace lacks metrics that came later. */
static bool has(const export_source *s, const export_table *table, metric_id id) {
    if (!uses(table, id) || !metric_recorded(id, &s->shape)) return false;
    char group[64];
    snprintf(group, sizeof group, "%.*s", (int)(strrchr(metrics[id].path, '/') - metrics[id].path),
             metrics[id].path);
    if (!table->every_metric) return true;
    return H5Lexists(s->file, group, H5P_DEFAULT) > 0 &&
           H5Lexists(s->file, metrics[id].path, H5P_DEFAULT) > 0;
}

static int columns_open(columns *c, const export_source *s, const export_table *table, h5_error *error) {
    int status = 0;
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        c->datasets[id] = -1;
        c->values[id] = NULL;
    }
    for (metric_id id = 0; id < METRIC_COUNT && !status; id++) {
        if (!has(s, table, id)) continue;
        c->datasets[id] = H5Dopen2(s->file, metrics[id].path, H5P_DEFAULT);
        c->values[id] = malloc(metric_bytes(id, &s->shape));
        if (c->datasets[id] < 0 || !c->values[id])
            status = h5_failed(error, "cannot read %s", metrics[id].path);
    }
    return status;
}

static void columns_close(columns *c) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        free(c->values[id]);
        if (c->datasets[id] >= 0) H5Dclose(c->datasets[id]);
    }
}

static int write_rows(export_source *s, const export_table *table, FILE *out, h5_error *error) {
    columns c;
    int status = columns_open(&c, s, table, error);
    for (int64_t row = 0; row < s->rows && !status; row++) {
        for (metric_id id = 0; id < METRIC_COUNT && !status; id++)
            if (c.values[id] && table_read_rows(c.datasets[id], id, &s->shape, row, 1, c.values[id]))
                status = h5_failed(error, "cannot read %s", metrics[id].path);
        if (!status) table->write(s, row, (const void *const *)c.values, out);
    }
    columns_close(&c);
    return status;
}

static int write_table(export_source *s, const export_table *table, FILE *out, h5_error *error) {
    fprintf(out, "%s\n", table->header);
    if (table->n_columns > 0 || table->every_metric) return write_rows(s, table, out, error);
    table->write(s, 0, NULL, out);
    return 0;
}

static bool is_recorded(const export_source *s, const export_table *table) {
    return table->n_columns == 0 || metric_recorded(table->columns[0], &s->shape);
}

/* ---- Names and files ---- */

static void list_names(char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < export_n_tables && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", export_tables[i].name);
}

static exit_code find_table(const char *name, const export_table **out, problems *list) {
    char names[512];
    for (int i = 0; i < export_n_tables; i++)
        if (strcmp(export_tables[i].name, name) == 0) {
            *out = &export_tables[i];
            return EXIT_OK;
        }
    list_names(names, sizeof names);
    return problem(list, EXIT_INPUT, "there is no table '%.80s'; a result has %s (or all of them: all)", name,
                   names);
}

exit_code export_open(const char *folder, export_source *s, problems *list) {
    h5_error error = {0};
    *s = (export_source){.file = -1};
    exit_code code = trace_find(folder, s->path, sizeof s->path, list);
    if (code != EXIT_OK) return code;
    if (source_open(s, &error)) return h5_problem(&error, s->path, "it is not a trace, or damaged", list);
    return EXIT_OK;
}

static exit_code export_to(export_source *s, const export_table *table, FILE *out, problems *list) {
    h5_error error = {0};
    if (!is_recorded(s, table))
        return problem(list, EXIT_INPUT, "%s: the run recorded no %s; ask for them in its configuration (%s)",
                       s->path, table->name, table->wish ? table->wish : "");
    if (write_table(s, table, out, &error)) return h5_problem(&error, s->path, "it is damaged", list);
    return EXIT_OK;
}

/* A name that promises what is not written. */
static exit_code refuse_other_format(const char *path, problems *list) {
    static const char *const endings[] = {
        ".parquet", ".pq",   ".feather", ".arrow", ".ipc",    ".orc",  ".avro",  ".json", ".jsonl",
        ".ndjson",  ".xlsx", ".xls",     ".ods",   ".h5",     ".hdf",  ".nc",    ".npy",  ".npz",
        ".mat",     ".pkl",  ".rds",     ".db",    ".sqlite", ".dta",  ".sav",   ".tsv",  ".gz",
        ".bz2",     ".xz",   ".zst",     ".zip",   ".tar",    ".hdf5", ".pickle"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *ending = strrchr(name, '.');
    for (size_t i = 0; ending && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(ending, endings[i]) == 0)
            return problem(list, EXIT_INPUT,
                           "export: --out %s: tables are written as CSV and nothing else; name it %.*s.csv",
                           path, (int)(ending - path), path);
    return EXIT_OK;
}

static exit_code export_to_file(export_source *s, const export_table *table, const char *path,
                                problems *list) {
    output_file file;
    exit_code code = output_file_begin(path, &file, list);
    if (code != EXIT_OK) return code;
    return output_file_end(&file, export_to(s, table, file.stream, list), list);
}

static exit_code export_every(export_source *s, const char *folder, problems *list) {
    char path[EXPORT_PATH_BYTES];
    exit_code code = folder_create(folder, list);
    for (int i = 0; i < export_n_tables && code == EXIT_OK; i++) {
        if (!is_recorded(s, &export_tables[i])) continue;
        if (snprintf(path, sizeof path, "%s/%s.csv", folder, export_tables[i].name) >= (int)sizeof path)
            return problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
        code = export_to_file(s, &export_tables[i], path, list);
    }
    return code;
}

exit_code trace_export(const char *folder, const char *table, FILE *out, const char *path, problems *list) {
    const export_table *found = NULL;
    export_source s;
    exit_code code = find_table(table, &found, list);
    if (path) THEN(code, own_file_refuse("export", folder, path, list));
    if (path) THEN(code, refuse_other_format(path, list));
    if (code != EXIT_OK) return code;
    h5_enter();
    code = export_open(folder, &s, list);
    THEN(code, path ? export_to_file(&s, found, path, list) : export_to(&s, found, out, list));
    export_close(&s);
    h5_leave();
    return code;
}

exit_code trace_export_all(const char *folder, const char *out, problems *list) {
    export_source s;
    exit_code code = refuse_other_format(out, list);
    if (code != EXIT_OK) return code;
    h5_enter();
    code = export_open(folder, &s, list);
    THEN(code, export_every(&s, out, list));
    export_close(&s);
    h5_leave();
    return code;
}

exit_code trace_read_states(const char *folder, int n, trace_state *states, problems *list) {
    export_source s;
    h5_enter();
    exit_code code = export_open(folder, &s, list);
    if (code == EXIT_OK && s.n_populations != n)
        code = problem(list, EXIT_INPUT, "%s: has %d populations, but its configuration has %d", s.path,
                       s.n_populations, n);
    for (int i = 0; i < n && code == EXIT_OK; i++) {
        snprintf(states[i].point, sizeof states[i].point, "%s", s.populations[i].point);
        states[i].diverged = s.diverged[i];
    }
    export_close(&s);
    h5_leave();
    return code;
}
