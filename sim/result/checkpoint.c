/* checkpoint.c - everything a run needs to go on, in one HDF5 file that is whole or absent.
 *
 *   content_hash = XXH3-128(config_hash, round, steps, sizes, arrays in the order of arrays_of())
 *
 * HDF5 1.10 protects its own metadata by checksums, but not the values: a file that was torn or changed
 * behind its back fails the content hash, and is refused. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "result/h5.h"
#include "result/trace.h"
#include "support/durable.h"

enum { CHECKPOINT_VERSION = 1, N_ARRAYS = 6 + DEVICE_STATES, HASH_TEXT_BYTES = 33 };
static const int64_t MOST_BYTES = INT64_C(1) << 40;

typedef struct {
    const char *path, *what;
    hid_t type;
    void *values;
    size_t value_bytes;
    int64_t count;
    bool optional; /* in the file only where it has values */
    int packs;     /* packs_array: may come in pieces; else -1 */
} array;

static hid_t state_type(device_state_type type) {
    switch (type) {
    case STATE_I64:
        return H5T_NATIVE_INT64;
    case STATE_F64:
        return H5T_NATIVE_DOUBLE;
    case STATE_U8:
        return H5T_NATIVE_UINT8;
    }
    return -1;
}

static array state_array(const checkpoint *c, device_state_id id) {
    return (array){.path = device_states[id].path,
                   .what = "devices",
                   .type = state_type(device_states[id].type),
                   .values = c->state[id],
                   .value_bytes = device_state_bytes(id),
                   .count = c->n_devices,
                   .packs = -1};
}

static void arrays_of(const checkpoint *c, array list[N_ARRAYS]) {
    const array before[] = {
        {"/parameters", "parameters", H5T_NATIVE_FLOAT, c->parameters, 4, c->n_parameters, false,
         PACKS_PARAMETERS},
        {"/moment1", "parameters", H5T_NATIVE_FLOAT, c->moment1, 4, c->n_parameters, false, PACKS_MOMENT1},
        {"/moment2", "parameters", H5T_NATIVE_FLOAT, c->moment2, 4, c->n_parameters, false, PACKS_MOMENT2},
    };
    const array after[] = {
        {"/carried", "carried gradients", H5T_NATIVE_FLOAT, c->carried, 4, c->n_carried, true, PACKS_CARRIED},
        {"/unfinished", "bytes of an unfinished round", H5T_NATIVE_UINT8, c->unfinished, 1, c->n_unfinished,
         true, -1},
        {"/variants", "bytes of base variants", H5T_NATIVE_UINT8, c->variants, 1, c->n_variants, true, -1},
    };
    memcpy(list, before, sizeof before);
    list += sizeof before / sizeof *before;
    for (device_state_id id = 0; id < DEVICE_STATES; id++) *list++ = state_array(c, id);
    memcpy(list, after, sizeof after);
}

bool checkpoint_states_create(checkpoint *c) {
    bool ok = true;
    for (device_state_id id = 0; id < DEVICE_STATES; id++) {
        c->state[id] = calloc((size_t)c->n_devices + 1, device_state_bytes(id));
        ok &= c->state[id] != NULL;
    }
    return ok;
}

void checkpoint_states_free(checkpoint *c) {
    for (device_state_id id = 0; id < DEVICE_STATES; id++) {
        free(c->state[id]);
        c->state[id] = NULL;
    }
}

static bool is_absent(const array *a) {
    return a->optional && a->count == 0;
}

/* The arrays follow, piece by piece. */
static void begin_hash(const checkpoint *c, XXH3_state_t *state) {
    const int64_t scalars[] = {CHECKPOINT_VERSION, c->round,        c->expert_step,
                               c->router_step,     c->n_parameters, c->n_devices};
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, c->config_hash, strlen(c->config_hash));
    XXH3_128bits_update(state, scalars, sizeof scalars);
}

