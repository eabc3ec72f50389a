#include "run/batches.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "engine/outline.h"
#include "run/once.h"
#include "run/report.h"
#include "support/kernel_open.h"
#include "support/output_folder.h"
#include "support/processes.h"
#include "support/progress.h"

/* What has to be done next. Process 0 decides it, and tells the other processes. */
typedef enum {
    NEXT_AT_ONCE,    /* one run of all populations in the result's own folder; it may be complete already */
    NEXT_FINISH_OLD, /* end the run in the result's own folder; it is not the whole of what is asked for */
    NEXT_FINISH,     /* end a batch that was begun */
    NEXT_NEW,        /* begin a batch of populations that are in no part yet */
    NEXT_MERGE       /* all populations are in complete parts, which become one result */
} next_kind;

typedef struct {
    int32_t kind;
    int32_t n, missing;   /* `which` has n populations to run next, and then those that are in no part yet */
    int32_t number;       /* the batch's folder */
    int32_t done, failed; /* populations in complete parts: those that did not diverge, and those that did */
    int32_t begun, complete; /* batches that have begun, and how many of them are complete */
    bool nothing;            /* there is no part yet */
    bool has_result;         /* the result's own folder is a part */
} next_step;

typedef struct {
    const settings *settings;
    const run_options *options;
    ck_collective *collective;
    bool first, quiet;
    char folder[FOLDER_PATH_BYTES];
    run_lock lock;     /* of process 0, from its first batch on */
    found_parts found; /* of process 0 */
    next_step next;
    int *which;     /* [n_populations] */
    bool too_large; /* one run of all populations does not fit into memory */
    /* The most populations of a batch. It is halved when a batch does not fit that had been expected to. */
    int most;
    bool diverged; /* a population of this run diverged, and the run has said so */
} sweep;

/* ---- Dividing ---- */

static exit_code fits(const settings *s, ck_collective *collective, ck_backend *backend, const int *which,
                      int n, bool *yes, problems *list) {
    settings *some = settings_subset(s, n, which);
    exit_code code = outline_fits(some, collective, backend, yes, list);
    settings_destroy(some);
    return code;
}

/* Reports why the memory plan refuses a population, with the population's name. */
static exit_code refuse_population(const settings *s, ck_collective *collective, ck_backend *backend,
                                   int which, problems *list) {
    run_outline outline = {0};
    int before = problems_count(list);
    settings *alone = settings_subset(s, 1, &which);
    exit_code code =
        processes_agree(collective, outline_make(alone, collective, backend, &outline, list), list);
    problems_prefix(list, before,
                    "population '%s' (seed %llu) does not fit, even alone: ", s->populations[which].name,
                    (unsigned long long)s->populations[which].seed);
    outline_free(&outline);
    settings_destroy(alone);
    if (code != EXIT_OK) return code;
    return problem(list, EXIT_ENVIRONMENT,
                   "population '%s' (seed %llu) did not fit into memory a moment ago; "
                   "try again",
                   s->populations[which].name, (unsigned long long)s->populations[which].seed);
}

/* How many of which[0 .. n - 1], from the first on, fit into one batch at most; 0: not even the first. */
static exit_code largest_batch(const settings *s, ck_collective *collective, ck_backend *backend,
                               const int *which, int n, int *size, problems *list) {
    int fit = 0, too_many = n + 1;
    bool yes = false;
    exit_code code = EXIT_OK;
    for (int tried = n; too_many - fit > 1 && code == EXIT_OK; tried = fit + (too_many - fit) / 2) {
        code = fits(s, collective, backend, which, tried, &yes, list);
        if (yes)
            fit = tried;
        else
            too_many = tried;
    }
    *size = fit;
    return code;
}

