/* AdamW and aggregation.
 *
 *   m <- beta1 m + (1 - beta1) g     v <- beta2 v + (1 - beta2) g^2
 *   p <- p - lr (weight_decay p + (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon))
 *   carry: g <- g + c, c <- 0 for a group that is learned, c <- c + g for one that is not
 *   sum: packed_j = sum over members of weight_m p_m at range j;  spread: the packed values to every member
 *   proximal: g_m at range j += weight_m (p_m at range j - packed_j)
 */
#include <math.h>

#include "oracle.h"

void oracle_adamw(oracle_adamw_arrays arrays, int64_t count, const ck_adamw_hyper *hyper) {
    double beta1 = hyper->beta1, beta2 = hyper->beta2;
    double correction1 = 1 - pow(beta1, hyper->step), correction2 = 1 - pow(beta2, hyper->step);
    for (int64_t i = 0; i < count; i++) {
        double g = arrays.gradient[i], p = arrays.parameter[i];
        double m = arrays.moment1[i] = beta1 * arrays.moment1[i] + (1 - beta1) * g;
        double v = arrays.moment2[i] = beta2 * arrays.moment2[i] + (1 - beta2) * g * g;
        double direction = (m / correction1) / (sqrt(v / correction2) + (double)hyper->epsilon);
        arrays.parameter[i] =
            p - (double)hyper->learning_rate * ((double)hyper->weight_decay * p + direction);
    }
}

void oracle_carry(double *carried, double *gradients, int64_t count, bool learned) {
    for (int64_t i = 0; i < count; i++) {
        double sum = carried[i] + gradients[i];
        carried[i] = learned ? 0 : sum;
        if (learned) gradients[i] = sum;
    }
}

void oracle_group_sum(const double *parameters, const ck_group *group, double *packed) {
    int64_t at = group->packed;
    for (int j = 0; j < group->n_ranges; j++)
        for (int64_t i = 0; i < group->count[j]; i++, at++) {
            packed[at] = 0;
            for (int m = 0; m < group->n_members; m++) {
                int64_t offset = group->offset[(int64_t)group->layout[m] * group->n_ranges + j];
                packed[at] += (double)group->weights[m] * parameters[group->members[m] + offset + i];
            }
        }
}

void oracle_group_spread(double *parameters, const ck_group *group, const double *packed) {
    int64_t at = group->packed;
    for (int j = 0; j < group->n_ranges; j++)
        for (int64_t i = 0; i < group->count[j]; i++, at++)
            for (int m = 0; m < group->n_members; m++) {
                int64_t offset = group->offset[(int64_t)group->layout[m] * group->n_ranges + j];
                parameters[group->members[m] + offset + i] = packed[at];
            }
}

void oracle_group_proximal(const double *parameters, const ck_group *group, const double *packed,
                           double *gradients) {
    int64_t at = group->packed;
    for (int j = 0; j < group->n_ranges; j++)
        for (int64_t i = 0; i < group->count[j]; i++, at++)
            for (int m = 0; m < group->n_members; m++) {
                int64_t offset = group->offset[(int64_t)group->layout[m] * group->n_ranges + j] + i;
                gradients[group->gradients[m] + offset] +=
                    (double)group->weights[m] * (parameters[group->members[m] + offset] - packed[at]);
            }
}
