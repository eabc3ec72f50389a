#include "result/merge.h"

#include <stdlib.h>

#include "result/merge_parts.h"
#include "result/source.h"

static exit_code open_part_of(const merge_part *given, open_part *part, problems *list) {
    base_shape shape = {0};
    part->given = given;
    exit_code code = result_base_shape(given->settings, given->folder, &shape, list);
    THEN(code, fleet_create(given->settings, &shape, &part->fleet, list));
    if (code != EXIT_OK) return code;
    part->population_to = malloc((size_t)part->fleet->n_populations * sizeof *part->population_to);
    part->device_to = malloc((size_t)part->fleet->n_devices * sizeof *part->device_to);
    if (!part->population_to || !part->device_to)
        return problem(list, EXIT_ENVIRONMENT, "out of memory to merge results");
    for (int i = 0; i < part->fleet->n_populations; i++) part->population_to[i] = -1;
    for (int i = 0; i < part->fleet->n_devices; i++) part->device_to[i] = -1;
    return EXIT_OK;
}

/* Notes where a population of a part, and each of its devices, goes. Refuses it if the part has another
 * number of devices. */
static exit_code place_population(merging *m, int which, problems *list) {
    open_part *part = &m->parts[m->sources[which].part];
    const population *from = &part->fleet->populations[m->sources[which].population],
                     *to = &m->fleet->populations[which];
    if (from->n_devices != to->n_devices)
        return problem(list, EXIT_INPUT, "%s: population '%s' has %d devices, not %d", part->given->folder,
                       to->settings->name, from->n_devices, to->n_devices);
    part->used = true;
    part->population_to[m->sources[which].population] = which;
    for (int i = 0; i < to->n_devices; i++) part->device_to[from->first_device + i] = to->first_device + i;
    return EXIT_OK;
}

static void close_parts(merging *m) {
    for (int i = 0; m->parts && i < m->n_parts; i++) {
        open_part *part = &m->parts[i];
        fleet_destroy(part->fleet);
        checkpoint_states_free(&part->saved);
        free(part->saved.unfinished);
        free(part->saved.variants);
        free(part->population_to);
        free(part->device_to);
        free(part->window_to);
    }
    free(m->parts);
}

exit_code merge_results(const settings *s, const merge_part *parts, int n_parts, const merge_source *sources,
                        const char *out, fleet **merged, problems *list) {
    base_shape shape = {0};
    merging m = {.settings = s, .sources = sources, .n_parts = n_parts, .out = out};
    m.parts = calloc((size_t)n_parts, sizeof *m.parts);
    *merged = NULL;
    exit_code code =
        m.parts ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory to merge %d results", n_parts);
    THEN(code, result_base_shape(s, parts[0].folder, &shape, list));
    THEN(code, fleet_create(s, &shape, &m.fleet, list));
    for (int i = 0; i < n_parts && code == EXIT_OK; i++) code = open_part_of(&parts[i], &m.parts[i], list);
    for (int i = 0; i < s->n_populations && code == EXIT_OK; i++) code = place_population(&m, i, list);
    THEN(code, merge_checkpoint(&m, list));
    THEN(code, merge_trace(&m, list));
    close_parts(&m);
    if (code != EXIT_OK)
        fleet_destroy(m.fleet);
    else
        *merged = m.fleet;
    return code;
}
