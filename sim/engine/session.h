/* session.h - a run while it runs. It is made of parts, of which each has one file that changes it; all
 * others read.
 *
 *   part        is changed by
 *   fleet       population/, and where a device's steps and traffic are counted (step.c, run/rounds.c)
 *   programs    programs.c, once
 *   waves       pipeline.c; step.c, evaluate.c and routing.c add windows to the wave that is being filled
 *   steps, sums step.c; evaluate.c: work space of theirs
 *   routing     routing.c, once
 *   numbers     who measures: step.c, evaluate.c, routing.c, run/rounds.c
 *   sampled     step.c, through sampling.h
 *   agreed      agree.c
 *   at          run/, and checkpoints.c (the last round that is saved)
 *
 * What checkpoints.c reads back it puts into fleet, steps, numbers and sampled.
 *
 * Of several processes each has a session, with all devices' numbers but only its own devices' packs and
 * text: after a step they agree (agree.h), at the end of a round process 0 gets the numbers of all
 * (gather.c).
 *
 * A round is: local steps (step.c), evaluation (evaluate.c), aggregation (fleet.h), evaluation again
 * (rounds.c puts them in order). */
#ifndef COHORT_SESSION_H
#define COHORT_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "collective/collective.h"
#include "data/data.h"
#include "engine/agree.h"
#include "engine/outline.h"
#include "engine/pipeline.h"
#include "engine/plan.h"
#include "engine/programs.h"
#include "engine/proximal.h"
#include "engine/routing.h"
#include "engine/sampling.h"
#include "kernels.h"
#include "numbers/metrics.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

/* Of step.c. */
typedef struct {
    int64_t taken;            /* local steps, over all rounds */
    ck_adamw_device *updates; /* [plan.limits.max_sequences] of a wave, like the next */
    ck_carry_device *carries;
    proximal_terms proximal;
} step_lists;

/* Of a device in the evaluation under way. */
typedef struct {
    int64_t tokens, counted; /* counted: those whose loss counts */
} evaluated_tokens;

/* Of evaluate.c. */
typedef struct {
    /* what a wave's program sums, on the host; [plan.limits.max_sequences, layers, CK_MAX_EXPERTS] */
    float *gate_sum, *top1_count;
    evaluated_tokens *tokens; /* [devices] */
} evaluation_sums;

typedef struct {
    const settings *settings;
    ck_collective *collective;
    ck_backend *backend;
    ck_stream *stream;
    run_plan plan;
    fleet *fleet;
    run_programs programs;
    pipeline waves;
    step_lists steps;
    evaluation_sums sums;
    routing_windows routing;
    /* of the round; of several processes, each has its own devices' rows until they are gathered */
    metric_row numbers;
    sampled_windows sampled;
    agreement agreed;
    run_position at;
} session;

/* How much a round has to be measured; windows: recorded ones. */
metric_shape session_metric_shape(const settings *s, const base_shape *base, const fleet *f, int windows);

/* As one of several processes, which all call it. Takes the outline's fleet and the base over, whose host
 * copy is freed once it is on the backend. */
exit_code session_create_among(ck_collective *collective, const settings *s, ck_backend *backend,
                               run_outline *outline, base_model *base, session **out, problems *list);
/* Alone, with an outline of its own. */
exit_code session_create(const settings *s, ck_backend *backend, base_model *base, session **out,
                         problems *list);
/* Frees all that takes memory; the settings, the shape of the base and the sums over expert steps stay
 * readable. */
void session_release(session *s);
void session_destroy(session *s); /* NULL is fine */

/* Whether a device is in the current round, and its population has not stopped. */
static inline bool session_has(const session *s, const device *d) {
    return !d->stopped && fleet_participation(s->fleet, d, s->at.round).present;
}

/* step.c. A round begins: no loss and no window yet. */
void session_begin_round(session *s);
/* The next local step: the first entry of every device's schedule. */
exit_code session_local_step(session *s, problems *list);
/* The other entries that belong to the local step taken last. */
exit_code session_follow_ups(session *s, problems *list);
double run_clock(void); /* seconds, monotonic */
exit_code step_lists_create(step_lists *l, const fleet *f, const run_plan *plan, problems *list);
void step_lists_destroy(step_lists *l);

/* gather.c. Process 0 gets of every device: what is known of its text; the losses and windows of a round so
 * far; all numbers of a round. */
exit_code session_gather_texts(session *s, problems *list);
exit_code session_gather_steps(session *s, problems *list);
exit_code session_gather_round(session *s, problems *list);

/* evaluate.c. Mean loss of each device on fixed windows of `part`, per token that counts, into a metric of
 * devices; NaN for those that stopped or are absent. */
typedef struct {
    data_part part;
    /* after the aggregation: devices that it changed, and those that join next; the others keep what it holds */
    bool after;
    bool joining; /* of these, only those that join next */
    bool routing; /* also the gate means and token shares of numbers */
} evaluation_order;
exit_code session_evaluate(session *s, evaluation_order order, metric_id into, problems *list);
exit_code evaluation_sums_create(evaluation_sums *sums, const run_plan *plan, int layers, int devices,
                                 problems *list);
void evaluation_sums_destroy(evaluation_sums *sums);

/* routing.c. Tokens and gates of the recorded windows, into numbers. */
exit_code session_record_routing(session *s, problems *list);

#endif
