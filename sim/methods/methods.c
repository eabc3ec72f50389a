/* The list of methods, in the order that `cohort help methods` shows. */
#include <string.h>

#include "methods/all.h"

static const method *const METHODS[] = {&method_local, &method_fedavg, &method_centralized, &method_pfedmoe, &method_comigs};

const method *const *method_list(int *count) {
    *count = (int)(sizeof METHODS / sizeof *METHODS);
    return METHODS;
}

const char *aggregate_weights_text(aggregate_weights weights) {
    static const char *const texts[] = {[WEIGHTS_OF_METHOD] = "", [WEIGHTS_UNIFORM] = "uniform", [WEIGHTS_TOKENS] = "tokens"};
    return texts[weights];
}

const method *method_find(const char *name) {
    int count;
    const method *const *list = method_list(&count);
    for (int i = 0; i < count; i++)
        if (strcmp(list[i]->name, name) == 0) return list[i];
    return NULL;
}
