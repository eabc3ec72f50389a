/* Local: every device trains alone and nothing is ever averaged; its experts are mixed by their mean.
 *
 *   theta_i <- AdamW(theta_i; L(train_i))                y = (1/E) sum_e MLP_e(x)
 *
 * The mean keeps the number of parameters equal to that of the routed methods. */
#include "methods/method.h"

static bool shares(const ck_part *part, int generalists) {
    (void)part, (void)generalists;
    return false;
}

const method method_local = {
    .name = "local",
    .summary = "every device alone; experts mixed by their mean",
    .source = "baseline of Fan et al., ICML 2025 (arXiv 2409.13931), released code",
    .default_generalists = 0,
    .default_specialists = 2,
    .gates = CK_GATES_MEAN,
    .schedule = schedule_experts,
    .shares = shares,
};
