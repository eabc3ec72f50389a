/* given.c - initial adapters from files: the setting `adapters` of a population.
 *
 *   FOLDER/adapter_config.json                     PEFT's: every expert of every device starts from it
 *   FOLDER/device<i>/                              a device: a PEFT folder, or what the line below has of it
 *   FOLDER/<name>-seed<seed>/device<i>/            `cohort export --adapters`: generalist<g>/, specialist<s>/
 *                                                  or lora/, each PEFT's, with router.safetensors and
 *                                                  tied.safetensors beside them
 *   FOLDER/adapters_<population>_<device>.safetensors   all of a device (adapters/adapters.h)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/adapters.h"
#include "adapters/peft.h"
#include "config/config.h"
#include "population/parts.h"

enum { PATH_BYTES = 4096, MOST_BAD_FILES = 8 };

static const char *folder_of(const population *p) {
    const char *folder = p->settings->adapters;
    return folder && strcmp(folder, "none") != 0 ? folder : NULL;
}

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* ---- A device as PEFT folders */

/* All experts from one folder; a device without experts has LoRAs alone. */
static exit_code read_one_for_all(const char *folder, const ck_shape *shape, int experts, float *pack,
                                  problems *list) {
    exit_code code = EXIT_OK;
    for (int e = experts == 0 ? -1 : 0; e < experts && code == EXIT_OK; e++)
        code = peft_read(folder, shape, e, pack, list);
    return code;
}

/* Whether two packs hold the same LoRAs of no expert. */
static bool same_loras(const ck_shape *shape, const float *a, const float *b) {
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        size_t bytes = (size_t)part.rows * (size_t)part.columns * sizeof *a;
        if (part.adapter == CK_LORA && memcmp(a + part.offset, b + part.offset, bytes) != 0) return false;
    }
    return true;
}

/* Every expert's folder holds the LoRAs that all experts use. */
static exit_code read_each(const char *folder, const ck_shape *shape, const device *d, float *pack,
                           problems *list) {
    char path[PATH_BYTES + PEFT_NAME_BYTES], name[PEFT_NAME_BYTES];
    size_t bytes = (size_t)shape->total * sizeof *pack;
    float *before = malloc(bytes + 1);
    exit_code code = before ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    for (int e = 0; e < shape->n_experts && code == EXIT_OK; e++) {
        if (!peft_has_lora(shape, e)) continue;
        snprintf(path, sizeof path, "%s/%s", folder,
                 peft_folder_name(d->generalists, device_experts(d), e, name));
        memcpy(before, pack, bytes);
        code = peft_read(path, shape, e, pack, list);
        if (code == EXIT_OK && e > 0 && !same_loras(shape, before, pack))
            code = problem(list, EXIT_INPUT,
                           "%s: its LoRAs of no expert are others than those of the device's first expert",
                           path);
    }
    free(before);
    return code;
}

static exit_code read_folders(const char *folder, const ck_shape *shape, const device *d, float *pack,
                              problems *list) {
    exit_code code = peft_is_folder(folder) ? read_one_for_all(folder, shape, device_experts(d), pack, list)
                                            : read_each(folder, shape, d, pack, list);
    return code == EXIT_OK ? peft_read_beside(folder, shape, pack, list) : code;
}

/* ---- Where a device's files lie */

/* False: not in folders of PEFT's form. */
static bool find_folders(const population *p, const device *d, char path[PATH_BYTES]) {
    const char *folder = folder_of(p);
    snprintf(path, PATH_BYTES, "%s", folder);
    if (peft_is_folder(path)) return true;
    snprintf(path, PATH_BYTES, "%s/device%d", folder, d->index);
    if (is_folder(path)) return true;
    snprintf(path, PATH_BYTES, "%s/%s-seed%llu/device%d", folder, p->settings->name,
             (unsigned long long)p->settings->seed, d->index);
    return is_folder(path);
}

exit_code given_pack_read(const fleet *f, const device *d, float *pack, problems *list) {
    const population *p = &f->populations[d->population];
    const ck_shape *shape = &f->shapes[d->shape];
    char path[PATH_BYTES];
    if (!folder_of(p)) return EXIT_OK;
    if (find_folders(p, d, path)) return read_folders(path, shape, d, pack, list);
    char *file = adapters_path(folder_of(p), p->settings->number, d->index);
    if (!file) return problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    exit_code code = adapters_read(file, shape, pack, list);
    free(file);
    return code;
}

