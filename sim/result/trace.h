/* trace.h - what a run leaves behind: trace.h5 (readable while the run goes on), checkpoint.h5, summary.csv.
 *
 * trace.h5 (HDF5 1.10, SWMR; fixed-length types only; every dataset carries `units`):
 *   root attributes   schema_version, cohort_version, git_revision, config (resolved YAML), base (its
 *                     family and sizes), backend, hardware, seed, created_utc
 *   /populations      one row each: name, method, seed, devices; generalists, specialists, rank,
 *                     tokens_per_device (most of any device), ..., gates: top_k (of a router) or mean,
 *                     first_source, point (a hash of what determines its numbers),
 *                     revision (of the program that computed it)
 *   /sources          [source] names of the sources of all corpora; a population's begin at its first_source
 *   /devices          one row each: population, index, source (of its training text; -1: several), experts
 *                     (generalists first, then specialists), generalists, specialists, rank,
 *                     train/valid/test tokens, entropy (nats/token, NaN if unknown)
 *   /mixture          [device, source] tokens of each source of its population's corpus in its training text
 *   /rounds           [row] round of each row of the tables below; written last, so its length is the number
 *                     of complete rows
 *   /loss/train       [row, device] nats per token, mean over the round's expert steps
 *   /loss/valid       [row, device] after the round's last local step, on fixed windows
 *   /loss/test        [row, device] likewise, before aggregation; NaN where the round was not evaluated
 *   /loss/test_after  [row, device] after aggregation
 *   /routing/gate_mean, /routing/token_share
 *                     [row, device, layer, expert] over the fixed test windows; NaN where there is no such
 *                     expert
 *   /routing/tokens/ids, /routing/tokens/gates
 *                     [row, window, token] and [row, window, token, layer, expert] of the recorded windows
 *   /routing/tokens/devices
 *                     [window] whose window it is
 *   /sampling/windows/train, /sampling/windows/valid
 *                     [row, device, step, index] where each window begins that an expert step or a router
 *                     step of this round drew, in the device's text of that part; -1: there is none; only
 *                     with trace.sampling_windows
 *   /traffic/bytes_up, /traffic/bytes_down
 *                     [row, device] bytes of this round
 *   /fairness/test_worst_decile, /fairness/test_gini
 *                     [row, population] of the test losses before aggregation (numbers/fairness.c)
 *   /time/train, /time/evaluate, /time/aggregate, /time/total
 *                     [row] seconds
 *
 * A row is a round. numbers/metrics.c says which tables have a value for every round, and which only for
 * rounds that are evaluated; elsewhere there is NaN, or -1 in tables of whole numbers. In tables of records
 * `units` is a list with a unit for each column. Tables that grow also carry `axes`. */
#ifndef COHORT_TRACE_H
#define COHORT_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "numbers/metrics.h"
#include "population/device_state.h"
#include "settings/per_device.h"
#include "settings/settings.h"
#include "support/problems.h"

typedef struct {
    const char *name, *method;
    uint64_t seed;
    /* experts, rank and tokens: the largest of any device; trace_device has those of each device */
    int devices, generalists, specialists, rank, top_k;
    int64_t tokens_per_device;      /* training tokens, as configured */
    const char *split, *evaluation; /* data.split, data.evaluation */
    bool routed;      /* a router weighs its experts, where a device has several; else their mean is taken */
    int first_source; /* its devices' source 0 in header.source_names */
    /* settings_point_hash(), and the program's revision; NULL: unknown */
    const char *point, *revision;
} trace_population;

typedef struct {
    int population, index, source, experts, generalists, specialists;
    int rank; /* of each expert */
    int64_t train_tokens, valid_tokens, test_tokens;
    int64_t parameters_shared, parameters_private; /* adapter parameters by owner */
    double entropy;                                /* nats per token, NaN if unknown */
    int held_out; /* 1: it joins late, and no mean over its population counts it; else 0 */
} trace_device;

