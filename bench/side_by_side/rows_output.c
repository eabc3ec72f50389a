/* rows_output.c - the table for people and the file for programs. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "side_by_side/rows.h"

enum { SCHEMA_VERSION = 1 };
static const double MIB = 1048576.0;
static const char *const STATES[] = {"not run", "right", "wrong", "failed"};

static const char *version_of(const row *r) {
    const char *version = json_string_value(json_object_get(r->end, "version"));
    return version ? version : "unknown";
}

/* ---- Table */

static void print_row(const row *r) {
    printf("%-20s %5d %5d ", r->program, r->torch_threads, r->blas_threads);
    if (r->state != ROW_RIGHT) {
        printf("%10s\n", r->state == ROW_WRONG ? "WRONG" : r->state == ROW_FAILED ? "FAILED" : "not run");
        return;
    }
    statistics rate = statistics_of(r->rate, r->samples);
    printf("%10.0f %6.1f%% %4d %8.0f %8.0f   %.1e\n", rate.median, 100 * rate.spread, r->samples,
           r->start_bytes / MIB, (r->peak_bytes - r->start_bytes) / MIB, r->loss.largest);
}

static void print_ratio(const rows *all, int peer) {
    const row *best = rows_best(all, peer), *cohort = &all->rows[0];
    if (!best) return;
    statistics ratio = rows_ratio(best);
    bool settled = statistics_settled(&ratio, &all->rule, 0) == STATISTICS_SETTLED;
    printf("  %-20s %6.2f  spread %.1f%%, %.2f to %.2f in %d pairs%s; %d torch and %d BLAS threads\n",
           best->program, ratio.median, 100 * ratio.spread, ratio.min, ratio.max, ratio.count,
           settled ? "" : ", DID NOT SETTLE", best->torch_threads, best->blas_threads);
    printf("  %-20s %6.2f  times Cohort's peak memory, %.1f times beyond the start\n", "",
           best->peak_bytes / cohort->peak_bytes,
           (best->peak_bytes - best->start_bytes) / (cohort->peak_bytes - cohort->start_bytes));
}

void rows_print(const rows *all, const char *hardware) {
    const job *j = all->job;
    printf("%s: %d layers, width %d, vocabulary %d; %d devices x %d windows of %d tokens; %dG%dS, rank %d; "
           "%d steps\n",
           j->name, j->base.layers, j->base.width, j->base.vocabulary, j->devices, j->batch, j->sequence,
           j->generalists, j->specialists, j->rank, j->steps);
    printf("%s; Cohort %s; %s\n", hardware, COHORT_GIT_REVISION, version_of(&all->rows[1]));
    if (all->load.count > 0) printf("load average at the start: %.2f\n", all->load.average[0]);
    putchar('\n');
    printf("%-20s %5s %5s %10s %7s %4s %8s %8s   %s\n", "", "torch", "BLAS", "", "", "", "MiB at", "MiB",
           "largest loss");
    printf("%-20s %5s %5s %10s %7s %4s %8s %8s   %s\n", "program", "thr.", "thr.", "tokens/s", "spread",
           "runs", "start", "more", "difference");
    for (int i = 0; i < all->n_rows; i++) print_row(&all->rows[i]);
    printf("\nCohort's tokens/s over each program's, at that program's best setting, pair by pair:\n");
    for (int peer = 0; peer < ROWS_PEERS; peer++) print_ratio(all, peer);
    printf("A program known to be wrong (router rows in reverse order) differs by at least %.1e; at most "
           "%.0e is allowed.\n",
           all->control, ROWS_TOLERANCE);
}

/* ---- JSON */

static json_t *numbers(const double *x, int count) {
    json_t *array = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(array, json_real(x[i]));
    return array;
}

static json_t *summary(const statistics *s) {
    return s->count == 0 ? json_null()
                         : json_pack("{s:f, s:f, s:f, s:f, s:i}", "median", s->median, "min", s->min, "max",
                                     s->max, "spread", s->spread, "count", s->count);
}

static json_t *json_of_row(const rows *all, const row *r) {
    bool timed = r->state == ROW_RIGHT;
    statistics rate = statistics_of(r->rate, timed ? r->samples : 0),
               ratio = statistics_of_ratio(r->cohort, r->rate, timed ? r->samples : 0);
    json_t *threads = json_object_get(r->end, "threads"), *form = json_object_get(r->end, "form");
    json_t *out = json_pack("{s:s, s:i, s:i, s:s, s:b, s:s, s:o, s:o, s:o, s:o, s:f, s:f, s:o}", "program",
                            r->program, "torch_threads", r->torch_threads, "blas_threads", r->blas_threads,
                            "state", STATES[r->state], "dropped", r->dropped, "version", version_of(r),
                            "threads", threads ? json_incref(threads) : json_null(), "form",
                            form ? json_incref(form) : json_null(), "tokens_per_second", summary(&rate),
                            "samples", numbers(r->rate, timed ? r->samples : 0), "start_bytes",
                            r->start_bytes, "peak_bytes", r->peak_bytes, "loss_difference",
                            isfinite(r->loss.largest) ? json_real(r->loss.largest) : json_null());
    if (out && r != &all->rows[0]) json_object_set_new(out, "cohort_ratio", summary(&ratio));
    return out;
}

static json_t *json_of_job(const job *j) {
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "name", j->name,
                     "layers", j->base.layers, "width", j->base.width, "heads", j->base.heads, "vocabulary",
                     j->base.vocabulary, "devices", j->devices, "batch", j->batch, "sequence", j->sequence,
                     "generalists", j->generalists, "specialists", j->specialists, "rank", j->rank, "steps",
                     j->steps, "warmup", j->warmup);
}

static json_t *json_of_provenance(const rows *all) {
    struct utsname system;
    char utc[32];
    time_t now = time(NULL);
    strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    const char *hardware = json_string_value(json_object_get(all->rows[0].end, "hardware"));
    if (uname(&system) != 0) strcpy(system.release, "unknown");
    return json_pack("{s:i, s:o, s:s, s:s, s:s, s:s, s:s}", "schema_version", SCHEMA_VERSION, "load_avg",
                     numbers(all->load.average, all->load.count), "created_utc", utc, "git_revision",
                     COHORT_GIT_REVISION, "hardware", hardware ? hardware : "unknown", "kernel",
                     system.release, "compiler", __VERSION__);
}

exit_code rows_write_json(const rows *all, output_file *out, problems *list) {
    json_t *array = json_array();
    for (int i = 0; i < all->n_rows; i++) json_array_append_new(array, json_of_row(all, &all->rows[i]));
    json_t *root = json_pack("{s:o, s:o, s:i, s:f, s:f, s:o}", "provenance", json_of_provenance(all), "job",
                             json_of_job(all->job), "rounds", all->rounds, "tolerance", ROWS_TOLERANCE,
                             "control_difference", all->control, "rows", array);
    bool no_memory = !root;
    if (root)
        json_dumpf(root, out->stream, JSON_INDENT(2)); /* output_file_end() finds what was not written */
    json_decref(root);
    return no_memory ? problem(list, EXIT_ENVIRONMENT, "%s: out of memory for the results", out->path)
                     : EXIT_OK;
}
