/* process.h - starts another program and waits for it. */
#ifndef COHORT_BENCH_PROCESS_H
#define COHORT_BENCH_PROCESS_H

#include "support/problems.h"

/* Ends the program that runs now and all later ones; may be called by a signal handler. */
void program_stop(void);

/* Standard output and error go to OUT.out and OUT.err. *status: what waitpid() says; environment:
 * NULL-terminated NAME=VALUE, added. */
exit_code program_start(const char *const *arguments, const char *const *environment, const char *out,
                        int *status, problems *list);

/* The environment with `added` in front; free() it. NULL: out of memory. */
char **program_environment(const char *const *added);

#endif
