/* run.c - a run of all populations at once, from start to end.
 *
 *   folder chosen -> text checked -> base -> session -> folder begun -> [checkpoint] -> trace -> rounds
 *   -> last checkpoint -> trace closed -> summary, made from the trace
 *
 * Of several processes all go this way together; process 0 alone touches the folder.
 *
 * So summary.csv exists only when all else is complete, and a run that was killed before it was written, or
 * whose summary somebody removed, makes it when it is resumed. */
#include "run/run.h"
#include "model/obtain_base.h"
#include "run/once.h"
#include "support/progress.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/tensors.h"
#include "engine/assign.h"
#include "engine/checkpoints.h"
#include "engine/outline.h"
#include "engine/session.h"
#include "run/folders.h"
#include "run/report.h"
#include "run/rounds.h"
#include "run/summarise.h"
#include "run/trace_open.h"
#include "support/kernel_open.h"
#include "support/processes.h"

typedef struct {
    const settings *settings;
    ck_collective *collective;
    bool first; /* process 0 */
    bool quiet;
    const run_batch *batch;
    bool too_large;
    result_folder folder;
    ck_backend *backend;
    session *session;
    checkpoint checkpoint;
    trace *trace;
    summary_row *summary;
    bool trained;
    ck_ceiling ceiling; /* of all processes together */
} run;

/* While process 0 trains a base the others have nothing to do: it takes their threads too. */
static exit_code obtain_first(run *r, base_model **base, problems *list) {
    const settings *s = r->settings;
    ck_backend *whole = NULL;
    exit_code code = EXIT_OK;
    if (ck_local_processes(r->collective) > 1 && run_trains_base(s))
        code = kernel_open(s->backend, s->threads, &whole, list);
    THEN(code, run_obtain_base(s, whole ? whole : r->backend, r->quiet, NULL, base, list));
    if (whole) kernel_share_threads(r->backend);
    ck_close(whole);
    return code;
}

/* Process 0 makes or loads it, the others get it from there: they need neither the cache nor the checkpoint.
 */
static exit_code obtain_base(run *r, base_model **base, problems *list) {
    base_shape shape = {0};
    *base = NULL;
    exit_code code = processes_agree(r->collective, r->first ? obtain_first(r, base, list) : EXIT_OK, list);
    if (code != EXIT_OK || ck_processes(r->collective) == 1) return code;
    if (r->first) shape = (*base)->shape;
    code =
        processes_problem(r->collective, ck_collective_broadcast(r->collective, &shape, sizeof shape), list);
    if (!r->first) THEN(code, base_create(&shape, base, list));
    code = processes_agree(r->collective, code, list);
    size_t bytes = *base ? (size_t)(*base)->layout.total * sizeof(float) : 0;
    THEN(code, processes_problem(r->collective,
                                 ck_collective_broadcast(r->collective, (*base)->weights, bytes), list));
    if (code == EXIT_OK) return EXIT_OK;
    base_destroy(*base);
    *base = NULL;
    return code;
}

static int usable_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int run_threads(const settings *s, int process, int processes) {
    int all = s->threads > 0 ? s->threads : usable_cores();
    if (processes == 1) return s->threads;
    int share = all / processes + (process < all % processes ? 1 : 0);
    return share > 0 ? share : 1;
}

static exit_code open_backend(run *r, problems *list) {
    int threads =
        run_threads(r->settings, ck_local_process(r->collective), ck_local_processes(r->collective));
    exit_code code = kernel_open(r->settings->backend, threads, &r->backend, list);
    return processes_agree(r->collective, code, list);
}

static exit_code open_session(run *r, problems *list) {
    base_model *base = NULL;
    run_outline outline = {0};
    exit_code code = open_backend(r, list);
    if (code != EXIT_OK) return code;
    code = processes_agree(r->collective,
                           outline_make(r->settings, r->collective, r->backend, &outline, list), list);
    r->too_large = outline.plan.refused;
    if (code != EXIT_OK) (void)outline_any(r->collective, &r->too_large, list);
    THEN(code, obtain_base(r, &base, list));
    if (code == EXIT_OK)
        code =
            session_create_among(r->collective, r->settings, r->backend, &outline, base, &r->session, list);
    else
        outline_free(&outline);
    if (code != EXIT_OK) return code;
    if (r->first) report_overlaps(r->quiet, r->session->fleet);
    r->session->at.result = r->folder.whole ? r->folder.whole : r->folder.path;
    return processes_agree(r->collective, checkpoints_create(r->session, &r->checkpoint, list), list);
}

static exit_code open_trace(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    if (!r->first) return EXIT_OK;
    result_path(&r->folder, "trace.h5", path);
    if (!r->folder.resumes) unlink(path);
    return session_open_trace(r->session, path, r->checkpoint.round, &r->trace, list);
}

/* Goes on from the checkpoint where there is one; a result that was killed before its first one starts over.
 */
static exit_code open_result(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = r->first ? result_begin(r->settings, &r->folder, list) : EXIT_OK;
    if (r->first)
        THEN(code, result_keep_base(r->settings, &r->session->programs.base.shape, &r->folder, list));
    code = processes_agree(r->collective, code, list);
    result_path(&r->folder, "checkpoint.h5", path);
    if (r->folder.resumes) THEN(code, checkpoints_restore(r->session, &r->checkpoint, path, list));
    return THEN(code, processes_agree(r->collective, open_trace(r, list), list));
}

