/* The list of methods, in the order that `cohort help methods` shows. */
#include <string.h>

#include "methods/method.h"

#define METHODS(X) X(local) X(fedavg) X(fedprox) X(centralized) X(pfedmoe) X(comigs) X(fedsa)

#define X(name) extern const method method_##name;
METHODS(X)
#undef X

static const method *const LIST[] = {
#define X(name) &method_##name,
    METHODS(X)
#undef X
};

const method *const *method_list(int *count) {
    *count = (int)(sizeof LIST / sizeof *LIST);
    return LIST;
}

bool method_shares_all(const ck_part *part, int generalists) {
    (void)generalists;
    return !ck_is_of_router(part->factor);
}

const char *aggregate_weights_text(aggregate_weights weights) {
    static const char *const texts[] = {
        [WEIGHTS_OF_METHOD] = "", [WEIGHTS_UNIFORM] = "uniform", [WEIGHTS_TOKENS] = "tokens"};
    return texts[weights];
}

const method *method_find(const char *name) {
    int count;
    const method *const *list = method_list(&count);
    for (int i = 0; i < count; i++)
        if (strcmp(list[i]->name, name) == 0) return list[i];
    return NULL;
}
