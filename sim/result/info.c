/* info.c - `cohort info RESULT`: where a result comes from, how far it got, and the last losses of every
 * population. Reads a finished result as well as one that a run is still writing. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "result/bank.h"
#include "result/trace_tables.h"
#include "result/tuned.h"

typedef struct {
    hid_t file;
    int n_populations, n_devices;
    population_record *populations; /* owned */
    trace_device *devices;          /* owned */
    int32_t *rounds;                /* owned */
    int *diverged;                  /* [n_populations] round in which it diverged, 0: it did not; owned */
    int64_t rows;
    /* of each metric that is shown: [n_devices] of the last row that has any, owned */
    double *values[METRIC_COUNT];
    int round[METRIC_COUNT]; /* of that row, 0: none */
} result;

static void result_close(result *r) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) free(r->values[id]);
    free(r->populations);
    free(r->devices);
    free(r->rounds);
    free(r->diverged);
    if (r->file >= 0) H5Fclose(r->file);
}

static bool any_number(const double *values, int n) {
    for (int i = 0; i < n; i++)
        if (!isnan(values[i])) return true;
    return false;
}

static int read_last(result *r, metric_id id, h5_error *error) {
    const metric_shape shape = {.devices = r->n_devices};
    int status = 0;
    r->values[id] = calloc((size_t)r->n_devices + 1, sizeof(double));
    hid_t dataset = H5Dopen2(r->file, metrics[id].path, H5P_DEFAULT);
    if (dataset < 0 || !r->values[id]) status = h5_failed(error, "cannot read %s", metrics[id].path);
    for (int64_t row = r->rows - 1; row >= 0 && !r->round[id] && !status; row--) {
        if (table_read_rows(dataset, id, &shape, row, 1, r->values[id]))
            status = h5_failed(error, "cannot read %s", metrics[id].path);
        else if (any_number(r->values[id], r->n_devices))
            r->round[id] = r->rounds[row];
    }
    if (dataset >= 0) H5Dclose(dataset);
    return status;
}

static int result_read(result *r, const char *path, h5_error *error) {
    r->file = h5_open_file(path, true, error);
    if (r->file < 0) return -1;
    r->populations = table_read_records(r->file, "/populations", population_type(error),
                                        sizeof *r->populations, &r->n_populations, error);
    if (!r->populations) return -1;
    r->devices = table_read_devices(r->file, r->populations, r->n_populations, &r->n_devices, error);
    if (!r->devices || !(r->rounds = trace_read_rounds(r->file, &r->rows, error))) return -1;
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metrics[id].info && read_last(r, id, error)) return -1;
    r->diverged = calloc((size_t)r->n_populations + 1, sizeof *r->diverged);
    if (!r->diverged) return h5_failed(error, "not enough memory for %d populations", r->n_populations);
    return trace_find_diverged(r->file, r->devices, r->n_devices, r->rounds, r->rows, r->n_populations,
                               r->diverged, error);
}

/* ---- printing ---- */

static void print_attributes(const result *r) {
    static const char *const names[] = {"created_utc", "cohort_version", "git_revision",
                                        "base",        "backend",        "hardware"};
    h5_error error = {0};
    uint64_t seed = 0;
    int32_t schema = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = h5_read_text(r->file, names[i], &error);
        printf("%-15s %s\n", names[i], text ? text : "(missing)");
        free(text);
    }
    if (!h5_read_scalar(r->file, "schema_version", H5T_NATIVE_INT32, &schema, &error))
        printf("%-15s %d\n", "schema_version", schema);
    if (!h5_read_scalar(r->file, "seed", H5T_NATIVE_UINT64, &seed, &error))
        printf("%-15s %" PRIu64 "\n", "seed", seed);
}

static void print_progress(const result *r, bool summary, bool batches) {
    printf("%-15s %d, %d devices\n", "populations", r->n_populations, r->n_devices);
    printf("%-15s %d", "rounds so far", r->rows ? r->rounds[r->rows - 1] : 0);
    if (r->round[METRIC_TEST_LOSS]) printf(", last evaluated after round %d", r->round[METRIC_TEST_LOSS]);
    printf("\n%-15s %s\n", "state",
           summary ? "finished"
                   : "no summary.csv: still running, or stopped (run it again with --resume to go on)");
    if (batches)
        printf("%-15s in the folder " BATCHES_NAME ": populations that will become part of this result\n",
               BATCHES_NAME);
}