static exit_code close_trace(run *r, problems *list) {
    exit_code code = r->trace ? trace_close(r->trace, list) : EXIT_OK;
    r->trace = NULL;
    return code;
}

static exit_code save_result(run *r, problems *list) {
    char path[FOLDER_PATH_BYTES];
    exit_code code = processes_agree(r->collective, r->first ? trace_flush(r->trace, list) : EXIT_OK, list);
    result_path(&r->folder, "checkpoint.h5", path);
    return THEN(code, checkpoints_save(r->session, r->settings->rounds, &r->checkpoint, path, list));
}

static exit_code train(run *r, problems *list) {
    rounds all = {.session = r->session,
                  .trace = r->trace,
                  .checkpoint = &r->checkpoint,
                  .folder = &r->folder,
                  .label = r->batch->label ? r->batch->label : "train",
                  .quiet = r->quiet || !r->first};
    if (r->checkpoint.round >= r->settings->rounds) return EXIT_OK;
    r->trained = true;
    exit_code code = rounds_run(&all, list);
    return THEN(code, save_result(r, list));
}

static exit_code write_summary(run *r, problems *list) {
    char from[FOLDER_PATH_BYTES], path[FOLDER_PATH_BYTES];
    r->summary = calloc((size_t)r->settings->n_populations, sizeof *r->summary);
    result_path(&r->folder, "trace.h5", from);
    result_path(&r->folder, "summary.csv", path);
    exit_code code = r->summary ? summarise_trace(r->session, from, r->summary, list)
                                : problem(list, EXIT_ENVIRONMENT, "out of memory for the summary");
    return THEN(code, summary_write(path, r->summary, r->settings->n_populations, list));
}

static void report(const run *r) {
    if (r->summary) {
        report_table(r->summary, r->settings->n_populations);
        putchar('\n');
        report_base(&r->session->programs.base.shape);
        report_speed(r->session, &r->ceiling);
    }
    report_files(&r->folder);
}

/* All processes at the same time, as in a step. A rate that one of them lacks is not known for all. */
static exit_code measure_ceiling(run *r, problems *list) {
    int n = ck_processes(r->collective);
    ck_ceiling own = {0}, *all = calloc((size_t)n, sizeof *all);
    exit_code code = processes_agree(r->collective,
                                     all ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory"), list);
    if (code == EXIT_OK) own = ck_measure_ceiling(r->backend, CK_F32);
    THEN(code, processes_problem(r->collective, ck_collective_exchange(r->collective, &own, sizeof own, all),
                                 list));
    r->ceiling = own;
    bool product = true, fma = true;
    double products = 0.0, fmas = 0.0;
    for (int p = 0; p < n && code == EXIT_OK; p++) {
        products += all[p].product;
        fmas += all[p].fma;
        product &= all[p].product > 0.0;
        fma &= all[p].fma > 0.0;
    }
    r->ceiling.product = product ? products : 0.0;
    r->ceiling.fma = fma ? fmas : 0.0;
    free(all);
    return code;
}

static void close_run(run *r) {
    checkpoints_destroy(&r->checkpoint);
    session_destroy(r->session);
    free(r->summary);
    ck_close(r->backend);
    result_end(&r->folder);
}

/* Process 0 chooses the folder, and tells the others. */
static exit_code choose_folder(run *r, const run_options *options, problems *list) {
    exit_code code = r->first ? result_choose(r->settings, options, &r->folder, list) : EXIT_OK;
    code = processes_agree(r->collective, code, list);
    if (code != EXIT_OK || ck_processes(r->collective) == 1) return code;
    return processes_problem(r->collective,
                             ck_collective_broadcast(r->collective, &r->folder, sizeof r->folder), list);
}

static exit_code finish(run *r, exit_code code, problems *list) {
    exit_code closed = close_trace(r, list);
    THEN(code, closed);
    if (r->first) THEN(code, write_summary(r, list));
    code = processes_agree(r->collective, code, list);
    /* the measurement has memory of its own */
    bool reports = !r->quiet && !r->batch->label;
    if (code == EXIT_OK && reports && r->trained) session_release(r->session);
    if (reports && r->trained) THEN(code, measure_ceiling(r, list));
    if (code == EXIT_OK && reports && r->first) report(r);
    return code;
}

exit_code run_once(const settings *s, const run_options *options, const run_batch *batch, bool *too_large,
                   problems *list) {
    int before = problems_count(list);
    run r = {.settings = s,
             .collective = options->collective ? options->collective : ck_collective_local(),
             .quiet = options->quiet,
             .batch = batch};
    r.first = ck_process(r.collective) == 0;
    exit_code code = choose_folder(&r, options, list);
    r.folder.whole = batch->result;
    *too_large = false;
    if (code == EXIT_OK && r.folder.finished) {
        progress_note(r.quiet || !r.first, "%s is complete: nothing to do", r.folder.path);
        return EXIT_OK;
    }
    THEN(code, open_session(&r, list));
    THEN(code, open_result(&r, list));
    THEN(code, train(&r, list));
    code = finish(&r, code, list);
    close_run(&r);
    *too_large = r.too_large;
    return THEN(code, problems_code_from(list, before));
}
