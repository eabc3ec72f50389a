/* peft_result.c - a result's last checkpoint as PEFT folders: the packs' shapes are rebuilt from the result's
 * config.yaml. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/peft.h"
#include "base/tensors.h"
#include "config/config.h"
#include "model/pretrain.h"
#include "population/fleet.h"
#include "result/peft_result.h"
#include "result/trace.h"
#include "support/output_folder.h"

enum { PATH_BYTES = 4096 };

typedef struct {
    settings *settings; /* owned, as are the next two */
    fleet *fleet;
    checkpoint checkpoint;
} source;

__attribute__((format(printf, 3, 4))) static exit_code join(char path[PATH_BYTES], problems *list,
                                                            const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(path, PATH_BYTES, format, arguments);
    va_end(arguments);
    return used < PATH_BYTES ? EXIT_OK : problem(list, EXIT_INPUT, "%.80s...: the path is too long", path);
}

/* ---- A result's checkpoint ---- */

/* Of a base that was loaded the result keeps the shape (results of earlier versions do not). */
static exit_code shape_of_base(const settings *s, const char *result, base_shape *shape, problems *list) {
    char path[PATH_BYTES];
    *shape = pretrain_shape(s);
    if (!s->base.checkpoint) return EXIT_OK;
    exit_code code = join(path, list, "%s/" BASE_NAME, result);
    if (code == EXIT_OK && access(path, F_OK) != 0)
        code = join(path, list, "%s/config.json", s->base.checkpoint);
    return code == EXIT_OK ? base_config_read(path, shape, list) : code;
}

static bool allocate(checkpoint *c) {
    size_t floats = (size_t)c->n_parameters, devices = (size_t)c->n_devices;
    c->parameters = malloc(floats * sizeof *c->parameters);
    c->moment1 = malloc(floats * sizeof *c->moment1);
    c->moment2 = malloc(floats * sizeof *c->moment2);
    c->carried = malloc((size_t)c->n_carried * sizeof *c->carried + 1);
    c->device_expert_steps = malloc(devices * sizeof *c->device_expert_steps);
    c->device_router_steps = malloc(devices * sizeof *c->device_router_steps);
    c->bytes_up = malloc(devices * sizeof *c->bytes_up);
    c->bytes_down = malloc(devices * sizeof *c->bytes_down);
    c->stopped = malloc(devices * sizeof *c->stopped);
    return c->parameters && c->moment1 && c->moment2 && c->carried && c->device_expert_steps &&
           c->device_router_steps && c->bytes_up && c->bytes_down && c->stopped;
}

static void source_close(source *s) {
    checkpoint *c = &s->checkpoint;
    void *owned[] = {c->parameters,          c->moment1,  c->moment2,    c->carried, c->device_expert_steps,
                     c->device_router_steps, c->bytes_up, c->bytes_down, c->stopped, c->unfinished};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    fleet_destroy(s->fleet);
    settings_destroy(s->settings);
}

static exit_code source_open(source *s, const char *result, problems *list) {
    char config[PATH_BYTES], path[PATH_BYTES];
    base_shape shape;
    exit_code code = join(config, list, "%s/config.yaml", result);
    if (code == EXIT_OK) code = join(path, list, "%s/checkpoint.h5", result);
    if (code == EXIT_OK) code = settings_load(config, 0, NULL, &s->settings, list);
    if (code == EXIT_OK) code = shape_of_base(s->settings, result, &shape, list);
    if (code == EXIT_OK) code = fleet_create(s->settings, &shape, &s->fleet, list);
    if (code != EXIT_OK) return code;
    s->checkpoint = (checkpoint){.n_parameters = s->fleet->n_parameters,
                                 .n_carried = s->fleet->n_carried,
                                 .n_devices = s->fleet->n_devices};
    if (!allocate(&s->checkpoint)) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", path);
    return checkpoint_read(path, &s->checkpoint, list);
}

/* ---- Folders ---- */

static bool is_selected(const source *s, const peft_selection *wanted, const device *d) {
    const population_settings *p = s->fleet->populations[d->population].settings;
    return (!wanted->population || strcmp(wanted->population, p->name) == 0) &&
           (!wanted->one_seed || wanted->seed == p->seed) &&
           (wanted->device < 0 || wanted->device == d->index);
}

static int count_selected(const source *s, const peft_selection *wanted) {
    int n = 0;
    for (int i = 0; i < s->fleet->n_devices; i++) n += is_selected(s, wanted, &s->fleet->devices[i]);
    return n;
}

