/* session.h - a run while it runs: the base, the fleet, the recorded programs, and the numbers of the current round.
 *
 *   session --owns--> base weights, fleet, programs (step, evaluation, routing record), one wave, one wave's gradients
 *
 * A round is: local steps (step.c), evaluation (evaluate.c), aggregation (fleet.h), evaluation again (rounds.c puts them in order). */
#ifndef COHORT_SESSION_H
#define COHORT_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "config/settings.h"
#include "data/data.h"
#include "kernels.h"
#include "population/fleet.h"
#include "problems.h"
#include "train/model.h"
#include "train/plan.h"
#include "train/sampling.h"
#include "train/waves.h"

/* What programs write and the host reads; one set serves all programs. */
typedef struct {
    float *gate_sum, *top1_count; /* [max_sequences, layers, CK_MAX_EXPERTS] host */
    float *gate_record;           /* [routing windows x sequence, layers, CK_MAX_EXPERTS] host */
} host_statistics;

/* What a round is made of, per device; NaN where a device has no value. */
typedef struct {
    double *train, *valid, *test, *test_after; /* [devices] nats per token */
    float *gate_mean, *token_share;            /* [devices, layers, max_experts] */
    int32_t *routing_ids;                      /* [windows, sequence] */
    float *routing_gates;                      /* [windows, sequence, layers, max_experts] */
    int64_t *bytes_up, *bytes_down;            /* [devices] of this round */
} round_numbers;

typedef struct {
    const settings *settings;
    ck_backend *backend;
    ck_stream *stream;
    run_plan plan;
    model_base base;
    float *base_weights; /* backend memory behind base.weights */
    fleet *fleet;
    ck_program *step, *evaluation, *record;
    model_outputs step_outputs, evaluation_outputs, record_outputs; /* backend memory */
    float *gradients;                                               /* backend memory [plan.limits.max_gradients] */
    ck_adamw_device *updates;                                       /* [max_sequences] */
    ck_carry_device *carries;                                       /* [max_sequences] */
    wave_buffer *wave;
    host_statistics host;
    int sequence, max_experts, round; /* round: the current one, from 1 */
    const char *result;               /* its folder, borrowed; NULL: none */
    int saved_round;                  /* of the last checkpoint there; 0: none yet */
    int n_routing_windows;
    int *routing_devices; /* [n_routing_windows] whose window it is */
    int64_t expert_step;  /* taken by each device, over all rounds */
    round_numbers numbers;
    sampled_windows sampled;
    int64_t *bytes_up, *bytes_down;                     /* [devices] totals */
    double expert_seconds, expert_tokens, expert_flops; /* of the expert steps of this process */
    double step_loss;                                   /* mean over devices of the last expert step */
    int step_devices;
} session;

/* Takes the base over: its host copy is freed once it is on the backend. */
exit_code session_create(const settings *s, ck_backend *backend, base_model *base, session **out, problems *list);
void session_destroy(session *s); /* NULL is fine */

/* step.c. One AdamW step of every device's experts on a train batch (and of routers that learn with them). */
exit_code session_expert_step(session *s, problems *list);
/* Router bursts of the populations that are due after the expert steps taken so far. */
exit_code session_router_bursts(session *s, problems *list);
double run_clock(void); /* seconds, monotonic */
double cosine_rate(double first, double last, int64_t step, int64_t steps);

/* Stops a device's population, because `what` is not a finite number; layer: the first that saw it, -1: the output alone. */
void session_diverged(session *s, int device_index, int layer, const char *what, problems *list);

/* evaluate.c. Mean loss of each device on fixed windows of `part`, into loss [devices]; NaN for stopped ones. */
typedef struct {
    data_part part;
    bool only_averaged; /* devices that the aggregation changed; the others keep what loss holds */
    bool routing;       /* also numbers.gate_mean and token_share */
} evaluation_order;
exit_code session_evaluate(session *s, evaluation_order order, double *loss, problems *list);
/* Tokens and gates of the sampled windows, into numbers.routing_ids and routing_gates. */
exit_code session_record_routing(session *s, problems *list);

#endif
