/* rounds.c - the order of a round:
 *
 *   local steps (experts; router bursts where due) -> evaluation -> aggregation -> evaluation -> trace row ->
 *       checkpoint
 *
 * Process 0 has the trace and the checkpoint; the others bring it their numbers.
 *
 * The losses before the aggregation are the ones that the CoMiGS paper reports. A signal ends the run after
 * the step it is in, with a checkpoint: the run that resumes goes on with the next step. */
#include "run/rounds.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoints.h"
#include "population/variants.h"
#include "support/processes.h"
#include "support/progress.h"
#include "support/shell_words.h"
#include "support/stop_signals.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

/* Rows first: a checkpoint must never be ahead of the trace. `round`: the last that is complete. */
static exit_code save(rounds *r, int round, problems *list) {
    char path[FOLDER_PATH_BYTES];
    result_path(r->folder, "checkpoint.h5", path);
    exit_code code =
        processes_agree(r->session->collective, r->trace ? trace_flush(r->trace, list) : EXIT_OK, list);
    THEN(code, checkpoints_save(r->session, round, r->checkpoint, path, list));
    return code;
}

/* The result's own config.yaml has all that was set on the command line. */
static exit_code check_interrupt(rounds *r, int step, problems *list) {
    const settings *s = r->session->settings;
    int processes = ck_processes(r->session->collective);
    char again[40] = "";
    if (!(processes > 1 ? r->session->agreed.stop : interrupted)) return EXIT_OK;
    if (processes > 1) snprintf(again, sizeof again, " --processes %d", processes);
    exit_code code = save(r, r->session->at.round - 1, list);
    const char *result = r->folder->whole ? r->folder->whole : r->folder->path;
    char *config = shell_word(result, r->folder->whole ? "/" BATCHES_NAME "/config.yaml" : "/config.yaml"),
         *folder = shell_word(result, "");
    problem(list, code == EXIT_OK ? EXIT_INTERRUPTED : code,
            "interrupted in round %d of %d, after step %d of %d%s; go on with: ./cohort run %s --out %s "
            "--resume%s",
            r->session->at.round, s->rounds, step, s->local_steps, code == EXIT_OK ? ", which is saved" : "",
            config, folder, again);
    free(config);
    free(folder);
    return THEN(code, EXIT_INTERRUPTED);
}

/* ", 1 of 8 populations failed" */
static const char *failed_text(const fleet *f, char out[64]) {
    int failed = 0;
    for (int i = 0; i < f->n_populations; i++) failed += f->devices[f->populations[i].first_device].stopped;
    out[0] = '\0';
    if (failed > 0) snprintf(out, 64, "  %d of %d populations failed", failed, f->n_populations);
    return out;
}

static void show(progress *bar, const session *s) {
    char failed[64];
    double rate = s->agreed.expert_seconds > 0.0 ? s->agreed.expert_tokens / s->agreed.expert_seconds : 0.0;
    progress_update(bar, s->steps.taken, "round %d/%d  %.1f k tokens/s  loss %.3f%s", s->at.round,
                    s->settings->rounds, 1e-3 * rate, s->agreed.step_loss, failed_text(s->fleet, failed));
}

/* All that are left: a resumed run may be within the round. */
static exit_code local_steps(rounds *r, progress *bar, problems *list) {
    session *s = r->session;
    exit_code code = EXIT_OK;
    int taken = (int)(s->steps.taken - (int64_t)(s->at.round - 1) * s->settings->local_steps);
    if (taken == 0) session_begin_round(s);
    while (taken < s->settings->local_steps && code == EXIT_OK) {
        code = session_local_step(s, list);
        THEN(code, session_follow_ups(s, list));
        THEN(code, check_interrupt(r, ++taken, list));
        if (code == EXIT_OK) show(bar, s);
    }
    for (int i = 0; i < s->fleet->n_devices; i++)
        if (!session_has(s, &s->fleet->devices[i])) metric_sums_drop(&s->numbers, i);
    return code;
}

static exit_code evaluate_before(session *s, problems *list) {
    exit_code code =
        session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS, list);
    THEN(code, session_evaluate(s, (evaluation_order){.part = DATA_VALID}, METRIC_VALID_LOSS, list));
    return THEN(code, session_record_routing(s, list));
}

/* Devices that average nothing are what they were. Those that are there from the next round on are evaluated
 * as they begin. */
