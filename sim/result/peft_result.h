/* peft_result.h - a result's devices as folders that PEFT loads: `cohort export RESULT --adapters`. */
#ifndef COHORT_PEFT_RESULT_H
#define COHORT_PEFT_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "population/select.h"
#include "support/problems.h"

typedef struct {
    int round, devices, folders; /* the checkpoint's round; what was written */
    /* of these devices: their population stopped, they are as they were saved before that */
    int diverged;
} peft_written;

/* The experts of a result's devices as of its last checkpoint:
 *   OUT/<population>-seed<seed>/device<i>/{generalist<g>, specialist<s>}/ and, with a router,
 *       device<i>/router.safetensors; tied.safetensors of what all layers share
 * OUT must be new or empty. Nothing outside the result's folder is read. A population that diverged before
 * its first checkpoint has none: EXIT_INPUT. */
exit_code peft_export(const char *result, const char *out, const device_selection *selection,
                      peft_written *written, problems *list);
/* Whether peft_export() would take the folder: before anything else is exported. */
exit_code peft_check_place(const char *out, problems *list);

#endif
