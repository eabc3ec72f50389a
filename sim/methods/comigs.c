/* CoMiGS: generalists are averaged, specialists and routers stay on the device, and the router learns from
 * validation text alone.
 *
 *   min over phi of sum_i L(valid_i; theta^G, theta_i^S, phi_i)  subject to
 *       (theta^G, theta^S) in argmin sum_i L(train_i; .)
 *   theta^G <- (1/N) sum_i theta_i^G after every round
 *
 * Solved by alternation: AdamW steps on the experts; every tau of them, s AdamW steps on the router. xGyS is
 * x generalists and y specialists per device. The LoRAs of no expert are shared as the generalists are; a
 * population of specialists only shares nothing. */
#include "methods/as_released.h"

static bool shares(const ck_part *part, int generalists) {
    return !ck_is_of_router(part->factor) && generalists > 0 && part->expert < generalists;
}

const method method_comigs = {
    .name = "comigs",
    .summary = "shared generalists, private specialists, a private router that learns from validation text",
    .source = "Fan, Messmer, Doikov, Jaggi, ICML 2025 (arXiv 2409.13931), algorithm 1",
    .default_generalists = 1,
    .default_specialists = 1,
    .gates = CK_GATES_TOP_K,
    .schedule = schedule_two_levels,
    .released = released_two_levels,
    .weights = WEIGHTS_UNIFORM,
    .shares = shares,
};
