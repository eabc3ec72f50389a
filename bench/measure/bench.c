#include "measure/bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "measure/peers.h"
#include "support/kernel_problem.h"

#ifndef COHORT_GIT_REVISION
#define COHORT_GIT_REVISION "unknown"
#endif

const timing_rule BENCH_RULE = {.noise = 0.02, .seconds = 1, .sample_seconds = 0.004, .least_samples = 10};

typedef struct {
    const bench_options *o;
    context c;
    ck_backend *backend;
    bench_peers *peers;
    FILE *out;
    result *results;
    int n, room, wrong, failed;
    output_file json, csv; /* begun before anything is measured */
} run;

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static bool is_measured(const op_case *which) {
    return which->floor != NULL;
}

static bool selects(const sweep *s, const op_case *which) {
    char name[128];
    snprintf(name, sizeof name, "%s/%s", which->name, which->direction);
    return is_measured(which) && strstr(name, s->filter) &&
           (!s->direction[0] || strcmp(s->direction, which->direction) == 0);
}

static result *new_result(run *all, const op_case *which, const point *at, problems *list) {
    char axes[POINT_NAME_BYTES];
    if (all->n == all->room) {
        int room = all->room ? 2 * all->room : 32;
        result *grown = realloc(all->results, (size_t)room * sizeof *grown);
        if (!grown) {
            problem(list, EXIT_ENVIRONMENT, "out of memory for %d results", room);
            return NULL;
        }
        all->results = grown;
        all->room = room;
    }
    result *r = &all->results[all->n++];
    *r = (result){.family = which->name, .at = *at, .axes = which->axes};
    point_name(at, which->axes, axes);
    snprintf(r->name, sizeof r->name, "%s/%s%s", which->name, which->direction, axes);
    return r;
}

static void skip(result *r, const char *why) {
    r->skipped = true;
    snprintf(r->note, sizeof r->note, "%s", why);
}

/* A point that does not fit is left out, with its reason; whatever else goes wrong fails the run, and the
 * next case is measured. */
static void take_point(run *all, const op_case *which, const point *at, result *r) {
    const char *why = point_problem(at, which->axes);
    if (!why && !ck_supports(all->backend, (ck_precision)at->value[AXIS_PRECISION]))
        why = "the backend has no such precision";
    if (why) {
        skip(r, why);
        return;
    }
    problems *own = problems_create();
    exit_code code = bench_point(all->o, &all->c, all->backend, all->peers, which, at, r, own);
    if (code == EXIT_ENVIRONMENT && r->n_times == 0)
        skip(r, problems_message(own, 0));
    else if (code != EXIT_OK)
        snprintf(r->note, sizeof r->note, "FAILED: %s", problems_message(own, 0));
    all->failed += code != EXIT_OK && !r->skipped;
    problems_destroy(own);
    if (r->skipped) return;
    all->wrong += !verdict_passed(&r->right);
}

static exit_code take_sweep(run *all, const sweep *s, const op_case *const *cases, problems *list) {
    for (int i = 0; cases[i]; i++) {
        for (int p = 0; selects(s, cases[i]) && p < sweep_points(s, cases[i]->axes) && !interrupted; p++) {
            point at = sweep_point(s, cases[i]->axes, p);
            result *r = new_result(all, cases[i], &at, list);
            if (!r) return EXIT_ENVIRONMENT;
            take_point(all, cases[i], &at, r);
            table_row(all->out, r);
        }
    }
    return EXIT_OK;
}

/* Before anything is measured. */
static exit_code check_filters(const bench_options *o, const op_case *const *cases, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < o->n_sweeps; i++) {
        const sweep *s = &o->sweeps[i];
        int selected = 0;
        for (int c = 0; cases[c]; c++) selected += selects(s, cases[c]);
        if (!selected)
            code =
                problem(list, EXIT_INPUT, "no case contains '%s'%s%s; cohort-bench kernels --list names all",
                        s->filter, s->direction[0] ? " in direction " : "", s->direction);
    }
    return code;
}

static void measure_ceilings(run *all) {
    context *c = &all->c;
    c->copy_rate = ck_copy_rate(all->backend);
    for (int p = CK_F32; p <= CK_BF16; p++)
        if (ck_supports(all->backend, (ck_precision)p))
            c->ceiling[p] = ck_measure_ceiling(all->backend, (ck_precision)p);
    c->cache_bytes = ck_cache_bytes(all->backend);
}

/* ---- Files: a place that cannot be written is refused before the work */