exit_code batches_divide(const settings *s, ck_collective *collective, const int *which, int n, int most,
                         int *first, int *batches, problems *list) {
    ck_backend *backend = NULL;
    int threads = run_threads(s, ck_local_process(collective), ck_local_processes(collective));
    exit_code code = processes_agree(collective, kernel_open(s->backend, threads, &backend, list), list);
    *first = *batches = 0;
    for (int at = 0, size = 0; at < n && code == EXIT_OK; at += size) {
        code = largest_batch(s, collective, backend, which + at, n - at < most ? n - at : most, &size, list);
        if (code == EXIT_OK && size == 0) code = refuse_population(s, collective, backend, which[at], list);
        if (at == 0) *first = size;
        ++*batches;
    }
    ck_close(backend);
    return code;
}

/* ---- What is next: process 0 ---- */

/* Lists the populations of a part in `which`, in the order of the part. */
static void take_part(sweep *w, int part) {
    const found_parts *found = &w->found;
    for (int j = 0; j < found->parts[part].settings->n_populations; j++)
        for (int i = 0; i < w->settings->n_populations; i++)
            if (found->sources[i].part == part && found->sources[i].population == j)
                w->which[w->next.n++] = i;
}

static void count_populations(sweep *w) {
    const found_parts *found = &w->found;
    for (int i = 0; i < w->settings->n_populations; i++) {
        merge_source at = found->sources[i];
        if (at.part < 0) w->which[w->next.n + w->next.missing++] = i;
        if (at.part < 0 || !found->parts[at.part].complete) continue;
        bool failed = found->parts[at.part].states[at.population].diverged > 0;
        w->next.failed += failed;
        w->next.done += !failed;
    }
}

static int first_unfinished(sweep *w) {
    const found_parts *found = &w->found;
    int unfinished = -1;
    for (int i = found->n_parts - 1; i >= 0; i--) {
        w->next.begun += found->parts[i].number >= 0;
        w->next.complete += found->parts[i].number >= 0 && found->parts[i].complete;
        if (!found->parts[i].complete) unfinished = i;
    }
    return unfinished;
}

static void decide(sweep *w) {
    const found_parts *found = &w->found;
    bool own = found->n_parts > 0 && found->parts[0].number < 0,
         as_asked = own && found->n_parts == 1 && !found->parts[0].renamed;
    int unfinished = first_unfinished(w);
    w->next.has_result = own;
    w->next.nothing = found->n_parts == 0;
    if (unfinished >= 0) take_part(w, unfinished);
    count_populations(w);
    if (unfinished == 0 && own)
        w->next.kind = as_asked ? NEXT_AT_ONCE : NEXT_FINISH_OLD;
    else if (unfinished >= 0)
        w->next.kind = NEXT_FINISH;
    else if (w->next.missing > 0)
        w->next.kind = w->next.nothing && !found->batches && !w->too_large ? NEXT_AT_ONCE : NEXT_NEW;
    else
        w->next.kind = as_asked ? NEXT_AT_ONCE : NEXT_MERGE;
    w->next.number = unfinished >= 0 ? found->parts[unfinished].number : found->next_number;
}

static exit_code find_next(sweep *w, problems *list) {
    exit_code code = EXIT_OK;
    w->next = (next_step){0};
    if (w->first) {
        found_parts_free(&w->found);
        code = batches_find(w->settings, w->folder, w->options->retry_failed, &w->found, list);
        if (code == EXIT_OK) decide(w);
    }
    code = processes_agree(w->collective, code, list);
    if (code != EXIT_OK || ck_processes(w->collective) == 1) return code;
    ck_status status = ck_collective_broadcast(w->collective, &w->next, sizeof w->next);
    size_t bytes = (size_t)w->settings->n_populations * sizeof *w->which;
    THEN(status, ck_collective_broadcast(w->collective, w->which, bytes));
    return processes_problem(w->collective, status, list);
}

/* ---- Running ---- */

enum { NAMES_BYTES = 256 };

/* How many populations from the i-th on have the name of the i-th. They are the seeds of one entry. */
static int count_seeds(const sweep *w, int i) {
    const population_settings *all = w->settings->populations;
    int n = 1;
    while (i + n < w->next.n && strcmp(all[w->which[i + n]].name, all[w->which[i]].name) == 0) n++;
    return n;
}

