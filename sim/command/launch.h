/* launch.h - `--processes N`: this program once more, N times under mpirun, and what becomes of it. */
#ifndef COHORT_LAUNCH_H
#define COHORT_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>

#include "support/problems.h"

/* Starts N processes with the same arguments and waits for them. Returns their exit code; they have said why.
 * A process that a signal ended is reported by its number, and so is an mpirun that does not start. Signals
 * that ask for the end (stop_signals.h) reach all processes, which finish their step and save; a second one
 * that is no warning ends them at once. configuration: its text, `bytes` of it, which process 0 finds in
 * LAUNCH_CONFIGURATION: where it came from may have been a pipe. */
exit_code launch_processes(int argc, char **argv, int processes, const char *configuration, size_t bytes,
                           problems *list);
#define LAUNCH_CONFIGURATION "/dev/stdin"

/* Whether launch_processes() started this process, by whatever mpirun it found. */
bool launch_was_here(void);

#endif
