/* batch_merge.c - merges the parts of a result. The merged result is first written to batches/merging. So a
 * full disk or a killed run leaves the parts as they are. */
#include <stdlib.h>
#include <string.h>

#include "result/source.h"
#include "run/batches.h"
#include "run/summarise.h"
#include "support/output_folder.h"

/* Writes the summary of the merged trace. summarise_trace() needs a session, so this makes one that has only
 * what a summary reads. */
static exit_code summarise_merged(const settings *s, fleet *f, const base_shape *shape, const char *folder,
                                  summary_row *rows, problems *list) {
    char path[FOLDER_PATH_BYTES];
    session merged = {.settings = s, .fleet = f, .programs.base.shape = *shape};
    metric_shape size = session_metric_shape(s, shape, f, 0);
    exit_code code = metric_row_create(&merged.numbers, &size)
                         ? EXIT_OK
                         : problem(list, EXIT_ENVIRONMENT, "out of memory for the summary");
    for (int i = 0; i < f->n_populations && code == EXIT_OK; i++) {
        merged.numbers.first_device[i + 1] = f->populations[i].first_device + f->populations[i].n_devices;
        merged.numbers.described[i] = f->populations[i].n_senders;
    }
    (void)folder_join(path, folder, "trace.h5");
    THEN(code, summarise_trace(&merged, path, rows, list));
    (void)folder_join(path, folder, "summary.csv");
    THEN(code, summary_write(path, rows, s->n_populations, list));
    metric_row_destroy(&merged.numbers);
    return code;
}

static exit_code write_merged(const settings *s, const merge_part *parts, const found_parts *found,
                              const char *folder, summary_row *rows, problems *list) {
    char path[FOLDER_PATH_BYTES];
    base_shape shape = {0};
    result_folder merging = {0};
    fleet *f = NULL;
    memcpy(merging.path, folder, strlen(folder) + 1);
    exit_code code = folder_create(folder, list);
    THEN(code, result_base_shape(s, parts[0].folder, &shape, list));
    THEN(code, result_keep_base(s, &shape, &merging, list));
    THEN(code, merge_results(s, parts, found->n_parts, found->sources, folder, &f, list));
    (void)folder_join(path, folder, "config.yaml");
    THEN(code, result_write_config(s, path, list));
    THEN(code, summarise_merged(s, f, &shape, folder, rows, list));
    fleet_destroy(f);
    return code;
}

exit_code batches_merge(const settings *s, const char *folder, const found_parts *found, summary_row *rows,
                        problems *list) {
    char merging[FOLDER_PATH_BYTES];
    merge_part *parts = calloc((size_t)found->n_parts, sizeof *parts);
    if (!parts) return problem(list, EXIT_ENVIRONMENT, "out of memory for the parts of the result");
    for (int i = 0; i < found->n_parts; i++)
        parts[i] = (merge_part){found->parts[i].path, found->parts[i].settings};
    batches_path(folder, "merging", merging);
    folder_remove(merging);
    exit_code code = write_merged(s, parts, found, merging, rows, list);
    free(parts);
    if (code != EXIT_OK) folder_remove(merging);
    return THEN(code, batches_replace(folder, list));
}