/* "a, b (3 seeds), c and 5 more" */
static void name_populations(const sweep *w, char out[NAMES_BYTES]) {
    size_t used = 0;
    for (int i = 0, seeds = 0; i < w->next.n; i += seeds) {
        const char *name = w->settings->populations[w->which[i]].name;
        if (used + strlen(name) + 48 > NAMES_BYTES) {
            snprintf(out + used, NAMES_BYTES - used, " and %d more", w->next.n - i);
            return;
        }
        seeds = count_seeds(w, i);
        used += (size_t)snprintf(out + used, NAMES_BYTES - used, "%s%s", i > 0 ? ", " : "", name);
        if (seeds > 1) used += (size_t)snprintf(out + used, NAMES_BYTES - used, " (%d seeds)", seeds);
    }
}

/* Runs the populations of this step. A run in which populations diverged has an exit code of its own, but it
 * is complete: it has reported them, and the other batches go on. */
static exit_code run_some(sweep *w, const char *path, const run_batch *batch, problems *list) {
    char summary[FOLDER_PATH_BYTES];
    bool too_large = false, complete = false;
    int before = problems_count(list);
    settings *some = settings_subset(w->settings, w->next.n, w->which);
    const run_options options = {
        .out = path, .resume = true, .quiet = w->options->quiet, .collective = w->collective};
    exit_code code = run_once(some, &options, batch, &too_large, list);
    settings_destroy(some);
    if (too_large && w->next.kind == NEXT_NEW && w->next.n > 1) {
        problems_drop(list, before);
        w->most = w->next.n / 2;
        return EXIT_OK;
    }
    if (code != EXIT_RUN) return code;
    (void)folder_join(summary, path, "summary.csv");
    if (w->first) complete = summary_is_there(summary);
    exit_code shared = outline_any(w->collective, &complete, list);
    w->diverged |= complete;
    return shared == EXIT_OK && complete ? EXIT_OK : code;
}

/* Creates and locks the result's folder, so that from here on no other run can write to it. */
static exit_code begin(sweep *w, problems *list) {
    exit_code code = EXIT_OK;
    if (w->first && !w->lock.path) {
        code = folder_create(w->folder, list);
        THEN(code, lock_take(w->folder, &w->lock, list));
        THEN(code, batches_begin(w->settings, w->folder, w->next.has_result, list));
    }
    return processes_agree(w->collective, code, list);
}

/* Runs a batch. The missing populations are divided into batches anew each time, because there may be less
 * memory than before. So the number of batches in the message is an estimate. Nothing is written before all
 * populations are known to fit. */
static exit_code run_batch_of(sweep *w, problems *list) {
    char name[16], path[FOLDER_PATH_BYTES], label[64], names[NAMES_BYTES] = "";
    int first = 0, more = 0, n = w->settings->n_populations;
    exit_code code = batches_divide(w->settings, w->collective, w->which + w->next.n, w->next.missing,
                                    w->most, &first, &more, list);
    THEN(code, begin(w, list));
    if (code != EXIT_OK) return code;
    if (w->next.kind == NEXT_NEW) w->next.n = first;
    name_populations(w, names);
    snprintf(name, sizeof name, "%d", w->next.number);
    batches_path(w->folder, name, path);
    snprintf(label, sizeof label, "batch %d of %d", w->next.complete + 1, w->next.begun + more);
    progress_note(w->quiet, "%s: %s; of %d populations %d are done, %d failed", label, names, n, w->next.done,
                  w->next.failed);
    return run_some(w, path, &(run_batch){.result = w->folder, .label = label}, list);
}

static exit_code finish_old(sweep *w, problems *list) {
    progress_note(w->quiet, "%s is not complete: its own populations are run first", w->folder);
    return run_some(w, w->folder, &(run_batch){0}, list);
}

/* ---- The end ---- */

static void list_failed(const sweep *w) {
    const found_parts *found = &w->found;
    for (int i = 0; found->sources && !w->options->label && i < w->settings->n_populations; i++) {
        merge_source at = found->sources[i];
        int round = at.part < 0 ? 0 : found->parts[at.part].states[at.population].diverged;
        const population_settings *p = &w->settings->populations[i];
        if (round > 0)
            progress_note(
                w->quiet,
                "population '%s' (seed %llu) diverged in round %d; --resume --retry-failed runs what "
                "diverged again",
                p->name, (unsigned long long)p->seed, round);
    }
}

