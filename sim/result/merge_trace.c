/* merge_trace.c - trace.h5 of a merged result: walks the table of metrics, and moves every number to where
 * its population, device or window is now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "result/merge_parts.h"
#include "support/durable.h"

enum { PATH_BYTES = 4096 };

typedef struct {
    merging *m;
    char path[PATH_BYTES];
    population_record *records; /* [n_populations], like the next lists owned */
    trace_device *devices;      /* [n_devices] */
    const char **source_names;
    int n_sources, most_sources; /* of all texts together, and of the one that has most */
    int64_t *mixtures;           /* [n_devices, most_sources], owned */
    int *window_devices;         /* [shape.windows] */
    metric_shape shape;
    trace_file file;
} merged_trace;

static int larger(int a, int b) {
    return a > b ? a : b;
}

/* ---- Parts ---- */

/* Whether the windows of steps are tokens, examples or both. The units in the trace say it. */
static void find_sampled(open_part *part) {
    metric_shape *shape = &part->trace.shape;
    h5_error error = {0};
    if (shape->sampling.train_steps == 0) return;
    hid_t dataset = H5Dopen2(part->trace.file, metrics[METRIC_TRAIN_WINDOWS].path, H5P_DEFAULT);
    char *units = dataset < 0 ? NULL : h5_read_text(dataset, "units", &error);
    for (int kinds = 1; kinds <= 3 && units; kinds++) {
        metric_shape asked = *shape;
        asked.sampling.of_tokens = kinds & 1;
        asked.sampling.of_examples = kinds & 2;
        if (strcmp(units, metric_units(METRIC_TRAIN_WINDOWS, &asked)) == 0) *shape = asked;
    }
    free(units);
    if (dataset >= 0) H5Dclose(dataset);
}

static exit_code refuse(const open_part *part, const char *why, problems *list) {
    return problem(list, EXIT_INPUT, "%s: %s; it is damaged, or of another configuration", part->trace.path,
                   why);
}

static exit_code check_part(const merging *m, const open_part *part, problems *list) {
    const export_source *s = &part->trace, *first = &m->parts[0].trace;
    if (s->n_populations != part->fleet->n_populations || s->n_devices != part->fleet->n_devices)
        return refuse(part, "its populations or devices are not those of its configuration", list);
    for (int i = 0; i < s->n_devices; i++)
        if (s->devices[i].population != part->fleet->devices[i].population)
            return refuse(part, "its devices are not those of its configuration", list);
    if (s->rows != first->rows || memcmp(s->rounds, first->rounds, (size_t)s->rows * sizeof *s->rounds) != 0)
        return refuse(part, "it has other rounds than the other parts of the result", list);
    if (s->rows == 0 || s->rounds[s->rows - 1] != part->given->settings->rounds)
        return refuse(part, "its rounds are not over", list);
    if (s->shape.layers != first->shape.layers)
        return refuse(part, "it has another number of layers than the other parts of the result", list);
    return EXIT_OK;
}

static exit_code open_parts(merging *m, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < m->n_parts && code == EXIT_OK; i++) {
        open_part *part = &m->parts[i];
        code = export_open(part->given->folder, &part->trace, list);
        part->traced = true;
        THEN(code, check_part(m, part, list));
        if (code == EXIT_OK) find_sampled(part);
    }
    return code;
}

static void close_traces(merging *m) {
    for (int i = 0; i < m->n_parts; i++)
        if (m->parts[i].traced) export_close(&m->parts[i].trace);
}

/* ---- The new trace's populations, devices, sources, windows ---- */

static const population_record *record_at(const merging *m, int which) {
    return &m->parts[m->sources[which].part].trace.populations[m->sources[which].population];
}

/* How many sources the text has whose first one in the part's list is `first`. They end where those of
 * another text begin. */
static int count_sources(const export_source *s, int first) {
    int end = s->n_sources;
    for (int i = 0; i < s->n_populations; i++)
        if (s->populations[i].first_source > first && s->populations[i].first_source < end)
            end = s->populations[i].first_source;
    return first >= 0 && end > first ? end - first : 0;
}

/* Populations of one text share its sources. */
static void take_sources(merged_trace *t, int which) {
    const merging *m = t->m;
    const settings *s = m->settings;
    for (int i = 0; i < which; i++)
        if (fleet_same_text(&s->populations[i].data, &s->populations[which].data)) {
            t->records[which].first_source = t->records[i].first_source;
            return;
        }
    const export_source *from = &m->parts[m->sources[which].part].trace;
    int first = record_at(m, which)->first_source, n = count_sources(from, first);
    t->records[which].first_source = t->n_sources;
    for (int i = 0; i < n; i++)
        t->source_names[t->n_sources++] = from->source_names + (size_t)(first + i) * from->source_bytes;
}

