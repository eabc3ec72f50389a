/* source.h - a result's devices as of its last checkpoint. Nothing outside the result's folder is read. */
#ifndef COHORT_RESULT_SOURCE_H
#define COHORT_RESULT_SOURCE_H

#include "config/config.h"
#include "population/fleet.h"
#include "population/select.h"
#include "result/trace.h"
#include "support/problems.h"

typedef struct {
    settings *settings; /* of its config.yaml, owned, as are the next two */
    fleet *fleet;
    base_shape shape;      /* of the base that it was trained on */
    checkpoint checkpoint; /* packs of device i begin at fleet->devices[i].pack of its parameters */
} result_source;

/* Of the base that the result in `folder`, with this configuration, was trained on. */
exit_code result_base_shape(const settings *s, const char *folder, base_shape *out, problems *list);
/* The packs' shapes are rebuilt from config.yaml, changed by overrides as on the command line, and for a base
 * that was loaded from what the result keeps of its shape. To be closed whatever the code. */
exit_code result_source_open(result_source *s, const char *result, int n_overrides,
                             const char *const *overrides, problems *list);
/* EXIT_INPUT where no device is selected, or one whose population diverged before anything of it was saved.
 */
exit_code result_source_check(const result_source *s, const char *result, const device_selection *wanted,
                              problems *list);
void result_source_close(result_source *s);

#endif
