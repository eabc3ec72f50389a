#include "compare/compare.h"

#include <math.h>
#include <stdbool.h>

comparison compare_statistics(const statistics *a, const statistics *b, double threshold) {
    double ratio = b->median / a->median;
    bool apart = b->median * (1 - b->spread) > a->median * (1 + a->spread) ||
                 b->median * (1 + b->spread) < a->median * (1 - a->spread);
    if (apart && ratio > 1 + threshold) return COMPARE_SLOWER;
    if (apart && ratio < 1 - threshold) return COMPARE_FASTER;
    bool quiet = a->spread <= threshold && b->spread <= threshold;
    return quiet && fabs(ratio - 1) <= threshold ? COMPARE_SAME : COMPARE_UNCLEAR;
}

const char *comparison_name(comparison c) {
    static const char *const names[] = {"same", "faster", "slower", "unclear"};
    return names[c];
}
