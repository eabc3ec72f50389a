/* kernel_problem.h - a backend's status as a message for the user. */
#ifndef COHORT_KERNEL_PROBLEM_H
#define COHORT_KERNEL_PROBLEM_H

#include "kernels.h"
#include "support/problems.h"

/* EXIT_OK for CK_OK; otherwise adds "DOING: the backend's message" and returns the code that fits. */
exit_code kernel_problem(problems *list, const ck_backend *backend, ck_status status, const char *doing);

#endif
