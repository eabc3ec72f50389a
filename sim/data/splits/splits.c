#include "data/splits/splits.h"

#include "data/split.h"

#define X(name, what) extern const data_split split_##name;
SPLITS(X)
#undef X

#define X(name, what) _Static_assert(sizeof #name <= 32, #name " is too long");
SPLITS(X)
#undef X

static const struct {
    const char *name;
    const data_split *split;
} LIST[] = {
#define X(name, what) {#name, &split_##name},
    SPLITS(X)
#undef X
};

int split_count(void) {
    return (int)(sizeof LIST / sizeof *LIST);
}

const data_split *split_at(int index) {
    return LIST[index].split;
}

const data_split *split_of(const data_settings *d) {
    return LIST[d->split].split;
}

const data_split *split_of_part(const data_settings *d, data_part part) {
    return part != DATA_TRAIN && d->evaluation == OUT_OF_DISTRIBUTION ? &split_iid : split_of(d);
}

const char *split_name(int index) {
    return LIST[index].name;
}

const char *evaluation_name(data_evaluation evaluation) {
    return evaluation == OUT_OF_DISTRIBUTION ? "out_of_distribution" : "in_distribution";
}