static void end_hash(const XXH3_state_t *state, char text[HASH_TEXT_BYTES]) {
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    snprintf(text, HASH_TEXT_BYTES, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
}

/* The piece of an array that begins at value `first`: all of it, where it is whole. */
static exit_code next_piece(const checkpoint *c, const array *a, int64_t first, int64_t *count, void **values,
                            problems *list) {
    float *floats = NULL;
    *count = a->count - first;
    *values = a->values;
    if (!c->pieces || a->packs < 0) return EXIT_OK;
    exit_code code = c->pieces->next(c->pieces->context, (packs_array)a->packs, first, count, &floats, list);
    *values = floats;
    return code;
}

/* Values [first, first + count) of a dataset, to or from memory. The reason of a failure is noted before
 * HDF5's next call forgets it. */
static int move_values(hid_t dataset, const array *a, int64_t first, int64_t count, void *values, bool write,
                       h5_error *error) {
    const hsize_t start = (hsize_t)first, size = (hsize_t)count;
    hid_t memory = H5Screate_simple(1, &size, NULL), space = H5Dget_space(dataset);
    bool moved = memory >= 0 && space >= 0 &&
                 H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &size, NULL) >= 0 &&
                 (write ? H5Dwrite(dataset, a->type, memory, space, H5P_DEFAULT, values)
                        : H5Dread(dataset, a->type, memory, space, H5P_DEFAULT, values)) >= 0;
    if (!moved) h5_failed(error, "cannot %s %s", write ? "write" : "read", a->path);
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return moved ? 0 : -1;
}

/* ---- writing ---- */

static int write_attributes(hid_t file, const checkpoint *c, h5_error *error) {
    const int64_t version = CHECKPOINT_VERSION, round = c->round;
    if (h5_write_scalar(file, "version", H5T_NATIVE_INT64, &version, error) ||
        h5_write_scalar(file, "round", H5T_NATIVE_INT64, &round, error) ||
        h5_write_scalar(file, "expert_step", H5T_NATIVE_INT64, &c->expert_step, error) ||
        h5_write_scalar(file, "router_step", H5T_NATIVE_INT64, &c->router_step, error) ||
        h5_write_text(file, "config_hash", c->config_hash, error))
        return -1;
    return 0;
}

static int write_pieces(hid_t dataset, const checkpoint *c, const array *a, XXH3_state_t *hash,
                        h5_error *error, problems *list) {
    int64_t count = 0;
    for (int64_t first = 0; first < a->count; first += count) {
        void *values = NULL;
        if (next_piece(c, a, first, &count, &values, list) != EXIT_OK)
            return h5_failed(error, "%s is incomplete", a->path);
        if (move_values(dataset, a, first, count, values, true, error)) return -1;
        XXH3_128bits_update(hash, values, (size_t)count * a->value_bytes);
    }
    return 0;
}

static int write_array(hid_t file, const checkpoint *c, const array *a, XXH3_state_t *hash, h5_error *error,
                       problems *list) {
    hid_t dataset = is_absent(a) ? -1 : h5_create_array(file, a->path, a->type, (hsize_t)a->count, error);
    if (is_absent(a)) return 0;
    if (dataset < 0 || write_pieces(dataset, c, a, hash, error, list)) return -1;
    return H5Dclose(dataset) < 0 ? h5_failed(error, "cannot write %s", a->path) : 0;
}

static int write_file(const char *path, const checkpoint *c, h5_error *error, problems *list) {
    hid_t file = h5_create_file(path, error);
    if (file < 0 || write_attributes(file, c, error)) return -1;
    array arrays[N_ARRAYS];
    XXH3_state_t state;
    char hash[HASH_TEXT_BYTES];
    arrays_of(c, arrays);
    begin_hash(c, &state);
    for (int i = 0; i < N_ARRAYS; i++)
        if (write_array(file, c, &arrays[i], &state, error, list)) return -1;
    end_hash(&state, hash);
    if (h5_write_text(file, "content_hash", hash, error)) return -1;
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0 || H5Fclose(file) < 0)
        return h5_failed(error, "cannot write %s", path);
    return 0;
}

