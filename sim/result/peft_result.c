/* peft_result.c - a result's last checkpoint as PEFT folders. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/peft.h"
#include "result/peft_result.h"
#include "result/source.h"
#include "support/output_folder.h"

enum { PATH_BYTES = 4096 };

__attribute__((format(printf, 3, 4))) static exit_code join(char path[PATH_BYTES], problems *list,
                                                            const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(path, PATH_BYTES, format, arguments);
    va_end(arguments);
    return used < PATH_BYTES ? EXIT_OK : problem(list, EXIT_INPUT, "%.80s...: the path is too long", path);
}

/* ---- Folders ---- */

static exit_code make_new(const char *path, problems *list) {
    if (mkdir(path, 0777) == 0) return EXIT_OK;
    if (errno == EEXIST)
        return problem(list, EXIT_INPUT,
                       "%s: would be written twice; give populations of one seed different names", path);
    return problem(list, EXIT_RUN, "%s: cannot make the folder: %s", path, strerror(errno));
}

static exit_code write_expert(const result_source *s, const device *d, int e, const char *folder,
                              problems *list) {
    const population_settings *p = s->fleet->populations[d->population].settings;
    char path[PATH_BYTES], name[PEFT_NAME_BYTES];
    peft_folder_name(d->generalists, device_experts(d), e, name);
    exit_code code = join(path, list, "%s/%s", folder, name);
    THEN(code, make_new(path, list));
    if (code != EXIT_OK) return code;
    const float *pack = s->checkpoint.parameters + d->pack;
    return peft_write(path, &s->fleet->shapes[d->shape], e, &p->experts, &p->lora,
                      s->settings->base.checkpoint, pack, list);
}

static exit_code write_device(const result_source *s, const device *d, const char *out, peft_written *written,
                              problems *list) {
    const population_settings *p = s->fleet->populations[d->population].settings;
    const ck_shape *shape = &s->fleet->shapes[d->shape];
    char path[PATH_BYTES];
    exit_code code = join(path, list, "%s/%s-seed%llu", out, p->name, (unsigned long long)p->seed);
    if (code == EXIT_OK && mkdir(path, 0777) != 0 && errno != EEXIST)
        code = problem(list, EXIT_RUN, "%s: cannot make the folder: %s", path, strerror(errno));
    THEN(code,
         join(path, list, "%s/%s-seed%llu/device%d", out, p->name, (unsigned long long)p->seed, d->index));
    THEN(code, make_new(path, list));
    for (int e = 0; e < shape->n_experts && code == EXIT_OK; e++) {
        if (!peft_has_lora(shape, e)) continue;
        code = write_expert(s, d, e, path, list);
        written->folders += code == EXIT_OK;
    }
    THEN(code, peft_write_beside(path, shape, s->checkpoint.parameters + d->pack, list));
    written->devices += code == EXIT_OK;
    written->diverged += code == EXIT_OK && checkpoint_stopped(&s->checkpoint)[d - s->fleet->devices];
    return code;
}

static exit_code write_devices(const result_source *s, const char *out, const device_selection *wanted,
                               peft_written *written, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->fleet->n_devices && code == EXIT_OK; i++)
        if (device_is_selected(s->fleet, wanted, &s->fleet->devices[i]))
            code = write_device(s, &s->fleet->devices[i], out, written, list);
    return code;
}

/* All of it, or nothing. */
static exit_code write_whole(const result_source *s, const char *out, const device_selection *wanted,
                             peft_written *written, problems *list) {
    output_folder folder;
    exit_code code = output_folder_begin(out, &folder, list);
    if (code != EXIT_OK) return code;
    return output_folder_end(&folder, write_devices(s, folder.work, wanted, written, list), list);
}

exit_code peft_check_place(const char *out, problems *list) {
    return output_folder_check(out, "the adapters", list);
}

exit_code peft_export(const char *result, const char *out, const device_selection *selection,
                      peft_written *written, problems *list) {
    result_source s = {0};
    *written = (peft_written){0};
    exit_code code = peft_check_place(out, list);
    if (code != EXIT_OK) return code;
    code = result_source_open(&s, result, 0, NULL, list);
    THEN(code, result_source_check(&s, result, selection, list));
    THEN(code, write_whole(&s, out, selection, written, list));
    written->round = s.checkpoint.round;
    result_source_close(&s);
    return code;
}