/* ---- Before anything is made of them */

/* A folder that several populations name is missed once. */
static bool is_first_of(const fleet *f, int index) {
    const char *folder = folder_of(&f->populations[index]);
    for (int i = 0; i < index; i++) {
        const char *other = folder_of(&f->populations[i]);
        if (other && strcmp(other, folder) == 0) return false;
    }
    return true;
}

/* Whether two packs are equal where a group averages them; the first has layout 0. */
static bool same_shared(const ck_group *g, const float *first, const float *other, int32_t layout) {
    const int64_t *there = g->offset + (int64_t)layout * g->n_ranges;
    for (int i = 0; i < g->n_ranges; i++)
        if (memcmp(first + g->offset[i], other + there[i], (size_t)g->count[i] * sizeof *first) != 0)
            return false;
    return true;
}

/* A proximal term has one anchor for all devices that average the same, and are there in the first round. */
static exit_code check_group_start(const fleet *f, int group, float *start, float *pack, problems *list) {
    const group_holders *h = &f->holders[group];
    const population *p = &f->populations[h->population];
    const device *first = &f->devices[h->first];
    memset(start, 0, (size_t)f->shapes[first->shape].total * sizeof *start);
    exit_code code = given_pack_read(f, first, start, list);
    for (int i = 0; i < h->n_local && code == EXIT_OK; i++) {
        const device *d = &f->devices[h->local[i]];
        if (!fleet_participation(f, d, 1).present) continue;
        memset(pack, 0, (size_t)f->shapes[d->shape].total * sizeof *pack);
        code = given_pack_read(f, d, pack, list);
        if (code == EXIT_OK && !same_shared(&f->groups[group], start, pack, f->groups[group].layout[i]))
            code = problem(
                list, EXIT_INPUT,
                "%s: device %d starts from other shared parts than device %d, but method %s holds all "
                "devices of population '%s' near one start; give them the same",
                folder_of(p), d->index, first->index, p->method->name, p->settings->name);
    }
    return code;
}

static exit_code check_equal_start(const fleet *f, int index, float *pack, problems *list) {
    float *start = calloc((size_t)fleet_largest_pack(f) + 1, sizeof *start);
    exit_code code = start ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    for (int g = 0; g < f->n_groups && code == EXIT_OK; g++)
        if (f->holders[g].population == index) code = check_group_start(f, g, start, pack, list);
    free(start);
    return code;
}

/* After a few bad files the rest would say the same; a folder that all devices start from is looked at once
 * for each shape. Each is read into the same place: what is in it counts, too. */
static exit_code check_devices(const fleet *f, int index, float *pack, problems *list) {
    const population *p = &f->populations[index];
    exit_code code = EXIT_OK;
    bool one_for_all = peft_is_folder(folder_of(p));
    for (int i = 0, bad = 0, shape = -1; i < f->n_local && bad < MOST_BAD_FILES; i++) {
        const device *d = &f->devices[f->local[i]];
        if (d->population != index || (one_for_all && d->shape == shape)) continue;
        shape = d->shape;
        exit_code one = given_pack_read(f, d, pack, list);
        if (one != EXIT_OK) code = one;
        bad += one != EXIT_OK;
    }
    return code;
}

exit_code given_packs_check(const fleet *f, problems *list) {
    float *pack = calloc((size_t)fleet_largest_pack(f) + 1, sizeof *pack);
    exit_code code = pack ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    for (int i = 0; i < f->n_populations && pack; i++) {
        const population *p = &f->populations[i];
        int before = problems_count(list);
        exit_code one = EXIT_OK;
        if (!folder_of(p)) continue;
        if (is_folder(folder_of(p))) {
            one = check_devices(f, i, pack, list);
            if (population_proximal(p) > 0.0 && !peft_is_folder(folder_of(p)))
                THEN(one, check_equal_start(f, i, pack, list));
        } else if (is_first_of(f, i))
            one = problem(list, EXIT_INPUT,
                          "there is no folder %s; it must be PEFT's, or hold what `cohort export --adapters` "
                          "writes, or adapters_<population>_<device>.safetensors",
                          folder_of(p));
        settings_prefix_line(f->settings, "adapters", p->settings->adapters_line, before, list);
        if (one != EXIT_OK) code = one;
    }
    free(pack);
    return code;
}