typedef struct {
    const char *git_revision, *config_yaml, *base, *backend, *hardware, *created_utc;
    uint64_t seed;
    int n_populations, n_devices, n_layers, max_experts, sequence;
    const trace_population *populations;
    const struct population_record *records; /* NULL, or instead of populations: out of other traces */
    const trace_device *devices;
    int n_sources;
    const char *const *source_names; /* [n_sources] */
    int most_sources;                /* of any corpus */
    const int64_t *mixtures;         /* [n_devices, most_sources] */
    int routing_windows;             /* windows recorded at each evaluation */
    const int *routing_devices;      /* [routing_windows] whose window it is */
    sampling_shape sampling;
} trace_header;

/* A trace that is being written, by a thread of its own. trace_append() copies a row and returns at once.
 * Rows are flushed in order. */
typedef struct trace trace;
exit_code trace_create(const char *path, const trace_header *header, trace **out, problems *list);
/* Continues after `rounds` rounds: reads the old file (RDONLY | SWMR_READ), copies its rows up to there into
 * a new file, renames. */
exit_code trace_resume(const char *path, const trace_header *header, int rounds, trace **out, problems *list);
/* A round; what is only measured where a round is evaluated is left out where it was not. Also reports an
 * earlier row's failure (full disk ...), once: later calls return its code without another message. After a
 * failure nothing more is written or closed; rounds must increase.
 */
exit_code trace_append(trace *t, const metric_row *row, problems *list);
/* Waits until all rows so far are on the disk: call before replacing the checkpoint. */
exit_code trace_flush(trace *t, problems *list);
/* Writes what is queued, closes, frees; NULL is fine. */
exit_code trace_close(trace *t, problems *list);
/* Called with a row that has a round's metrics of devices. */
typedef void (*trace_row_reader)(void *context, const metric_row *row);
/* The metrics of devices, round by round up to `last`, out of a trace that nobody writes: each is put into
 * `row`, which the reader is then called with. */
exit_code trace_read_devices(const char *path, int last, metric_row *row, trace_row_reader reader,
                             void *context, problems *list);

/* Arrays of packs that are nowhere in the host's memory in whole come and go in pieces, in the order of the
 * arrays and of their values. */
typedef enum { PACKS_PARAMETERS, PACKS_MOMENT1, PACKS_MOMENT2, PACKS_CARRIED, PACKS_ARRAYS } packs_array;
typedef struct {
    void *context;
    /* The piece of an array that begins at value `first`: its length, and where it is (to be written) or has
     * room (to be read), both good until the next call. */
    exit_code (*next)(void *context, packs_array which, int64_t first, int64_t *count, float **values,
                      problems *list);
    /* That piece has been read; NULL: nobody needs to know. */
    exit_code (*filled)(void *context, problems *list);
} checkpoint_pieces;

/* checkpoint.h5: everything a run needs to go on, replaced atomically (write, fsync, rename). */
typedef struct {
    char config_hash[65];
    int round;           /* rounds completed */
    int64_t expert_step; /* expert steps each device has taken, over all rounds */
    int64_t router_step;
    const checkpoint_pieces *pieces; /* NULL: the next four arrays are whole */
    float *piece;                    /* room for a piece; of whoever gives them */
    int64_t n_parameters;
    float *parameters, *moment1, *moment2; /* [n_parameters] packed adapters of all devices, host */
    int64_t n_carried;
    /* [n_carried] gradients that wait for a later step; in the file only where there are any */
    float *carried;
    int n_devices;
    void *state[DEVICE_STATES]; /* [devices] of each row of population/device_state.h */
    int64_t n_unfinished;
    /* [n_unfinished] of a run that was interrupted within round + 1: what it has for that row so far; else
     * none */
    uint8_t *unfinished;
    int64_t n_variants;
    /* [n_variants] bytes of population/variants.h; in the file only where a variant has a new version */
    uint8_t *variants;
} checkpoint;
/* Allocates the arrays of states, of zeros, and frees them: false without memory. */
bool checkpoint_states_create(checkpoint *c);
void checkpoint_states_free(checkpoint *c);
static inline int64_t *checkpoint_counts(const checkpoint *c, device_state_id id) {
    return c->state[id];
}
static inline uint8_t *checkpoint_stopped(const checkpoint *c) {
    return c->state[STATE_STOPPED];
}
exit_code checkpoint_write(const char *path, const checkpoint *c, problems *list);
/* The caller has set n_parameters, n_carried, n_devices and the arrays to sizes it expects, and config_hash
 * to the run's (empty: any); a file that differs, or whose content does not match its hash, is refused (the
 * arrays may have been overwritten by then). `unfinished` and `variants` are allocated here, and the
 * caller's to free. */
