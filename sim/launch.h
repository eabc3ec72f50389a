/* launch.h - `--processes N`: this program once more, N times under mpirun, and what becomes of it. */
#ifndef COHORT_LAUNCH_H
#define COHORT_LAUNCH_H

#include "problems.h"

/* Starts N processes with the same arguments and waits for them. Returns their exit code; they have said why. A process that a signal
 * ended is reported by its number, and so is an mpirun that does not start. Ctrl-C and SIGTERM reach all processes, which finish their step
 * and save; a second one ends them at once. */
exit_code launch_processes(int argc, char **argv, int processes, problems *list);

#endif
