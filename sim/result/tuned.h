/* tuned.h - tuning.csv of a result: what was tried before the run, and chosen by validation loss.
 *
 *     method,train.learning_rate,rounds,valid_loss,chosen
 *     fedavg,0.001,5,2.13,0
 *     fedavg,0.002,5,1.83,1
 *
 * A row for each trial; the first column is population where each name has its own choice; a column for each
 * key that was tuned. valid_loss: mean over devices, nats per token, after the last round of the trial; empty
 * where it diverged. The trials themselves are the result in the folder "tuning". */
#ifndef COHORT_TUNED_H
#define COHORT_TUNED_H

#include <stdbool.h>

#include "result/csv.h"
#include "support/problems.h"

#define TUNING_NAME  "tuning"
#define TUNING_TABLE "tuning.csv"
/* Columns beside those of keys: one before them, and three behind. */
enum { TUNED_BEFORE = 1, TUNED_BEHIND = 3 };

/* The table of the result in `folder`; without one all of *out is 0. EXIT_INPUT where it is no such table. To
 * be freed by csv_free() whatever the code. */
exit_code tuned_read(const char *folder, csv_file *out, problems *list);
int tuned_keys(const csv_file *table);
/* The cell of a column counted from the table's end: 1 is chosen, 2 valid_loss, 3 rounds. */
const char *tuned_from_end(const csv_file *table, int row, int column);
bool tuned_is_chosen(const csv_file *table, int row);
/* Of a chosen row: "fedavg: train.learning_rate 0.002 by validation loss 1.83 of 4 tried"; malloc'd, NULL
 * without memory. */
char *tuned_text(const csv_file *table, int row);

#endif
