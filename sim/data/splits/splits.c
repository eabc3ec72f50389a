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

const char *split_name(int index) {
    return LIST[index].name;
}
