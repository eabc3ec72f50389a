/* front.h - Criterion's view of a group of conformance cases: one parameterised test per case, its message
 * the case's own. */
#ifndef COHORT_CONFORMANCE_FRONT_H
#define COHORT_CONFORMANCE_FRONT_H

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

#include "conformance/cases.h"

static inline void front_free(struct criterion_test_params *parameters) {
    cr_free(parameters->params);
}

/* Parameters cross processes by value: an index into the list of cases. */
static inline struct criterion_test_params front_indices(const char *group) {
    int n, count = 0;
    const conformance_case *all = conformance_cases(&n);
    int *indices = cr_malloc((size_t)n * sizeof *indices);
    for (int i = 0; i < n; i++)
        if (strcmp(all[i].group, group) == 0) indices[count++] = i;
    return cr_make_param_array(int, indices, (size_t)count, front_free);
}

static inline void front_run(int index) {
    int n;
    const conformance_case *which = &conformance_cases(&n)[index];
    verdict v = {0};
    conformance_run_everywhere(which, &v);
    cr_expect(verdict_passed(&v), "%s: %d of %d comparisons failed\n%s", which->variant.name, v.failures,
              v.comparisons, v.message);
}

#define CONFORMANCE_TESTS(suite, group)                                                                      \
    ParameterizedTestParameters(suite, conforms) {                                                           \
        return front_indices(group);                                                                         \
    }                                                                                                        \
    ParameterizedTest(int *index, suite, conforms) {                                                         \
        front_run(*index);                                                                                   \
    }

#endif