exit_code checkpoint_read(const char *path, checkpoint *c, problems *list);
/* The dataset of an array of packs. */
const char *checkpoint_packs_path(packs_array which);
/* Only config_hash and round. */
exit_code checkpoint_peek(const char *path, checkpoint *c, problems *list);

/* summary.csv, written last, by rename. Its columns are those of summary.c, and of the tables of metrics and
 * of device states. */
typedef struct {
    const char *population, *method;
    int devices;
    uint64_t seed;
    per_device generalists, specialists, rank, tokens_per_device; /* lists borrowed */
    const char *split, *evaluation;
    double entropy_mean; /* nats per token; NaN: empty cell */
    /* of devices in the average: "uniform", "tokens"; empty or NULL: nothing is averaged */
    const char *weights;
    double of_metric[METRIC_COUNT][METRIC_COLUMNS]; /* of its columns; NaN: empty cell */
    int64_t of_state[DEVICE_STATES];                /* total over devices; of those that have a column */
    int held_out;                                   /* devices, which no number of devices above is about */
    /* mean test perplexity of these as they join, before their first step, and after the last round */
    double held_out_first, held_out_last;
    /* Each axis of the run that has no column yet becomes one, with the population's value. NULL: none. */
    const settings *run;
    const population_settings *own;
    /* The evaluated round of the lowest validation loss, and its test perplexity; 0: empty cells */
    int best_round;
    double test_ppl_best;
    /* The first evaluated round whose mean test loss is at most the target, and the bytes up and down of all
     * rounds up to and with it; 0: empty cells */
    int rounds_to_target;
    int64_t bytes_to_target;
} summary_row;
exit_code summary_write(const char *path, const summary_row *rows, int n, problems *list);

/* What a column of summary.csv is. A name that is no column of this program is an axis, so a setting. */
typedef enum {
    SUMMARY_SETTING,
    SUMMARY_MEASURED,  /* less is better */
    SUMMARY_DESCRIBING /* measured, and neither good nor bad */
} summary_role;
typedef struct {
    summary_role role;
    const char *unit; /* of what is measured: "bytes"; "": a plain number */
} summary_column;
summary_column summary_column_of(const char *name);

/* A file with something in it: an empty one is what a full disk or a failed copy leaves, and says nothing
 * about the run. */
bool summary_is_there(const char *path);

/* In a result's folder: what a base that was loaded looks like, as its config.json. */
#define BASE_NAME "base.json"
/* In a result's folder: runs of some of its populations (run/batch_folders.h). Each is a result in a folder
 * of its own. */
#define BATCHES_NAME "batches"

/* Of a population as its trace has it. */
typedef struct {
    char point[33]; /* settings_point_hash() when it was computed; empty: the trace is older */
    int diverged;   /* round in which it diverged, 0: it did not */
} trace_state;
/* states [n]: as many as the trace in `folder` has populations, or it is refused. */
exit_code trace_read_states(const char *folder, int n, trace_state *states, problems *list);

/* FOLDER/trace.h5 into path; EXIT_INPUT if there is no such folder, or no trace in it that can be read. */
exit_code trace_find(const char *folder, char *path, size_t path_bytes, problems *list);
/* Whether a trace can be opened now: EXIT_ENVIRONMENT while another program has it open for writing (all that
 * follows says so, too). */
exit_code trace_look(const char *path, problems *list);

/* `cohort info RESULT`: prints what a result holds. A running result (SWMR) can be read too. */
exit_code trace_print_info(const char *folder, problems *list);

#endif
