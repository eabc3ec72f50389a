/* waiting.c - threads that wait soon sleep.
 *
 * OpenMP's threads wait for each other at the end of every parallel loop, and for the next one. GCC's library
 * lets them spin for some milliseconds first. Where another program wants the same core, a thread that spins
 * uses up the time slice of the one that it waits for: short loops become hundreds of times as slow. Waking a
 * thread that sleeps takes some 10 us, so a thread spins about as long and then sleeps: measured on two
 * cores, short loops are as quick as with endless spinning where nobody else is there, and as quick as
 * without any spinning where somebody is.
 *
 * The library reads how to wait from the environment, before main(). So the program starts itself once more,
 * with the answer in it. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "kernels.h"

#ifndef _OPENMP

void ck_wait_asleep(char **argv) {
    (void)argv;
}

#else
#include <omp.h>

/* Its value is the process that started itself, so that no other is taken for it. */
static const char STARTED[] = "COHORT_STARTED_TO_WAIT_ASLEEP";

/* SPINS is GCC's own, 3 to 15 us of it; LLVM's library knows POLICY alone, and sleeps at once. */
static const char POLICY[] = "OMP_WAIT_POLICY", SPINS[] = "GOMP_SPINCOUNT", FEW_SPINS[] = "300";

static bool user_has_chosen(void) {
    return getenv(POLICY) || getenv(SPINS) || getenv("KMP_BLOCKTIME") || getenv("KMP_LIBRARY");
}

/* /proc/self/exe is the loader instead where that was called by name. */
static bool can_start_itself(void) {
    return getauxval(AT_BASE) != 0;
}

void ck_wait_asleep(char **argv) {
    char process[32];
    const char *started = getenv(STARTED);
    snprintf(process, sizeof process, "%ld", (long)getpid());
    if (!started && !user_has_chosen() && can_start_itself()) {
        bool marked = setenv(STARTED, process, 1) == 0 && setenv(POLICY, "passive", 1) == 0 &&
                      setenv(SPINS, FEW_SPINS, 1) == 0;
        if (marked) execv("/proc/self/exe", argv);
        started = getenv(STARTED); /* it could not: all works, but may be slow on a busy machine */
    }
    if (!started || strcmp(started, process) != 0) return;
    (void)omp_get_max_threads(); /* LLVM's library reads the environment at its first call */
    unsetenv(POLICY);
    unsetenv(SPINS);
    unsetenv(STARTED);
}
#endif
