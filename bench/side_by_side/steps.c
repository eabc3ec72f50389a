/* steps.c - session_local_step() and a clock: what is timed is what `cohort run` does in each step, sampling
 * included. */
#include "side_by_side/steps.h"
#include "config/config.h"
#include "model/obtain_base.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/session.h"
#include "support/kernel_problem.h"

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Largest resident memory so far. */
static double peak_bytes(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lf kB", &kib) == 1) break;
    if (file) fclose(file);
    return kib * 1024;
}

static exit_code print_line(json_t *root, problems *list) {
    int failed = !root || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0 ||
                 putchar('\n') == EOF || fflush(stdout);
    json_decref(root);
    return failed ? problem(list, EXIT_RUN, "steps: a line of results could not be written") : EXIT_OK;
}

static exit_code print_step(int step, const session *s, problems *list) {
    json_t *losses = json_array();
    for (int i = 0; i < s->fleet->n_devices; i++)
        json_array_append_new(
            losses, json_real(metric_doubles(&s->numbers, METRIC_TRAIN_LOSS)[i] * s->settings->local_steps));
    return print_line(json_pack("{s:i, s:o}", "step", step, "loss", losses), list);
}

static exit_code print_end(const session *s, json_t *seconds, double start_bytes, problems *list) {
    json_t *threads = json_pack("{s:i, s:i}", "openmp", ck_threads(s->backend), "blas", 1);
    return print_line(json_pack("{s:O, s:f, s:f, s:o, s:s, s:s}", "step_seconds", seconds, "start_bytes",
                                start_bytes, "peak_bytes", peak_bytes(), "threads", threads, "version",
                                "Cohort " COHORT_GIT_REVISION, "hardware", ck_hardware(s->backend)),
                      list);
}

static exit_code take_steps(session *s, int steps, json_t *seconds, problems *list) {
    exit_code code = EXIT_OK;
    for (int step = 0; step < steps && code == EXIT_OK; step++) {
        memset(metric_doubles(&s->numbers, METRIC_TRAIN_LOSS), 0,
               (size_t)s->fleet->n_devices * sizeof *metric_doubles(&s->numbers, METRIC_TRAIN_LOSS));
        double start = seconds_now();
        code = session_local_step(s, list);
        json_array_append_new(seconds, json_real(seconds_now() - start));
        THEN(code, print_step(step, s, list));
    }
    return code;
}

exit_code steps_run(const char *config, int threads, int most_steps, problems *list) {
    double start_bytes = peak_bytes();
    settings *s = NULL;
    ck_backend *backend = NULL;
    base_model *base = NULL;
    session *run = NULL;
    json_t *seconds = json_array();
    exit_code code = settings_load(config, 0, NULL, &s, list);
    THEN(code, kernel_problem(list, NULL, ck_open("cpu", threads, &backend), "opening the backend"));
    THEN(code, run_obtain_base(s, backend, true, NULL, &base, list));
    THEN(code, session_create(s, backend, base, &run, list));
    if (code != EXIT_OK) goto cleanup;
    code = take_steps(run, most_steps > 0 && most_steps < s->local_steps ? most_steps : s->local_steps,
                      seconds, list);
    THEN(code, print_end(run, seconds, start_bytes, list));
cleanup:
    session_destroy(run);
    ck_close(backend);
    settings_destroy(s);
    json_decref(seconds);
    return code;
}
