/* FedSA-LoRA: of every LoRA the factor A, which learns what devices have in common, is averaged after every
 * round; B stays on its device.
 *
 *   A <- (1/N) sum_i A_i      B_i stays          W_i = W + s B_i A */
#include "methods/method.h"

static bool shares(const ck_part *part, int generalists) {
    (void)generalists;
    return part->factor == CK_FACTOR_A;
}

const method method_fedsa = {
    .name = "fedsa",
    .summary = "factor A of every LoRA averaged, factor B private; one expert",
    .source = "Guo et al., ICLR 2025 (arXiv 2410.01463)",
    .default_generalists = 1,
    .default_specialists = 0,
    .gates = CK_GATES_MEAN,
    .schedule = schedule_experts,
    .weights = WEIGHTS_UNIFORM,
    .shares = shares,
};
