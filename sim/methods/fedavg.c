/* FedAvg on LoRA factors: all experts and all other LoRAs are averaged after every round, A and B
 * separately, a device with n_i of the n training tokens by n_i / n; experts are mixed by their mean.
 *
 *   A <- sum_i (n_i / n) A_i      B <- sum_i (n_i / n) B_i       y = (1/E) sum_e MLP_e(x)
 *
 * The CoMiGS paper's baseline weighs all devices alike: aggregate.weights: uniform. */
#include "methods/method.h"

const method method_fedavg = {
    .name = "fedavg",
    .summary = "all experts and other LoRAs averaged; experts mixed by their mean",
    .source = "McMahan et al., AISTATS 2017, on LoRA; baseline of Fan et al., ICML 2025 (arXiv 2409.13931)",
    .default_generalists = 2,
    .default_specialists = 0,
    .gates = CK_GATES_MEAN,
    .schedule = schedule_experts,
    .weights = WEIGHTS_TOKENS,
    .shares = method_shares_all,
};
