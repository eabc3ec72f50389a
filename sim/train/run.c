/* run.c - a run from start to end.
 *
 *   folder chosen -> text checked -> base -> session -> folder begun -> [checkpoint] -> trace -> rounds
 *   -> summary (under a name of its own) -> last checkpoint -> trace closed -> summary renamed to summary.csv
 *
 * So summary.csv exists only when all else is complete, and a run that was killed between its last checkpoint and that rename finds
 * its summary waiting. */
#include "train/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel_problem.h"
#include "trace/durable.h"
#include "train/checkpoints.h"
#include "train/folders.h"
#include "train/report.h"
#include "train/rounds.h"
#include "train/session.h"
#include "train/summary.h"
#include "train/trace_open.h"

typedef struct {
    const settings *settings;
    bool quiet;
    result_folder folder;
    ck_backend *backend;
    session *session;
    checkpoint checkpoint;
    trace *trace;
    summary_row *summary;
} run;

static const char *const SUMMARY = "summary.csv", *const WAITING_SUMMARY = "summary.csv.waiting";

/* What the populations lack (memory, text) is found before a base is loaded, or pre-trained for minutes. */
static exit_code check_populations(const settings *s, ck_backend *backend, problems *list) {
    fleet *f = NULL;
    base_shape shape;
    run_plan plan;
    exit_code code = run_base_shape(s, &shape, list);
    if (code == EXIT_OK) code = fleet_create(s, &shape, &f, list);
    if (code == EXIT_OK) code = plan_with_text(s, backend, &shape, 0, f, &plan, list);
    fleet_destroy(f);
    return code;
}

static exit_code open_session(run *r, problems *list) {
    base_model *base = NULL;
    exit_code code = kernel_problem(list, NULL, ck_open(r->settings->backend, r->settings->threads, &r->backend), "opening the backend");
    if (code == EXIT_OK) code = check_populations(r->settings, r->backend, list);
    if (code == EXIT_OK) code = run_obtain_base(r->settings, r->backend, r->quiet, NULL, &base, list);
    if (code == EXIT_OK) code = session_create(r->settings, r->backend, base, &r->session, list);
    if (code == EXIT_OK) report_overlaps(r->quiet, r->session->fleet);
    return code == EXIT_OK ? checkpoints_create(r->session, &r->checkpoint, list) : code;
}

/* Goes on from the checkpoint where there is one; a result that was killed before its first one starts over. */
static exit_code open_result(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = result_begin(r->settings, &r->folder, list);
    r->session->result = r->folder.path;
    result_path(&r->folder, "checkpoint.h5", path);
    if (code == EXIT_OK && r->folder.resumes) code = checkpoints_restore(r->session, &r->checkpoint, path, list);
    result_path(&r->folder, "trace.h5", path);
    if (code == EXIT_OK && !r->folder.resumes) unlink(path);
    return code == EXIT_OK ? session_open_trace(r->session, path, r->checkpoint.round, &r->trace, list) : code;
}

static exit_code close_trace(run *r, problems *list) {
    exit_code code = r->trace ? trace_close(r->trace, list) : EXIT_OK;
    r->trace = NULL;
    return code;
}

static exit_code write_summary(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    int n = r->session->fleet->n_populations;
    r->summary = calloc((size_t)n, sizeof *r->summary);
    if (!r->summary) return problem(list, EXIT_ENVIRONMENT, "out of memory for the summary");
    summarise(r->session, r->summary);
    result_path(&r->folder, WAITING_SUMMARY, path);
    return summary_write(path, r->summary, n, list);
}

static exit_code save_result(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = trace_flush(r->trace, list);
    if (code == EXIT_OK) code = write_summary(r, list);
    result_path(&r->folder, "checkpoint.h5", path);
    if (code == EXIT_OK) code = checkpoints_save(r->session, r->settings->rounds, &r->checkpoint, path, list);
    return code;
}

static exit_code train(run *r, problems *list) {
    rounds all = {.session = r->session, .trace = r->trace, .checkpoint = &r->checkpoint, .folder = &r->folder, .quiet = r->quiet};
    if (r->checkpoint.round >= r->settings->rounds) return EXIT_OK;
    exit_code code = rounds_run(&all, list);
    return code == EXIT_OK ? save_result(r, list) : code;
}

/* Somebody removed the summary of a complete run: the trace still has the losses that it is made of. */
static exit_code restore_summary(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    round_numbers *n = &r->session->numbers;
    result_path(&r->folder, "trace.h5", path);
    exit_code code = trace_read_test_losses(path, r->settings->rounds, r->session->fleet->n_devices, n->test, n->test_after, list);
    return code == EXIT_OK ? write_summary(r, list) : code;
}

static exit_code publish_summary(run *r, problems *list) {
    char waiting[FOLDER_PATH_BYTES], path[FOLDER_PATH_BYTES];
    result_path(&r->folder, WAITING_SUMMARY, waiting);
    result_path(&r->folder, SUMMARY, path);
    exit_code code = access(waiting, F_OK) != 0 ? restore_summary(r, list) : EXIT_OK;
    int failure = code == EXIT_OK ? durable_replace(waiting, path) : 0;
    return failure == 0 ? code : problem(list, EXIT_RUN, "%s: cannot be put in its place: %s", path, strerror(failure));
}

static void report(const run *r) {
    if (r->quiet) return;
    if (r->summary) {
        report_table(r->summary, r->session->fleet->n_populations);
        report_speed(r->session);
    }
    report_files(&r->folder);
}

static void close_run(run *r) {
    checkpoints_destroy(&r->checkpoint);
    session_destroy(r->session);
    free(r->summary);
    ck_close(r->backend);
    result_end(&r->folder);
}

exit_code run_execute(const settings *s, const run_options *options, problems *list) {
    run r = {.settings = s, .quiet = options->quiet};
    exit_code code = result_choose(s, options, &r.folder, list);
    if (code == EXIT_OK && r.folder.finished) {
        report_note(r.quiet, "%s is complete: nothing to do", r.folder.path);
        return EXIT_OK;
    }
    if (code == EXIT_OK) code = open_session(&r, list);
    if (code == EXIT_OK) code = open_result(&r, list);
    if (code == EXIT_OK) code = train(&r, list);
    exit_code closed = close_trace(&r, list);
    if (code == EXIT_OK) code = closed;
    if (code == EXIT_OK) code = publish_summary(&r, list);
    if (code == EXIT_OK) report(&r);
    close_run(&r);
    return code == EXIT_OK ? problems_code(list) : code;
}
