/* FedProx: FedAvg whose devices are held near what they received. The loss of a device has a proximal term, whose
 * anchor theta^t is the value of the shared parts at the round's start; all of them are averaged after every
 * round, as in FedAvg (fedavg.c). mu = 0 is FedAvg.
 *
 *   min over theta of L(train_i; theta) + mu / 2 |theta - theta^t|^2       theta^(t+1) <- sum_i (n_i / n) theta_i
 *
 * AdamW sees the gradient of both; the losses of a trace are those of the text alone. */
#include "methods/method.h"

static double proximal(const population_settings *p) {
    return p->fedprox_mu;
}

const method method_fedprox = {
    .name = "fedprox",
    .summary = "fedavg with a proximal term, fedprox.mu, that holds devices near what they received",
    .source = "Li et al., MLSys 2020 (arXiv 1812.06127), equation 2, on LoRA",
    .default_generalists = 2,
    .default_specialists = 0,
    .gates = CK_GATES_MEAN,
    .schedule = schedule_experts,
    .weights = WEIGHTS_TOKENS,
    .shares = method_shares_all,
    .proximal = proximal,
    .parameter = "fedprox.mu",
    .parameter_default = 0.01,
};
