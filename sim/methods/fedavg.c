/* FedAvg on LoRA factors: all experts and the attention LoRA are averaged after every round, A and B separately; experts are mixed
 * by their mean.
 *
 *   A <- (1/N) sum_i A_i      B <- (1/N) sum_i B_i       y = (1/E) sum_e MLP_e(x) */
#include "methods/all.h"

static sharing shares(int generalists, int specialists) {
    (void)generalists, (void)specialists;
    return (sharing){.generalists = true, .specialists = true, .attention = true};
}

const method method_fedavg = {
    .name = "fedavg",
    .summary = "all experts and the attention LoRA averaged; experts mixed by their mean",
    .source = "McMahan et al., AISTATS 2017, on LoRA; baseline of Fan et al., ICML 2025 (arXiv 2409.13931)",
    .default_generalists = 2,
    .default_specialists = 0,
    .gates = CK_GATES_MEAN,
    .router = ROUTER_ABSENT,
    .shares = shares,
};
