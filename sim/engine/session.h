/* session.h - a run while it runs: the base, the fleet, the recorded programs, and the numbers of the current
 * round.
 *
 *   session --owns--> base weights, fleet, programs (step, evaluation, routing record),
 *       two waves that take turns and the slots of their
 *                     packs, one wave's gradients
 *
 * Of several processes each has a session, with all devices' numbers but only its own devices' packs and
 * text: after a step they agree (agree.c), at the end of a round process 0 gets the numbers of all
 * (gather.c).
 *
 * A round is: local steps (step.c), evaluation (evaluate.c), aggregation (fleet.h), evaluation again
 * (rounds.c puts them in order). */
#ifndef COHORT_SESSION_H
#define COHORT_SESSION_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "collective/collective.h"
#include "data/data.h"
#include "engine/outline.h"
#include "engine/plan.h"
#include "engine/sampling.h"
#include "kernels.h"
#include "model/model.h"
#include "numbers/metrics.h"
#include "population/fleet.h"
#include "settings/settings.h"
#include "store/slots.h"
#include "store/waves.h"
#include "support/problems.h"

/* What programs write and the host reads; one set serves all programs. */
typedef struct {
    float *gate_sum, *top1_count; /* [max_sequences, layers, CK_MAX_EXPERTS] host */
    float *gate_record;           /* [routing windows x sequence, layers, CK_MAX_EXPERTS] host */
} host_statistics;

/* Of one expert step: what this process has of it, later what all have. */
typedef struct {
    double seconds, tokens, flops, loss; /* loss: sum over devices of their means */
    int64_t devices;
} step_numbers;

/* Of a device in the evaluation under way. */
typedef struct {
    int64_t tokens, counted; /* counted: those whose loss counts */
} evaluated_tokens;

typedef enum { DIVERGED_IN_TRAINING, DIVERGED_IN_ROUTER_STEP, DIVERGED_IN_EVALUATION } divergence_kind;

/* Where numbers of a population were first seen not to be finite. */
typedef struct {
    int32_t device; /* index into fleet.devices; -1: nowhere */
    int32_t layer;  /* -1: in the output */
    int32_t kind;
} divergence;

typedef struct {
    const settings *settings;
    ck_collective *collective;
    ck_backend *backend;
    ck_stream *stream;
    run_plan plan;
    model_base base;
    float *base_weights; /* backend memory behind base.weights */
    fleet *fleet;
    ck_program *step, *evaluation, *record;
    model_outputs step_outputs, evaluation_outputs, record_outputs; /* backend memory */
    /* backend memory [plan.limits.max_packs] */
    float *gradients;
    ck_adamw_device *updates;       /* [max_sequences] */
    ck_carry_device *carries;       /* [max_sequences] */
    wave_buffer *filling, *running; /* they take turns: pipeline.h */
    slots slots;
    host_statistics host;
    /* host, [pack_walk_floats()]: packs on their way into a checkpoint or from it */
    float *pack;
    int sequence, max_experts, round; /* round: the current one, from 1 */
    const char *result;               /* its folder, borrowed; NULL: none */
    int saved_round;                  /* of the last checkpoint there; 0: none yet */
    int n_routing_windows;
    int *routing_devices; /* [n_routing_windows] whose window it is */
    int *routing_owners;  /* [n_routing_windows] the process that records it */
    int n_my_windows;
    int *my_windows;    /* [n_my_windows] those that this process records */
    int64_t local_step; /* local steps taken, over all rounds */
    /* of the round; of several processes, each has its own devices' rows until they are gathered */
    metric_row numbers;
    sampled_windows sampled;
    int64_t *bytes_up, *bytes_down; /* [devices] totals */
    evaluated_tokens *evaluated;    /* [devices] */
    /* of the expert steps since the session began, of all processes */
    double expert_seconds, expert_tokens, expert_flops;
    double step_loss;       /* mean over all devices of the last expert step */
    step_numbers step_part; /* of this process, since all have met */
    divergence *diverged;   /* [populations] seen by this process since then */
    /* what the processes tell each other when they meet */
    unsigned char *own_status, *every_status;
    /* a signal asks this process to stop; NULL: nobody does */
    const volatile sig_atomic_t *interrupted;
    /* a signal came to one of the processes before they met */
    bool stop;
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
/* Frees all that takes memory; the settings and the sums over expert steps stay readable. */
void session_release(session *s);
void session_destroy(session *s); /* NULL is fine */

/* step.c. A round begins: no loss and no window yet. */
void session_begin_round(session *s);
/* The next local step: the first entry of every device's schedule. */
exit_code session_local_step(session *s, problems *list);
/* The other entries that belong to the local step taken last. */
exit_code session_follow_ups(session *s, problems *list);
double run_clock(void); /* seconds, monotonic */

/* agree.c. Stops a device's population, because a number is not finite; layer: the first that saw it, -1: the
 * output alone. When the processes meet next it stops in all of them, with a message. */
void session_diverged(session *s, int device_index, int layer, divergence_kind kind);
/* The processes meet, each with the code of what it did since they last met: EXIT_OK where all are well. */
exit_code session_agree(session *s, exit_code code, problems *list);
exit_code session_create_status(session *s, problems *list);
void session_destroy_status(session *s);

/* gather.c. Process 0 gets of every device: what is known of its text; the losses and windows of a round so
 * far; all numbers of a round. */
exit_code session_gather_texts(session *s, problems *list);
exit_code session_gather_steps(session *s, problems *list);
exit_code session_gather_round(session *s, problems *list);

/* evaluate.c. Mean loss of each device on fixed windows of `part`, per token that counts, into a metric of devices; NaN for stopped
 * ones. */
typedef struct {
    data_part part;
    bool only_averaged; /* devices that the aggregation changed; the others keep what it holds */
    bool routing;       /* also the gate means and token shares of numbers */
} evaluation_order;
exit_code session_evaluate(session *s, evaluation_order order, metric_id into, problems *list);
/* Tokens and gates of the sampled windows, into numbers. */
exit_code session_record_routing(session *s, problems *list);

#endif
