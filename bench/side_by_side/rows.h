/* rows.h - the lines of a side-by-side: a program at one thread setting, with a sample from each turn it took
 * part in. */
#ifndef COHORT_BENCH_ROWS_H
#define COHORT_BENCH_ROWS_H

#include <jansson.h>
#include <stdbool.h>

#include "measure/statistics.h"
#include "measure/usage.h"
#include "side_by_side/job.h"
#include "side_by_side/program.h"
#include "support/output_file.h"

enum {
    ROWS_SETTINGS = 4,
    ROWS_PEERS = 3,
    ROWS_MOST = 1 + ROWS_PEERS * ROWS_SETTINGS,
    ROWS_MOST_SAMPLES = 256
};

/* Largest distance of two losses, in nats per token, that float32 and another order of sums explain. */
static const double ROWS_TOLERANCE = 1e-4;

typedef enum { ROW_NOT_RUN, ROW_RIGHT, ROW_WRONG, ROW_FAILED } row_state;

typedef struct {
    const char *program;
    int torch_threads, blas_threads; /* of Cohort: OpenMP and BLAS */
    row_state state;                 /* WRONG: losses disagree; neither WRONG nor FAILED has a time */
    /* so slow in the first round that it cannot be this program's best setting */
    bool dropped;
    int samples;
    double rate[ROWS_MOST_SAMPLES];   /* tokens a second */
    double cohort[ROWS_MOST_SAMPLES]; /* Cohort's in the same turn */
    double start_bytes, peak_bytes;   /* largest of all samples */
    difference loss;                  /* from Cohort's, the largest of all samples */
    json_t *end;                      /* last line of the first sample: threads, version */
} row;

/* rows[0] is Cohort's; peer p at setting s is rows[1 + p * n_settings + s]. */
typedef struct {
    const job *job;
    int n_settings, n_rows, rounds;
    bool interrupted;
    load_average load; /* before the first program ran */
    settling rule;
    /* least distance, over devices, of the first losses of a program that is known to be wrong */
    double control;
    row rows[ROWS_MOST];
} rows;

/* Verifies and counts a run. */
void row_add(row *r, const program_result *result, const program_result *reference, const job *j,
             double cohort_rate);
/* The fastest setting of a peer; NULL if none is right. */
const row *rows_best(const rows *all, int peer);
/* Of two rates measured in one turn: above 1 where Cohort is faster. */
statistics rows_ratio(const row *r);
bool rows_settled(const rows *all, double elapsed_seconds);
/* Settings below this share of their program's best are not run again. */
void rows_drop_slow(rows *all, double share);
exit_code rows_report_wrong(const rows *all, problems *list);

void rows_print(const rows *all, const char *hardware);
exit_code rows_write_json(const rows *all, output_file *out, problems *list);

#endif
