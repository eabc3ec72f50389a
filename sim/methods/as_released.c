#include "methods/as_released.h"

#include <math.h>

int released_two_levels(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]) {
    schedule_query any_device = *q;
    any_device.routed = true;
    int n = schedule_two_levels(&any_device, entries);
    for (int i = 0; i < n; i++) entries[i].leaves = CK_LEARN_EXPERTS | CK_LEARN_ROUTER;
    return n;
}

schedule_list released_schedule(const method *m, bool as_released) {
    return as_released && m->released ? m->released : m->schedule;
}

bool released_start_is_shared(const method *m, bool as_released, int e) {
    return as_released && (m->gates == CK_GATES_MEAN || e == 0);
}

double released_balance(bool as_released, double importance, int generalists, int specialists, int e) {
    bool generalist = e < generalists;
    if (as_released) {
        generalist = e == 0;
        specialists += generalists - 1;
        generalists = 1;
    }
    if (generalists == 0 || specialists == 0) return 1.0;
    double experts = generalists + specialists;
    return generalist ? generalists / (importance * experts) : specialists / ((1.0 - importance) * experts);
}

double released_perplexity(bool as_released, double loss) {
    return as_released ? pow(2.71828, loss) : exp(loss);
}