exit_code checkpoint_write(const char *path, const checkpoint *c, problems *list) {
    char *temporary = durable_temporary(path);
    if (!temporary) return problem(list, EXIT_ENVIRONMENT, "%s: not enough memory to write it", path);
    h5_error error = {0};
    unlink(temporary);
    h5_enter();
    int status = write_file(temporary, c, &error, list);
    h5_leave();
    if (!status) {
        status = durable_replace(temporary, path);
        if (status)
            snprintf(error.text, sizeof error.text, "cannot put it in its place (%s)", strerror(status));
    }
    if (status) unlink(temporary);
    free(temporary);
    if (!status) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: %s; the checkpoint before it, if any, is untouched: make room or repair the disk, "
                   "then go on with --resume",
                   path, error.text);
}

/* ---- reading ---- */

static const char *const DAMAGED = "it is damaged: start over in a new folder";

static exit_code refuse(const char *path, const char *why, problems *list) {
    return problem(list, EXIT_INPUT, "%s: %s; %s", path, why, DAMAGED);
}

/* *file is -1 on failure. */
static exit_code open_checkpoint(const char *path, hid_t *file, problems *list) {
    h5_error error = {0};
    int64_t version = 0;
    *file = -1;
    if (access(path, R_OK))
        return problem(list, EXIT_INPUT, "%s: cannot be read (%s)", path, strerror(errno));
    *file = h5_open_file(path, false, &error);
    if (*file >= 0 && !h5_read_scalar(*file, "version", H5T_NATIVE_INT64, &version, &error) &&
        version == CHECKPOINT_VERSION)
        return EXIT_OK;
    if (*file >= 0) H5Fclose(*file);
    *file = -1;
    if (error.text[0]) return h5_problem(&error, path, DAMAGED, list);
    return problem(list, EXIT_INPUT, "%s: is of format version %lld, this program reads version %d", path,
                   (long long)version, CHECKPOINT_VERSION);
}

static exit_code read_identity(hid_t file, const char *path, checkpoint *c, problems *list) {
    h5_error error = {0};
    int64_t round = 0;
    char *hash = h5_read_text(file, "config_hash", &error);
    if (!hash || strlen(hash) >= sizeof c->config_hash ||
        h5_read_scalar(file, "round", H5T_NATIVE_INT64, &round, &error)) {
        free(hash);
        return refuse(path, error.text[0] ? error.text : "the configuration's hash is too long", list);
    }
    snprintf(c->config_hash, sizeof c->config_hash, "%s", hash);
    c->round = (int)round;
    free(hash);
    return EXIT_OK;
}

/* The number of values in the file: 0 where an optional array is not there, -1 after a failure. */
static int64_t count_values(hid_t file, const array *a) {
    if (a->optional && H5Lexists(file, a->path, H5P_DEFAULT) == 0) return 0;
    hid_t dataset = H5Dopen2(file, a->path, H5P_DEFAULT), space = dataset < 0 ? -1 : H5Dget_space(dataset);
    int64_t count = space < 0 ? -1 : (int64_t)H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    if (dataset >= 0) H5Dclose(dataset);
    return count;
}

static exit_code read_pieces(hid_t dataset, const char *path, const checkpoint *c, const array *a,
                             XXH3_state_t *hash, problems *list) {
    exit_code code = EXIT_OK;
    int64_t count = 0;
    for (int64_t first = 0; first < a->count && code == EXIT_OK; first += count) {
        h5_error error = {0};
        void *values = NULL;
        code = next_piece(c, a, first, &count, &values, list);
        if (code != EXIT_OK) break;
        if (move_values(dataset, a, first, count, values, false, &error))
            return refuse(path, error.text, list);
        XXH3_128bits_update(hash, values, (size_t)count * a->value_bytes);
        if (c->pieces && c->pieces->filled && a->packs >= 0)
            code = c->pieces->filled(c->pieces->context, list);
    }
    return code;
}