static void take_population(merged_trace *t, int which) {
    const char *name = t->m->settings->populations[which].name;
    population_record *record = &t->records[which];
    *record = *record_at(t->m, which);
    memset(record->name, 0, sizeof record->name);
    snprintf(record->name, sizeof record->name, "%s", name);
    take_sources(t, which);
}

/* An older trace has no mixtures: then all of a device's text is of its source. */
static void take_mixture(merged_trace *t, const export_source *from, int index, int to) {
    int64_t *mixture = t->mixtures + (int64_t)to * t->most_sources;
    const trace_device *d = &from->devices[index];
    int n = count_sources(from, from->populations[d->population].first_source);
    if (!from->mixtures && d->source >= 0 && d->source < n) mixture[d->source] = d->train_tokens;
    for (int i = 0; from->mixtures && i < n && i < from->most_sources; i++)
        mixture[i] = from->mixtures[(int64_t)index * from->most_sources + i];
}

/* Room for the mixtures of all devices. */
static bool make_mixtures(merged_trace *t) {
    const merging *m = t->m;
    for (int i = 0; i < m->fleet->n_populations; i++)
        t->most_sources = larger(t->most_sources, count_sources(&m->parts[m->sources[i].part].trace,
                                                                record_at(m, i)->first_source));
    t->mixtures = calloc((size_t)m->fleet->n_devices * (size_t)t->most_sources + 1, sizeof *t->mixtures);
    return t->mixtures != NULL;
}

/* Copies the record of a device of a part to its new place. Also gives the merged fleet what is known of the
 * device's text. */
static void take_device(merged_trace *t, const trace_device *from, int to) {
    device *d = &t->m->fleet->devices[to];
    t->devices[to] = *from;
    t->devices[to].population = d->population;
    d->text.source = from->source;
    d->text.entropy = from->entropy;
    d->text.tokens[DATA_TRAIN] = from->train_tokens;
    d->text.tokens[DATA_VALID] = from->valid_tokens;
    d->text.tokens[DATA_TEST] = from->test_tokens;
}

/* Takes the recorded windows of the devices that are taken, part by part. */
static bool take_windows(merged_trace *t) {
    const merging *m = t->m;
    int n = 0;
    for (int i = 0; i < m->n_parts; i++) n += m->parts[i].trace.n_windows;
    t->window_devices = malloc(((size_t)n + 1) * sizeof *t->window_devices);
    for (int i = 0; i < m->n_parts && t->window_devices; i++) {
        open_part *part = &m->parts[i];
        part->window_to = malloc(((size_t)part->trace.n_windows + 1) * sizeof *part->window_to);
        if (!part->window_to) return false;
        for (int w = 0; w < part->trace.n_windows; w++) {
            int to = part->device_to[part->trace.window_devices[w]];
            part->window_to[w] = to < 0 ? -1 : t->shape.windows;
            if (to >= 0) t->window_devices[t->shape.windows++] = to;
        }
    }
    return t->window_devices != NULL;
}

static void find_shape(merged_trace *t) {
    const merging *m = t->m;
    const fleet *f = m->fleet;
    t->shape = (metric_shape){
        .populations = f->n_populations, .devices = f->n_devices, .layers = m->parts[0].trace.shape.layers};
    for (int i = 0; i < f->n_shapes; i++) t->shape.experts = larger(t->shape.experts, f->shapes[i].n_experts);
    for (int i = 0; i < m->n_parts; i++) {
        const metric_shape *one = &m->parts[i].trace.shape;
        sampling_shape *all = &t->shape.sampling;
        t->shape.sequence = larger(t->shape.sequence, one->sequence);
        all->train_steps = larger(all->train_steps, one->sampling.train_steps);
        all->train_batch = larger(all->train_batch, one->sampling.train_batch);
        all->valid_steps = larger(all->valid_steps, one->sampling.valid_steps);
        all->valid_batch = larger(all->valid_batch, one->sampling.valid_batch);
        all->of_tokens |= one->sampling.of_tokens;
        all->of_examples |= one->sampling.of_examples;
    }
}

static exit_code take_headers(merged_trace *t, problems *list) {
    const merging *m = t->m;
    int n_sources = 0;
    for (int i = 0; i < m->fleet->n_populations; i++)
        n_sources += m->parts[m->sources[i].part].trace.n_sources;
    t->records = calloc((size_t)m->fleet->n_populations, sizeof *t->records);
    t->devices = calloc((size_t)m->fleet->n_devices, sizeof *t->devices);
    t->source_names = calloc((size_t)n_sources + 1, sizeof *t->source_names);
    find_shape(t);
    if (!t->records || !t->devices || !t->source_names || !take_windows(t) || !make_mixtures(t))
        return problem(list, EXIT_ENVIRONMENT, "out of memory to merge traces");
    for (int i = 0; i < m->fleet->n_populations; i++) take_population(t, i);
    for (int i = 0; i < m->n_parts; i++) {
        const export_source *from = &m->parts[i].trace;
        for (int d = 0; d < from->n_devices; d++) {
            int to = m->parts[i].device_to[d];
            if (to < 0) continue;
            take_device(t, &from->devices[d], to);
            take_mixture(t, from, d, to);
        }
    }
    return EXIT_OK;
}

