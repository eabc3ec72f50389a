/* front.h - Criterion's view of a conformance group: one parameterised test per case, its message the case's
 * own. */
#ifndef COHORT_CONFORMANCE_FRONT_H
#define COHORT_CONFORMANCE_FRONT_H

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "conformance/cases.h"

static inline void front_free(struct criterion_test_params *parameters) {
    cr_free(parameters->params);
}

/* Parameters cross processes by value: an index into the group's table. */
static inline struct criterion_test_params front_indices(const conformance_group *group) {
    int *indices = cr_malloc((size_t)group->n_cases * sizeof *indices);
    for (int i = 0; i < group->n_cases; i++) indices[i] = i;
    return cr_make_param_array(int, indices, (size_t)group->n_cases, front_free);
}

static inline void front_run(const conformance_group *group, int index) {
    check c = {0};
    conformance_run_everywhere(&group->cases[index], &c);
    cr_expect(check_passed(&c), "%s: %d of %d comparisons failed\n%s", group->cases[index].name, c.failures,
              c.comparisons, c.message);
}

#define CONFORMANCE_TESTS(suite, group)                                                                      \
    ParameterizedTestParameters(suite, conforms) {                                                           \
        return front_indices(&group);                                                                        \
    }                                                                                                        \
    ParameterizedTest(int *index, suite, conforms) {                                                         \
        front_run(&group, *index);                                                                           \
    }

#endif