static exit_code read_array(hid_t file, const char *path, const checkpoint *c, const array *a,
                            XXH3_state_t *hash, problems *list) {
    h5_error error = {0};
    int64_t count = count_values(file, a);
    if (count >= 0 && count != a->count)
        return problem(list, EXIT_INPUT,
                       "%s: %s holds %lld %s, this run has %lld: it belongs to another configuration", path,
                       a->path, (long long)count, a->what, (long long)a->count);
    if (count == 0) return EXIT_OK;
    hid_t dataset = count < 0 ? -1 : H5Dopen2(file, a->path, H5P_DEFAULT);
    if (dataset < 0) {
        h5_failed(&error, "cannot read %s", a->path);
        return refuse(path, error.text, list);
    }
    exit_code code = read_pieces(dataset, path, c, a, hash, list);
    H5Dclose(dataset);
    return code;
}

/* Bytes whose number is known to the file alone. */
static exit_code allocate_bytes(hid_t file, const char *path, const char *name, uint8_t **out, int64_t *n,
                                problems *list) {
    const array wanted = {.path = name, .optional = true};
    int64_t count = count_values(file, &wanted);
    char why[64];
    *out = NULL;
    *n = 0;
    snprintf(why, sizeof why, "cannot read %s", name);
    if (count < 0 || count > MOST_BYTES) return refuse(path, why, list);
    if (count > 0 && !(*out = malloc((size_t)count)))
        return problem(list, EXIT_ENVIRONMENT, "%s: not enough memory to read it", path);
    *n = count;
    return EXIT_OK;
}

static exit_code read_content(hid_t file, const char *path, checkpoint *c, problems *list) {
    array arrays[N_ARRAYS];
    XXH3_state_t state;
    h5_error error = {0};
    if (h5_read_scalar(file, "expert_step", H5T_NATIVE_INT64, &c->expert_step, &error) ||
        h5_read_scalar(file, "router_step", H5T_NATIVE_INT64, &c->router_step, &error))
        return refuse(path, error.text, list);
    c->variants = NULL;
    c->n_variants = 0;
    exit_code code = allocate_bytes(file, path, "/unfinished", &c->unfinished, &c->n_unfinished, list);
    THEN(code, allocate_bytes(file, path, "/variants", &c->variants, &c->n_variants, list));
    arrays_of(c, arrays);
    begin_hash(c, &state);
    for (int i = 0; i < N_ARRAYS && code == EXIT_OK; i++)
        code = read_array(file, path, c, &arrays[i], &state, list);
    if (code != EXIT_OK) return code;
    char found[HASH_TEXT_BYTES], *stored = h5_read_text(file, "content_hash", &error);
    end_hash(&state, found);
    bool same = stored && strcmp(stored, found) == 0;
    free(stored);
    return same ? EXIT_OK
                : refuse(path, error.text[0] ? error.text : "its content does not match its hash", list);
}

const char *checkpoint_packs_path(packs_array which) {
    const checkpoint none = {0};
    array arrays[N_ARRAYS];
    arrays_of(&none, arrays);
    for (int i = 0; i < N_ARRAYS; i++)
        if (arrays[i].packs == (int)which) return arrays[i].path;
    return "";
}

exit_code checkpoint_peek(const char *path, checkpoint *c, problems *list) {
    hid_t file = -1;
    h5_enter();
    exit_code code = open_checkpoint(path, &file, list);
    THEN(code, read_identity(file, path, c, list));
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return code;
}

static exit_code read_all(hid_t file, const char *path, checkpoint *c, problems *list) {
    char expected[sizeof c->config_hash];
    memcpy(expected, c->config_hash, sizeof expected);
    exit_code code = read_identity(file, path, c, list);
    if (code != EXIT_OK) return code;
    if (expected[0] && strcmp(expected, c->config_hash) != 0)
        return problem(
            list, EXIT_INPUT,
            "%s: was written by a run of another configuration (hash %.12s..., this run's is %.12s...)", path,
            c->config_hash, expected);
    return read_content(file, path, c, list);
}

exit_code checkpoint_read(const char *path, checkpoint *c, problems *list) {
    hid_t file = -1;
    h5_enter();
    exit_code code = open_checkpoint(path, &file, list);
    THEN(code, read_all(file, path, c, list));
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return code;
}
