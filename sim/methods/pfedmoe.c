/* pFedMoE, as CoMiGS adapted it to LoRA experts and token-level routing: experts and router learn together
 * from training batches, in one AdamW step and on one cosine; the generalist and the LoRAs of no expert are
 * averaged.
 *
 *   (theta^G, theta_i^S, phi_i) <- AdamW(.; L(train_i))  theta^G <- (1/N) sum_i theta_i^G */
#include "methods/method.h"

static bool shares(const ck_part *part, int generalists) {
    return !ck_is_of_router(part->factor) && part->expert < generalists;
}

static int schedule(const schedule_query *q, schedule_entry entries[SCHEDULE_MOST]) {
    entries[0] = schedule_train(q, q->routed ? CK_LEARN_EXPERTS | CK_LEARN_ROUTER : CK_LEARN_EXPERTS);
    return 1;
}

const method method_pfedmoe = {
    .name = "pfedmoe",
    .summary = "one shared and one private expert; the router learns with them from training text",
    .source = "Yi et al., arXiv 2402.01350, as adapted by Fan et al., ICML 2025 (arXiv 2409.13931)",
    .default_generalists = 1,
    .default_specialists = 1,
    .gates = CK_GATES_TOP_K,
    .schedule = schedule,
    .weights = WEIGHTS_UNIFORM,
    .shares = shares,
};
