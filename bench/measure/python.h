/* python.h - a Python that has PyTorch. */
#ifndef COHORT_BENCH_PYTHON_H
#define COHORT_BENCH_PYTHON_H

#include "support/problems.h"

/* The first of `wanted`, $COHORT_PYTHON and python3 that can import torch; NULL if none can. A `wanted` that
 * cannot is a problem. scratch: where the attempts' output goes. */
exit_code python_find(const char *wanted, const char *scratch, const char **python, problems *list);
/* How to get one. */
extern const char PYTHON_ADVICE[];

#endif
