/* launchers.c - who started this process, as the environment tells: one process by itself needs no MPI. */
#include <stdio.h>
#include <stdlib.h>

#include "collective/collective.h"

bool ck_under_mpirun(void) {
    return getenv("OMPI_COMM_WORLD_SIZE") && getenv("OMPI_COMM_WORLD_RANK");
}

int ck_mpirun_process(void) {
    return ck_under_mpirun() ? atoi(getenv("OMPI_COMM_WORLD_RANK")) : 0;
}

/* Variables with the number of processes, and the one of this process. A batch script of Slurm is told the
 * number of tasks that the job may have, as if it were their first; only srun starts them. */
static const struct {
    const char *size, *process, *who;
    bool first_may_be_alone;
} LAUNCHERS[] = {
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun", false},
    {"SLURM_NTASKS", "SLURM_PROCID", "srun", true},
    {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "the mpirun of MVAPICH", false},
    {"PMI_SIZE", "PMI_RANK", "the mpirun of MPICH or Intel MPI", false},
    {"MPI_LOCALNRANKS", "MPI_LOCALRANKID", "the mpirun of MPICH or Intel MPI", false},
};
enum { N_LAUNCHERS = sizeof LAUNCHERS / sizeof *LAUNCHERS };

static int number_of(const char *variable, int missing) {
    const char *text = getenv(variable);
    return text ? atoi(text) : missing;
}

/* What makes a process of this environment one by itself: "env -u A -u B". */
static void write_remedy(char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "env");
    for (int i = 0; i < N_LAUNCHERS && used < size; i++)
        if (number_of(LAUNCHERS[i].size, 1) > 1)
            used += (size_t)snprintf(out + used, size - used, " -u %s", LAUNCHERS[i].size);
}

const char *ck_foreign_launcher(bool *speaks) {
    static char why[512];
    char remedy[160];
    *speaks = true;
    for (int i = 0; i < N_LAUNCHERS && !ck_under_mpirun(); i++) {
        int size = number_of(LAUNCHERS[i].size, 1), process = number_of(LAUNCHERS[i].process, 0);
        if (size < 2 || (process == 0 && LAUNCHERS[i].first_may_be_alone)) continue;
        *speaks = process == 0 || LAUNCHERS[i].first_may_be_alone;
        write_remedy(remedy, sizeof remedy);
        snprintf(why, sizeof why,
                 "%s started %d processes (%s), and only those of Open MPI's mpirun can join to one run; use "
                 "that mpirun, or start one process "
                 "with --processes %d; if each is meant to be a run of its own, put `%s` before the command",
                 LAUNCHERS[i].who, size, LAUNCHERS[i].size, size, remedy);
        return why;
    }
    return NULL;
}
