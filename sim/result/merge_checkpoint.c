/* merge_checkpoint.c - checkpoint.h5 of a merged result. Each part's file is read once in whole, which checks
 * it against its hash; its packs are then read again, device by device, as the new file is written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "population/variants.h"
#include "result/h5.h"
#include "result/merge_parts.h"

enum { PATH_BYTES = 4096 };

static exit_code path_of(const char *folder, char path[PATH_BYTES], problems *list) {
    int n = snprintf(path, PATH_BYTES, "%s/checkpoint.h5", folder);
    return n < PATH_BYTES ? EXIT_OK : problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
}

/* ---- Checking a part ---- */

/* A buffer through which the packs of a file pass while the file is checked; they are not kept. */
typedef struct {
    float *values;
    int64_t room;
} passing;

static exit_code pass(void *context, packs_array which, int64_t first, int64_t *count, float **values,
                      problems *list) {
    const passing *p = context;
    (void)which, (void)first, (void)list;
    if (*count > p->room) *count = p->room;
    *values = p->values;
    return EXIT_OK;
}

static exit_code read_part(open_part *part, passing *room, problems *list) {
    char path[PATH_BYTES];
    checkpoint_pieces pieces = {.context = room, .next = pass};
    checkpoint *c = &part->saved;
    *c = (checkpoint){.n_parameters = part->fleet->n_parameters,
                      .n_carried = part->fleet->n_carried,
                      .n_devices = part->fleet->n_devices,
                      .pieces = &pieces};
    exit_code code = path_of(part->given->folder, path, list);
    if (code == EXIT_OK && !checkpoint_states_create(c))
        code = problem(list, EXIT_ENVIRONMENT, "out of memory to merge results");
    THEN(code, checkpoint_read(path, c, list));
    c->pieces = NULL;
    if (code == EXIT_OK && (c->round != part->given->settings->rounds || c->n_unfinished > 0))
        code = problem(list, EXIT_INPUT, "%s: is of round %d; a result is merged when its %d rounds are over",
                       path, c->round, part->given->settings->rounds);
    return code;
}

/* ---- Writing the new one ---- */

typedef struct {
    const merging *merging;
    hid_t *files, *datasets; /* [n_parts]; datasets: of the array that is being written */
    packs_array array;
    int device; /* the next one of the result */
    float *pack;
    h5_error error;
} packs_in;

static void open_datasets(packs_in *in, packs_array which) {
    in->array = which;
    in->device = 0;
    for (int i = 0; i < in->merging->n_parts; i++) {
        const char *path = checkpoint_packs_path(which);
        if (in->datasets[i] >= 0) H5Dclose(in->datasets[i]);
        in->datasets[i] = in->files[i] >= 0 && H5Lexists(in->files[i], path, H5P_DEFAULT) > 0
                              ? H5Dopen2(in->files[i], path, H5P_DEFAULT)
                              : -1;
    }
}

static int64_t place_in(const device *d, packs_array which) {
    return which == PACKS_CARRIED ? d->carried : d->pack;
}

static int read_floats(hid_t dataset, int64_t first, int64_t count, float *values) {
    const hsize_t start = (hsize_t)first, size = (hsize_t)count;
    hid_t memory = H5Screate_simple(1, &size, NULL), space = dataset < 0 ? -1 : H5Dget_space(dataset);
    bool read = memory >= 0 && space >= 0 &&
                H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &size, NULL) >= 0 &&
                H5Dread(dataset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, values) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return read ? 0 : -1;
}

/* Reads the pack of the next device from the part that has it. */
static exit_code next_pack(void *context, packs_array which, int64_t first, int64_t *count, float **values,
                           problems *list) {
    packs_in *in = context;
    const merging *m = in->merging;
    if (first == 0) open_datasets(in, which);
    while (place_in(&m->fleet->devices[in->device], which) < 0) in->device++;
    const device *to = &m->fleet->devices[in->device++];
    merge_source source = m->sources[to->population];
    const fleet *f = m->parts[source.part].fleet;
    const device *from = &f->devices[f->populations[source.population].first_device + to->index];
    *count = m->fleet->shapes[to->shape].total;
    *values = in->pack;
    if (f->shapes[from->shape].total == *count && place_in(from, which) >= 0 &&
        read_floats(in->datasets[source.part], place_in(from, which), *count, in->pack) == 0)
        return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "%s/checkpoint.h5: the adapters of device %d of population '%s' cannot "
                   "be read; it is damaged, or of another configuration",
                   m->parts[source.part].given->folder, to->index,
                   m->fleet->populations[to->population].settings->name);
}