static exit_code merge(sweep *w, problems *list) {
    result_folder result = {0};
    summary_row *rows = calloc((size_t)w->settings->n_populations, sizeof *rows);
    exit_code code =
        rows ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the summary of the result");
    THEN(code, batches_merge(w->settings, w->folder, &w->found, rows, list));
    if (code == EXIT_OK) list_failed(w);
    memcpy(result.path, w->folder, sizeof result.path);
    if (code == EXIT_OK && !w->quiet && !w->options->label) {
        report_table(rows, w->settings->n_populations);
        report_files(&result);
    }
    free(rows);
    return code;
}

static exit_code take_step(sweep *w, problems *list) {
    exit_code code = EXIT_OK;
    switch ((next_kind)w->next.kind) {
    case NEXT_FINISH_OLD:
        return THEN(code, finish_old(w, list));
    case NEXT_FINISH:
    case NEXT_NEW:
        return THEN(code, run_batch_of(w, list));
    case NEXT_MERGE:
        code = begin(w, list);
        if (w->first) THEN(code, merge(w, list));
        return processes_agree(w->collective, code, list);
    case NEXT_AT_ONCE:
        break;
    }
    return code;
}

static exit_code run_batches(sweep *w, problems *list) {
    exit_code code = EXIT_OK;
    bool merged = false;
    while (code == EXIT_OK && !merged && w->next.kind != NEXT_AT_ONCE) {
        code = take_step(w, list);
        merged = w->next.kind == NEXT_MERGE;
        if (!merged) THEN(code, find_next(w, list));
    }
    return code == EXIT_OK && w->diverged ? EXIT_RUN : code;
}

/* Runs all populations at once. If they do not fit into memory, and none was computed before, batches. */
static exit_code run_at_once(sweep *w, problems *list) {
    int before = problems_count(list);
    bool computed = !w->next.nothing;
    const run_batch all = {.label = w->options->label};
    exit_code code = run_once(w->settings, w->options, &all, &w->too_large, list);
    if (code == EXIT_OK && w->first) list_failed(w);
    if (!w->too_large || computed || w->settings->n_populations == 1) return code;
    problems_drop(list, before);
    code = find_next(w, list);
    return THEN(code, run_batches(w, list));
}

/* Finds the folder of the result. Process 0 chooses it, and tells the others. */
static exit_code find_folder(sweep *w, problems *list) {
    result_folder folder = {0};
    exit_code code = w->first ? result_find(w->settings, w->options, &folder, list) : EXIT_OK;
    code = processes_agree(w->collective, code, list);
    memcpy(w->folder, folder.path, sizeof w->folder);
    if (code != EXIT_OK || ck_processes(w->collective) == 1) return code;
    return processes_problem(w->collective,
                             ck_collective_broadcast(w->collective, w->folder, sizeof w->folder), list);
}

exit_code run_execute(const settings *s, const run_options *options, problems *list) {
    sweep w = {.settings = s,
               .options = options,
               .collective = options->collective ? options->collective : ck_collective_local(),
               .next = {.kind = NEXT_AT_ONCE, .nothing = true},
               .most = INT_MAX};
    w.first = ck_process(w.collective) == 0;
    w.quiet = options->quiet || !w.first;
    w.which = calloc((size_t)s->n_populations, sizeof *w.which);
    exit_code code = processes_agree(
        w.collective, w.which ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory"), list);
    THEN(code, find_folder(&w, list));
    if (options->resume) THEN(code, find_next(&w, list));
    if (code == EXIT_OK) code = w.next.kind == NEXT_AT_ONCE ? run_at_once(&w, list) : run_batches(&w, list);
    lock_release(&w.lock);
    found_parts_free(&w.found);
    free(w.which);
    return THEN(code, problems_code(list));
}
