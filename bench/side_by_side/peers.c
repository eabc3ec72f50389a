/* peers.c - the order of a side-by-side.
 *
 *   round = for each thread setting: Cohort, sequential_clients, shared_base, batched_clients
 *
 * So each sample of a PyTorch program has one of Cohort's beside it, taken within the same minute; ratios are
 * made of such pairs. After the first round, settings that are clearly not the best of their program are left
 * out. */
#include "side_by_side/peers.h"

#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "measure/folder.h"
#include "measure/python.h"
#include "side_by_side/rows.h"
#include "support/output_folder.h"

static const char *const PROGRAMS[ROWS_PEERS] = {"sequential_clients", "shared_base", "batched_clients"};
static const double SLOW_SHARE = 0.5, SETTLED_SPREAD = 0.03;
enum { LEAST_ROUNDS = 3, MOST_ARGUMENTS = 8, NAME_BYTES = 64 };

typedef struct {
    const char *python;
    char folder[FOLDER_PATH_BYTES], self[FOLDER_PATH_BYTES];
    int threads;
    job job;
    rows all;
    program_result reference; /* Cohort's first run */
    struct timespec start;
} bench;

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
    program_stop();
}

static double elapsed(const bench *b) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - b->start.tv_sec) + 1e-9 * (double)(now.tv_nsec - b->start.tv_nsec);
}

/* ---- One run */