static exit_code open_files(packs_in *in, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < in->merging->n_parts && code == EXIT_OK; i++) {
        char path[PATH_BYTES];
        code = path_of(in->merging->parts[i].given->folder, path, list);
        h5_enter();
        in->files[i] = code == EXIT_OK ? h5_open_file(path, false, &in->error) : -1;
        h5_leave();
        if (code == EXIT_OK && in->files[i] < 0) code = h5_problem(&in->error, path, "it is damaged", list);
    }
    return code;
}

static void close_files(packs_in *in) {
    h5_enter();
    for (int i = 0; in->files && in->datasets && i < in->merging->n_parts; i++) {
        if (in->datasets[i] >= 0) H5Dclose(in->datasets[i]);
        if (in->files[i] >= 0) H5Fclose(in->files[i]);
    }
    h5_leave();
    free(in->files);
    free(in->datasets);
}

/* ---- All else that it holds ---- */

static void take_states(const merging *m, checkpoint *c) {
    for (int i = 0; i < m->n_parts; i++) {
        const open_part *part = &m->parts[i];
        for (int d = 0; d < part->fleet->n_devices; d++)
            for (device_state_id id = 0; id < DEVICE_STATES && part->device_to[d] >= 0; id++) {
                size_t bytes = device_state_bytes(id), to = (size_t)part->device_to[d] * bytes;
                const char *value = (const char *)part->saved.state[id] + (size_t)d * bytes;
                memcpy((char *)c->state[id] + to, value, bytes);
                device_state_set(&m->fleet->devices[part->device_to[d]], id, value);
            }
        if (part->saved.expert_step > c->expert_step) c->expert_step = part->saved.expert_step;
    }
    const int64_t *steps = checkpoint_counts(c, STATE_ROUTER_STEPS);
    for (int i = 0; i < c->n_devices; i++)
        if (steps[i] > c->router_step) c->router_step = steps[i];
}

/* Where some base variant has a new version: a record for each population that has a variant, in the order
 * of populations. */
static exit_code take_variants(const merging *m, checkpoint *c, problems *list) {
    saved_variants *of_part = calloc((size_t)m->n_parts, sizeof *of_part);
    if (!of_part) return problem(list, EXIT_ENVIRONMENT, "out of memory to merge base variants");
    bool any = false;
    for (int i = 0; i < m->n_parts; i++) {
        const open_part *part = &m->parts[i];
        of_part[i] = (saved_variants){part->fleet, part->saved.variants, part->saved.n_variants};
        any |= part->saved.n_variants > 0;
    }
    exit_code code = EXIT_OK;
    for (int i = 0; i < m->fleet->n_populations && any && code == EXIT_OK; i++)
        code = variants_append_saved(&of_part[m->sources[i].part], m->sources[i].population, &c->variants,
                                     &c->n_variants, list);
    free(of_part);
    return code;
}

static exit_code write_merged(const merging *m, packs_in *in, problems *list) {
    char path[PATH_BYTES];
    checkpoint_pieces pieces = {.context = in, .next = next_pack};
    checkpoint c = {.round = m->settings->rounds,
                    .n_parameters = m->fleet->n_parameters,
                    .n_carried = m->fleet->n_carried,
                    .n_devices = m->fleet->n_devices,
                    .pieces = &pieces};
    settings_hash(m->settings, c.config_hash);
    exit_code code = path_of(m->out, path, list);
    if (code == EXIT_OK && !checkpoint_states_create(&c))
        code = problem(list, EXIT_ENVIRONMENT, "out of memory to merge results");
    if (code == EXIT_OK) take_states(m, &c);
    THEN(code, take_variants(m, &c, list));
    THEN(code, checkpoint_write(path, &c, list));
    checkpoint_states_free(&c);
    free(c.variants);
    return code;
}

exit_code merge_checkpoint(merging *m, problems *list) {
    size_t n = (size_t)m->n_parts;
    packs_in in = {.merging = m, .files = malloc(n * sizeof(hid_t)), .datasets = malloc(n * sizeof(hid_t))};
    int64_t most = fleet_largest_pack(m->fleet) + 1;
    in.pack = calloc((size_t)most, sizeof *in.pack);
    exit_code code = in.files && in.datasets && in.pack
                         ? EXIT_OK
                         : problem(list, EXIT_ENVIRONMENT, "out of memory to merge results");
    for (size_t i = 0; code == EXIT_OK && i < n; i++) in.files[i] = in.datasets[i] = -1;
    passing room = {in.pack, most};
    for (int i = 0; i < m->n_parts && code == EXIT_OK; i++) code = read_part(&m->parts[i], &room, list);
    THEN(code, open_files(&in, list));
    THEN(code, write_merged(m, &in, list));
    if (in.files && in.datasets) close_files(&in);
    free(in.pack);
    return code;
}