/* ---- The file ---- */

static int create_file(merged_trace *t, h5_error *error) {
    const merging *m = t->m;
    hid_t last = m->parts[m->n_parts - 1].trace.file;
    char *yaml = settings_to_yaml(m->settings), *revision = h5_read_text(last, "git_revision", error),
         *base = h5_read_text(last, "base", error), *backend = h5_read_text(last, "backend", error),
         *hardware = h5_read_text(last, "hardware", error),
         *created = h5_read_text(m->parts[0].trace.file, "created_utc", error);
    trace_header header = {.git_revision = revision,
                           .config_yaml = yaml,
                           .base = base,
                           .backend = backend,
                           .hardware = hardware,
                           .seed = m->settings->seed,
                           .n_populations = m->fleet->n_populations,
                           .n_devices = m->fleet->n_devices,
                           .n_layers = t->shape.layers,
                           .max_experts = t->shape.experts,
                           .sequence = m->settings->data.sequence,
                           .records = t->records,
                           .devices = t->devices,
                           .n_sources = t->n_sources,
                           .source_names = t->source_names,
                           .most_sources = t->most_sources,
                           .mixtures = t->mixtures,
                           .routing_windows = t->shape.windows,
                           .routing_devices = t->window_devices,
                           .sampling = t->shape.sampling};
    int status = revision && base && backend && hardware && created
                     ? trace_file_create(&t->file, t->path, &header, created, error)
                     : -1;
    free(yaml);
    free(revision);
    free(base);
    free(backend);
    free(hardware);
    free(created);
    return status;
}

/* ---- Numbers ---- */

/* Copies an array into one with larger dimensions, whose other elements keep their values. */
static void copy_array(uint8_t *to, const int64_t *to_dims, const uint8_t *from, const int64_t *from_dims,
                       int rank, size_t value_bytes) {
    size_t to_bytes = value_bytes, from_bytes = value_bytes;
    if (rank == 0) {
        memcpy(to, from, value_bytes);
        return;
    }
    for (int i = 1; i < rank; i++) {
        to_bytes *= (size_t)to_dims[i];
        from_bytes *= (size_t)from_dims[i];
    }
    for (int64_t i = 0; i < from_dims[0] && i < to_dims[0]; i++)
        copy_array(to + (size_t)i * to_bytes, to_dims + 1, from + (size_t)i * from_bytes, from_dims + 1,
                   rank - 1, value_bytes);
}

/* The new places of what a metric has a value of (populations, devices or windows); NULL: of the run. */
static const int *places_of(const open_part *part, metric_axes axes) {
    switch (axes) {
    case METRIC_OF_POPULATION:
        return part->population_to;
    case METRIC_OF_DEVICE:
    case METRIC_OF_EXPERT:
    case METRIC_OF_TRAIN_WINDOW:
    case METRIC_OF_VALID_WINDOW:
        return part->device_to;
    case METRIC_OF_TOKEN:
    case METRIC_OF_TOKEN_EXPERT:
        return part->window_to;
    case METRIC_OF_RUN:
        break;
    }
    return NULL;
}

/* Seconds of all parts together; the round's number is the same in all. */
static void add_of_run(metric_id id, bool first, const void *from, void *to) {
    if (first)
        memcpy(to, from, metric_value_bytes(id));
    else if (metrics[id].type == METRIC_F64)
        *(double *)to += *(const double *)from;
}

static void place_row(const merged_trace *t, int which, metric_id id, const uint8_t *from, uint8_t *to) {
    const open_part *part = &t->m->parts[which];
    int64_t of_part[METRIC_MAX_DIMS] = {0}, of_all[METRIC_MAX_DIMS] = {0};
    int rank = metric_dimensions(id, &part->trace.shape, of_part);
    const int *places = places_of(part, metrics[id].axes);
    (void)metric_dimensions(id, &t->shape, of_all);
    if (!places) {
        add_of_run(id, which == 0, from, to);
        return;
    }
    size_t value = metric_value_bytes(id), from_bytes = value, to_bytes = value;
    for (int i = 1; i < rank; i++) {
        from_bytes *= (size_t)of_part[i];
        to_bytes *= (size_t)of_all[i];
    }
    for (int64_t i = 0; i < of_part[0]; i++)
        if (places[i] >= 0)
            copy_array(to + (size_t)places[i] * to_bytes, of_all + 1, from + (size_t)i * from_bytes,
                       of_part + 1, rank - 1, value);
}