static exit_code evaluate_after(session *s, problems *list) {
    const double *before = metric_doubles(&s->numbers, METRIC_TEST_LOSS);
    memcpy(metric_doubles(&s->numbers, METRIC_TEST_AFTER), before,
           (size_t)s->fleet->n_devices * sizeof *before);
    return session_evaluate(s, (evaluation_order){.part = DATA_TEST, .after = true}, METRIC_TEST_AFTER, list);
}

/* How good late devices are when they join, whether the round is evaluated or not. */
static exit_code evaluate_joining(session *s, bool evaluated, problems *list) {
    bool any = false;
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->fleet->n_devices && !any; i++)
        any = schedule_joins_next(fleet_participation(s->fleet, &s->fleet->devices[i], s->at.round));
    if (any && !evaluated)
        code = session_evaluate(s, (evaluation_order){.part = DATA_TEST, .after = true, .joining = true},
                                METRIC_TEST_AFTER, list);
    for (int i = 0; i < s->fleet->n_devices && any; i++) {
        device *d = &s->fleet->devices[i];
        if (schedule_joins_next(fleet_participation(s->fleet, d, s->at.round)))
            d->joined_loss = metric_doubles(&s->numbers, METRIC_TEST_AFTER)[i];
    }
    return code;
}

static exit_code aggregate(session *s, problems *list) {
    exit_code code = processes_agree(s->collective, fleet_aggregate(s->fleet, s->at.round, list), list);
    for (int i = 0; i < s->fleet->n_devices; i++) {
        device *d = &s->fleet->devices[i];
        participation in_round = fleet_participation(s->fleet, d, s->at.round);
        int64_t up = d->stopped || !in_round.sends ? 0 : d->bytes_a_round,
                down = d->stopped || !in_round.receives ? 0 : d->bytes_a_round + variants_bring(s->fleet, d);
        metric_longs(&s->numbers, METRIC_BYTES_UP)[i] = up;
        metric_longs(&s->numbers, METRIC_BYTES_DOWN)[i] = down;
        d->bytes_up += up;
        d->bytes_down += down;
    }
    return code;
}

static exit_code end_round(rounds *r, const double seconds[4], problems *list) {
    static const metric_id times[4] = {METRIC_TIME_TRAIN, METRIC_TIME_EVALUATE, METRIC_TIME_AGGREGATE,
                                       METRIC_TIME_TOTAL};
    session *s = r->session;
    for (int i = 0; i < 4; i++) *metric_doubles(&s->numbers, times[i]) = seconds[i];
    *metric_ints(&s->numbers, METRIC_ROUND) = s->at.round;
    exit_code code = session_gather_round(s, list);
    if (r->trace) metric_row_derive(&s->numbers);
    if (r->trace) THEN(code, trace_append(r->trace, &s->numbers, list));
    return processes_agree(s->collective, code, list);
}

static exit_code one_round(rounds *r, progress *bar, problems *list) {
    session *s = r->session;
    bool evaluated = s->at.round % s->settings->evaluate.every == 0 || s->at.round == s->settings->rounds;
    double start = run_clock();
    exit_code code = local_steps(r, bar, list);
    double trained = run_clock();
    if (evaluated) THEN(code, evaluate_before(s, list));
    double before = run_clock();
    THEN(code, aggregate(s, list));
    double aggregated = run_clock();
    if (evaluated) THEN(code, evaluate_after(s, list));
    THEN(code, evaluate_joining(s, evaluated, list));
    double end = run_clock();
    double seconds[4] = {trained - start, before - trained + end - aggregated, aggregated - before,
                         end - start};
    s->numbers.evaluated = evaluated;
    return THEN(code, end_round(r, seconds, list));
}

exit_code rounds_run(rounds *r, problems *list) {
    session *s = r->session;
    const settings *config = s->settings;
    stop_signals_before before;
    exit_code code = EXIT_OK;
    progress *bar = progress_start(r->label, (int64_t)config->rounds * config->local_steps, r->quiet);
    interrupted = 0;
    stop_signals_catch(on_signal, STOP_SECOND_ENDS, &before);
    agreement_watch(&s->agreed, &interrupted);
    for (s->at.round = r->checkpoint->round + 1; s->at.round <= config->rounds && code == EXIT_OK;
         s->at.round++) {
        code = one_round(r, bar, list);
        bool due = s->at.round % config->checkpoint_every == 0 && s->at.round < config->rounds;
        if (due) THEN(code, save(r, s->at.round, list));
    }
    agreement_watch(&s->agreed, NULL);
    stop_signals_release(&before);
    progress_finish(bar);
    return code;
}
