/* Centralized: one model sees the text of all devices, with a batch as large as all of theirs together. There
 * is nobody to average with; experts are mixed by their mean.
 *
 *   theta <- AdamW(theta; sum_i L(train_i))              y = (1/E) sum_e MLP_e(x) */
#include "methods/method.h"

static bool shares(const ck_part *part, int generalists) {
    (void)part, (void)generalists;
    return false;
}

const method method_centralized = {
    .name = "centralized",
    .summary = "one device that holds the text of all, with their summed batch",
    .source = "baseline of Fan et al., ICML 2025 (arXiv 2409.13931), released code",
    .default_generalists = 2,
    .default_specialists = 0,
    .gates = CK_GATES_MEAN,
    .schedule = schedule_experts,
    .pooled = true,
    .shares = shares,
};