/* Room for a row of the result, and one of the part that has the largest. */
typedef struct {
    uint8_t *all, *one;
    hid_t *datasets; /* [n_parts] of the metric; -1: the part has none */
} merge_rows;

static void close_rows(const merged_trace *t, merge_rows *r) {
    for (int i = 0; r->datasets && i < t->m->n_parts; i++)
        if (r->datasets[i] >= 0) H5Dclose(r->datasets[i]);
    free(r->datasets);
    free(r->all);
    free(r->one);
}

/* A part of an older program lacks metrics that came later. */
static bool part_has(const open_part *part, metric_id id) {
    const char *path = metrics[id].path, *slash = strrchr(path, '/');
    char group[64];
    snprintf(group, sizeof group, "%.*s", (int)(slash - path), path);
    return metric_recorded(id, &part->trace.shape) &&
           (slash == path || H5Lexists(part->trace.file, group, H5P_DEFAULT) > 0) &&
           H5Lexists(part->trace.file, path, H5P_DEFAULT) > 0;
}

static int open_rows(const merged_trace *t, metric_id id, merge_rows *r, h5_error *error) {
    const merging *m = t->m;
    size_t most = 1;
    int status = 0;
    *r = (merge_rows){.datasets = malloc((size_t)m->n_parts * sizeof *r->datasets)};
    for (int i = 0; r->datasets && i < m->n_parts; i++) {
        bool there = part_has(&m->parts[i], id);
        size_t bytes = there ? metric_bytes(id, &m->parts[i].trace.shape) : 0;
        most = bytes > most ? bytes : most;
        r->datasets[i] = there ? H5Dopen2(m->parts[i].trace.file, metrics[id].path, H5P_DEFAULT) : -1;
        if (there && r->datasets[i] < 0) status = h5_failed(error, "cannot read %s", metrics[id].path);
    }
    r->one = malloc(most);
    r->all = malloc(metric_bytes(id, &t->shape) + 1);
    if (!r->datasets || !r->one || !r->all) status = h5_failed(error, "not enough memory to merge traces");
    return status;
}

static int merge_row(const merged_trace *t, metric_id id, int64_t row, const merge_rows *r, h5_error *error) {
    size_t value = metric_value_bytes(id), bytes = metric_bytes(id, &t->shape);
    for (size_t i = 0; i < bytes; i += value) memcpy(r->all + i, metric_fill(id), value);
    for (int i = 0; i < t->m->n_parts; i++) {
        if (r->datasets[i] < 0) continue;
        if (table_read_rows(r->datasets[i], id, &t->m->parts[i].trace.shape, row, 1, r->one))
            return h5_failed(error, "cannot read the rows of %s", metrics[id].path);
        place_row(t, i, id, r->one, r->all);
    }
    return table_write_measured(&t->file, id, row, 1, r->all, error);
}

static int merge_table(const merged_trace *t, metric_id id, h5_error *error) {
    merge_rows r;
    int64_t rows = t->m->parts[0].trace.rows;
    int status = open_rows(t, id, &r, error);
    if (!status) status = table_extend(&t->file, id, rows, error);
    for (int64_t row = 0; row < rows && !status; row++) status = merge_row(t, id, row, &r, error);
    close_rows(t, &r);
    return status;
}

static int write_trace(merged_trace *t, h5_error *error) {
    if (create_file(t, error)) return -1;
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (t->file.datasets[id] >= 0 && merge_table(t, id, error)) return -1;
    if (H5Fflush(t->file.file, H5F_SCOPE_GLOBAL) < 0) return h5_failed(error, "cannot write the trace");
    if (trace_file_close(&t->file, error)) return -1;
    int failure = durable_sync(t->path);
    return failure ? h5_failed(error, "cannot sync the trace: %s", strerror(failure)) : 0;
}

exit_code merge_trace(merging *m, problems *list) {
    merged_trace t = {.m = m};
    h5_error error = {0};
    if (snprintf(t.path, sizeof t.path, "%s/trace.h5", m->out) >= (int)sizeof t.path)
        return problem(list, EXIT_INPUT, "%.80s...: the path is too long", m->out);
    h5_enter();
    exit_code code = open_parts(m, list);
    THEN(code, take_headers(&t, list));
    if (code == EXIT_OK && write_trace(&t, &error))
        code = problem(list, EXIT_RUN,
                       "%s: %s; what was there before is untouched: make room or repair the "
                       "disk, then go on with --resume",
                       t.path, error.text);
    close_traces(m);
    h5_leave();
    free(t.records);
    free(t.devices);
    free(t.source_names);
    free(t.mixtures);
    free(t.window_devices);
    return code;
}
