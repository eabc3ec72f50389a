#include "schedule/schedule.h"

#include <math.h>

double cosine_rate(double first, double last, int64_t step, int64_t steps) {
    return last + 0.5 * (first - last) * (1.0 + cos(M_PI * (double)step / (double)steps));
}

schedule_entry schedule_train(const schedule_query *q, uint32_t learn) {
    const train_settings *t = q->train;
    double rate = cosine_rate(t->learning_rate, t->learning_rate * t->final_learning_rate_ratio,
                              q->local_step, q->local_steps);
    return (schedule_entry){.learn = learn,
                            .leaves = learn,
                            .text = DATA_TRAIN,
                            .batch = t->batch * q->pooled,
                            .steps = 1,
                            .learning_rate = rate,
                            .weight_decay = t->weight_decay,
                            .router_learning_rate = rate,
                            .router_weight_decay = t->weight_decay};
}

bool schedule_burst_is_due(const schedule_query *q) {
    return (q->taken + 1) % q->train->router.every == 0;
}

schedule_entry schedule_burst(const schedule_query *q) {
    const train_settings *t = q->train;
    return (schedule_entry){.learn = CK_LEARN_ROUTER,
                            .leaves = CK_LEARN_ROUTER,
                            .text = DATA_VALID,
                            .batch = (t->router.batch > 0 ? t->router.batch : t->batch) * q->pooled,
                            .steps = t->router.steps,
                            .router_learning_rate =
                                t->router.learning_rate > 0.0 ? t->router.learning_rate : t->learning_rate,
                            .router_weight_decay = t->router.weight_decay,
                            .own_router_count = true};
}

int schedule_experts(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]) {
    entries[0] = schedule_train(q, CK_LEARN_EXPERTS);
    return 1;
}

int schedule_two_levels(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]) {
    entries[0] = schedule_train(q, CK_LEARN_EXPERTS);
    if (!q->routed || !schedule_burst_is_due(q)) return 1;
    entries[1] = schedule_burst(q);
    return 2;
}

static void count_local_step(schedule_list list, const schedule_query *q, schedule_totals *totals,
                             int in_round[DATA_SPLITS]) {
    schedule_entry entries[SCHEDULE_MOST];
    int n = list(q, entries);
    for (int i = 0; i < n; i++) {
        const schedule_entry *e = &entries[i];
        totals->steps[e->text] += e->steps;
        in_round[e->text] += e->steps;
        if (e->batch > totals->batch[e->text]) totals->batch[e->text] = e->batch;
        totals->carries = totals->carries || (e->leaves & ~e->learn) != 0;
    }
}

schedule_totals schedule_count(schedule_list list, const schedule_query *q, int first, int rounds,
                               int local_steps) {
    schedule_totals totals = {0};
    schedule_query at = *q;
    at.local_step = (int64_t)(first - 1) * local_steps;
    at.taken = 0;
    for (int round = first; round <= rounds; round++) {
        int in_round[DATA_SPLITS] = {0};
        for (int i = 0; i < local_steps; i++, at.local_step++, at.taken++)
            count_local_step(list, &at, &totals, in_round);
        for (int part = 0; part < DATA_SPLITS; part++)
            if (in_round[part] > totals.most_steps[part]) totals.most_steps[part] = in_round[part];
    }
    return totals;
}

int schedule_largest_batch(const schedule_totals *totals) {
    int most = 0;
    for (int part = 0; part < DATA_SPLITS; part++)
        if (totals->batch[part] > most) most = totals->batch[part];
    return most;
}
