/* kernel_open.h - the backend and the threads of this process. */
#ifndef COHORT_KERNEL_OPEN_H
#define COHORT_KERNEL_OPEN_H

#include "support/kernel_problem.h"

/* Opens a backend (kernels.h) with so many threads, 0: one per core, which whatever else computes in this
 * process takes too. */
exit_code kernel_open(const char *name, int threads, ck_backend **out, problems *list);
void kernel_share_threads(const ck_backend *backend); /* the latter again, after another one was opened */

#endif