static exit_code end_files(run *all, exit_code code, problems *list) {
    if (all->json.stream) code = output_file_end(&all->json, code, list);
    if (all->csv.stream) code = output_file_end(&all->csv, code, list);
    return code;
}

static exit_code begin_files(run *all, problems *list) {
    exit_code code = all->o->json ? output_file_begin(all->o->json, &all->json, list) : EXIT_OK;
    if (code == EXIT_OK && all->o->csv) code = output_file_begin(all->o->csv, &all->csv, list);
    return code == EXIT_OK ? code : end_files(all, code, list);
}

static exit_code write_files(run *all, problems *list) {
    exit_code code = EXIT_OK;
    if (all->json.stream) code = result_write_json(&all->json, &all->c, all->results, all->n, list);
    if (all->csv.stream) result_write_csv(&all->csv, &all->c, all->results, all->n);
    return end_files(all, code, list);
}

static exit_code take_all(run *all, const op_case *const *cases, problems *list) {
    const bench_options *o = all->o;
    bool gpu = strcmp(ck_name(all->backend), "cpu") != 0;
    exit_code code = EXIT_OK;
    for (int i = 0; i < (o->n_sweeps ? o->n_sweeps : 1) && code == EXIT_OK; i++) {
        sweep s = o->n_sweeps ? o->sweeps[i] : (sweep){0};
        sweep_defaults(&s, gpu);
        code = take_sweep(all, &s, cases, list);
    }
    if (code != EXIT_OK) return code;
    table_end(all->out, all->results, all->n);
    code = write_files(all, list);
    if (code == EXIT_OK && interrupted)
        code = problem(list, EXIT_INTERRUPTED, "interrupted: the cases after the last one shown are missing");
    if (code == EXIT_OK && all->wrong)
        code = problem(list, EXIT_RUN, "%d cases are wrong: they have no times", all->wrong);
    if (code == EXIT_OK && all->failed) code = problem(list, EXIT_RUN, "%d cases failed", all->failed);
    return code;
}

exit_code bench_run(const bench_options *options, const op_case *const *cases, problems *list) {
    run all = {.o = options, .out = options->out ? options->out : stdout};
    exit_code code = check_filters(options, cases, list);
    if (code != EXIT_OK) return code;
    code = kernel_problem(
        list, NULL, ck_open(options->backend ? options->backend : "auto", options->threads, &all.backend),
        "opening the backend");
    if (code != EXIT_OK) return code;
    all.c = (context){.backend = ck_name(all.backend),
                      .hardware = ck_hardware(all.backend),
                      .revision = COHORT_GIT_REVISION,
                      .threads = ck_threads(all.backend),
                      .load = load_now(),
                      .rule = options->rule};
    if (options->peers) code = peers_open(&all.peers, options, &all.c, list);
    THEN(code, begin_files(&all, list));
    if (code == EXIT_OK) {
        signal(SIGINT, interrupt); /* what has been measured is still written */
        signal(SIGTERM, interrupt);
        measure_ceilings(&all);
        table_begin(all.out, &all.c);
        code = end_files(&all, take_all(&all, cases, list), list);
        if (ck_note(all.backend)[0]) fprintf(all.out, "%s\n", ck_note(all.backend));
    }
    peers_close(all.peers);
    for (int i = 0; i < all.n; i++) result_free(&all.results[i]);
    free(all.results);
    ck_close(all.backend);
    return code;
}

void bench_list(FILE *out, const op_case *const *cases) {
    fprintf(out,
            "T tokens, D width, F = 4 D, N devices, E experts, R = E rows of the router (none if E = 1), S "
            "the sum of a device's ranks,\n"
            "I branches of the MLP (GELU 1, SwiGLU 2), each with F columns of U and S rows of A1 and B1,\n"
            "S' = S k / E, ra the attention LoRA's rank, s tokens of a sequence, H heads, V vocabulary, a "
            "bytes of an activation or frozen\n"
            "weight; floor = max(bytes / copy rate, FLOPs / best product rate)\n\n");
    for (int i = 0; cases[i]; i++)
        if (is_measured(cases[i]))
            fprintf(out, "%s/%s\n    %s\n", cases[i]->name, cases[i]->direction, cases[i]->floor);
    fprintf(out, "\naxes\n");
    for (int a = 0; a < AXES; a++) fprintf(out, "  --%-16s %s\n", axis_key((axis)a), axis_meaning((axis)a));
    fprintf(out, "  --%-16s %s\n", "ranks", "LoRA ranks that the experts of a device have in turn");
}
