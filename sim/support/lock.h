/* lock.h - one run at a time writes to a folder. The system drops the lock with the process, however it ends;
 * the file that carries it says who holds it, and goes away with the run. */
#ifndef COHORT_LOCK_H
#define COHORT_LOCK_H

#include "support/problems.h"

#define LOCK_NAME ".lock"

typedef struct {
    int file; /* 0: none */
    char *path;
} run_lock;

/* Refuses a folder that another run holds; changes nothing. */
exit_code lock_look(const char *folder, problems *list);
exit_code lock_take(const char *folder, run_lock *out, problems *list);
void lock_release(run_lock *lock); /* of none is fine */

#endif