/* Nothing was ever saved of a population that diverged before its first checkpoint. */
static exit_code check_saved(const source *s, const peft_selection *wanted, const char *result,
                             problems *list) {
    for (int i = 0; i < s->fleet->n_devices; i++) {
        const device *d = &s->fleet->devices[i];
        const population_settings *p = s->fleet->populations[d->population].settings;
        if (is_selected(s, wanted, d) && s->checkpoint.stopped[i] &&
            s->checkpoint.device_expert_steps[i] == 0)
            return problem(list, EXIT_INPUT,
                           "%s: population '%s' (seed %llu) diverged before its first checkpoint, so there "
                           "are no adapters of it; choose "
                           "others with --population",
                           result, p->name, (unsigned long long)p->seed);
    }
    return EXIT_OK;
}

/* What there is, so that the next attempt can be right. */
static exit_code nothing_selected(const source *s, const char *result, problems *list) {
    char text[1024] = "";
    size_t used = 0;
    for (int i = 0; i < s->fleet->n_populations && used < sizeof text; i++) {
        const population *p = &s->fleet->populations[i];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s (seed %llu, devices 0 to %d)",
                                 i ? ", " : "", p->settings->name, (unsigned long long)p->settings->seed,
                                 p->n_devices - 1);
    }
    return problem(list, EXIT_INPUT, "%s: no such device; the result has %s", result, text);
}

static exit_code make_new(const char *path, problems *list) {
    if (mkdir(path, 0777) == 0) return EXIT_OK;
    if (errno == EEXIST)
        return problem(list, EXIT_INPUT,
                       "%s: would be written twice; give populations of one seed different names", path);
    return problem(list, EXIT_RUN, "%s: cannot make the folder: %s", path, strerror(errno));
}

static exit_code write_expert(const source *s, const device *d, int e, const char *folder, problems *list) {
    const population_settings *p = s->fleet->populations[d->population].settings;
    char path[PATH_BYTES], name[PEFT_NAME_BYTES];
    peft_folder_name(d->generalists, device_experts(d), e, name);
    exit_code code = join(path, list, "%s/%s", folder, name);
    if (code == EXIT_OK) code = make_new(path, list);
    if (code != EXIT_OK) return code;
    const float *pack = s->checkpoint.parameters + d->pack;
    return peft_write(path, &s->fleet->shapes[d->shape], e, &p->experts, &p->lora,
                      s->settings->base.checkpoint, pack, list);
}

static exit_code write_device(const source *s, const device *d, const char *out, peft_written *written,
                              problems *list) {
    const population_settings *p = s->fleet->populations[d->population].settings;
    const ck_shape *shape = &s->fleet->shapes[d->shape];
    char path[PATH_BYTES];
    exit_code code = join(path, list, "%s/%s-seed%llu", out, p->name, (unsigned long long)p->seed);
    if (code == EXIT_OK && mkdir(path, 0777) != 0 && errno != EEXIST)
        code = problem(list, EXIT_RUN, "%s: cannot make the folder: %s", path, strerror(errno));
    if (code == EXIT_OK)
        code =
            join(path, list, "%s/%s-seed%llu/device%d", out, p->name, (unsigned long long)p->seed, d->index);
    if (code == EXIT_OK) code = make_new(path, list);
    for (int e = 0; e < shape->n_experts && code == EXIT_OK; e++) {
        if (!peft_has_lora(shape, e)) continue;
        code = write_expert(s, d, e, path, list);
        written->folders += code == EXIT_OK;
    }
    if (code == EXIT_OK) code = peft_write_beside(path, shape, s->checkpoint.parameters + d->pack, list);
    written->devices += code == EXIT_OK;
    written->diverged += code == EXIT_OK && s->checkpoint.stopped[d - s->fleet->devices];
    return code;
}

static exit_code write_devices(const source *s, const char *out, const peft_selection *wanted,
                               peft_written *written, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->fleet->n_devices && code == EXIT_OK; i++)
        if (is_selected(s, wanted, &s->fleet->devices[i]))
            code = write_device(s, &s->fleet->devices[i], out, written, list);
    return code;
}

/* All of it, or nothing. */
static exit_code write_whole(const source *s, const char *out, const peft_selection *wanted,
                             peft_written *written, problems *list) {
    output_folder folder;
    exit_code code = output_folder_begin(out, &folder, list);
    if (code != EXIT_OK) return code;
    return output_folder_end(&folder, write_devices(s, folder.work, wanted, written, list), list);
}

exit_code peft_check_place(const char *out, problems *list) {
    return output_folder_check(out, "the adapters", list);
}

exit_code peft_export(const char *result, const char *out, const peft_selection *selection,
                      peft_written *written, problems *list) {
    source s = {0};
    *written = (peft_written){0};
    exit_code code = peft_check_place(out, list);
    if (code != EXIT_OK) return code;
    code = source_open(&s, result, list);
    if (code == EXIT_OK && count_selected(&s, selection) == 0) code = nothing_selected(&s, result, list);
    if (code == EXIT_OK) code = check_saved(&s, selection, result, list);
    if (code == EXIT_OK) code = write_whole(&s, out, selection, written, list);
    written->round = s.checkpoint.round;
    source_close(&s);
    return code;
}
