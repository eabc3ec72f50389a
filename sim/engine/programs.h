/* programs.h - the base on the backend, the programs that are recorded over it, and the memory that they
 * write. Nobody changes a member after programs_record(); runs write the memory. */
#ifndef COHORT_PROGRAMS_H
#define COHORT_PROGRAMS_H

#include "base/base.h"
#include "engine/plan.h"
#include "kernels.h"
#include "model/model.h"
#include "population/fleet.h"
#include "support/problems.h"

typedef struct {
    ck_backend *backend;
    model_base base;
    float *base_weights;                    /* backend memory behind base.weights */
    ck_program *step, *evaluation, *record; /* record: NULL where no window's routing is recorded */
    model_outputs step_outputs, evaluation_outputs, record_outputs; /* backend memory */
    float *gradients; /* backend memory [plan.limits.max_packs], of the wave of a step */
} run_programs;

/* The base's weights; its host copy is of no use afterwards. After a failure, too, the programs are to be
 * destroyed. */
exit_code programs_place_base(run_programs *p, ck_backend *backend, ck_stream *stream, const base_model *base,
                              problems *list);
/* All else, for the shapes of a fleet. */
exit_code programs_record(run_programs *p, const fleet *f, const run_plan *plan, problems *list);
void programs_destroy(run_programs *p); /* of zeros is fine */

#endif
