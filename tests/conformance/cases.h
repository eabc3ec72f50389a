/* cases.h - the conformance cases: every operation of kernels.h, forward and backward (bench/cases), on every
 * wave of the table, against the oracle; and what is no array of one operation: faults, updates, memory,
 * whole models.
 *
 * A runner (Criterion on the CPU, a plain loop on a GPU, where a process per test would cost a context each)
 * goes over the cases, calls conformance_run() and prints verdict.message. */
#ifndef COHORT_CONFORMANCE_CASES_H
#define COHORT_CONFORMANCE_CASES_H

#include "conformance/waves.h"
#include "rig/case.h"

typedef enum { LEARN_ALL, LEARN_MIXED /* by device in turn: experts, router, both, nothing */ } learn_pattern;

typedef struct {
    const char *group;
    op_variant variant; /* variant.name is the case's */
    const op_case *op;
    void (*run)(rig *r, verdict *v); /* NULL: one run, judged as the operation says */
    bool learns;                     /* also tried with devices that learn one group, or none */
    bool whole;                      /* a whole model: waves that have a base (wave_has_base()) only */
    /* instead of op: a case that is not about a wave of the table */
    void (*run_alone)(ck_backend *backend, verdict *v);
} conformance_case;

/* All of them, *n, group by group. */
const conformance_case *conformance_cases(int *n);
const conformance_case *conformance_find(const char *name); /* NULL: there is none */

/* Those that are no operation's: each list ends with a case without group. */
extern const conformance_case fault_cases[], update_cases[], carry_cases[], memory_cases[], model_cases[],
    decoding_cases[], tied_cases[];

/* Only waves whose name contains it are run; "" at the start. */
extern const char *conformance_wave_text;

/* Called between the two runs of "model step, twice": what must change no bit. NULL at the start. */
extern void (*conformance_between_runs)(void);

/* Whether the case exists in this precision on this backend. */
bool conformance_applies(const conformance_case *which, ck_backend *backend, ck_precision precision);
/* One case on one wave of the table, wave_specs[wave], with one learn pattern: nothing where the case has no
 * other than LEARN_ALL. A case that is about no wave: where wave is 0. */
void conformance_run_on(const conformance_case *which, ck_backend *backend, ck_precision precision, int wave,
                        learn_pattern learn, verdict *v);
/* One case on all waves (and learn patterns) of the table, with one backend, or with every usable one (at
 * least one, or it fails) in every precision. */
void conformance_run(const conformance_case *which, ck_backend *backend, ck_precision precision, verdict *v);
void conformance_run_everywhere(const conformance_case *which, verdict *v);

/* ---- Step by step, for tests on waves of their own ------------------------------------------- */

/* NULL, with v failed: the rig cannot be made. rig_close() it. */
rig *conformance_open(const conformance_case *which, ck_backend *backend, ck_precision precision,
                      const wave_spec *spec, learn_pattern learn, verdict *v);
void conformance_examine(const conformance_case *which, rig *r, verdict *v);
/* The base of the wave's whole model. */
base_shape conformance_base(const rig *r);
/* Runs the work on what the host arrays hold `before`, and reads everything back; the first time it is
 * recorded. False: v has failed. */
bool conformance_once(rig *r, verdict *v);

#endif
