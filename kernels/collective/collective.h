/* collective.h - the processes of a distributed run, and the sums over them.
 *
 *   process   one of ck_processes() copies of the program that mpirun started together, numbered from 0. Each
 *             owns some devices.
 *
 *   local   one process: every call returns at once, and nothing of MPI is started
 *   mpi     several: what lies on the host travels by MPI
 *   nccl    a sum of GPU memory goes from GPU to GPU where every process has one of its own; else through the
 *           host, by MPI
 *
 * All processes make the same calls in the same order (ck_collective_move(): its two ends). A process that
 * fails between two of them must still come to the next, and say there that it failed: otherwise the others
 * wait for ever. What cannot be said any more, because a call itself failed, ends in ck_collective_abort(). A
 * process that dies takes the others with it: mpirun sees to that, and names it.
 *
 * Determinism: contributions are added in the order of the processes, whenever they arrive, so the same
 * command gives the same bits. (A sum by NCCL has an order that depends on the machine and on the number of
 * values alone.)
 *
 * While a process waits it leaves its core to others: one process may train a base on all cores while the
 * rest wait for it. */
#ifndef COHORT_COLLECTIVE_H
#define COHORT_COLLECTIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

typedef struct ck_collective ck_collective;

/* local, mpi, nccl: which this build and machine have, else why not. *count entries, valid for the life of
 * the process. */
const ck_backend_info *ck_collectives(int *count);

/* Whether mpirun (Open MPI's) started this program, and as which process: known from the environment, before
 * anything is opened. */
bool ck_under_mpirun(void);
int ck_mpirun_process(void); /* 0 without mpirun */
/* Why this process, one of several by the environment, cannot join the others: another MPI's mpirun or a
 * batch system started them. NULL if it is not one of several, or under Open MPI's mpirun. *speaks: whether
 * it is the one to say so. The text is static. */
const char *ck_foreign_launcher(bool *speaks);

/* Joins the others under mpirun; else this process is alone. CK_UNAVAILABLE: the build has no MPI; CK_FAILED:
 * it does not start. */
ck_status ck_collective_open(ck_collective **out);
/* This process alone, never closed: for whoever has no other. */
ck_collective *ck_collective_local(void);
/* Waits until all have come here; NULL is fine. */
void ck_collective_close(ck_collective *c);
/* Ends all processes at once. `c` NULL, or alone: does nothing. */
void ck_collective_abort(ck_collective *c, int exit_status);
/* The message of the last failed call; NULL: of ck_collective_open(). Never NULL. */
const char *ck_collective_error(const ck_collective *c);
bool ck_collective_broken(const ck_collective *c); /* a call failed: the others cannot be reached any more */

int ck_process(const ck_collective *c);
int ck_processes(const ck_collective *c);
/* Those on this machine share its cores, memory and GPUs. */
int ck_local_process(const ck_collective *c);
int ck_local_processes(const ck_collective *c);

/* ---- Host memory ---- */

/* all[p * bytes ...] = what process p gave; everybody gets everything. */
ck_status ck_collective_exchange(ck_collective *c, const void *own, size_t bytes, void *all);
/* Everybody gets what process 0 has. */
ck_status ck_collective_broadcast(ck_collective *c, void *values, size_t bytes);
/* Process 0 gets bytes[p] of every process p, in their order and without gaps; `all` may be NULL elsewhere.
 */
ck_status ck_collective_gather(ck_collective *c, const void *own, const size_t *bytes, void *all);
/* `values` of process `from` become those of `to`; called by these two, and harmless if they are one. */
ck_status ck_collective_move(ck_collective *c, int from, int to, void *values, size_t bytes);

/* ---- Backend memory ---- */

/* A sum through the host takes up to two buffers of so many floats. */
enum { CK_COLLECTIVE_CHUNK = 1 << 20 };

/* packed[j] = sum over processes of packed[j], the same bits everywhere; complete when it returns. Between
 * ck_group_sum() and ck_group_spread() it makes the means of several processes' devices.
 *
 * Why it does not run beside the evaluation before it, which only reads the packs. For 4,096 devices of GPT-2
 * 124M's shape (1.2 M shared values each) ck_group_sum() reads 19 GB, 5 ms of an H200's memory, which the
 * evaluation wants too, and the sum over processes of 4.7 MB a population is below a millisecond: out of a
 * round of 10 s or more. For that a process would come to a sum before all know whether its evaluation
 * failed, sums would be finished by another call than began them, and those through the host, by MPI, would
 * need a thread. */
ck_status ck_collective_sum(ck_collective *c, ck_stream *stream, float *packed, int64_t count);
/* How the last sum travelled: "local", "mpi" or "nccl". */
const char *ck_collective_route(const ck_collective *c);

#endif