/* Populations that other revisions computed than the last part of the result. */
static void print_revisions(const result *r) {
    h5_error error = {0};
    char *last = h5_read_text(r->file, "git_revision", &error);
    for (int p = 0; last && p < r->n_populations; p++) {
        const char *own = r->populations[p].revision;
        bool named = own[0] == '\0' || strcmp(own, last) == 0;
        int n = 0;
        for (int q = 0; q < r->n_populations && !named; q++) {
            bool same = strcmp(r->populations[q].revision, own) == 0;
            named = same && q < p;
            n += same;
        }
        if (!named) printf("%-15s %s: of %d population%s\n", "git_revision", own, n, n == 1 ? "" : "s");
    }
    free(last);
}

static void print_diverged(const result *r) {
    for (int p = 0; p < r->n_populations; p++)
        if (r->diverged[p] > 0)
            printf("%-15s %s, seed %" PRIu64 ", in round %d\n", "diverged", r->populations[p].name,
                   r->populations[p].seed, r->diverged[p]);
}

/* What was chosen before the run. */
static void print_tuned(const csv_file *table) {
    for (int row = 0; row < table->n_rows; row++) {
        if (!tuned_is_chosen(table, row)) continue;
        char *text = tuned_text(table, row);
        printf("%-15s %s\n", "tuned", text ? text : "(out of memory)");
        free(text);
    }
}

/* Mean over the population's devices that have a value, without those that join late; NaN if none has. */
static double mean_loss(const result *r, metric_id id, int population) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < r->n_devices; i++) {
        if (r->devices[i].population != population || r->devices[i].held_out || isnan(r->values[id][i]))
            continue;
        sum += r->values[id][i];
        n++;
    }
    return n ? sum / n : NAN;
}

static void bank_of(const result *r, int population, char experts[BANK_TEXT_BYTES],
                    char rank[SPAN_TEXT_BYTES]) {
    bank_span generalists = {0, 0}, specialists = {0, 0}, ranks = {0, 0};
    bool first = true;
    for (int i = 0; i < r->n_devices; i++) {
        const trace_device *d = &r->devices[i];
        if (d->population != population) continue;
        bank_count(&generalists, d->generalists, first);
        bank_count(&specialists, d->specialists, first);
        bank_count(&ranks, d->rank, first);
        first = false;
    }
    bank_text(experts, generalists, specialists);
    bank_span_text(rank, ranks);
}

static void print_losses(const result *r) {
    int width = (int)strlen("population");
    for (int p = 0; p < r->n_populations; p++) {
        int length = (int)strlen(r->populations[p].name);
        if (length > width) width = length;
    }
    printf("\nLast losses, nats per token, mean over devices (test: before aggregation, after: after it)\n");
    printf("%-*s  %-12s %20s %7s %7s %4s", width, "population", "method", "seed", "devices", "experts",
           "rank");
    for (metric_id id = 0; id < METRIC_COUNT; id++)
        if (metrics[id].info) printf(" %8s", metrics[id].info);
    printf("\n");
    for (int p = 0; p < r->n_populations; p++) {
        const population_record *population = &r->populations[p];
        char experts[BANK_TEXT_BYTES], rank[SPAN_TEXT_BYTES];
        bank_of(r, p, experts, rank);
        printf("%-*s  %-12s %20" PRIu64 " %7d %7s %4s", width, population->name, population->method,
               population->seed, population->devices, experts, rank);
        for (metric_id id = 0; id < METRIC_COUNT; id++) {
            if (!metrics[id].info) continue;
            double loss = r->round[id] ? mean_loss(r, id, p) : NAN;
            if (isnan(loss))
                printf(" %8s", "-");
            else
                printf(" %8.4f", loss);
        }
        printf("\n");
    }
}

exit_code trace_print_info(const char *folder, problems *list) {
    char path[4096], summary[4096], batches[4096];
    if (snprintf(summary, sizeof summary, "%s/summary.csv", folder) >= (int)sizeof summary)
        return problem(list, EXIT_INPUT, "%.80s...: the path is too long", folder);
    (void)snprintf(batches, sizeof batches, "%s/" BATCHES_NAME, folder); /* shorter than the summary */
    csv_file tuned = {0};
    exit_code code = trace_find(folder, path, sizeof path, list);
    THEN(code, tuned_read(folder, &tuned, list));
    if (code != EXIT_OK) {
        csv_free(&tuned);
        return code;
    }
    result r = {.file = -1};
    h5_error error = {0};
    h5_enter();
    int status = result_read(&r, path, &error);
    if (!status) {
        printf("%-15s %s\n", "result", folder);
        print_attributes(&r);
        print_revisions(&r);
        print_progress(&r, summary_is_there(summary), access(batches, F_OK) == 0);
        print_diverged(&r);
        print_tuned(&tuned);
        print_losses(&r);
    }
    result_close(&r);
    csv_free(&tuned);
    h5_leave();
    return status ? h5_problem(&error, path, "it is not a trace, or damaged", list) : EXIT_OK;
}
