/* bench_point.c - one case at one point: verify, then time warm, then cold. */
#include "measure/bench.h"

#include <math.h>
#include <string.h>

#include "measure/outputs.h"
#include "measure/peers.h"
#include "rig/view.h"
#include "support/kernel_problem.h"

enum { COLD_FACTOR = 4, MOST_COPIES = 2048 };

/* ---- A copy, or a round of copies, as something that can be timed */

typedef struct {
    rig *g;
    int first, count; /* of the copies that are gone round */
    int64_t turn;
    ck_event *begin, *end;
} round_of_copies;

static ck_status issue_next(round_of_copies *r) {
    return rig_issue(r->g, &r->g->copies[r->first + (int)(r->turn++ % r->count)]);
}

/* Others may have used the cache since: one iteration before the clock starts. Of cold copies the next one is
 * as cold as any. */
static bool work(void *who, int64_t n, sample *out) {
    round_of_copies *r = who;
    ck_status status = r->count == 1 ? issue_next(r) : CK_OK;
    THEN(status, ck_wait(r->g->stream));
    usage begin = usage_now();
    THEN(status, ck_event_record(r->g->stream, r->begin));
    for (int64_t i = 0; i < n && status == CK_OK; i++) status = issue_next(r);
    THEN(status, ck_event_record(r->g->stream, r->end));
    THEN(status, ck_wait(r->g->stream));
    out->used = usage_since(&begin);
    out->seconds = status == CK_OK ? ck_event_seconds(r->begin, r->end) : 0;
    return status == CK_OK;
}

/* The CPU backend's threads do the work themselves. */
static int working_threads(const ck_backend *backend) {
    return strcmp(ck_name(backend), "cpu") == 0 ? ck_threads(backend) : 0;
}

static exit_code open_round(round_of_copies *r, rig *g, int count, problems *list) {
    *r = (round_of_copies){.g = g, .first = 0, .count = count};
    exit_code code = kernel_problem(list, g->backend, ck_event_create(g->backend, &r->begin), "an event");
    return code == EXIT_OK
               ? kernel_problem(list, g->backend, ck_event_create(g->backend, &r->end), "an event")
               : code;
}

static void close_round(round_of_copies *r) {
    ck_event_destroy(r->begin);
    ck_event_destroy(r->end);
}

/* ---- Verifying */

static exit_code run_copy(rig *g, rig_copy *c, bool all_kept, problems *list) {
    exit_code code = rig_capture(g, c, list);
    THEN(code, rig_reset(g, c, list));
    THEN(code, kernel_problem(list, g->backend, rig_issue(g, c), g->which->name));
    return THEN(code, rig_download(g, c, all_kept, list));
}

/* What the verified copy gave, so that the one that is timed, which keeps less, can be held against it. */
static exit_code verify_timed_copy(rig *g, verdict *v, problems *list) {
    outputs known = outputs_take(g);
    rig_copies_drop(g, 0);
    exit_code code = rig_copy_add(g, false, list);
    THEN(code, run_copy(g, &g->copies[0], false, list));
    if (code == EXIT_OK) outputs_compare(g, v, &known);
    outputs_free(&known);
    return code;
}

/* Leaves one copy as it is to be timed. */
static exit_code verify(rig *g, verdict *v, problems *list) {
    bool inner = rig_has_inner(g);
    exit_code code = rig_copy_add(g, inner, list);
    THEN(code, run_copy(g, &g->copies[0], inner, list));
    if (code != EXIT_OK) return code;
    rig_judge(g, v, inner);
    return inner && verdict_passed(v) ? verify_timed_copy(g, v, list) : EXIT_OK;
}

/* ---- Timing */

static void add_time(result *r, const char *label, subject *s) {
    measured *m = &r->times[r->n_times++];
    *m = (measured){.right = r->right, .t = s->t};
    snprintf(m->label, sizeof m->label, "%s", label);
}

