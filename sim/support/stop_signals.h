/* stop_signals.h - the signals that ask a run to finish its step and save.
 *
 *   SIGINT, SIGTERM    Ctrl-C, kill, the end of a job
 *   SIGHUP             the terminal is gone; not where nohup has it ignored
 *   SIGUSR1, SIGUSR2   warnings: of batch systems (Slurm, submitit) before a job's time is over, and what
 *                      mpirun hands on to its processes. Several of them may reach a process, so a second one
 *                      never ends it. */
#ifndef COHORT_STOP_SIGNALS_H
#define COHORT_STOP_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

enum { N_STOP_SIGNALS = 5 };

typedef struct {
    struct sigaction actions[N_STOP_SIGNALS];
} stop_signals_before;

/* STOP_SECOND_ENDS: a second signal of its kind, which is no warning, ends the process at once.
 * STOP_ALL_CAUGHT: it comes to the handler.
 */
typedef enum { STOP_SECOND_ENDS, STOP_ALL_CAUGHT } stop_signals_rule;

void stop_signals_catch(void (*handler)(int), stop_signals_rule rule, stop_signals_before *before);
void stop_signals_release(const stop_signals_before *before);
bool stop_signal_is_warning(int number); /* may be asked by a handler */

#endif
