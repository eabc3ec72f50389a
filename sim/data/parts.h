/* parts.h - names of the splits, as in train_0.bin. */
#ifndef COHORT_PARTS_H
#define COHORT_PARTS_H

#include "data/data.h"

static inline const char *part_name(int part) {
    static const char *const names[DATA_SPLITS] = {"train", "valid", "test"};
    return names[part];
}

#endif
