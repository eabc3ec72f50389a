/* pFedMoE, as CoMiGS adapted it to LoRA experts and token-level routing: experts and router learn together from training batches,
 * in one AdamW step and on one cosine; the generalist and the attention LoRA are averaged.
 *
 *   (theta^G, theta_i^S, phi_i) <- AdamW(.; L(train_i))  theta^G <- (1/N) sum_i theta_i^G */
#include "methods/all.h"

static sharing shares(int generalists, int specialists) {
    (void)generalists, (void)specialists;
    return (sharing){.generalists = true, .attention = true};
}

const method method_pfedmoe = {
    .name = "pfedmoe",
    .summary = "one shared and one private expert; the router learns with them from training text",
    .source = "Yi et al., arXiv 2402.01350, as adapted by Fan et al., ICML 2025 (arXiv 2409.13931)",
    .default_generalists = 1,
    .default_specialists = 1,
    .gates = CK_GATES_TOP_K,
    .router = ROUTER_WITH_EXPERTS,
    .weights = WEIGHTS_UNIFORM,
    .shares = shares,
};