static exit_code run_cohort(const bench *b, const char *config, int steps, program_result *result,
                            problems *list) {
    char path[2 * FOLDER_PATH_BYTES], threads[NAME_BYTES], most[NAME_BYTES], out[2 * FOLDER_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", b->folder, config);
    snprintf(out, sizeof out, "%s/cohort", b->folder);
    snprintf(threads, sizeof threads, "%d", b->threads);
    snprintf(most, sizeof most, "%d", steps);
    const char *arguments[] = {b->self, "steps", path, "--threads", threads, "--steps", most, NULL},
               *environment[] = {NULL};
    return program_run(arguments, environment, out, steps, b->job.devices, result, list);
}

static exit_code run_peer(const bench *b, const row *r, program_result *result, problems *list) {
    char script[FOLDER_PATH_BYTES], torch[NAME_BYTES], blas[NAME_BYTES], openmp[NAME_BYTES], mkl[NAME_BYTES],
        openblas[NAME_BYTES];
    char out[2 * FOLDER_PATH_BYTES];
    snprintf(script, sizeof script, "%s/%s.py", COHORT_BENCH_PEERS, r->program);
    snprintf(torch, sizeof torch, "%d", r->torch_threads);
    snprintf(blas, sizeof blas, "%d", r->blas_threads);
    snprintf(openmp, sizeof openmp, "OMP_NUM_THREADS=%d", r->torch_threads);
    snprintf(mkl, sizeof mkl, "MKL_NUM_THREADS=%d", r->blas_threads);
    snprintf(openblas, sizeof openblas, "OPENBLAS_NUM_THREADS=%d", r->blas_threads);
    snprintf(out, sizeof out, "%s/%s-%d-%d", b->folder, r->program, r->torch_threads, r->blas_threads);
    const char *arguments[] = {b->python, script,           b->folder, "--torch-threads",
                               torch,     "--blas-threads", blas,      NULL};
    const char *environment[] = {openmp, mkl, openblas, "PYTHONDONTWRITEBYTECODE=1", NULL};
    return program_run(arguments, environment, out, b->job.steps, b->job.devices, result, list);
}

static void say(const row *r, int round) {
    fprintf(stderr, "round %d: %s, %d torch and %d BLAS threads: ", round + 1, r->program, r->torch_threads,
            r->blas_threads);
    if (r->state == ROW_RIGHT)
        fprintf(stderr, "%.0f tokens/s\n", r->rate[r->samples - 1]);
    else
        fprintf(stderr, "%s\n", r->state == ROW_WRONG ? "WRONG" : "FAILED");
}

/* ---- Turns and rounds */

static exit_code cohort_turn(bench *b, int round, double *rate, problems *list) {
    row *r = &b->all.rows[0];
    program_result result;
    exit_code code = run_cohort(b, "run.yaml", b->job.steps, &result, list);
    if (code == EXIT_OK) {
        *rate = program_rate(&result, &b->job);
        row_add(r, &result, b->reference.steps ? &b->reference : &result, &b->job, *rate);
        say(r, round);
    }
    if (code == EXIT_OK && b->reference.steps == 0)
        b->reference = result;
    else
        program_free(&result);
    return code;
}

/* A program that cannot run is a row that says so; the others go on. */
static void peer_turn(bench *b, row *r, int round, double cohort_rate, problems *list) {
    program_result result;
    if (run_peer(b, r, &result, list) == EXIT_OK)
        row_add(r, &result, &b->reference, &b->job, cohort_rate);
    else if (!interrupted)
        r->state = ROW_FAILED;
    if (!interrupted) say(r, round);
    program_free(&result);
}

static bool takes_part(const row *r) {
    return !r->dropped && (r->state == ROW_NOT_RUN || r->state == ROW_RIGHT);
}

static exit_code run_turn(bench *b, int round, int setting, problems *list) {
    double cohort_rate = 0;
    bool any = false;
    for (int peer = 0; peer < ROWS_PEERS; peer++)
        any |= takes_part(&b->all.rows[1 + peer * b->all.n_settings + setting]);
    if (!any) return EXIT_OK;
    exit_code code = cohort_turn(b, round, &cohort_rate, list);
    for (int peer = 0; peer < ROWS_PEERS && code == EXIT_OK && !interrupted; peer++) {
        row *r = &b->all.rows[1 + peer * b->all.n_settings + setting];
        if (takes_part(r)) peer_turn(b, r, round, cohort_rate, list);
    }
    return code;
}

static exit_code run_rounds(bench *b, int rounds, problems *list) {
    for (int round = 0; round < rounds && !interrupted; round++) {
        for (int s = 0; s < b->all.n_settings && !interrupted; s++) {
            exit_code code = run_turn(b, round, s, list);
            if (code != EXIT_OK) return code;
        }
        b->all.rounds = round + 1;
        if (round == 0) rows_drop_slow(&b->all, SLOW_SHARE);
        if (rows_settled(&b->all, elapsed(b))) break;
    }
    return EXIT_OK;
}

/* ---- Before and after */

/* A check that cannot fail is not a check: with the control's adapters Cohort's first losses must differ on
 * every device. */
static exit_code measure_control(bench *b, problems *list) {
    program_result right = {0}, wrong = {0};
    exit_code code = run_cohort(b, "run.yaml", 1, &right, list);
    THEN(code, run_cohort(b, "control.yaml", 1, &wrong, list));
    b->all.control = INFINITY;
    for (int i = 0; i < b->job.devices && code == EXIT_OK; i++)
        b->all.control = fmin(b->all.control, fabs(right.loss[i] - wrong.loss[i]));
    program_free(&right);
    program_free(&wrong);
    if (code != EXIT_OK || b->all.control > ROWS_TOLERANCE) return code;
    return problem(
        list, EXIT_RUN,
        "a program known to be wrong differs by only %.1e: these inputs cannot tell right from wrong",
        b->all.control);
}

static int count_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void make_rows(bench *b, const peers_options *o) {
    rows *all = &b->all;
    all->job = &b->job;
    all->n_settings = b->threads > 1 ? ROWS_SETTINGS : 1;
    all->n_rows = 1 + ROWS_PEERS * all->n_settings;
    all->rule =
        (settling){.least_samples = LEAST_ROUNDS, .spread = SETTLED_SPREAD, .seconds = 60 * o->minutes};
    all->rows[0] = (row){.program = "cohort", .torch_threads = b->threads, .blas_threads = 1};
    for (int i = 1; i < all->n_rows; i++) {
        int setting = (i - 1) % all->n_settings;
        all->rows[i] = (row){.program = PROGRAMS[(i - 1) / all->n_settings],
                             .torch_threads = setting / 2 ? b->threads : 1,
                             .blas_threads = setting % 2 ? b->threads : 1};
    }
}

static exit_code prepare(bench *b, const peers_options *o, problems *list) {
    ssize_t length = readlink("/proc/self/exe", b->self, sizeof b->self - 1);
    if (length < 0) return problem(list, EXIT_ENVIRONMENT, "the path of this program cannot be found");
    b->self[length] = '\0';
    b->threads = o->threads > 0 ? o->threads : count_cores();
    if (!job_find(o->shape, &b->job))
        return problem(list, EXIT_INPUT, "--shape %s is unknown; it is %s", o->shape, JOB_NAMES);
    if (o->devices > 0) b->job.devices = o->devices;
    if (o->batch > 0) b->job.batch = o->batch;
    if (o->steps > 0) b->job.steps = o->steps;
    if (b->job.steps <= b->job.warmup)
        return problem(list, EXIT_INPUT, "--steps %d: must be more than the %d steps of the warm-up",
                       b->job.steps, b->job.warmup);
    make_rows(b, o);
    return folder_make(o->keep, b->folder, list);
}

static exit_code compare(bench *b, const peers_options *o, output_file *json, problems *list) {
    exit_code code = job_write(&b->job, b->folder, list);
    THEN(code, measure_control(b, list));
    clock_gettime(CLOCK_MONOTONIC, &b->start);
    b->all.load = load_now();
    THEN(code, run_rounds(b, o->rounds, list));
    if (code == EXIT_OK && interrupted) code = problem(list, EXIT_RUN, "interrupted");
    if (code != EXIT_OK) return code;
    rows_print(&b->all, json_string_value(json_object_get(b->all.rows[0].end, "hardware")));
    if (json->stream) code = output_file_end(json, rows_write_json(&b->all, json, list), list);
    rows_report_wrong(&b->all, list);
    return THEN(code, problems_code(list)); /* of programs that failed, too */
}

/* A place that cannot be written is refused before the work. */
static exit_code compare_into(bench *b, const peers_options *o, problems *list) {
    output_file json = {0};
    exit_code code = o->json ? output_file_begin(o->json, &json, list) : EXIT_OK;
    THEN(code, compare(b, o, &json, list));
    return json.stream ? output_file_end(&json, code, list) : code;
}

exit_code peers_run(const peers_options *o, problems *list) {
    char scratch[2 * FOLDER_PATH_BYTES];
    bench *b = calloc(1, sizeof *b);
    if (!b) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    exit_code code = prepare(b, o, list);
    if (code != EXIT_OK) goto cleanup;
    snprintf(scratch, sizeof scratch, "%s/python", b->folder);
    code = python_find(o->python, scratch, &b->python, list);
    if (code == EXIT_OK && !b->python) printf("cohort-bench peers: skipped: %s", PYTHON_ADVICE);
    signal(SIGINT, interrupt);
    signal(SIGTERM, interrupt);
    if (code == EXIT_OK && b->python) code = compare_into(b, o, list);
    if (!o->keep) folder_remove(b->folder);
cleanup:
    for (int i = 0; i < b->all.n_rows; i++) json_decref(b->all.rows[i].end);
    program_free(&b->reference);
    free(b);
    return code;
}
