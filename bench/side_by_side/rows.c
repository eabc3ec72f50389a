#include "side_by_side/rows.h"

#include <math.h>

void row_add(row *r, const program_result *result, const program_result *reference, const job *j,
             double cohort_rate) {
    difference loss = program_difference(reference, result);
    if (r->state == ROW_NOT_RUN) {
        r->state = ROW_RIGHT;
        r->end = json_incref(result->end);
    }
    if (!(loss.largest <= r->loss.largest)) r->loss = loss;
    if (!(loss.largest <= ROWS_TOLERANCE)) r->state = ROW_WRONG;
    r->start_bytes = fmax(r->start_bytes, result->start_bytes);
    r->peak_bytes = fmax(r->peak_bytes, result->peak_bytes);
    if (r->samples == ROWS_MOST_SAMPLES) return;
    r->rate[r->samples] = program_rate(result, j);
    r->cohort[r->samples++] = cohort_rate;
}

const row *rows_best(const rows *all, int peer) {
    const row *best = NULL;
    double best_rate = 0;
    for (int s = 0; s < all->n_settings; s++) {
        const row *r = &all->rows[1 + peer * all->n_settings + s];
        double rate = statistics_median(r->rate, r->samples);
        if (r->state != ROW_RIGHT || r->dropped || !(rate > best_rate)) continue;
        best = r;
        best_rate = rate;
    }
    return best;
}

statistics rows_ratio(const row *r) {
    return statistics_of_ratio(r->cohort, r->rate, r->samples);
}

bool rows_settled(const rows *all, double elapsed_seconds) {
    for (int peer = 0; peer < ROWS_PEERS; peer++) {
        const row *best = rows_best(all, peer);
        if (!best) continue;
        statistics ratio = rows_ratio(best);
        settling_state state = statistics_settled(&ratio, &all->rule, elapsed_seconds);
        if (state == STATISTICS_TIMED_OUT) return true;
        if (state == STATISTICS_GO_ON) return false;
    }
    return true;
}

void rows_drop_slow(rows *all, double share) {
    for (int peer = 0; peer < ROWS_PEERS; peer++) {
        const row *best = rows_best(all, peer);
        if (!best) continue;
        double least = share * statistics_median(best->rate, best->samples);
        for (int s = 0; s < all->n_settings; s++) {
            row *r = &all->rows[1 + peer * all->n_settings + s];
            if (r->state == ROW_RIGHT && statistics_median(r->rate, r->samples) < least) r->dropped = true;
        }
    }
}

exit_code rows_report_wrong(const rows *all, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < all->n_rows; i++) {
        const row *r = &all->rows[i];
        if (r->state != ROW_WRONG) continue;
        code = problem(list, EXIT_RUN,
                       "%s (%d torch, %d BLAS threads): its loss differs from Cohort's by %.2g at step %d, "
                       "device %d; at most %.0e is "
                       "allowed, so it has no time",
                       r->program, r->torch_threads, r->blas_threads, r->loss.largest, r->loss.step,
                       r->loss.device, ROWS_TOLERANCE);
    }
    return code;
}
