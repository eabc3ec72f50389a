/* cases.h - the conformance cases: every op of kernels.h, forward and backward, on every wave of the table,
 * against the oracle.
 *
 * A runner (Criterion on the CPU, a plain loop on a GPU, where a process per test would cost a context each)
 * goes over the groups, calls conformance_run() and prints check.message. */
#ifndef COHORT_CONFORMANCE_CASES_H
#define COHORT_CONFORMANCE_CASES_H

#include "conformance/rig.h"

typedef struct {
    const char *name;
    void (*run)(rig *r);
    /* learns: also tried with devices that learn one group, or none */
    bool trains_base, learns;
    /* instead of run: a case that is not about a wave of the table */
    void (*run_alone)(ck_backend *backend, check *c);
    /* f32 only: what is compared would not survive the rounding of bf16 */
    bool exact;
    bool whole; /* a whole model: waves that have a base (wave_has_base()) only */
} conformance_case;

typedef struct {
    const char *name;
    const conformance_case *cases;
    int n_cases;
} conformance_group;

extern const conformance_group transformer_group, llama_group, head_group, lora_group, sites_group,
    route_group, expert_group, update_group, carry_group, memory_group, model_group, decoding_group,
    variants_group;

extern const conformance_group *const conformance_groups[];
extern const int n_conformance_groups;

/* Only waves whose name contains it are run; "" at the start. */
extern const char *conformance_wave_text;

/* Called between the two runs of "model step, twice": what must change no bit. NULL at the start. */
extern void (*conformance_between_runs)(void);

/* Whether the case exists in this precision on this backend. */
bool conformance_applies(const conformance_case *which, ck_backend *backend, ck_precision precision);
/* One case on one wave of the table, wave_specs[wave], with one learn pattern: nothing where the case has no
 * other than LEARN_ALL. A case that is about no wave: where wave is 0. */
void conformance_run_on(const conformance_case *which, ck_backend *backend, ck_precision precision, int wave,
                        learn_pattern learn, check *c);
/* One case on all waves (and learn patterns) of the table, with one backend, or with every usable one (at
 * least one, or it fails) in every precision. */
void conformance_run(const conformance_case *which, ck_backend *backend, ck_precision precision, check *c);
void conformance_run_everywhere(const conformance_case *which, check *c);

#endif