static exit_code time_warm(rig *g, const bench_options *o, bench_peers *peers, result *r, problems *list) {
    round_of_copies own;
    subject subjects[RESULT_MOST_TIMES] = {
        {.who = &own, .work = work, .threads = working_threads(g->backend)}};
    exit_code code = open_round(&own, g, 1, list);
    int n_peers =
        code == EXIT_OK && peers ? peers_begin(peers, g, r, subjects + 1, RESULT_MOST_TIMES - 3) : 0;
    if (code == EXIT_OK) {
        timing_measure(subjects, 1 + n_peers, &o->rule);
        if (subjects[0].t.failed)
            code = problem(list, EXIT_RUN, "%s: %s", r->name, ck_last_error(g->backend));
        add_time(r, "warm", &subjects[0]);
    }
    if (peers) peers_end(peers, r, subjects + 1);
    close_round(&own);
    return code;
}

/* Copies until a round of them moves four times what the cache holds. */
static int cold_copies(const rig *g, const result *r) {
    double wanted = ceil((double)COLD_FACTOR * (double)ck_cache_bytes(g->backend) / r->bytes) + 1;
    return r->bytes <= 0 || wanted > MOST_COPIES ? 0 : (int)wanted;
}

/* Fewer than wanted, with a note, where memory does not hold them. */
static exit_code add_cold_copies(rig *g, int count, result *r, problems *list) {
    problems *own = problems_create();
    exit_code code = EXIT_OK;
    while (g->n_copies < count && code == EXIT_OK) {
        code = rig_copy_add(g, false, own);
        THEN(code, rig_capture(g, &g->copies[g->n_copies - 1], own));
        THEN(code, rig_reset(g, &g->copies[g->n_copies - 1], own));
    }
    if (code == EXIT_ENVIRONMENT) {
        snprintf(r->note, sizeof r->note, "no cold time: %.160s", problems_message(own, 0));
        rig_copies_drop(g, 1);
        code = EXIT_OK;
    } else if (code != EXIT_OK)
        problem(list, code, "%s", problems_message(own, 0));
    problems_destroy(own);
    return code;
}

static exit_code time_cold(rig *g, const bench_options *o, result *r, problems *list) {
    round_of_copies round;
    int count = cold_copies(g, r);
    if (count == 0) {
        snprintf(r->note, sizeof r->note, "no cold time: it would take more than %d copies", MOST_COPIES);
        return EXIT_OK;
    }
    exit_code code = add_cold_copies(g, count, r, list);
    if (code != EXIT_OK || g->n_copies < count) return code;
    subject s = {.who = &round, .work = work, .threads = working_threads(g->backend)};
    code = open_round(&round, g, count, list);
    if (code == EXIT_OK) {
        timing_measure(&s, 1, &o->rule);
        if (s.t.failed) code = problem(list, EXIT_RUN, "%s: %s", r->name, ck_last_error(g->backend));
        add_time(r, "cold", &s);
    }
    close_round(&round);
    return code;
}

static void sum_costs(const rig *g, const context *c, result *r) {
    cost parts[CASE_MOST_COSTS];
    int n = rig_costs(g, parts);
    const ck_ceiling *most = &c->ceiling[g->precision];
    bool known = c->copy_rate > 0 && most->product > 0;
    for (int i = 0; i < n; i++) {
        r->bytes += parts[i].bytes;
        r->flops += parts[i].flops;
        double memory = parts[i].bytes / c->copy_rate, product = parts[i].flops / most->product;
        if (known) r->floor_seconds += memory > product ? memory : product;
    }
    if (most->fma > 0) r->fma_seconds = r->flops / most->fma;
    r->model_flops = g->which->model_flops ? g->which->model_flops(g) : 0;
    r->product_rate = most->product;
}

exit_code bench_point(const bench_options *options, const context *c, ck_backend *backend, bench_peers *peers,
                      const op_case *which, const point *at, result *r, problems *list) {
    rig *g = NULL;
    exit_code code = rig_open(&g, which, NULL, rig_lay_point, at, backend, list);
    r->right.tolerance = at->value[AXIS_PRECISION] == CK_BF16 ? 1e-2 : 1e-5;
    if (code == EXIT_OK) sum_costs(g, c, r);
    THEN(code, verify(g, &r->right, list));
    if (code == EXIT_OK && verdict_passed(&r->right)) {
        code = time_warm(g, options, peers, r, list);
        if (code == EXIT_OK && options->cold) code = time_cold(g, options, r, list);
    }
    rig_close(g);
    return code;
}
