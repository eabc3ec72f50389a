/* kernel_open.h - a backend, and its threads for all that computes beside it. */
#ifndef COHORT_KERNEL_OPEN_H
#define COHORT_KERNEL_OPEN_H

#include "kernels.h"
#include "support/problems.h"

/* Opens a backend (kernels.h) with so many threads, 0: one per core, which whatever else computes in this process
 * takes too. */
exit_code kernel_open(const char *name, int threads, ck_backend **out, problems *list);
void kernel_share_threads(const ck_backend *backend); /* the latter again, after another one was opened */

#endif
