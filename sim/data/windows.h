/* windows.h - window offsets from a file, in place of random ones (data.windows).
 *
 * CSV, one window a line, with this first line:
 *   device,part,step,index,offset
 * device: index within its population; part: train or valid (what routers learn from); step: expert step or
 * router step; index: the window within the step's batch; offset: of the window's first token in the device's
 * text of that part, or the number of an example there. Lines may come in any order, and blank ones say
 * nothing. */
#ifndef COHORT_WINDOWS_H
#define COHORT_WINDOWS_H

#include <stdbool.h>
#include <stdint.h>

#include "data/data.h"

typedef struct {
    data_part part;
    uint64_t step;
    int index;
    int64_t offset;
    int line; /* in the file, for messages */
} window_row;

typedef struct {
    window_row *rows; /* [count], ordered by part, step, index */
    int64_t count, room;
    bool wanted; /* else its rows are passed over */
} window_table;

struct given_windows {
    const char *path; /* borrowed */
    int devices;
    window_table *tables; /* [devices] */
};

void windows_free(window_table *t);
/* NULL: the file does not say. */
const window_row *windows_find(const window_table *t, data_part part, uint64_t step, int index);

#endif
